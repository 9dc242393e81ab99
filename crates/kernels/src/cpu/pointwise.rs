//! Blocks that treat each element alone.

use crate::backend::{Dropout, Gelu};
use crate::{check, philox};

/// `y (+)= f(x)`.
pub(super) fn map1(x: &[f32], y: &mut [f32], add: bool, f: impl Fn(f32) -> f32) {
    check::same("elementwise", y.len(), x.len());
    y.iter_mut().zip(x).for_each(|(y, &x)| super::put(y, f(x), add));
}

/// `y (+)= f(a, b)`.
pub(super) fn map2(a: &[f32], b: &[f32], y: &mut [f32], add: bool, f: impl Fn(f32, f32) -> f32) {
    check::same("elementwise", b.len(), a.len());
    check::same("elementwise", y.len(), a.len());
    for i in 0..a.len() {
        super::put(&mut y[i], f(a[i], b[i]), add);
    }
}

/// Zero or `1 / (1 - p)` for element `i`.
fn keep(mask: Dropout, i: usize) -> f32 {
    let word = philox::word(mask.key, mask.high, i as u64);
    let kept = f64::from(word) >= f64::from(mask.p) * 2f64.powi(32);
    if kept { 1.0 / (1.0 - (mask.p)) } else { 0.0 }
}

pub(super) fn dropout(x: &[f32], mask: Dropout, y: &mut [f32], add: bool) {
    check::same("dropout", y.len(), x.len());
    for i in 0..x.len() {
        super::put(&mut y[i], x[i] * keep(mask, i), add);
    }
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function, in binary64.
pub(super) fn erf(x: f32) -> f32 {
    crate::reference::erf(f64::from(x)) as f32
}

const CUBIC: f32 = 0.044_715;

pub(super) fn gelu(kind: Gelu, x: f32) -> f32 {
    match kind {
        Gelu::Erf => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        Gelu::Tanh => {
            let u = (2.0 / std::f32::consts::PI).sqrt() * (x + CUBIC * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
    }
}

/// Derivative of [`gelu`].
pub(super) fn gelu_slope(kind: Gelu, x: f32) -> f32 {
    match kind {
        Gelu::Erf => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f32::consts::PI).sqrt();
            0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * density
        }
        Gelu::Tanh => {
            let c = (2.0 / std::f32::consts::PI).sqrt();
            let t = (c * (x + CUBIC * x.powi(3))).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * CUBIC * x * x)
        }
    }
}

pub(super) fn swiglu_grad(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for (what, len) in [("up", up.len()), ("dy", dy.len()), ("dgate", dgate.len()), ("dup", dup.len())] {
        check::same(what, len, gate.len());
    }
    for i in 0..gate.len() {
        let s = sigmoid(gate[i]);
        dgate[i] = dy[i] * up[i] * (s + gate[i] * s * (1.0 - s));
        dup[i] = dy[i] * gate[i] * s;
    }
}
