//! FedKSeed-Pro (arXiv:2312.06353, section 4.3): seeds along which slopes were large are drawn more often,
//!
//! ```text
//! p = softmax(m̂),   m̂ = (m - min m) / (max m - min m),   m_s = mean |g| over the slopes found along s, each cut to 1000
//! ```
//!
//! What `p` is made of travels too and is counted: beside the slopes `A[K]` the state has `M[K]`, the sum of magnitudes, and
//! `N[K]`, how many there were, both averaged over clients like the slopes. The reference begins each history with one 0; here
//! that is the 1 in `m_s = M_s / (N_s + 1)`, which counts as one observation of an average client.
//!
//! Deliberately missing: the exact histories, which would grow without bound.

use std::sync::Arc;

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_core::{ClientId, Round, Schema, Stream};
use serde::{Deserialize, Serialize};

use super::fedkseed::{check_pool, less, pool_size, slopes};
use super::pool::Pool;
use super::{Directions, Frame, Method, Notebook, Scalars, ScalarsError, Terms, fits, forward_only};
use crate::settings::{complete, expect};
use crate::tuning::Recipe;

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: "fedkseed_pro",
    paper: "arXiv:2312.06353",
    about: "FedKSeed that draws seeds with large slopes more often; three scalars a seed",
    build: |t| Ok(Box::new(registry::settings::<FedKSeedPro>("fedkseed_pro", t)?.check()?)),
};

/// Settings of FedKSeed-Pro.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FedKSeedPro {
    /// Seeds of the pool, `K`; the state has three scalars for each.
    #[serde(default = "pool_size")]
    seeds: usize,
    /// Largest magnitude at which a slope counts for its seed's probability.
    #[serde(default = "thousand")]
    max_magnitude: f64,
}

fn thousand() -> f64 {
    1000.0
}

impl FedKSeedPro {
    fn check(self) -> Result<Self, ConfigError> {
        check_pool(ENTRY.id, self.seeds)?;
        let m = self.max_magnitude;
        expect(ENTRY.id, "max_magnitude", m, "finite and above 0", m > 0.0)?;
        Ok(self)
    }
}

impl Method for FedKSeedPro {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn prepare(&self, trained: &Schema, recipe: &Recipe) -> Result<Arc<dyn Scalars>, ScalarsError> {
        let directions = forward_only(ENTRY.id, recipe)?;
        let k = self.seeds;
        let names = ["fedkseed_pro.slopes", "fedkseed_pro.magnitudes", "fedkseed_pro.counts"];
        Ok(Arc::new(Prepared {
            pool: Pool::new(recipe.seed, k),
            frame: Frame::forward_only(
                &names.map(|name| (name, std::slice::from_ref(&k))),
                trained,
                recipe,
                recipe.train.learning_rate,
            )?,
            directions,
            cut: self.max_magnitude,
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
    cut: f64,
}

impl Scalars for Prepared {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn terms(&self, state: &[f32]) -> Result<Terms, ScalarsError> {
        fits(self.schema(), state)?;
        slopes(&self.pool, &state[..self.pool.len()])
    }

    fn begin(
        &self,
        state: &[f32],
        round: Round,
        client: ClientId,
    ) -> Result<Box<dyn Notebook + '_>, ScalarsError> {
        fits(self.schema(), state)?;
        Ok(Box::new(Notes {
            prepared: self,
            draws: self.pool.draws(round, client),
            up_to: cumulated(state, self.pool.len()),
            drawn: Vec::new(),
            found: vec![0.0; state.len()],
        }))
    }

    fn most_sent(&self, steps: u32) -> usize {
        3 * (steps as usize).saturating_mul(self.directions as usize).min(self.pool.len())
    }
}

/// `Σ_{t ≤ s} exp m̂_t` of each seed: the softmax, not yet divided by its sum.
fn cumulated(state: &[f32], k: usize) -> Vec<f64> {
    // a reducer may leave a sum of magnitudes a little below zero; none is meant
    let mean = |s: usize| f64::from(state[k + s].max(0.0)) / (f64::from(state[2 * k + s].max(0.0)) + 1.0);
    let (low, high) = (0..k).map(mean).fold((f64::INFINITY, 0.0_f64), |(l, h), m| (l.min(m), h.max(m)));
    let span = if high > low { high - low } else { 1.0 };
    let mut sum = 0.0;
    (0..k)
        .map(|s| {
            sum += ((mean(s) - low) / span).exp();
            sum
        })
        .collect()
}

struct Notes<'a> {
    prepared: &'a Prepared,
    draws: Stream,
    up_to: Vec<f64>,
    drawn: Vec<usize>,
    /// Slopes, magnitudes and counts.
    found: Vec<f64>,
}

impl Notebook for Notes<'_> {
    fn draw(&mut self, step: u32, seeds: &mut Vec<u64>) {
        let k = self.prepared.pool.len();
        let mut draws = self.draws.substream(u64::from(step));
        let total = self.up_to.last().copied().unwrap_or(1.0);
        self.drawn.clear();
        for _ in 0..self.prepared.directions {
            let at = draws.uniform() * total;
            // rounding may put a draw at the very end
            self.drawn.push(self.up_to.partition_point(|u| *u <= at).min(k - 1));
        }
        seeds.clear();
        seeds.extend(self.drawn.iter().map(|&place| self.prepared.pool.seed(place)));
    }

    fn note(&mut self, _: u32, slopes: &[f64]) {
        let k = self.prepared.pool.len();
        for (&place, slope) in self.drawn.iter().zip(slopes) {
            self.found[place] += slope / f64::from(self.prepared.directions);
            self.found[k + place] += slope.abs().min(self.prepared.cut);
            self.found[2 * k + place] += 1.0;
        }
    }

    fn close(self: Box<Self>, _: &[f32], _: &dyn Directions) -> Result<Vec<f32>, ScalarsError> {
        Ok(self.found.iter().map(|f| less(*f)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal at first; then the largest mean has e times the chance of the smallest.
    #[test]
    fn probabilities_are_the_softmax_of_the_scaled_means() {
        assert_eq!(cumulated(&[0.0; 12], 4), [1.0, 2.0, 3.0, 4.0]);
        let mut state = vec![0.0; 9];
        state[3..6].copy_from_slice(&[4.0, 0.0, 6.0]);
        state[6..9].copy_from_slice(&[1.0, 0.0, 2.0]);
        // means 2, 0, 2
        let u = cumulated(&state, 3);
        let e = std::f64::consts::E;
        for (found, expected) in u.iter().zip([e, e + 1.0, 2.0 * e + 1.0]) {
            assert!((found - expected).abs() < 1e-12);
        }
    }
}
