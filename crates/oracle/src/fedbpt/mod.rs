//! FedBPT: clients search a soft prompt's coordinates by CMA-ES through an API, the server searches over their results.
//!
//! Sun et al. 2023, arXiv:2310.01467, Algorithms 1 and 2, and its implementation in NVFlare (`research/fed-bpt`). A round:
//!
//! ```text
//! server → client   m, σ (and C, where it is learnt)
//! client            CMA-ES from m with σ, fresh paths: T generations of λ; records σ_t before each
//!                   f(x) = loss(x) / loss on perturbed inputs (x)        drawn once a round
//! client → server   its mean, f of it, Σ_t σ_t²
//! server            σ̂ = √(Σ_k Σ_t σ_{k,t}² / K / μ);  tell(means, f) with step size σ̂, all K parents, all foreign
//!                   σ ← γ min(σ, σ · σ̂'/σ̂);  broadcast max(σ, floor)
//! ```
//!
//! Ranks, not sizes of data, weigh the clients. `μ` is the number of parents of a client's generation, `σ̂'` the step size
//! after the server's `tell`. `γ = 1` in the paper: then `σ` hardly moves within a few rounds of many dimensions, because the path of the
//! server's own adaptation is as long as a random one, and the mean wanders about a minimum at the length of a step. `γ < 1` is
//! an annealing of our own. The upper clamp is what NVFlare intends and does not do: there the carried value is
//! overwritten before the comparison. The floor holds for what is broadcast, not for what is carried.
//!
//! The covariance is inert within FedBPT's budgets at its 500 dimensions (`tests/cma.rs`), so the run-file form searches
//! isotropically and broadcasts `d + 3` numbers instead of `d²`: [`Ranked`] and [`Steps`] are then the two halves of the
//! server, in the ordinary places of a reducer and a server step. [`Server`] is the whole of it for any covariance.
//!
//! Unlike NVFlare, whose clients are all seeded alike, each client draws its own samples.

mod client;
mod reducer;
mod server;
mod step;

use antiphon_core::{Schema, SchemaError, TensorSpec};

pub use client::{Job, Report, SearchError, search};
pub use reducer::Ranked;
pub use server::{Broadcast, Server};
pub use step::Steps;

use crate::cma::{CmaError, Constants, Covariance};

/// Settings that both sides share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Coordinates of the search, `d`.
    pub dim: usize,
    /// First step size.
    pub sigma: f64,
    /// Generations of a client in a round, `T`.
    pub generations: u32,
    /// Candidates a generation, `λ`.
    pub population: usize,
    /// Least step size that is broadcast.
    pub floor: f64,
    /// What the step size is multiplied with after each round, beside its adaptation; `1.0` in the paper.
    pub decay: f64,
    /// What is learnt of the covariance.
    pub covariance: Covariance,
}

impl Settings {
    /// Of NVFlare's recipe.
    pub const PAPER: Self = Self {
        dim: 500,
        sigma: 1.0,
        generations: 8,
        population: 5,
        floor: 0.5,
        decay: 1.0,
        covariance: Covariance::Full,
    };

    /// Constants of a client's search.
    pub fn client_constants(&self) -> Result<Constants, CmaError> {
        Constants::new(self.dim, self.population, self.covariance)
    }

    /// Examples that a client with `examples` of them has evaluated in a round: every candidate and the final mean, on the
    /// examples and, if `perturbed`, on their perturbed form.
    #[must_use]
    pub fn queries(&self, examples: u64, perturbed: bool) -> u64 {
        let candidates = u64::from(self.generations).saturating_mul(self.population as u64).saturating_add(1);
        candidates.saturating_mul(examples).saturating_mul(if perturbed { 2 } else { 1 })
    }
}

/// What travels in the isotropic form, `[d + 3]`: the mean, the step size, and two places that are zero on the way down. A
/// client's vector is *start minus end*, so up there arrive `m − m_k`, 0, `−√Σσ²` and `−f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    dim: usize,
}

impl Places {
    /// Of `dim` coordinates.
    #[must_use]
    pub fn new(dim: usize) -> Self {
        Self { dim }
    }

    /// Numbers in all.
    #[must_use]
    pub fn len(self) -> usize {
        self.dim + 3
    }

    /// Never.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    fn sigma(self) -> usize {
        self.dim
    }

    fn path(self) -> usize {
        self.dim + 1
    }

    fn fitness(self) -> usize {
        self.dim + 2
    }

    /// Names and shapes.
    pub fn schema(self) -> Result<Schema, SchemaError> {
        let tensor = |name: &str, n| TensorSpec { name: format!("search.{name}"), shape: vec![n] };
        Schema::new(vec![
            tensor("mean", self.dim),
            tensor("sigma", 1),
            tensor("step_path", 1),
            tensor("fitness", 1),
        ])
    }

    /// The first broadcast: the origin, and `sigma`.
    #[must_use]
    pub fn start(self, sigma: f64) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        out[self.sigma()] = sigma as f32;
        out
    }

    /// Mean and step size of a broadcast; `None` if it has another length.
    #[must_use]
    pub fn read(self, theta: &[f32]) -> Option<(Vec<f64>, f64)> {
        let mean = theta.get(..self.dim)?.iter().map(|v| f64::from(*v)).collect();
        (theta.len() == self.len()).then(|| (mean, f64::from(theta[self.sigma()])))
    }

    /// A client's vector, from what it was sent and what it found.
    #[must_use]
    pub fn delta(self, start: &[f32], report: &Report) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        for ((d, s), end) in out.iter_mut().zip(start).zip(&report.mean) {
            *d = (f64::from(*s) - end) as f32;
        }
        out[self.path()] = -report.squares.sqrt() as f32;
        out[self.fitness()] = -report.fitness as f32;
        out
    }
}
