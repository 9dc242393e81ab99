//! `bbt`: a soft prompt in a random subspace, by CMA-ES of each client on its own; see [`crate::bbt`].
//!
//! A client keeps some of its examples aside, searches on the others from the broadcast coordinates with a fresh evolution
//! strategy, and sends what was best on those aside. In a federation of one client and one round this is black-box tuning; with
//! more clients or rounds the coordinates are averaged as the run file says, as in FedOne's BBT, and nothing else travels.
//!
//! Deliberately missing: the strategy's step size and paths between rounds, which are one client's own.

use std::sync::Arc;

use antiphon_algo::{Plan, ServerStep};
use antiphon_core::{ConfigError, Entry, Noise, Purpose, Schema, SchemaError, Stream, TensorSpec, registry};
use serde::{Deserialize, Serialize};

use super::{
    Batches, Gauge, Ground, MOST_CANDIDATES, Method, Place, PromptOf, Search, SearchError, complete, expect,
    moves, state, subspace,
};
use crate::access::{Access, Need};
use crate::bbt;
use crate::cma::{Cma, Constants, Covariance};
use crate::projection::{Projection, Scale};
use crate::task::{Loss, Question, soft_fitness};

pub(super) const NEED: Need = Need { method: "bbt", access: Access::Embeddings };

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: NEED.method,
    paper: "arXiv:2201.03514",
    about: "a soft prompt in a random subspace, searched by CMA-ES of each client alone; for a federation of one, as clients' coordinates are averaged",
    build: |t| Ok(Box::new(registry::settings::<Bbt>(NEED.method, t)?.check()?)),
};

/// Settings of BBT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bbt {
    /// Coordinates of the subspace; the paper's 500.
    intrinsic_dim: usize,
    /// First step size of every round.
    #[serde(default = "one")]
    sigma: f64,
    /// Spread of the prompt's rows over that of the embedding table.
    #[serde(default = "one")]
    alpha: f64,
    /// Candidates of a generation.
    #[serde(default = "twenty")]
    popsize: usize,
    /// Candidates of a client in a round, rounded up to whole generations: the paper's 8000.
    candidates: usize,
    /// Every so many candidates, the one at hand is judged on the examples kept aside.
    #[serde(default = "hundred")]
    select_every: usize,
    /// Share of a client's examples that it keeps aside to choose among candidates, in (0, 1).
    #[serde(default = "half")]
    select_on: f64,
    /// What is learnt of the covariance: `isotropic`, `separable`, or `full` as in the paper, which at its 500 dimensions comes
    /// to the same.
    #[serde(default = "isotropic")]
    covariance: Covariance,
    /// What is minimised: `cross_entropy` or `hinge` over the labels, or `nll`.
    loss: Loss,
}

fn one() -> f64 {
    1.0
}
fn half() -> f64 {
    0.5
}
fn twenty() -> usize {
    20
}
fn hundred() -> usize {
    100
}
fn isotropic() -> Covariance {
    Covariance::Isotropic
}

impl Bbt {
    fn check(self) -> Result<Self, ConfigError> {
        let id = NEED.method;
        for (key, value) in [
            ("intrinsic_dim", self.intrinsic_dim),
            ("candidates", self.candidates),
            ("select_every", self.select_every),
        ] {
            expect(id, key, value as f64, "1 or more", value > 0)?;
        }
        let size = self.popsize;
        expect(id, "popsize", size as f64, "3 to 100000", (3..=MOST_CANDIDATES).contains(&size))?;
        for (key, value) in [("sigma", self.sigma), ("alpha", self.alpha)] {
            expect(id, key, value, "finite and above 0", value > 0.0)?;
        }
        moves(id, self.loss)?;
        let share = self.select_on;
        expect(id, "select_on", share, "a share above 0 and below 1", share > 0.0 && share < 1.0)?;
        Ok(self)
    }

    /// Examples kept aside of `n`: at least one, and not all of several.
    fn aside(&self, n: u64) -> u64 {
        ((self.select_on * n as f64).round() as u64).clamp(1, n.saturating_sub(1).max(1))
    }

    /// Candidates of a round, in whole generations.
    fn tried(&self) -> u64 {
        self.candidates.div_ceil(self.popsize).saturating_mul(self.popsize) as u64
    }
}

impl Method for Bbt {
    fn need(&self) -> Need {
        NEED
    }

    fn candidates(&self) -> Option<&str> {
        None
    }

    fn loss(&self) -> Loss {
        self.loss
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(NEED.method, self)
    }

