//! AVX2 with FMA, and AVX-512 (F, DQ, BW, VL).

use core::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof that the processor has AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// Proof that the processor has AVX-512 F, DQ, BW and VL.
#[derive(Clone, Copy)]
pub struct Avx512(());

pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

pub fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

/// # Safety
/// [`has_avx2`]
#[target_feature(enable = "avx2,fma")]
pub unsafe fn dispatch_avx2<T, K: Kernel<T>>(kernel: K) -> K::Output
where
    Avx2: Simd<T>,
{
    kernel.run(Avx2(()))
}

/// # Safety
/// [`has_avx512`]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub unsafe fn dispatch_avx512<T, K: Kernel<T>>(kernel: K) -> K::Output
where
    Avx512: Simd<T>,
{
    kernel.run(Avx512(()))
}

/// Methods that are one intrinsic each.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident),*) = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),*) -> Self::V {
            // SAFETY: `self` exists, so the processor has the instruction.
            unsafe { $intrinsic($($arg),*) }
        }
    )*};
}

macro_rules! memory {
    ($t:ty, $splat:ident, $load:ident, $store:ident) => {
        #[inline(always)]
        fn splat(self, value: $t) -> Self::V {
            // SAFETY: `self` exists, so the processor has the instruction.
            unsafe { $splat(value) }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const $t) -> Self::V {
            // SAFETY: as above, and the caller's promise; unaligned addresses are fine.
            unsafe { $load(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut $t, v: Self::V) {
            // SAFETY: as above, and the caller's promise; unaligned addresses are fine.
            unsafe { $store(to, v) }
        }
    };
}

impl Simd<f32> for Avx2 {
    type V = __m256;
    type M = __m256;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    memory!(f32, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps);
    intrinsics! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        fma(a, b, c) = _mm256_fmadd_ps;
        fnma(a, b, c) = _mm256_fnmadd_ps;
        min(a, b) = _mm256_min_ps;
        max(a, b) = _mm256_max_ps;
    }
    #[inline(always)]
    fn round(self, v: __m256) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn scale(self, v: __m256, k: __m256) -> __m256 {
        // In two halves: the first never rounds, so the result is rounded once.
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let k = _mm256_cvtps_epi32(k);
            let half = _mm256_srai_epi32::<1>(k);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias));
            _mm256_mul_ps(_mm256_mul_ps(v, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
        }
    }
    #[inline(always)]
    fn add_exponent(self, v: __m256, shifted: __m256) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), exponent))
        }
    }
    #[inline(always)]
    fn split(self, v: __m256) -> (__m256, __m256) {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let sqrt_half = _mm256_set1_epi32(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32);
            let exponent = _mm256_srai_epi32::<23>(_mm256_sub_epi32(bits, sqrt_half));
            let mantissa = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(exponent));
            (_mm256_castsi256_ps(mantissa), _mm256_cvtepi32_ps(exponent))
        }
    }
    #[inline(always)]
    fn greater(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm256_blendv_ps(b, a, mask) }
    }
    #[inline(always)]
    fn zero_where_less(self, v: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(a, b), v) }
    }
}

impl Simd<f64> for Avx2 {
    type V = __m256d;
    type M = __m256d;
    const LANES: usize = 4;
    const TILE_ROWS: usize = 6;

