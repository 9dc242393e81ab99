//! What tests share: golden files, tolerances, laws over registries, and where the real data are. A development
//! dependency only.
//!
//! Deliberately missing: assertions that panic. Everything returns a result whose message names the place, so that a
//! test fails on its own line.

pub mod golden;
pub mod laws;
pub mod shared;
pub mod tolerance;

pub use golden::{Golden, GoldenError, Tensor};
pub use shared::shared;
pub use tolerance::{Deviation, Tolerance};
