//! Elementary functions over lanes, from multiply-adds alone, so that they are the same bits everywhere; the C
//! library's are not.
//!
//! Coefficients are minimax fits (Lawson's reweighted least squares at 40 digits). Errors quoted are the largest relative
//! errors against binary64, which the tests below measure.

use super::simd::{Lanes, Simd};

/// Rounds to an integer when added and subtracted: `1.5 · 2^23`.
const ROUND: f32 = 12_582_912.0;
/// `ln 2` in two parts: the first has few enough bits that its multiples by an exponent are exact.
const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `e^x`; zero below -87.33, where the result would be subnormal, and infinite above 88.72. Error 1e-7.
///
/// `x = n ln 2 + r`, `e^r = 1 + r + r² q(r)`, as in Cody and Waite 1980, chapter 6.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let shifted = x.mul_add(s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = shifted - s.splat(ROUND);
    let r = n.mul_add(s.splat(-LN2[0]), x);
    let r = n.mul_add(s.splat(-LN2[1]), r);
    let q = s.horner(r, [0.499_999_93, 0.166_665_2, 0.041_668_39, 8.368_745e-3, 1.381_454e-3]);
    let y = (r * r).mul_add(q, r) + s.splat(1.0);
    // 2^n in two factors, because 2^128 is no number but 2^127 · 2 · y may be one
    let top = s.splat(127.0).less(n, s.splat(127.0), n);
    let power = (top + s.splat(ROUND + 127.0)).shift_to_exponent();
    let rest = s.splat(127.0).less(n, s.splat(2.0), s.splat(1.0));
    let y = y * power * rest;
    let y = s.splat(88.722_84).less(x, s.splat(f32::INFINITY), y);
    x.less(s.splat(-87.33), s.splat(0.0), y)
}

/// `1 / (1 + e^-x)`. Error 1.6e-7.
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    s.splat(1.0) / (s.splat(1.0) + exp(s, -x))
}

/// `tanh x`. Error 1.6e-7. An odd polynomial up to 0.625, and `1 - 2 / (e^2x + 1)` beyond.
#[inline(always)]
pub(super) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let t = x.abs();
    let far = s.splat(1.0) - s.splat(2.0) / (exp(s, t + t) + s.splat(1.0));
    let far = x.less(s.splat(0.0), -far, far);
    let x2 = x * x;
    let p = s.horner(x2, [-0.333_332_8, 0.133_314_42, -0.053_739_715, 0.020_639_087, -5.704_987e-3]);
    let near = (x * x2).mul_add(p, x);
    t.less(s.splat(0.625), near, far)
}

/// The standard normal distribution: `(Φ(x), φ(x))`. Error of `Φ` 4.2e-7, also where it is as small as 1e-37.
///
/// For `t = |x|`, `Φ(-t) = e^(-t²/2) u P(u)` with `u = 1 / (1 + 0.35 t)`, after Shepherd and Laframboise 1981.
#[inline(always)]
pub(super) fn normal<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    // far beyond the last x whose density is a number, and small enough to square
    let t = s.splat(20.0).less(x.abs(), s.splat(20.0), x.abs());
    let h = t * t;
    // what squaring lost, which the exponential would magnify
    let lost = t.mul_add(t, -h);
    let e = exp(s, h * s.splat(-0.5));
    let e = (e * lost).mul_add(s.splat(-0.5), e);
    let u = s.splat(1.0) / t.mul_add(s.splat(0.35), s.splat(1.0));
    let p = s.horner(
        u,
        [
            0.139_621_4,
            0.139_861_87,
            0.119_832_87,
            0.105_508,
            -0.023_109_814,
            0.159_174_13,
            -0.255_714_23,
            0.143_971_68,
            -0.029_145_928,
        ],
    );
    let lower = e * (u * p);
    let cdf = x.less(s.splat(0.0), lower, s.splat(1.0) - lower);
    (cdf, e * s.splat(0.398_942_3))
}

/// `ln x` of a positive number, in binary64 for the one number a row that needs it. Error 1e-15.
///
/// `x = 2^e m`, `ln m = 2 artanh((m - 1) / (m + 1))` by its series.
pub(super) fn ln(x: f64) -> f64 {
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_nan() || x < 0.0 || x == f64::INFINITY {
        return if x < 0.0 { f64::NAN } else { x };
    }
    let scaled = if x < f64::MIN_POSITIVE { x * 2f64.powi(54) } else { x };
    let mut e = ((scaled.to_bits() >> 52) as i64 - 1023) as f64;
    let mut m = f64::from_bits(scaled.to_bits() & ((1 << 52) - 1) | 1023 << 52);
    if x < f64::MIN_POSITIVE {
        e -= 54.0;
    }
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1.0;
    }
    let z = (m - 1.0) / (m + 1.0);
    let z2 = z * z;
    // z <= 0.1716, so the term after z^21 / 21 is below 1e-18 of the sum
    let series = (0..11).rev().fold(0.0, |y: f64, k| y * z2 + 1.0 / f64::from(2 * k + 1));
    e * std::f64::consts::LN_2 + 2.0 * z * series
}

