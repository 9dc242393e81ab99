//! Searches as a federation runs them: `[search]` of a run file.
//!
//! A [`Method`] is settings and the access that they need; [`Method::prepare`] meets an oracle and becomes a [`Search`], whose
//! state is one vector that travels, so the ordinary coordinator carries it: clients do [`Seeker`]'s local work on it, and
//! the server aggregates either as the run file says (rows of distributions are averaged) or in the method's own way.
//!
//! One file and one line in [`METHODS`] each.

mod bbt;
mod bdpl;
mod fedbpt;
mod random;
mod seeker;
mod token_edits;
mod vocabulary;

use std::fmt;
use std::sync::Arc;

use antiphon_algo::{Plan, ServerStep};
use antiphon_core::{ClientId, ConfigError, Entry, Round, Schema, SchemaError, Stream, registry};

pub use random::{Lucky, random_search};
pub use seeker::{Purse, Seeker};

use crate::access::{Access, Grant, Need, Refusal, admit};
use crate::cma::CmaError;
use crate::discrete::RowsError;
use crate::error::OracleError;
use crate::query::{Soft, SoftError};
use crate::task::{Fitness, Loss, Question};

/// Every search.
pub const METHODS: &[&Entry<dyn Method>] = &[&fedbpt::ENTRY, &bbt::ENTRY, &bdpl::ENTRY, &token_edits::ENTRY];

/// What each of [`METHODS`] needs at most, in order.
pub const NEEDS: &[Need] = &[fedbpt::NEED, bbt::NEED, bdpl::NEED, token_edits::NEED];

/// Those that work with an oracle that only answers in text.
const BY_TEXT: &[Need] = &[
    Need { method: "bdpl with loss = \"zero_one\"", access: Access::Text },
    Need { method: "token_edits with loss = \"zero_one\"", access: Access::Text },
];

/// The search that `table["id"]` names.
pub fn build(table: &toml::Table) -> Result<Box<dyn Method>, ConfigError> {
    registry::build("search", METHODS, table)
}

/// A search by its settings.
pub trait Method: fmt::Debug + Send + Sync {
    /// Its id and the least it can work with.
    fn need(&self) -> Need;

    /// Text whose tokens are the candidates of a prompt, for methods that choose among tokens.
    fn candidates(&self) -> Option<&str>;

    /// What is minimised.
    fn loss(&self) -> Loss;

    /// The complete table that builds it.
    fn settings(&self) -> Result<toml::Table, toml::ser::Error>;

    /// Ready to run on an oracle. Call [`Method::check`] first.
    fn prepare(&self, ground: &Ground) -> Result<Arc<dyn Search>, SearchError>;

    /// Refuses an oracle that gives less than it needs, with the searches that would fit.
    fn check(&self, gives: Access) -> Result<(), Refusal> {
        admit(self.need(), gives, if gives == Access::Text { BY_TEXT } else { NEEDS })
    }
}

/// What a search begins from, the same for every client.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Rows of the prompt before the search, and their number.
    pub origin: Soft,
    /// Spread of the embedding table, where access allows to know it.
    pub embedding_std: Option<f64>,
    /// Ids that a token may have.
    pub vocabulary: u32,
    /// Tokens that a prompt may be made of.
    pub candidates: Vec<u32>,
    /// The run's seed.
    pub seed: u64,
}

/// A search on a given ground.
pub trait Search: Send + Sync {
    /// Of the state.
    fn schema(&self) -> Result<Schema, SchemaError>;

    /// The first state, `[d]`.
    fn start(&self) -> Vec<f32>;

    /// The server's part, for methods that are not averaged.
    fn server(&self) -> Option<(Plan, Box<dyn ServerStep>)>;

    /// One client's round: its vector, *start minus end*, and the mean loss of what it tried, nats.
    fn round(&self, at: &Place<'_>, start: &[f32]) -> Result<(Vec<f32>, f64), SearchError>;

    /// The prompt that a state stands for.
    fn prompt(&self, state: &[f32]) -> Result<PromptOf, SearchError>;

    /// Where the search stands in `state`.
    fn gauge(&self, state: &[f32]) -> Gauge;

    /// A state drawn as the search begins, for random search: whatever the method would have tried first.
    fn random(&self, stream: &mut Stream) -> Vec<f32>;

    /// What is minimised.
    fn loss(&self) -> Loss;

    /// What a client that holds `examples` has evaluated in a round, at most.
    fn batches(&self, examples: u64) -> Vec<Batches>;

    /// At most so many examples does a client that holds `examples` have evaluated in a round.
    fn queries(&self, examples: u64) -> u64 {
        let each = self.batches(examples).into_iter().map(|b| b.times.saturating_mul(b.examples));
        each.fold(0, u64::saturating_add)
    }
}

/// Examples that are asked together, so many times: a request holds those of one batch at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batches {
    /// How often.
    pub times: u64,
    /// Examples of each.
    pub examples: u64,
}

/// How far a search has gone, of what its method has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gauge {
    /// Mean entropy of a position of the prompt over that of the uniform distribution, in `[0, 1]`.
    pub entropy: Option<f64>,
    /// Step size of an evolution strategy.
    pub sigma: Option<f64>,
}

/// A client in a round.
#[derive(Debug)]
pub struct Place<'a> {
    /// What it may ask.
    pub oracle: &'a Grant,
    /// Its examples, at least one.
    pub questions: &'a [Question],
    /// The run's seed.
    pub seed: u64,
    /// Who.
    pub client: ClientId,
    /// When.
    pub round: Round,
}

/// A prompt that was found.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptOf {
    /// Rows of embeddings.
    Soft(Soft),
    /// Token ids.
    Tokens(Vec<u32>),
}

