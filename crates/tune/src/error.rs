//! Why training or evaluation stopped.

use antiphon_algo::WorkError;
use antiphon_core::ClientId;
use antiphon_kernels::BackendError;
use antiphon_model::NetError;

use crate::method::MethodError;
use crate::objective::ObjectiveError;
use crate::optim::StateError;

/// Local training or evaluation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// A client that holds fewer examples than one micro-batch.
    #[error(
        "{client} has {found} training sequences, fewer than `micro_batch_size = {expected}`; lower it, or leave the \
         client out"
    )]
    FewExamples {
        /// Who.
        client: ClientId,
        /// Sequences it has.
        found: usize,
        /// Sequences in a micro-batch.
        expected: usize,
    },
    /// Pretended examples that make no weight.
    #[error("{client}: {source}")]
    Weight {
        /// Who.
        client: ClientId,
        /// Why.
        source: antiphon_core::NotAWeight,
    },
    /// A step in which no row carries loss.
    #[error("local step {step} has no labelled token: every label is masked or cut off")]
    NoLabels {
        /// Zero-based.
        step: u32,
    },
    /// An example that the objective or the model refuses.
    #[error("sequence {index}: {source}")]
    Example {
        /// Index among the sequences.
        index: usize,
        /// Why.
        source: ObjectiveError,
    },
    /// A sequence that alone is larger than the planned step.
    #[error("sequence {index} has {rows} rows, the planned step holds {planned}")]
    TooLarge {
        /// Index among the sequences.
        index: usize,
        /// Rows with the soft prompt.
        rows: usize,
        /// Rows planned.
        planned: usize,
    },
    /// A trainable vector of another length.
    #[error("a trainable vector of {found} scalars; this model trains {expected}")]
    Length {
        /// Of the schema.
        expected: usize,
        /// Found.
        found: usize,
    },
    /// Training diverged.
    #[error("{what} is not finite at local step {step}")]
    NotFinite {
        /// `loss`, `gradient` or `update`.
        what: &'static str,
        /// Zero-based.
        step: u32,
    },
    /// The stop flag was raised.
    #[error("interrupted")]
    Interrupted,
    /// Kept optimiser state that does not belong here.
    #[error(transparent)]
    State(#[from] StateError),
    /// A middle or a head that cannot be laid out.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// The model refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] BackendError),
}

impl From<TuneError> for WorkError {
    fn from(e: TuneError) -> Self {
        match e {
            TuneError::Length { expected, found } => Self::Length { expected, found },
            TuneError::NotFinite { what, step } => Self::NotFinite { what, step: u64::from(step) },
            TuneError::Interrupted => Self::Interrupted,
            other => Self::Other(Box::new(other)),
        }
    }
}
