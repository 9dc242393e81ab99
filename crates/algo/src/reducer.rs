//! The seam of how many vectors become one.

use std::any::Any;
use std::fmt;

use antiphon_core::Payload;

use crate::{Carrier, Contract, Mismatch};

/// A stateless description of how many vectors become one.
///
/// Laws, checked for every entry of [`crate::REDUCERS`]: the result depends on the rows and their order
/// alone (never on threads); an empty round is [`ReduceError::Empty`], never zero; rows of another shape
/// are refused and change nothing; merging partial results equals adding their rows, exactly where the
/// sums are exact and to rounding elsewhere.
pub trait Reducer: fmt::Debug + Send + Sync {
    /// The id and every setting that changes a number; part of the plan's digest.
    fn describe(&self) -> String;

    /// Refuses a contract that it cannot honour, such as a median under [`crate::View::SumOnly`].
    fn accepts(&self, up: &Contract) -> Result<(), Mismatch>;

    /// Begins one round of vectors that keep `up`.
    fn start(&self, up: &Contract) -> Box<dyn Accumulator>;
}

/// One round of one reducer. [`crate::Tally`] adds rows in ascending order of client.
pub trait Accumulator: Any + Send {
    /// Adds one client's vector, `[len]`. On an error nothing has changed.
    fn add(&mut self, x: Payload) -> Result<(), ReduceError>;

    /// Adds what `other`, begun by the same reducer under the same contract, has gathered: for partial
    /// sums made by several workers. The result is then a function of how rows were divided among them.
    fn merge(&mut self, other: Box<dyn Accumulator>) -> Result<(), ReduceError>;

    /// The result, `[len]`. `threads >= 1` may share the work and never change a bit.
    fn finish(self: Box<Self>, threads: usize) -> Result<Payload, ReduceError>;
}

/// Rows that cannot be reduced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReduceError {
    /// No client was counted.
    #[error("no update was accepted, so there is nothing to reduce")]
    Empty,
    /// A row of another length.
    #[error("expected {expected} coordinates, found {found}")]
    Length {
        /// Of the contract.
        expected: usize,
        /// Of the row.
        found: usize,
    },
    /// A row over another set.
    #[error("expected {expected:?} coordinates, found {found:?}")]
    Carrier {
        /// Of the contract.
        expected: Carrier,
        /// Of the row.
        found: Carrier,
    },
    /// Partial results of different reducers or contracts.
    #[error("partial results of different reducers or contracts cannot be merged")]
    Merge,
}
