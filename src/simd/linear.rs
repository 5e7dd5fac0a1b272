//! The product of rows with packed weights.
//!
//! Weights lie in panels of [`panel_width`] columns, each panel k-major: `[panel][k][column]`. Every output
//! element is `bias + Σ_k x_k w_k`, summed in the one order k = 0, 1, 2, … into one accumulator, whatever
//! the number of rows, the tile or the block of k: that is why a step has the bits of a forward.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{Isa, Kernel, Real, Simd};

/// Vectors side by side in a panel.
const PANEL_VECTORS: usize = 2;
/// Steps of k after which the kernel moves on to the next panel, so that a block of one stays in L1.
const K_BLOCK: usize = 256;
/// Elements of the largest tile of any instruction set.
const MAX_TILE: usize = 12 * 32;

/// Columns of a panel with the instructions of `isa`.
pub fn panel_width<T: Real>(isa: Isa) -> usize {
    PANEL_VECTORS * T::lanes(isa)
}

/// `out = bias + x · weights`, for the columns of whole panels.
pub struct Product<'a, T> {
    /// Rows of input; `groups` groups of `group_len` columns, `group_stride` apart, are multiplied.
    pub x: ArrayView2<'a, T>,
    /// Number of groups of input columns.
    pub groups: usize,
    /// Columns of a group.
    pub group_len: usize,
    /// Distance between the starts of two groups.
    pub group_stride: usize,
    /// Panels of `groups · group_len` steps of k, starting with the panel of `out`'s first column.
    pub panels: &'a [T],
    /// A value for each column of the panels.
    pub bias: &'a [T],
    /// Rows of output; the last panel may be wider than what is left.
    pub out: ArrayViewMut2<'a, T>,
}

impl<T: Real> Kernel<T> for Product<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(mut self, s: S) {
        let width = PANEL_VECTORS * S::LANES;
        let (rows, columns) = self.out.dim();
        let k = self.groups * self.group_len;
        let panels = columns.div_ceil(width);
        assert_eq!(self.x.nrows(), rows);
        assert!(self.groups == 0 || (self.groups - 1) * self.group_stride + self.group_len <= self.x.ncols());
        assert!(self.panels.len() >= panels * k * width && self.bias.len() >= panels * width);
        assert!(rows < 2 || (self.x.strides()[0] >= 0 && self.out.strides()[0] >= 0));
        assert!(self.x.ncols() < 2 || self.x.strides()[1] == 1);
        assert!(columns < 2 || self.out.strides()[1] == 1);
        let (x_stride, out_stride) = (self.x.strides()[0] as usize, self.out.strides()[0] as usize);
        let (x, out) = (self.x.as_ptr(), self.out.as_mut_ptr());

        let mut done = 0;
        for group in 0..self.groups {
            for start in (0..self.group_len).step_by(K_BLOCK) {
                let len = K_BLOCK.min(self.group_len - start);
                // SAFETY: the assertions above keep every row, column and panel inside its array.
                unsafe {
                    let block = Block {
                        x: x.add(group * self.group_stride + start),
                        x_stride,
                        k: len,
                        panels: self.panels.as_ptr().add(done * width),
                        panel_stride: k * width,
                        bias: if done == 0 { Some(self.bias.as_ptr()) } else { None },
                        out,
                        out_stride,
                    };
                    block.run(s, rows, columns);
                }
                done += len;
            }
        }
    }
}

/// The part of a [`Product`] for one block of k: sums start from the bias in the first, and from what the
/// last one left in the others.
#[derive(Clone, Copy)]
struct Block<T> {
    x: *const T,
    x_stride: usize,
    k: usize,
    panels: *const T,
    panel_stride: usize,
    bias: Option<*const T>,
    out: *mut T,
    out_stride: usize,
}

impl<T: Real> Block<T> {
    #[inline(always)]
    unsafe fn run<S: Simd<T>>(self, s: S, rows: usize, columns: usize) {
        let width = PANEL_VECTORS * S::LANES;
        let (whole, rest) = (columns / width, columns % width);
        // SAFETY: as for the product; each call stays inside `rows` and `columns`.
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
                out: self.out.add(panel * width),
                ..self
            }
        }
    }

    #[inline(always)]
    unsafe fn at_row(self, row: usize) -> Self {
        // SAFETY: the caller's row exists.
        unsafe {
            Block { x: self.x.add(row * self.x_stride), out: self.out.add(row * self.out_stride), ..self }
        }
    }

    /// All rows of `P` whole panels.
    #[inline(always)]
    unsafe fn rows<S: Simd<T>, const P: usize>(self, s: S, rows: usize) {
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
    unsafe fn narrow<S: Simd<T>>(self, s: S, rows: usize, columns: usize) {
        let width = PANEL_VECTORS * S::LANES;
        let tile_rows = MAX_TILE / width;
        let mut tile = [T::ZERO; MAX_TILE];
        // SAFETY: as for the block; the tile holds `tile_rows` whole rows.
        unsafe {
            let mut row = 0;
            while row < rows {
                let count = tile_rows.min(rows - row);
                let here = self.at_row(row);
                if self.bias.is_none() {
                    for r in 0..count {
                        let from = here.out.add(r * self.out_stride);
                        std::ptr::copy_nonoverlapping(from, tile.as_mut_ptr().add(r * width), columns);
                    }
                }
                Block { out: tile.as_mut_ptr(), out_stride: width, ..here }.rows::<S, 1>(s, count);
                for r in 0..count {
                    let to = here.out.add(r * self.out_stride);
                    std::ptr::copy_nonoverlapping(tile.as_ptr().add(r * width), to, columns);
                }
                row += count;
            }
        }
    }

    /// `R` rows of `P` panels, all sums in registers.
    #[inline(always)]
    unsafe fn tile<S: Simd<T>, const R: usize, const P: usize>(self, s: S) {
        let width = PANEL_VECTORS * S::LANES;
        let mut sums = [[[s.splat(T::ZERO); PANEL_VECTORS]; P]; R];
        // SAFETY: as for the block: `R` rows and `P` panels exist.
        unsafe {
            for r in 0..R {
                let start = match self.bias {
                    Some(bias) => bias,
                    None => self.out.add(r * self.out_stride).cast_const(),
                };
                for p in 0..P {
                    for v in 0..PANEL_VECTORS {
                        sums[r][p][v] = s.load(start.add(p * width + v * S::LANES));
                    }
                }
            }
            for j in 0..self.k {
                let mut weights = [[s.splat(T::ZERO); PANEL_VECTORS]; P];
                for p in 0..P {
                    for v in 0..PANEL_VECTORS {
                        weights[p][v] =
                            s.load(self.panels.add(p * self.panel_stride + j * width + v * S::LANES));
                    }
                }
                for r in 0..R {
                    let x = s.splat(*self.x.add(r * self.x_stride + j));
                    for p in 0..P {
                        for v in 0..PANEL_VECTORS {
                            sums[r][p][v] = s.fma(x, weights[p][v], sums[r][p][v]);
                        }
                    }
                }
            }
            for r in 0..R {
                for p in 0..P {
                    for v in 0..PANEL_VECTORS {
                        let to = self.out.add(r * self.out_stride + p * width + v * S::LANES);
                        s.store(to, sums[r][p][v]);
                    }
                }
            }
        }
    }
}
