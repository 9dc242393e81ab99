//! CMA-ES: search by samples of a normal distribution whose mean, covariance and step size follow what did well.
//!
//! Hansen 2016, arXiv:1604.00772, with the constants and the practice of pycma 4.5.0 (golden files in `tests/golden/cma`):
//!
//! ```text
//! ask:  x_i = m + σ C^{1/2} z_i
//! tell: rank by fitness, best first;  y_i = (x_i − m)/σ
//!       m' = Σ_{w>0} w_i x_i
//!       pσ = (1−cσ) pσ + √(cσ(2−cσ)μeff) C^{-1/2} (m'−m)/σ
//!       h  = [ ‖pσ‖²/(1−(1−cσ)^{2t}) < N (2 + 4/(N+1)) ]
//!       pc = (1−cc) pc + h √(cc(2−cc)μeff) (m'−m)/σ
//!       C  = (1 − c1' − cμ Σw) C + c1 pc pcᵀ + cμ Σ w_i y_i y_iᵀ,   c1' = c1 (1 − (1−h) cc(2−cc))
//!       σ  = σ exp(min(1, (cσ/dσ)(‖pσ‖/χ − 1)))
//! ```
//!
//! - A missing fitness (`NaN`) counts as the median of the others.
//! - Below 6 candidates a generation one of them mirrors the worst of the generation before at the old mean, shortened to
//!   the length of a sample ("selective mirroring with delay").
//! - Solutions that `ask` did not make are foreign: they are pulled in to the Mahalanobis length `√N + 2N/(N+2)`.
//!   Mirrors never count negatively.
//!
//! Deliberately missing: two-point adaptation of the step size (which pycma 4.x takes in high dimension), bounds, restarts, stopping criteria (the budget is the criterion here), integers, elitism, and the
//! diagonal decoding of pycma, which is off by default.

mod constants;
mod eigen;
mod shape;
mod state;

use antiphon_core::Noise;

pub use constants::{Constants, Covariance};
use shape::Shape;
pub use shape::ShapeState;
pub use state::CmaState;

/// Where a solution comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Drawn from the distribution.
    Sampled,
    /// The mirror image of a bad one.
    Mirrored,
    /// From elsewhere, such as another client.
    Foreign,
}

/// A point to evaluate, or evaluated elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// `[N]`.
    pub x: Vec<f64>,
    /// Decides how [`Cma::tell`] treats it.
    pub origin: Origin,
}

impl Candidate {
    /// A solution that this search did not ask for.
    #[must_use]
    pub fn foreign(x: Vec<f64>) -> Self {
        Self { x, origin: Origin::Foreign }
    }
}

/// A search under way, between two generations.
#[derive(Clone, Debug, PartialEq)]
pub struct Cma {
    constants: Constants,
    generation: u64,
    mean: Vec<f64>,
    sigma: f64,
    /// Path of the step size.
    ps: Vec<f64>,
    /// Path of the rank-one update.
    pc: Vec<f64>,
    shape: Shape,
    /// Directions from the old mean for the next generation's mirrors.
    mirrors: Vec<Vec<f64>>,
}

impl Cma {
    /// A search from `mean` with `sigma > 0` in every coordinate.
    pub fn new(mean: Vec<f64>, sigma: f64, constants: Constants) -> Result<Self, CmaError> {
        let n = mean.len();
        if constants.n != n {
            return Err(CmaError::Length { what: "the mean", expected: constants.n, found: n });
        }
        let new = Self {
            generation: 0,
            sigma,
            ps: vec![0.0; n],
            pc: vec![0.0; n],
            shape: Shape::new(constants.covariance, n),
            mirrors: Vec::new(),
            mean,
            constants,
        };
        new.check()?;
        Ok(new)
    }

    /// A new search around the same mean with the same covariance; paths and mirrors begin anew. What FedBPT's clients
    /// start a round from.
    pub fn light_copy(&self, sigma: f64, constants: Constants) -> Result<Self, CmaError> {
        self.same_kind(constants.covariance)?;
        let mut copy = Self::new(self.mean.clone(), sigma, constants)?;
        copy.shape = self.shape.clone();
        copy.shape.refresh_now()?;
        Ok(copy)
    }

    /// Strategy constants.
    #[must_use]
    pub fn constants(&self) -> &Constants {
        &self.constants
    }

    /// `[N]`.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The step size.
    #[must_use]
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// Sets the step size, as FedBPT's server does between `tell`s.
    pub fn set_sigma(&mut self, sigma: f64) -> Result<(), CmaError> {
        positive("the step size", sigma)?;
        self.sigma = sigma;
        Ok(())
    }

