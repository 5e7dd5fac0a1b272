//! Everything that depends on the processor: the instruction sets, vector mathematics, and the kernels,
//! each written once over [`Simd`] and instantiated per instruction set by [`Isa::dispatch`].
//!
//! This is the one room of the core where `unsafe` lives; its entry points take views and check them.

// Kernels walk several small arrays of vectors by one index.
#![allow(clippy::needless_range_loop)]

pub mod conv;
pub mod linear;
pub mod math;
pub mod scan;
pub mod segment;
pub mod system;
pub mod team;

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use half::{bf16, f16};

use crate::ops::CHANNEL_BLOCK;
use crate::tensor::Element;

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
    /// A vector of `from`'s values, widened.
    ///
    /// # Safety
    /// `LANES` elements at `from` are readable.
    unsafe fn load<S: Simd<Self::Real>>(s: S, from: *const Self) -> S::V;
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
        unsafe { widen(self, from) }
    }
    /// The values at `from`, widened.
    ///
    /// # Safety
    /// `LANES` elements at `from` are readable.
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { widen(self, from) }
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
}

/// A vector of `from`'s values, one by one.
///
/// # Safety
/// `LANES` elements at `from` are readable.
#[inline(always)]
unsafe fn widen<T: Real, S: Simd<T>>(s: S, from: *const impl Element) -> S::V {
    const MOST: usize = 8 * CHANNEL_BLOCK;
    assert!(S::LANES <= MOST);
    let mut values = [T::ZERO; MOST];
    // SAFETY: the caller's promise, and the array is long enough.
    unsafe {
        for i in 0..S::LANES {
            values[i] = T::from_f64((*from.add(i)).to_f64());
        }
        s.load(values.as_ptr())
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
    }
    #[inline(always)]
    fn splat(self, value: T) -> Self::V {
        [self.0.splat(value); N]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const T) -> Self::V {
        // SAFETY: the caller's promise of `N` vectors.
        unsafe {
            let mut v = [self.0.load(from); N];
            for i in 1..N {
                v[i] = self.0.load(from.add(i * S::LANES));
            }
            v
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut T, v: Self::V) {
        for i in 0..N {
            // SAFETY: the caller's promise of `N` vectors.
            unsafe { self.0.store(to.add(i * S::LANES), v[i]) }
        }
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
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// Every instruction set that this processor has, the fastest first; the portable one is always there.
    pub fn available() -> Vec<Isa> {
        let kinds = [
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

    /// `portable`, `avx2`, `avx512` or `neon`: what `LITE_MAMBA_ISA` takes.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
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
                    Kind::Avx512 => unsafe { x86::dispatch_avx512(kernel) },
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
            #[inline(always)]
            unsafe fn load<S: Simd<$t>>(s: S, from: *const $t) -> S::V {
                // SAFETY: the caller's promise.
                unsafe { s.load(from) }
            }
        }
    };
}
real!(f32);
real!(f64);

impl Storage for bf16 {
    type Real = f32;
    #[inline(always)]
    unsafe fn load<S: Simd<f32>>(s: S, from: *const bf16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(from) }
    }
}

impl Storage for f16 {
    type Real = f32;
    #[inline(always)]
    unsafe fn load<S: Simd<f32>>(s: S, from: *const f16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(from) }
    }
}
