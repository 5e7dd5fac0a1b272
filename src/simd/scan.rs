//! The selective scan: softplus, decay, update, output, skip and gate of a block of channels in one pass.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{Kernel, Real, Simd, math};
use crate::ops::CHANNEL_BLOCK;

/// For every row t of one block of channels, with the state s carried from row to row:
///
/// δ = softplus(delta + delta_bias); s ← 2^(δ·a) ⊙ s + (δ·u)·b; y = (s·c + skip·u) · silu(z)
pub struct Scan<'a, T> {
    /// (rows, channels): the input u.
    pub u: ArrayView2<'a, T>,
    /// (rows, channels): δ before its bias and softplus.
    pub delta: ArrayView2<'a, T>,
    /// (rows, channels): the gate before its activation.
    pub z: ArrayView2<'a, T>,
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
    pub state: &'a mut [T],
    /// (rows, channels): the gated output.
    pub y: ArrayViewMut2<'a, T>,
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
        assert_eq!((self.delta.dim(), self.z.dim(), self.y.dim()), (self.u.dim(), self.u.dim(), self.u.dim()));
        assert_eq!((self.b.dim(), self.c.dim()), ((rows, states), (rows, states)));
        assert_eq!((self.a.len(), self.state.len()), (channels * states, channels * states));
        assert_eq!((self.delta_bias.len(), self.skip.len()), (channels, channels));
        for strides in [self.u.strides(), self.delta.strides(), self.z.strides(), self.y.strides()] {
            assert!(strides[1] == 1 && strides[0] >= 0);
        }
        for strides in [self.b.strides(), self.c.strides()] {
            assert!(states < 2 || strides[1] == 1);
            assert!(strides[0] >= 0);
        }
        let [u_step, delta_step, z_step] =
            [&self.u, &self.delta, &self.z].map(|view| view.strides()[0] as usize);
        let [b_step, c_step] = [&self.b, &self.c].map(|view| view.strides()[0] as usize);
        let y_step = self.y.strides()[0] as usize;

        // SAFETY: the assertions above keep every row, channel and state inside its array.
        unsafe {
            let (a, state) = (self.a.as_ptr(), self.state.as_mut_ptr());
            let mut skip = [s.splat(T::ZERO); V];
            let mut delta_bias = skip;
            for v in 0..V {
                skip[v] = s.load(self.skip.as_ptr().add(v * S::LANES));
                delta_bias[v] = s.load(self.delta_bias.as_ptr().add(v * S::LANES));
            }
            for t in 0..rows {
                let b = self.b.as_ptr().add(t * b_step);
                let c = self.c.as_ptr().add(t * c_step);
                let mut y = [s.splat(T::ZERO); V];
                let (mut u, mut delta, mut delta_u) = (y, y, y);
                for v in 0..V {
                    let at = v * S::LANES;
                    u[v] = s.load(self.u.as_ptr().add(t * u_step + at));
                    delta[v] = s.load(self.delta.as_ptr().add(t * delta_step + at));
                    delta[v] = math::softplus(s, s.add(delta[v], delta_bias[v]));
                    delta_u[v] = s.mul(delta[v], u[v]);
                }
                for n in 0..states {
                    let (b, c) = (s.splat(*b.add(n)), s.splat(*c.add(n)));
                    for v in 0..V {
                        let at = n * CHANNEL_BLOCK + v * S::LANES;
                        let decay = math::exp2_nonpositive(s, s.mul(delta[v], s.load(a.add(at))));
                        let next = s.fma(decay, s.load(state.add(at)), s.mul(delta_u[v], b));
                        s.store(state.add(at), next);
                        y[v] = s.fma(next, c, y[v]);
                    }
                }
                for v in 0..V {
                    let at = v * S::LANES;
                    let z = s.load(self.z.as_ptr().add(t * z_step + at));
                    let gated = s.mul(s.fma(skip[v], u[v], y[v]), math::silu(s, z));
                    s.store(self.y.as_mut_ptr().add(t * y_step + at), gated);
                }
            }
        }
    }
}
