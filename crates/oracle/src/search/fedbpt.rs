//! `fedbpt`: a soft prompt in a random subspace, by CMA-ES at clients and server; see [`crate::fedbpt`].
//!
//! The covariance is isotropic: at the dimensions of black-box tuning a full one learns nothing within the budget and would
//! make the broadcast grow from `d` numbers to `d²`.

use std::sync::Arc;

use antiphon_algo::{Plan, ServerStep};
use antiphon_core::{ConfigError, Entry, Noise, Purpose, Schema, SchemaError, Stream, registry};
use serde::{Deserialize, Serialize};

use super::{
    Batches, Gauge, Ground, MOST_CANDIDATES, Method, Place, PromptOf, Search, SearchError, complete, expect,
    moves, subspace,
};
use crate::access::{Access, Need};
use crate::cma::{Cma, Constants, Covariance};
use crate::fedbpt::{self as core, Job, Places, Ranked, Steps};
use crate::projection::{Projection, Scale};
use crate::task::{Loss, Question, soft_fitness};

pub(super) const NEED: Need = Need { method: "fedbpt", access: Access::Embeddings };

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: NEED.method,
    paper: "arXiv:2310.01467",
    about: "a soft prompt in a random subspace, searched by CMA-ES at clients and server",
    build: |t| Ok(Box::new(registry::settings::<FedBpt>(NEED.method, t)?.check()?)),
};

/// Settings of FedBPT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FedBpt {
    /// Coordinates of the subspace.
    intrinsic_dim: usize,
    /// First step size.
    #[serde(default = "one")]
    sigma: f64,
    /// Least step size that is broadcast.
    #[serde(default = "half")]
    sigma_floor: f64,
    /// Factor on the step size after each round, beside its adaptation, which hardly moves it within a few rounds. 1: the paper.
    #[serde(default = "one")]
    sigma_decay: f64,
    /// Spread of the prompt's rows over that of the embedding table.
    #[serde(default = "one")]
    alpha: f64,
    /// Generations of a client in a round.
    #[serde(default = "eight")]
    local_iter: u32,
    /// Candidates of a generation.
    #[serde(default = "five")]
    local_popsize: usize,
    /// Share of the tokens that are replaced in the inputs by whose loss the fitness is divided; 0 divides by nothing and
    /// halves the queries.
    #[serde(default = "half")]
    perturb_rate: f64,
    /// By what the server ranks clients: `loss` as the paper, `gain` over the broadcast prompt on the client's own data.
    #[serde(default)]
    rank_by: RankBy,
    /// What is minimised: `nll`, `cross_entropy` or `hinge`.
    loss: Loss,
}

/// What a client reports as the fitness of its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RankBy {
    /// The fitness itself. Where clients hold different tasks, whoever holds the easiest is ranked first whatever it found.
    #[default]
    Loss,
    /// What it has gained in the round: one evaluation more. Not of the paper.
    Gain,
}

fn one() -> f64 {
    1.0
}
fn half() -> f64 {
    0.5
}
fn five() -> usize {
    5
}
fn eight() -> u32 {
    8
}

impl FedBpt {
    fn check(self) -> Result<Self, ConfigError> {
        let id = NEED.method;
        expect(id, "intrinsic_dim", self.intrinsic_dim as f64, "1 or more", self.intrinsic_dim > 0)?;
        for (key, value) in [("sigma", self.sigma), ("alpha", self.alpha)] {
            expect(id, key, value, "finite and above 0", value > 0.0)?;
        }
        expect(id, "sigma_floor", self.sigma_floor, "0 or more", self.sigma_floor >= 0.0)?;
        let decay = self.sigma_decay;
        expect(id, "sigma_decay", decay, "above 0 and at most 1", decay > 0.0 && decay <= 1.0)?;
        expect(id, "local_iter", f64::from(self.local_iter), "1 or more", self.local_iter > 0)?;
        let size = self.local_popsize;
        expect(id, "local_popsize", size as f64, "3 to 100000", (3..=MOST_CANDIDATES).contains(&size))?;
        moves(id, self.loss)?;
        let rate = self.perturb_rate;
        expect(id, "perturb_rate", rate, "a share from 0 to 1", (0.0..=1.0).contains(&rate))?;
        Ok(self)
    }

