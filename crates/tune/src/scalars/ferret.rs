//! Ferret (Shu et al. 2024, arXiv:2409.06277): clients train by gradients, and only a projection of what they moved by
//! travels. It saves traffic and nothing else: memory and backward passes are those of any first-order method.
//!
//! ```text
//! Δ_b = start - end of block b      c[b, j] = (1 / n_b ρ) Δ_b · z(seed(r, b, j))      Δ̂_b = Σ_j c[b, j] z(seed(r, b, j))
//! ```
//!
//! `ρ` is the variance of an element of `z`, which makes the mean of `Δ̂` be `Δ` (equation 6); the reference's code leaves it out
//! and its truncated normals then give `Δ/3`. Here `z` is N(0, 1) and `ρ = 1`. What travels is `c` over the learning rate, so
//! that its size is that of a gradient. `Δ̂` is unbiased and noisy: its error is about `√(d_b / n_b)` times `‖Δ_b‖`, so a server
//! step below 1 (`[server] id = "sgdm"`), of the order of `n / d`, is usual.
//!
//! Where this departs from the paper. A block is a tensor (the paper cuts and joins tensors to about equal sizes). Directions
//! are shared by all clients of a round, and a row has a fixed number of scalars, so that rows can be averaged, cut by medians
//! and replayed; the paper lets each client draw its own. How many directions a block has must then be known to all
//! beforehand: they are shared out in proportion to the norms of the last round's averaged blocks, which the log tells
//! everybody, in the first round evenly; the paper uses the client's own norms of the same round.

use std::ops::Range;
use std::sync::Arc;

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_core::{ClientId, Purpose, Round, Schema, Stream};
use antiphon_kernels::Law;
use serde::{Deserialize, Serialize};

use super::fedkseed::less;
use super::{Directions, Frame, Method, Notebook, Scalars, ScalarsError, Terms, fits, schema};
use crate::settings::{StatePolicy, complete, expect};
use crate::tuning::Recipe;

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: "ferret",
    paper: "arXiv:2409.06277",
    about: "local training by gradients, projected on seeded directions; scalars travel, memory is not saved",
    build: |t| Ok(Box::new(registry::settings::<Ferret>("ferret", t)?.check()?)),
};

/// Fewest directions of a block.
const LEAST: usize = 2;

/// Settings of Ferret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ferret {
    /// Scalars of a round, shared out among the trainable tensors, at least 2 each.
    coordinates: usize,
}

impl Ferret {
    fn check(self) -> Result<Self, ConfigError> {
        let n = self.coordinates;
        expect(ENTRY.id, "coordinates", n as f64, "2 to 1,048,576", (LEAST..=1 << 20).contains(&n))?;
        Ok(self)
    }
}

impl Method for Ferret {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn prepare(&self, trained: &Schema, recipe: &Recipe) -> Result<Arc<dyn Scalars>, ScalarsError> {
        let method = ENTRY.id;
        if recipe.estimator.directions() > 0 {
            let found = format!("`estimator.id = \"{}\"`", recipe.estimator.id());
            let needs = "projects what training by gradients moved: set `estimator.id = \"backprop\"`";
            return Err(ScalarsError::Recipe { method, needs, found });
        }
        if recipe.train.optimizer_state == StatePolicy::Keep {
            let found = "`train.optimizer_state = \"keep\"`".into();
            let needs = "keeps nothing at clients: set it to \"reset\"";
            return Err(ScalarsError::Recipe { method, needs, found });
        }
        let blocks: Vec<Range<usize>> = trained.iter().map(|(_, range)| range).collect();
        let expected = format!("2 or more for each of {} trainable tensors", blocks.len());
        let enough = self.coordinates >= LEAST * blocks.len();
        expect(method, "coordinates", self.coordinates as f64, &expected, enough)?;
        Ok(Arc::new(Prepared {
            frame: Frame {
                schema: schema(&[("ferret.coordinates", &[recipe.rounds as usize, self.coordinates])])?,
                unit: -recipe.train.learning_rate,
                law: Law::Gaussian,
                blocks,
            },
            run: recipe.seed,
            rounds: recipe.rounds,
            row: self.coordinates,
        }))
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}

#[derive(Debug)]
struct Prepared {
    frame: Frame,
    run: u64,
    rounds: u32,
    /// Scalars of a round.
    row: usize,
}

impl Prepared {
    /// The seeds of a round, one a scalar.
    fn seeds(&self, round: Round) -> Stream {
        Stream::keyed(self.run, Purpose::Perturbation, Some(round), None, "ferret")
    }