impl PromptOf {
    /// Its fitness on `questions`, by scores of labels where they are granted, else by what is written.
    pub fn fitness(
        &self,
        oracle: &Grant,
        questions: &[Question],
        loss: Loss,
    ) -> Result<Fitness, SearchError> {
        match self {
            Self::Soft(soft) => {
                let oracle = oracle.embeddings().ok_or(SearchError::Access(Access::Embeddings))?;
                Ok(crate::task::soft_fitness(&*oracle, soft, questions, loss)?)
            }
            Self::Tokens(ids) => match oracle.logprobs() {
                Some(oracle) => Ok(crate::task::token_fitness(&*oracle, ids, questions, loss)?),
                None if loss.access() > Access::Text => Err(SearchError::Access(loss.access())),
                None => Ok(crate::text::text_fitness(&*oracle.text(), ids, questions)?),
            },
        }
    }
}

/// A search that cannot be prepared or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// Of the oracle.
    #[error(transparent)]
    Oracle(#[from] OracleError),
    /// Of the evolution strategy.
    #[error(transparent)]
    Cma(#[from] CmaError),
    /// Of distributions over tokens.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// Of soft rows.
    #[error(transparent)]
    Soft(#[from] SoftError),
    /// The state is not that of this search.
    #[error("a state of {found} numbers, but this search has {expected}")]
    State {
        /// Of the schema.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// The oracle was granted less than this needs.
    #[error("this needs {0} access, which was not granted")]
    Access(Access),
    /// Nothing to choose from.
    #[error("`candidates` names {found} tokens; a search among tokens needs at least 2")]
    Candidates {
        /// How many it has.
        found: usize,
    },
    /// More coordinates than what they stand for has numbers.
    #[error(
        "`intrinsic_dim` is {found}, but the prompt has {numbers} numbers in all; expected at most that, and far less to gain \
         by it: the papers have 500"
    )]
    Subspace {
        /// Coordinates.
        found: usize,
        /// Rows times width; where an endpoint has not been asked for the width, times the largest that there is.
        numbers: usize,
    },
    /// A projection that does not fit a machine.
    #[error(
        "`intrinsic_dim` is {found}, and its projection onto {numbers} numbers of a prompt takes {} GiB; expected less than {}",
        (found.saturating_mul(*numbers)) >> 28, MOST_ENTRIES >> 28
    )]
    Projection {
        /// Coordinates.
        found: usize,
        /// Rows times width.
        numbers: usize,
    },
    /// No candidate could be evaluated.
    #[error("no prompt of this round could be evaluated: every one had a question without an answer")]
    NothingKnown,
}

impl<E> From<crate::fedbpt::SearchError<E>> for SearchError
where
    Self: From<E>,
{
    fn from(e: crate::fedbpt::SearchError<E>) -> Self {
        match e {
            crate::fedbpt::SearchError::Cma(e) => Self::Cma(e),
            crate::fedbpt::SearchError::Evaluate(e) => e.into(),
        }
    }
}

impl From<crate::discrete::bdpl::BdplError<SearchError>> for SearchError {
    fn from(e: crate::discrete::bdpl::BdplError<SearchError>) -> Self {
        match e {
            crate::discrete::bdpl::BdplError::Rows(e) => Self::Rows(e),
            crate::discrete::bdpl::BdplError::Evaluate(e) => e,
        }
    }
}

/// Settings with their id, for [`Method::settings`].
fn complete(id: &str, settings: &impl serde::Serialize) -> Result<toml::Table, toml::ser::Error> {
    let mut table = toml::Table::try_from(settings)?;
    table.insert("id".to_owned(), id.into());
    Ok(table)
}

/// Refuses a value, with what would do.
fn expect(id: &str, key: &str, value: f64, what: &str, fits: bool) -> Result<(), ConfigError> {
    if fits && value.is_finite() {
        return Ok(());
    }
    Err(ConfigError::Invalid { id: id.to_owned(), reason: format!("`{key}` is {value}; expected {what}") })
}

/// Entries of a projection, of 4 bytes each: 8 GiB.
const MOST_ENTRIES: usize = 1 << 31;

/// No model's embeddings are wider.
const WIDEST: usize = 1 << 16;

/// Candidates of a generation, and prompts of a step: every client keeps as many.
const MOST_CANDIDATES: usize = 100_000;

/// Refuses a subspace of `dim` coordinates that is none of the prompt's, or that nobody could hold.
fn subspace(ground: &Ground, dim: usize) -> Result<(), SearchError> {
    let numbers = ground.origin.values().len();
    // before an endpoint has been asked, a row stands there with one number
    let most = if ground.origin.width() == 1 { numbers.saturating_mul(WIDEST) } else { numbers };
    if dim > most {
        return Err(SearchError::Subspace { found: dim, numbers: most });
    }
    if dim.saturating_mul(numbers) > MOST_ENTRIES {
        return Err(SearchError::Projection { found: dim, numbers });
    }
    Ok(())
}

/// Refuses a loss that stays as it is while rows of numbers move a little: an evolution strategy sees nothing to rank.
fn moves(id: &str, loss: Loss) -> Result<(), ConfigError> {
    if loss != Loss::ZeroOne {
        return Ok(());
    }
    let reason = "`loss` is zero_one, which small steps of a soft prompt leave as it is; expected nll, cross_entropy or hinge";
    Err(ConfigError::Invalid { id: id.to_owned(), reason: reason.to_owned() })
}

fn state(found: usize, expected: usize) -> Result<(), SearchError> {
    if found == expected { Ok(()) } else { Err(SearchError::State { expected, found }) }
}
