//! The federated algebra: an algorithm is *local work + layers + reducer + server step*.
//!
//! ```text
//! client k:  theta --LocalWork--> (delta_k, weight_k) --layers, outermost first--> wire
//! server:    wire --layers, innermost first--> Reducer --layers' `sum` halves--> delta --ServerStep--> theta
//! ```
//!
//! A [`Layer`] has both halves in one file, the client's and the server's, so neither can be forgotten. A
//! weighted mean is a layer over a plain sum, which is why it survives masking. Layers pass a [`Contract`]
//! along (what the carrier is, whether sums mean anything, how long one contribution can be);
//! [`Plan::check`] threads it once, before round 0, and only the resulting [`Checked`] can run.
//!
//! Each implementation is one file and one line in its list: [`LAYERS`], [`REDUCERS`], [`SERVER_STEPS`].
//!
//! Deliberately missing: input and output, clocks, messages (see `antiphon-protocol`), models and devices
//! (nothing here depends on `antiphon-kernels`), and announcements from the server half of a layer to its
//! client half, which adaptive clipping will need.

pub mod contract;
pub mod factor_error;
pub mod layer;
pub mod layers;
pub mod local;
pub mod plan;
pub mod quadratic;
pub mod reducer;
pub mod reducers;
pub mod server;
pub mod servers;
pub mod settings;
pub mod vector;

use std::collections::BTreeMap;

pub use contract::{Carrier, Contract, Mismatch, View};
pub use factor_error::{FactorError, factor_error};
pub use layer::{ClientCx, GaussianEvent, Layer, LayerError, ServerCx};
pub use layers::LAYERS;
pub use local::{Local, LocalWork, Losses, WorkError};
pub use plan::{Admitted, Checked, Plan, RoundError, Slots, Tally, TallyError};
pub use quadratic::Quadratic;
pub use reducer::{Accumulator, ReduceError, Reducer};
pub use reducers::REDUCERS;
pub use server::{ServerStep, StepError};
pub use servers::SERVER_STEPS;
pub use settings::{AggregationSettings, server_step};
pub use vector::Scan;

/// Named tensors of something that remembers: a server optimiser, a stateful layer. Saved with a
/// checkpoint and loaded on resume; ordered, so that the files are the same on every machine.
pub type State = BTreeMap<String, Vec<f32>>;
