//! The selective scan: softplus, decay, update, output, skip and gate of a block of channels in one pass.

use ndarray::{ArrayView2, ArrayViewMut2, ArrayViewMut3};

use super::math::Functions;
use super::segment::{Segment, rows_of};
use super::{BlockKernel, Kernel, Many, Real, Simd, Storage};
use crate::ops::CHANNEL_BLOCK;

/// Rows whose activations are computed ahead of the recurrence, so that their long chains of operations
/// overlap; few enough to stay in L1 until it comes by.
const TILE_ROWS: usize = 64;

/// For every row t of one block of channels, with the state s of its lane carried from row to row:
///
/// δ = softplus(delta + delta_bias); s ← 2^(δ·a) ⊙ s + (δ·u)·b; y = (s·c + skip·u) · silu(z)
pub struct Scan<'a, W: Storage> {
    /// The sequences, one after the other: which rows and which lane.
    pub segments: &'a [Segment],
    /// (rows, channels): the input u, and in its place the gated output y.
    pub u: ArrayViewMut2<'a, W::Real>,
    /// (rows, channels): δ before its bias and softplus, and after them when done.
    pub delta: ArrayViewMut2<'a, W::Real>,
    /// (rows, channels): the gate before its activation, and after it when done.
    pub z: ArrayViewMut2<'a, W::Real>,
    /// (rows, states): input coefficients B.
    pub b: ArrayView2<'a, W::Real>,
    /// (rows, states): output coefficients C.
    pub c: ArrayView2<'a, W::Real>,
    /// (states, channels): A · log2(e).
    pub a: &'a [W::Real],
    /// A value for each channel.
    pub delta_bias: &'a [W::Real],
    /// D: a value for each channel.
    pub skip: &'a [W::Real],
    /// (lanes, states, channels): the states, read and left as they are after each sequence's last row.
    pub state: ArrayViewMut3<'a, W::Real>,
}

impl<W: Storage> Kernel<W::Real> for Scan<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<W::Real>>(self, s: S) {
        self.run_registers(s);
    }
}

impl<W: Storage> BlockKernel<W::Real> for Scan<'_, W> {
    #[inline(always)]
    fn run_blocks<B: Simd<W::Real>, const G: usize>(mut self, s: B) {
        let (rows, channels) = self.u.dim();
        let (states, lanes) = (self.b.ncols(), self.state.dim().0);
        assert_eq!((B::LANES, channels), (CHANNEL_BLOCK, CHANNEL_BLOCK));
        assert_eq!((self.delta.dim(), self.z.dim()), (self.u.dim(), self.u.dim()));
        assert_eq!((self.b.dim(), self.c.dim()), ((rows, states), (rows, states)));
        assert_eq!((self.a.len(), self.state.dim()), (channels * states, (lanes, states, channels)));
        assert_eq!((self.delta_bias.len(), self.skip.len()), (channels, channels));
        assert!(
            self.u.is_standard_layout() && self.delta.is_standard_layout() && self.z.is_standard_layout()
        );
        let strides = self.state.strides();
        assert!(strides[0] >= 0 && (states < 2 || strides[1] == channels as isize) && strides[2] == 1);
        let lane_stride = strides[0] as usize;
        for strides in [self.b.strides(), self.c.strides()] {
            assert!(states < 2 || strides[1] == 1);
            assert!(strides[0] >= 0);
        }
        let all = rows_of(self.segments, lanes);
        assert!(all.end <= rows);
        let mut segments = self.segments.iter();
        let (mut sequence_end, mut state) = (0, self.state.as_mut_ptr());
        for start in all.clone().step_by(TILE_ROWS) {
            let end = all.end.min(start + TILE_ROWS);
            // SAFETY: the assertions above keep every row, channel, lane and state inside its array.
            unsafe {
                let mut t = start;
                while t + G <= end {
                    self.activate::<B, G>(s, t);
                    t += G;
                }
                while t < end {
                    self.activate::<B, 1>(s, t);
                    t += 1;
                }
                for t in start..end {
                    while t >= sequence_end
                        && let Some(segment) = segments.next()
                    {
                        sequence_end = segment.rows.end;
                        state = self.state.as_mut_ptr().add(segment.lane * lane_stride);
                    }
                    self.recur::<B, G>(s, t, state);
                }
            }
        }
    }
}

