//! What each block of a model does, measured on the owner's public data before anything is trained: scores for a rule that
//! chooses by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_data::Sequence;
use antiphon_kernels::Backend;
use antiphon_model::{Influence, Mode, Net, Pooling, Task, Weights};

use crate::error::TuneError;
use crate::method::head_alone;
use crate::tuning::step_shape;

/// Sequences of a forward pass.
const TOGETHER: usize = 8;

/// The influence of each block of the model of `weights` on every token of `sequences`
/// ([`Influence`], arXiv:2403.03853), the first block first. The same bits on any number of threads.
///
/// # Errors
/// Sequences that the model cannot read; too little memory; `stop` raised.
pub fn influence<B: Backend>(
    backend: &B,
    weights: Arc<Weights<B>>,
    task: Task,
    sequences: &[Sequence],
    stop: &AtomicBool,
) -> Result<Vec<f64>, TuneError> {
    // a head that reads every row: the last block runs on all of them
    let task = match task {
        Task::CausalLm => task,
        Task::Classify { classes, .. } => Task::Classify { classes, pooling: Pooling::Mean },
    };
    let wiring = head_alone(weights.spec(), task)?;
    let unread = backend.alloc(wiring.schema.dim())?;
    let shape = step_shape([sequences], TOGETHER as u32, 0);
    let longest = sequences.iter().map(Sequence::len).max().unwrap_or(1);
    let net = Net::new(backend, weights, task, Arc::new(wiring), longest)?;
    let mut workspace = net.workspace(backend, shape, Mode::Infer)?;
    let mut batch = net.batch();
    batch.reserve(shape.tokens, shape.segments);
    let mut found = Influence::default();
    for (group, some) in sequences.chunks(TOGETHER).enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err(TuneError::Interrupted);
        }
        batch.clear();
        for (i, sequence) in some.iter().enumerate() {
            let index = group * TOGETHER + i;
            let pushed = batch.push_tokens(&sequence.ids);
            pushed.map_err(|source| TuneError::Example { index, source: source.into() })?;
        }
        net.influence(backend, &unread, &batch, &mut workspace, &mut found)?;
    }
    Ok(found.scores())
}
