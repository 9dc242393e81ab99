//! The client step. Implemented by the training crate on real models and in closed form by
//! [`crate::Quadratic`], so that federated code is tested against algebra.

use std::collections::BTreeMap;
use std::error::Error;

use antiphon_core::{Round, Weight};

/// What a client computed in one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// `theta_start - theta_end`, `[d]`, schema order.
    pub delta: Vec<f32>,
    /// Examples trained on.
    pub weight: Weight,
    /// Named measurements such as `train_loss` (nats per token). They travel to the server in the clear,
    /// so nothing private belongs here. Finite; at most [`Local::MAX_METRICS`].
    pub metrics: BTreeMap<String, f64>,
}

impl Local {
    /// A metric of this name is told to everyone: with a round's work come its mean and its greatest deviation over the clients
    /// of the round before, as [`Losses`].
    pub const SHARED_LOSS: &str = "shared_loss";
    /// Most metrics that one update may carry.
    pub const MAX_METRICS: usize = 64;
    /// Longest metric name, in bytes.
    pub const MAX_METRIC_NAME: usize = 64;
}

/// What the clients of a round reported as [`Local::SHARED_LOSS`], for everyone to compare their own with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// Over clients, each counted once.
    pub mean: f64,
    /// Greatest `|loss - mean|`, `>= 0`.
    pub greatest: f64,
}

impl Losses {
    /// Of the metrics of a round's clients, in their order; `None` where nobody reported a loss.
    pub fn of<'a>(metrics: impl Iterator<Item = &'a BTreeMap<String, f64>>) -> Option<Self> {
        let losses: Vec<f64> = metrics.filter_map(|m| m.get(Local::SHARED_LOSS)).copied().collect();
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        let greatest = losses.iter().map(|l| (l - mean).abs()).fold(0.0, f64::max);
        // losses are finite, their sum may not be
        (!losses.is_empty() && mean.is_finite() && greatest.is_finite()).then_some(Self { mean, greatest })
    }
}

/// One client's work in one round: `k` local steps from the broadcast parameters.
///
/// Sign convention: `delta = theta_start - theta_end`; the server descends along it.
pub trait LocalWork: Send {
    /// `start` is the broadcast trainable vector, `[d]`.
    ///
    /// Deterministic in (`start`, `round`, the client's data, seed and state before `round`). It may be
    /// called again for the same round, after a crash or when a round is retried, and must then give the
    /// same answer: work that keeps state across rounds starts from what it held before `round`.
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError>;

    /// What came beside the parameters of the round that is run next; `None` where nothing did. Work that compares itself with
    /// nobody has no use for it.
    fn told(&mut self, losses: Option<Losses>) {
        let _ = losses;
    }
}

/// The client could not produce an update. Its reason travels to the server; the round goes on without it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// Nothing to train on.
    #[error("this client has no examples to train on")]
    NoData,
    /// The start vector is not the one that this work was planned for.
    #[error("the broadcast has {found} scalars, but this client trains {expected}")]
    Length {
        /// Of the client's schema.
        expected: usize,
        /// Of the broadcast.
        found: usize,
    },
    /// Training diverged.
    #[error("{what} is not finite at local step {step}; a lower learning rate or gradient clipping may help")]
    NotFinite {
        /// What diverged: `loss`, `gradient`, `update`.
        what: &'static str,
        /// Zero-based.
        step: u64,
    },
    /// The run is being stopped; no update, and no fault of the client.
    #[error("interrupted")]
    Interrupted,
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Box<dyn Error + Send + Sync>),
}
