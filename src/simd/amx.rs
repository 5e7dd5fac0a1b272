//! Products of bf16 by AMX, 16 rows by 16 columns by 16 pairs of k at a time. Rust has no names for its
//! instructions, and the compiler none for its registers: nothing but what stands here touches them.

use core::arch::asm;
use std::sync::OnceLock;

use super::linear::{Layout, Product};
use super::{system, x86};

/// Rows, columns and pairs of k of a whole tile.
const TILE: usize = 16;
/// Columns of a panel, two tiles.
const PANEL: usize = 2 * TILE;

/// Pairs of k after which the next panel is taken up: enough to write sums seldom, few enough for a block of one and
/// of some rows to stay near.
const K_BLOCK: usize = 48 * TILE;

/// Whether the processor has the instructions and the system lets this process use them.
pub fn has_amx() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        const BF16: u32 = 1 << 22;
        const TILES: u32 = 1 << 24;
        let features = || {
            #[allow(unused_unsafe)] // newer toolchains know it to be safe
            // SAFETY: processors that AVX-512 was found in have this leaf.
            let leaf = unsafe { core::arch::x86_64::__cpuid_count(7, 0) };
            leaf.edx
        };
        x86::has_avx512bf16() && features() & (BF16 | TILES) == BF16 | TILES && system::permit_tiles()
    })
}

/// A product of pairs of bf16, each in the bits of an f32. Of 16 pairs of k, the products of the first in each and those
/// of the second are summed apart before they are added; denormals in factors and in sums are zero.
///
/// # Safety
/// [`has_amx`]
pub unsafe fn multiply_pairs(mut product: Product<'_, '_, '_, f32>) {
    if product.x.rows() == 1 {
        // Tiles are read a little more slowly than vectors, which is what one row is bound by.
        // SAFETY: a processor with AMX has AVX-512, as `has_amx` has asserted.
        return unsafe { x86::multiply_pairs_apart(product) };
    }
    let (x_layout, out_layout) = product.layouts(PANEL);
    let (x, out) = (product.x.as_ptr(), product.out.as_mut_ptr());
    let (k, rows) = (product.group_len, out_layout.rows);
    assert!(k.is_multiple_of(TILE));
    for (first, height, tiles) in [(0, TILE, rows / TILE), (rows / TILE * TILE, rows % TILE, 1)] {
        if height * tiles == 0 {
            continue;
        }
        // SAFETY: the processor has the instructions; `layouts` has asserted that every row, column and panel is inside
        // its array.
        unsafe {
            configure(height);
            for start in (0..k).step_by(K_BLOCK) {
                let block = Block {
                    x: x.add(first * x_layout.row_stride + x_layout.column(start)),
                    x_layout,
                    height,
                    tiles,
                    steps: K_BLOCK.min(k - start) / TILE,
                    panels: product.panels.as_ptr().add(start * PANEL),
                    panel_stride: k * PANEL,
                    bias: if start == 0 { Some(product.bias.as_ptr()) } else { None },
                };
                block.run(out.add(first * out_layout.row_stride), out_layout);
            }
        }
    }
    // SAFETY: the processor has the instruction.
    unsafe { release() };
}

/// The part of a product for one block of k and for rows in tiles of one height: sums start from the bias in the first
/// block, and from what the last one left in the others.
struct Block {
    x: *const f32,
    x_layout: Layout,
    /// Rows of a tile, and how many tiles of them.
    height: usize,
    tiles: usize,
    /// Tiles of k.
    steps: usize,
    panels: *const f32,
    panel_stride: usize,
    bias: Option<*const f32>,
}

impl Block {
    unsafe fn run(&self, out: *mut f32, layout: Layout) {
        let (whole, rest) = (layout.columns / TILE, layout.columns % TILE);
        // One tile of rows leaves registers free: more columns at once hide the latency of the sums.
        let most = if self.tiles == 1 { 4 } else { 2 };
        for column in (0..whole).step_by(most) {
            for tile in (0..self.tiles).step_by(2) {
                // SAFETY: these rows and columns exist.
                unsafe {
                    let out = out.add(tile * TILE * layout.row_stride + layout.column(column * TILE));
                    match ((self.tiles - tile).min(2), (whole - column).min(most)) {
                        (1, 1) => self.sums::<1, 1>(tile, column, out, layout),
                        (1, 2) => self.sums::<1, 2>(tile, column, out, layout),
                        (1, 3) => self.sums::<1, 3>(tile, column, out, layout),
                        (1, _) => self.sums::<1, 4>(tile, column, out, layout),
                        (_, 1) => self.sums::<2, 1>(tile, column, out, layout),
                        (_, _) => self.sums::<2, 2>(tile, column, out, layout),
                    }
                }
            }
        }
        if rest == 0 {
            return;
        }
        // The last tile of columns, of which only some exist in the output.
        let mut room = [0.0; TILE * TILE];
        let in_room = Layout { rows: self.height, columns: TILE, row_stride: TILE, block_stride: TILE };
        for tile in 0..self.tiles {
            // SAFETY: these rows and columns exist.
            unsafe {
                let out = out.add(tile * TILE * layout.row_stride + layout.column(whole * TILE));
                if self.bias.is_none() {
                    for (row, room) in room.chunks_exact_mut(TILE).enumerate().take(self.height) {
                        out.add(row * layout.row_stride).copy_to(room.as_mut_ptr(), rest);
                    }
                }
                self.sums::<1, 1>(tile, whole, room.as_mut_ptr(), in_room);
                for (row, room) in room.chunks_exact(TILE).enumerate().take(self.height) {
                    out.add(row * layout.row_stride).copy_from(room.as_ptr(), rest);
                }
            }
        }
    }

