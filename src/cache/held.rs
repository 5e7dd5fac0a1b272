//! Where a cache's state is: with the processor, or on the device of the layer it was made for.

use super::{AnyState, Field};
#[cfg(feature = "cuda")]
use super::{Shape, State};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::error::Result;
#[cfg(feature = "cuda")]
use crate::error::fail;
use crate::layer::Layer;
use crate::tensor::{DType, Element, each_dtype};

/// A state, wherever it is.
#[derive(Debug)]
pub(super) enum Held {
    Host(AnyState),
    #[cfg(feature = "cuda")]
    Device(Box<DeviceState>),
}

/// A state on a device, and what names its tensors.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub(super) struct DeviceState {
    pub state: cuda::State,
    shape: Shape,
}

impl Held {
    pub fn new(layer: &Layer, lanes: usize, dtype: DType) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(engine) = layer.engine() {
            if dtype != DType::F32 {
                fail!(Unsupported, "dtype is {dtype:?}; on a GPU a state is held in F32");
            }
            return Ok(DeviceState::held(engine.new_state(lanes)?, Shape::of(layer)));
        }
        let config = layer.config();
        Ok(Held::Host(AnyState::new(config.variant, layer.dims(), lanes, dtype)?))
    }

    /// A state that has been read, where the layer's states are.
    pub fn from_host(layer: &Layer, state: AnyState) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(engine) = layer.engine() {
            let lanes = engine.new_state(state.offsets().len())?;
            let Held::Device(mut held) = DeviceState::held(lanes, Shape::of(layer)) else { unreachable!() };
            held.write(&state)?;
            return Ok(Held::Device(held));
        }
        let _ = layer;
        Ok(Held::Host(state))
    }

    /// What `read` makes of the state, brought to the processor if it is not there.
    pub fn on_host<R>(&self, read: impl FnOnce(&AnyState) -> R) -> Result<R> {
        match self {
            Held::Host(state) => Ok(read(state)),
            #[cfg(feature = "cuda")]
            Held::Device(held) => Ok(read(&held.read()?)),
        }
    }

    /// Whether something failed that had begun to change the state.
    pub fn is_undefined(&self) -> bool {
        match self {
            Held::Host(_) => false,
            #[cfg(feature = "cuda")]
            Held::Device(held) => held.state.is_undefined(),
        }
    }

    pub fn lanes(&self) -> usize {
        match self {
            Held::Host(state) => state.offsets().len(),
            #[cfg(feature = "cuda")]
            Held::Device(held) => held.state.lanes(),
        }
    }

    pub fn dtype(&self) -> DType {
        match self {
            Held::Host(state) => state.dtype(),
            #[cfg(feature = "cuda")]
            Held::Device(_) => DType::F32,
        }
    }

    /// Tokens that the lane has seen that has seen most.
    pub fn most_seen(&self) -> Result<u64> {
        let most = |offsets: &[u64]| offsets.iter().copied().max().unwrap_or(0);
        match self {
            Held::Host(state) => Ok(most(state.offsets())),
            #[cfg(feature = "cuda")]
            Held::Device(held) => Ok(most(&held.state.seen_tokens()?)),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Held::Host(state) => state.bytes(),
            #[cfg(feature = "cuda")]
            Held::Device(held) => held.state.bytes(),
        }
    }

    pub fn reset(&mut self) -> Result<()> {
        match self {
            Held::Host(state) => {
                let lanes = 0..state.offsets().len();
                each_dtype!(AnyState, state, state => lanes.for_each(|lane| state.reset_lane(lane)));
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Held::Device(held) => held.state.reset(),
        }
    }

    pub fn reset_lane(&mut self, lane: usize) -> Result<()> {
        match self {
            Held::Host(state) => {
                each_dtype!(AnyState, state, state => state.reset_lane(lane));
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Held::Device(held) => held.state.reset_lane(lane),
        }
    }

    /// Makes `lane` equal to a lane of `from`, a state of the same shape and device.
    pub fn copy_lane(&mut self, lane: usize, from: &Held, from_lane: usize) -> Result<()> {
        match (self, from) {
            (Held::Host(state), Held::Host(from)) => {
                each_dtype!(AnyState, from, from => state.copy_lane(lane, from, from_lane));
                Ok(())
            }
            #[cfg(feature = "cuda")]
            (Held::Device(held), Held::Device(from)) => {
                held.state.copy_lane(lane, Some(&from.state), from_lane)
            }
            #[cfg(feature = "cuda")]
            _ => fail!(ShapeMismatch, "src was made for a layer on another device than dst"),
        }
    }

    pub fn copy_lane_within(&mut self, lane: usize, from_lane: usize) -> Result<()> {
        match self {
            Held::Host(state) => {
                each_dtype!(AnyState, state, state => state.copy_lane_within(lane, from_lane));
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Held::Device(held) => held.state.copy_lane(lane, None, from_lane),
        }
    }

    pub fn try_clone(&self) -> Result<Self> {
        match self {
            Held::Host(state) => Ok(Held::Host(state.try_clone()?)),
            #[cfg(feature = "cuda")]
            Held::Device(held) => Ok(DeviceState::held(held.state.try_clone()?, held.shape.clone())),
        }
    }

    /// Copies a tensor of the reference's layout out, (lanes, channels, values).
    pub fn get<T: Element>(&self, field: Field, shape: [usize; 3], out: &mut [T]) -> Result<()> {
        match self {
            Held::Host(state) => each_dtype!(AnyState, state, state => {
                for (i, value) in out.iter_mut().enumerate() {
                    *value = state.values[state.place(field, shape, i)].convert();
                }
            }),
            #[cfg(feature = "cuda")]
            Held::Device(held) => {
                let mut values = vec![0.0; out.len()];
                held.state.get(part(field, shape), &mut values)?;
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value.convert());
            }
        }
        Ok(())
    }

    /// Replaces one.
    pub fn set<T: Element>(&mut self, field: Field, shape: [usize; 3], values: &[T]) -> Result<()> {
        match self {
            Held::Host(state) => each_dtype!(AnyState, state, state => {
                for (i, value) in values.iter().enumerate() {
                    let at = state.place(field, shape, i);
                    state.values[at] = value.convert();
                }
            }),
            #[cfg(feature = "cuda")]
            Held::Device(held) => {
                let values: Vec<f32> = values.iter().map(|value| value.convert()).collect();
                held.state.set(part(field, shape), &values)?;
            }
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
fn part(field: Field, [.., len]: [usize; 3]) -> cuda::Part {
    match field {
        Field::Conv { history } => cuda::Part::History { index: history, len },
        Field::Ssm => cuda::Part::Ssm,
    }
}

#[cfg(feature = "cuda")]
impl DeviceState {
    fn held(state: cuda::State, shape: Shape) -> Held {
        Held::Device(Box::new(DeviceState { state, shape }))
    }

    /// Every tensor, whole histories, with the values of each lane.
    fn parts(&self) -> impl Iterator<Item = (cuda::Part, usize)> + use<> {
        let (dims, histories) = (&self.shape.dims, super::ring_lengths(self.shape.variant, &self.shape.dims));
        let (channels, states) = (dims.d_inner, dims.d_state);
        let histories = histories.into_iter().enumerate();
        let histories =
            histories.map(move |(index, len)| (cuda::Part::History { index, len }, channels * len));
        histories.chain([(cuda::Part::Ssm, channels * states)])
    }

    /// The same state with the processor.
    fn read(&self) -> Result<AnyState> {
        let lanes = self.state.lanes();
        let mut state = State::<f32>::new(self.shape.variant, &self.shape.dims, lanes)?;
        state.offsets.copy_from_slice(&self.state.seen_tokens()?);
        let mut tensors = Vec::new();
        for (part, len) in self.parts() {
            let mut values = vec![0.0; lanes * len];
            self.state.get(part, &mut values)?;
            tensors.push((values, len));
        }
        for lane in 0..lanes {
            let values = tensors.iter().flat_map(|(values, len)| &values[lane * len..][..*len]);
            state.places(lane).zip(values).for_each(|(at, &value)| state.values[at] = value);
        }
        Ok(AnyState::F32(state))
    }

    /// Becomes equal to a state with the processor.
    fn write(&mut self, from: &AnyState) -> Result<()> {
        let lanes = self.state.lanes();
        self.state.set_seen_tokens(from.offsets())?;
        let mut before = 0;
        for (part, len) in self.parts() {
            let mut values = vec![0.0; lanes * len];
            each_dtype!(AnyState, from, from => {
                for (lane, values) in values.chunks_mut(len.max(1)).enumerate() {
                    let places = from.places(lane).skip(before);
                    places.zip(values).for_each(|(at, value)| *value = from.values[at].convert());
                }
            });
            before += len;
            self.state.set(part, &values)?;
        }
        Ok(())
    }
}
