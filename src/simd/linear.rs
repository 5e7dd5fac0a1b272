//! The product of rows with packed weights.
//!
//! Weights lie in panels of [`panel_width`] columns, each panel k-major: `[panel][k][column]`. Every output
//! element is `bias + Σ_k x_k w_k`, summed in the one order k = 0, 1, 2, … into one accumulator, whatever
//! the number of rows, the tile or the block of k: that is why a step has the bits of a forward.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, s};

use super::math::Constants;
use super::{Isa, Kernel, Real, Simd, Storage};
use crate::ops::CHANNEL_BLOCK;

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

/// What is multiplied: a matrix of tokens in one of the two layouts.
#[derive(Clone, Copy)]
pub enum Input<'a, T> {
    /// (rows, columns)
    Rows(ArrayView2<'a, T>),
    /// (blocks of channels, rows, channels of a block)
    Blocks(ArrayView3<'a, T>),
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
struct Layout {
    rows: usize,
    columns: usize,
    row_stride: usize,
    block_stride: usize,
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
    fn column(&self, column: usize) -> usize {
        column / CHANNEL_BLOCK * self.block_stride + column % CHANNEL_BLOCK
    }
}

impl<T: Copy> Input<'_, T> {
    fn layout(&self) -> Layout {
        match self {
            Input::Rows(x) => Layout::of_rows(x.dim(), x.strides()),
            Input::Blocks(x) => Layout::of_blocks(x.dim(), x.strides()),
        }
    }

    fn as_ptr(&self) -> *const T {
        match self {
            Input::Rows(x) => x.as_ptr(),
            Input::Blocks(x) => x.as_ptr(),
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

    fn as_mut_ptr(&mut self) -> *mut T {
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
    /// Panels of `groups · group_len` steps of k, starting with the panel of `out`'s first column.
    pub panels: &'w [W],
    /// A value for each column of the panels.
    pub bias: &'w [W::Real],
    /// Rows of output; the last panel may be wider than what is left.
    pub out: Output<'o, W::Real>,
}

impl<W: Storage> Kernel<W::Real> for Product<'_, '_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<W::Real>>(mut self, s: S) {
        let width = PANEL_VECTORS * S::LANES;
        let (x, out) = (self.x.layout(), self.out.layout());
        let k = self.groups * self.group_len;
        let panels = out.columns.div_ceil(width);
        assert_eq!(x.rows, out.rows);
        assert!(self.groups < 2 || self.group_stride.is_multiple_of(CHANNEL_BLOCK));
        assert!(self.groups == 0 || (self.groups - 1) * self.group_stride + self.group_len <= x.columns);
        assert!(self.panels.len() >= panels * k * width && self.bias.len() >= panels * width);
        let (from, to) = (self.x.as_ptr(), self.out.as_mut_ptr());

        let mut done = 0;
        for group in 0..self.groups {
            for start in (0..self.group_len).step_by(K_BLOCK) {
                let len = K_BLOCK.min(self.group_len - start);
                // SAFETY: the assertions above keep every row, column and panel inside its array.
                unsafe {
                    let block = Block {
                        x: from.add(x.column(group * self.group_stride + start)),
                        x_layout: x,
                        k: len,
                        panels: self.panels.as_ptr().add(done * width),
                        panel_stride: k * width,
                        bias: if done == 0 { Some(self.bias.as_ptr()) } else { None },
                        out: to,
                        out_layout: out,
                    };
                    block.run(s);
                }
                done += len;
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
    unsafe fn run<S: Simd<W::Real>>(self, s: S) {
        let width = PANEL_VECTORS * S::LANES;
        let Layout { rows, columns, .. } = self.out_layout;
        let (whole, rest) = (columns / width, columns % width);
        // SAFETY: as for the product; each call stays inside the rows and columns of the layouts.
        unsafe {
            let mut panel = 0;
            // Few rows leave registers free: several panels at once hide the latency of the sums.
            if rows <= 2 {
                while panel + 4 <= whole {
                    self.at_panel(panel, width).rows::<S, 4>(s, rows);
                    panel += 4;
                }
            }
            while panel < whole {
                self.at_panel(panel, width).rows::<S, 1>(s, rows);
                panel += 1;
            }
            if rest > 0 {
                self.at_panel(panel, width).narrow(s, rows, rest);
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
    unsafe fn rows<S: Simd<W::Real>, const P: usize>(self, s: S, rows: usize) {
        // SAFETY: as for the block.
        unsafe {
            let mut row = 0;
            while P == 1 && row + S::TILE_ROWS <= rows {
                match S::TILE_ROWS {
                    12 => self.at_row(row).tile::<S, 12, P>(s),
                    6 => self.at_row(row).tile::<S, 6, P>(s),
                    _ => self.at_row(row).tile::<S, 4, P>(s),
                }
                row += if matches!(S::TILE_ROWS, 12 | 6) { S::TILE_ROWS } else { 4 };
            }
            while P == 1 && row + 4 <= rows {
                self.at_row(row).tile::<S, 4, P>(s);
                row += 4;
            }
            while row + 2 <= rows {
                self.at_row(row).tile::<S, 2, P>(s);
                row += 2;
            }
            if row < rows {
                self.at_row(row).tile::<S, 1, P>(s);
            }
        }
    }

    /// All rows of the last panel, of which only `columns` exist in the output.
    #[inline(always)]
    unsafe fn narrow<S: Simd<W::Real>>(self, s: S, rows: usize, columns: usize) {
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
                Block { out: tile.as_mut_ptr(), out_layout: whole, ..here }.rows::<S, 1>(s, count);
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
    unsafe fn tile<S: Simd<W::Real>, const R: usize, const P: usize>(self, s: S) {
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
                for j in 0..len {
                    let mut weights = [[s.splat(W::Real::ZERO); PANEL_VECTORS]; P];
                    for p in 0..P {
                        for v in 0..PANEL_VECTORS {
                            weights[p][v] = W::load(s, panels.add(p * self.panel_stride + v * S::LANES));
                        }
                    }
                    panels = panels.add(width);
                    for r in 0..R {
                        let x = s.splat(*x.add(r * self.x_layout.row_stride + j));
                        for p in 0..P {
                            for v in 0..PANEL_VECTORS {
                                sums[r][p][v] = s.fma(x, weights[p][v], sums[r][p][v]);
                            }
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
