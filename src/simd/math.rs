//! Vector e^v and 2^v of what is not positive, `softplus` and `silu`.
//!
//! Largest distance from the correctly rounded result in f32, over all arguments and with every instruction
//! set (see the ignored exhaustive test): e^v 1 ulp, 2^v and `silu` 2 ulp, `softplus` 3 ulp. NaN, infinities
//! and denormal results are as IEEE 754 has them; below −88.7, where e^−v is infinite, `silu` is −0 as in
//! PyTorch. The polynomials are minimax fits, those of e^v and 2^v in f64 Taylor's.
//! [`Short`] has those of bf16 layers, of fewer terms.

use super::{Real, Simd};

/// Constants of the polynomials, the highest power first.
pub trait Constants: Sized + 'static {
    /// 1
    const ONE: Self;
    /// 0
    const ZERO: Self;
    /// The quiet NaN with no payload.
    const NAN: Self;
    /// log2(e)
    const LOG2_E: Self;
    /// ln 2 in two parts; multiples of the first by any exponent are exact.
    const LN2: [Self; 2];
    /// Added to a number of small magnitude, leaves its nearest integer in the low bits.
    const SHIFT: Self;
    /// The exponent of the smallest normal number.
    const LOWEST_EXPONENT: Self;
    /// Below this, e^v is 0.
    const EXP_UNDERFLOW: Self;
    /// Added to the exponent of the smallest denormal number, gives that of a normal one.
    const RAISE: Self;
    /// 2^−RAISE
    const LOWER: Self;
    /// Below the first, 1 + e^−v is infinite; above the second, it is 1. Neither overflows an exponent.
    const SIGMOID_RANGE: [Self; 2];
    /// e^r on ±½ ln 2.
    const EXP: &'static [Self];
    /// 2^r on ±½.
    const EXP2: &'static [Self];
    /// (atanh(s) / s − 1) / s² on s² ≤ 1/9.
    const ATANH: &'static [Self];
    /// Above this, softplus(v) is v (PyTorch's threshold); `None` where rounding sees to it.
    const SOFTPLUS_THRESHOLD: Option<Self>;
}

#[rustfmt::skip]
#[allow(clippy::approx_constant, clippy::excessive_precision)] // coefficients
impl Constants for f32 {
    const NAN: Self = f32::NAN;
    const ONE: Self = 1.0;
    const ZERO: Self = 0.0;
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const LN2: [Self; 2] = [0.693359375, -2.1219444e-4];
    const SHIFT: Self = 12582912.0;
    const LOWEST_EXPONENT: Self = -126.0;
    const EXP_UNDERFLOW: Self = -105.0;
    const RAISE: Self = 64.0;
    const LOWER: Self = 1.0 / 18446744073709551616.0;
    const SIGMOID_RANGE: [Self; 2] = [-89.0, 86.0];
    const EXP: &'static [Self] = &[0.0013814463, 0.008368781, 0.041668393, 0.1666652, 0.49999994, 1.0, 1.0];
    const EXP2: &'static [Self] = &[0.0013264727, 0.009671513, 0.055507336, 0.24022242, 0.693147, 1.0];
    const ATANH: &'static [Self] = &[0.14012237, 0.13999568, 0.2001085, 0.33333206];
    const SOFTPLUS_THRESHOLD: Option<Self> = None;
}

