//! The streaming state: the last inputs of the convolutions and the state of the state space model.

use ndarray::ArrayViewMut4;

use crate::error::{Error, ErrorKind, Result, fail};
use crate::layer::{Config, Dims, Layer, Variant};
use crate::memory::{self, Buffer, product};
use crate::ops::conv::ring_row;
use crate::ops::scan::{state_at, state_len};
use crate::ops::{CHANNEL_BLOCK, padded, view4_mut};
use crate::simd::Real;

/// The state of several lanes, each one stream of tokens with its own position.
#[derive(Debug)]
pub struct State<T> {
    lanes: usize,
    channels: usize,
    states: usize,
    /// Of `x`, read by every branch; of each branch's own input where the branches are stacked.
    histories: Vec<History<T>>,
    /// In the layout of [`crate::ops::scan`].
    ssm: Buffer<T>,
    /// Tokens that each lane has seen.
    offsets: Vec<u64>,
}

/// The last inputs of a convolution: `[block][lane][ring][channel]`, token `i` of a lane at `i` modulo the
/// ring's length.
#[derive(Debug)]
struct History<T> {
    length: usize,
    data: Buffer<T>,
}

impl<T: Real> State<T> {
    /// The state of `lanes` streams that have seen nothing.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn new(config: &Config, dims: &Dims, lanes: usize) -> Result<Self> {
        let what = format!("the state for a batch of {lanes}");
        let out_of_memory =
            || Error::new(ErrorKind::OutOfMemory, format!("{what} needs more memory than can be had"));
        let columns = padded(dims.d_inner);
        let lengths = ring_lengths(config.variant, dims);
        let ssm_len = state_len(lanes, dims.d_inner, dims.d_state).map_err(|_| out_of_memory())?;
        let sizes = lengths
            .iter()
            .map(|&length| product(&what, &[lanes, length, columns]))
            .collect::<Result<Vec<_>>>()?;
        let total = sizes.iter().try_fold(ssm_len, |sum, &size| sum.checked_add(size)).unwrap_or(usize::MAX);
        memory::check_fits(&what, memory::bytes_of::<T>(&what, total)?)?;
        let mut offsets = Vec::new();
        offsets.try_reserve_exact(lanes).map_err(|_| out_of_memory())?;
        offsets.resize(lanes, 0);
        let histories = lengths
            .iter()
            .zip(sizes)
            .map(|(&length, size)| Ok(History { length, data: Buffer::zeroed(&what, size)? }))
            .collect::<Result<Vec<_>>>()?;
        Ok(State {
            lanes,
            channels: dims.d_inner,
            states: dims.d_state,
            histories,
            ssm: Buffer::zeroed(&what, ssm_len)?,
            offsets,
        })
    }

    /// Number of streams.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Tokens that a lane has seen.
    pub fn offset(&self, lane: usize) -> u64 {
        self.offsets[lane]
    }

    /// Counts `tokens` more for a lane whose histories and SSM state have been brought there.
    pub fn advance(&mut self, lane: usize, tokens: usize) {
        self.offsets[lane] += tokens as u64;
    }

    /// Forgets everything that a lane has seen.
    pub fn reset_lane(&mut self, lane: usize) {
        self.offsets[lane] = 0;
        let forget = |data: &mut [T], len: usize| {
            for block in data.chunks_exact_mut(len * self.lanes) {
                block[lane * len..][..len].fill(T::ZERO);
            }
        };
        for history in &mut self.histories {
            forget(&mut history.data, CHANNEL_BLOCK * history.length);
        }
        forget(&mut self.ssm, CHANNEL_BLOCK * self.states);
    }

    /// Makes `lane` equal to a lane of `from`, a state of the same shape but for its number of lanes.
    fn copy_lane(&mut self, lane: usize, from: &Self, from_lane: usize) {
        self.offsets[lane] = from.offsets[from_lane];
        let lanes = self.lanes;
        let copy = |to: &mut [T], from_data: &[T], len: usize| {
            let from_blocks = from_data.chunks_exact(len * from.lanes);
            for (to, from) in to.chunks_exact_mut(len * lanes).zip(from_blocks) {
                to[lane * len..][..len].copy_from_slice(&from[from_lane * len..][..len]);
            }
        };
        for (to, from) in self.histories.iter_mut().zip(&from.histories) {
            copy(&mut to.data, &from.data, CHANNEL_BLOCK * to.length);
        }
        copy(&mut self.ssm, &from.ssm, CHANNEL_BLOCK * self.states);
    }

    /// Makes `lane` equal to another one of its own.
    fn copy_lane_within(&mut self, lane: usize, from_lane: usize) {
        self.offsets[lane] = self.offsets[from_lane];
        let lanes = self.lanes;
        let copy = |data: &mut [T], len: usize| {
            for block in data.chunks_exact_mut(len * lanes) {
                block.copy_within(from_lane * len..(from_lane + 1) * len, lane * len);
            }
        };
        for history in &mut self.histories {
            copy(&mut history.data, CHANNEL_BLOCK * history.length);
        }
        copy(&mut self.ssm, CHANNEL_BLOCK * self.states);
    }

    /// The history of a convolution's input: (blocks, lanes, ring, channels).
    pub fn history(&mut self, index: usize) -> ArrayViewMut4<'_, T> {
        let History { length, data } = &mut self.histories[index];
        view4_mut(data, [padded(self.channels) / CHANNEL_BLOCK, self.lanes, *length, CHANNEL_BLOCK])
    }

    /// The state space model's state, in the layout of [`crate::ops::scan`].
    pub fn ssm(&mut self) -> &mut [T] {
        &mut self.ssm
    }

    fn bytes(&self) -> usize {
        self.histories.iter().map(|history| history.data.bytes()).sum::<usize>()
            + self.ssm.bytes()
            + size_of_val(&self.offsets[..])
    }

    fn try_clone(&self) -> Result<Self> {
        let mut offsets = Vec::new();
        if offsets.try_reserve_exact(self.lanes).is_err() {
            fail!(OutOfMemory, "the cache needs more memory than can be had");
        }
        offsets.extend_from_slice(&self.offsets);
        let histories = self
            .histories
            .iter()
            .map(|history| Ok(History { length: history.length, data: history.data.try_clone("the cache")? }))
            .collect::<Result<Vec<_>>>()?;
        Ok(State { histories, ssm: self.ssm.try_clone("the cache")?, offsets, ..*self })
    }
}

