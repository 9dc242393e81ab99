//! Optimisers with explicit state.
//!
//! An optimiser is a rule and owns nothing: its state vectors live beside the parameters in a worker's buffers and
//! leave it as an [`OptimizerState`] when a client keeps them from round to round. The arithmetic is the backend's.
//!
//! Deliberately missing: parameter groups. One rule covers the whole flat vector, biases and norms included, as
//! `torch.optim` does when it is given plain parameters (transformers' trainer exempts those from weight decay).

mod adamw;
mod clip;
mod sgd;
mod state;
mod vectors;

use std::fmt;

use antiphon_core::{ConfigError, Entry, registry};
use antiphon_kernels::{AdamW, Sgd};

pub use clip::clip_global_norm;
pub use state::{OptimizerState, StateError};
pub use vectors::Vectors;

/// Every optimiser.
pub const OPTIMIZERS: &[&Entry<dyn Optimizer>] = &[&adamw::ENTRY, &sgd::ENTRY];

/// The optimiser that `table["id"]` names.
pub fn build(table: &toml::Table) -> Result<Box<dyn Optimizer>, ConfigError> {
    registry::build("optimizer", OPTIMIZERS, table)
}

/// A rule that turns a gradient into a step.
///
/// Laws, checked for every registry entry: a step on a zero gradient with zero state and no weight decay changes
/// nothing; the state vectors and the step number determine every later step bit for bit.
pub trait Optimizer: fmt::Debug + Send + Sync {
    /// Id in the registry.
    fn id(&self) -> &'static str;
    /// Names of the state vectors, in torch's spelling; each is as long as the parameters and starts at zero.
    fn slots(&self) -> &'static [&'static str];
    /// Takes step number `step` (from 1) at learning rate `lr`.
    fn step(&self, lr: f32, step: u64, on: &mut dyn StepBlocks);
    /// The weight decay `λ` of a rule that keeps no state and steps `θ ← θ - lr (g + λ θ)`; `None` for any other.
    fn plain_decay(&self) -> Option<f32> {
        None
    }
    /// The complete table that builds this optimiser, defaults written out.
    fn settings(&self) -> Result<toml::Table, toml::ser::Error>;
}

/// The blocks that a [`Backend`](antiphon_kernels::Backend) offers an optimiser, over one client's vectors: parameters, gradient, state.
pub trait StepBlocks {
    /// [`adamw`](antiphon_kernels::Backend::adamw) with state vectors 0 and 1 as its moments.
    fn adamw(&mut self, hyper: AdamW);
    /// [`sgd`](antiphon_kernels::Backend::sgd); with momentum, state vector 0 is its buffer and `first` says that it is unset.
    fn sgd(&mut self, first: bool, hyper: Sgd);
}
