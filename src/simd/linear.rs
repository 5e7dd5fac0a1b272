//! The product of rows with packed weights.
//!
//! Weights lie in panels of [`panel_width`] columns, each panel k-major: `[panel][k][column]`, and bf16 in pairs,
//! `[panel][k / 2][column][2]`, as the instructions that multiply pairs read them. Every output element is
//! `bias + Σ_k x_k w_k`, summed in the one order k = 0, 1, 2, … into one accumulator, whatever the number of rows,
//! the tile or the block of k: that is why a step has the bits of a forward.
//!
//! With AMX or AVX512-BF16 every product with weights of bf16 adds pairs, for one row as for many, and its x is rounded
//! to bf16. Everywhere else weights are widened and x is multiplied as it is.

use std::ops::Range;

use half::bf16;
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, s};

use super::math::Constants;
use super::{Isa, Kernel, Real, Simd, Storage};
use crate::ops::{CHANNEL_BLOCK, padded};
use crate::tensor::Element;

/// Vectors side by side in a panel.
const PANEL_VECTORS: usize = 2;
/// Steps of k after which the kernel moves on to the next panel, so that a block of one stays in L1.
const K_BLOCK: usize = 16 * CHANNEL_BLOCK;
/// Columns of the widest panel of any instruction set.
pub const MAX_PANEL: usize = 32;
/// Elements of the largest tile of any instruction set.
const MAX_TILE: usize = 12 * MAX_PANEL;

/// Columns of a panel with the instructions of `isa`.
pub fn panel_width<T: Real>(isa: Isa) -> usize {
    PANEL_VECTORS * T::lanes(isa)
}

