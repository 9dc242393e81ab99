//! DeComFL (Li et al. 2024, arXiv:2405.15861, algorithms 1 to 3): the directions of a round are a function of the run's seed
//! and the round, the same for every client, so an update is nothing but the slopes along them. The state is a log with a row
//! of `K · P` averaged slopes for each round, `K` local steps of `P` directions:
//!
//! ```text
//! w_t = w₀ - lr/P Σ_{r<t} Σ_{k,p} ĝ[r, k, p] z(seed(r, k, p))
//! ```
//!
//! A client always starts from the replica of the state, which is the algorithm's reset to a snapshot and its replay of missed
//! rounds in one: two that have the same log have the same bits, however often either took part.
//!
//! Deliberately missing: momentum, which the paper refuses too.

use std::sync::Arc;

use antiphon_core::registry::{self, Entry};
use antiphon_core::{ClientId, Purpose, Round, Schema, Stream};
use serde::{Deserialize, Serialize};

use super::fedkseed::less;
use super::{
    Directions, Frame, Method, Notebook, Scalars, ScalarsError, Terms, equal_steps, fits, forward_only,
};
use crate::settings::complete;
use crate::tuning::Recipe;

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: "decomfl",
    paper: "arXiv:2405.15861",
    about: "a round's slopes along directions that all clients share: local_steps × directions scalars up",
    build: |t| Ok(Box::new(registry::settings::<DeComFl>("decomfl", t)?)),
};

/// DeComFL has no settings of its own: `K` is `train.local_steps` and `P` is `estimator.directions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeComFl {}

impl Method for DeComFl {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn prepare(&self, trained: &Schema, recipe: &Recipe) -> Result<Arc<dyn Scalars>, ScalarsError> {
        let directions = forward_only(ENTRY.id, recipe)?;
        let steps = equal_steps(ENTRY.id, recipe)?;
        let row = steps as usize * directions as usize;
        Ok(Arc::new(Prepared {
            frame: Frame::forward_only(
                &[("decomfl.slopes", &[recipe.rounds as usize, row])],
                trained,
                recipe,
                recipe.train.learning_rate / f64::from(directions),
            )?,
            run: recipe.seed,
            rounds: recipe.rounds,
            directions: u64::from(directions),
            row,
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
    directions: u64,
    /// Scalars of a round.
    row: usize,
}

impl Prepared {
    /// The seeds of a round: scalar `k P + p` belongs to word pair `k P + p`.
    fn seeds(&self, round: Round) -> Stream {
        Stream::keyed(self.run, Purpose::Perturbation, Some(round), None, "decomfl")
    }
}

impl Scalars for Prepared {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn terms(&self, state: &[f32]) -> Result<Terms, ScalarsError> {
        fits(self.schema(), state)?;
        let mut terms = Terms::default();
        for (round, row) in (0..self.rounds).zip(state.chunks(self.row)) {
            // rounds to come have no directions yet
            if row.iter().all(|g| *g == 0.0) {
                continue;
            }
            let seeds = self.seeds(Round(round));
            for (i, slope) in row.iter().enumerate() {
                terms.add(0, seeds.word_pair(i as u64), *slope)?;
            }
        }
        Ok(terms)
    }

    fn begin(&self, _: &[f32], round: Round, _: ClientId) -> Result<Box<dyn Notebook + '_>, ScalarsError> {
        if round.0 >= self.rounds {
            return Err(ScalarsError::Round { round, rounds: self.rounds });
        }
        let found = Vec::with_capacity(self.row);
        Ok(Box::new(Notes { prepared: self, seeds: self.seeds(round), round, found }))
    }

    fn most_sent(&self, _: u32) -> usize {
        self.row
    }
}

struct Notes<'a> {
    prepared: &'a Prepared,
    seeds: Stream,
    round: Round,
    /// Slopes in order of step and direction.
    found: Vec<f64>,
}

impl Notebook for Notes<'_> {
    fn draw(&mut self, step: u32, seeds: &mut Vec<u64>) {
        let p = self.prepared.directions;
        seeds.clear();
        seeds.extend((0..p).map(|i| self.seeds.word_pair(u64::from(step) * p + i)));
    }

    fn note(&mut self, _: u32, slopes: &[f64]) {
        self.found.extend(slopes);
    }

    fn close(self: Box<Self>, _: &[f32], _: &dyn Directions) -> Result<Vec<f32>, ScalarsError> {
        let mut out = vec![0.0; self.prepared.schema().dim()];
        let first = self.round.0 as usize * self.prepared.row;
        out[first..][..self.prepared.row].iter_mut().zip(&self.found).for_each(|(o, g)| *o = less(*g));
        Ok(out)
    }
}
