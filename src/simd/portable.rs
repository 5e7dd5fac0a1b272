//! Plain Rust on small arrays: what every processor runs, and what the compiler vectorises as it can.

use super::Simd;
use super::math::Constants;

/// The instruction set of the compilation target, whatever it is.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! portable {
    ($t:ty, $bits:ty, $int:ty, $lanes:literal, $mantissa:literal, $bias:literal, $sqrt_half:expr) => {
        impl Simd<$t> for Portable {
            type V = [$t; $lanes];
            type M = [bool; $lanes];
            const LANES: usize = $lanes;
            const TILE_ROWS: usize = 4;

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
            fn round(self, v: Self::V) -> Self::V {
                // Adding it leaves no bits below one.
                let mut r = v;
                for i in 0..$lanes {
                    r[i] = (v[i] + <$t>::SHIFT) - <$t>::SHIFT;
                }
                r
            }
            #[inline(always)]
            fn scale(self, v: Self::V, k: Self::V) -> Self::V {
                // In two exact-enough halves: the first never rounds, so the result is rounded once.
                let mut r = v;
                for i in 0..$lanes {
                    let k = k[i] as $int;
                    let half = k >> 1;
                    let power = |k: $int| <$t>::from_bits(((k + $bias) << $mantissa) as $bits);
                    r[i] = v[i] * power(half) * power(k - half);
                }
                r
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
            fn split(self, v: Self::V) -> (Self::V, Self::V) {
                const SQRT_HALF: $bits = <$t>::to_bits($sqrt_half);
                let (mut m, mut e) = (v, v);
                for i in 0..$lanes {
                    let exponent = (v[i].to_bits().wrapping_sub(SQRT_HALF) as $int) >> $mantissa;
                    m[i] = <$t>::from_bits(v[i].to_bits().wrapping_sub((exponent << $mantissa) as $bits));
                    e[i] = exponent as $t;
                }
                (m, e)
            }
            #[inline(always)]
            fn greater(self, a: Self::V, b: Self::V) -> Self::M {
                let mut m = [false; $lanes];
                for i in 0..$lanes {
                    m[i] = a[i] > b[i];
                }
                m
            }
            #[inline(always)]
            fn select(self, mask: Self::M, a: Self::V, b: Self::V) -> Self::V {
                let mut v = b;
                for i in 0..$lanes {
                    v[i] = if mask[i] { a[i] } else { b[i] };
                }
                v
            }
            #[inline(always)]
            fn zero_where_less(self, v: Self::V, a: Self::V, b: Self::V) -> Self::V {
                let mut r = v;
                for i in 0..$lanes {
                    r[i] = if a[i] < b[i] { 0.0 } else { v[i] };
                }
                r
            }
        }
    };
}

portable!(f32, u32, i32, 4, 23, 127, std::f32::consts::FRAC_1_SQRT_2);
portable!(f64, u64, i64, 2, 52, 1023, std::f64::consts::FRAC_1_SQRT_2);
