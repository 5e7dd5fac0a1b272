//! The streaming state: the last inputs of the convolutions and the state of the state space model.

mod held;
mod saved;

use std::any::Any;
use std::ops::Range;

use half::{bf16, f16};
use ndarray::{ArrayViewMut4, ShapeBuilder};

use crate::error::{Result, fail};
use crate::layer::{Dims, Layer, Variant};
use crate::memory::{self, Buffer, product};
use crate::ops::{CHANNEL_BLOCK, padded, ring_row};
use crate::tensor::{DType, Element, each_dtype};
use held::Held;

/// The state of several lanes, each one stream of tokens with its own position.
#[derive(Debug)]
pub struct State<T> {
    lanes: usize,
    channels: usize,
    /// Rows of each lane: those of every convolution's ring, then those of the state space model.
    rows: Vec<usize>,
    /// `[block][lane][row][channel]`
    values: Buffer<T>,
    /// Tokens that each lane has seen.
    offsets: Vec<u64>,
}

impl<T: Element> State<T> {
    /// The state of `lanes` streams that have seen nothing.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn new(variant: Variant, dims: &Dims, lanes: usize) -> Result<Self> {
        let what = format!("the state for a batch of {lanes}");
        let len = product(&what, &[lanes, lane_rows(variant, dims)?, padded(dims.d_inner)])?;
        let mut rows = ring_lengths(variant, dims);
        rows.push(dims.d_state);
        memory::check_fits(&what, memory::bytes_of::<T>(&what, len)?)?;
        let mut offsets = Vec::new();
        if offsets.try_reserve_exact(lanes).is_err() {
            fail!(OutOfMemory, "{what} needs more memory than can be had");
        }
        offsets.resize(lanes, 0);
        Ok(State { lanes, channels: dims.d_inner, rows, values: Buffer::zeroed(&what, len)?, offsets })
    }

    /// Number of streams.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Tokens that a lane has seen.
    pub fn offset(&self, lane: usize) -> u64 {
        self.offsets[lane]
    }

    /// Counts `tokens` more for a lane whose state has been brought there.
    pub fn advance(&mut self, lane: usize, tokens: usize) {
        self.offsets[lane] += tokens as u64;
    }

    /// Values of one lane in one block of channels.
    fn lane_len(&self) -> usize {
        self.rows.iter().sum::<usize>() * CHANNEL_BLOCK
    }

    /// Where the values of a lane are, block by block.
    fn lane_ranges(&self, lane: usize) -> impl Iterator<Item = Range<usize>> + use<T> {
        let (len, lanes) = (self.lane_len(), self.lanes);
        (0..padded(self.channels) / CHANNEL_BLOCK).map(move |block| {
            let start = (block * lanes + lane) * len;
            start..start + len
        })
    }

    /// Forgets everything that a lane has seen.
    pub fn reset_lane(&mut self, lane: usize) {
        self.offsets[lane] = 0;
        for range in self.lane_ranges(lane) {
            self.values[range].fill(T::default());
        }
    }

    /// Makes `lane` equal to a lane of `from`, a state of the same shape but for its type and number of lanes.
    pub fn copy_lane<U: Element>(&mut self, lane: usize, from: &State<U>, from_lane: usize) {
        self.offsets[lane] = from.offsets[from_lane];
        for (to, range) in self.lane_ranges(lane).zip(from.lane_ranges(from_lane)) {
            let values = self.values[to].iter_mut().zip(&from.values[range]);
            values.for_each(|(to, from)| *to = from.convert());
        }
    }

    /// Makes `lane` equal to another one of its own.
    fn copy_lane_within(&mut self, lane: usize, from_lane: usize) {
        self.offsets[lane] = self.offsets[from_lane];
        for (to, from) in self.lane_ranges(lane).zip(self.lane_ranges(from_lane)) {
            self.values.copy_within(from, to.start);
        }
    }

    /// The state of all channels.
    pub fn all(&mut self) -> Part<'_, T> {
        Part { lanes: self.lanes, rows: &self.rows, values: &mut self.values }
    }

    fn bytes(&self) -> usize {
        self.values.bytes() + size_of_val(&self.offsets[..])
    }

    fn try_clone(&self) -> Result<Self> {
        let mut offsets = Vec::new();
        if offsets.try_reserve_exact(self.lanes).is_err() {
            fail!(OutOfMemory, "the cache needs more memory than can be had");
        }
        offsets.extend_from_slice(&self.offsets);
        Ok(State { rows: self.rows.clone(), values: self.values.try_clone("the cache")?, offsets, ..*self })
    }
}

