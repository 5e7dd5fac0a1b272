//! The selective state space model.

use ndarray::{ArrayView2, ArrayViewMut3, ArrayViewMut4};

use super::Segment;
use super::{CHANNEL_BLOCK, padded};
use crate::error::Result;
use crate::memory::{Buffer, product};
use crate::simd::scan::Scan;
use crate::simd::{Isa, Real, Storage};

/// The parameters of the scan that are not products: A, D and the bias of δ, in blocks of channels.
#[derive(Debug)]
pub struct SelectiveScan<W: Storage> {
    isa: Isa,
    channels: usize,
    states: usize,
    /// A · log2(e), `[block][state][channel]`.
    a: Buffer<W::Real>,
    /// D
    skip: Buffer<W::Real>,
    delta_bias: Buffer<W::Real>,
}

impl<T: Real, W: Storage<Real = T>> SelectiveScan<W> {
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
                // One NaN, of a known pattern: the scan's 2^x adds to exponents.
                let folded = -value.to_f64().exp() * std::f64::consts::LOG2_E;
                let (block, within) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
                self.a[(block * self.states + state) * CHANNEL_BLOCK + within] =
                    if folded.is_nan() { T::NAN } else { T::from_f64(folded) };
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

    /// `u ← (scan of u) · silu(z)` for the blocks of channels from `first`, each segment continuing from its lane
    /// of `state` and leaving its last one there.
    ///
    /// `u`, `delta` (before bias and softplus) and `z` are (blocks, rows, channels), the latter two scratch
    /// when done; `b` and `c` (rows, states); `state` (blocks, lanes, states, channels).
    #[allow(clippy::too_many_arguments)] // one stage, and these are what it works on
    pub fn apply(
        &self,
        first: usize,
        segments: &[Segment],
        mut u: ArrayViewMut3<T>,
        mut delta: ArrayViewMut3<T>,
        mut z: ArrayViewMut3<T>,
        b: ArrayView2<T>,
        c: ArrayView2<T>,
        mut state: ArrayViewMut4<T>,
    ) {
        let block_len = CHANNEL_BLOCK * self.states;
        let blocks = u.outer_iter_mut().zip(delta.outer_iter_mut()).zip(z.outer_iter_mut());
        for (i, (((mut u, mut delta), mut z), mut state)) in blocks.zip(state.outer_iter_mut()).enumerate() {
            let block = first + i;
            let channels = block * CHANNEL_BLOCK..(block + 1) * CHANNEL_BLOCK;
            self.isa.dispatch(Scan::<W> {
                segments,
                u: u.view_mut(),
                delta: delta.view_mut(),
                z: z.view_mut(),
                b,
                c,
                a: &self.a[block * block_len..][..block_len],
                delta_bias: &self.delta_bias[channels.clone()],
                skip: &self.skip[channels],
                state: state.view_mut(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::ops::testing::{Random, bits, epsilon, from_blocks, narrow, to_blocks, values};
    use crate::ops::{view2, view3_mut, view4_mut};
    use half::bf16;
    use ndarray::{Axis, s};

    const LANES: usize = 3;
    /// The lanes' rows in order; lane 1 has none.
    const SEGMENTS: [(usize, Range<usize>); 2] = [(2, 0..6), (0, 6..17)];
    const ROWS: usize = 17;

    /// All of (rows, channels) or (channels, states) or (rows, states) or, the state, (lanes, channels, states).
    struct Case {
        channels: usize,
        states: usize,
        a_log: Vec<f64>,
        skip: Vec<f64>,
        delta_bias: Vec<f64>,
        u: Vec<f64>,
        delta: Vec<f64>,
        z: Vec<f64>,
        b: Vec<f64>,
        c: Vec<f64>,
        state: Vec<f64>,
    }

    impl Case {
        fn new(random: &mut Random, channels: usize, states: usize) -> Case {
            let mut scaled = |count, scale: f64| -> Vec<f64> {
                values(random, count).into_iter().map(|v| v * scale).collect()
            };
            Case {
                channels,
                states,
                a_log: scaled(channels * states, 2.0),
                skip: scaled(channels, 1.0),
                delta_bias: scaled(channels, 2.0),
                u: scaled(ROWS * channels, 1.0),
                // Now and then beyond softplus's threshold, and to where nothing decays.
                delta: scaled(ROWS * channels, 4.0)
                    .into_iter()
                    .map(|v| if v.abs() > 3.5 { 8.0 * v } else { v })
                    .collect(),
                z: scaled(ROWS * channels, 4.0),
                b: scaled(ROWS * states, 1.0),
                c: scaled(ROWS * states, 1.0),
                state: scaled(LANES * channels * states, 1.0),
            }
        }

        /// s ← exp(δA) ⊙ s + (δu)B, y = (s·C + D·u) · silu(z), element by element: y and the state.
        fn reference(&self) -> (Vec<f64>, Vec<f64>) {
            let (mut y, mut state) = (vec![0.0; ROWS * self.channels], self.state.clone());
            for (lane, rows) in SEGMENTS {
                for t in rows {
                    for e in 0..self.channels {
                        let at = t * self.channels + e;
                        let v = self.delta[at] + self.delta_bias[e];
                        let delta = if v > 20.0 { v } else { v.exp().ln_1p() };
                        let mut sum = self.skip[e] * self.u[at];
                        for n in 0..self.states {
                            let s = &mut state[(lane * self.channels + e) * self.states + n];
                            let a = -self.a_log[e * self.states + n].exp();
                            *s = (delta * a).exp() * *s + delta * self.u[at] * self.b[t * self.states + n];
                            sum += *s * self.c[t * self.states + n];
                        }
                        y[at] = sum * self.z[at] / (1.0 + (-self.z[at]).exp());
                    }
                }
            }
            (y, state)
        }

        /// The stage itself, in one call or row by row, so many blocks of channels at a time.
        fn apply<T: Real, W: Storage<Real = T>>(
            &self,
            isa: Isa,
            row_by_row: bool,
            share: usize,
        ) -> (Vec<f64>, Vec<f64>) {
            let (channels, states) = (self.channels, self.states);
            let mut scan = SelectiveScan::<W>::zeroed(isa, channels, states).unwrap();
            scan.set_a_log(&narrow(&self.a_log));
            scan.skip_mut().copy_from_slice(&narrow(&self.skip));
            scan.delta_bias_mut().copy_from_slice(&narrow(&self.delta_bias));

            let shape = [padded(channels) / CHANNEL_BLOCK, ROWS, CHANNEL_BLOCK];
            let [mut u, mut delta, mut z] =
                [&self.u, &self.delta, &self.z].map(|v| to_blocks::<T>(v, ROWS, channels));
            // B and C side by side with something else before them, as they come.
            let wide = 3 + 2 * states;
            let mut projected = vec![T::from_f64(f64::NAN); ROWS * wide];
            for (row, (b, c)) in
                projected.chunks_exact_mut(wide).zip(self.b.chunks(states).zip(self.c.chunks(states)))
            {
                row[3..3 + states].copy_from_slice(&narrow(b));
                row[3 + states..].copy_from_slice(&narrow(c));
            }
            let projected = view2(&projected, [ROWS, wide]);

            let state_shape = [shape[0], LANES, states, CHANNEL_BLOCK];
            let mut state = vec![T::from_f64(f64::NAN); state_shape.iter().product()];
            let place = |i: usize| {
                let (lane, channel, n) = (i / (channels * states), i / states % channels, i % states);
                let (block, within) = (channel / CHANNEL_BLOCK, channel % CHANNEL_BLOCK);
                ((block * LANES + lane) * states + n) * CHANNEL_BLOCK + within
            };
            for (i, &value) in self.state.iter().enumerate() {
                state[place(i)] = T::from_f64(value);
            }

            let segments = SEGMENTS.map(|(lane, rows)| Segment { lane, rows, offset: 0 }).to_vec();
            let calls = match row_by_row {
                false => vec![segments],
                true => segments
                    .into_iter()
                    .flat_map(|s| {
                        s.rows.map(move |t| vec![Segment { lane: s.lane, rows: t..t + 1, offset: 0 }])
                    })
                    .collect(),
            };
            for segments in calls {
                let (mut u, mut delta) = (view3_mut(&mut u, shape), view3_mut(&mut delta, shape));
                let (mut z, mut state) = (view3_mut(&mut z, shape), view4_mut(&mut state, state_shape));
                let pieces =
                    u.axis_chunks_iter_mut(Axis(0), share).zip(state.axis_chunks_iter_mut(Axis(0), share));
                let scratch =
                    delta.axis_chunks_iter_mut(Axis(0), share).zip(z.axis_chunks_iter_mut(Axis(0), share));
                for (i, ((u, state), (delta, z))) in pieces.zip(scratch).enumerate() {
                    let b = projected.slice(s![.., 3..3 + states]);
                    let c = projected.slice(s![.., 3 + states..]);
                    scan.apply(i * share, &segments, u, delta, z, b, c, state);
                }
            }
            let state = (0..self.state.len()).map(|i| state[place(i)].to_f64()).collect();
            (from_blocks(&u, ROWS, channels), state)
        }
    }

    fn check<T: Real, W: Storage<Real = T>>() {
        let mut random = Random(4);
        for channels in [1, 15, 16, 37, 80] {
            for states in [1, 2, 3, 5, 8, 16, 17, 33, 64] {
                let case = Case::new(&mut random, channels, states);
                let (exact_y, exact_state) = case.reference();
                for isa in Isa::available() {
                    let what = format!("{channels} channels, {states} states, {isa:?}");
                    let (y, state) = case.apply::<T, W>(isa, false, usize::MAX);
                    for (what, ours, exact) in [("y", &y, &exact_y), ("state", &state, &exact_state)] {
                        let scale = exact.iter().fold(0.0, |scale: f64, v| scale.max(v.abs()));
                        let error =
                            ours.iter().zip(exact).fold(0.0, |error: f64, (a, b)| error.max((a - b).abs()));
                        assert!(ours.iter().all(|v| v.is_finite()));
                        assert!(error <= 16.0 * epsilon::<W>() * scale, "{what}: {error:e} of {scale:e}");
                    }
                    // The lane without rows keeps its state.
                    let lane = channels * states..2 * channels * states;
                    assert_eq!(state[lane.clone()], case.state[lane]);

                    for (row_by_row, share) in [(false, 1), (true, 2), (true, usize::MAX)] {
                        let again = case.apply::<T, W>(isa, row_by_row, share);
                        assert_eq!(bits(&again.0), bits(&y), "{what}");
                        assert_eq!(bits(&again.1), bits(&state), "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_recurrence_follows_the_formula_in_every_lane() {
        check::<f32, f32>();
        check::<f64, f64>();
        check::<f32, bf16>();
    }
}
