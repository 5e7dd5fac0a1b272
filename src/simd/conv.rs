//! Dilated causal depthwise convolutions with their activation and gate, in one pass over the input.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut3};

use super::math::Functions;
use super::segment::{Segment, ring_row, rows_of};
use super::{BlockKernel, Kernel, Many, Real, Simd, Storage};
use crate::ops::CHANNEL_BLOCK;

/// Rows that go through all branches before the next ones do, few enough to stay in L1.
const TILE_ROWS: usize = 64;

/// `gate_i · silu(Σ_j w_i[j] · x[t − (W−1−j)·d_i] + b_i)` for every branch i and row t of one block of channels; after
/// that the history has the last rows.
pub struct Branches<'a, W: Storage> {
    /// The sequences, one after the other: which rows and which lane.
    pub segments: &'a [Segment],
    /// (rows, channels): the input, oldest first.
    pub current: ArrayView2<'a, W::Real>,
    /// (lanes, ring, channels): the rows before them, in rings, token i of a sequence at i modulo the ring's length.
    pub history: ArrayViewMut3<'a, W::Real>,
    /// (branches, taps, channels)
    pub weight: ArrayView3<'a, W::Real>,
    /// (branches, channels)
    pub bias: ArrayView2<'a, W::Real>,
    /// One factor a branch.
    pub gates: &'a [W::Real],
    /// One dilation a branch; `(taps − 1) · dilation` rows of a ring are read at most.
    pub dilations: &'a [usize],
    /// (1, rows, channels) for the sum of the branches, or (branches, rows, channels) to keep them apart.
    pub out: ArrayViewMut3<'a, W::Real>,
}

impl<W: Storage> Kernel<W::Real> for Branches<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<W::Real>>(self, s: S) {
        self.run_registers(s);
    }
}

impl<W: Storage> BlockKernel<W::Real> for Branches<'_, W> {
    #[inline(always)]
    fn run_blocks<B: Simd<W::Real>, const G: usize>(mut self, s: B) {
        let (branches, taps, channels) = self.weight.dim();
        let rows = self.current.nrows();
        let apart = self.out.dim().0 > 1;
        assert_eq!((B::LANES, channels), (CHANNEL_BLOCK, CHANNEL_BLOCK));
        let (lanes, ring, _) = self.history.dim();
        assert_eq!((self.current.ncols(), self.history.dim().2), (channels, channels));
        assert_eq!(self.bias.dim(), (branches, channels));
        assert_eq!((self.gates.len(), self.dilations.len()), (branches, branches));
        assert!(self.dilations.iter().all(|d| (taps - 1) * d <= ring) && ring > 0);
        assert_eq!(self.out.dim(), (if apart { branches } else { 1 }, rows, channels));
        assert!(self.current.is_standard_layout());
        assert!(self.weight.is_standard_layout() && self.bias.is_standard_layout());
        let strides = self.history.strides();
        assert!(strides[0] >= 0 && (ring < 2 || strides[1] == channels as isize) && strides[2] == 1);
        let lane_stride = strides[0] as usize;
        let out_strides = self.out.strides();
        assert!(
            out_strides[0] >= 0 && (rows < 2 || out_strides[1] == channels as isize) && out_strides[2] == 1
        );
        let out_stride = if apart { out_strides[0] as usize } else { 0 };
        assert!(rows_of(self.segments, lanes).end <= rows);

        for segment in self.segments {
            // SAFETY: the assertions above hold every lane, branch, tap and row inside its array.
            unsafe {
                let start = segment.rows.start;
                let past = Past {
                    current: self.current.as_ptr().add(start * channels),
                    ring: self.history.as_mut_ptr().add(segment.lane * lane_stride),
                    length: ring,
                    newest: ring_row(segment.offset + ring as u64 - 1, ring),
                };
                for first in segment.rows.clone().step_by(TILE_ROWS) {
                    let tile = first - start..segment.rows.end.min(first + TILE_ROWS) - start;
                    for i in 0..branches {
                        let branch = Branch::<W> {
                            taps,
                            dilation: self.dilations[i],
                            weight: self.weight.as_ptr().add(i * taps * channels),
                            bias: self.bias.as_ptr().add(i * channels),
                            gate: self.gates[i],
                            adds: !apart && i > 0,
                            out: self.out.as_mut_ptr().add(i * out_stride + start * channels),
                        };
                        past.branch::<W, B, G>(s, branch, tile.clone());
                    }
                }
                past.remember(s, segment.rows.len(), segment.offset);
            }
        }
    }
}

