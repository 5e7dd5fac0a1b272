//! The convolutional front end.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis, s};

use super::{CHANNEL_BLOCK, padded, share, view2, view3};
use crate::error::Result;
use crate::memory::{Buffer, product};
use crate::simd::conv::Branches;
use crate::simd::{Isa, Real};
use crate::threads::Workers;

/// The depthwise convolutions of all branches, taps first and channels padded.
#[derive(Debug)]
pub struct DepthwiseConv<T> {
    isa: Isa,
    channels: usize,
    taps: usize,
    dilations: Vec<usize>,
    weight: Buffer<T>,
    bias: Buffer<T>,
}

/// The tokens of one sequence inside a block of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which lane of the state they continue.
    pub lane: usize,
    /// Which rows of the block they are.
    pub rows: Range<usize>,
    /// Tokens that came before.
    pub offset: u64,
}

impl<T: Real> DepthwiseConv<T> {
    /// All zeros.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn zeroed(isa: Isa, channels: usize, taps: usize, dilations: &[usize]) -> Result<Self> {
        let what = "the convolutions";
        let columns = padded(channels);
        Ok(DepthwiseConv {
            isa,
            channels,
            taps,
            dilations: dilations.to_vec(),
            weight: Buffer::zeroed(what, product(what, &[dilations.len(), taps, columns])?)?,
            bias: Buffer::zeroed(what, product(what, &[dilations.len(), columns])?)?,
        })
    }

    /// Number of branches.
    pub fn branches(&self) -> usize {
        self.dilations.len()
    }

    fn start(&self, branch: usize, tap: usize) -> usize {
        (branch * self.taps + tap) * padded(self.channels)
    }

    /// Writes the weights of a branch from (channels, taps).
    pub fn set_weight(&mut self, branch: usize, values: &[T]) {
        assert_eq!(values.len(), self.channels * self.taps);
        for tap in 0..self.taps {
            let start = self.start(branch, tap);
            for (channel, row) in values.chunks_exact(self.taps).enumerate() {
                self.weight[start + channel] = row[tap];
            }
        }
    }

    /// Reads the weights of a branch into (channels, taps).
    pub fn get_weight(&self, branch: usize, values: &mut [T]) {
        assert_eq!(values.len(), self.channels * self.taps);
        for tap in 0..self.taps {
            let start = self.start(branch, tap);
            for (channel, row) in values.chunks_exact_mut(self.taps).enumerate() {
                row[tap] = self.weight[start + channel];
            }
        }
    }

    /// The bias of a branch, a value for each channel.
    pub fn bias(&self, branch: usize) -> &[T] {
        &self.bias[branch * padded(self.channels)..][..self.channels]
    }

    /// The bias of a branch, to be written.
    pub fn bias_mut(&mut self, branch: usize) -> &mut [T] {
        &mut self.bias[branch * padded(self.channels)..][..self.channels]
    }

    /// `gate_i · silu(conv_i(x))` for `branches`, each segment continuing from the history of its lane, which
    /// it leaves with its own last rows.
    ///
    /// `x` is (rows, padded channels); `history` (lanes, ring, padded channels), where the input of token `i`
    /// of a lane lies at `i` modulo the ring's length; `out` (rows, 1, padded channels) for the sum of the
    /// branches or (rows, branches, padded channels) to keep them apart.
    #[allow(clippy::too_many_arguments)] // one stage, and these are what it works on
    pub fn apply(
        &self,
        workers: &Workers,
        branches: Range<usize>,
        gates: &[T],
        segments: &[Segment],
        x: ArrayView2<T>,
        mut history: ArrayViewMut3<T>,
        mut out: ArrayViewMut3<T>,
    ) {
        let columns = padded(self.channels);
        let weight = view3(&self.weight, [self.branches(), self.taps, columns]);
        let weight = weight.slice_axis(Axis(0), branches.clone().into());
        let bias = view2(&self.bias, [self.branches(), columns]);
        let bias = bias.slice_axis(Axis(0), branches.clone().into());
        let dilations = &self.dilations[branches];

        let share = share(columns, CHANNEL_BLOCK, workers.count());
        let pieces = x
            .axis_chunks_iter(Axis(1), share)
            .zip(weight.axis_chunks_iter(Axis(2), share))
            .zip(bias.axis_chunks_iter(Axis(1), share))
            .zip(history.axis_chunks_iter_mut(Axis(2), share))
            .zip(out.axis_chunks_iter_mut(Axis(2), share));
        workers.for_each(pieces, |((((x, weight), bias), mut history), mut out)| {
            for segment in segments {
                let rows = s![segment.rows.clone(), ..];
                let mut ring = history.index_axis_mut(Axis(0), segment.lane);
                let length = ring.nrows();
                self.isa.dispatch(Branches {
                    current: x.slice(rows),
                    past: ring.view(),
                    newest: ring_row(segment.offset + length as u64 - 1, length),
                    weight,
                    bias,
                    gates,
                    dilations,
                    out: out.slice_axis_mut(Axis(0), segment.rows.clone().into()),
                });
                remember(&mut ring, segment.offset, x.slice(rows));
            }
        });
    }
}

/// Where the input of token `i` lies in a ring of `length` rows.
pub fn ring_row(i: u64, length: usize) -> usize {
    (i % length as u64) as usize
}

/// Writes the last rows of `x`, the inputs of the tokens from `offset`, into the ring.
fn remember<T: Real>(ring: &mut ArrayViewMut2<T>, offset: u64, x: ArrayView2<T>) {
    let length = ring.nrows();
    for t in x.nrows().saturating_sub(length)..x.nrows() {
        ring.row_mut(ring_row(offset + t as u64, length)).assign(&x.row(t));
    }
}
