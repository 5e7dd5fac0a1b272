//! AVX2 with FMA and F16C, and AVX-512 (F, DQ, BW, VL).

use core::arch::x86_64::*;

use half::{bf16, f16};

use super::linear::{Product, Step};
use super::system::DefaultFpEnv;
use super::{Kernel, Real, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// Proof that the processor has AVX-512 F, DQ, BW and VL.
#[derive(Clone, Copy)]
pub struct Avx512(());

pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

pub fn has_avx512bf16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bf16")
}

/// # Safety
/// [`has_avx2`]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dispatch_avx2<T: Real, K: Kernel<T>>(kernel: K) -> K::Output
where
    Avx2: Simd<T>,
{
    kernel.run(Avx2(()))
}

/// # Safety
/// [`has_avx512`]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
pub unsafe fn dispatch_avx512<T: Real, K: Kernel<T>>(kernel: K) -> K::Output
where
    Avx512: Simd<T>,
{
    kernel.run(Avx512(()))
}

/// Proof that the processor has AVX-512 BF16.
#[derive(Clone, Copy)]
struct Pairs(());

impl Step<f32, Avx512> for Pairs {
    type Sum = __m512;
    #[inline(always)]
    fn begin(self, _: Avx512, sum: __m512) -> __m512 {
        sum
    }
    #[inline(always)]
    fn add(self, _: Avx512, x: __m512, weights: __m512, sum: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instruction; the types are names for the same bits.
        unsafe {
            let x = std::mem::transmute::<__m512, __m512bh>(x);
            let weights = std::mem::transmute::<__m512, __m512bh>(weights);
            _mm512_dpbf16_ps(sum, x, weights)
        }
    }
    #[inline(always)]
    fn end(self, _: Avx512, sum: __m512) -> __m512 {
        sum
    }
}

/// A product of pairs of bf16, each in the bits of an f32. Denormals in factors and in sums are zero.
///
/// # Safety
/// [`has_avx512bf16`]
#[target_feature(enable = "avx512bf16,avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
pub unsafe fn multiply_pairs(product: Product<'_, '_, '_, f32>) {
    product.run_steps(Avx512(()), Pairs(()));
}

/// The sums of AMX without it, to the bit: of 16 pairs of k, the products of the first in each and those of the second
/// are summed apart before they are added.
#[derive(Clone, Copy)]
struct Apart;

impl Step<f32, Avx512> for Apart {
    type Sum = [__m512; 3];
    #[inline(always)]
    fn begin(self, s: Avx512, sum: __m512) -> [__m512; 3] {
        let zero = s.splat(0.0f32);
        [sum, zero, zero]
    }
    #[inline(always)]
    fn add(self, _: Avx512, x: __m512, weights: __m512, [sum, even, odd]: [__m512; 3]) -> [__m512; 3] {
        // SAFETY: the argument exists, so the processor has the instructions.
        unsafe {
            let even = _mm512_fmadd_ps(first_of_pairs(x), first_of_pairs(weights), even);
            let odd = _mm512_fmadd_ps(second_of_pairs(x), second_of_pairs(weights), odd);
            [sum, even, odd]
        }
    }
    #[inline(always)]
    fn end(self, _: Avx512, [sum, even, odd]: [__m512; 3]) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(sum, _mm512_add_ps(even, odd)) }
    }
}

/// The lower halves of 32 bits, widened.
#[inline(always)]
unsafe fn first_of_pairs(pairs: __m512) -> __m512 {
    // SAFETY: the caller's promise of AVX-512.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(pairs))) }
}

/// The upper halves of 32 bits, widened.
#[inline(always)]
unsafe fn second_of_pairs(pairs: __m512) -> __m512 {
    // SAFETY: the caller's promise of AVX-512.
    unsafe {
        let upper = _mm512_set1_epi32(0xffff << 16);
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), upper))
    }
}

/// As [`multiply_pairs`], with the bits of [`super::amx::multiply_pairs`].
///
/// # Safety
/// [`has_avx512`]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
pub unsafe fn multiply_pairs_apart(product: Product<'_, '_, '_, f32>) {
    let _flushed = DefaultFpEnv::without_denormals();
    product.run_steps(Avx512(()), Apart);
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
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instructions; and the caller's promise.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: __m256) {
        // SAFETY: `self` exists, so the processor has the instructions; and the caller's promise.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let cut = _mm256_srli_epi32::<16>(bits);
            // Just under half of the last bit, and the rest of it where the last bit is odd.
            let odd = _mm256_and_si256(cut, _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let nearest = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let quiet = _mm256_or_si256(cut, _mm256_set1_epi32(0x40));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let wide = _mm256_blendv_epi8(nearest, quiet, is_nan);
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(wide, wide));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    unsafe fn load_alternate_bf16(self, from: *const bf16, odd: bool) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instructions; and the caller's promise.
        unsafe {
            let pairs = _mm256_loadu_si256(from.cast());
            let wide = match odd {
                false => _mm256_slli_epi32::<16>(pairs),
                true => _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff << 16)),
            };
            _mm256_castsi256_ps(wide)
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        // SAFETY: `self` exists, so the processor has the instruction; and the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: __m256) {
        // SAFETY: `self` exists, so the processor has the instruction; and the caller's promise.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
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

/// Of `reduce`: what remains beside the nearest whole number.
const NEAREST_WHOLE: i32 = _MM_FROUND_TO_NEAREST_INT;

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
    #[inline(always)]
    fn split(self, v: __m512, w: __m512) -> (__m512, __m512) {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let product = _mm512_mul_ps(v, w);
            let rest = _mm512_reduce_ps::<NEAREST_WHOLE>(product);
            (_mm512_sub_ps(product, rest), rest)
        }
    }
    #[inline(always)]
    fn scale(self, v: __m512, whole: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_scalef_ps(v, whole) }
    }
    #[inline(always)]
    fn short_reciprocal(self, v: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_rcp14_ps(v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instructions; and the caller's promise.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: __m512) {
        // SAFETY: `self` exists, so the processor has the instructions; and the caller's promise.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let cut = _mm512_srli_epi32::<16>(bits);
            // Just under half of the last bit, and the rest of it where the last bit is odd.
            let odd = _mm512_and_si512(cut, _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let nearest = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let wide = _mm512_mask_or_epi32(nearest, is_nan, cut, _mm512_set1_epi32(0x40));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(wide));
        }
    }
    #[inline(always)]
    unsafe fn load_alternate_bf16(self, from: *const bf16, odd: bool) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instructions; and the caller's promise.
        unsafe {
            let pairs = _mm512_loadu_ps(from.cast());
            if odd { second_of_pairs(pairs) } else { first_of_pairs(pairs) }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        // SAFETY: `self` exists, so the processor has the instruction; and the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: __m512) {
        // SAFETY: `self` exists, so the processor has the instruction; and the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
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
    #[inline(always)]
    fn split(self, v: __m512d, w: __m512d) -> (__m512d, __m512d) {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let product = _mm512_mul_pd(v, w);
            let rest = _mm512_reduce_pd::<NEAREST_WHOLE>(product);
            (_mm512_sub_pd(product, rest), rest)
        }
    }
    #[inline(always)]
    fn scale(self, v: __m512d, whole: __m512d) -> __m512d {
        // SAFETY: `self` exists, so the processor has the instruction.
        unsafe { _mm512_scalef_pd(v, whole) }
    }
}