/// What is multiplied: a matrix of tokens in one of the two layouts, or what [`Pack`] made of it.
#[derive(Clone, Copy)]
pub enum Input<'a, T> {
    /// (rows, columns)
    Rows(ArrayView2<'a, T>),
    /// (blocks of channels, rows, channels of a block)
    Blocks(ArrayView3<'a, T>),
    /// (blocks of steps of k, rows, steps of a block), each two narrow values in the bits of a `T`
    Packed(ArrayView3<'a, T>),
}

/// Where the product goes: a matrix of tokens in one of the two layouts.
pub enum Output<'a, T> {
    /// (rows, columns)
    Rows(ArrayViewMut2<'a, T>),
    /// (blocks of channels, rows, channels of a block)
    Blocks(ArrayViewMut3<'a, T>),
}

/// Either layout: element (row, column) lies at `row · row_stride + column / 16 · block_stride + column % 16`.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub block_stride: usize,
}

impl Layout {
    fn of_rows((rows, columns): (usize, usize), strides: &[isize]) -> Self {
        assert!(columns < 2 || strides[1] == 1);
        assert!(rows < 2 || strides[0] >= 0);
        Layout { rows, columns, row_stride: strides[0] as usize, block_stride: CHANNEL_BLOCK }
    }

    fn of_blocks((blocks, rows, channels): (usize, usize, usize), strides: &[isize]) -> Self {
        assert_eq!((channels, strides[2]), (CHANNEL_BLOCK, 1));
        assert!(strides[0] >= 0 && strides[1] >= 0);
        Layout {
            rows,
            columns: blocks * CHANNEL_BLOCK,
            row_stride: strides[1] as usize,
            block_stride: strides[0] as usize,
        }
    }

    /// Where column `column` begins.
    #[inline(always)]
    pub fn column(&self, column: usize) -> usize {
        column / CHANNEL_BLOCK * self.block_stride + column % CHANNEL_BLOCK
    }
}

impl<T: Copy> Input<'_, T> {
    fn layout(&self) -> Layout {
        match self {
            Input::Rows(x) => Layout::of_rows(x.dim(), x.strides()),
            Input::Blocks(x) | Input::Packed(x) => Layout::of_blocks(x.dim(), x.strides()),
        }
    }

    pub(super) fn as_ptr(&self) -> *const T {
        match self {
            Input::Rows(x) => x.as_ptr(),
            Input::Blocks(x) | Input::Packed(x) => x.as_ptr(),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.layout().rows
    }

    /// Some of the rows.
    pub fn part(&self, rows: Range<usize>) -> Input<'_, T> {
        match self {
            Input::Rows(x) => Input::Rows(x.slice(s![rows, ..])),
            Input::Blocks(x) => Input::Blocks(x.slice(s![.., rows, ..])),
            Input::Packed(x) => Input::Packed(x.slice(s![.., rows, ..])),
        }
    }
}

impl<T> Output<'_, T> {
    fn layout(&self) -> Layout {
        match self {
            Output::Rows(out) => Layout::of_rows(out.dim(), out.strides()),
            Output::Blocks(out) => Layout::of_blocks(out.dim(), out.strides()),
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        match self {
            Output::Rows(out) => out.as_mut_ptr(),
            Output::Blocks(out) => out.as_mut_ptr(),
        }
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.layout().columns
    }
}

/// Steps of k that a group of `len` columns takes in a panel: pairs fill whole blocks of 16, the last ones with zeros.
pub fn slots<W: Storage>(len: usize) -> usize {
    if W::STEPS == 1 { len } else { padded(len.div_ceil(W::STEPS)) * W::STEPS }
}

/// Some blocks of packed rows: the columns that are multiplied, rounded to the storage type, each group filled up with
/// zeros to whole blocks.
pub struct Pack<'x, 'o, W: Storage> {
    /// Rows of input.
    pub x: Input<'x, W::Real>,
    /// Columns of a group.
    pub group_len: usize,
    /// Columns between the starts of two groups, whole blocks.
    pub group_stride: usize,
    /// The first block.
    pub first: usize,
    /// (blocks, rows, steps of a block), `STEPS` values in the bits of each.
    pub out: &'o mut [W::Real],
}

impl<W: Storage> Kernel<W::Real> for Pack<'_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<W::Real>>(self, s: S) {
        /// Few enough for reading rows that lie apart, enough for writing blocks.
        const TOGETHER: usize = 16;
        let block_len = CHANNEL_BLOCK * W::STEPS;
        let (layout, x) = (self.x.layout(), self.x.as_ptr());
        let group_blocks = slots::<W>(self.group_len) / block_len;
        let blocks = self.out.len().checked_div(layout.rows * CHANNEL_BLOCK).unwrap_or(0);
        let last_group = (self.first + blocks).div_ceil(group_blocks).max(1) - 1;
        assert!(last_group == 0 || self.group_stride.is_multiple_of(CHANNEL_BLOCK));
        assert!(last_group * self.group_stride + self.group_len <= layout.columns);
        let out: *mut W = self.out.as_mut_ptr().cast();
        for rows in (0..layout.rows).step_by(TOGETHER) {
            for block in 0..blocks {
                let (group, place) =
                    ((self.first + block) / group_blocks, (self.first + block) % group_blocks);
                let column = group * self.group_stride + place * block_len;
                let len = block_len.min(self.group_len - place * block_len);
                for row in rows..layout.rows.min(rows + TOGETHER) {
                    // SAFETY: the columns are those of the input by the assertions, a vector of them stays in its
                    // block, and the rows of `blocks` blocks are in `out`.
                    unsafe {
                        let out = out.add((block * layout.rows + row) * block_len);
                        let x = |from: usize| x.add(row * layout.row_stride + layout.column(column + from));
                        let mut from = 0;
                        while from + S::LANES <= len {
                            W::store(s, out.add(from), s.load(x(from)));
                            from += S::LANES;
                        }
                        for from in from..block_len {
                            out.add(from).write(if from < len { (*x(from)).convert() } else { W::default() });
                        }
                    }
                }
            }
        }
    }
}

/// How the steps of a block of k are added to a sum.
pub trait Step<T: Real, S: Simd<T>>: Copy {
    /// What a sum is within the block.
    type Sum: Copy;
    /// Before the first step.
    fn begin(self, s: S, sum: S::V) -> Self::Sum;
    /// `sum + x · weights`
    fn add(self, s: S, x: S::V, weights: S::V, sum: Self::Sum) -> Self::Sum;
    /// After the last step.
    fn end(self, s: S, sum: Self::Sum) -> S::V;
}

