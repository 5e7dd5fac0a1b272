//! Dilated causal depthwise convolutions with their activation and gate, in one pass over the input.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut3};

use super::{Kernel, Real, Simd, math};

/// Vectors that are computed side by side.
const UNROLL: usize = 4;
/// Channels that are taken through all tokens before the next, so that their weights stay in L1.
const CHANNEL_TILE: usize = 64;

/// `gate_i · silu(Σ_j w_i[j] · x[t − (W−1−j)·d_i] + b_i)` for every branch i, row t and channel of a range.
/// All arrays are cut to the same channels, a multiple of [`crate::ops::CHANNEL_BLOCK`].
pub struct Branches<'a, T> {
    /// The input rows, oldest first.
    pub current: ArrayView2<'a, T>,
    /// The rows before them, in a ring: the newest is row `newest`, the one before it a row up, and so on.
    pub past: ArrayView2<'a, T>,
    /// Where in `past` the newest row is.
    pub newest: usize,
    /// (branches, taps, channels)
    pub weight: ArrayView3<'a, T>,
    /// (branches, channels)
    pub bias: ArrayView2<'a, T>,
    /// One factor a branch.
    pub gates: &'a [T],
    /// One dilation a branch; `(taps − 1) · dilation` rows of `past` are read at most.
    pub dilations: &'a [usize],
    /// (rows, 1, channels) for the sum of the branches, or (rows, branches, channels) to keep them apart.
    pub out: ArrayViewMut3<'a, T>,
}

impl<T: Real> Kernel<T> for Branches<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(mut self, s: S) {
        let (rows, channels) = self.current.dim();
        let (branches, taps, _) = self.weight.dim();
        assert_eq!(self.weight.dim().2, channels);
        assert_eq!(self.bias.dim(), (branches, channels));
        assert_eq!(self.past.ncols(), channels);
        assert_eq!(channels % (UNROLL * S::LANES).min(16), 0);
        assert_eq!((self.gates.len(), self.dilations.len()), (branches, branches));
        assert!(self.dilations.iter().all(|d| (taps - 1) * d <= self.past.nrows()));
        assert!(self.newest < self.past.nrows() || self.past.nrows() == 0);
        let apart = self.out.dim().1 > 1;
        assert_eq!(self.out.dim(), (rows, if apart { branches } else { 1 }, channels));
        for strides in [self.current.strides(), self.past.strides(), self.bias.strides()] {
            assert!(channels < 2 || strides[1] == 1);
            assert!(strides[0] >= 0);
        }
        for strides in [self.weight.strides(), self.out.strides()] {
            assert!(channels < 2 || strides[2] == 1);
            assert!(strides.iter().all(|&n| n >= 0));
        }

        for start in (0..channels).step_by(CHANNEL_TILE) {
            let end = channels.min(start + CHANNEL_TILE);
            for t in 0..rows {
                let mut c = start;
                // SAFETY: the assertions above hold every row and channel inside its array.
                unsafe {
                    while c + UNROLL * S::LANES <= end {
                        self.token::<S, UNROLL>(s, t, c, apart);
                        c += UNROLL * S::LANES;
                    }
                    while c < end {
                        self.token::<S, 1>(s, t, c, apart);
                        c += S::LANES;
                    }
                }
            }
        }
    }
}

impl<T: Real> Branches<'_, T> {
    /// Row `t`, `U` vectors of channels from `c`.
    #[inline(always)]
    unsafe fn token<S: Simd<T>, const U: usize>(&mut self, s: S, t: usize, c: usize, apart: bool) {
        let (branches, taps, _) = self.weight.dim();
        let mut total = [s.splat(T::ZERO); U];
        // SAFETY: the caller's promise: `c + U · LANES` channels and row `t` exist in every array.
        unsafe {
            let out = self.out.as_mut_ptr().add(t * self.out.strides()[0] as usize + c);
            let branch_step = self.out.strides()[1] as usize;
            for i in 0..branches {
                let bias = self.bias.as_ptr().add(i * self.bias.strides()[0] as usize + c);
                let mut v = [s.splat(T::ZERO); U];
                for (u, v) in v.iter_mut().enumerate() {
                    *v = s.load(bias.add(u * S::LANES));
                }
                for j in 0..taps {
                    let x = self.row((taps - 1 - j) * self.dilations[i], t).add(c);
                    let weight = self.weight.as_ptr().add(
                        i * self.weight.strides()[0] as usize + j * self.weight.strides()[1] as usize + c,
                    );
                    for (u, v) in v.iter_mut().enumerate() {
                        *v = s.fma(s.load(weight.add(u * S::LANES)), s.load(x.add(u * S::LANES)), *v);
                    }
                }
                let gate = s.splat(self.gates[i]);
                for u in 0..U {
                    let active = math::silu(s, v[u]);
                    if !apart {
                        total[u] = s.fma(gate, active, total[u]);
                    } else {
                        s.store(out.add(i * branch_step + u * S::LANES), s.mul(gate, active));
                    }
                }
            }
            if !apart {
                for (u, &total) in total.iter().enumerate() {
                    s.store(out.add(u * S::LANES), total);
                }
            }
        }
    }

    /// The input `lag` rows before row `t`: a row of this call, or of the ring.
    #[inline(always)]
    unsafe fn row(&self, lag: usize, t: usize) -> *const T {
        // SAFETY: `lag` is at most the length of the ring, so both cases stay inside their array.
        unsafe {
            if lag <= t {
                self.current.as_ptr().add((t - lag) * self.current.strides()[0] as usize)
            } else {
                let age = lag - t - 1;
                let row = if age <= self.newest {
                    self.newest - age
                } else {
                    self.newest + self.past.nrows() - age
                };
                self.past.as_ptr().add(row * self.past.strides()[0] as usize)
            }
        }
    }
}
