//! The selective state space model.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut3, Axis, s};

use super::conv::Segment;
use super::{CHANNEL_BLOCK, padded, share};
use crate::error::Result;
use crate::memory::{Buffer, product};
use crate::simd::scan::Scan;
use crate::simd::{Isa, Real};
use crate::threads::Workers;

/// The parameters of the scan that are not products: A, D and the bias of δ, in blocks of channels.
#[derive(Debug)]
pub struct SelectiveScan<T> {
    isa: Isa,
    channels: usize,
    states: usize,
    /// A · log2(e), `[block][state][channel]`.
    a: Buffer<T>,
    /// D
    skip: Buffer<T>,
    delta_bias: Buffer<T>,
}

/// Values of a state of `lanes` lanes: `[block][lane][state][channel]`, so that a range of channels is one slice.
pub fn state_len(lanes: usize, channels: usize, states: usize) -> Result<usize> {
    product("the SSM state", &[padded(channels), lanes, states])
}

/// Where (lane, channel, state) lies in that layout.
pub fn state_at(lanes: usize, states: usize, lane: usize, channel: usize, state: usize) -> usize {
    let (block, within) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
    ((block * lanes + lane) * states + state) * CHANNEL_BLOCK + within
}

impl<T: Real> SelectiveScan<T> {
    /// All zeros.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn zeroed(isa: Isa, channels: usize, states: usize) -> Result<Self> {
        let what = "the state space model";
        let columns = padded(channels);
        Ok(SelectiveScan {
            isa,
            channels,
            states,
            a: Buffer::zeroed(what, product(what, &[columns, states])?)?,
            skip: Buffer::zeroed(what, columns)?,
            delta_bias: Buffer::zeroed(what, columns)?,
        })
    }

    /// Takes A = −exp(A_log) from `a_log` (channels, states), folded with log2(e) for the scan's 2^x.
    pub fn set_a_log(&mut self, a_log: &[T]) {
        assert_eq!(a_log.len(), self.channels * self.states);
        for (channel, row) in a_log.chunks_exact(self.states).enumerate() {
            for (state, &value) in row.iter().enumerate() {
                let folded = -value.to_f64().exp() * std::f64::consts::LOG2_E;
                self.a[state_at(1, self.states, 0, channel, state)] = T::from_f64(folded);
            }
        }
    }

    /// D, a value for each channel.
    pub fn skip(&self) -> &[T] {
        &self.skip[..self.channels]
    }

    /// D, to be written.
    pub fn skip_mut(&mut self) -> &mut [T] {
        &mut self.skip[..self.channels]
    }

    /// The bias of δ, a value for each channel.
    pub fn delta_bias(&self) -> &[T] {
        &self.delta_bias[..self.channels]
    }

    /// The bias of δ, to be written.
    pub fn delta_bias_mut(&mut self) -> &mut [T] {
        &mut self.delta_bias[..self.channels]
    }

    /// `y = (scan of u) · silu(z)`, each segment continuing from its lane of `state` and leaving its last one.
    ///
    /// `u`, `delta` (before bias and softplus), `z` and `y` are (blocks, rows, channels); `b` and `c` (rows,
    /// states); `state` is in the layout of [`state_len`], of `lanes` lanes.
    #[allow(clippy::too_many_arguments)] // one stage, and these are what it works on
    pub fn apply(
        &self,
        workers: &Workers,
        segments: &[Segment],
        u: ArrayView3<T>,
        delta: ArrayView3<T>,
        z: ArrayView3<T>,
        b: ArrayView2<T>,
        c: ArrayView2<T>,
        state: &mut [T],
        lanes: usize,
        mut y: ArrayViewMut3<T>,
    ) {
        let block_len = CHANNEL_BLOCK * self.states;
        let share = share(u.dim().0, 1, workers.count());
        let pieces = y
            .axis_chunks_iter_mut(Axis(0), share)
            .zip(state.chunks_mut(share * block_len * lanes))
            .enumerate();
        workers.for_each(pieces, |(piece, (mut y, state))| {
            let blocks = y.outer_iter_mut().zip(state.chunks_exact_mut(block_len * lanes));
            for (i, (mut y, state)) in blocks.enumerate() {
                let block = piece * share + i;
                let channels = block * CHANNEL_BLOCK..(block + 1) * CHANNEL_BLOCK;
                for segment in segments {
                    let rows = s![segment.rows.clone(), ..];
                    let part = s![block, segment.rows.clone(), ..];
                    self.isa.dispatch(Scan {
                        u: u.slice(part),
                        delta: delta.slice(part),
                        z: z.slice(part),
                        b: b.slice(rows),
                        c: c.slice(rows),
                        a: &self.a[block * block_len..][..block_len],
                        delta_bias: &self.delta_bias[channels.clone()],
                        skip: &self.skip[channels.clone()],
                        state: &mut state[segment.lane * block_len..][..block_len],
                        y: y.slice_mut(rows),
                    });
                }
            }
        });
    }
}
