//! Optimiser steps.

use crate::backend::{AdamW, Sgd};
use crate::check;

pub(super) fn adamw(theta: &mut [f64], grad: &[f64], m: &mut [f64], v: &mut [f64], h: AdamW) {
    for (what, len) in [("adamw grad", grad.len()), ("adamw m", m.len()), ("adamw v", v.len())] {
        check::same(what, len, theta.len());
    }
    let (lr, (b1, b2)) = (f64::from(h.lr), h.betas());
    let correct1 = 1.0 - b1.powf(h.step as f64);
    let correct2 = 1.0 - b2.powf(h.step as f64);
    for i in 0..theta.len() {
        theta[i] *= 1.0 - lr * f64::from(h.weight_decay);
        m[i] = b1 * m[i] + (1.0 - b1) * grad[i];
        v[i] = b2 * v[i] + (1.0 - b2) * grad[i] * grad[i];
        theta[i] -= lr * (m[i] / correct1) / ((v[i] / correct2).sqrt() + f64::from(h.eps));
    }
}

pub(super) fn sgd(theta: &mut [f64], grad: &[f64], mut momentum: Option<(&mut [f64], bool)>, h: Sgd) {
    check::same("sgd grad", grad.len(), theta.len());
    if let Some((b, _)) = &momentum {
        check::same("sgd momentum", b.len(), theta.len());
    }
    for i in 0..theta.len() {
        let mut g = grad[i] + f64::from(h.weight_decay) * theta[i];
        if let Some((b, first)) = &mut momentum {
            b[i] = if *first { g } else { f64::from(h.momentum) * b[i] + g };
            g = b[i];
        }
        theta[i] -= f64::from(h.lr) * g;
    }
}
