//! The selective scan: softplus, decay, update, output, skip and gate of a block of channels in one pass.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{Kernel, Real, Simd, math};
use crate::ops::CHANNEL_BLOCK;

/// For every row t and channel of a range, with the state s carried from row to row:
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
    /// `[block of channels][state][channel]`: A · log2(e).
    pub a: &'a [T],
    /// A value for each channel.
    pub delta_bias: &'a [T],
    /// D: a value for each channel.
    pub skip: &'a [T],
    /// `[block of channels][state][channel]`: the state, read and left as it is after the last row.
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
        assert_eq!(V * S::LANES, CHANNEL_BLOCK);
        let (rows, channels) = self.u.dim();
        let states = self.b.ncols();
        assert_eq!(channels % CHANNEL_BLOCK, 0);
        assert_eq!(
            (self.delta.dim(), self.z.dim(), self.y.dim()),
            (self.u.dim(), self.u.dim(), self.u.dim())
        );
        assert_eq!((self.b.dim(), self.c.dim()), ((rows, states), (rows, states)));
        assert_eq!((self.a.len(), self.state.len()), (channels * states, channels * states));
        assert_eq!((self.delta_bias.len(), self.skip.len()), (channels, channels));
        let strides = [
            self.u.strides(),
            self.delta.strides(),
            self.z.strides(),
            self.b.strides(),
            self.c.strides(),
            self.y.strides(),
        ];
        for (i, stride) in strides.iter().enumerate() {
            let columns = if i == 3 || i == 4 { states } else { channels };
            assert!(rows == 0 || columns < 2 || stride[1] == 1);
            assert!(rows < 2 || stride[0] >= 0);
        }
        let [u_step, delta_step, z_step, b_step, c_step, y_step] = strides.map(|stride| stride[0] as usize);

        for block in 0..channels / CHANNEL_BLOCK {
            let first = block * CHANNEL_BLOCK;
            // SAFETY: the assertions above keep every row, channel and state inside its array.
            unsafe {
                let a = self.a.as_ptr().add(first * states);
                let state = self.state.as_mut_ptr().add(first * states);
                let mut skip = [s.splat(T::ZERO); V];
                let mut delta_bias = skip;
                for v in 0..V {
                    skip[v] = s.load(self.skip.as_ptr().add(first + v * S::LANES));
                    delta_bias[v] = s.load(self.delta_bias.as_ptr().add(first + v * S::LANES));
                }
                for t in 0..rows {
                    let b = self.b.as_ptr().add(t * b_step);
                    let c = self.c.as_ptr().add(t * c_step);
                    let mut y = [s.splat(T::ZERO); V];
                    let (mut u, mut delta, mut delta_u) = (y, y, y);
                    for v in 0..V {
                        let at = first + v * S::LANES;
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
                        let at = first + v * S::LANES;
                        let z = s.load(self.z.as_ptr().add(t * z_step + at));
                        let gated = s.mul(s.fma(skip[v], u[v], y[v]), math::silu(s, z));
                        s.store(self.y.as_mut_ptr().add(t * y_step + at), gated);
                    }
                }
            }
        }
    }
}