#[rustfmt::skip]
#[allow(clippy::approx_constant, clippy::excessive_precision)] // coefficients
impl Constants for f64 {
    const NAN: Self = f64::NAN;
    const ONE: Self = 1.0;
    const ZERO: Self = 0.0;
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const LN2: [Self; 2] = [0.693145751953125, 1.4286068203094172e-6];
    const SHIFT: Self = 6755399441055744.0;
    const LOWEST_EXPONENT: Self = -1022.0;
    const EXP_UNDERFLOW: Self = -746.0;
    const RAISE: Self = 128.0;
    const LOWER: Self = 1.0 / 340282366920938463463374607431768211456.0;
    const SIGMOID_RANGE: [Self; 2] = [-710.0, 700.0];
    const EXP: &'static [Self] = &[1.6059043836821613e-10, 2.08767569878681e-09, 2.505210838544172e-08, 2.755731922398589e-07, 2.7557319223985893e-06, 2.48015873015873e-05, 0.0001984126984126984, 0.001388888888888889, 0.008333333333333333, 0.041666666666666664, 0.16666666666666666, 0.5, 1.0, 1.0];
    const EXP2: &'static [Self] = &[6.778726354822545e-14, 1.3691488853904128e-12, 2.5678435993488206e-11, 4.4455382718708116e-10, 7.054911620801123e-09, 1.01780860092397e-07, 1.321548679014431e-06, 1.5252733804059841e-05, 0.0001540353039338161, 0.0013333558146428443, 0.009618129107628477, 0.05550410866482158, 0.24022650695910072, 0.6931471805599453, 1.0];
    const ATANH: &'static [Self] = &[0.085091943110487, 0.04170106643469765, 0.06053028716724709, 0.06650488881920971, 0.07693279774921519, 0.09090871973050206, 0.11111111984488167, 0.14285714273934935, 0.20000000000078533, 0.33333333333333154];
    const SOFTPLUS_THRESHOLD: Option<Self> = Some(20.0);
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

/// e^v · 2^raise, which must be a normal number, as must 2^raise · v's power of two.
#[inline(always)]
fn raised_exp<T: Real, S: Simd<T>>(s: S, v: S::V, raise: T) -> S::V {
    let shift = s.splat(T::from_f64(T::SHIFT.to_f64() + raise.to_f64()));
    let shifted = s.fma(v, s.splat(T::LOG2_E), shift);
    let k = s.sub(shifted, shift);
    let r = s.fnma(k, s.splat(T::LN2[0]), v);
    let r = s.fnma(k, s.splat(T::LN2[1]), r);
    s.add_exponent(polynomial(s, T::EXP, r), shifted)
}

/// e^v for v ≤ 0, denormal results included.
#[inline(always)]
pub fn exp_nonpositive<T: Real, S: Simd<T>>(s: S, v: S::V) -> S::V {
    let v = s.max(s.splat(T::EXP_UNDERFLOW), v);
    s.mul(raised_exp(s, v, T::RAISE), s.splat(T::LOWER))
}

/// 2^(v·w) for v·w ≤ 0, with 0 or a denormal number below the normal range: the decay of the scan. A NaN comes out
/// as one if it has no payload. AVX-512 rounds v·w before, as PyTorch does.
#[inline(always)]
pub fn exp2_nonpositive<T: Real, S: Simd<T>>(s: S, v: S::V, w: S::V) -> S::V {
    let (whole, rest) = s.split(v, w);
    s.scale(polynomial(s, T::EXP2, rest), whole)
}

/// ln(1 + e^v); v itself above 20, as in PyTorch.
///
/// max(v, 0) + ln(1 + y) with y = e^−|v|, and ln(1 + y) = 2 atanh(y / (2 + y)).
#[inline(always)]
pub fn softplus<T: Real, S: Simd<T>>(s: S, v: S::V) -> S::V {
    let mut y = exp_nonpositive(s, s.min(v, s.neg(v)));
    if let Some(threshold) = T::SOFTPLUS_THRESHOLD {
        y = s.zero_where_less(y, s.splat(threshold), v);
    }
    let ratio = s.div(y, s.add(y, s.splat(T::from_f64(2.0))));
    let square = s.mul(ratio, ratio);
    let twice = s.add(ratio, ratio);
    let log = s.fma(s.mul(twice, square), polynomial(s, T::ATANH, square), twice);
    // In this order a NaN passes.
    s.add(log, s.max(s.splat(T::ZERO), v))
}

/// v / (1 + e^−v)
#[inline(always)]
pub fn silu<T: Real, S: Simd<T>>(s: S, v: S::V) -> S::V {
    let [low, high] = T::SIGMOID_RANGE;
    let within = s.max(s.splat(low), s.min(s.splat(high), v));
    // Half of it, which never overflows; doubled, it becomes infinite where it should.
    let half = raised_exp(s, s.neg(within), T::from_f64(-1.0));
    s.div(v, s.fma(half, s.splat(T::from_f64(2.0)), s.splat(T::ONE)))
}

/// The functions that the stages of a layer are made of.
pub trait Functions<T: Real>: std::fmt::Debug + 'static {
    /// 2^(v·w) for v·w ≤ 0, with 0 or a denormal number below the normal range.
    fn exp2_nonpositive<S: Simd<T>>(s: S, v: S::V, w: S::V) -> S::V;
    /// ln(1 + e^v)
    fn softplus<S: Simd<T>>(s: S, v: S::V) -> S::V;
    /// v / (1 + e^−v)
    fn silu<S: Simd<T>>(s: S, v: S::V) -> S::V;
}