/// One product in each lane.
#[derive(Clone, Copy)]
struct Single;

impl<T: Real, S: Simd<T>> Step<T, S> for Single {
    type Sum = S::V;
    #[inline(always)]
    fn begin(self, _: S, sum: S::V) -> S::V {
        sum
    }
    #[inline(always)]
    fn add(self, s: S, x: S::V, weights: S::V, sum: S::V) -> S::V {
        s.fma(x, weights, sum)
    }
    #[inline(always)]
    fn end(self, _: S, sum: S::V) -> S::V {
        sum
    }
}

/// `out = bias + x · weights`, for the columns of whole panels.
pub struct Product<'x, 'w, 'o, W: Storage> {
    /// Rows of input; `groups` groups of `group_len` columns, `group_stride` apart, are multiplied.
    pub x: Input<'x, W::Real>,
    /// Number of groups of input columns.
    pub groups: usize,
    /// Columns of a group.
    pub group_len: usize,
    /// Columns between the starts of two groups, whole blocks.
    pub group_stride: usize,
    /// Panels of `groups` · `slots(group_len)` steps of k, starting with the panel of `out`'s first column.
    pub panels: &'w [W],
    /// A value for each column of the panels.
    pub bias: &'w [W::Real],
    /// Rows of output; the last panel may be wider than what is left.
    pub out: Output<'o, W::Real>,
}

impl<W: Storage> Kernel<W::Real> for Product<'_, '_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<W::Real>>(self, s: S) {
        assert!(!matches!(self.x, Input::Packed(_)));
        self.run_steps(s, Single);
    }
}

impl<'x, 'w, 'o> Product<'x, 'w, 'o, bf16> {
    /// The same of packed rows, as a product of f32 each of which is a pair.
    pub fn pairs(self) -> Product<'x, 'w, 'o, f32> {
        let Input::Packed(x) = self.x else { panic!("a product of pairs takes packed rows") };
        // SAFETY: an f32 may have any bits.
        let (before, panels, _) = unsafe { self.panels.align_to() };
        assert!(before.is_empty());
        // Packed, the groups lie end to end.
        let k = self.groups * slots::<bf16>(self.group_len) / 2;
        let (bias, out) = (self.bias, self.out);
        Product { x: Input::Blocks(x), groups: 1, group_len: k, group_stride: k, panels, bias, out }
    }
}

impl<W: Storage> Product<'_, '_, '_, W> {
    /// The layouts of x and out: every row, column and panel `width` wide that they and the groups speak of is inside
    /// its array.
    #[inline(always)]
    pub(super) fn layouts(&self, width: usize) -> (Layout, Layout) {
        let (x, out) = (self.x.layout(), self.out.layout());
        let k = self.groups * slots::<W>(self.group_len);
        let panels = out.columns.div_ceil(width);
        assert_eq!(x.rows, out.rows);
        assert!(self.groups < 2 || self.group_stride.is_multiple_of(CHANNEL_BLOCK));
        assert!(self.groups == 0 || (self.groups - 1) * self.group_stride + self.group_len <= x.columns);
        assert!(self.panels.len() >= panels * k * width && self.bias.len() >= panels * width);
        (x, out)
    }

    /// The product whose steps are `step`'s.
    #[inline(always)]
    pub fn run_steps<S: Simd<W::Real>>(mut self, s: S, step: impl Step<W::Real, S>) {
        let width = PANEL_VECTORS * S::LANES;
        let (x, out) = self.layouts(width);
        let k = self.groups * slots::<W>(self.group_len);
        let (from, to) = (self.x.as_ptr(), self.out.as_mut_ptr());

        for group in 0..self.groups {
            for start in (0..self.group_len).step_by(K_BLOCK) {
                let before = group * slots::<W>(self.group_len) + start;
                // SAFETY: the assertions above keep every row, column and panel inside its array.
                unsafe {
                    let block = Block {
                        x: from.add(x.column(group * self.group_stride + start)),
                        x_layout: x,
                        k: K_BLOCK.min(self.group_len - start),
                        panels: self.panels.as_ptr().add(before * width),
                        panel_stride: k * width,
                        bias: if before == 0 { Some(self.bias.as_ptr()) } else { None },
                        out: to,
                        out_layout: out,
                    };
                    block.run(s, step);
                }
            }
        }
    }
}

