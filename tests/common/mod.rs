//! What the integration tests share: the error metric, the golden files and the float64 oracle.

// Each test program compiles this module for itself and uses only a part of it.
#![allow(dead_code)]

pub mod c_abi;
pub mod golden;
pub mod layers;
pub mod oracle;
pub mod random;

/// The error of `actual` against `expected`, in parts of the largest expected value:
/// max|a − b| / max|b| over the whole tensor.
///
/// An all-zero `expected` has no scale of its own; the largest absolute value of `actual` counts
/// there. A NaN on either side, or an infinity that is not the same on both, gives infinity, so
/// that `relative_error(..) < bound` can never pass by accident. Two empty tensors agree.
pub fn relative_error(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "tensors of different sizes are compared");
    let mut difference = 0.0_f64;
    let mut scale = 0.0_f64;
    for (&a, &b) in actual.iter().zip(expected) {
        if a == b && b.is_infinite() {
            continue;
        }
        if !a.is_finite() || !b.is_finite() {
            return f64::INFINITY;
        }
        difference = difference.max((a - b).abs());
        scale = scale.max(b.abs());
    }
    if scale == 0.0 { difference } else { difference / scale }
}

/// [`relative_error`] of f32 tensors.
pub fn relative_error_f32(actual: &[f32], expected: &[f32]) -> f64 {
    relative_error(&widen(actual), &widen(expected))
}

/// The same values as f64.
pub fn widen<T: Copy + Into<f64>>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}
