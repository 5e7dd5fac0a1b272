//! Vector `exp`, `exp2`, `softplus` and `silu`.
//!
//! Largest errors in f32, over all finite arguments, AVX2 and AVX-512 (see the ignored exhaustive test):
//! `exp` and `exp2` 1 ulp, `softplus` 2 ulp, `silu` 3 ulp. NaN, infinities and denormal results are as
//! IEEE 754 has them. The polynomials are those of Cephes in f32, Taylor's in f64 (`log`: Cephes).

use super::{Real, Simd};

/// Constants of the polynomials, the highest power first.
pub trait Constants: Sized + 'static {
    /// 1
    const ONE: Self;
    /// 0
    const ZERO: Self;
    /// ½
    const HALF: Self;
    /// log2(e)
    const LOG2_E: Self;
    /// ln 2 in two parts; multiples of the first by any exponent are exact.
    const LN2: [Self; 2];
    /// e^v is 0 below the first and infinite above the second; both are safe for `scale`.
    const EXP_RANGE: [Self; 2];
    /// The same for 2^v.
    const EXP2_RANGE: [Self; 2];
    /// One below the exponent of the smallest normal number.
    const LOWEST_EXPONENT: Self;
    /// (e^r − 1 − r) / r² on ±½ ln 2.
    const EXP: &'static [Self];
    /// (2^r − 1) / r on ±½.
    const EXP2: &'static [Self];
    /// (ln(1+f) − f + ½f²) / f³ for 1 + f in [√½, √2): numerator, and denominator where there is one.
    const LOG: [&'static [Self]; 2];
    /// Above this, softplus(v) is v (PyTorch's threshold).
    const SOFTPLUS_THRESHOLD: Self;
}

#[rustfmt::skip]
impl Constants for f32 {
    const ONE: Self = 1.0;
    const ZERO: Self = 0.0;
    const HALF: Self = 0.5;
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const LN2: [Self; 2] = [0.693359375, -2.1219444e-4];
    const EXP_RANGE: [Self; 2] = [-104.0, 89.0];
    const EXP2_RANGE: [Self; 2] = [-151.0, 129.0];
    const LOWEST_EXPONENT: Self = -127.0;
    const EXP: &'static [Self] = &[0.00019875691, 0.0013981999, 0.008333452, 0.041665796, 0.16666666, 0.5];
    const EXP2: &'static [Self] = &[0.00015353362, 0.0013398874, 0.009618437, 0.055503324, 0.24022648, 0.6931472];
    const LOG: [&'static [Self]; 2] = [&[0.070376836, -0.1151461, 0.116769984, -0.12420141, 0.14249323, -0.16668057, 0.20000714, -0.24999994, 0.3333333], &[]];
    const SOFTPLUS_THRESHOLD: Self = 20.0;
}

#[rustfmt::skip]
impl Constants for f64 {
    const ONE: Self = 1.0;
    const ZERO: Self = 0.0;
    const HALF: Self = 0.5;
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const LN2: [Self; 2] = [0.693145751953125, 1.4286068203094172e-6];
    const EXP_RANGE: [Self; 2] = [-746.0, 710.0];
    const EXP2_RANGE: [Self; 2] = [-1076.0, 1025.0];
    const LOWEST_EXPONENT: Self = -1023.0;
    const EXP: &'static [Self] = &[1.6059043836821613e-10, 2.08767569878681e-09, 2.505210838544172e-08, 2.755731922398589e-07, 2.7557319223985893e-06, 2.48015873015873e-05, 0.0001984126984126984, 0.001388888888888889, 0.008333333333333333, 0.041666666666666664, 0.16666666666666666, 0.5];
    const EXP2: &'static [Self] = &[6.778726354822545e-14, 1.3691488853904128e-12, 2.5678435993488206e-11, 4.4455382718708116e-10, 7.054911620801123e-09, 1.01780860092397e-07, 1.321548679014431e-06, 1.5252733804059841e-05, 0.0001540353039338161, 0.0013333558146428443, 0.009618129107628477, 0.05550410866482158, 0.24022650695910072, 0.6931471805599453];
    const LOG: [&'static [Self]; 2] = [
        &[0.00010187566380458093, 0.497494994976747, 4.705791198788817, 14.498922534161093, 17.936867850781983, 7.708387337558854],
        &[1.0, 11.287358718916746, 45.227914583753225, 82.98752669127767, 71.15447506185639, 23.125162012676533],
    ];
    const SOFTPLUS_THRESHOLD: Self = 20.0;
}

/// The polynomial with these coefficients, the highest power first, by Horner's rule.
#[inline(always)]
fn polynomial<T: Real, S: Simd<T>>(s: S, coefficients: &'static [T], v: S::V) -> S::V {
    let mut sum = s.splat(coefficients[0]);
    for &c in &coefficients[1..] {
        sum = s.fma(sum, v, s.splat(c));
    }
    sum
}

/// e^v
#[inline(always)]
pub fn exp<T: Real, S: Simd<T>>(s: S, v: S::V) -> S::V {
    // In this order a NaN passes through both.
    let v = s.min(s.splat(T::EXP_RANGE[1]), s.max(s.splat(T::EXP_RANGE[0]), v));
    let k = s.round(s.mul(v, s.splat(T::LOG2_E)));
    let r = s.fnma(k, s.splat(T::LN2[0]), v);
    let r = s.fnma(k, s.splat(T::LN2[1]), r);
    let p = polynomial(s, T::EXP, r);
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(T::ONE));
    s.scale(p, k)
}

