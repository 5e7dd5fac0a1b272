//! The stages of the layer on views of arrays, each with a plain reference beside it for its tests.
//!
//! Between stages, tokens lie in blocks of channels: (blocks, rows, channels of a block). A block is read and
//! written from front to back by every stage, and threads share blocks. Channels are padded to whole blocks,
//! so that no stage has a tail. Padding channels have zero weights, and no stage that mixes channels reads
//! them: whatever they hold stays with them.

use ndarray::{ArrayView2, ArrayView3, ArrayView4, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4};

pub mod conv;
pub mod linear;
pub mod scan;
#[cfg(test)]
mod testing;

pub use crate::simd::segment::{Segment, ring_row};

/// Channels side by side in a block: the widest vector of f32.
pub const CHANNEL_BLOCK: usize = 16;

/// `channels` rounded up to whole blocks.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNEL_BLOCK)
}

/// How many of `total` each of `workers` takes, in multiples of `unit`.
pub fn share(total: usize, unit: usize, workers: usize) -> usize {
    total.div_ceil(unit).div_ceil(workers).max(1) * unit
}

/// Views of the start of a slice as an array of so many sides, for reading and for writing.
macro_rules! views {
    ($($view:ident, $view_mut:ident, $sides:literal: $read:ident, $write:ident;)*) => {$(
        #[doc = concat!("The start of `data` as an array of ", $sides, " sides.")]
        pub fn $view<T>(data: &[T], shape: [usize; $sides]) -> $read<'_, T> {
            let len = shape.iter().product();
            $read::from_shape(shape, &data[..len]).expect("the slice was cut to the shape")
        }
        #[doc = concat!("The start of `data` as an array of ", $sides, " sides, to be written.")]
        pub fn $view_mut<T>(data: &mut [T], shape: [usize; $sides]) -> $write<'_, T> {
            let len = shape.iter().product();
            $write::from_shape(shape, &mut data[..len]).expect("the slice was cut to the shape")
        }
    )*};
}
views! {
    view2, view2_mut, 2: ArrayView2, ArrayViewMut2;
    view3, view3_mut, 3: ArrayView3, ArrayViewMut3;
    view4, view4_mut, 4: ArrayView4, ArrayViewMut4;
}
