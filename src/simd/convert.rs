//! Values of one type as those of another.

use std::any::TypeId;

use half::{bf16, f16};

use super::{Isa, Kernel, Real, Simd, Storage};
use crate::ops::CHANNEL_BLOCK;
use crate::tensor::Element;

/// Lanes of the longest vector, of [`super::Many`].
const MOST_LANES: usize = 8 * CHANNEL_BLOCK;

/// Writes the nearest value of type `B`, ties to even, for each of `from`: the same bits where the type is the same.
///
/// # Panics
/// If the slices differ in length.
pub fn convert<A: Storage, B: Storage>(isa: Isa, from: &[A], to: &mut [B]) {
    assert_eq!(from.len(), to.len());
    if let Some(from) = same(from) {
        to.copy_from_slice(from);
    } else if let Some(from) = same::<A, B::Real>(from) {
        isa.dispatch(Narrow { from, to });
    } else if let Some(to) = same_mut::<B, A::Real>(to) {
        isa.dispatch(Widen { from, to });
    } else {
        for (from, to) in from.iter().zip(to) {
            *to = from.convert();
        }
    }
}

/// `slice`, if `A` is `B`.
fn same<A: 'static, B: 'static>(slice: &[A]) -> Option<&[B]> {
    let is_same = TypeId::of::<A>() == TypeId::of::<B>();
    // SAFETY: the types are the same one.
    is_same.then(|| unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), slice.len()) })
}

/// `slice`, if `A` is `B`.
fn same_mut<A: 'static, B: 'static>(slice: &mut [A]) -> Option<&mut [B]> {
    let is_same = TypeId::of::<A>() == TypeId::of::<B>();
    // SAFETY: the types are the same one.
    is_same.then(|| unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr().cast(), slice.len()) })
}

/// What is computed in out of what is stored.
struct Widen<'a, W: Storage> {
    from: &'a [W],
    to: &'a mut [W::Real],
}

impl<W: Storage> Kernel<W::Real> for Widen<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<W::Real>>(self, s: S) {
        let whole = self.from.len() / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            let (from, to) = (&self.from[i..i + S::LANES], &mut self.to[i..i + S::LANES]);
            // SAFETY: both are as long as a vector.
            unsafe { s.store(to.as_mut_ptr(), W::load(s, from.as_ptr())) }
        }
        for (from, to) in self.from[whole..].iter().zip(&mut self.to[whole..]) {
            *to = from.convert();
        }
    }
}

/// What is stored out of what is computed in.
struct Narrow<'a, W: Storage> {
    from: &'a [W::Real],
    to: &'a mut [W],
}

impl<W: Storage> Kernel<W::Real> for Narrow<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<W::Real>>(self, s: S) {
        let whole = self.from.len() / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            let (from, to) = (&self.from[i..i + S::LANES], &mut self.to[i..i + S::LANES]);
            // SAFETY: both are as long as a vector.
            unsafe { W::store(s, to.as_mut_ptr(), s.load(from.as_ptr())) }
        }
        for (from, to) in self.from[whole..].iter().zip(&mut self.to[whole..]) {
            *to = from.convert();
        }
    }
}

/// A vector of what `widen` makes of each value at `from`.
///
/// # Safety
/// `LANES` elements at `from` are readable.
#[inline(always)]
pub(super) unsafe fn load_each<T: Real, S: Simd<T>, W: Copy>(
    s: S,
    from: *const W,
    widen: impl Fn(W) -> T,
) -> S::V {
    assert!(S::LANES <= MOST_LANES);
    let mut values = [T::ZERO; MOST_LANES];
    // SAFETY: the caller's promise, and the array is long enough.
    unsafe {
        for i in 0..S::LANES {
            values[i] = widen(*from.add(i));
        }
        s.load(values.as_ptr())
    }
}

/// Writes what `narrow` makes of each value of a vector.
///
/// # Safety
/// `LANES` elements at `to` are writable.
#[inline(always)]
pub(super) unsafe fn store_each<T: Real, S: Simd<T>, W>(s: S, to: *mut W, v: S::V, narrow: impl Fn(T) -> W) {
    assert!(S::LANES <= MOST_LANES);
    let mut values = [T::ZERO; MOST_LANES];
    // SAFETY: the caller's promise, and the array is long enough.
    unsafe {
        s.store(values.as_mut_ptr(), v);
        for i in 0..S::LANES {
            to.add(i).write(narrow(values[i]));
        }
    }
}

/// The loads and stores of a [`Simd`] of f32 whose instruction set has none for the half types: without a branch, so
/// that the compiler vectorises them.
macro_rules! half_types {
    () => {
        #[inline(always)]
        unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
            // SAFETY: the caller's promise.
            unsafe { $crate::simd::convert::load_each(self, from, $crate::simd::convert::of_bf16) }
        }
        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
            // SAFETY: the caller's promise.
            unsafe { $crate::simd::convert::store_each(self, to, v, $crate::simd::convert::to_bf16) }
        }
        #[inline(always)]
        unsafe fn load_alternate_bf16(self, from: *const bf16, odd: bool) -> Self::V {
            // SAFETY: the caller's promise.
            unsafe {
                $crate::simd::convert::load_each(self, from.cast::<[bf16; 2]>(), |pair| {
                    $crate::simd::convert::of_bf16(pair[usize::from(odd)])
                })
            }
        }
        #[inline(always)]
        unsafe fn load_f16(self, from: *const f16) -> Self::V {
            // SAFETY: the caller's promise.
            unsafe { $crate::simd::convert::load_each(self, from, $crate::simd::convert::of_f16) }
        }
        #[inline(always)]
        unsafe fn store_f16(self, to: *mut f16, v: Self::V) {
            // SAFETY: the caller's promise.
            unsafe { $crate::simd::convert::store_each(self, to, v, $crate::simd::convert::to_f16) }
        }
    };
}
pub(super) use half_types;