impl<T> State<T> {
    /// Where a channel's value in a row of a lane lies.
    fn at(&self, lane: usize, row: usize, channel: usize) -> usize {
        let rows: usize = self.rows.iter().sum();
        let (block, within) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
        ((block * self.lanes + lane) * rows + row) * CHANNEL_BLOCK + within
    }

    /// Where the values of a lane are, tensor by tensor in the reference's layout, (channels, values): the inputs of
    /// each history, oldest first, then the state of the state space model.
    fn places(&self, lane: usize) -> impl Iterator<Item = usize> + use<T> {
        let (channels, lane_rows) = (self.channels, self.rows.iter().sum::<usize>());
        let (lanes, offset, last) = (self.lanes, self.offsets[lane], self.rows.len() - 1);
        let mut before = 0;
        let tensors: Vec<_> = (self.rows.iter().enumerate())
            .map(|(i, &length)| {
                let oldest = if i < last { ring_row(offset, length) } else { 0 };
                before += length;
                (before - length, length, oldest)
            })
            .collect();
        tensors.into_iter().flat_map(move |(first, length, oldest)| {
            (0..channels).flat_map(move |channel| {
                let (block, within) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
                let start = (block * lanes + lane) * lane_rows + first;
                (0..length).map(move |i| (start + (oldest + i) % length) * CHANNEL_BLOCK + within)
            })
        })
    }

    /// Where the input of `age` tokens ago lies in a history, the newest being of age 1.
    fn history_at(&self, history: usize, lane: usize, channel: usize, age: usize) -> usize {
        let length = self.rows[history];
        // One lap ahead, so that nothing goes below zero before the first tokens.
        let row = ring_row(self.offsets[lane] % length as u64 + (length - age) as u64, length);
        self.at(lane, self.rows[..history].iter().sum::<usize>() + row, channel)
    }

    /// Where value `i` of a tensor of this shape in the reference's layout, (lanes, channels, values), lies.
    fn place(&self, field: Field, [_, channels, len]: [usize; 3], i: usize) -> usize {
        let (lane, channel, i) = (i / (channels * len), i / len % channels, i % len);
        match field {
            Field::Ssm => self.ssm_at(lane, channel, i),
            Field::Conv { history } => self.history_at(history, lane, channel, len - i),
        }
    }

    /// Where a value of the state space model's state lies.
    fn ssm_at(&self, lane: usize, channel: usize, state: usize) -> usize {
        let [histories @ .., _] = &self.rows[..] else { unreachable!("there is always an SSM state") };
        self.at(lane, histories.iter().sum::<usize>() + state, channel)
    }
}

/// A state held in any type.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum AnyState {
    F32(State<f32>),
    F64(State<f64>),
    Bf16(State<bf16>),
    F16(State<f16>),
}

impl AnyState {
    fn new(variant: Variant, dims: &Dims, lanes: usize, dtype: DType) -> Result<Self> {
        Ok(match dtype {
            DType::F32 => AnyState::F32(State::new(variant, dims, lanes)?),
            DType::F64 => AnyState::F64(State::new(variant, dims, lanes)?),
            DType::Bf16 => AnyState::Bf16(State::new(variant, dims, lanes)?),
            DType::F16 => AnyState::F16(State::new(variant, dims, lanes)?),
        })
    }

    /// The type it is held in.
    pub fn dtype(&self) -> DType {
        match self {
            AnyState::F32(_) => DType::F32,
            AnyState::F64(_) => DType::F64,
            AnyState::Bf16(_) => DType::Bf16,
            AnyState::F16(_) => DType::F16,
        }
    }

    /// The state, if it is held in `T`.
    pub fn of<T: Element>(&mut self) -> Option<&mut State<T>> {
        each_dtype!(AnyState, self, state => (state as &mut dyn Any).downcast_mut())
    }

    /// Makes `lane` equal to a lane of `from`, a state of the same shape.
    pub fn copy_lane<T: Element>(&mut self, lane: usize, from: &State<T>, from_lane: usize) {
        each_dtype!(AnyState, self, state => state.copy_lane(lane, from, from_lane));
    }

    /// Makes `to_lane` of `to` equal to a lane of this state.
    pub fn copy_lane_to<T: Element>(&self, lane: usize, to: &mut State<T>, to_lane: usize) {
        each_dtype!(AnyState, self, state => to.copy_lane(to_lane, state, lane));
    }

    fn offsets(&self) -> &[u64] {
        each_dtype!(AnyState, self, state => &state.offsets)
    }

    fn bytes(&self) -> usize {
        each_dtype!(AnyState, self, state => state.bytes())
    }

