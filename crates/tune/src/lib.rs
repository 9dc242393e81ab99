//! What is trained, what is minimised, how the step is taken.
//!
//! Four axes that do not multiply: a [`method::Method`] says which tensors are trainable and where they attach, an
//! [`objective::Objective`] what is minimised, an [`estimator::Estimator`] how the gradient arises, an [`optim::Optimizer`] with a
//! [`schedule::Schedule`] how it becomes a step. A [`Tuning`] holds what all clients share, a [`Client`] what is one client's own; a client is the
//! [`antiphon_algo::LocalWork`] of a real model.
//!
//! Deliberately missing: clocks (throughput is measured by who calls), files, messages.

pub mod align;
mod client;
mod error;
pub mod estimator;
mod evaluate;
pub mod method;
pub mod objective;
pub mod optim;
mod order;
pub mod probe;
mod rate;
pub mod scalars;
pub mod schedule;
pub mod settings;
mod step;
mod tuning;
mod worker;

pub use align::{Adapter, Align, AlignSettings, Alignment, Distance, Sides};
pub use client::Client;
pub use error::TuneError;
pub use estimator::{ESTIMATORS, Estimator, EstimatorError};
pub use evaluate::{HeldOut, Scores};
pub use method::{METHODS, Method, MethodError};
pub use objective::{OBJECTIVES, Objective};
pub use optim::{OPTIMIZERS, Optimizer, OptimizerState};
pub use rate::PersonalizedLr;
pub use schedule::{SCHEDULES, Schedule};
pub use settings::{Train, TrainSettings};
pub use tuning::{Observer, Recipe, Tuning, step_shape, worker_bytes};
pub use worker::StepReport;
