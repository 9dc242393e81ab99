//! Per-client calibration of label scores: a refinement of what an oracle says that asks it nothing more.
//!
//! With `l_c` the log-probability of label `c` and `y` the answer, a scale `a` and biases `b` that minimise
//!
//! ```text
//! 1/n Σ [ log Σ_c exp(a l_c + b_c) − (a l_y + b_y) ] + λ/2 ((a − 1)² + ‖b‖²)
//! ```
//!
//! on scores that a search has paid for anyway: Platt scaling of a verbaliser (Guo et al. 2017, arXiv:1706.04599, section 4.2,
//! with biases as in Zhao et al. 2021, arXiv:2102.09690). Convex; Newton's method with halving. The penalty keeps a client of
//! few examples near what the model says: without any, `a = 1` and `b = 0`.

use crate::task::log_sum_exp;

/// A scale and a bias for each label.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// `a`.
    pub scale: f64,
    /// `b`, one for each label.
    pub bias: Vec<f64>,
}

/// One example: log-probabilities of all labels, and the answer.
pub type Scored = (Vec<f64>, usize);

/// Newton steps at most; a handful is enough.
const STEPS: usize = 50;

impl Calibration {
    /// Changes nothing.
    #[must_use]
    pub fn none(labels: usize) -> Self {
        Self { scale: 1.0, bias: vec![0.0; labels] }
    }

    /// Fitted with penalty `lambda > 0`. Examples with scores that are not finite, or not of `labels` labels, are left out.
    #[must_use]
    pub fn fit(examples: &[Scored], labels: usize, lambda: f64) -> Self {
        let usable: Vec<&Scored> = examples
            .iter()
            .filter(|(l, y)| l.len() == labels && *y < labels && l.iter().all(|v| v.is_finite()))
            .collect();
        let mut best = Self::none(labels);
        let mut value = best.objective(&usable, lambda);
        for _ in 0..STEPS {
            let Some(step) = best.newton(&usable, lambda) else { break };
            let mut share = 1.0;
            let (next, lower) = loop {
                let next = best.moved(&step, share);
                let lower = next.objective(&usable, lambda);
                if lower < value || share < 1e-6 {
                    break (next, lower);
                }
                share /= 2.0;
            };
            if lower >= value - 1e-12 {
                break;
            }
            (best, value) = (next, lower);
        }
        best
    }

    /// Log-probabilities over the labels, calibrated.
    #[must_use]
    pub fn apply(&self, logs: &[f64]) -> Vec<f64> {
        let raw: Vec<f64> = logs.iter().zip(&self.bias).map(|(l, b)| self.scale * l + b).collect();
        let total = log_sum_exp(&raw);
        raw.into_iter().map(|r| r - total).collect()
    }

    fn objective(&self, examples: &[&Scored], lambda: f64) -> f64 {
        let n = examples.len().max(1) as f64;
        let loss: f64 = examples.iter().map(|(l, y)| -self.apply(l)[*y]).sum();
        let size = (self.scale - 1.0).powi(2) + self.bias.iter().map(|b| b * b).sum::<f64>();
        loss / n + lambda / 2.0 * size
    }

    fn moved(&self, step: &[f64], share: f64) -> Self {
        let bias = self.bias.iter().zip(&step[1..]).map(|(b, s)| b - share * s).collect();
        Self { scale: self.scale - share * step[0], bias }
    }

    /// `H⁻¹ g` over `(a, b)`.
    fn newton(&self, examples: &[&Scored], lambda: f64) -> Option<Vec<f64>> {
        let d = self.bias.len() + 1;
        let n = examples.len().max(1) as f64;
        let (mut g, mut h) = (vec![0.0; d], vec![0.0; d * d]);
        g[0] = lambda * (self.scale - 1.0);
        for (g, b) in g[1..].iter_mut().zip(&self.bias) {
            *g = lambda * b;
        }
        (0..d).for_each(|i| h[i * d + i] = lambda);
        for (logs, y) in examples {
            let p: Vec<f64> = self.apply(logs).into_iter().map(f64::exp).collect();
            let mean: f64 = p.iter().zip(logs).map(|(p, l)| p * l).sum();
            g[0] += (mean - logs[*y]) / n;
            h[0] += p.iter().zip(logs).map(|(p, l)| p * (l - mean).powi(2)).sum::<f64>() / n;
            for (c, pc) in p.iter().enumerate() {
                g[1 + c] += (pc - f64::from(u8::from(c == *y))) / n;
                let cross = pc * (logs[c] - mean) / n;
                h[1 + c] += cross;
                h[(1 + c) * d] += cross;
                h[(1 + c) * d + 1 + c] += pc / n;
                for (e, pe) in p.iter().enumerate() {
                    h[(1 + c) * d + 1 + e] -= pc * pe / n;
                }
            }
        }
        solve(h, g, d)
    }
}

