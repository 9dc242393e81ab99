//! Blocks that treat each element alone.

use crate::backend::{Dropout, Gelu};
use crate::{check, philox};

/// `y (+)= f(x)`.
pub(super) fn map1(x: &[f64], y: &mut [f64], add: bool, f: impl Fn(f64) -> f64) {
    check::same("elementwise", y.len(), x.len());
    y.iter_mut().zip(x).for_each(|(y, &x)| super::put(y, f(x), add));
}

/// `y (+)= f(a, b)`.
pub(super) fn map2(a: &[f64], b: &[f64], y: &mut [f64], add: bool, f: impl Fn(f64, f64) -> f64) {
    check::same("elementwise", b.len(), a.len());
    check::same("elementwise", y.len(), a.len());
    for i in 0..a.len() {
        super::put(&mut y[i], f(a[i], b[i]), add);
    }
}

/// Zero or `1 / (1 - p)` for element `i`.
fn keep(mask: Dropout, i: usize) -> f64 {
    let kept = f64::from(philox::word(mask.key, mask.high, i as u64)) >= f64::from(mask.p) * 2f64.powi(32);
    if kept { 1.0 / (1.0 - f64::from(mask.p)) } else { 0.0 }
}

pub(super) fn dropout(x: &[f64], mask: Dropout, y: &mut [f64], add: bool) {
    check::same("dropout", y.len(), x.len());
    for i in 0..x.len() {
        super::put(&mut y[i], x[i] * keep(mask, i), add);
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The complementary error function: by the Maclaurin series of `erf`, and by Lentz's continued fraction beyond 2.5
/// (Abramowitz and Stegun 1964, 7.1.5 and 7.1.14).
pub(crate) fn erfc(x: f64) -> f64 {
    let t = x.abs();
    let value = if t < 2.5 {
        let (mut term, mut sum) = (t, t);
        for n in 1..120 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut tail = t;
        for n in (1..200).rev() {
            tail = t + 0.5 * f64::from(n) / tail;
        }
        (-t * t).exp() / (tail * std::f64::consts::PI.sqrt())
    };
    if x < 0.0 { 2.0 - value } else { value }
}

const CUBIC: f64 = 0.044_715;

pub(super) fn gelu(kind: Gelu, x: f64) -> f64 {
    match kind {
        Gelu::Erf => 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Gelu::Tanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + CUBIC * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
    }
}

/// Derivative of [`gelu`].
pub(super) fn gelu_slope(kind: Gelu, x: f64) -> f64 {
    match kind {
        Gelu::Erf => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2) + x * density
        }
        Gelu::Tanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + CUBIC * x.powi(3))).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * CUBIC * x * x)
        }
    }
}

pub(super) fn swiglu_grad(gate: &[f64], up: &[f64], dy: &[f64], dgate: &mut [f64], dup: &mut [f64]) {
    for (what, len) in [("up", up.len()), ("dy", dy.len()), ("dgate", dgate.len()), ("dup", dup.len())] {
        check::same(what, len, gate.len());
    }
    for i in 0..gate.len() {
        let s = sigmoid(gate[i]);
        dgate[i] = dy[i] * up[i] * (s + gate[i] * s * (1.0 - s));
        dup[i] = dy[i] * gate[i] * s;
    }
}