/// Those above.
#[derive(Debug)]
pub struct Full;

impl<T: Real> Functions<T> for Full {
    #[inline(always)]
    fn exp2_nonpositive<S: Simd<T>>(s: S, v: S::V, w: S::V) -> S::V {
        exp2_nonpositive(s, v, w)
    }
    #[inline(always)]
    fn softplus<S: Simd<T>>(s: S, v: S::V) -> S::V {
        softplus(s, v)
    }
    #[inline(always)]
    fn silu<S: Simd<T>>(s: S, v: S::V) -> S::V {
        silu(s, v)
    }
}

/// For layers whose values are rounded to 8 bits: relative errors of at most 2^−12, and of 2^v, which time
/// multiplies, 2^−13, where 2^0 is exact and its slope ln 2. Special values are as above.
#[derive(Debug)]
pub struct Short;

impl Short {
    /// 2^r on ±½, the highest power first.
    const EXP2: [f64; 4] = [0.05549126871, 0.24211998643, std::f64::consts::LN_2, 1.0];
    /// ln(1 + y) / y on 0 to 1.
    const LOG1P: [f64; 5] = [0.04310716139, -0.16136539796, 0.30922654283, -0.49777484113, 1.0];

    #[inline(always)]
    fn polynomial<T: Real, S: Simd<T>, const N: usize>(s: S, coefficients: [f64; N], v: S::V) -> S::V {
        let mut sum = s.splat(T::from_f64(coefficients[0]));
        for c in &coefficients[1..] {
            sum = s.fma(sum, v, s.splat(T::from_f64(*c)));
        }
        sum
    }
}

