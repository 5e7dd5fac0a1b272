//! What the tests of the stages share.

#[path = "../../tests/common/random.rs"]
mod random;

pub use random::Random;

use super::{CHANNEL_BLOCK, padded};
use crate::simd::{Real, Storage};
use crate::tensor::Element;
use crate::threads::{Workers, set_num_threads};

/// Runs `test` with the calling thread alone, then with a team of three.
pub fn with_workers(mut test: impl FnMut(&Workers)) {
    test(&Workers::caller());
    let team = loop {
        // Other tests may set another number, or be leading the team.
        set_num_threads(3).unwrap();
        let workers = Workers::for_operations(f64::MAX);
        if workers.count() == 3 {
            break workers;
        }
        drop(workers);
        std::thread::yield_now();
    };
    test(&team);
}

/// Numbers in [−1, 1) that f32 has.
pub fn values(random: &mut Random, count: usize) -> Vec<f64> {
    random.values(count).into_iter().map(f64::from).collect()
}

/// The same numbers in another type.
pub fn narrow<T: Element>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| T::from_f64(v)).collect()
}

/// (rows, columns) in blocks of channels, with NaN in the padding, which must not matter.
pub fn to_blocks<T: Real>(values: &[f64], rows: usize, columns: usize) -> Vec<T> {
    let mut blocks = vec![T::from_f64(f64::NAN); rows * padded(columns)];
    for (i, &value) in values.iter().enumerate() {
        blocks[in_blocks(rows, i / columns, i % columns)] = T::from_f64(value);
    }
    blocks
}

/// (rows, columns) out of blocks of channels.
pub fn from_blocks<T: Real>(blocks: &[T], rows: usize, columns: usize) -> Vec<f64> {
    (0..rows * columns).map(|i| blocks[in_blocks(rows, i / columns, i % columns)].to_f64()).collect()
}

/// Where (row, column) lies in blocks of channels.
fn in_blocks(rows: usize, row: usize, column: usize) -> usize {
    (column / CHANNEL_BLOCK * rows + row) * CHANNEL_BLOCK + column % CHANNEL_BLOCK
}

/// The spacing of numbers around 1; where the functions are short, about their errors.
pub fn epsilon<W: Storage>() -> f64 {
    match size_of::<W>() {
        2 => 2_f64.powi(-14),
        4 => f32::EPSILON.into(),
        _ => f64::EPSILON,
    }
}

/// The bits of each number, which compare where −0 is not 0.
pub fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}
