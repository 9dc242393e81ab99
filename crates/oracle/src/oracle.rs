//! The seams of black-box access: one trait a tier.
//!
//! Laws that every oracle keeps:
//! 1. an answer has as many items as the batch had questions, in order;
//! 2. what cannot be answered is [`crate::Missing`], never a number that stands for it;
//! 3. `usage` counts everything that was sent, failures included, and never exceeds the sum of
//!    [`TextOracle::at_most`] over the batch;
//! 4. [`Identity`] changes with everything, the question aside, that changes an answer.

use antiphon_core::{Digest, Schema};

use crate::access::Access;
use crate::answer::{Answers, LabelScore, Usage};
use crate::error::OracleError;
use crate::query::{Query, ScoreQuery, Soft, TextQuery};

/// Everything about an oracle, the question aside, that changes its answers. Part of the key of every cached answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Who answers: `embedded`, or an endpoint's name without keys.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// Of whatever else matters: weights, system fingerprint, template, sampling settings.
    pub fingerprint: Digest,
}

/// What is known of an oracle before anything is asked in earnest.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Who answers.
    pub identity: Identity,
    /// The tier of the oracle itself; what a method is granted may be less.
    pub access: Access,
    /// Tokens that the model reads at most, soft rows included, if known.
    pub context: Option<usize>,
    /// The largest |Δ log p| between answers to one repeated question, nats; `0.0` where answers repeat exactly, `None`
    /// where it was not measured.
    pub noise_floor: Option<f64>,
}

/// Text in, text out.
///
/// Methods take `&self`: clients of one site share an oracle, its budget and its cache.
pub trait TextOracle: Send + Sync {
    /// The same on every call.
    fn facts(&self) -> &Facts;

    /// An upper bound on what answering `query` can cost, this oracle's own retries included. The ledger reserves it before
    /// anything is sent, and gives back what was not used.
    fn at_most(&self, query: Query<'_>) -> Usage;

    /// One text for each query, without the prompt.
    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError>;
}

/// Log-probabilities of given continuations.
pub trait LogprobOracle: TextOracle {
    /// For each query one score for each of its labels, in order.
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError>;
}

/// Rows of input embeddings before the text.
pub trait EmbedOracle: LogprobOracle {
    /// Numbers in one row: the model's hidden size.
    fn width(&self) -> usize;

    /// Standard deviation of the entries of the table of input embeddings: the scale of a random projection. The table itself
    /// is not handed out.
    fn embedding_std(&self) -> f64;

    /// As [`LogprobOracle::score`], each prompt after the same soft rows: one candidate on many examples.
    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError>;
}

/// Other values for the trainable tensors, evaluated forward only.
pub trait WeightOracle: EmbedOracle {
    /// Of the trainable vector.
    fn schema(&self) -> &Schema;

    /// As [`LogprobOracle::score`], with `theta` (`[d]`, schema order) in place of the trainable tensors.
    fn score_at(&self, theta: &[f32], batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError>;
}
