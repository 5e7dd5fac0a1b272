//! The streaming state of a layer on a device: f32 whatever the layer stores, positions and counts included, so that
//! a captured graph moves it on at every replay.

use std::sync::atomic::{AtomicBool, Ordering};

use super::driver::{Gpu, Memory, Stream, int};
use crate::error::{Result, fail};
use crate::layer::{Dims, Variant};
use crate::memory::product;

/// The state of several lanes, each one stream of tokens with its own position.
#[derive(Debug)]
pub struct State {
    gpu: &'static Gpu,
    lanes: usize,
    channels: usize,
    states: usize,
    /// Slots of each history: one of x for all branches, or one for each stacked branch's input.
    ring_lens: Vec<usize>,
    /// (lanes, slots, channels)
    rings: Vec<Memory>,
    /// (lanes, channels, states)
    ssm: Memory,
    /// (histories, lanes), u32: the slot of the next input.
    positions: Memory,
    /// (histories), u32
    lens: Memory,
    /// (lanes), u64
    seen: Memory,
    /// Something has begun to change it, and not come to its end.
    undefined: AtomicBool,
    /// A caller's stream, or a graph captured there, may change it unseen.
    on_streams: AtomicBool,
}

/// A tensor of the state.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The last so many inputs of a history, (lanes, channels, inputs), oldest first.
    History {
        /// Which history.
        index: usize,
        /// How many inputs.
        len: usize,
    },
    /// (lanes, channels, states)
    Ssm,
}

impl State {
    /// The state of `lanes` streams that have seen nothing.
    ///
    /// # Errors
    /// `OutOfMemory` where a size overflows, `Cuda` where the device has not so much.
    pub fn new(gpu: &'static Gpu, variant: Variant, dims: &Dims, lanes: usize) -> Result<State> {
        let what = format!("the state for a batch of {lanes}");
        let ring_lens = match variant {
            Variant::Stcn => dims.conv_state_lens.clone(),
            _ => dims.conv_state_lens.iter().copied().max().into_iter().collect(),
        };
        let memory = |sizes: &[usize]| Memory::zeroed(gpu, &what, product(&what, sizes)?);
        int("batch · histories", product(&what, &[lanes, ring_lens.len()])?)?;
        for &len in &ring_lens {
            int("batch · ((d_conv - 1) · dilation + 1)", product(&what, &[lanes, len])?)?;
        }
        let rings = ring_lens.iter().map(|&len| memory(&[4, lanes, len, dims.d_inner]));
        let state = State {
            gpu,
            lanes,
            channels: dims.d_inner,
            states: dims.d_state,
            rings: rings.collect::<Result<_>>()?,
            ssm: memory(&[4, lanes, dims.d_inner, dims.d_state])?,
            positions: memory(&[4, ring_lens.len(), lanes])?,
            lens: memory(&[4, ring_lens.len()])?,
            seen: memory(&[8, lanes])?,
            undefined: AtomicBool::new(false),
            on_streams: AtomicBool::new(false),
            ring_lens,
        };
        let lens: Vec<u32> = state.ring_lens.iter().map(|&len| len as u32).collect();
        state.lens.write(Stream::DEFAULT, &lens)?;
        gpu.synchronize()?;
        Ok(state)
    }

    /// Number of streams.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// The device it is on.
    pub fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// Whether a call or a change failed when it had begun to change the state. [`State::reset`] makes it defined again.
    pub fn is_undefined(&self) -> bool {
        self.undefined.load(Ordering::Relaxed)
    }

    pub(super) fn set_undefined(&self, undefined: bool) {
        self.undefined.store(undefined, Ordering::Relaxed);
    }

    pub(super) fn is_on_streams(&self) -> bool {
        self.on_streams.load(Ordering::Relaxed)
    }

    pub(super) fn set_on_streams(&self) {
        self.on_streams.store(true, Ordering::Relaxed);
    }