    fn try_clone(&self) -> Result<Self> {
        Ok(match self {
            AnyState::F32(state) => AnyState::F32(state.try_clone()?),
            AnyState::F64(state) => AnyState::F64(state.try_clone()?),
            AnyState::Bf16(state) => AnyState::Bf16(state.try_clone()?),
            AnyState::F16(state) => AnyState::F16(state.try_clone()?),
        })
    }
}

/// The state of a range of channels, in all lanes.
#[derive(Debug)]
pub struct Part<'a, T> {
    lanes: usize,
    rows: &'a [usize],
    values: &'a mut [T],
}

impl<T> Part<'_, T> {
    /// The state of each so many blocks of channels, and of what is left.
    pub fn parts(&mut self, blocks: usize) -> impl Iterator<Item = Part<'_, T>> {
        let (lanes, rows) = (self.lanes, self.rows);
        let len = blocks * lanes * rows.iter().sum::<usize>() * CHANNEL_BLOCK;
        self.values.chunks_mut(len).map(move |values| Part { lanes, rows, values })
    }

    /// The last inputs of a convolution: (blocks, lanes, ring, channels), token `i` of a lane at `i` modulo the
    /// ring's length. There is one, of `x`, for all branches; where they are stacked, each has its own.
    pub fn history(&mut self, index: usize) -> ArrayViewMut4<'_, T> {
        assert!(index + 1 < self.rows.len());
        self.tensor(index)
    }

    /// The state of the state space model: (blocks, lanes, states, channels).
    pub fn ssm(&mut self) -> ArrayViewMut4<'_, T> {
        self.tensor(self.rows.len() - 1)
    }

    fn tensor(&mut self, index: usize) -> ArrayViewMut4<'_, T> {
        let lane_len = self.rows.iter().sum::<usize>() * CHANNEL_BLOCK;
        let first = self.rows[..index].iter().sum::<usize>() * CHANNEL_BLOCK;
        let blocks = self.values.len() / (self.lanes * lane_len);
        let shape = (blocks, self.lanes, self.rows[index], CHANNEL_BLOCK);
        let strides = (self.lanes * lane_len, lane_len, CHANNEL_BLOCK, 1);
        ArrayViewMut4::from_shape(shape.strides(strides), &mut self.values[first..])
            .expect("every lane has all rows")
    }
}

/// The length of each history: of `x` alone, as long as its longest branch needs, or of every branch's input.
fn ring_lengths(variant: Variant, dims: &Dims) -> Vec<usize> {
    match variant {
        Variant::Stcn => dims.conv_state_lens.clone(),
        _ => dims.conv_state_lens.iter().copied().max().into_iter().collect(),
    }
}

/// Rows of each lane: those of every history and of the state space model.
fn lane_rows(variant: Variant, dims: &Dims) -> Result<usize> {
    let lengths = ring_lengths(variant, dims);
    match lengths.iter().try_fold(dims.d_state, |sum, &length| sum.checked_add(length)) {
        Some(rows) => Ok(rows),
        None => fail!(OutOfMemory, "the state needs more memory than can be had"),
    }
}

/// Name and shape of one tensor of a cache, in the reference's layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateInfo {
    /// `conv_state.{i}` or `ssm_state`.
    pub name: String,
    /// (batch, d_inner, (W−1)·dilation + 1), or (batch, d_inner, d_state).
    pub shape: Vec<usize>,
}

/// The streaming state of a batch of sequences through one layer.
///
/// It belongs to one thread at a time and works with any layer of the same configuration's shape.
#[derive(Debug)]
pub struct Cache {
    state: Held,
    shape: Shape,
    infos: Vec<StateInfo>,
    /// Scratch of `check_lanes`, a flag for each lane, all false.
    taken: Buffer<bool>,
    /// A call that panicked left the state undefined.
    poisoned: bool,
}

/// What a layer and its cache must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    device: Option<u32>,
    variant: Variant,
    dtype: DType,
    dims: Dims,
    dilations: Vec<usize>,
}

impl Shape {
    fn of(layer: &Layer) -> Self {
        Shape {
            device: layer.config().device_number(),
            variant: layer.config().variant,
            dtype: layer.config().dtype,
            dims: layer.dims().clone(),
            dilations: layer.config().conv_dilations.clone(),
        }
    }

    /// Whether it is the layer's; every step asks, so nothing is copied for it.
    fn is_of(&self, layer: &Layer) -> bool {
        self.device == layer.config().device_number()
            && self.variant == layer.config().variant
            && self.dtype == layer.config().dtype
            && self.dims == *layer.dims()
            && self.dilations == layer.config().conv_dilations
    }
}