/// 2^v
#[inline(always)]
pub fn exp2<T: Real, S: Simd<T>>(s: S, v: S::V) -> S::V {
    let v = s.min(s.splat(T::EXP2_RANGE[1]), s.max(s.splat(T::EXP2_RANGE[0]), v));
    let k = s.round(v);
    let r = s.sub(v, k);
    let p = s.fma(r, polynomial(s, T::EXP2, r), s.splat(T::ONE));
    s.scale(p, k)
}

/// 2^v for v ≤ 0, with 0 for what lies below the normal range: the decay of the scan.
#[inline(always)]
pub fn exp2_nonpositive<T: Real, S: Simd<T>>(s: S, v: S::V) -> S::V {
    let v = s.max(s.splat(T::LOWEST_EXPONENT), v);
    let k = s.round(v);
    let r = s.sub(v, k);
    let p = s.fma(r, polynomial(s, T::EXP2, r), s.splat(T::ONE));
    s.scale_down(p, k)
}

/// ln(1 + y) for y ≥ 0, exact to the last places for small y as well.
#[inline(always)]
fn log1p<T: Real, S: Simd<T>>(s: S, y: S::V) -> S::V {
    let one = s.splat(T::ONE);
    let u = s.add(one, y);
    // What rounding 1 + y lost (Knuth's two-sum).
    let back = s.sub(u, one);
    let lost = s.add(s.sub(y, back), s.sub(one, s.sub(u, back)));
    let (m, e) = s.split(u);
    let f = s.sub(m, one);
    let square = s.mul(f, f);
    let mut tail = polynomial(s, T::LOG[0], f);
    if !T::LOG[1].is_empty() {
        tail = s.div(tail, polynomial(s, T::LOG[1], f));
    }
    let mut rest = s.mul(s.mul(f, square), tail);
    rest = s.fma(e, s.splat(T::LN2[1]), rest);
    rest = s.fnma(s.splat(T::HALF), square, rest);
    rest = s.add(rest, s.div(lost, u));
    s.fma(e, s.splat(T::LN2[0]), s.add(f, rest))
}

/// ln(1 + e^v); v itself above 20, as in PyTorch.
#[inline(always)]
pub fn softplus<T: Real, S: Simd<T>>(s: S, v: S::V) -> S::V {
    let threshold = s.splat(T::SOFTPLUS_THRESHOLD);
    let soft = log1p(s, exp(s, s.min(threshold, v)));
    s.select(s.greater(v, threshold), v, soft)
}

/// v / (1 + e^−v)
#[inline(always)]
pub fn silu<T: Real, S: Simd<T>>(s: S, v: S::V) -> S::V {
    let negated = s.sub(s.splat(T::ZERO), v);
    s.div(v, s.add(s.splat(T::ONE), exp(s, negated)))
}