impl<T: Real> Functions<T> for Short {
    #[inline(always)]
    fn exp2_nonpositive<S: Simd<T>>(s: S, v: S::V, w: S::V) -> S::V {
        let (whole, rest) = s.split(v, w);
        s.scale(Short::polynomial(s, Short::EXP2, rest), whole)
    }
    #[inline(always)]
    fn softplus<S: Simd<T>>(s: S, v: S::V) -> S::V {
        let y = <Short as Functions<T>>::exp2_nonpositive(s, s.min(v, s.neg(v)), s.splat(T::LOG2_E));
        s.fma(Short::polynomial(s, Short::LOG1P, y), y, s.max(s.splat(T::ZERO), v))
    }
    #[inline(always)]
    fn silu<S: Simd<T>>(s: S, v: S::V) -> S::V {
        let [low, high] = T::SIGMOID_RANGE;
        let within = s.max(s.splat(low), s.min(s.splat(high), v));
        let (whole, rest) = s.split(within, s.splat(T::from_f64(-T::LOG2_E.to_f64())));
        let half = s.scale(Short::polynomial(s, Short::EXP2.map(|c| 0.5 * c), rest), whole);
        s.mul(v, s.short_reciprocal(s.fma(half, s.splat(T::from_f64(2.0)), s.splat(T::ONE))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Function {
        ExpNonpositive,
        Exp2Nonpositive,
        Softplus,
        Silu,
        ShortExp2,
        ShortSoftplus,
        ShortSilu,
    }
    use Function::*;
    const ALL: [Function; 7] =
        [ExpNonpositive, Exp2Nonpositive, Softplus, Silu, ShortExp2, ShortSoftplus, ShortSilu];

    /// The function of each value, in whole vectors.
    struct Map<'a, T>(Function, &'a mut [T]);

    impl<T: Real> Kernel<T> for Map<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd<T>>(self, s: S) {
            for chunk in self.1.chunks_exact_mut(S::LANES) {
                // SAFETY: the chunk has as many elements as a vector.
                unsafe {
                    let v = s.load(chunk.as_ptr());
                    let result = match self.0 {
                        ExpNonpositive => exp_nonpositive(s, v),
                        Exp2Nonpositive => exp2_nonpositive(s, v, s.splat(T::ONE)),
                        Softplus => softplus(s, v),
                        Silu => silu(s, v),
                        ShortExp2 => Short::exp2_nonpositive(s, v, s.splat(T::ONE)),
                        ShortSoftplus => Short::softplus(s, v),
                        ShortSilu => Short::silu(s, v),
                    };
                    s.store(chunk.as_mut_ptr(), result);
                }
            }
        }
    }

    fn map<T: Real>(isa: Isa, function: Function, values: &[T]) -> Vec<T> {
        let mut padded = values.to_vec();
        padded.resize(values.len().next_multiple_of(16), T::ZERO);
        isa.dispatch(Map(function, &mut padded));
        padded.truncate(values.len());
        padded
    }

    /// The function of `v` by the standard library's f64.
    fn exact(function: Function, v: f64) -> f64 {
        match function {
            ExpNonpositive => v.exp(),
            Exp2Nonpositive | ShortExp2 => v.exp2(),
            Softplus | ShortSoftplus if v > 20.0 => v,
            Softplus | ShortSoftplus => v.exp().ln_1p(),
            Silu | ShortSilu => v / (1.0 + (-v).exp()),
        }
    }

    trait Float: Real + std::fmt::LowerExp {
        const BOUNDS: &'static [(Function, i64)];
        const SMALLEST_NORMAL: f64;
        /// Where silu's e^−v becomes infinite.
        const OVERFLOW: f64;
        /// Neighbouring numbers are one apart, both zeros are 0.
        fn position(self) -> i64;
    }

    impl Float for f32 {
        const BOUNDS: &'static [(Function, i64)] = &[
            (ExpNonpositive, 1),
            (Exp2Nonpositive, 2),
            (Softplus, 3),
            (Silu, 2),
            (ShortExp2, 1 << 11),
            (ShortSoftplus, 1 << 12),
            (ShortSilu, 1 << 12),
        ];
        const SMALLEST_NORMAL: f64 = f32::MIN_POSITIVE as f64;
        const OVERFLOW: f64 = 88.7;
        fn position(self) -> i64 {
            let magnitude = i64::from(self.to_bits() & !(1 << 31));
            if self.is_sign_negative() { -magnitude } else { magnitude }
        }
    }

    impl Float for f64 {
        // The standard library itself is off by one now and then.
        const BOUNDS: &'static [(Function, i64)] =
            &[(ExpNonpositive, 4), (Exp2Nonpositive, 4), (Softplus, 4), (Silu, 4)];
        const SMALLEST_NORMAL: f64 = f64::MIN_POSITIVE;
        const OVERFLOW: f64 = 709.7;
        fn position(self) -> i64 {
            let magnitude = (self.to_bits() & !(1 << 63)) as i64;
            if self.is_sign_negative() { -magnitude } else { magnitude }
        }
    }

