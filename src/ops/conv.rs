//! The convolutional front end.

use std::ops::Range;

use ndarray::{ArrayView3, ArrayViewMut4, Axis, s};

use super::{CHANNEL_BLOCK, Segment, padded, view2, view3};
use crate::error::Result;
use crate::memory::{Buffer, product};
use crate::simd::conv::Branches;
use crate::simd::{Isa, Real, Storage};

/// The depthwise convolutions of all branches, in blocks of channels.
#[derive(Debug)]
pub struct DepthwiseConv<W: Storage> {
    isa: Isa,
    channels: usize,
    taps: usize,
    dilations: Vec<usize>,
    /// `[block][branch][tap][channel]`
    weight: Buffer<W::Real>,
    /// `[block][branch][channel]`
    bias: Buffer<W::Real>,
}

impl<T: Real, W: Storage<Real = T>> DepthwiseConv<W> {
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

    /// Writes the weights of a branch, (channels, taps).
    pub fn set_weight(&mut self, branch: usize, values: impl ExactSizeIterator<Item = T>) {
        assert_eq!(values.len(), self.channels * self.taps);
        for (i, value) in values.enumerate() {
            let at = self.weight_at(branch, i % self.taps, i / self.taps);
            self.weight[at] = value;
        }
    }

    /// The weights of a branch, (channels, taps).
    pub fn weight(&self, branch: usize) -> impl Iterator<Item = T> {
        (0..self.channels * self.taps)
            .map(move |i| self.weight[self.weight_at(branch, i % self.taps, i / self.taps)])
    }

    /// Writes the bias of a branch, a value for each channel.
    pub fn set_bias(&mut self, branch: usize, values: impl ExactSizeIterator<Item = T>) {
        assert_eq!(values.len(), self.channels);
        for (channel, value) in values.enumerate() {
            let at = self.bias_at(branch, channel);
            self.bias[at] = value;
        }
    }

    /// The bias of a branch.
    pub fn bias(&self, branch: usize) -> impl Iterator<Item = T> {
        (0..self.channels).map(move |channel| self.bias[self.bias_at(branch, channel)])
    }