    /// Enqueues a change on the default stream, when all work on the device is done, and waits for it.
    fn change(&self, enqueue: impl FnOnce() -> Result<()>) -> Result<()> {
        self.gpu.synchronize()?;
        self.set_undefined(true);
        enqueue()?;
        self.gpu.synchronize()?;
        self.set_undefined(false);
        Ok(())
    }

    /// Number of histories.
    pub fn histories(&self) -> usize {
        self.rings.len()
    }

    pub(super) fn ring(&self, history: usize) -> (&Memory, usize) {
        (&self.rings[history], self.ring_lens[history])
    }

    pub(super) fn ssm(&self) -> &Memory {
        &self.ssm
    }

    pub(super) fn positions(&self) -> &Memory {
        &self.positions
    }

    pub(super) fn lens(&self) -> &Memory {
        &self.lens
    }

    pub(super) fn seen(&self) -> &Memory {
        &self.seen
    }

    fn all(&self) -> impl Iterator<Item = &Memory> {
        self.rings.iter().chain([&self.ssm, &self.positions, &self.lens, &self.seen])
    }

    /// Bytes of the device's memory held.
    pub fn bytes(&self) -> usize {
        self.all().map(Memory::bytes).sum()
    }

    /// Tokens that each lane has seen, all work on the device having been waited for.
    ///
    /// # Errors
    /// `Cuda`
    pub fn seen_tokens(&self) -> Result<Vec<u64>> {
        self.gpu.synchronize()?;
        let mut seen = vec![0; self.lanes];
        self.seen.read(Stream::DEFAULT, 0, &mut seen)?;
        Ok(seen)
    }

    /// Replaces those numbers, when all work on the device is done.
    ///
    /// # Errors
    /// `Cuda`
    pub fn set_seen_tokens(&mut self, seen: &[u64]) -> Result<()> {
        assert_eq!(seen.len(), self.lanes);
        self.change(|| self.seen.write(Stream::DEFAULT, seen))
    }

    /// Enqueues forgetting all.
    pub(super) fn enqueue_reset(&self, stream: Stream) -> Result<()> {
        for memory in self.rings.iter().chain([&self.ssm, &self.positions, &self.seen]) {
            memory.fill_zero(stream)?;
        }
        Ok(())
    }

    /// Forgets everything seen, when all work on the device is done.
    ///
    /// # Errors
    /// `Cuda`
    pub fn reset(&mut self) -> Result<()> {
        self.change(|| self.enqueue_reset(Stream::DEFAULT))
    }

    /// The tensors that hold something for each lane: bytes of a lane, and how often all lanes come.
    fn by_lane(&self) -> impl Iterator<Item = (&Memory, usize, usize)> {
        let rings = self.rings.iter().map(|ring| (ring, 1));
        rings
            .chain([(&self.ssm, 1), (&self.positions, self.rings.len()), (&self.seen, 1)])
            .map(|(memory, times)| (memory, memory.bytes() / times.max(1) / self.lanes.max(1), times))
    }

    /// Forgets what one lane has seen.
    ///
    /// # Errors
    /// `Cuda`
    pub fn reset_lane(&mut self, lane: usize) -> Result<()> {
        assert!(lane < self.lanes);
        self.change(|| {
            for (memory, bytes, times) in self.by_lane() {
                for time in 0..times {
                    memory.fill_zero_part(Stream::DEFAULT, (time * self.lanes + lane) * bytes, bytes)?;
                }
            }
            Ok(())
        })
    }