/// The part of a [`Product`] for one block of k: sums start from the bias in the first, and from what the
/// last one left in the others.
#[derive(Clone, Copy)]
struct Block<W: Storage> {
    x: *const W::Real,
    x_layout: Layout,
    k: usize,
    panels: *const W,
    panel_stride: usize,
    bias: Option<*const W::Real>,
    out: *mut W::Real,
    out_layout: Layout,
}

impl<W: Storage> Block<W> {
    #[inline(always)]
    unsafe fn run<S: Simd<W::Real>>(self, s: S, step: impl Step<W::Real, S>) {
        let width = PANEL_VECTORS * S::LANES;
        let Layout { rows, columns, .. } = self.out_layout;
        let (whole, rest) = (columns / width, columns % width);
        // SAFETY: as for the product; each call stays inside the rows and columns of the layouts.
        unsafe {
            let mut panel = 0;
            // Few rows leave registers free: several panels at once hide the latency of the sums.
            if rows <= 2 {
                while panel + 4 <= whole {
                    self.at_panel(panel, width).rows::<S, 4>(s, step, rows);
                    panel += 4;
                }
            }
            while panel < whole {
                self.at_panel(panel, width).rows::<S, 1>(s, step, rows);
                panel += 1;
            }
            if rest > 0 {
                self.at_panel(panel, width).narrow(s, step, rows, rest);
            }
        }
    }

    #[inline(always)]
    unsafe fn at_panel(self, panel: usize, width: usize) -> Self {
        // SAFETY: the caller's panel exists.
        unsafe {
            Block {
                panels: self.panels.add(panel * self.panel_stride),
                bias: self.bias.map(|bias| bias.add(panel * width)),
                out: self.out.add(self.out_layout.column(panel * width)),
                ..self
            }
        }
    }

    #[inline(always)]
    unsafe fn at_row(self, row: usize) -> Self {
        // SAFETY: the caller's row exists.
        unsafe {
            Block {
                x: self.x.add(row * self.x_layout.row_stride),
                out: self.out.add(row * self.out_layout.row_stride),
                ..self
            }
        }
    }

    /// All rows of `P` whole panels.
    #[inline(always)]
    unsafe fn rows<S: Simd<W::Real>, const P: usize>(self, s: S, step: impl Step<W::Real, S>, rows: usize) {
        // SAFETY: as for the block.
        unsafe {
            let mut row = 0;
            // A pair of weights takes the registers of more rows where there are few.
            while P == 1 && S::TILE_ROWS == 12 && row + 12 <= rows {
                self.at_row(row).tile::<S, 12, P>(s, step);
                row += 12;
            }
            while P == 1 && S::TILE_ROWS == 6 && W::STEPS == 1 && row + 6 <= rows {
                self.at_row(row).tile::<S, 6, P>(s, step);
                row += 6;
            }
            while P == 1 && row + 4 <= rows {
                self.at_row(row).tile::<S, 4, P>(s, step);
                row += 4;
            }
            while row + 2 <= rows {
                self.at_row(row).tile::<S, 2, P>(s, step);
                row += 2;
            }
            if row < rows {
                self.at_row(row).tile::<S, 1, P>(s, step);
            }
        }
    }