    /// Generations told.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Diagonal of `C`, `[N]`; the variance of a coordinate is `σ²` times it.
    #[must_use]
    pub fn variances(&self) -> Vec<f64> {
        self.shape.variances(self.mean.len())
    }

    /// The next generation: mirrors first, then samples; `λ` in all.
    pub fn ask(&mut self, noise: &mut dyn Noise) -> Result<Vec<Candidate>, CmaError> {
        let n = self.mean.len();
        self.shape.refresh(self.constants.eigen_gap)?;
        let mut out = Vec::with_capacity(self.constants.lambda);
        for mut y in std::mem::take(&mut self.mirrors) {
            let length = self.shape.norm(&y) / self.sigma;
            if length > (n as f64).sqrt() {
                let wanted = (0..n).map(|_| noise.standard_normal().powi(2)).sum::<f64>().sqrt();
                y.iter_mut().for_each(|y| *y *= wanted / length);
            }
            let x = self.mean.iter().zip(&y).map(|(m, y)| m + y).collect();
            out.push(Candidate { x, origin: Origin::Mirrored });
        }
        while out.len() < self.constants.lambda {
            let z: Vec<f64> = (0..n).map(|_| noise.standard_normal()).collect();
            let y = self.shape.transform(&z);
            let x = self.mean.iter().zip(&y).map(|(m, y)| m + self.sigma * y).collect();
            out.push(Candidate { x, origin: Origin::Sampled });
        }
        Ok(out)
    }

    /// Learns from a generation. `fitness` is minimised, one for each of `candidates`; `NaN` is missing, an infinity is the
    /// worst there can be. At least `μ` candidates. On an error nothing has changed.
    pub fn tell(&mut self, candidates: Vec<Candidate>, fitness: &[f64]) -> Result<(), CmaError> {
        let mut next = self.clone();
        next.learn(candidates, fitness)?;
        next.check()?;
        *self = next;
        Ok(())
    }

    fn learn(&mut self, mut candidates: Vec<Candidate>, fitness: &[f64]) -> Result<(), CmaError> {
        let n = self.mean.len();
        let c = self.constants.clone();
        if candidates.len() != fitness.len() {
            return Err(CmaError::Length {
                what: "the fitness values",
                expected: candidates.len(),
                found: fitness.len(),
            });
        }
        if candidates.len() < c.mu {
            return Err(CmaError::Few { expected: c.mu, found: candidates.len() });
        }
        for candidate in &candidates {
            if candidate.x.len() != n {
                return Err(CmaError::Length { what: "a candidate", expected: n, found: candidate.x.len() });
            }
        }
        let fitness = without_gaps(fitness)?;
        self.shape.refresh(c.eigen_gap)?;
        self.pull_in(&mut candidates);
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|&a, &b| fitness[a].total_cmp(&fitness[b]));

        self.generation += 1;
        let old = std::mem::take(&mut self.mean);
        self.mean = vec![0.0; n];
        for (&i, w) in order.iter().zip(&c.weights[..c.mu]) {
            self.mean.iter_mut().zip(&candidates[i].x).for_each(|(m, x)| *m += w * x);
        }
        let shift: Vec<f64> = self.mean.iter().zip(&old).map(|(m, o)| (m - o) / self.sigma).collect();

        let gain = (c.cs * (2.0 - c.cs) * c.mu_eff).sqrt();
        let isotropic = self.shape.inverse(&shift);
        self.ps.iter_mut().zip(isotropic).for_each(|(p, z)| *p = (1.0 - c.cs) * *p + gain * z);
        let squared: f64 = self.ps.iter().map(|p| p * p).sum();
        let settled: f64 = 1.0 - f64::powf(1.0 - c.cs, 2.0 * self.generation as f64);
        let open = squared / settled / (n as f64) - 1.0 < 1.0 + 4.0 / (n as f64 + 1.0);

        let gain = if open { (c.cc * (2.0 - c.cc) * c.mu_eff).sqrt() } else { 0.0 };
        self.pc.iter_mut().zip(&shift).for_each(|(p, s)| *p = (1.0 - c.cc) * *p + gain * s);
        if c.c1 + c.cmu > 0.0 {
            let c1a = if open { c.c1 } else { c.c1 * (1.0 - c.cc * (2.0 - c.cc)) };
            let scale = (c.c1 / (c1a + 1e-23)).sqrt();
            let mut rows = vec![(c1a, self.pc.iter().map(|p| scale * p).collect::<Vec<f64>>())];
            for (&i, w) in order.iter().zip(c.weights_of(candidates.len())) {
                let Candidate { x, origin } = &candidates[i];
                // what was not drawn says nothing about where draws go wrong
                let w = if *origin == Origin::Mirrored && w < 0.0 { 0.0 } else { w };
                let y = x.iter().zip(&old).map(|(x, o)| (x - o) / self.sigma).collect();
                rows.push((c.cmu * w, y));
            }
            self.shape.update(&rows);
        }
        self.sigma *= (c.cs / c.damps * (squared.sqrt() / c.chi - 1.0)).clamp(-1.0, 1.0).exp();