    /// Directions of each block in the round after the one with this row and these shares; the first has no row before it.
    fn shares(&self, before: Option<(&[f32], &[usize])>) -> Vec<usize> {
        let even = vec![1.0; self.frame.blocks.len()];
        let Some((row, shares)) = before else { return shared_out(self.row, &even) };
        let mut rest = row;
        let mut norm = |n: &usize| {
            let (own, others) = rest.split_at(*n);
            rest = others;
            // c has the variance ‖Δ‖² / n²
            (*n as f64 * own.iter().map(|c| f64::from(*c).powi(2)).sum::<f64>()).sqrt()
        };
        let norms: Vec<f64> = shares.iter().map(&mut norm).collect();
        shared_out(self.row, if norms.iter().sum::<f64>() > 0.0 { &norms } else { &even })
    }

    /// Directions of each block in `round`, as the rows before it say.
    fn shares_of(&self, state: &[f32], round: Round) -> Vec<usize> {
        let rows = state.chunks(self.row).take(round.0 as usize);
        rows.fold(self.shares(None), |shares, row| self.shares(Some((row, &shares))))
    }
}

/// `n` whole things divided in proportion to `weights`, at least [`LEAST`] each; what is left goes to the largest remainders,
/// the first among equals.
fn shared_out(n: usize, weights: &[f64]) -> Vec<usize> {
    let free = n - LEAST * weights.len();
    let total: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|w| free as f64 * w / total).collect();
    let mut out: Vec<usize> = exact.iter().map(|e| LEAST + e.floor() as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| (exact[b].fract()).total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let left = n.saturating_sub(out.iter().sum());
    for &i in order.iter().cycle().take(left) {
        out[i] += 1;
    }
    out
}

/// The block of each scalar of a row.
fn block_of(shares: &[usize]) -> impl Iterator<Item = u32> + '_ {
    (0_u32..).zip(shares).flat_map(|(block, n)| std::iter::repeat_n(block, *n))
}

impl Scalars for Prepared {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn terms(&self, state: &[f32]) -> Result<Terms, ScalarsError> {
        fits(self.schema(), state)?;
        let mut terms = Terms::default();
        let mut shares = self.shares(None);
        for (round, row) in (0..self.rounds).zip(state.chunks(self.row)) {
            if row.iter().any(|c| *c != 0.0) {
                let seeds = self.seeds(Round(round));
                for (i, (block, c)) in block_of(&shares).zip(row).enumerate() {
                    terms.add(block, seeds.word_pair(i as u64), *c)?;
                }
            }
            shares = self.shares(Some((row, &shares)));
        }
        Ok(terms)
    }

    fn begin(
        &self,
        state: &[f32],
        round: Round,
        _: ClientId,
    ) -> Result<Box<dyn Notebook + '_>, ScalarsError> {
        fits(self.schema(), state)?;
        if round.0 >= self.rounds {
            return Err(ScalarsError::Round { round, rounds: self.rounds });
        }
        Ok(Box::new(Notes { prepared: self, shares: self.shares_of(state, round), round }))
    }

    fn most_sent(&self, _: u32) -> usize {
        self.row
    }
}

struct Notes<'a> {
    prepared: &'a Prepared,
    shares: Vec<usize>,
    round: Round,
}

impl Notebook for Notes<'_> {
    fn draw(&mut self, _: u32, seeds: &mut Vec<u64>) {
        seeds.clear();
    }

    fn note(&mut self, _: u32, _: &[f64]) {}

    fn close(self: Box<Self>, moved: &[f32], along: &dyn Directions) -> Result<Vec<f32>, ScalarsError> {
        let p = self.prepared;
        let seeds = p.seeds(self.round);
        let mut out = vec![0.0; p.schema().dim()];
        let first = self.round.0 as usize * p.row;
        for (i, block) in block_of(&self.shares).enumerate() {
            let n = self.shares[block as usize] as f64;
            let range = p.frame.blocks[block as usize].clone();
            let seen = along.dot(seeds.word_pair(i as u64), range, moved)?;
            out[first + i] = less(seen / (n * -p.frame.unit));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_add_up_and_follow_the_weights() {
        assert_eq!(shared_out(12, &[1.0, 1.0, 1.0]), [4, 4, 4]);
        assert_eq!(shared_out(13, &[1.0, 1.0, 1.0]), [5, 4, 4]);
        assert_eq!(shared_out(16, &[9.0, 1.0, 0.0]), [11, 3, 2]);
        assert_eq!(shared_out(6, &[1.0, 0.0, 5.0]), [2, 2, 2]);
    }
}