/// One branch of them, and where it goes.
#[derive(Clone, Copy)]
struct Branch<W: Storage> {
    taps: usize,
    dilation: usize,
    weight: *const W::Real,
    bias: *const W::Real,
    gate: W::Real,
    /// Whether it is added to what is there.
    adds: bool,
    out: *mut W::Real,
}

/// The rows of one sequence, and those before them.
struct Past<T> {
    /// Its first row of this call.
    current: *const T,
    ring: *mut T,
    length: usize,
    /// Where in the ring the row before `current` is, the one before that a row up, and so on.
    newest: usize,
}

impl<T: Real> Past<T> {
    /// One branch at some rows: one at a time as long as they reach back into the ring, then `G`.
    #[inline(always)]
    unsafe fn branch<W, B, const G: usize>(&self, s: B, branch: Branch<W>, rows: Range<usize>)
    where
        W: Storage<Real = T>,
        B: Simd<T>,
    {
        let Branch { taps, dilation, .. } = branch;
        let reach = (taps - 1) * dilation;
        // SAFETY: the caller's promise: the branch, its taps and the rows exist.
        unsafe {
            let mut t = rows.start;
            while t < rows.end {
                let oldest = self.current.wrapping_add(t.wrapping_sub(reach).wrapping_mul(CHANNEL_BLOCK));
                if t < reach {
                    branch.rows::<B, 1>(s, t, |j| self.row((taps - 1 - j) * dilation, t));
                    t += 1;
                } else if t + G <= rows.end {
                    branch.rows::<B, G>(s, t, |j| oldest.add(j * dilation * CHANNEL_BLOCK));
                    t += G;
                } else {
                    branch.rows::<B, 1>(s, t, |j| oldest.add(j * dilation * CHANNEL_BLOCK));
                    t += 1;
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
                self.current.add((t - lag) * CHANNEL_BLOCK)
            } else {
                let age = lag - t - 1;
                let row =
                    if age <= self.newest { self.newest - age } else { self.newest + self.length - age };
                self.ring.add(row * CHANNEL_BLOCK)
            }
        }
    }

    /// Writes the last of `rows` rows, the inputs of the tokens from `offset`, into the ring.
    #[inline(always)]
    unsafe fn remember<B: Simd<T>>(&self, s: B, rows: usize, offset: u64) {
        let first = rows.saturating_sub(self.length);
        let mut row = ring_row(offset + first as u64, self.length);
        for t in first..rows {
            // SAFETY: the caller's promise: the rows exist, and `row` stays below the ring's length.
            unsafe {
                s.store(self.ring.add(row * CHANNEL_BLOCK), s.load(self.current.add(t * CHANNEL_BLOCK)));
            }
            row = if row + 1 == self.length { 0 } else { row + 1 };
        }
    }
}

impl<T: Real, W: Storage<Real = T>> Branch<W> {
    /// `N` rows from row `t`, where tap `j` of the first reads from `input(j)`, and the others the rows after it.
    #[inline(always)]
    unsafe fn rows<B: Simd<T>, const N: usize>(self, s: B, t: usize, input: impl Fn(usize) -> *const T) {
        let many = Many::<B, N>(s);
        // SAFETY: the caller's promise: the rows and the inputs exist.
        unsafe {
            let mut sums = [s.load(self.bias); N];
            for j in 0..self.taps {
                let weight = [s.load(self.weight.add(j * CHANNEL_BLOCK)); N];
                sums = many.fma(weight, many.load(input(j)), sums);
            }
            let out = self.out.add(t * CHANNEL_BLOCK);
            let before = if self.adds { many.load(out) } else { many.splat(T::ZERO) };
            many.store(out, many.fma(many.splat(self.gate), W::Functions::silu(many, sums), before));
        }
    }
}