    /// `R` by `C` tiles of the output, all sums in registers: of two tiles of rows and two of columns, or of one of
    /// rows and four of columns.
    unsafe fn sums<const R: usize, const C: usize>(
        &self,
        tile: usize,
        column: usize,
        out: *mut f32,
        layout: Layout,
    ) {
        let place = |i: usize| if R == 2 { (i / 2, i % 2) } else { (0, i) };
        let holds = |i: usize| place(i).0 < R && place(i).1 < C;
        // SAFETY: as for the block: the tiles exist, and are configured.
        unsafe {
            let out =
                |i: usize| out.add(place(i).0 * TILE * layout.row_stride + layout.column(place(i).1 * TILE));
            let begin = |i: usize| match self.bias {
                // Every row of the tile is the same one.
                Some(bias) => (bias.add((column + place(i).1) * TILE), 0),
                None => (out(i).cast_const(), layout.row_stride),
            };
            let x_stride = self.x_layout.row_stride;
            let x = |r: usize, step: usize| {
                self.x.add((tile + r) * TILE * x_stride + step * self.x_layout.block_stride)
            };
            let weights = |c: usize, step: usize| {
                let (panel, half) = ((column + c) / 2, (column + c) % 2);
                self.panels.add(panel * self.panel_stride + half * TILE + step * TILE * PANEL)
            };
            macro_rules! each_sum {
                ($run:ident) => {
                    $run!(0);
                    $run!(1);
                    $run!(2);
                    $run!(3);
                };
            }
            macro_rules! begin {
                ($i:literal) => {
                    if holds($i) {
                        let (from, stride) = begin($i);
                        load::<$i>(from, stride);
                    }
                };
            }
            macro_rules! end {
                ($i:literal) => {
                    if holds($i) {
                        store::<$i>(out($i), layout.row_stride);
                    }
                };
            }
            each_sum!(begin);
            for step in 0..self.steps {
                load::<4>(x(0, step), x_stride);
                load::<6>(weights(0, step), PANEL);
                add_products::<0, 4, 6>();
                if C > 1 {
                    load::<7>(weights(1, step), PANEL);
                    add_products::<1, 4, 7>();
                }
                if R == 2 {
                    load::<5>(x(1, step), x_stride);
                    add_products::<2, 5, 6>();
                    if C > 1 {
                        add_products::<3, 5, 7>();
                    }
                } else {
                    if C > 2 {
                        load::<6>(weights(2, step), PANEL);
                        add_products::<2, 4, 6>();
                    }
                    if C > 3 {
                        load::<7>(weights(3, step), PANEL);
                        add_products::<3, 4, 7>();
                    }
                }
            }
            each_sum!(end);
        }
    }
}

/// What the registers hold.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Has registers 0 to 3 hold sums, 4 and 5 rows of x, all of `height` rows, and 6 and 7 weights. All are zero then.
///
/// # Safety
/// [`has_amx`]; `height` is from 1 to 16.
unsafe fn configure(height: usize) {
    let height = height as u8;
    let mut config =
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.row_bytes[..8].fill((TILE * size_of::<f32>()) as u16);
    config.rows[..8]
        .copy_from_slice(&[height, height, height, height, height, height, TILE as u8, TILE as u8]);
    // SAFETY: reads the 64 bytes of `config`, which are as the instruction wants them.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, preserves_flags, readonly)) }
}

/// Gives the registers up, so that no switch of threads saves them.
///
/// # Safety
/// [`has_amx`]
unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
}

/// Fills a register with rows that begin `stride` values apart.
///
/// # Safety
/// [`has_amx`]; the register is configured, and its rows are readable there.
#[inline(always)]
unsafe fn load<const REGISTER: usize>(from: *const f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm{register}, [{from} + 1*{stride}]",
            register = const REGISTER,
            from = in(reg) from,
            stride = in(reg) stride * size_of::<f32>(),
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// Writes a register's rows, which begin `stride` values apart.
///
/// # Safety
/// [`has_amx`]; the register is configured, and its rows are writable there.
#[inline(always)]
unsafe fn store<const REGISTER: usize>(to: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{to} + 1*{stride}], tmm{register}",
            register = const REGISTER,
            to = in(reg) to,
            stride = in(reg) stride * size_of::<f32>(),
            options(nostack, preserves_flags)
        );
    }
}

/// Adds x · weights to sums.
///
/// # Safety
/// [`has_amx`]; the registers are configured.
#[inline(always)]
unsafe fn add_products<const SUMS: usize, const X: usize, const WEIGHTS: usize>() {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tdpbf16ps tmm{sums}, tmm{x}, tmm{weights}",
            sums = const SUMS,
            x = const X,
            weights = const WEIGHTS,
            options(nostack, preserves_flags, nomem)
        );
    }
}