impl<T: Real, W: Storage<Real = T>> Scan<'_, W> {
    /// delta ← softplus(delta + delta_bias) and z ← silu(z) of `N` rows from row `t`.
    #[inline(always)]
    unsafe fn activate<B: Simd<T>, const N: usize>(&mut self, s: B, t: usize) {
        let many = Many::<B, N>(s);
        // SAFETY: the caller's promise: the rows exist.
        unsafe {
            let delta = self.delta.as_mut_ptr().add(t * CHANNEL_BLOCK);
            let biased = many.add(many.load(delta), [s.load(self.delta_bias.as_ptr()); N]);
            many.store(delta, W::Functions::softplus(many, biased));
            let z = self.z.as_mut_ptr().add(t * CHANNEL_BLOCK);
            many.store(z, W::Functions::silu(many, many.load(z)));
        }
    }

    /// The recurrence at row `t` of the sequence with this state, and u ← (s·c + skip·u) · z
    #[inline(always)]
    unsafe fn recur<B: Simd<T>, const G: usize>(&mut self, s: B, t: usize, state: *mut T) {
        let states = self.b.ncols();
        let at = t * CHANNEL_BLOCK;
        // SAFETY: the caller's promise: the row exists.
        unsafe {
            let u = s.load(self.u.as_ptr().add(at));
            let delta = s.load(self.delta.as_ptr().add(at));
            let delta_u = s.mul(delta, u);
            // As many sums as states are worked on together.
            let mut sums = [s.splat(T::ZERO); G];
            let mut n = 0;
            while n + G <= states {
                sums = self.advance::<B, G>(s, n, t, state.add(n * CHANNEL_BLOCK), delta, delta_u, sums);
                n += G;
            }
            while n < states {
                let state = state.add(n * CHANNEL_BLOCK);
                [sums[0]] = self.advance::<B, 1>(s, n, t, state, delta, delta_u, [sums[0]]);
                n += 1;
            }
            let mut sum = sums[0];
            for i in 1..G {
                sum = s.add(sum, sums[i]);
            }
            let sum = s.fma(s.load(self.skip.as_ptr()), u, sum);
            s.store(self.u.as_mut_ptr().add(at), s.mul(sum, s.load(self.z.as_ptr().add(at))));
        }
    }

    /// `N` states at `state`, from state `n`, at row `t`: s ← 2^(δ·a)·s + (δ·u)·b, giving sums + s·c
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // registers, all of them
    unsafe fn advance<B: Simd<T>, const N: usize>(
        &self,
        s: B,
        n: usize,
        t: usize,
        state: *mut T,
        delta: B::V,
        delta_u: B::V,
        sums: [B::V; N],
    ) -> [B::V; N] {
        let many = Many::<B, N>(s);
        // SAFETY: the caller's promise: the row and the states exist.
        unsafe {
            let b_row = self.b.as_ptr().add(t * self.b.strides()[0] as usize + n);
            let c_row = self.c.as_ptr().add(t * self.c.strides()[0] as usize + n);
            let (mut b, mut c) = ([delta; N], [delta; N]);
            for i in 0..N {
                b[i] = s.splat(*b_row.add(i));
                c[i] = s.splat(*c_row.add(i));
            }
            let a = many.load(self.a.as_ptr().add(n * CHANNEL_BLOCK));
            let decay = W::Functions::exp2_nonpositive(many, [delta; N], a);
            let next = many.fma(decay, many.load(state), many.mul([delta_u; N], b));
            many.store(state, next);
            many.fma(next, c, sums)
        }
    }
}
