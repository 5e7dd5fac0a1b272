//! Everything that depends on the processor: the instruction sets, vector mathematics, and the kernels,
//! each written once over [`Simd`] and instantiated per instruction set by [`Isa::dispatch`].
//!
//! This is the one room of the core where `unsafe` lives; its entry points take views and check them.

// Kernels walk several small arrays of vectors by one index.
#![allow(clippy::needless_range_loop)]

pub mod conv;
pub mod convert;
pub mod linear;
pub mod math;
pub mod scan;
pub mod segment;
pub mod system;
pub mod team;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use half::{bf16, f16};

use crate::ops::CHANNEL_BLOCK;
use crate::tensor::Element;
use linear::Product;

/// Floating-point types the kernels compute in.
pub trait Real: Storage<Real = Self> + math::Constants {
    /// Runs `kernel` with the instructions of `isa`.
    fn dispatch<K: Kernel<Self>>(isa: Isa, kernel: K) -> K::Output;
    /// Lanes of a vector of this type with the instructions of `isa`.
    fn lanes(isa: Isa) -> usize;
}

/// Types that weights are stored in, each with the type that kernels compute in.
pub trait Storage: Element {
    /// What it is widened to.
    type Real: Real;
    /// The functions of a layer of this type.
    type Functions: math::Functions<Self::Real>;
    /// Steps of k that lie side by side for each column of a panel of weights.
    const STEPS: usize = 1;
    /// A vector of `from`'s values, widened.
    ///
    /// # Safety
    /// `LANES` elements at `from` are readable.
    unsafe fn load<S: Simd<Self::Real>>(s: S, from: *const Self) -> S::V;
    /// The nearest values of `v`'s, ties to even; NaN stays one.
    ///
    /// # Safety
    /// `LANES` elements at `to` are writable.
    unsafe fn store<S: Simd<Self::Real>>(s: S, to: *mut Self, v: S::V);
    /// For a vector of columns whose `STEPS` steps each lie side by side: the weights of one step, widened.
    ///
    /// # Safety
    /// `STEPS` · `LANES` elements at `from` are readable.
    #[inline(always)]
    unsafe fn load_step<S: Simd<Self::Real>>(s: S, from: *const Self, _step: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { Self::load(s, from) }
    }
    /// Whether products with the instructions of `isa` take rows that are packed.
    fn is_packed(_isa: Isa) -> bool {
        false
    }
    /// Runs a product with the instructions of `isa`.
    fn multiply(isa: Isa, product: Product<'_, '_, '_, Self>) {
        isa.dispatch(product);
    }
}

/// A piece of work written once for all instruction sets.
pub trait Kernel<T: Real> {
    /// What it returns.
    type Output;
    /// The work. Implementations are `#[inline(always)]`, and so is all they call with vectors, so that
    /// everything is compiled inside the function that enables the instruction set: closures given to
    /// iterators are not.
    fn run<S: Simd<T>>(self, simd: S) -> Self::Output;
}

/// Vector operations of one instruction set on elements `T`. A value exists only where the processor
/// has the instructions, which is what makes the arithmetic methods safe to call.
///
/// Scalars that kernels need (tails, tables) go through the same vectors, so that body and tail agree.
pub trait Simd<T: Real>: Copy {
    /// A vector register.
    type V: Copy;
    /// Elements in a register.
    const LANES: usize;
    /// Rows of the tile of accumulators that the product with packed weights keeps in registers.
    const TILE_ROWS: usize;
    /// Vectors that chains of operations are worked on side by side: enough to hide their latency, few enough
    /// for the registers.
    const CHAINS: usize;