    /// All rows of the last panel, of which only `columns` exist in the output.
    #[inline(always)]
    unsafe fn narrow<S: Simd<W::Real>>(self, s: S, step: impl Step<W::Real, S>, rows: usize, columns: usize) {
        let width = PANEL_VECTORS * S::LANES;
        let tile_rows = MAX_TILE / width;
        let mut tile = [W::Real::ZERO; MAX_TILE];
        // SAFETY: as for the block; the tile holds `tile_rows` whole rows.
        unsafe {
            let mut row = 0;
            while row < rows {
                let count = tile_rows.min(rows - row);
                let here = self.at_row(row);
                let at = |r: usize, c: usize| r * self.out_layout.row_stride + self.out_layout.column(c);
                if self.bias.is_none() {
                    for r in 0..count {
                        for c in 0..columns {
                            tile[r * width + c] = *here.out.add(at(r, c));
                        }
                    }
                }
                let whole =
                    Layout { rows: count, columns: width, row_stride: width, block_stride: CHANNEL_BLOCK };
                Block { out: tile.as_mut_ptr(), out_layout: whole, ..here }.rows::<S, 1>(s, step, count);
                for r in 0..count {
                    for c in 0..columns {
                        *here.out.add(at(r, c)) = tile[r * width + c];
                    }
                }
                row += count;
            }
        }
    }

    /// `R` rows of `P` panels, all sums in registers.
    #[inline(always)]
    unsafe fn tile<S: Simd<W::Real>, const R: usize, const P: usize>(
        self,
        s: S,
        step: impl Step<W::Real, S>,
    ) {
        let width = PANEL_VECTORS * S::LANES;
        let mut sums = [[[s.splat(W::Real::ZERO); PANEL_VECTORS]; P]; R];
        // SAFETY: as for the block: `R` rows and `P` panels exist.
        unsafe {
            for r in 0..R {
                for p in 0..P {
                    for v in 0..PANEL_VECTORS {
                        let column = p * width + v * S::LANES;
                        sums[r][p][v] = s.load(match self.bias {
                            Some(bias) => bias.add(column),
                            None => {
                                self.out.add(r * self.out_layout.row_stride + self.out_layout.column(column))
                            }
                        });
                    }
                }
            }
            let mut panels = self.panels;
            let mut x = self.x;
            let mut left = self.k;
            while left > 0 {
                let len = left.min(CHANNEL_BLOCK);
                let mut partial = [[[step.begin(s, s.splat(W::Real::ZERO)); PANEL_VECTORS]; P]; R];
                for r in 0..R {
                    for p in 0..P {
                        for v in 0..PANEL_VECTORS {
                            partial[r][p][v] = step.begin(s, sums[r][p][v]);
                        }
                    }
                }
                for j in (0..len).step_by(W::STEPS) {
                    for i in 0..W::STEPS {
                        if i > 0 && j + i == len {
                            break;
                        }
                        let mut weights = [[s.splat(W::Real::ZERO); PANEL_VECTORS]; P];
                        for p in 0..P {
                            for v in 0..PANEL_VECTORS {
                                let at = p * self.panel_stride + v * S::LANES * W::STEPS;
                                weights[p][v] = W::load_step(s, panels.add(at), i);
                            }
                        }
                        for r in 0..R {
                            let x = s.splat(*x.add(r * self.x_layout.row_stride + j + i));
                            for p in 0..P {
                                for v in 0..PANEL_VECTORS {
                                    partial[r][p][v] = step.add(s, x, weights[p][v], partial[r][p][v]);
                                }
                            }
                        }
                    }
                    panels = panels.add(width * W::STEPS);
                }
                for r in 0..R {
                    for p in 0..P {
                        for v in 0..PANEL_VECTORS {
                            sums[r][p][v] = step.end(s, partial[r][p][v]);
                        }
                    }
                }
                left -= len;
                if left > 0 {
                    x = x.add(self.x_layout.block_stride);
                }
            }
            for r in 0..R {
                for p in 0..P {
                    for v in 0..PANEL_VECTORS {
                        let column = self.out_layout.column(p * width + v * S::LANES);
                        s.store(self.out.add(r * self.out_layout.row_stride + column), sums[r][p][v]);
                    }
                }
            }
        }
    }
}
