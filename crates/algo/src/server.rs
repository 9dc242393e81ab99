//! The seam of the server step: an aggregate applied as if it were a gradient.
//!
//! Reddi et al. 2021, arXiv:2003.00295, Algorithm 1 (`ServerOpt`).

use std::fmt;

use crate::State;

/// Applies an aggregate as if it were a gradient.
///
/// Laws, checked for every entry of [`crate::SERVER_STEPS`]: deterministic; a state saved after any round
/// and loaded into a fresh step continues with the same bits; a zero aggregate after no other leaves
/// `theta` as it was; on an error nothing has changed.
pub trait ServerStep: fmt::Debug + Send {
    /// The id and every setting that changes a number.
    fn describe(&self) -> String;

    /// `theta <- theta - step(delta)`; both `[d]`. `threads >= 1` may share the work and never change a bit.
    fn step(&mut self, theta: &mut [f32], delta: &[f32], threads: usize) -> Result<(), StepError>;

    /// What to save with a checkpoint; each tensor `[d]` unless the implementation says otherwise.
    fn state(&self) -> State;

    /// Continues from what [`ServerStep::state`] returned.
    fn load(&mut self, state: State) -> Result<(), StepError>;
}

/// A server step that cannot be taken or continued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Vectors of different lengths.
    #[error("`{step}`: {what} has {found} scalars, the parameters have {expected}")]
    Length {
        /// Whose error.
        step: &'static str,
        /// Which vector.
        what: &'static str,
        /// Of `theta`.
        expected: usize,
        /// Of `what`.
        found: usize,
    },
    /// A saved tensor that this step does not have.
    #[error(
        "`{step}`: the checkpoint holds state `{name}`, which this server step does not know; was it written with another `[server]`?"
    )]
    Unknown {
        /// Whose error.
        step: &'static str,
        /// The tensor.
        name: String,
    },
}