    fn core(&self) -> core::Settings {
        core::Settings {
            dim: self.intrinsic_dim,
            sigma: self.sigma,
            generations: self.local_iter,
            population: self.local_popsize,
            floor: self.sigma_floor,
            decay: self.sigma_decay,
            covariance: Covariance::Isotropic,
        }
    }
}

impl Method for FedBpt {
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
            places: Places::new(self.intrinsic_dim),
            client: self.core().client_constants()?,
            vocabulary: ground.vocabulary,
            settings: self.clone(),
        }))
    }
}

struct Prepared {
    settings: FedBpt,
    projection: Projection,
    places: Places,
    client: Constants,
    vocabulary: u32,
}

impl Search for Prepared {
    fn schema(&self) -> Result<Schema, SchemaError> {
        self.places.schema()
    }

    fn start(&self) -> Vec<f32> {
        self.places.start(self.settings.sigma)
    }

    fn server(&self) -> Option<(Plan, Box<dyn ServerStep>)> {
        let reducer = Ranked::new(self.settings.intrinsic_dim, self.client.mu);
        let plan = Plan { layers: Vec::new(), reducer: Box::new(reducer) };
        Some((plan, Box::new(Steps::new(&self.settings.core()))))
    }

    fn round(&self, at: &Place<'_>, start: &[f32]) -> Result<(Vec<f32>, f64), SearchError> {
        let found = start.len();
        let expected = self.places.len();
        let (mean, sigma) = self.places.read(start).ok_or(SearchError::State { expected, found })?;
        let oracle = at.oracle.embeddings().ok_or(SearchError::Access(NEED.access))?;
        let key = |what| Stream::keyed(at.seed, Purpose::Search, Some(at.round), Some(at.client), what);
        let (rate, mut draws) = (self.settings.perturb_rate, key("perturb"));
        let other: Vec<Question> = match rate {
            0.0 => Vec::new(),
            _ => at.questions.iter().map(|q| q.perturbed(rate, self.vocabulary, &mut draws)).collect(),
        };
        let (mut sum, mut known) = (0.0, 0_u32);
        let mut fitness = |x: &[f64]| -> Result<f64, SearchError> {
            let soft = self.projection.prompt(x)?;
            let own = soft_fitness(&*oracle, &soft, at.questions, self.settings.loss)?.loss;
            if !own.is_nan() {
                sum += own;
                known += 1;
            }
            if other.is_empty() {
                return Ok(own);
            }
            Ok(own / soft_fitness(&*oracle, &soft, &other, self.settings.loss)?.loss)
        };
        let before = match self.settings.rank_by {
            RankBy::Loss => 0.0,
            RankBy::Gain => fitness(&mean)?,
        };
        let cma = Cma::new(mean, sigma, self.client.clone())?;
        let job = Job { cma, generations: self.settings.local_iter };
        let mut report = core::search(job, &mut key("samples"), &mut fitness)?;
        report.fitness -= before;
        // a client whose end could not be evaluated has no rank
        if !report.fitness.is_finite() || known == 0 {
            return Err(SearchError::NothingKnown);
        }
        Ok((self.places.delta(start, &report), sum / f64::from(known)))
    }

    fn prompt(&self, theta: &[f32]) -> Result<PromptOf, SearchError> {
        let (expected, found) = (self.places.len(), theta.len());
        let (mean, _) = self.places.read(theta).ok_or(SearchError::State { expected, found })?;
        Ok(PromptOf::Soft(self.projection.prompt(&mean)?))
    }

    fn gauge(&self, theta: &[f32]) -> Gauge {
        Gauge { sigma: self.places.read(theta).map(|(_, sigma)| sigma), ..Gauge::default() }
    }

    fn random(&self, stream: &mut Stream) -> Vec<f32> {
        let mut out = self.start();
        for x in &mut out[..self.settings.intrinsic_dim] {
            *x = (self.settings.sigma * stream.standard_normal()) as f32;
        }
        out
    }

    fn loss(&self) -> Loss {
        self.settings.loss
    }

    fn batches(&self, examples: u64) -> Vec<Batches> {
        let judged = if self.settings.perturb_rate > 0.0 { 2 } else { 1 };
        let before = match self.settings.rank_by {
            RankBy::Loss => 0,
            RankBy::Gain => judged,
        };
        // the core counts examples: of one, these are batches
        let times = self.settings.core().queries(1, judged > 1).saturating_add(before);
        vec![Batches { times, examples }]
    }
}