    /// All lanes `value`.
    fn splat(self, value: T) -> Self::V;
    /// # Safety
    /// `LANES` elements at `from` are readable.
    unsafe fn load(self, from: *const T) -> Self::V;
    /// # Safety
    /// `LANES` elements at `to` are writable.
    unsafe fn store(self, to: *mut T, v: Self::V);
    /// The values at `from`, widened.
    ///
    /// # Safety
    /// `LANES` elements at `from` are readable.
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { convert::load_each(self, from, |v| T::from_f64(v.to_f64())) }
    }
    /// The nearest values, ties to even; NaN stays one.
    ///
    /// # Safety
    /// `LANES` elements at `to` are writable.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { convert::store_each(self, to, v, |v| Element::from_f64(v.to_f64())) }
    }
    /// The even values at `from`, or else the odd ones, widened.
    ///
    /// # Safety
    /// `2 · LANES` elements at `from` are readable.
    #[inline(always)]
    unsafe fn load_alternate_bf16(self, from: *const bf16, odd: bool) -> Self::V {
        // SAFETY: the caller's promise; an unaligned read of two elements at once.
        unsafe {
            convert::load_each(self, from.cast::<[bf16; 2]>(), |pair| {
                T::from_f64(pair[usize::from(odd)].to_f64())
            })
        }
    }
    /// As `load_bf16`.
    ///
    /// # Safety
    /// `LANES` elements at `from` are readable.
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { convert::load_each(self, from, |v| T::from_f64(v.to_f64())) }
    }
    /// As `store_bf16`.
    ///
    /// # Safety
    /// `LANES` elements at `to` are writable.
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { convert::store_each(self, to, v, |v| Element::from_f64(v.to_f64())) }
    }
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, in one rounding where the instruction set has it.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c − a · b`, in one rounding where the instruction set has it.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller lane; NaN where `b` is.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger lane; NaN where `b` is.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `−v`
    fn neg(self, v: Self::V) -> Self::V;
    /// `v · 2^k` for normal `v` and results, where the low bits of `shifted` hold `k` (see
    /// [`Constants::SHIFT`](math::Constants::SHIFT)).
    fn add_exponent(self, v: Self::V, shifted: Self::V) -> Self::V;
    /// `v`, but 0 where `a < b`; `v` where either is NaN.
    fn zero_where_less(self, v: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// The whole number nearest to `v · w`, for [`scale`](Simd::scale) alone, and what remains, at most ½ either way.
    #[inline(always)]
    fn split(self, v: Self::V, w: Self::V) -> (Self::V, Self::V) {
        let shift = self.splat(T::SHIFT);
        let shifted = self.fma(v, w, shift);
        (shifted, self.fma(v, w, self.sub(shift, shifted)))
    }
    /// `v · 2^whole` for `v` around 1, where the exponent exists; 0 or a denormal number below the normal range. A NaN comes
    /// out as one if it has no payload.
    #[inline(always)]
    fn scale(self, v: Self::V, whole: Self::V) -> Self::V {
        let lowest = T::from_f64(T::SHIFT.to_f64() + T::LOWEST_EXPONENT.to_f64());
        self.zero_where_less(self.add_exponent(v, whole), whole, self.splat(lowest))
    }
    /// `1 / v` within 2^−14 of it, or 0 where that is denormal.
    #[inline(always)]
    fn short_reciprocal(self, v: Self::V) -> Self::V {
        self.div(self.splat(T::ONE), v)
    }
}

/// `N` vectors as one. Each operation is done to all of them before the next one is, so that as many chains of
/// dependent operations overlap.
#[derive(Clone, Copy)]
pub struct Many<S, const N: usize>(pub S);

macro_rules! each {
    ($($name:ident($first:ident $(, $rest:ident)*);)*) => {$(
        #[inline(always)]
        fn $name(self, mut $first: Self::V $(, $rest: Self::V)*) -> Self::V {
            for i in 0..N {
                $first[i] = self.0.$name($first[i] $(, $rest[i])*);
            }
            $first
        }
    )*};
}

macro_rules! each_in_memory {
    ($($load:ident, $store:ident: $t:ty;)*) => {$(
        #[inline(always)]
        unsafe fn $load(self, from: *const $t) -> Self::V {
            // SAFETY: the caller's promise of `N` vectors.
            unsafe {
                let mut v = [self.0.$load(from); N];
                for i in 1..N {
                    v[i] = self.0.$load(from.add(i * S::LANES));
                }
                v
            }
        }
        #[inline(always)]
        unsafe fn $store(self, to: *mut $t, v: Self::V) {
            for i in 0..N {
                // SAFETY: the caller's promise of `N` vectors.
                unsafe { self.0.$store(to.add(i * S::LANES), v[i]) }
            }
        }
    )*};
}

impl<T: Real, S: Simd<T>, const N: usize> Simd<T> for Many<S, N> {
    type V = [S::V; N];
    const LANES: usize = N * S::LANES;
    const TILE_ROWS: usize = S::TILE_ROWS;
    const CHAINS: usize = S::CHAINS;

    each! {
        add(a, b);
        sub(a, b);
        mul(a, b);
        div(a, b);
        fma(a, b, c);
        fnma(a, b, c);
        min(a, b);
        max(a, b);
        neg(v);
        add_exponent(v, shifted);
        zero_where_less(v, a, b);
        scale(v, whole);
        short_reciprocal(v);
    }
    #[inline(always)]
    fn split(self, mut v: Self::V, mut w: Self::V) -> (Self::V, Self::V) {
        for i in 0..N {
            (v[i], w[i]) = self.0.split(v[i], w[i]);
        }
        (v, w)
    }
    #[inline(always)]
    fn splat(self, value: T) -> Self::V {
        [self.0.splat(value); N]
    }
    each_in_memory! {
        load, store: T;
        load_bf16, store_bf16: bf16;
        load_f16, store_f16: f16;
    }
}

/// What runs on vectors as long as a block of channels, whatever registers they take.
trait BlockKernel<T: Real>: Sized {
    /// `B` is such a vector, and `G` of them are as many as should be worked on together.
    fn run_blocks<B: Simd<T>, const G: usize>(self, block: B);

    /// Runs with as many registers of `S` as a block takes.
    #[inline(always)]
    fn run_registers<S: Simd<T>>(self, s: S) {
        match (CHANNEL_BLOCK / S::LANES, S::CHAINS * S::LANES / CHANNEL_BLOCK) {
            (1, 4..) => self.run_blocks::<_, 4>(Many::<S, 1>(s)),
            (1, _) => self.run_blocks::<_, 2>(Many::<S, 1>(s)),
            (2, 2..) => self.run_blocks::<_, 2>(Many::<S, 2>(s)),
            (2, _) => self.run_blocks::<_, 1>(Many::<S, 2>(s)),
            (4, _) => self.run_blocks::<_, 1>(Many::<S, 4>(s)),
            (registers, _) => {
                assert_eq!(registers, 8);
                self.run_blocks::<_, 1>(Many::<S, 8>(s));
            }
        }
    }
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512, but for products of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512, but for products of bf16.
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// Every instruction set that this processor has, the fastest first; the portable one is always there.
    pub fn available() -> Vec<Isa> {
        let kinds = [
            #[cfg(target_arch = "x86_64")]
            (Kind::Amx, amx::has_amx()),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512Bf16, x86::has_avx512bf16()),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512, x86::has_avx512()),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2, x86::has_avx2()),
            #[cfg(target_arch = "aarch64")]
            (Kind::Neon, true),
            (Kind::Portable, true),
        ];
        kinds.into_iter().filter(|(_, here)| *here).map(|(kind, _)| Isa(kind)).collect()
    }

    /// What layers are created with: the fastest, or the one that `LITE_MAMBA_ISA` names if the processor
    /// has it. Decided at the first call.
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let available = Isa::available();
            let wanted = crate::environment::isa();
            available
                .iter()
                .copied()
                .find(|isa| Some(isa.name()) == wanted.as_deref())
                .unwrap_or(available[0])
        })
    }

    /// `portable`, `avx2`, `avx512`, `avx512bf16`, `amx` or `neon`: what `LITE_MAMBA_ISA` takes.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }

    /// Runs `kernel` with these instructions.
    pub fn dispatch<T: Real, K: Kernel<T>>(self, kernel: K) -> K::Output {
        T::dispatch(self, kernel)
    }
}

macro_rules! real {
    ($t:ty) => {
        impl Real for $t {
            fn dispatch<K: Kernel<Self>>(isa: Isa, kernel: K) -> K::Output {
                match isa.0 {
                    Kind::Portable => kernel.run(portable::Portable),
                    // SAFETY: an `Isa` of this kind is only made where the processor has the instructions.
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2 => unsafe { x86::dispatch_avx2(kernel) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx512 | Kind::Avx512Bf16 | Kind::Amx => unsafe { x86::dispatch_avx512(kernel) },
                    #[cfg(target_arch = "aarch64")]
                    Kind::Neon => kernel.run(neon::Neon),
                }
            }
            fn lanes(isa: Isa) -> usize {
                struct Lanes;
                impl Kernel<$t> for Lanes {
                    type Output = usize;
                    fn run<S: Simd<$t>>(self, _: S) -> usize {
                        S::LANES
                    }
                }
                Self::dispatch(isa, Lanes)
            }
        }
        impl Storage for $t {
            type Real = $t;
            type Functions = math::Full;
            #[inline(always)]
            unsafe fn load<S: Simd<$t>>(s: S, from: *const $t) -> S::V {
                // SAFETY: the caller's promise.
                unsafe { s.load(from) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd<$t>>(s: S, to: *mut $t, v: S::V) {
                // SAFETY: the caller's promise.
                unsafe { s.store(to, v) }
            }
        }
    };
}
real!(f32);
real!(f64);

impl Storage for bf16 {
    type Real = f32;
    type Functions = math::Short;
    const STEPS: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd<f32>>(s: S, from: *const bf16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd<f32>>(s: S, to: *mut bf16, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store_bf16(to, v) }
    }
    #[inline(always)]
    unsafe fn load_step<S: Simd<f32>>(s: S, from: *const bf16, step: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_alternate_bf16(from, step == 1) }
    }
    #[cfg(target_arch = "x86_64")]
    fn is_packed(isa: Isa) -> bool {
        matches!(isa.0, Kind::Avx512Bf16 | Kind::Amx)
    }
    #[cfg(target_arch = "x86_64")]
    fn multiply(isa: Isa, product: Product<'_, '_, '_, bf16>) {
        match isa.0 {
            // SAFETY: an `Isa` of this kind is only made where the processor has the instructions.
            Kind::Avx512Bf16 => unsafe { x86::multiply_pairs(product.pairs()) },
            // SAFETY: as above.
            Kind::Amx => unsafe { amx::multiply_pairs(product.pairs()) },
            _ => isa.dispatch(product),
        }
    }
}

impl Storage for f16 {
    type Real = f32;
    type Functions = math::Full;
    #[inline(always)]
    unsafe fn load<S: Simd<f32>>(s: S, from: *const f16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd<f32>>(s: S, to: *mut f16, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store_f16(to, v) }
    }
}