    /// Makes `lane` equal to a lane of `from`, or of its own where there is none: a state of the same shape and device
    /// but for its number of lanes.
    ///
    /// # Errors
    /// `Cuda`
    pub fn copy_lane(&mut self, lane: usize, from: Option<&State>, from_lane: usize) -> Result<()> {
        let from = from.unwrap_or(self);
        assert!(lane < self.lanes && from_lane < from.lanes && self.gpu.index() == from.gpu.index());
        self.change(|| {
            for ((memory, bytes, times), (source, from_bytes, _)) in self.by_lane().zip(from.by_lane()) {
                assert_eq!(bytes, from_bytes);
                for time in 0..times {
                    let to = (time * self.lanes + lane) * bytes;
                    let at = (time * from.lanes + from_lane) * bytes;
                    if !(std::ptr::eq(memory, source) && to == at) {
                        memory.copy_part(Stream::DEFAULT, to, source, at, bytes)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// An equal state.
    ///
    /// # Errors
    /// `Cuda`
    pub fn try_clone(&self) -> Result<State> {
        self.gpu.synchronize()?;
        let copy = |memory: &Memory| {
            let copy = Memory::zeroed(self.gpu, "the cache", memory.bytes())?;
            copy.copy_part(Stream::DEFAULT, 0, memory, 0, memory.bytes())?;
            Ok(copy)
        };
        let state = State {
            ring_lens: self.ring_lens.clone(),
            rings: self.rings.iter().map(copy).collect::<Result<_>>()?,
            ssm: copy(&self.ssm)?,
            positions: copy(&self.positions)?,
            lens: copy(&self.lens)?,
            seen: copy(&self.seen)?,
            undefined: AtomicBool::new(false),
            on_streams: AtomicBool::new(false),
            ..*self
        };
        self.gpu.synchronize()?;
        Ok(state)
    }

    /// Copies a tensor out, when all work on the device is done.
    ///
    /// # Errors
    /// `ShapeMismatch` where `out` has another length, `Cuda`.
    pub fn get(&self, part: Part, out: &mut [f32]) -> Result<()> {
        self.check_len(part, out.len())?;
        self.gpu.synchronize()?;
        match part {
            Part::Ssm => self.ssm.read(Stream::DEFAULT, 0, out),
            Part::History { index, len } => {
                let ring = self.read_ring(index)?;
                self.for_each(index, len, |in_ring, at| out[at] = ring[in_ring])
            }
        }
    }

    /// Replaces a tensor, when all work on the device is done; of a history, its last inputs.
    ///
    /// # Errors
    /// As [`State::get`].
    pub fn set(&mut self, part: Part, values: &[f32]) -> Result<()> {
        self.check_len(part, values.len())?;
        self.gpu.synchronize()?;
        match part {
            Part::Ssm => self.change(|| self.ssm.write(Stream::DEFAULT, values)),
            Part::History { index, len } => {
                let mut ring = self.read_ring(index)?;
                self.for_each(index, len, |in_ring, at| ring[in_ring] = values[at])?;
                self.change(|| self.rings[index].write(Stream::DEFAULT, &ring))
            }
        }
    }

    fn check_len(&self, part: Part, count: usize) -> Result<()> {
        let len = match part {
            Part::Ssm => self.states,
            Part::History { index, len } => len.min(self.ring_lens[index]),
        };
        let expected = self.lanes * self.channels * len;
        if count != expected {
            fail!(ShapeMismatch, "count is {count}; {part:?} has {expected} values");
        }
        Ok(())
    }

    fn read_ring(&self, index: usize) -> Result<Vec<f32>> {
        let mut ring = vec![0.0; self.rings[index].bytes() / 4];
        self.rings[index].read(Stream::DEFAULT, 0, &mut ring)?;
        Ok(ring)
    }

    /// Calls `visit` with where each of the last `len` inputs is in the ring, and in (lanes, channels, len).
    fn for_each(&self, index: usize, len: usize, mut visit: impl FnMut(usize, usize)) -> Result<()> {
        let mut positions = vec![0_u32; self.lanes];
        self.positions.read(Stream::DEFAULT, index * self.lanes * 4, &mut positions)?;
        let slots = self.ring_lens[index];
        for (lane, &position) in positions.iter().enumerate() {
            for i in 0..len {
                let slot = (position as usize + slots - (len - i)) % slots;
                for channel in 0..self.channels {
                    let in_ring = (lane * slots + slot) * self.channels + channel;
                    visit(in_ring, (lane * self.channels + channel) * len + i);
                }
            }
        }
        Ok(())
    }
}
