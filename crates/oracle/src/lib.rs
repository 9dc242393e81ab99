//! Black-box access: what may be asked of a model that nobody may differentiate, what asking costs, and how to search with
//! the answers alone.
//!
//! Access has four tiers, each with everything the tier before it has:
//!
//! ```text
//! TextOracle ⊂ LogprobOracle ⊂ EmbedOracle ⊂ WeightOracle
//! text out     log p(label)    soft prompts    trainable vectors in place of the model's own
//! ```
//!
//! A tier is a trait, so that a method is handed what it needs and can reach no further, also in process: [`Grant`] keeps an
//! oracle under the tier that was granted, and nothing leads back up. A method states the least it [`Need`]s; [`admit`]
//! refuses, before anything is sent, a method that needs more than the oracle gives, and lists those that would fit.
//!
//! Nothing here knows how a model computes: this crate depends on neither `antiphon-kernels` nor `antiphon-model`. The oracle
//! inside this process lives where models are, those over a network implement the same traits.
//!
//! Deliberately missing: async. A batch of queries goes in and all answers come out; who talks to a network keeps several
//! requests in flight behind that call.

pub mod access;
pub mod answer;
pub mod bbt;
pub mod cache;
pub mod calibrate;
pub mod cma;
pub mod discrete;
pub mod error;
pub mod fedbpt;
pub mod http;
pub mod ledger;
pub mod oracle;
pub mod projection;
pub mod query;
pub mod search;
pub mod synthetic;
pub mod task;
pub mod text;

pub use access::{Access, Grant, Need, Refusal, admit};
pub use answer::{Answers, LabelScore, Missing, Usage};
pub use error::OracleError;
pub use oracle::{EmbedOracle, Facts, Identity, LogprobOracle, TextOracle, WeightOracle};
pub use query::{Label, Prompt, Query, ScoreQuery, Soft, SoftError, TextQuery};