/// `x^n` by squaring: the same bits everywhere, unlike the library's.
pub(super) fn power(mut x: f64, mut n: u64) -> f64 {
    let mut y = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            y *= x;
        }
        x *= x;
        n >>= 1;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::super::simd::{Kernel, LANES, dispatch};
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
        Cdf,
        Density,
    }
    use Function::*;

    struct Sixteen(Function, [f32; LANES]);
    impl Kernel for Sixteen {
        type Out = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let x = s.load(&self.1);
            match self.0 {
                Exp => exp(s, x),
                Sigmoid => sigmoid(s, x),
                Tanh => tanh(s, x),
                Cdf => normal(s, x).0,
                Density => normal(s, x).1,
            }
            .array()
        }
    }

    fn truth(f: Function, x: f64) -> f64 {
        match f {
            Exp => x.exp(),
            Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Tanh => x.tanh(),
            Cdf => 0.5 * crate::reference::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            Density => (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt(),
        }
    }

    /// Every 997th binary32 of the range, both signs.
    fn sweep(to: f32) -> impl Iterator<Item = f32> {
        (0..to.to_bits()).step_by(997).flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)])
    }

    #[test]
    fn relative_errors_are_as_quoted_over_the_whole_range() {
        for (f, to, bound) in [
            (Exp, 87.3, 1e-7),
            (Sigmoid, 87.3, 1.6e-7),
            (Tanh, 20.0, 1.6e-7),
            (Cdf, 12.9, 4.2e-7),
            (Density, 13.0, 2e-7),
        ] {
            let mut worst = (0.0, 0.0);
            let all: Vec<f32> = sweep(to).collect();
            for x in all.as_chunks::<LANES>().0 {
                for (x, y) in x.iter().zip(dispatch(Isa::detect(), Sixteen(f, *x))) {
                    let t = truth(f, f64::from(*x));
                    // below the normal numbers the result is allowed to be zero
                    let scale = t.abs().max(f64::from(f32::MIN_POSITIVE));
                    let error = (f64::from(y) - t).abs() / scale;
                    assert!(!error.is_nan(), "{f:?} of {x:e}");
                    if error > worst.0 {
                        worst = (error, *x);
                    }
                }
            }
            assert!(worst.0 <= bound, "{f:?}: {:e} at {:e}", worst.0, worst.1);
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let all: Vec<f32> =
            sweep(f32::INFINITY).step_by(61).chain([f32::INFINITY, f32::NEG_INFINITY]).collect();
        for f in [Exp, Sigmoid, Tanh, Cdf, Density] {
            for x in all.as_chunks::<LANES>().0 {
                let bits = |isa| dispatch(isa, Sixteen(f, *x)).map(f32::to_bits);
                for isa in [Isa::Avx2, Isa::Avx512] {
                    assert_eq!(bits(Isa::Portable), bits(isa), "{f:?} of {x:?}");
                }
            }
        }
    }

    #[test]
    fn edges() {
        let one = |f, x| dispatch(Isa::detect(), Sixteen(f, [x; LANES]))[0];
        assert_eq!(one(Exp, 0.0), 1.0);
        assert_eq!(one(Exp, f32::NEG_INFINITY), 0.0);
        assert_eq!(one(Exp, f32::INFINITY), f32::INFINITY);
        assert!((one(Exp, 88.72) / 88.72f32.exp() - 1.0).abs() < 1e-6);
        assert_eq!(one(Exp, 88.73), f32::INFINITY);
        assert_eq!(one(Sigmoid, -1000.0), 0.0);
        assert_eq!(one(Sigmoid, 1000.0), 1.0);
        assert_eq!((one(Tanh, -1000.0), one(Tanh, 1000.0)), (-1.0, 1.0));
        assert_eq!((one(Cdf, -1000.0), one(Cdf, 1000.0)), (0.0, 1.0));
        for f in [Exp, Sigmoid, Tanh, Cdf, Density] {
            assert!(one(f, f32::NAN).is_nan(), "{f:?} hides what is not a number");
        }
    }

    #[test]
    fn ln_and_power_are_those_of_the_library_to_the_last_digits() {
        for i in 1..20_000 {
            let x = f64::from(i) * 0.013;
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * (1.0 + x.ln().abs()), "{x}");
        }
        for x in [f64::MIN_POSITIVE / 1024.0, f64::MIN_POSITIVE, 1e300] {
            assert!((ln(x) / x.ln() - 1.0).abs() < 1e-15, "{x:e}");
        }
        assert_eq!((ln(1.0), ln(0.0), ln(f64::INFINITY)), (0.0, f64::NEG_INFINITY, f64::INFINITY));
        assert!(ln(-1.0).is_nan() && ln(f64::NAN).is_nan());
        for n in [0, 1, 2, 17, 1000, 54_321] {
            assert!((power(0.999, n) / 0.999f64.powf(n as f64) - 1.0).abs() < 1e-12, "{n}");
        }
    }
}