impl Cache {
    /// The state of `batch` sequences that have seen nothing, held in f32, in f64 for an f64 layer. `max_seqlen` is
    /// the reference's argument and changes nothing there or here: the state does not grow with the sequence.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn new(layer: &Layer, batch: usize, max_seqlen: usize) -> Result<Self> {
        let _ = max_seqlen;
        Self::with_dtype(layer, batch, layer.arithmetic())
    }

    /// The same held in another type. In bf16 or f16 it takes half the memory, and each call rounds the states that
    /// it leaves: how a sequence is cut into calls then changes the results.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn with_dtype(layer: &Layer, batch: usize, dtype: DType) -> Result<Self> {
        Self::with_held(layer, Held::new(layer, batch, dtype)?)
    }

    fn with_held(layer: &Layer, state: Held) -> Result<Self> {
        let (shape, batch) = (Shape::of(layer), state.lanes());
        let dims = &shape.dims;
        let conv = dims.conv_state_lens.iter().enumerate().map(|(i, &len)| StateInfo {
            name: format!("conv_state.{i}"),
            shape: vec![batch, dims.d_inner, len],
        });
        let ssm = StateInfo { name: "ssm_state".to_owned(), shape: vec![batch, dims.d_inner, dims.d_state] };
        let infos = conv.chain([ssm]).collect();
        let taken = Buffer::zeroed("batch", batch)?;
        Ok(Cache { state, shape, infos, taken, poisoned: false })
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.state.lanes()
    }

    /// The type that the state is held in.
    pub fn dtype(&self) -> DType {
        self.state.dtype()
    }

    /// Tokens that each sequence has seen; of the one that has seen most, where they differ.
    pub fn seqlen_offset(&self) -> u64 {
        self.state.most_seen().unwrap_or(0)
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.state.bytes() + self.taken.bytes()
    }

    /// Forgets everything seen; the state is as new.
    pub fn reset(&mut self) {
        self.poisoned = self.state.reset().is_err();
    }

    /// Forgets everything that one sequence has seen; the others go on.
    ///
    /// # Errors
    /// `InvalidArgument` for a lane that the batch does not have, `Internal` for a cache left undefined.
    pub fn reset_lane(&mut self, lane: usize) -> Result<()> {
        self.check_lane("lane", lane)?;
        self.change(|state| state.reset_lane(lane))
    }

    /// Makes sequence `lane` go on from where sequence `from_lane` of `from` is.
    ///
    /// # Errors
    /// `InvalidArgument` for a lane that a batch does not have, `ShapeMismatch` where the caches are of layers of
    /// different shapes, `Internal` for a cache left undefined.
    pub fn copy_lane(&mut self, lane: usize, from: &Cache, from_lane: usize) -> Result<()> {
        self.check_lane("dst_lane", lane)?;
        from.check_lane("src_lane", from_lane)?;
        if self.shape != from.shape {
            fail!(ShapeMismatch, "src was made for a layer of another shape or type than dst");
        }
        self.change(|state| state.copy_lane(lane, &from.state, from_lane))
    }

    /// [`Cache::copy_lane`] from one sequence to another of the same cache.
    ///
    /// # Errors
    /// As [`Cache::copy_lane`].
    pub fn copy_lane_within(&mut self, lane: usize, from_lane: usize) -> Result<()> {
        self.check_lane("dst_lane", lane)?;
        self.check_lane("src_lane", from_lane)?;
        self.change(|state| state.copy_lane_within(lane, from_lane))
    }

    /// Changes a state that can be used, which a failure on the way leaves undefined.
    fn change(&mut self, change: impl FnOnce(&mut Held) -> Result<()>) -> Result<()> {
        let done = change(&mut self.state);
        self.poisoned = self.state.is_undefined();
        done
    }

    fn check_lane(&self, name: &str, lane: usize) -> Result<()> {
        self.check_usable()?;
        if lane >= self.batch() {
            fail!(InvalidArgument, "{name} is {lane}; the cache has a batch of {}", self.batch());
        }
        Ok(())
    }

    /// Whether `lanes` are lanes of this cache, each at most once. Allocates nothing.
    pub(crate) fn check_lanes(&mut self, lanes: &[usize]) -> Result<()> {
        self.check_usable()?;
        let batch = self.batch();
        let first_bad =
            lanes.iter().position(|&lane| lane >= batch || std::mem::replace(&mut self.taken[lane], true));
        for &lane in lanes.iter().filter(|&&lane| lane < batch) {
            self.taken[lane] = false;
        }
        match first_bad {
            None => Ok(()),
            Some(i) if lanes[i] >= batch => {
                fail!(
                    InvalidArgument,
                    "lanes[{i}] is {}; it must be below {batch}, the cache's batch",
                    lanes[i]
                )
            }
            Some(i) => fail!(InvalidArgument, "lanes[{i}] is {}, which is there already", lanes[i]),
        }
    }

    /// An equal cache.
    ///
    /// # Errors
    /// `OutOfMemory`; `Internal` for a cache that a failed call left undefined.
    pub fn try_clone(&self) -> Result<Self> {
        self.check_usable()?;
        Ok(Cache {
            state: self.state.try_clone()?,
            shape: self.shape.clone(),
            infos: self.infos.clone(),
            taken: Buffer::zeroed("batch", self.batch())?,
            poisoned: false,
        })
    }

    /// The tensors of the state, in the reference's layout.
    pub fn states(&self) -> &[StateInfo] {
        &self.infos
    }

    /// Copies a tensor of the state out, in the reference's layout.
    ///
    /// # Errors
    /// `NotFound` for a name that [`Cache::states`] does not list, `ShapeMismatch` for another count,
    /// `Internal` for a cache that a failed call left undefined.
    pub fn get_state<T: Element>(&self, name: &str, out: &mut [T]) -> Result<()> {
        self.check_usable()?;
        let (field, shape) = self.find(name, out.len())?;
        self.state.get(field, shape, out)
    }

    /// Replaces a tensor of the state by one in the reference's layout. Where branches share one history,
    /// writes the last inputs of that branch.
    ///
    /// # Errors
    /// As [`Cache::get_state`].
    pub fn set_state<T: Element>(&mut self, name: &str, values: &[T]) -> Result<()> {
        self.check_usable()?;
        let (field, shape) = self.find(name, values.len())?;
        self.change(|state| state.set(field, shape, values))
    }

    /// Which tensor `name` is, and its shape, if it has `count` values.
    fn find(&self, name: &str, count: usize) -> Result<(Field, [usize; 3])> {
        let Some(index) = self.infos.iter().position(|info| info.name == name) else {
            fail!(
                NotFound,
                "name is \"{name}\"; this cache has conv_state.0 to conv_state.{} and ssm_state",
                self.infos.len() - 2
            );
        };
        let info = &self.infos[index];
        let expected: usize = info.shape.iter().product();
        if count != expected {
            fail!(ShapeMismatch, "count is {count}; {name} has shape {:?} and {expected} values", info.shape);
        }
        let field = if index == self.infos.len() - 1 {
            Field::Ssm
        } else {
            // One history, and the SSM state: the branches share it.
            Field::Conv { history: if self.shape.variant == Variant::Stcn { index } else { 0 } }
        };
        Ok((field, [info.shape[0], info.shape[1], info.shape[2]]))
    }

    fn check_usable(&self) -> Result<()> {
        if self.poisoned {
            fail!(
                Internal,
                "cache was left undefined by a call that failed inside; reset it before further use"
            );
        }
        Ok(())
    }

    /// Whether `layer` can go on from this cache with `batch` sequences.
    pub(crate) fn check_fits(&self, layer: &Layer, batch: usize) -> Result<()> {
        self.check_usable()?;
        if !self.shape.is_of(layer) {
            fail!(ShapeMismatch, "cache was made for a layer of another shape or type");
        }
        if self.batch() != batch {
            fail!(ShapeMismatch, "batch is {batch}; cache was made for a batch of {}", self.batch());
        }
        Ok(())
    }

    /// Runs `call` on the state; if it panics, the cache refuses further use until it is reset.
    pub(crate) fn with_state<R>(&mut self, call: impl FnOnce(&mut AnyState) -> R) -> R {
        self.poisoned = true;
        let result = match &mut self.state {
            Held::Host(state) => call(state),
            #[cfg(feature = "cuda")]
            Held::Device(_) => unreachable!("check_fits has told where the layer is"),
        };
        #[cfg(test)]
        crate::fault::at(crate::fault::Point::State);
        self.poisoned = false;
        result
    }
}

#[cfg(feature = "cuda")]
impl Cache {
    /// [`Cache::with_state`] of a cache on a device, which a call also leaves undefined that fails after it has begun.
    pub(crate) fn with_device_state(
        &mut self,
        call: impl FnOnce(&crate::cuda::State) -> Result<()>,
    ) -> Result<()> {
        self.poisoned = true;
        let Held::Device(held) = &self.state else { unreachable!("check_fits has told where the layer is") };
        let result = call(&held.state);
        self.poisoned = held.state.is_undefined();
        result
    }
}

/// A tensor of the state.
#[derive(Clone, Copy)]
enum Field {
    Conv { history: usize },
    Ssm,
}
