//! Optimiser steps, in the order of operations of PyTorch (`torch/optim/adamw.py` and `sgd.py`, the single-tensor
//! forms), with scalars in binary64 as Python has them.

use super::Cpu;
use super::elementwise::{Pointwise, apply};
use super::math::power;
use super::simd::{Lanes, Simd};
use crate::backend::{AdamW, Sgd};

struct AdamWStep {
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    root_correction2: f32,
    eps: f32,
    step_size: f32,
}

impl Pointwise<1, 3> for AdamWStep {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [g]: [S::F; 1], [theta, m, v]: [S::F; 3]) -> [S::F; 3] {
        let theta = theta * s.splat(self.decay);
        let m = s.splat(self.one_minus_beta1).mul_add(g - m, m);
        let v = (s.splat(self.one_minus_beta2) * g).mul_add(g, v * s.splat(self.beta2));
        let denominator = v.sqrt() / s.splat(self.root_correction2) + s.splat(self.eps);
        [theta - s.splat(self.step_size) * m / denominator, m, v]
    }
}

pub(super) fn adamw(cpu: &Cpu, theta: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], h: AdamW) {
    let (lr, (beta1, beta2)) = (f64::from(h.lr), h.betas());
    let step = AdamWStep {
        decay: (1.0 - lr * f64::from(h.weight_decay)) as f32,
        one_minus_beta1: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        one_minus_beta2: (1.0 - beta2) as f32,
        root_correction2: (1.0 - power(beta2, h.step)).sqrt() as f32,
        eps: h.eps,
        step_size: (lr / (1.0 - power(beta1, h.step))) as f32,
    };
    apply(cpu, "adamw", step, [grad], [theta, m, v]);
}

/// Without momentum.
struct Plain(Sgd);
impl Pointwise<1, 1> for Plain {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [g]: [S::F; 1], [theta]: [S::F; 1]) -> [S::F; 1] {
        let g = s.splat(self.0.weight_decay).mul_add(theta, g);
        [s.splat(-self.0.lr).mul_add(g, theta)]
    }
}

struct Momentum {
    hyper: Sgd,
    first: bool,
}
impl Pointwise<1, 2> for Momentum {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [g]: [S::F; 1], [theta, b]: [S::F; 2]) -> [S::F; 2] {
        let g = s.splat(self.hyper.weight_decay).mul_add(theta, g);
        let b = if self.first { g } else { s.splat(self.hyper.momentum).mul_add(b, g) };
        [s.splat(-self.hyper.lr).mul_add(b, theta), b]
    }
}

pub(super) fn sgd(
    cpu: &Cpu,
    theta: &mut [f32],
    grad: &[f32],
    momentum: Option<(&mut [f32], bool)>,
    hyper: Sgd,
) {
    match momentum {
        None => apply(cpu, "sgd", Plain(hyper), [grad], [theta]),
        Some((b, first)) => apply(cpu, "sgd", Momentum { hyper, first }, [grad], [theta, b]),
    }
}