    /// How many numbers `actual` is away from the nearest to `exact`; `i64::MAX` for what is plainly wrong.
    fn distance<T: Float>(function: Function, v: f64, actual: T, exact: f64) -> i64 {
        let value = actual.to_f64();
        let agrees = |good: bool| if good { 0 } else { i64::MAX };
        if exact.is_nan() || value.is_nan() {
            return agrees(exact.is_nan() && value.is_nan());
        }
        if matches!(function, Exp2Nonpositive | ShortExp2 | ShortSoftplus) && exact < T::SMALLEST_NORMAL {
            // From denormal to zero, but zero in time.
            return agrees((0.0..=T::SMALLEST_NORMAL).contains(&value) && (exact > 0.0 || value == 0.0));
        }
        // The reciprocal is zero before it would be denormal.
        if function == Silu && v < -T::OVERFLOW || function == ShortSilu && v < 1.4 - T::OVERFLOW {
            return agrees((value - exact).abs() <= 90.0 * T::SMALLEST_NORMAL && value <= 0.0);
        }
        (actual.position() - T::from_f64(exact).position()).abs()
    }

    /// The largest distance of each function with each instruction set.
    type Distances = Vec<(Function, Isa, i64)>;

    /// Holds every function against the bounds with every instruction set, and gives the largest distances.
    fn check<T: Float>(values: &[T]) -> Distances {
        let mut worst = Vec::new();
        for &(function, bound) in T::BOUNDS {
            let values: Vec<T> = values
                .iter()
                .copied()
                .filter(|v| {
                    !matches!(function, ExpNonpositive | Exp2Nonpositive | ShortExp2)
                        || v.to_f64() <= 0.0
                        || v.position() == T::NAN.position()
                })
                .collect();
            let exact: Vec<f64> = values.iter().map(|v| exact(function, v.to_f64())).collect();
            for isa in Isa::available() {
                let mut largest = 0;
                for ((v, actual), exact) in values.iter().zip(map(isa, function, &values)).zip(&exact) {
                    let distance = distance(function, v.to_f64(), actual, *exact);
                    assert!(
                        distance <= bound,
                        "{function:?}({v:e}) is {actual:e} with {}, not {exact:e}: off by {distance}",
                        isa.name()
                    );
                    largest = largest.max(distance);
                }
                worst.push((function, isa, largest));
            }
        }
        worst
    }

