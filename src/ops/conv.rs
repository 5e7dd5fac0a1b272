//! The convolutional front end.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut4, Axis, s};

use super::{CHANNEL_BLOCK, padded, share, view2, view3};
use crate::error::Result;
use crate::memory::{Buffer, product};
use crate::simd::conv::Branches;
use crate::simd::{Isa, Real};
use crate::threads::Workers;

/// The depthwise convolutions of all branches, in blocks of channels.
#[derive(Debug)]
pub struct DepthwiseConv<T> {
    isa: Isa,
    channels: usize,
    taps: usize,
    dilations: Vec<usize>,
    /// `[block][branch][tap][channel]`
    weight: Buffer<T>,
    /// `[block][branch][channel]`
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

    fn weight_at(&self, branch: usize, tap: usize, channel: usize) -> usize {
        let (block, within) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
        ((block * self.branches() + branch) * self.taps + tap) * CHANNEL_BLOCK + within
    }

    fn bias_at(&self, branch: usize, channel: usize) -> usize {
        (channel / CHANNEL_BLOCK * self.branches() + branch) * CHANNEL_BLOCK + channel % CHANNEL_BLOCK
    }

    /// Writes the weights of a branch from (channels, taps).
    pub fn set_weight(&mut self, branch: usize, values: &[T]) {
        assert_eq!(values.len(), self.channels * self.taps);
        for (i, &value) in values.iter().enumerate() {
            let at = self.weight_at(branch, i % self.taps, i / self.taps);
            self.weight[at] = value;
        }
    }

    /// Reads the weights of a branch into (channels, taps).
    pub fn get_weight(&self, branch: usize, values: &mut [T]) {
        assert_eq!(values.len(), self.channels * self.taps);
        for (i, value) in values.iter_mut().enumerate() {
            *value = self.weight[self.weight_at(branch, i % self.taps, i / self.taps)];
        }
    }

    /// Writes the bias of a branch, a value for each channel.
    pub fn set_bias(&mut self, branch: usize, values: &[T]) {
        assert_eq!(values.len(), self.channels);
        for (channel, &value) in values.iter().enumerate() {
            let at = self.bias_at(branch, channel);
            self.bias[at] = value;
        }
    }

    /// Reads the bias of a branch.
    pub fn get_bias(&self, branch: usize, values: &mut [T]) {
        assert_eq!(values.len(), self.channels);
        for (channel, value) in values.iter_mut().enumerate() {
            *value = self.bias[self.bias_at(branch, channel)];
        }
    }

    /// `gate_i · silu(conv_i(x))` for `branches`, each segment continuing from the history of its lane, which
    /// it leaves with its own last rows.
    ///
    /// `x` is (blocks, rows, channels); `history` (blocks, lanes, ring, channels), where the input of token `i`
    /// of a lane lies at `i` modulo the ring's length; `out` (1, blocks, rows, channels) for the sum of the
    /// branches or (branches, blocks, rows, channels) to keep them apart.
    #[allow(clippy::too_many_arguments)] // one stage, and these are what it works on
    pub fn apply(
        &self,
        workers: &Workers,
        branches: Range<usize>,
        gates: &[T],
        segments: &[Segment],
        x: ArrayView3<T>,
        mut history: ArrayViewMut4<T>,
        mut out: ArrayViewMut4<T>,
    ) {
        let dilations = &self.dilations[branches.clone()];
        let bias_shape = [self.branches(), CHANNEL_BLOCK];
        let weight_shape = [self.branches(), self.taps, CHANNEL_BLOCK];
        let (bias_len, weight_len) = (bias_shape.iter().product(), weight_shape.iter().product());

        let share = share(x.dim().0, 1, workers.count());
        let pieces = x
            .axis_chunks_iter(Axis(0), share)
            .zip(self.weight.chunks(share * weight_len))
            .zip(self.bias.chunks(share * bias_len))
            .zip(history.axis_chunks_iter_mut(Axis(0), share))
            .zip(out.axis_chunks_iter_mut(Axis(1), share));
        workers.for_each(pieces, |((((x, weight), bias), mut history), mut out)| {
            let blocks = x
                .outer_iter()
                .zip(weight.chunks_exact(weight_len))
                .zip(bias.chunks_exact(bias_len))
                .zip(history.outer_iter_mut())
                .zip(out.axis_iter_mut(Axis(1)));
            for ((((x, weight), bias), mut history), mut out) in blocks {
                let weight = view3(weight, weight_shape).slice_move(s![branches.clone(), .., ..]);
                let bias = view2(bias, bias_shape).slice_move(s![branches.clone(), ..]);
                for segment in segments {
                    let mut ring = history.index_axis_mut(Axis(0), segment.lane);
                    let length = ring.nrows();
                    let current = x.slice(s![segment.rows.clone(), ..]);
                    self.isa.dispatch(Branches {
                        current,
                        past: ring.view(),
                        newest: ring_row(segment.offset + length as u64 - 1, length),
                        weight,
                        bias,
                        gates,
                        dilations,
                        out: out.slice_mut(s![.., segment.rows.clone(), ..]),
                    });
                    remember(&mut ring, segment.offset, current);
                }
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