    memory!(f64, _mm256_set1_pd, _mm256_loadu_pd, _mm256_storeu_pd);
    intrinsics! {
        add(a, b) = _mm256_add_pd;
        sub(a, b) = _mm256_sub_pd;
        mul(a, b) = _mm256_mul_pd;
        div(a, b) = _mm256_div_pd;
        fma(a, b, c) = _mm256_fmadd_pd;
        fnma(a, b, c) = _mm256_fnmadd_pd;
        min(a, b) = _mm256_min_pd;
        max(a, b) = _mm256_max_pd;
    }
    #[inline(always)]
    fn round(self, v: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn scale(self, v: __m256d, k: __m256d) -> __m256d {
        // In two halves: the first never rounds, so the result is rounded once.
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let k = _mm256_cvtpd_epi32(k);
            let half = _mm256_cvtepi32_epi64(_mm_srai_epi32::<1>(k));
            let k = _mm256_cvtepi32_epi64(k);
            let bias = _mm256_set1_epi64x(1023);
            let first = _mm256_slli_epi64::<52>(_mm256_add_epi64(half, bias));
            let second = _mm256_slli_epi64::<52>(_mm256_add_epi64(_mm256_sub_epi64(k, half), bias));
            _mm256_mul_pd(_mm256_mul_pd(v, _mm256_castsi256_pd(first)), _mm256_castsi256_pd(second))
        }
    }
    #[inline(always)]
    fn add_exponent(self, v: __m256d, shifted: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let exponent = _mm256_slli_epi64::<52>(_mm256_castpd_si256(shifted));
            _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(v), exponent))
        }
    }
    #[inline(always)]
    fn split(self, v: __m256d) -> (__m256d, __m256d) {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let bits = _mm256_castpd_si256(v);
            let sqrt_half = _mm256_set1_epi64x(std::f64::consts::FRAC_1_SQRT_2.to_bits() as i64);
            // No 64-bit arithmetic shift here: the exponent sits in the high halves, which 32-bit ones shift.
            let high = _mm256_srai_epi32::<20>(_mm256_sub_epi64(bits, sqrt_half));
            let exponent = _mm256_cvtepi32_epi64(narrow(_mm256_srli_epi64::<32>(high)));
            let mantissa = _mm256_sub_epi64(bits, _mm256_slli_epi64::<52>(exponent));
            (_mm256_castsi256_pd(mantissa), _mm256_cvtepi32_pd(narrow(exponent)))
        }
    }
    #[inline(always)]
    fn greater(self, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm256_cmp_pd::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __m256d, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm256_blendv_pd(b, a, mask) }
    }
    #[inline(always)]
    fn zero_where_less(self, v: __m256d, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { _mm256_and_pd(_mm256_cmp_pd::<_CMP_NLT_UQ>(a, b), v) }
    }
}

/// The low 32 bits of four 64-bit lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn narrow(v: __m256i) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        let order = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
        _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(v, order))
    }
}

impl Simd<f32> for Avx512 {
    type V = __m512;
    type M = __mmask16;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;

    memory!(f32, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps);
    intrinsics! {
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        fma(a, b, c) = _mm512_fmadd_ps;
        fnma(a, b, c) = _mm512_fnmadd_ps;
        min(a, b) = _mm512_min_ps;
        max(a, b) = _mm512_max_ps;
        scale(v, k) = _mm512_scalef_ps;
    }
    #[inline(always)]
    fn round(self, v: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn add_exponent(self, v: __m512, shifted: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), exponent))
        }
    }
    #[inline(always)]
    fn split(self, v: __m512) -> (__m512, __m512) {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let sqrt_half = _mm512_set1_epi32(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32);
            let exponent = _mm512_srai_epi32::<23>(_mm512_sub_epi32(bits, sqrt_half));
            let mantissa = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(exponent));
            (_mm512_castsi512_ps(mantissa), _mm512_cvtepi32_ps(exponent))
        }
    }
    #[inline(always)]
    fn greater(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }
    #[inline(always)]
    fn zero_where_less(self, v: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b), v) }
    }
}

impl Simd<f64> for Avx512 {
    type V = __m512d;
    type M = __mmask8;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 12;

    memory!(f64, _mm512_set1_pd, _mm512_loadu_pd, _mm512_storeu_pd);
    intrinsics! {
        add(a, b) = _mm512_add_pd;
        sub(a, b) = _mm512_sub_pd;
        mul(a, b) = _mm512_mul_pd;
        div(a, b) = _mm512_div_pd;
        fma(a, b, c) = _mm512_fmadd_pd;
        fnma(a, b, c) = _mm512_fnmadd_pd;
        min(a, b) = _mm512_min_pd;
        max(a, b) = _mm512_max_pd;
        scale(v, k) = _mm512_scalef_pd;
    }
    #[inline(always)]
    fn round(self, v: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_roundscale_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn add_exponent(self, v: __m512d, shifted: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let exponent = _mm512_slli_epi64::<52>(_mm512_castpd_si512(shifted));
            _mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(v), exponent))
        }
    }
    #[inline(always)]
    fn split(self, v: __m512d) -> (__m512d, __m512d) {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let bits = _mm512_castpd_si512(v);
            let sqrt_half = _mm512_set1_epi64(std::f64::consts::FRAC_1_SQRT_2.to_bits() as i64);
            let exponent = _mm512_srai_epi64::<52>(_mm512_sub_epi64(bits, sqrt_half));
            let mantissa = _mm512_sub_epi64(bits, _mm512_slli_epi64::<52>(exponent));
            (_mm512_castsi512_pd(mantissa), _mm512_cvtepi64_pd(exponent))
        }
    }
    #[inline(always)]
    fn greater(self, a: __m512d, b: __m512d) -> __mmask8 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_cmp_pd_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __mmask8, a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_mask_blend_pd(mask, b, a) }
    }
    #[inline(always)]
    fn zero_where_less(self, v: __m512d, a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { _mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_NLT_UQ>(a, b), v) }
    }
}
