//! Strategy constants of CMA-ES, as pycma 4.5.0 computes them.
//!
//! With `N` dimensions, `λ` candidates a generation and `μ` parents (Hansen 2016, arXiv:1604.00772, Table 1, where pycma
//! agrees with it):
//!
//! ```text
//! w'_i = ln((λ+1)/2) − ln i;  positive ones sum to 1, negative ones to −1;  μeff = 1 / Σ_{w>0} w²
//! cσ   = min(1/2, (μeff+2) / (N+μeff+3))
//! dσ   = 1/2 + 1/2 min(1, (mirrored/(0.159 λ) − 1)²) + 2 max(0, a √((μeff−1)/(N+1)) − 1) + cσ,  a = max(1, 3 (1 − 2^(−N/9)))
//! full:      cc = (4+μeff/N) / (N+4+2μeff/N)          c1 = min(1, λ/6) 2 / ((N+1.3)²+μeff)
//!            cμ = min(1−c1, 2 (1/4+μeff+1/μeff−2) / ((N+2)²+μeff))
//! separable: cc = (1+1/N+μeff/N) / (√N+1/N+2μeff/N)   c1 = 1 / (N+2√N+μeff/N)
//!            cμ = min(1−c1, (1/4+μeff+1/μeff−2) / (N+4√N+μeff/2))
//! ```
//!
//! Negative weights are then scaled so that `Σ w = −c1/cμ`, as far as `|Σ⁻| ≤ (1−c1−cμ)/(cμ N)`, which keeps the covariance
//! positive definite, and `|Σ⁻| ≤ 1 + 2 μeff⁻/(μeff+2)` allow, with `μeff⁻`
//! that of the negative ones.
//!
//! The factor `a` is new in 4.x (earlier versions: 1); it matters where `μeff > N/9` or so.

use serde::{Deserialize, Serialize};

use super::CmaError;

/// Which entries of the covariance are learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Covariance {
    /// All `N²`. For `N` up to 64 or so: beyond, the learning rates are so small that nothing is learnt within the budgets of
    /// black-box tuning.
    Full,
    /// The diagonal (Ros and Hansen 2008, "A simple modification in CMA-ES achieving linear time and space complexity").
    Separable,
    /// None: one step size for all coordinates.
    Isotropic,
}

/// Everything that depends on `N`, `λ` and the kind of covariance alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Constants {
    /// Which rates these are.
    pub covariance: Covariance,
    /// Dimensions, `N`.
    pub n: usize,
    /// Candidates a generation, `λ`.
    pub lambda: usize,
    /// Candidates that mirror the worst of the generation before. One at `λ < 6`, otherwise none.
    pub mirrored: usize,
    /// Of the ranks, best first; positive ones sum to 1. May be longer than `λ`: see [`Constants::all_parents`].
    pub weights: Vec<f64>,
    /// Ranks of positive weight.
    pub mu: usize,
    /// Variance-effective number of parents.
    pub mu_eff: f64,
    /// Of the path of the rank-one update.
    pub cc: f64,
    /// Rate of the rank-one update.
    pub c1: f64,
    /// Rate of the rank-μ update.
    pub cmu: f64,
    /// Of the path of the step size.
    pub cs: f64,
    /// Damping of the step size.
    pub damps: f64,
    /// `E ‖N(0, I)‖`.
    pub chi: f64,
    /// Generations between two eigendecompositions; below 1 means each. Zero where there is none to do.
    pub eigen_gap: f64,
}

impl Constants {
    /// `λ` candidates, of which the better half are parents.
    pub fn new(n: usize, lambda: usize, covariance: Covariance) -> Result<Self, CmaError> {
        Self::with_weights(n, lambda, lambda, covariance)
    }

    /// All of `lambda` candidates are parents: the weights are those of the better half of `2 λ`. pycma's `CMA_mu = λ`.
    pub fn all_parents(n: usize, lambda: usize, covariance: Covariance) -> Result<Self, CmaError> {
        Self::with_weights(n, lambda, 2 * lambda, covariance)
    }

