//! What is trained, what is minimised, how the step is taken.
//!
//! Three axes that do not multiply: a [`method::Method`] says which tensors are trainable and where they attach, an
//! [`objective::Objective`] what is minimised, an [`optim::Optimizer`] with a [`schedule::Schedule`] how a gradient becomes
//! a step. A [`Tuning`] holds what all clients share, a [`Client`] what is one client's own; a client is the
//! [`antiphon_algo::LocalWork`] of a real model.
//!
//! Deliberately missing: clocks (throughput is measured by who calls), files, messages, and gradients by anything but
//! backpropagation.

mod client;
mod error;
mod evaluate;
pub mod method;
pub mod objective;
pub mod optim;
mod order;
pub mod schedule;
pub mod settings;
mod tuning;
mod worker;

pub use client::Client;
pub use error::TuneError;
pub use evaluate::{HeldOut, Scores};
pub use method::{METHODS, Method, MethodError};
pub use objective::{OBJECTIVES, Objective};
pub use optim::{OPTIMIZERS, Optimizer, OptimizerState};
pub use schedule::{SCHEDULES, Schedule};
pub use settings::{Train, TrainSettings};
pub use tuning::{Observer, Recipe, Tuning, step_shape, worker_bytes};
pub use worker::StepReport;
