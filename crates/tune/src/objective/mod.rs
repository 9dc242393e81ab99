//! What is minimised.
//!
//! An objective turns examples into rows of a batch, and a forward pass into coefficients of the rows' losses. It sees the
//! model through a [`Session`], never a backend or a buffer, so an objective that compares sequences (preferences)
//! is one more file: it asks for the rows' losses first and for the gradient with its own coefficients then.
//!
//! Loss of a step, over all micro-batches `b` of the step with `u_b` units each: `Σ_b Σ_rows nll / Σ_b u_b`. Splitting a
//! step into more micro-batches changes nothing but memory.

mod classification;
mod sft;

use std::fmt;

use antiphon_core::{ConfigError, Entry, registry};
use antiphon_data::Sequence;
use antiphon_kernels::{Coef, Loss};
use antiphon_model::{Batch, BatchError, NetError, Pooling, Spec, Task};

/// Every objective.
pub const OBJECTIVES: &[&Entry<dyn Objective>] = &[&sft::ENTRY, &classification::ENTRY];

/// The objective that `table["id"]` names.
pub fn build(table: &toml::Table) -> Result<Box<dyn Objective>, ConfigError> {
    registry::build("objective", OBJECTIVES, table)
}

/// A loss over examples.
pub trait Objective: fmt::Debug + Send + Sync {
    /// Id in the registry.
    fn id(&self) -> &'static str;
    /// What the model is asked. `classes` is the size of the data's label set.
    fn task(&self, spec: &Spec, classes: usize) -> Result<Task, ObjectiveError>;
    /// How many rows of an example carry loss: its share of the step's mean.
    fn units(&self, example: &Sequence) -> usize;
    /// Adds an example to a batch; allocates nothing within what the batch has reserved.
    fn push(&self, example: &Sequence, batch: &mut Batch) -> Result<(), ObjectiveError>;
    /// Accumulates the gradient of `coef · Σ_rows nll` over the session's batch.
    fn backward(&self, session: &mut dyn Session, coef: f32) -> Result<Loss, NetError> {
        session.forward()?;
        session.backward(Coef::Uniform(coef))
    }
    /// The losses of the session's batch, without gradient.
    fn score(&self, session: &mut dyn Session) -> Result<Loss, NetError> {
        session.forward()?;
        session.losses(None)
    }
    /// The complete table that builds this objective, defaults written out.
    fn settings(&self) -> Result<toml::Table, toml::ser::Error>;
}

/// One batch in front of one model.
pub trait Session {
    /// The batch.
    fn batch(&self) -> &Batch;
    /// Runs the blocks; first of all.
    fn forward(&mut self) -> Result<(), NetError>;
    /// Losses of the labelled rows (or of the sequences' classes) in nats; `rows`, if given, takes each.
    fn losses(&mut self, rows: Option<&mut [f32]>) -> Result<Loss, NetError>;
    /// Accumulates the gradient of `Σ coef · nll` into the client's gradient. Ends the session: what the forward pass
    /// left is overwritten.
    fn backward(&mut self, coef: Coef<'_>) -> Result<Loss, NetError>;
}

/// An example or a model that an objective cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// The model cannot read the example.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A pooling that this model lacks.
    #[error("pooling `{pooling}` does not fit this model: {reason}")]
    Pooling {
        /// As the run file spells it.
        pooling: &'static str,
        /// What it lacks, and what would work.
        reason: &'static str,
    },
    /// Classification with fewer than two classes.
    #[error("classification needs two classes or more, the data have {0}")]
    Classes(usize),
    /// An encoder asked for the next token.
    #[error("`sft` predicts the next token, and this model is an encoder; use `classification`")]
    Encoder,
    /// An example without a class.
    #[error("an example has no label, which classification needs")]
    NoClass,
}

/// The run file's word for a pooling.
fn pooling_name(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Cls => "cls",
        Pooling::Pooler => "pooler",
        Pooling::Mean => "mean",
        Pooling::Last => "last",
    }
}
