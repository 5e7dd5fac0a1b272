//! The selective scan: softplus, decay, update, output, skip and gate of a block of channels in one pass.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{Kernel, Real, Simd, math};
use crate::ops::CHANNEL_BLOCK;

/// Rows whose activations are computed ahead of the recurrence, so that their long chains of operations
/// overlap; few enough to stay in L1 until it comes by.
const TILE_ROWS: usize = 64;

/// For every row t of one block of channels, with the state s carried from row to row:
///
/// δ = softplus(delta + delta_bias); s ← 2^(δ·a) ⊙ s + (δ·u)·b; y = (s·c + skip·u) · silu(z)
pub struct Scan<'a, T> {
    /// (rows, channels): the input u, and in its place the gated output y.
    pub u: ArrayViewMut2<'a, T>,
    /// (rows, channels): δ before its bias and softplus, and after them when done.
    pub delta: ArrayViewMut2<'a, T>,
    /// (rows, channels): the gate before its activation, and after it when done.
    pub z: ArrayViewMut2<'a, T>,
    /// (rows, states): input coefficients B.
    pub b: ArrayView2<'a, T>,
    /// (rows, states): output coefficients C.
    pub c: ArrayView2<'a, T>,
    /// (states, channels): A · log2(e).
    pub a: &'a [T],
    /// A value for each channel.
    pub delta_bias: &'a [T],
    /// D: a value for each channel.
    pub skip: &'a [T],
    /// (states, channels): the state, read and left as it is after the last row.
    pub state: ArrayViewMut2<'a, T>,
}

impl<T: Real> Kernel<T> for Scan<'_, T> {
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

impl<T: Real> Scan<'_, T> {
    #[inline(always)]
    fn vectors<S: Simd<T>, const V: usize>(mut self, s: S) {
        let (rows, channels) = self.u.dim();
        let states = self.b.ncols();
        assert_eq!((V * S::LANES, channels), (CHANNEL_BLOCK, CHANNEL_BLOCK));
        assert_eq!((self.delta.dim(), self.z.dim()), (self.u.dim(), self.u.dim()));
        assert_eq!((self.b.dim(), self.c.dim()), ((rows, states), (rows, states)));
        assert_eq!((self.a.len(), self.state.dim()), (channels * states, (states, channels)));
        assert!(states < 2 || self.state.strides()[0] == channels as isize);
        assert_eq!((self.delta_bias.len(), self.skip.len()), (channels, channels));
        for strides in [self.u.strides(), self.delta.strides(), self.z.strides()] {
            assert!(strides[1] == 1 && strides[0] >= 0);
        }
        for strides in [self.b.strides(), self.c.strides()] {
            assert!(states < 2 || strides[1] == 1);
            assert!(strides[0] >= 0);
        }
        for start in (0..rows).step_by(TILE_ROWS) {
            let tile = start..rows.min(start + TILE_ROWS);
            // SAFETY: the assertions above keep every row, channel and state inside its array.
            unsafe {
                self.activate::<S, V>(s, tile.clone());
                self.recur::<S, V>(s, tile);
            }
        }
    }

    /// delta ← softplus(delta + delta_bias), z ← silu(z)
    #[inline(always)]
    unsafe fn activate<S: Simd<T>, const V: usize>(&mut self, s: S, rows: Range<usize>) {
        let (delta_step, z_step) = (self.delta.strides()[0] as usize, self.z.strides()[0] as usize);
        // SAFETY: the caller's promise: the rows exist, and `V` vectors of channels.
        unsafe {
            for t in rows {
                for v in 0..V {
                    let at = v * S::LANES;
                    let delta = self.delta.as_mut_ptr().add(t * delta_step + at);
                    let biased = s.add(s.load(delta), s.load(self.delta_bias.as_ptr().add(at)));
                    s.store(delta, math::softplus(s, biased));
                    let z = self.z.as_mut_ptr().add(t * z_step + at);
                    s.store(z, math::silu(s, s.load(z)));
                }
            }
        }
    }

    /// The recurrence, and u ← (s·c + skip·u) · z
    #[inline(always)]
    unsafe fn recur<S: Simd<T>, const V: usize>(&mut self, s: S, rows: Range<usize>) {
        let states = self.b.ncols();
        let (u_step, delta_step) = (self.u.strides()[0] as usize, self.delta.strides()[0] as usize);
        let z_step = self.z.strides()[0] as usize;
        // SAFETY: the caller's promise: the rows exist, `V` vectors of channels, and all states.
        unsafe {
            for t in rows {
                let mut u = [s.splat(T::ZERO); V];
                let (mut delta, mut delta_u) = (u, u);
                for v in 0..V {
                    u[v] = s.load(self.u.as_ptr().add(t * u_step + v * S::LANES));
                    delta[v] = s.load(self.delta.as_ptr().add(t * delta_step + v * S::LANES));
                    delta_u[v] = s.mul(delta[v], u[v]);
                }
                // Two sums, of the even and of the odd states: half the latency.
                let mut sums = [[s.splat(T::ZERO); V]; 2];
                for pair in 0..states / 2 {
                    for (odd, sums) in sums.iter_mut().enumerate() {
                        self.advance(s, 2 * pair + odd, t, delta, delta_u, sums);
                    }
                }
                if states % 2 == 1 {
                    self.advance(s, states - 1, t, delta, delta_u, &mut sums[0]);
                }
                for v in 0..V {
                    let at = v * S::LANES;
                    let skip = s.load(self.skip.as_ptr().add(at));
                    let sum = s.fma(skip, u[v], s.add(sums[0][v], sums[1][v]));
                    let gate = s.load(self.z.as_ptr().add(t * z_step + at));
                    s.store(self.u.as_mut_ptr().add(t * u_step + at), s.mul(sum, gate));
                }
            }
        }
    }

    /// State `n` of every channel at row `t`: s ← 2^(δ·a)·s + (δ·u)·b, sums ← sums + s·c
    #[inline(always)]
    unsafe fn advance<S: Simd<T>, const V: usize>(
        &mut self,
        s: S,
        n: usize,
        t: usize,
        delta: [S::V; V],
        delta_u: [S::V; V],
        sums: &mut [S::V; V],
    ) {
        // SAFETY: the caller's promise: the row and the state exist, for `V` vectors of channels.
        unsafe {
            let b = s.splat(*self.b.as_ptr().add(t * self.b.strides()[0] as usize + n));
            let c = s.splat(*self.c.as_ptr().add(t * self.c.strides()[0] as usize + n));
            for v in 0..V {
                let at = n * CHANNEL_BLOCK + v * S::LANES;
                let state = self.state.as_mut_ptr().add(at);
                let decay = math::exp2_nonpositive(s, delta[v], s.load(self.a.as_ptr().add(at)));
                let next = s.fma(decay, s.load(state), s.mul(delta_u[v], b));
                s.store(state, next);
                sums[v] = s.fma(next, c, sums[v]);
            }
        }
    }
}