        let worst = order.iter().rev().take(c.mirrored).map(|&i| &candidates[i]);
        self.mirrors = worst
            .filter(|w| w.origin != Origin::Mirrored)
            .map(|w| old.iter().zip(&w.x).map(|(o, x)| o - x).collect())
            .collect();
        Ok(())
    }

    /// Shortens foreign steps that no sample would take.
    fn pull_in(&self, candidates: &mut [Candidate]) {
        let n = self.mean.len() as f64;
        let longest = n.sqrt() + 2.0 * n / (n + 2.0);
        for candidate in candidates.iter_mut().filter(|c| c.origin == Origin::Foreign) {
            let step: Vec<f64> = candidate.x.iter().zip(&self.mean).map(|(x, m)| x - m).collect();
            let factor = self.shape.norm(&step) / self.sigma / longest;
            if factor > 1.0 {
                for ((x, step), m) in candidate.x.iter_mut().zip(step).zip(&self.mean) {
                    *x = m + step / factor;
                }
            }
        }
    }

    fn same_kind(&self, asked: Covariance) -> Result<(), CmaError> {
        let found = self.constants.covariance;
        if found == asked { Ok(()) } else { Err(CmaError::Kind { expected: asked, found }) }
    }

    fn check(&self) -> Result<(), CmaError> {
        positive("the step size", self.sigma)?;
        for (what, v) in [("the mean", &self.mean), ("the path of σ", &self.ps), ("the path of C", &self.pc)]
        {
            if !v.iter().all(|x| x.is_finite()) {
                return Err(CmaError::NotFinite { what });
            }
        }
        match self.shape.variances(self.mean.len()).into_iter().find(|v| v.is_nan() || *v <= 0.0) {
            Some(smallest) => Err(CmaError::NotPositive { smallest }),
            None => Ok(()),
        }
    }
}

/// `NaN`s replaced by the median of the rest.
fn without_gaps(fitness: &[f64]) -> Result<Vec<f64>, CmaError> {
    let mut known: Vec<f64> = fitness.iter().copied().filter(|f| !f.is_nan()).collect();
    known.sort_by(f64::total_cmp);
    let middle = known.len() / 2;
    let median = match known.len() {
        0 => return Err(CmaError::AllMissing),
        odd if odd % 2 == 1 => known[middle],
        _ => f64::midpoint(known[middle - 1], known[middle]),
    };
    Ok(fitness.iter().map(|&f| if f.is_nan() { median } else { f }).collect())
}

fn positive(what: &'static str, x: f64) -> Result<(), CmaError> {
    if x.is_finite() && x > 0.0 { Ok(()) } else { Err(CmaError::NotFinite { what }) }
}

/// A search that cannot begin or go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CmaError {
    /// `N = 0`.
    #[error("a search needs at least one dimension")]
    NoDimensions,
    /// Too small a generation.
    #[error("a generation of {found}, but ranks need at least 2 candidates (or 1 where all are parents)")]
    Population {
        /// Asked for.
        found: usize,
    },
    /// Fewer solutions than parents.
    #[error("{found} solutions, but {expected} parents are to be chosen among them")]
    Few {
        /// `μ`.
        expected: usize,
        /// Told.
        found: usize,
    },
    /// No candidate of a generation was evaluated.
    #[error("no candidate of this generation has a fitness, so there is nothing to learn from")]
    AllMissing,
    /// Vectors of another length.
    #[error("{what} has {found} numbers, expected {expected}")]
    Length {
        /// Which.
        what: &'static str,
        /// By the search.
        expected: usize,
        /// Of the vector.
        found: usize,
    },
    /// A covariance of another kind than the constants are for.
    #[error("constants for a {expected:?} covariance, but the search has a {found:?} one")]
    Kind {
        /// Of the constants.
        expected: Covariance,
        /// Of the search.
        found: Covariance,
    },
    /// Diverged, or never a number; a step size of zero counts.
    #[error(
        "{what} is not a finite number (and positive, where it must be); a smaller first step size may help"
    )]
    NotFinite {
        /// Which.
        what: &'static str,
    },
    /// A covariance without a root.
    #[error(
        "the covariance has an eigenvalue or variance of {smallest}; the search has collapsed, so begin it anew with a larger step"
    )]
    NotPositive {
        /// The offending one.
        smallest: f64,
    },
}
