//! NEON, which every AArch64 processor has.

use core::arch::aarch64::*;
use core::arch::asm;

use half::{bf16, f16};

use super::Simd;
use super::convert::half_types;

/// The vector instructions of AArch64.
#[derive(Clone, Copy)]
pub struct Neon;

/// Methods that are one intrinsic each.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident),*) = $intrinsic:ident($($operand:ident),*);)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),*) -> Self::V {
            // SAFETY: every processor of this architecture has the instruction.
            unsafe { $intrinsic($($operand),*) }
        }
    )*};
}

macro_rules! memory {
    ($t:ty, $splat:ident, $load:ident, $store:ident) => {
        #[inline(always)]
        fn splat(self, mut value: $t) -> Self::V {
            // No instruction: it hides from LLVM that the value was just loaded, which it would do with `ld1r`, at
            // the price of a multiplication. `fmla` takes a scalar from its register as it is.
            // SAFETY: nothing is executed; and every processor of this architecture has the other.
            unsafe {
                asm!("/* {0:v} */", inlateout(vreg) value, options(pure, nomem, nostack, preserves_flags));
                $splat(value)
            }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const $t) -> Self::V {
            // SAFETY: as above, and the caller's promise.
            unsafe { $load(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut $t, v: Self::V) {
            // SAFETY: as above, and the caller's promise.
            unsafe { $store(to, v) }
        }
    };
}

impl Simd<f32> for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const TILE_ROWS: usize = 12;
    const CHAINS: usize = 4;

    memory!(f32, vdupq_n_f32, vld1q_f32, vst1q_f32);
    intrinsics! {
        add(a, b) = vaddq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        div(a, b) = vdivq_f32(a, b);
        fma(a, b, c) = vfmaq_f32(c, a, b);
        fnma(a, b, c) = vfmsq_f32(c, a, b);
        min(a, b) = vminq_f32(a, b);
        max(a, b) = vmaxq_f32(a, b);
        neg(v) = vnegq_f32(v);
    }
    half_types!();
    #[inline(always)]
    fn add_exponent(self, v: float32x4_t, shifted: float32x4_t) -> float32x4_t {
        // SAFETY: every processor of this architecture has the instructions.
        unsafe {
            let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v), exponent))
        }
    }
    #[inline(always)]
    fn zero_where_less(self, v: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: every processor of this architecture has the instructions.
        unsafe { vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(a, b))) }
    }
}

impl Simd<f64> for Neon {
    type V = float64x2_t;
    const LANES: usize = 2;
    const TILE_ROWS: usize = 12;
    const CHAINS: usize = 4;

    memory!(f64, vdupq_n_f64, vld1q_f64, vst1q_f64);
    intrinsics! {
        add(a, b) = vaddq_f64(a, b);
        sub(a, b) = vsubq_f64(a, b);
        mul(a, b) = vmulq_f64(a, b);
        div(a, b) = vdivq_f64(a, b);
        fma(a, b, c) = vfmaq_f64(c, a, b);
        fnma(a, b, c) = vfmsq_f64(c, a, b);
        min(a, b) = vminq_f64(a, b);
        max(a, b) = vmaxq_f64(a, b);
        neg(v) = vnegq_f64(v);
    }
    #[inline(always)]
    fn add_exponent(self, v: float64x2_t, shifted: float64x2_t) -> float64x2_t {
        // SAFETY: every processor of this architecture has the instructions.
        unsafe {
            let exponent = vshlq_n_s64::<52>(vreinterpretq_s64_f64(shifted));
            vreinterpretq_f64_s64(vaddq_s64(vreinterpretq_s64_f64(v), exponent))
        }
    }
    #[inline(always)]
    fn zero_where_less(self, v: float64x2_t, a: float64x2_t, b: float64x2_t) -> float64x2_t {
        // SAFETY: every processor of this architecture has the instructions.
        unsafe { vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(v), vcltq_f64(a, b))) }
    }
}
