//! Dilated causal depthwise convolutions with their activation and gate, in one pass over the input.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut3};

use super::{Kernel, Real, Simd, math};
use crate::ops::CHANNEL_BLOCK;

/// Rows that go through all branches before the next ones do, few enough to stay in L1.
const TILE_ROWS: usize = 64;

/// `gate_i · silu(Σ_j w_i[j] · x[t − (W−1−j)·d_i] + b_i)` for every branch i and row t of one block of channels.
pub struct Branches<'a, T> {
    /// (rows, channels): the input, oldest first.
    pub current: ArrayView2<'a, T>,
    /// (rows, channels): the rows before them, in a ring: the newest is row `newest`, the one before it a row
    /// up, and so on.
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
    /// (1, rows, channels) for the sum of the branches, or (branches, rows, channels) to keep them apart.
    pub out: ArrayViewMut3<'a, T>,
}

/// One branch of them, and where it goes.
#[derive(Clone, Copy)]
struct Branch<T, V> {
    taps: usize,
    dilation: usize,
    weight: *const T,
    weight_step: usize,
    bias: *const T,
    gate: V,
    /// Whether it is added to what is there.
    adds: bool,
    out: *mut T,
    out_step: usize,
}

impl<T: Real> Kernel<T> for Branches<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, s: S) {
        // One arm per number of vectors in a block of channels.
        match CHANNEL_BLOCK / S::LANES {
            1 => self.vectors::<S, 1>(s),
            2 => self.vectors::<S, 2>(s),
            4 => self.vectors::<S, 4>(s),
            _ => self.vectors::<S, 8>(s),
        }
    }
}

impl<T: Real> Branches<'_, T> {
    #[inline(always)]
    fn vectors<S: Simd<T>, const V: usize>(mut self, s: S) {
        let (branches, taps, channels) = self.weight.dim();
        let rows = self.current.nrows();
        let apart = self.out.dim().0 > 1;
        assert_eq!((V * S::LANES, channels), (CHANNEL_BLOCK, CHANNEL_BLOCK));
        assert_eq!((self.current.ncols(), self.past.ncols()), (channels, channels));
        assert_eq!(self.bias.dim(), (branches, channels));
        assert_eq!((self.gates.len(), self.dilations.len()), (branches, branches));
        assert!(self.dilations.iter().all(|d| (taps - 1) * d <= self.past.nrows()));
        assert!(self.newest < self.past.nrows());
        assert_eq!(self.out.dim(), (if apart { branches } else { 1 }, rows, channels));
        for strides in [self.current.strides(), self.past.strides(), self.bias.strides()] {
            assert!(strides[1] == 1 && strides[0] >= 0);
        }
        for strides in [self.weight.strides(), self.out.strides()] {
            assert!(strides[2] == 1 && strides.iter().all(|&n| n >= 0));
        }
        let out_strides = [self.out.strides()[0] as usize, self.out.strides()[1] as usize];
        let weight_strides = [self.weight.strides()[0] as usize, self.weight.strides()[1] as usize];
        let bias_stride = self.bias.strides()[0] as usize;

        for start in (0..rows).step_by(TILE_ROWS) {
            let tile = start..rows.min(start + TILE_ROWS);
            for i in 0..branches {
                // SAFETY: the assertions above hold every branch, tap and row inside its array.
                unsafe {
                    let branch = Branch {
                        taps,
                        dilation: self.dilations[i],
                        weight: self.weight.as_ptr().add(i * weight_strides[0]),
                        weight_step: weight_strides[1],
                        bias: self.bias.as_ptr().add(i * bias_stride),
                        gate: s.splat(self.gates[i]),
                        adds: !apart && i > 0,
                        out: self.out.as_mut_ptr().add(if apart { i * out_strides[0] } else { 0 }),
                        out_step: out_strides[1],
                    };
                    self.branch::<S, V>(s, branch, tile.clone());
                }
            }
        }
    }

    /// One branch at some rows.
    #[inline(always)]
    unsafe fn branch<S: Simd<T>, const V: usize>(&self, s: S, b: Branch<T, S::V>, rows: Range<usize>) {
        let step = self.current.strides()[0] as usize;
        let reach = (b.taps - 1) * b.dilation;
        // SAFETY: the caller's promise: the branch, its taps and the rows exist, for `V` vectors of channels.
        unsafe {
            for t in rows {
                let mut sums = [s.splat(T::ZERO); V];
                for v in 0..V {
                    sums[v] = s.load(b.bias.add(v * S::LANES));
                }
                let mut tap = |j: usize, x: *const T| {
                    for v in 0..V {
                        let weight = s.load(b.weight.add(j * b.weight_step + v * S::LANES));
                        sums[v] = s.fma(weight, s.load(x.add(v * S::LANES)), sums[v]);
                    }
                };
                if t >= reach {
                    let oldest = self.current.as_ptr().add((t - reach) * step);
                    for j in 0..b.taps {
                        tap(j, oldest.add(j * b.dilation * step));
                    }
                } else {
                    for j in 0..b.taps {
                        tap(j, self.row((b.taps - 1 - j) * b.dilation, t));
                    }
                }
                for v in 0..V {
                    let out = b.out.add(t * b.out_step + v * S::LANES);
                    let before = if b.adds { s.load(out) } else { s.splat(T::ZERO) };
                    s.store(out, s.fma(b.gate, math::silu(s, sums[v]), before));
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
