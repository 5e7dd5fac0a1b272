//! The types that values are stored in, and tensors of any of them.

use std::any::Any;

use half::{bf16, f16};
use ndarray::{ArrayView3, ArrayViewMut3};

/// A storage type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum DType {
    F32 = 1,
    F64 = 2,
    Bf16 = 3,
    F16 = 4,
}

impl DType {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }
}

/// A value of a storage type.
pub trait Element: Copy + Default + Send + Sync + PartialEq + PartialOrd + std::fmt::Debug + 'static {
    /// The type's name among all.
    const DTYPE: DType;
    /// Nearest value of this type, ties to even.
    fn from_f64(value: f64) -> Self;
    /// The same value in f64.
    fn to_f64(self) -> f64;
    /// `view` as one of elements of this type, if they are.
    fn view(view: TensorView<'_>) -> Option<ArrayView3<'_, Self>>;
    /// The same of a view to be written.
    fn view_mut<'a>(view: &'a mut TensorViewMut<'_>) -> Option<ArrayViewMut3<'a, Self>>;
    /// A view of elements of this type as one of any type.
    fn any(view: ArrayView3<'_, Self>) -> TensorView<'_>;
    /// The same of a view to be written.
    fn any_mut(view: ArrayViewMut3<'_, Self>) -> TensorViewMut<'_>;

    /// Nearest value of type `U`; the same bits where that is this type.
    #[inline(always)]
    fn convert<U: Element>(self) -> U {
        match (&self as &dyn Any).downcast_ref::<U>() {
            Some(same) => *same,
            None => U::from_f64(self.to_f64()),
        }
    }
}

/// A tensor of three sides and any strides, to be read.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum TensorView<'a> {
    F32(ArrayView3<'a, f32>),
    F64(ArrayView3<'a, f64>),
    Bf16(ArrayView3<'a, bf16>),
    F16(ArrayView3<'a, f16>),
}

/// A tensor of three sides and any strides, to be written.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum TensorViewMut<'a> {
    F32(ArrayViewMut3<'a, f32>),
    F64(ArrayViewMut3<'a, f64>),
    Bf16(ArrayViewMut3<'a, bf16>),
    F16(ArrayViewMut3<'a, f16>),
}

macro_rules! element {
    ($t:ty, $variant:ident, $from:expr, $to:expr) => {
        impl Element for $t {
            const DTYPE: DType = DType::$variant;
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                $from(value)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to(self)
            }
            fn view(view: TensorView<'_>) -> Option<ArrayView3<'_, Self>> {
                if let TensorView::$variant(view) = view { Some(view) } else { None }
            }
            fn view_mut<'a>(view: &'a mut TensorViewMut<'_>) -> Option<ArrayViewMut3<'a, Self>> {
                if let TensorViewMut::$variant(view) = view { Some(view.view_mut()) } else { None }
            }
            fn any(view: ArrayView3<'_, Self>) -> TensorView<'_> {
                TensorView::$variant(view)
            }
            fn any_mut(view: ArrayViewMut3<'_, Self>) -> TensorViewMut<'_> {
                TensorViewMut::$variant(view)
            }
        }
    };
}
element!(f32, F32, |v| v as f32, f64::from);
element!(f64, F64, |v| v, |v| v);
// Not their own from_f64: it drops the low half of the number before it looks which value is nearest.
element!(bf16, Bf16, |v| bf16::from_f32(to_odd(v)), bf16::to_f64);
element!(f16, F16, |v| f16::from_f32(to_odd(v)), f16::to_f64);

/// The f32 that rounds to any narrower type as `value` does: where f32 cannot hold it, the odd one of its neighbours.
#[inline(always)]
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let held = f64::from(nearest);
    if held == value || value.is_nan() {
        return nearest;
    }
    let below = nearest.to_bits() - u32::from(held.abs() > value.abs());
    f32::from_bits(below | 1)
}

/// The body with `$T` as the type that a [`DType`] names.
macro_rules! with_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            $crate::tensor::DType::Bf16 => {
                type $T = ::half::bf16;
                $body
            }
            $crate::tensor::DType::F16 => {
                type $T = ::half::f16;
                $body
            }
        }
    };
}
pub(crate) use with_dtype;

/// The body with `$inner` as what a variant of `$Any`, one for each storage type, holds.
macro_rules! each_dtype {
    ($Any:ident, $value:expr, $inner:pat => $body:expr) => {
        match $value {
            $Any::F32($inner) => $body,
            $Any::F64($inner) => $body,
            $Any::Bf16($inner) => $body,
            $Any::F16($inner) => $body,
        }
    };
}

pub(crate) use each_dtype;

impl TensorView<'_> {
    /// The same tensor for a shorter time.
    pub fn view(&self) -> TensorView<'_> {
        each_dtype!(TensorView, self, view => Element::any(view.view()))
    }

    /// The sides.
    pub fn dim(&self) -> [usize; 3] {
        each_dtype!(TensorView, self, view => view.dim().into())
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            TensorView::F32(_) => DType::F32,
            TensorView::F64(_) => DType::F64,
            TensorView::Bf16(_) => DType::Bf16,
            TensorView::F16(_) => DType::F16,
        }
    }

    /// Elements to the next along each side.
    pub fn strides(&self) -> [isize; 3] {
        each_dtype!(TensorView, self, view => strides(view.strides()))
    }
}

impl TensorViewMut<'_> {
    /// The same tensor, to be read.
    pub fn view(&self) -> TensorView<'_> {
        each_dtype!(TensorViewMut, self, view => Element::any(view.view()))
    }
}

fn strides(strides: &[isize]) -> [isize; 3] {
    [strides[0], strides[1], strides[2]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number next to each other and what lies halfway between them, and a little to both sides of that.
    fn rounds_to_nearest<T: Element>(of: impl Fn(u16) -> T) {
        let next = |value: f64, by: i64| f64::from_bits((value.to_bits() as i64 + by) as u64);
        for bits in 0..=u16::MAX {
            let (value, above) = (of(bits), of(bits.wrapping_add(1)));
            let (low, high) = (value.to_f64(), above.to_f64());
            if !low.is_finite() || !high.is_finite() || bits & 0x7fff == 0x7fff {
                assert_eq!(T::from_f64(low).to_f64().to_bits(), low.to_bits());
                continue;
            }
            let middle = f64::midpoint(low, high);
            let even = if bits.is_multiple_of(2) { low } else { high };
            assert_eq!(T::from_f64(low).to_f64().to_bits(), low.to_bits());
            assert_eq!(T::from_f64(middle).to_f64(), even, "{middle:e}");
            for step in [1, 1 << 20, 1 << 29, 1 << 33] {
                assert_eq!(T::from_f64(next(middle, -step)).to_f64(), low, "{middle:e} - {step}");
                assert_eq!(T::from_f64(next(middle, step)).to_f64(), high, "{middle:e} + {step}");
            }
        }
        for huge in [1e300, f64::MAX, f64::INFINITY] {
            assert_eq!(T::from_f64(huge).to_f64(), f64::INFINITY);
            assert_eq!(T::from_f64(-huge).to_f64(), f64::NEG_INFINITY);
        }
        assert_eq!(T::from_f64(-1e-300).to_f64().to_bits(), (-0.0f64).to_bits());
        assert!(T::from_f64(f64::NAN).to_f64().is_nan());
    }

    #[test]
    fn values_become_the_nearest_of_the_type() {
        rounds_to_nearest(bf16::from_bits);
        rounds_to_nearest(f16::from_bits);
    }
}
