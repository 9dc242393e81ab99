//! `token_edits`: a prompt of tokens, by greedy edits at clients and a vote at the server; see [`crate::discrete::edit`].

use std::sync::Arc;

use antiphon_algo::{Plan, ServerStep};
use antiphon_core::{ConfigError, Entry, Purpose, Schema, SchemaError, Stream, registry};
use serde::{Deserialize, Serialize};

use super::vocabulary::{Vocabulary, candidates, delta};
use super::{Batches, Gauge, Ground, Method, Place, PromptOf, Search, SearchError, complete, expect};
use crate::access::{Access, Need};
use crate::discrete::{Rows, edit};
use crate::task::Loss;

pub(super) const NEED: Need = Need { method: "token_edits", access: Access::Logprobs };

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: NEED.method,
    paper: "after arXiv:2411.00985",
    about: "a prompt of tokens by greedy edits; clients vote on each position",
    build: |t| Ok(Box::new(registry::settings::<TokenEdits>(NEED.method, t)?.check()?)),
};

/// Settings of token edits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEdits {
    /// A text whose tokens are what prompts are made of.
    candidates: String,
    /// Positions that a client tries in a round.
    edits: u32,
    /// Tokens tried at each.
    fillers: usize,
    /// What is minimised: `nll`, `cross_entropy` or `hinge`; or `zero_one`, wrong answers, for which texts are enough.
    loss: Loss,
}

impl TokenEdits {
    fn check(self) -> Result<Self, ConfigError> {
        let id = NEED.method;
        expect(id, "edits", f64::from(self.edits), "1 or more", self.edits > 0)?;
        expect(id, "fillers", self.fillers as f64, "1 or more", self.fillers > 0)?;
        Ok(self)
    }
}

impl Method for TokenEdits {
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
        let mut stream = Stream::keyed(ground.seed, Purpose::Search, None, None, "start");
        // nothing is known of any token yet: a prompt at random, the same for all
        let first = Rows::uniform(ground.origin.rows(), tokens.len())?.sample(&mut stream);
        let start = Rows::one_hot(tokens.len(), &first)?;
        Ok(Arc::new(Prepared { settings: self.clone(), words: Vocabulary { tokens, start } }))
    }
}

struct Prepared {
    settings: TokenEdits,
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
        let mut stream = Stream::keyed(at.seed, Purpose::Search, Some(at.round), Some(at.client), "edits");
        let loss = |prompt: &[usize]| {
            Ok::<_, SearchError>(self.words.spell(prompt).fitness(at.oracle, at.questions, s.loss)?.loss)
        };
        let edited = edit::edit(&rows, s.edits, s.fillers, &mut stream, loss)?;
        if edited.loss.is_nan() {
            return Err(SearchError::NothingKnown);
        }
        Ok((delta(start, &edited.votes(rows.candidates())?), edited.loss))
    }

    fn prompt(&self, theta: &[f32]) -> Result<PromptOf, SearchError> {
        self.words.best(theta)
    }

    fn gauge(&self, theta: &[f32]) -> Gauge {
        self.words.gauge(theta)
    }

    fn random(&self, stream: &mut Stream) -> Vec<f32> {
        let uniform = Rows::uniform(self.words.start.positions(), self.words.start.candidates());
        let drawn = uniform.and_then(|u| Rows::one_hot(u.candidates(), &u.sample(stream)));
        drawn.map_or_else(|_| self.start(), |r| r.to_wire())
    }

    fn loss(&self) -> Loss {
        self.settings.loss
    }

    fn batches(&self, examples: u64) -> Vec<Batches> {
        let tried = u64::from(self.settings.edits).saturating_mul(self.settings.fillers as u64);
        let times = tried.saturating_add(1);
        vec![Batches { times, examples }]
    }
}
