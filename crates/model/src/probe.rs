//! The answer of a model to one sequence, in one call: what `antiphon logits` prints, and how an export is compared
//! with what it was made from.

use std::sync::Arc;

use antiphon_kernels::{Backend, BackendError, Dst, Src};

use crate::adapter::Adapter;
use crate::base::Base;
use crate::batch::BatchError;
use crate::checkpoint::CheckpointError;
use crate::net::{Net, NetError};
use crate::weights::{Weights, WeightsError};
use crate::wiring::{Task, Wiring};
use crate::workspace::{Mode, Shape};

/// A model that gives no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The base lacks what the task reads.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor does not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The adapter does not fit, or the sequence is too long.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Ids that the model cannot read.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The device has not enough memory.
    #[error(transparent)]
    Device(#[from] BackendError),
}

/// Logits after `ids`: `[vocab]` of the last position, or `[classes]` where the adapter classifies.
pub fn last_logits<B: Backend>(
    backend: &B,
    base: &Base,
    adapter: Option<&Adapter>,
    ids: &[u32],
) -> Result<Vec<f32>, ProbeError> {
    let task = adapter.map_or(Task::CausalLm, |a| a.about.task);
    let (wiring, theta) =
        adapter.map_or((Wiring::default(), [].as_slice()), |a| (a.wiring.clone(), a.theta.as_slice()));
    base.require(task)?;
    let weights = Weights::load(backend, base.spec(), task, base.source())?;
    let net = Net::new(backend, weights, task, Arc::new(wiring), base.spec().max_positions)?;
    let mut batch = net.batch();
    batch.push_tokens(ids)?;
    let shape = Shape { tokens: batch.rows(), segments: 1, labelled: 1 };
    let mut ws = net.workspace(backend, shape, Mode::Infer)?;
    let mut params = backend.alloc(theta.len())?;
    backend.upload(theta, Dst::new(&mut params, 0, theta.len()))?;
    net.forward(backend, &params, &batch, &mut ws, None)?;
    match task {
        Task::CausalLm => {
            let mut logits = vec![0.0; base.spec().vocab];
            let mut buf = backend.alloc(logits.len())?;
            let len = logits.len();
            net.logits(backend, &params, &batch, batch.last_rows(), &mut ws, Dst::new(&mut buf, 0, len))?;
            backend.download(Src::new(&buf, 0, len), &mut logits)?;
            Ok(logits)
        }
        Task::Classify { classes, .. } => {
            let mut logits = vec![0.0; classes];
            let found = net.class_logits(backend, &params, &batch, &mut ws)?;
            backend.download(found, &mut logits)?;
            Ok(logits)
        }
    }
}
