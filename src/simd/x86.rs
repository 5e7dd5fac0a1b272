//! AVX2 with FMA, and AVX-512 (F, DQ, BW, VL).

use core::arch::x86_64::*;

use super::{Kernel, Real, Simd};

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
pub unsafe fn dispatch_avx2<T: Real, K: Kernel<T>>(kernel: K) -> K::Output
where
    Avx2: Simd<T>,
{
    kernel.run(Avx2(()))
}

/// # Safety
/// [`has_avx512`]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub unsafe fn dispatch_avx512<T: Real, K: Kernel<T>>(kernel: K) -> K::Output
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
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;
    const CHAINS: usize = 4;

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
    fn neg(self, v: __m256) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm256_xor_ps(v, _mm256_set1_ps(-0.0)) }
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
    fn zero_where_less(self, v: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(a, b), v) }
    }
}

impl Simd<f64> for Avx2 {
    type V = __m256d;
    const LANES: usize = 4;
    const TILE_ROWS: usize = 6;
    const CHAINS: usize = 4;

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
    fn neg(self, v: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm256_xor_pd(v, _mm256_set1_pd(-0.0)) }
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
    fn zero_where_less(self, v: __m256d, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { _mm256_and_pd(_mm256_cmp_pd::<_CMP_NLT_UQ>(a, b), v) }
    }
}

impl Simd<f32> for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;
    const CHAINS: usize = 4;

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
    }
    #[inline(always)]
    fn neg(self, v: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_xor_ps(v, _mm512_set1_ps(-0.0)) }
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
    fn zero_where_less(self, v: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            // As integers, so that the compiler merges it with the addition of `add_exponent`.
            let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b);
            _mm512_castsi512_ps(_mm512_maskz_mov_epi32(keep, _mm512_castps_si512(v)))
        }
    }
}

impl Simd<f64> for Avx512 {
    type V = __m512d;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 12;
    const CHAINS: usize = 4;

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
    }
    #[inline(always)]
    fn neg(self, v: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_xor_pd(v, _mm512_set1_pd(-0.0)) }
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
    fn zero_where_less(self, v: __m512d, a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let keep = _mm512_cmp_pd_mask::<_CMP_NLT_UQ>(a, b);
            _mm512_castsi512_pd(_mm512_maskz_mov_epi64(keep, _mm512_castpd_si512(v)))
        }
    }
}