    /// Limits, thresholds and what is special, with their neighbours.
    fn special<T: Float>(next: impl Fn(T, bool) -> T) -> Vec<T> {
        let infinities = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.0, -0.0];
        let limits =
            [20.0, 1.0, 0.5, 88.72284, 87.33655, 103.97208, 709.7827128933841, 708.3964185322641, 745.1332];
        let powers =
            [1.5, 2.5, 126.0, 126.5, 127.0, 127.5, 128.0, 149.0, 149.5, 150.0, 151.0, 1022.0, 1024.0, 1075.0];
        let tiny = [T::SMALLEST_NORMAL, 1e-30, 1e-8];
        let finite = limits.iter().chain(&powers).chain(&tiny).flat_map(|v| [*v, -v]);
        finite
            .flat_map(|v| {
                let v = T::from_f64(v);
                [next(v, false), v, next(v, true)]
            })
            .chain(infinities.map(T::from_f64))
            .collect()
    }

    #[test]
    fn f32_functions_keep_their_bounds() {
        let mut values: Vec<f32> = (0..=u32::MAX).step_by(4099).map(f32::from_bits).collect();
        values.extend((-1_100_000..1_100_000).step_by(7).map(|i| i as f32 * 1e-4));
        values.extend(special(|v: f32, up| if up { v.next_up() } else { v.next_down() }));
        check(&values);
    }

    #[test]
    fn f64_functions_keep_their_bounds() {
        let mut values: Vec<f64> = (0..1 << 20).map(|i| f64::from_bits((i << 44) + (i * 7919))).collect();
        values.extend((-760_000..760_000).step_by(7).map(|i| f64::from(i) * 1.000_1e-3));
        values.extend(special(|v: f64, up| if up { v.next_up() } else { v.next_down() }));
        check(&values);
    }

    /// Every f32 there is. Some minutes: `cargo test --release --lib -- --ignored --nocapture every_f32`
    #[test]
    #[ignore = "takes minutes"]
    fn every_f32_keeps_the_bounds() {
        const CHUNK: u64 = 1 << 20;
        let next = std::sync::atomic::AtomicU64::new(0);
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let work = || {
            let mut worst = Vec::new();
            loop {
                let start = next.fetch_add(CHUNK, std::sync::atomic::Ordering::Relaxed);
                if start > u64::from(u32::MAX) {
                    return worst;
                }
                let values: Vec<f32> =
                    (start..start + CHUNK).map(|bits| f32::from_bits(bits as u32)).collect();
                worst = merge(worst, check(&values));
            }
        };
        let worst = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).fold(Vec::new(), merge)
        });
        for (function, isa, distance) in worst {
            println!("{function:?} with {}: at most {distance} from the correctly rounded", isa.name());
        }
    }

    fn merge(a: Distances, b: Distances) -> Distances {
        if a.is_empty() {
            return b;
        }
        a.into_iter().zip(b).map(|((function, isa, a), (_, _, b))| (function, isa, a.max(b))).collect()
    }

    /// A value's result does not depend on its neighbours or its place in the vector.
    #[test]
    fn lanes_are_alike() {
        fn check<T: Float>(values: Vec<T>) {
            for isa in Isa::available() {
                for &(function, _) in T::BOUNDS {
                    let expected: Vec<i64> =
                        map(isa, function, &values).iter().map(|v| v.position()).collect();
                    let mut turned = values.clone();
                    let mut results = expected.clone();
                    for _ in 1..16 {
                        turned.rotate_left(1);
                        results.rotate_left(1);
                        let actual: Vec<i64> =
                            map(isa, function, &turned).iter().map(|v| v.position()).collect();
                        assert!(actual == results, "{function:?} with {}", isa.name());
                    }
                }
            }
        }
        check((0..1003).map(|i| i as f32 * 0.217 - 109.0).chain([f32::NEG_INFINITY, 1e30, -0.0]).collect());
        check(
            (0..1003).map(|i| f64::from(i) * 1.51 - 760.0).chain([f64::NEG_INFINITY, 1e300, -0.0]).collect(),
        );
    }

    #[test]
    fn what_ieee_754_says_of_the_special_values() {
        for isa in Isa::available() {
            let of = |function, v: f32| map(isa, function, &[v])[0];
            for function in ALL {
                assert!(of(function, f32::NAN).is_nan(), "{function:?}");
            }
            for function in [Softplus, Silu, ShortSoftplus, ShortSilu] {
                assert_eq!(of(function, f32::INFINITY), f32::INFINITY, "{function:?}");
            }
            for function in [ExpNonpositive, Exp2Nonpositive, Softplus, ShortExp2, ShortSoftplus] {
                assert_eq!(of(function, f32::NEG_INFINITY).to_bits(), 0, "{function:?}");
            }
            // −∞ / ∞, as in PyTorch
            for silu in [Silu, ShortSilu] {
                assert!(of(silu, f32::NEG_INFINITY).is_nan());
                assert_eq!(of(silu, -0.0).to_bits(), (-0.0f32).to_bits());
                assert_eq!(of(silu, 0.0).to_bits(), 0);
            }
            for power in [ExpNonpositive, Exp2Nonpositive, ShortExp2] {
                assert_eq!(of(power, 0.0), 1.0);
            }
            for softplus in [Softplus, ShortSoftplus] {
                assert_eq!(of(softplus, 20.000_002), 20.000_002);
            }
        }
    }
}
