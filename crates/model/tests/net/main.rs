//! The whole network: gradients against finite differences, backends and layouts against each other, and golden
//! files of transformers and peft.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod aligned;
mod common;
mod emulator;
mod generation;
mod golden;
mod influence;
mod laws;
mod perturbed;
mod pool;
mod refusals;
mod shared;
