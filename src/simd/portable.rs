//! Plain Rust on small arrays: what every processor runs, and what the compiler vectorises as it can.

use half::{bf16, f16};

use super::Simd;
use super::convert::half_types;

/// The instruction set of the compilation target, whatever it is.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! portable {
    ($t:ty, $lanes:literal, $mantissa:literal, { $($more:tt)* }) => {
        impl Simd<$t> for Portable {
            type V = [$t; $lanes];
            const LANES: usize = $lanes;
            const TILE_ROWS: usize = 4;
            const CHAINS: usize = 4;

            #[inline(always)]
            fn splat(self, value: $t) -> Self::V {
                [value; $lanes]
            }
            #[inline(always)]
            unsafe fn load(self, from: *const $t) -> Self::V {
                // SAFETY: the caller's promise; arrays have the alignment of their elements.
                unsafe { *from.cast() }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $t, v: Self::V) {
                // SAFETY: the caller's promise; arrays have the alignment of their elements.
                unsafe { *to.cast() = v }
            }
            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                let mut v = a;
                for i in 0..$lanes {
                    v[i] = a[i] + b[i];
                }
                v
            }
            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                let mut v = a;
                for i in 0..$lanes {
                    v[i] = a[i] - b[i];
                }
                v
            }
            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                let mut v = a;
                for i in 0..$lanes {
                    v[i] = a[i] * b[i];
                }
                v
            }
            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                let mut v = a;
                for i in 0..$lanes {
                    v[i] = a[i] / b[i];
                }
                v
            }
            #[inline(always)]
            fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                // Two roundings: a fused one is a library call where the target lacks the instruction.
                let mut v = a;
                for i in 0..$lanes {
                    v[i] = a[i] * b[i] + c[i];
                }
                v
            }
            #[inline(always)]
            fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                let mut v = a;
                for i in 0..$lanes {
                    v[i] = c[i] - a[i] * b[i];
                }
                v
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                let mut v = b;
                for i in 0..$lanes {
                    v[i] = if a[i] < b[i] { a[i] } else { b[i] };
                }
                v
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                let mut v = b;
                for i in 0..$lanes {
                    v[i] = if a[i] > b[i] { a[i] } else { b[i] };
                }
                v
            }
            #[inline(always)]
            fn neg(self, mut v: Self::V) -> Self::V {
                for i in 0..$lanes {
                    v[i] = -v[i];
                }
                v
            }
            #[inline(always)]
            fn add_exponent(self, v: Self::V, shifted: Self::V) -> Self::V {
                let mut r = v;
                for i in 0..$lanes {
                    r[i] = <$t>::from_bits(v[i].to_bits().wrapping_add(shifted[i].to_bits() << $mantissa));
                }
                r
            }
            #[inline(always)]
            fn zero_where_less(self, v: Self::V, a: Self::V, b: Self::V) -> Self::V {
                let mut r = v;
                for i in 0..$lanes {
                    r[i] = if a[i] < b[i] { 0.0 } else { v[i] };
                }
                r
            }
            $($more)*
        }
    };
}

portable!(f32, 4, 23, {
    half_types!();
});
portable!(f64, 2, 52, {});
