//! The stages of the layer on views of arrays, each with a plain reference beside it for its tests.
//!
//! Inside, channels are padded to whole blocks, so that no stage has a tail. Padding channels have zero
//! weights, and no stage that mixes channels reads them: whatever they hold stays with them.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3};

pub mod conv;
pub mod linear;
pub mod scan;

/// Channels that the scan keeps side by side: the widest vector of f32.
pub const CHANNEL_BLOCK: usize = 16;

/// `channels` rounded up to whole blocks.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNEL_BLOCK)
}

/// How many of `total` columns each of `workers` takes, in multiples of `unit`.
fn share(total: usize, unit: usize, workers: usize) -> usize {
    total.div_ceil(unit).div_ceil(workers).max(1) * unit
}

/// A view of the start of `data` as rows and columns.
pub fn view2<T>(data: &[T], [rows, columns]: [usize; 2]) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((rows, columns), &data[..rows * columns]).expect("the slice was cut to the shape")
}

/// The same, to be written.
pub fn view2_mut<T>(data: &mut [T], [rows, columns]: [usize; 2]) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((rows, columns), &mut data[..rows * columns]).expect("the slice was cut to the shape")
}

/// A view of the start of `data` as a (planes, rows, columns) array.
pub fn view3<T>(data: &[T], [planes, rows, columns]: [usize; 3]) -> ArrayView3<'_, T> {
    ArrayView3::from_shape((planes, rows, columns), &data[..planes * rows * columns])
        .expect("the slice was cut to the shape")
}

/// The same, to be written.
pub fn view3_mut<T>(data: &mut [T], [planes, rows, columns]: [usize; 3]) -> ArrayViewMut3<'_, T> {
    ArrayViewMut3::from_shape((planes, rows, columns), &mut data[..planes * rows * columns])
        .expect("the slice was cut to the shape")
}