    /// `gate_i · silu(conv_i(x))` for `branches` and the blocks of channels from `first`, each segment continuing
    /// from the history of its lane, which it leaves with its own last rows.
    ///
    /// `x` is (blocks, rows, channels); `history` (blocks, lanes, ring, channels), where the input of token `i`
    /// of a lane lies at `i` modulo the ring's length; `out` (1, blocks, rows, channels) for the sum of the
    /// branches or (branches, blocks, rows, channels) to keep them apart.
    #[allow(clippy::too_many_arguments)] // one stage, and these are what it works on
    pub fn apply(
        &self,
        first: usize,
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
        let blocks = x
            .outer_iter()
            .zip(self.weight.chunks_exact(weight_len).skip(first))
            .zip(self.bias.chunks_exact(bias_len).skip(first))
            .zip(history.outer_iter_mut())
            .zip(out.axis_iter_mut(Axis(1)));
        for ((((x, weight), bias), mut history), mut out) in blocks {
            let weight = view3(weight, weight_shape).slice_move(s![branches.clone(), .., ..]);
            let bias = view2(bias, bias_shape).slice_move(s![branches.clone(), ..]);
            self.isa.dispatch(Branches::<W> {
                segments,
                current: x,
                history: history.view_mut(),
                weight,
                bias,
                gates,
                dilations,
                out: out.view_mut(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::ops::testing::{Random, bits, epsilon, from_blocks, narrow, to_blocks, values};
    use crate::ops::{view3, view4_mut};

    const LANES: usize = 3;

    /// One lane's part of a call: its last inputs before the call, oldest first, and the new ones, (rows,
    /// channels) both.
    struct Stream {
        lane: usize,
        offset: u64,
        past: Vec<f64>,
        new: Vec<f64>,
    }

    struct Case {
        channels: usize,
        taps: usize,
        dilations: Vec<usize>,
        /// For each branch (channels, taps).
        weights: Vec<Vec<f64>>,
        biases: Vec<Vec<f64>>,
        gates: Vec<f64>,
        streams: Vec<Stream>,
    }

    impl Case {
        fn new(random: &mut Random, channels: usize, taps: usize, dilations: &[usize]) -> Case {
            let branches = dilations.len();
            let mut branch =
                |count| -> Vec<Vec<f64>> { (0..branches).map(|_| values(random, count)).collect() };
            let (weights, biases) = (branch(channels * taps), branch(channels));
            let mut case = Case {
                channels,
                taps,
                dilations: dilations.to_vec(),
                weights,
                biases,
                gates: values(random, branches),
                streams: Vec::new(),
            };
            // Not in the lanes' order, one lane left out; at the beginning, soon after, and very late.
            let offset = [0, 1, 2, 5, 1000, (1 << 40) + 7][random.below(6)];
            for (lane, rows, offset) in [(2, 1 + random.below(20), offset), (0, 1 + random.below(4), 3)] {
                let past = (offset.min(case.ring() as u64)) as usize;
                case.streams.push(Stream {
                    lane,
                    offset,
                    past: values(random, past * channels),
                    new: values(random, rows * channels),
                });
            }
            case
        }

        fn ring(&self) -> usize {
            (self.taps - 1) * self.dilations.iter().max().unwrap() + 1
        }

        fn conv<T: Real, W: Storage<Real = T>>(&self, isa: Isa) -> DepthwiseConv<W> {
            let mut conv = DepthwiseConv::zeroed(isa, self.channels, self.taps, &self.dilations).unwrap();
            for i in 0..self.dilations.len() {
                conv.set_weight(i, narrow(&self.weights[i]).into_iter());
                conv.set_bias(i, narrow(&self.biases[i]).into_iter());
                let (weight, bias): (Vec<T>, Vec<T>) = (conv.weight(i).collect(), conv.bias(i).collect());
                assert_eq!((weight, bias), (narrow(&self.weights[i]), narrow(&self.biases[i])));
            }
            conv
        }

        /// The rings before the call: what no stream has written is 0, padding NaN.
        fn history<T: Real>(&self) -> Vec<T> {
            let rows = LANES * self.ring();
            let mut values = vec![0.0; rows * self.channels];
            for stream in &self.streams {
                let count = stream.past.len() / self.channels;
                for (i, row) in stream.past.chunks_exact(self.channels).enumerate() {
                    let token = stream.offset - (count - i) as u64;
                    let at = stream.lane * self.ring() + (token % self.ring() as u64) as usize;
                    values[at * self.channels..][..self.channels].copy_from_slice(row);
                }
            }
            to_blocks(&values, rows, self.channels)
        }

        /// Branch `i`: gate · silu(Σ_j w_j · v[t − (W−1−j)·d] + b) for the new rows of all streams, a sum at a time.
        fn reference(&self, i: usize) -> Vec<f64> {
            let mut out = Vec::new();
            for stream in &self.streams {
                let (past, new) = (stream.past.len() / self.channels, stream.new.len() / self.channels);
                let inputs = [&stream.past[..], &stream.new[..]].concat();
                for t in past..past + new {
                    for c in 0..self.channels {
                        let mut sum = self.biases[i][c];
                        for j in 0..self.taps {
                            let lag = (self.taps - 1 - j) * self.dilations[i];
                            let input = if lag > t { 0.0 } else { inputs[(t - lag) * self.channels + c] };
                            sum += self.weights[i][c * self.taps + j] * input;
                        }
                        out.push(self.gates[i] * sum / (1.0 + (-sum).exp()));
                    }
                }
            }
            out
        }

        /// Runs `branches` over all new rows, `step` of each stream and `share` blocks of channels at a time: the
        /// outputs, (outputs, rows, channels), and the rings.
        fn apply<T: Real, W: Storage<Real = T>>(
            &self,
            isa: Isa,
            share: usize,
            branches: Range<usize>,
            apart: bool,
            step: usize,
        ) -> (Vec<f64>, Vec<f64>) {
            let conv = self.conv::<T, W>(isa);
            let gates: Vec<T> = narrow(&self.gates[branches.clone()]);
            let mut history = self.history::<T>();
            let blocks = padded(self.channels) / CHANNEL_BLOCK;
            let outputs = if apart { branches.len() } else { 1 };
            let longest = self.streams.iter().map(|stream| stream.new.len() / self.channels).max().unwrap();
            // By output, stream and row, to be strung together at the end.
            let mut out = vec![vec![Vec::new(); self.streams.len()]; outputs];
            for start in (0..longest).step_by(step) {
                let (mut x, mut segments, mut owners) = (Vec::new(), Vec::new(), Vec::new());
                for (i, stream) in self.streams.iter().enumerate() {
                    let rows: Vec<_> =
                        stream.new.chunks_exact(self.channels).skip(start).take(step).collect();
                    if !rows.is_empty() {
                        let first = owners.len();
                        owners.extend(rows.iter().map(|_| i));
                        let offset = stream.offset + start as u64;
                        segments.push(Segment { lane: stream.lane, rows: first..owners.len(), offset });
                        x.extend(rows.concat());
                    }
                }
                let rows = owners.len();
                let x: Vec<T> = to_blocks(&x, rows, self.channels);
                let mut y = vec![T::from_f64(f64::NAN); outputs * x.len()];
                let x_blocks = view3(&x, [blocks, rows, CHANNEL_BLOCK]);
                let mut history = view4_mut(&mut history, [blocks, LANES, self.ring(), CHANNEL_BLOCK]);
                let mut y_blocks = view4_mut(&mut y, [outputs, blocks, rows, CHANNEL_BLOCK]);
                let pieces = x_blocks
                    .axis_chunks_iter(Axis(0), share)
                    .zip(history.axis_chunks_iter_mut(Axis(0), share))
                    .zip(y_blocks.axis_chunks_iter_mut(Axis(1), share));
                for (i, ((x, history), y)) in pieces.enumerate() {
                    conv.apply(i * share, branches.clone(), &gates, &segments, x, history, y);
                }
                for (out, y) in out.iter_mut().zip(y.chunks_exact(x.len())) {
                    let y = from_blocks(y, rows, self.channels);
                    for (owner, row) in owners.iter().zip(y.chunks_exact(self.channels)) {
                        out[*owner].extend_from_slice(row);
                    }
                }
            }
            (out.concat().concat(), from_blocks(&history, LANES * self.ring(), self.channels))
        }

        /// The rings after the call.
        fn expected_history(&self) -> Vec<f64> {
            let mut values = from_blocks(&self.history::<f64>(), LANES * self.ring(), self.channels);
            for stream in &self.streams {
                for (i, row) in stream.new.chunks_exact(self.channels).enumerate() {
                    let token = stream.offset + i as u64;
                    let at = stream.lane * self.ring() + (token % self.ring() as u64) as usize;
                    values[at * self.channels..][..self.channels].copy_from_slice(row);
                }
            }
            values
        }
    }

    fn check<T: Real, W: Storage<Real = T>>() {
        let mut random = Random(3);
        for channels in [1, 16, 37] {
            for taps in [1, 2, 3, 4, 5, 9] {
                for dilations in [&[1][..], &[3], &[1, 2, 4, 8], &[5, 1, 1, 7, 2]] {
                    let case = Case::new(&mut random, channels, taps, dilations);
                    let branches = dilations.len();
                    for isa in Isa::available() {
                        let what = format!("{channels} channels, {taps} taps, {dilations:?}, {isa:?}");
                        // Sums of up to nine products below 1, then silu.
                        let near = |a: &[f64], b: &[f64], terms: usize| {
                            let bound = (taps + 8) as f64 * terms as f64 * epsilon::<W>();
                            assert_eq!(a.len(), b.len());
                            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= bound), "{what}");
                        };
                        let all = 0..branches;
                        let exact: Vec<Vec<f64>> = all.clone().map(|i| case.reference(i)).collect();
                        let sums: Vec<f64> =
                            (0..exact[0].len()).map(|at| exact.iter().map(|e| e[at]).sum()).collect();

                        let (sum, history) =
                            case.apply::<T, W>(isa, usize::MAX, all.clone(), false, usize::MAX);
                        near(&sum, &sums, branches);
                        assert_eq!(history, case.expected_history(), "{what}");
                        let (apart, history) =
                            case.apply::<T, W>(isa, usize::MAX, all.clone(), true, usize::MAX);
                        near(&apart, &exact.concat(), 1);
                        assert_eq!(history, case.expected_history(), "{what}");
                        let last = branches - 1..branches;
                        let (one, _) = case.apply::<T, W>(isa, usize::MAX, last, false, usize::MAX);
                        near(&one, &exact[branches - 1], 1);

                        for share in [1, 2] {
                            for step in [1, 3, usize::MAX] {
                                let (y, history) = case.apply::<T, W>(isa, share, all.clone(), false, step);
                                assert_eq!(bits(&y), bits(&sum), "{what}, {step} rows at a time");
                                assert_eq!(history, case.expected_history(), "{what}, {step} rows at a time");
                                let (y, _) = case.apply::<T, W>(isa, share, all.clone(), true, step);
                                assert_eq!(bits(&y), bits(&apart), "{what}, {step} rows at a time");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn branches_follow_the_formula_from_any_place_of_the_ring() {
        check::<f32, f32>();
        check::<f64, f64>();
        check::<f32, bf16>();
    }
}
