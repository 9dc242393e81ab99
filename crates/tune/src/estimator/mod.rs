//! How the gradient of a step arises.
//!
//! An estimator sees a step through [`Step`]: losses of the step's examples, gradients, updates; never a backend or a buffer.
//! Method, objective and optimiser are other axes, and what cannot go together is refused by [`Estimator::check`] before the
//! first round.
//!
//! Deliberately missing: estimators that look at more than one step.

mod backprop;
mod zeroth_order;

use std::fmt;

use antiphon_core::{ConfigError, Entry, registry};
use antiphon_kernels::{Law, Loss};
use antiphon_model::{Mode, Wiring};

use crate::error::TuneError;
use crate::optim::Optimizer;
use crate::settings::Train;

/// Every estimator.
pub const ESTIMATORS: &[&Entry<dyn Estimator>] = &[&backprop::ENTRY, &zeroth_order::ENTRY];

/// The estimator that `table["id"]` names.
pub fn build(table: &toml::Table) -> Result<Box<dyn Estimator>, ConfigError> {
    registry::build("estimator", ESTIMATORS, table)
}

/// A way to a step.
///
/// Laws, checked for every registry entry: a step at learning rate 0 leaves the trainable vector as it was, to the bit; a
/// step is a function of the vector, the examples and the step's seed, on any number of threads.
pub trait Estimator: fmt::Debug + Send + Sync {
    /// Id in the registry.
    fn id(&self) -> &'static str;
    /// Refuses what makes no sense together with it.
    fn check(&self, wiring: &Wiring, optimizer: &dyn Optimizer, train: &Train) -> Result<(), EstimatorError>;
    /// What a worker's activations are planned for; in [`Mode::Infer`] a worker has no gradient either.
    fn mode(&self) -> Mode;
    /// Forward passes over the examples of a step, where there are no backward passes.
    fn forwards(&self) -> Option<u32>;
    /// How directions are distributed, if it draws any.
    fn law(&self) -> Option<Law>;
    /// Directions of a step; 0 where it draws none. Their slopes, cut where they were cut, stand in [`Step::slopes`] after it.
    fn directions(&self) -> u32;
    /// Takes one step.
    fn step(&self, on: &mut dyn Step) -> Result<Taken, TuneError>;
    /// The complete table that builds this estimator, defaults written out.
    fn settings(&self) -> Result<toml::Table, toml::ser::Error>;
}

/// One step's examples in front of one client's trainable vector `θ`.
pub trait Step {
    /// The learning rate at hand.
    fn learning_rate(&self) -> f32;
    /// The seed of the step's direction number `direction`.
    fn seed(&self, direction: u32) -> u64;
    /// Room for the slopes of a step, kept from step to step.
    fn slopes(&mut self) -> &mut Vec<f64>;
    /// Mean loss over the step's units at `θ + scale · z(seed)`, or at `θ`; without dropout. `θ` is not written.
    fn loss(&mut self, at: Option<Probe>) -> Result<Seen, TuneError>;
    /// Accumulates the gradient of the mean loss, with dropout, and of the pull to the round's beginning where there is
    /// one, for [`Step::descend`].
    fn backward(&mut self) -> Result<Seen, TuneError>;
    /// Clips the gradient and takes the optimiser's step. Returns the norm before clipping.
    fn descend(&mut self) -> Result<f64, TuneError>;
    /// The optimiser's weight decay, where its step is `θ ← θ - lr (g + λ θ)`.
    fn plain_decay(&self) -> Option<f32>;
    /// `θ ← factor · θ`.
    fn scale(&mut self, factor: f32);
    /// `θ ← θ + scale · z(seed)`.
    fn shift(&mut self, along: Probe);
}

/// A point beside the trainable vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Of the direction.
    pub seed: u64,
    /// How far along it.
    pub scale: f32,
}

/// What one pass over the step's examples saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Mean over the step's units, nats.
    pub mean: f64,
    /// Sums over the units.
    pub sums: Loss,
}

/// A step that was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    /// At the vector before the step, or at the middle of two points around it.
    pub seen: Seen,
    /// Norm of the gradient before clipping. Of an estimate along directions, `sqrt(mean_p g_p²)`, whose square has the
    /// squared norm of the true gradient as its mean.
    pub grad_norm: f64,
}

/// Settings that an estimator cannot work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EstimatorError {
    /// An optimiser with state.
    #[error(
        "`{estimator}` applies each step as it is found and keeps no gradient: it needs `[optimizer] id = \"sgd\"` without \
         momentum, not `{optimizer}`"
    )]
    Optimizer {
        /// Which estimator.
        estimator: &'static str,
        /// Which optimiser, with what makes it unfit.
        optimizer: String,
    },
    /// Clipping of a gradient that is never formed.
    #[error(
        "`train.max_grad_norm = {found}` bounds a gradient that `{estimator}` never forms: set it to 0; \
         `estimator.max_projected_gradient` bounds the slope along a direction"
    )]
    Clip {
        /// Which estimator.
        estimator: &'static str,
        /// The bound.
        found: f32,
    },
    /// A pull that is no part of the losses.
    #[error(
        "`train.proximal = {found}` pulls by its gradient, and `{estimator}` forms none: set it to 0, or use `backprop`"
    )]
    Proximal {
        /// Which estimator.
        estimator: &'static str,
        /// The weight.
        found: f32,
    },
    /// Dropout between two losses that are subtracted.
    #[error(
        "`method.lora_dropout = {found}` would make two losses of one vector differ by chance: `{estimator}` runs without \
         dropout, so set it to 0"
    )]
    Dropout {
        /// Which estimator.
        estimator: &'static str,
        /// The probability.
        found: f32,
    },
}
