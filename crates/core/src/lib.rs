//! The vocabulary that every crate of antiphon speaks: ids, weights, schemas, payloads,
//! counter-based randomness and registry entries.
//!
//! Deliberately missing: input and output, clocks, threads, async and tensors. Time and randomness
//! are arguments everywhere above this crate.
//!
//! Sign convention of the whole project: a client returns `delta = theta_start - theta_end`, so a
//! server treats the aggregate as a gradient and *descends* along it.

pub mod ids;
pub mod payload;
pub mod philox;
pub mod registry;
pub mod schema;
pub mod stream;

pub use ids::{ClientId, Digest, Millis, NotAWeight, Round, Weight};
pub use payload::Payload;
pub use registry::{ConfigError, Entry, nearest};
pub use schema::{Schema, SchemaError, TensorSpec};
pub use stream::{Noise, Purpose, Stream};
