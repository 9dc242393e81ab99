//! `bdpl`: a prompt of tokens, by gradients of sampled prompts' losses; see [`crate::discrete::bdpl`].
//!
//! FedOne is this with a cohort of one client: `[federation] fraction` at one over the number of clients.

use std::sync::Arc;

use antiphon_algo::{Plan, ServerStep};
use antiphon_core::{ConfigError, Entry, Purpose, Schema, SchemaError, Stream, registry};
use serde::{Deserialize, Serialize};

use super::vocabulary::{Vocabulary, candidates, delta};
use super::{
    Batches, Gauge, Ground, MOST_CANDIDATES, Method, Place, PromptOf, Search, SearchError, complete, expect,
};
use crate::access::{Access, Need};
use crate::discrete::{Rows, bdpl};
use crate::task::{Loss, Question};

pub(super) const NEED: Need = Need { method: "bdpl", access: Access::Logprobs };

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: NEED.method,
    paper: "arXiv:2201.08531",
    about: "a prompt of tokens from score-function gradients; FedOne with one client a round",
    build: |t| Ok(Box::new(registry::settings::<Bdpl>(NEED.method, t)?.check()?)),
};

/// Settings of BDPL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bdpl {
    /// A text whose tokens are what prompts are made of.
    candidates: String,
    /// Prompts drawn for a step.
    #[serde(default = "twenty")]
    samples: usize,
    /// Examples on which the prompts of a step are judged; an epoch is one pass over a client's own.
    batch_size: usize,
    /// Passes of a client in a round.
    #[serde(default = "once")]
    local_epochs: u32,
    /// Of AdamW on probabilities.
    learning_rate: f64,
    /// Decoupled.
    #[serde(default = "hundredth")]
    weight_decay: f64,
    /// Temperature of the Gumbel variant; without it BDPL itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    /// What is minimised: `nll`, `cross_entropy` or `hinge`; or `zero_one`, wrong answers, for which texts are enough.
    loss: Loss,
}

fn twenty() -> usize {
    20
}
fn once() -> u32 {
    1
}
fn hundredth() -> f64 {
    0.01
}

/// Their batches are laid out before the first is asked.
const MOST_EPOCHS: u32 = 10_000;

/// Of BDPL's code.
const MAX_NORM: f64 = 3.0;

impl Bdpl {
    fn check(self) -> Result<Self, ConfigError> {
        let id = NEED.method;
        let samples = self.samples;
        expect(id, "samples", samples as f64, "2 to 100000", (2..=MOST_CANDIDATES).contains(&samples))?;
        expect(id, "batch_size", self.batch_size as f64, "1 or more", self.batch_size > 0)?;
        let epochs = self.local_epochs;
        expect(id, "local_epochs", f64::from(epochs), "1 to 10000", (1..=MOST_EPOCHS).contains(&epochs))?;
        expect(id, "learning_rate", self.learning_rate, "finite and above 0", self.learning_rate > 0.0)?;
        expect(id, "weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0.0)?;
        let tau = self.temperature.unwrap_or(1.0);
        expect(id, "temperature", tau, "finite and above 0", tau > 0.0)?;
        Ok(self)
    }
}

impl Method for Bdpl {
    fn need(&self) -> Need {
        Need { access: self.loss.access(), ..NEED }
    }

    fn candidates(&self) -> Option<&str> {
        Some(&self.candidates)
    }

    fn loss(&self) -> Loss {
        self.loss
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(NEED.method, self)
    }

    fn prepare(&self, ground: &Ground) -> Result<Arc<dyn Search>, SearchError> {
        let tokens = candidates(ground)?;
        let start = Rows::uniform(ground.origin.rows(), tokens.len())?;
        Ok(Arc::new(Prepared { settings: self.clone(), words: Vocabulary { tokens, start } }))
    }
}

struct Prepared {
    settings: Bdpl,
    words: Vocabulary,
}

impl Search for Prepared {
    fn schema(&self) -> Result<Schema, SchemaError> {
        self.words.schema()
    }

    fn start(&self) -> Vec<f32> {
        self.words.start.to_wire()
    }

    fn server(&self) -> Option<(Plan, Box<dyn ServerStep>)> {
        None
    }

    fn round(&self, at: &Place<'_>, start: &[f32]) -> Result<(Vec<f32>, f64), SearchError> {
        let s = &self.settings;
        let rows = self.words.rows(start)?;
        let key = |what| Stream::keyed(at.seed, Purpose::Search, Some(at.round), Some(at.client), what);
        let mut order: Vec<&Question> = at.questions.iter().collect();
        let mut shuffle = key("order");
        let mut batches: Vec<Vec<Question>> = Vec::new();
        for _ in 0..s.local_epochs {
            shuffle.shuffle(&mut order);
            batches.extend(order.chunks(s.batch_size).map(|b| b.iter().map(|q| (*q).clone()).collect()));
        }
        let learning = bdpl::Settings {
            samples: s.samples,
            learning_rate: s.learning_rate,
            weight_decay: s.weight_decay,
            max_norm: MAX_NORM,
            temperature: s.temperature,
        };
        let loss = |step: u32, prompt: &[usize]| {
            Ok::<_, SearchError>(
                self.words.spell(prompt).fitness(at.oracle, &batches[step as usize], s.loss)?.loss,
            )
        };
        let learnt = bdpl::learn(&rows, &learning, batches.len() as u32, &mut key("prompts"), loss)?;
        if learnt.loss.is_nan() {
            return Err(SearchError::NothingKnown);
        }
        Ok((delta(start, &learnt.rows), learnt.loss))
    }

    fn prompt(&self, theta: &[f32]) -> Result<PromptOf, SearchError> {
        self.words.best(theta)
    }

    fn gauge(&self, theta: &[f32]) -> Gauge {
        self.words.gauge(theta)
    }

    fn random(&self, stream: &mut Stream) -> Vec<f32> {
        let prompt = self.words.start.sample(stream);
        Rows::one_hot(self.words.start.candidates(), &prompt).map_or_else(|_| self.start(), |r| r.to_wire())
    }

    fn loss(&self) -> Loss {
        self.settings.loss
    }

    fn batches(&self, examples: u64) -> Vec<Batches> {
        let (size, epochs) = (self.settings.batch_size as u64, u64::from(self.settings.local_epochs));
        let each = (self.settings.samples as u64).saturating_mul(epochs);
        // the last batch of a pass is what is left of it
        let (whole, rest) = (examples / size, examples % size);
        vec![
            Batches { times: each.saturating_mul(whole), examples: size },
            Batches { times: if rest > 0 { each } else { 0 }, examples: rest },
        ]
    }
}
