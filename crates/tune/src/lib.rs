//! What is trained, what is minimised, how the step is taken.
//!
//! Three axes that do not multiply: a [`method::Method`] says which tensors are trainable and where they attach, an
//! objective what is minimised, an [`optim::Optimizer`] with a [`schedule::Schedule`] how a gradient becomes a step.

pub mod method;
pub mod optim;
pub mod schedule;
pub mod settings;

pub use method::{METHODS, Method, MethodError};
pub use optim::{OPTIMIZERS, Optimizer, OptimizerState};
pub use schedule::{SCHEDULES, Schedule};
pub use settings::{Train, TrainSettings};