/// The same value.
#[inline(always)]
pub(super) fn of_bf16(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

/// The nearest value, ties to even.
#[inline(always)]
pub(super) fn to_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let cut = bits >> 16;
    // Just under half of the last bit, and the rest of it where the last bit is odd.
    let nearest = bits.wrapping_add(0x7fff + (cut & 1)) >> 16;
    bf16::from_bits(if value.is_nan() { cut | 0x40 } else { nearest } as u16)
}

/// The same value.
#[inline(always)]
pub(super) fn of_f16(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    // The exponents of f32 begin 112 lower. The product makes denormals normal.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let special = if magnitude >= 0x1f << 23 { f32::INFINITY.to_bits() } else { 0 };
    f32::from_bits(scaled | special | (bits & 0x8000) << 16)
}

/// The nearest value, ties to even.
#[inline(always)]
pub(super) fn to_f16(value: f32) -> f16 {
    let bits = value.to_bits();
    let (magnitude, sign) = (bits & 0x7fff_ffff, bits >> 16 & 0x8000);
    // Half of a last bit more rounds up, and no less if the last bit is odd.
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    // 1/2 has the spacing of denormals: the sum rounds to a whole number of them.
    let denormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let special = if value.is_nan() { 0x7e00 | magnitude >> 13 & 0x3ff } else { 0x7c00 };
    let nearest = if magnitude < (127 - 14) << 23 { denormal } else { normal };
    f16::from_bits((sign | if magnitude >= (127 + 16) << 23 { special } else { nearest }) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted<A: Storage, B: Storage>(isa: Isa, from: &[A]) -> Vec<B> {
        let mut to = vec![B::default(); from.len()];
        convert(isa, from, &mut to);
        to
    }

    fn all<W>(of_bits: impl Fn(u16) -> W) -> Vec<W> {
        (0..=u16::MAX).map(of_bits).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        // A NaN may be quiet or not.
        let quiet = |v: &f32| if v.is_nan() { v.to_bits() | 1 << 22 } else { v.to_bits() };
        values.iter().map(quiet).collect()
    }

    #[test]
    fn every_half_is_widened_to_itself() {
        let (brains, halves) = (all(bf16::from_bits), all(f16::from_bits));
        let of_brains: Vec<f32> = brains.iter().map(|v| v.to_f32()).collect();
        let of_halves: Vec<f32> = halves.iter().map(|v| v.to_f32()).collect();
        for isa in Isa::available() {
            assert!(bits(&converted(isa, &brains)) == bits(&of_brains), "bf16 with {}", isa.name());
            assert!(bits(&converted(isa, &halves)) == bits(&of_halves), "f16 with {}", isa.name());
        }
    }

    /// Around every value of either type and every middle between two, and then all over.
    #[test]
    fn f32_is_rounded_to_the_nearest() {
        let ends = [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x7fff, 0x8000, 0x8001, 0xffff];
        let around = (0..=u16::MAX).flat_map(|high| ends.map(|low| u32::from(high) << 16 | low));
        let all_over = (0..1 << 20).map(|i: u32| i.wrapping_mul(0x9e37_79b1));
        let values: Vec<f32> = around.chain(all_over).map(f32::from_bits).collect();
        let to_brains: Vec<u16> = values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
        let to_halves: Vec<u16> = values.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
        for isa in Isa::available() {
            let brains: Vec<bf16> = converted(isa, &values);
            assert!(brains.iter().map(|v| v.to_bits()).eq(to_brains.iter().copied()), "{}", isa.name());
            let halves: Vec<f16> = converted(isa, &values);
            assert!(halves.iter().map(|v| v.to_bits()).eq(to_halves.iter().copied()), "{}", isa.name());
        }
    }

    #[test]
    fn any_type_becomes_any_other_and_nothing_beside_is_written() {
        fn check<A: Storage, B: Storage>() {
            for len in 0..70 {
                let from: Vec<A> = (0..len).map(|i| A::from_f64(f64::from(i) * 1.0371 - 30.0)).collect();
                let expected: Vec<B> = from.iter().map(|v| B::from_f64(v.to_f64())).collect();
                for isa in Isa::available() {
                    let mut to = vec![B::from_f64(0.5); from.len() + 1];
                    convert(isa, &from, &mut to[..from.len()]);
                    assert_eq!(to.pop(), Some(B::from_f64(0.5)));
                    assert_eq!(to, expected, "{:?} to {:?} with {}", A::DTYPE, B::DTYPE, isa.name());
                }
            }
        }
        fn check_from<A: Storage>() {
            check::<A, f32>();
            check::<A, f64>();
            check::<A, bf16>();
            check::<A, f16>();
        }
        check_from::<f32>();
        check_from::<f64>();
        check_from::<bf16>();
        check_from::<f16>();
    }
}