    fn prepare(&self, ground: &Ground) -> Result<Arc<dyn Search>, SearchError> {
        let embedding_std = ground.embedding_std.ok_or(SearchError::Access(NEED.access))?;
        subspace(ground, self.intrinsic_dim)?;
        let scale = Scale { dim: self.intrinsic_dim, alpha: self.alpha, sigma: self.sigma, embedding_std };
        Ok(Arc::new(Prepared {
            projection: Projection::new(&ground.origin, &scale, ground.seed),
            constants: Constants::new(self.intrinsic_dim, self.popsize, self.covariance)?,
            settings: self.clone(),
        }))
    }
}

struct Prepared {
    settings: Bbt,
    projection: Projection,
    constants: Constants,
}

impl Prepared {
    fn coordinates(&self, theta: &[f32]) -> Result<Vec<f64>, SearchError> {
        state(theta.len(), self.settings.intrinsic_dim)?;
        Ok(theta.iter().map(|v| f64::from(*v)).collect())
    }
}

impl Search for Prepared {
    fn schema(&self) -> Result<Schema, SchemaError> {
        let shape = vec![self.settings.intrinsic_dim];
        Schema::new(vec![TensorSpec { name: "search.mean".to_owned(), shape }])
    }

    fn start(&self) -> Vec<f32> {
        vec![0.0; self.settings.intrinsic_dim]
    }

    fn server(&self) -> Option<(Plan, Box<dyn ServerStep>)> {
        None
    }

    fn round(&self, at: &Place<'_>, start: &[f32]) -> Result<(Vec<f32>, f64), SearchError> {
        let s = &self.settings;
        let mean = self.coordinates(start)?;
        let oracle = at.oracle.embeddings().ok_or(SearchError::Access(NEED.access))?;
        // which examples are kept aside does not change from round to round
        let mut order: Vec<&Question> = at.questions.iter().collect();
        Stream::keyed(at.seed, Purpose::Search, None, Some(at.client), "aside").shuffle(&mut order);
        let own =
            |questions: &[&Question]| -> Vec<Question> { questions.iter().map(|q| (*q).clone()).collect() };
        let aside = s.aside(order.len() as u64) as usize;
        let (dev, train) = match order.split_at(aside) {
            (dev, []) => (own(dev), own(dev)),
            (dev, train) => (own(dev), own(train)),
        };
        let loss = |x: &[f64], on: &[Question]| -> Result<f64, SearchError> {
            Ok(soft_fitness(&*oracle, &self.projection.prompt(x)?, on, s.loss)?.loss)
        };
        let cma = Cma::new(mean, s.sigma, self.constants.clone())?;
        let mut noise = Stream::keyed(at.seed, Purpose::Search, Some(at.round), Some(at.client), "samples");
        let found =
            bbt::tune(cma, s.candidates, s.select_every, &mut noise, |x| loss(x, &train), |x| loss(x, &dev))?;
        let known: Vec<f64> = found.history.iter().copied().filter(|l| l.is_finite()).collect();
        if found.loss.is_nan() || known.is_empty() {
            return Err(SearchError::NothingKnown);
        }
        let delta = start.iter().zip(&found.x).map(|(s, x)| (f64::from(*s) - x) as f32).collect();
        Ok((delta, known.iter().sum::<f64>() / known.len() as f64))
    }

    fn prompt(&self, theta: &[f32]) -> Result<PromptOf, SearchError> {
        Ok(PromptOf::Soft(self.projection.prompt(&self.coordinates(theta)?)?))
    }

    fn gauge(&self, _theta: &[f32]) -> Gauge {
        Gauge::default()
    }

    fn random(&self, stream: &mut Stream) -> Vec<f32> {
        let sigma = self.settings.sigma;
        (0..self.settings.intrinsic_dim).map(|_| (sigma * stream.standard_normal()) as f32).collect()
    }

    fn loss(&self) -> Loss {
        self.settings.loss
    }

    fn batches(&self, examples: u64) -> Vec<Batches> {
        let (aside, tried) = (self.settings.aside(examples), self.settings.tried());
        let judged = (tried / self.settings.select_every as u64).saturating_add(1);
        let searched = examples.saturating_sub(aside).max(1);
        vec![Batches { times: tried, examples: searched }, Batches { times: judged, examples: aside }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_kept_aside_and_something_is_searched_on() {
        let bbt = |share: f64| Bbt {
            intrinsic_dim: 4,
            sigma: 1.0,
            alpha: 1.0,
            popsize: 20,
            candidates: 90,
            select_every: 30,
            select_on: share,
            covariance: Covariance::Isotropic,
            loss: Loss::Hinge,
        };
        let aside = |share, n| bbt(share).aside(n);
        assert_eq!([aside(0.5, 10), aside(0.01, 10), aside(0.99, 10), aside(0.5, 1)], [5, 1, 9, 1]);
        // whole generations
        assert_eq!(bbt(0.5).tried(), 100);
    }
}