/// Cholesky's method; `None` if `h` is not positive definite.
fn solve(mut h: Vec<f64>, mut g: Vec<f64>, d: usize) -> Option<Vec<f64>> {
    for i in 0..d {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| h[i * d + k] * h[j * d + k]).sum();
            let rest = h[i * d + j] - sum;
            h[i * d + j] =
                if i == j { if rest > 0.0 { rest.sqrt() } else { return None } } else { rest / h[j * d + j] };
        }
    }
    for i in 0..d {
        let sum: f64 = (0..i).map(|k| h[i * d + k] * g[k]).sum();
        g[i] = (g[i] - sum) / h[i * d + i];
    }
    for i in (0..d).rev() {
        let sum: f64 = (i + 1..d).map(|k| h[k * d + i] * g[k]).sum();
        g[i] = (g[i] - sum) / h[i * d + i];
    }
    Some(g)
}

#[cfg(test)]
mod tests {
    use antiphon_core::{Noise, Purpose, Stream};

    use super::*;

    /// Examples of a model that says `log p` where the truth is `softmax(a log p + b)`.
    fn examples(n: usize, truth: &Calibration, seed: u64) -> Vec<Scored> {
        let mut s = Stream::new(seed, Purpose::Test);
        (0..n)
            .map(|_| {
                let raw: Vec<f64> = truth.bias.iter().map(|_| 1.5 * s.standard_normal()).collect();
                let logs = Calibration::none(raw.len()).apply(&raw);
                let mut left = s.uniform();
                let p = truth.apply(&logs);
                let y = p.iter().position(|p| {
                    left -= p.exp();
                    left < 0.0
                });
                (logs, y.unwrap_or(p.len() - 1))
            })
            .collect()
    }

    #[test]
    fn what_was_distorted_is_found_again() {
        let truth = Calibration { scale: 0.5, bias: vec![0.8, -0.3, -0.5] };
        let data = examples(6000, &truth, 1);
        let fitted = Calibration::fit(&data, 3, 1e-6);
        assert!((fitted.scale - 0.5).abs() < 0.05, "{fitted:?}");
        // biases mean something up to a constant
        let shift = fitted.bias[0] - truth.bias[0];
        let near = fitted.bias.iter().zip(&truth.bias).all(|(a, b)| (a - b - shift).abs() < 0.1);
        assert!(near, "{fitted:?}");
        // and helps on what it has not seen
        let other = examples(2000, &truth, 2);
        let all: Vec<&Scored> = other.iter().collect();
        assert!(fitted.objective(&all, 0.0) < Calibration::none(3).objective(&all, 0.0) - 0.05);
    }

    #[test]
    fn nothing_to_learn_from_changes_nothing_and_bad_scores_are_left_out() {
        assert_eq!(Calibration::fit(&[], 2, 0.1), Calibration::none(2));
        let bad = vec![(vec![f64::NAN, 0.0], 0), (vec![0.0], 0), (vec![0.0, 0.0], 5)];
        assert_eq!(Calibration::fit(&bad, 2, 0.1), Calibration::none(2));
        // one client that saw one label alone stays finite
        let one = vec![(vec![-0.7, -0.7], 0); 5];
        let fitted = Calibration::fit(&one, 2, 0.1);
        assert!(fitted.bias[0] > fitted.bias[1] && fitted.bias.iter().all(|b| b.abs() < 5.0));
    }
}