    fn with_weights(n: usize, lambda: usize, ranks: usize, covariance: Covariance) -> Result<Self, CmaError> {
        if n == 0 {
            return Err(CmaError::NoDimensions);
        }
        // 1 stays possible where all are parents: a federation of one client
        if ranks < 2 {
            return Err(CmaError::Population { found: lambda });
        }
        let mut weights = raw_weights(ranks);
        let mu = weights.iter().filter(|w| **w > 0.0).count();
        let (up, down) = weights.split_at_mut(mu);
        let mu_eff = 1.0 / up.iter().map(|w| w * w).sum::<f64>();
        let mu_eff_minus = {
            let minus: f64 = down.iter().map(|w| w * w).sum();
            if minus > 0.0 { down.iter().sum::<f64>().powi(2) / minus } else { 0.0 }
        };
        let dim = n as f64;
        let share = mu_eff / dim;
        let excess = 0.25 + mu_eff + 1.0 / mu_eff - 2.0;
        let (cc, c1, cmu) = match covariance {
            Covariance::Full => {
                let c1 = (ranks as f64 / 6.0).min(1.0) * 2.0 / ((dim + 1.3).powi(2) + mu_eff);
                let cmu = (2.0 * excess / ((dim + 2.0).powi(2) + mu_eff)).min(1.0 - c1);
                ((4.0 + share) / (dim + 4.0 + 2.0 * share), c1, cmu)
            }
            Covariance::Separable => {
                let root = dim.sqrt();
                let c1 = 1.0 / (dim + 2.0 * root + share);
                let cmu = (excess / (dim + 4.0 * root + mu_eff / 2.0)).min(1.0 - c1);
                ((1.0 + 1.0 / dim + share) / (root + 1.0 / dim + 2.0 * share), c1, cmu)
            }
            Covariance::Isotropic => ((4.0 + share) / (dim + 4.0 + 2.0 * share), 0.0, 0.0),
        };
        if cmu > 0.0 {
            scale_to(down, 1.0 + c1 / cmu);
            limit_to(down, (1.0 - c1 - cmu) / cmu / dim);
            limit_to(down, 1.0 + 2.0 * mu_eff_minus / (mu_eff + 2.0));
        } else {
            down.fill(0.0);
        }
        let mirrored =
            if lambda < 6 { (0.5 + 0.16 * (lambda.min(2 * n + 2)) as f64 + 0.29) as usize } else { 0 };
        let cs = ((mu_eff + 2.0) / (dim + mu_eff + 3.0)).min(0.5);
        let lean = mirrored as f64 / (0.159 * lambda as f64) - 1.0;
        let inner = (3.0 * (1.0 - 0.5_f64.powf(dim / 9.0))).max(1.0);
        let damps = 0.5
            + (lean * lean).min(1.0) / 2.0
            + 2.0 * (inner * ((mu_eff - 1.0) / (dim + 1.0)).sqrt() - 1.0).max(0.0)
            + cs;
        let eigen_gap = match covariance {
            Covariance::Full => {
                let c1 = (lambda as f64 / 6.0).min(1.0) * 2.0 / ((dim + 1.3).powi(2) + mu_eff);
                1.0 / (c1 + cmu + 1e-23) / dim / 10.0
            }
            Covariance::Separable | Covariance::Isotropic => 0.0,
        };
        Ok(Self {
            covariance,
            n,
            lambda,
            mirrored,
            weights,
            mu,
            mu_eff,
            cc,
            c1,
            cmu,
            cs,
            damps,
            chi: chi(n),
            eigen_gap,
        })
    }

    /// Weights for a generation of `count` candidates instead of `λ`: the extreme ones, or zeros in the middle.
    pub(super) fn weights_of(&self, count: usize) -> Vec<f64> {
        let all = self.weights.len();
        if count <= self.mu {
            return self.weights[..count].to_vec();
        }
        let mut out = self.weights[..self.mu].to_vec();
        if count <= all {
            out.extend(&self.weights[all - (count - self.mu)..]);
        } else {
            out.resize(self.mu + count - all, 0.0);
            out.extend(&self.weights[self.mu..]);
        }
        out
    }
}

/// Logarithmic weights of `ranks` ranks; positive ones sum to 1, negative ones to -1.
fn raw_weights(ranks: usize) -> Vec<f64> {
    let middle = ((ranks + 1) as f64 / 2.0).ln();
    let mut out: Vec<f64> = (1..=ranks).map(|i| middle - (i as f64).ln()).collect();
    let (up, down) = out.iter().fold((0.0, 0.0), |(u, d), &w| (u + f64::max(w, 0.0), d - f64::min(w, 0.0)));
    for w in &mut out {
        *w /= if *w > 0.0 {
            up
        } else if down > 0.0 {
            down
        } else {
            1.0
        };
    }
    out
}

/// Scales negative weights to the sum `-size`.
fn scale_to(down: &mut [f64], size: f64) {
    let sum: f64 = down.iter().sum::<f64>().abs();
    if sum > 0.0 {
        down.iter_mut().for_each(|w| *w *= size / sum);
    }
}

fn limit_to(down: &mut [f64], size: f64) {
    if down.iter().sum::<f64>() < -size {
        scale_to(down, size);
    }
}

/// `E ‖N(0, I_n)‖`: exact up to 100 by `χ(k) χ(k−1) = k−1`, beyond as pycma, within `5e-5` of it.
fn chi(n: usize) -> f64 {
    if n <= 100 {
        let first = (2.0 / std::f64::consts::PI).sqrt();
        return (2..=n).fold(first, |before, k| (k - 1) as f64 / before);
    }
    let d = n as f64;
    d.sqrt() * (1.0 - 1.0 / (4.0 * d) + 1.0 / (32.0 * d * d))
}