/// The length of each history: of `x` alone, as long as its longest branch needs, or of every branch's input.
fn ring_lengths(variant: Variant, dims: &Dims) -> Vec<usize> {
    match variant {
        Variant::Stcn => dims.conv_state_lens.clone(),
        _ => dims.conv_state_lens.iter().copied().max().into_iter().collect(),
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
    state: State<f32>,
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
    variant: Variant,
    dims: Dims,
    dilations: Vec<usize>,
}

impl Shape {
    fn of(layer: &Layer) -> Self {
        Shape {
            variant: layer.config().variant,
            dims: layer.dims().clone(),
            dilations: layer.config().conv_dilations.clone(),
        }
    }

    /// Whether it is the layer's; every step asks, so nothing is copied for it.
    fn is_of(&self, layer: &Layer) -> bool {
        self.variant == layer.config().variant
            && self.dims == *layer.dims()
            && self.dilations == layer.config().conv_dilations
    }
}

impl Cache {
    /// The state of `batch` sequences that have seen nothing. `max_seqlen` is the reference's argument and
    /// changes nothing there or here: the state does not grow with the sequence.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn new(layer: &Layer, batch: usize, max_seqlen: usize) -> Result<Self> {
        let _ = max_seqlen;
        let shape = Shape::of(layer);
        let state = State::new(layer.config(), layer.dims(), batch)?;
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
        self.state.lanes
    }

    /// Tokens that each sequence has seen; of the one that has seen most, where they differ.
    pub fn seqlen_offset(&self) -> u64 {
        self.state.offsets.iter().copied().max().unwrap_or(0)
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.state.bytes() + self.taken.bytes()
    }

    /// Forgets everything seen; the state is as new.
    pub fn reset(&mut self) {
        for lane in 0..self.state.lanes {
            self.state.reset_lane(lane);
        }
        self.poisoned = false;
    }

    /// Forgets everything that one sequence has seen; the others go on.
    ///
    /// # Errors
    /// `InvalidArgument` for a lane that the batch does not have, `Internal` for a cache left undefined.
    pub fn reset_lane(&mut self, lane: usize) -> Result<()> {
        self.check_lane("lane", lane)?;
        self.state.reset_lane(lane);
        Ok(())
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
            fail!(ShapeMismatch, "src was made for a layer of another shape than dst");
        }
        self.state.copy_lane(lane, &from.state, from_lane);
        Ok(())
    }

    /// [`Cache::copy_lane`] from one sequence to another of the same cache.
    ///
    /// # Errors
    /// As [`Cache::copy_lane`].
    pub fn copy_lane_within(&mut self, lane: usize, from_lane: usize) -> Result<()> {
        self.check_lane("dst_lane", lane)?;
        self.check_lane("src_lane", from_lane)?;
        self.state.copy_lane_within(lane, from_lane);
        Ok(())
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
                fail!(InvalidArgument, "lanes[{i}] is {}; the cache has a batch of {batch}", lanes[i])
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
    pub fn get_state(&self, name: &str, out: &mut [f32]) -> Result<()> {
        self.check_usable()?;
        let (field, shape) = self.find(name, out.len())?;
        let [lanes, channels, len] = shape;
        let state = &self.state;
        let mut values = out.iter_mut();
        for lane in 0..lanes {
            for channel in 0..channels {
                for (i, value) in (0..len).zip(&mut values) {
                    *value = match field {
                        Field::Ssm => state.ssm[state_at(lanes, len, lane, channel, i)],
                        Field::Conv { history } => {
                            state.histories[history].data[state.conv_at(history, lane, channel, len - i)]
                        }
                    };
                }
            }
        }
        Ok(())
    }

    /// Replaces a tensor of the state by one in the reference's layout. Where branches share one history,
    /// writes the last inputs of that branch.
    ///
    /// # Errors
    /// As [`Cache::get_state`].
    pub fn set_state(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.check_usable()?;
        let (field, shape) = self.find(name, values.len())?;
        let [lanes, channels, len] = shape;
        let state = &mut self.state;
        let mut values = values.iter();
        for lane in 0..lanes {
            for channel in 0..channels {
                for (i, &value) in (0..len).zip(&mut values) {
                    match field {
                        Field::Ssm => state.ssm[state_at(lanes, len, lane, channel, i)] = value,
                        Field::Conv { history } => {
                            let at = state.conv_at(history, lane, channel, len - i);
                            state.histories[history].data[at] = value;
                        }
                    }
                }
            }
        }
        Ok(())
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
            Field::Conv { history: if self.state.histories.len() == 1 { 0 } else { index } }
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
            fail!(ShapeMismatch, "cache was made for a layer of another shape");
        }
        if self.state.lanes != batch {
            fail!(ShapeMismatch, "batch is {batch}; cache was made for a batch of {}", self.state.lanes);
        }
        Ok(())
    }

    /// Runs `call` on the state; if it panics, the cache refuses further use until it is reset.
    pub(crate) fn with_state<R>(&mut self, call: impl FnOnce(&mut State<f32>) -> R) -> R {
        self.poisoned = true;
        let result = call(&mut self.state);
        #[cfg(test)]
        crate::fault::at(crate::fault::Point::State);
        self.poisoned = false;
        result
    }
}

#[derive(Clone, Copy)]
enum Field {
    Conv { history: usize },
    Ssm,
}

impl<T> State<T> {
    /// Where the input of `age` tokens ago lies, the newest being of age 1.
    fn conv_at(&self, history: usize, lane: usize, channel: usize, age: usize) -> usize {
        let length = self.histories[history].length;
        // One lap ahead, so that nothing goes below zero before the first tokens.
        let row = ring_row(self.offsets[lane] % length as u64 + (length - age) as u64, length);
        let (block, within) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
        ((block * self.lanes + lane) * length + row) * CHANNEL_BLOCK + within
    }
}
