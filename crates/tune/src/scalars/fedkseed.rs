//! FedKSeed (Qin et al. 2024, arXiv:2312.06353, algorithm 1): `K` seeds are agreed on, the state is `A[K]`, the slopes found
//! along each so far. A client walks from the replica of `A` along seeds drawn from the pool and reports, for each, the sum of
//! the slopes it found:
//!
//! ```text
//! w = w₀ - lr Σ_s A[s] z(s)        A[s] ← A[s] + Σ_k ω_k a_k[s]
//! ```
//!
//! Its own path need not be the replica's: it goes along the same directions, in binary32. A step along `P` directions gives
//! each a `P`-th of its slope. The reference skips steps with [`estimator.max_loss_difference`](crate::estimator).
//!
//! Deliberately missing: weight decay (the reference applies it once a seed instead of once a step).

use std::sync::Arc;

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_core::{ClientId, Round, Schema, Stream};
use serde::{Deserialize, Serialize};

use super::pool::Pool;
use super::{Directions, Frame, Method, Notebook, Scalars, ScalarsError, Terms, fits, forward_only};
use crate::settings::{complete, expect};
use crate::tuning::Recipe;

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: "fedkseed",
    paper: "arXiv:2312.06353",
    about: "slopes along a pool of K seeded directions, drawn uniformly; forward passes alone",
    build: |t| Ok(Box::new(registry::settings::<FedKSeed>("fedkseed", t)?.check()?)),
};

/// Most seeds of a pool.
pub(super) const MOST_SEEDS: usize = 1 << 20;

/// Settings of FedKSeed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FedKSeed {
    /// Seeds of the pool, `K`: the scalars of the state.
    #[serde(default = "pool_size")]
    seeds: usize,
}

/// The paper's `K`.
pub(super) fn pool_size() -> usize {
    4096
}

/// Refuses pools without a seed and beyond what anybody would send.
pub(super) fn check_pool(id: &str, seeds: usize) -> Result<(), ConfigError> {
    expect(id, "seeds", seeds as f64, "1 to 1,048,576", (1..=MOST_SEEDS).contains(&seeds))
}

impl FedKSeed {
    fn check(self) -> Result<Self, ConfigError> {
        check_pool(ENTRY.id, self.seeds)?;
        Ok(self)
    }
}

impl Method for FedKSeed {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn prepare(&self, trained: &Schema, recipe: &Recipe) -> Result<Arc<dyn Scalars>, ScalarsError> {
        let directions = forward_only(ENTRY.id, recipe)?;
        Ok(Arc::new(Prepared {
            pool: Pool::new(recipe.seed, self.seeds),
            frame: Frame::forward_only(
                &[("fedkseed.slopes", &[self.seeds])],
                trained,
                recipe,
                recipe.train.learning_rate,
            )?,
            directions,
        }))
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}

#[derive(Debug)]
struct Prepared {
    pool: Pool,
    frame: Frame,
    directions: u32,
}

impl Scalars for Prepared {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn terms(&self, state: &[f32]) -> Result<Terms, ScalarsError> {
        fits(self.schema(), state)?;
        slopes(&self.pool, state)
    }

    fn begin(
        &self,
        _: &[f32],
        round: Round,
        client: ClientId,
    ) -> Result<Box<dyn Notebook + '_>, ScalarsError> {
        Ok(Box::new(Notes {
            prepared: self,
            draws: self.pool.draws(round, client),
            drawn: Vec::new(),
            found: vec![0.0; self.pool.len()],
        }))
    }

    fn most_sent(&self, steps: u32) -> usize {
        (steps as usize).saturating_mul(self.directions as usize).min(self.pool.len())
    }
}

/// The terms of one slope a seed.
pub(super) fn slopes(pool: &Pool, slopes: &[f32]) -> Result<Terms, ScalarsError> {
    let mut terms = Terms::default();
    for (place, slope) in slopes.iter().enumerate() {
        terms.add(0, pool.seed(place), *slope)?;
    }
    Ok(terms)
}

struct Notes<'a> {
    prepared: &'a Prepared,
    draws: Stream,
    /// Places in the pool of the step at hand.
    drawn: Vec<usize>,
    /// Sum of the slopes along each seed, in binary64.
    found: Vec<f64>,
}

impl Notebook for Notes<'_> {
    fn draw(&mut self, step: u32, seeds: &mut Vec<u64>) {
        let pool = &self.prepared.pool;
        let mut draws = self.draws.substream(u64::from(step));
        self.drawn.clear();
        self.drawn.extend((0..self.prepared.directions).map(|_| draws.below(pool.len() as u64) as usize));
        seeds.clear();
        seeds.extend(self.drawn.iter().map(|&place| pool.seed(place)));
    }

    fn note(&mut self, _: u32, slopes: &[f64]) {
        for (&place, slope) in self.drawn.iter().zip(slopes) {
            self.found[place] += slope / f64::from(self.prepared.directions);
        }
    }

    fn close(self: Box<Self>, _: &[f32], _: &dyn Directions) -> Result<Vec<f32>, ScalarsError> {
        Ok(self.found.iter().map(|f| less(*f)).collect())
    }
}

/// Start minus end of a coordinate that grew by `grown`; zero, not minus zero, where it stayed.
pub(super) fn less(grown: f64) -> f32 {
    (0.0 - grown) as f32
}
