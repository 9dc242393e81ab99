//! What the clients of a run share: the model, the recipe, and the workers.
//!
//! Clients come and go by the hundred; workers are as many as run at once. So memory is the base model once, plus
//! concurrent clients × (activations + (2 + state vectors) × trainable bytes), plus what clients keep between rounds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use antiphon_core::{ClientId, Round};
use antiphon_data::Sequence;
use antiphon_kernels::Backend;
use antiphon_model::{Mode, Net, Shape, Spec, Task, Weights, Wiring, planned_bytes};

use crate::error::TuneError;
use crate::estimator::Estimator;
use crate::objective::Objective;
use crate::optim::Optimizer;
use crate::settings::{Duration, Train};
use crate::worker::{StepReport, Worker};

/// How every client trains.
#[derive(Debug)]
pub struct Recipe {
    /// What is minimised.
    pub objective: Box<dyn Objective>,
    /// How the gradient arises.
    pub estimator: Box<dyn Estimator>,
    /// How a gradient becomes a step.
    pub optimizer: Box<dyn Optimizer>,
    /// Batches, steps and learning rate.
    pub train: Train,
    /// Rounds of the run, for schedules over rounds.
    pub rounds: u32,
    /// The run's seed.
    pub seed: u64,
}

impl Recipe {
    /// Optimiser steps in a round of a client with `sequences` training sequences.
    #[must_use]
    pub fn local_steps(&self, sequences: usize) -> u32 {
        match self.train.duration {
            Duration::Steps(n) => n,
            Duration::Epochs(n) => {
                n.saturating_mul(u32::try_from(sequences.div_ceil(self.batch_size())).unwrap_or(u32::MAX))
            }
        }
    }

    /// Sequences of one optimiser step.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.train.micro_batch_size as usize * self.train.gradient_accumulation_steps as usize
    }
}

/// Watches training as it goes; called on the training thread.
pub trait Observer: Send + Sync {
    /// After each optimiser step.
    fn step(&self, client: ClientId, round: Round, report: &StepReport);
}

/// The shared part of a run.
pub struct Tuning<B: Backend> {
    backend: Arc<B>,
    /// Another one after [`Tuning::replace_weights`].
    net: RwLock<Arc<Net<B>>>,
    recipe: Recipe,
    shape: Shape,
    stop: Arc<AtomicBool>,
    observer: Option<Arc<dyn Observer>>,
    idle: Mutex<Vec<Worker<B>>>,
    made: AtomicUsize,
}

impl<B: Backend> std::fmt::Debug for Tuning<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tuning")
            .field("recipe", &self.recipe)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Tuning<B> {
    /// Clients of `net` under `recipe`, on steps of at most `shape` (see [`step_shape`]). Raising `stop` ends every
    /// client's training at its next step.
    pub fn new(
        backend: Arc<B>,
        net: Arc<Net<B>>,
        recipe: Recipe,
        shape: Shape,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            backend,
            net: RwLock::new(net),
            recipe,
            shape,
            stop,
            observer: None,
            idle: Mutex::default(),
            made: AtomicUsize::new(0),
        }
    }

    /// The same, watched.
    #[must_use]
    pub fn observed(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The device.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The model as it is now.
    #[must_use]
    pub fn net(&self) -> Arc<Net<B>> {
        Arc::clone(&self.net.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on clients train on, and are evaluated with, these frozen tensors. What is under way keeps those that it
    /// began with; between rounds nothing is.
    ///
    /// # Errors
    /// Tensors of another model.
    pub fn replace_weights(&self, weights: Arc<Weights<B>>) -> Result<(), TuneError> {
        let net = Arc::new(self.net().with_weights(&*self.backend, weights)?);
        *self.net.write().unwrap_or_else(PoisonError::into_inner) = net;
        Ok(())
    }

    /// How clients train.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The largest step.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Workers made so far: as many as ever ran at once.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// The flag that ends every client's training at its next step.
    #[must_use]
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn watch(&self, client: ClientId, round: Round, report: &StepReport) {
        if let Some(observer) = &self.observer {
            observer.step(client, round, report);
        }
    }

    /// Runs `task` on an idle worker, or on a new one when all are busy.
    pub(crate) fn with_worker<R>(
        &self,
        task: impl FnOnce(&mut Worker<B>) -> Result<R, TuneError>,
    ) -> Result<R, TuneError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => {
                self.made.fetch_add(1, Ordering::Relaxed);
                Worker::new(self)?
            }
        };
        let result = task(&mut worker);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        result
    }
}

/// Bytes of one worker: its activations as planned, and the trainable vector with its gradient and the optimiser's
/// `slots` state vectors; in [`Mode::Infer`] there is no gradient. A pull to the
/// round's beginning keeps one vector more, which is one of `slots` here. Counted by the code that allocates; what the GEMM packs comes
/// on top.
pub fn worker_bytes<B: Backend>(
    backend: &B,
    spec: &Spec,
    task: Task,
    wiring: &Wiring,
    shape: Shape,
    (mode, slots): (Mode, usize),
) -> usize {
    let vectors = if mode == Mode::Train { 2 } else { 1 };
    planned_bytes(backend, spec, task, wiring, shape, mode)
        + (vectors + slots) * wiring.schema.dim() * size_of::<f32>()
}

/// The smallest shape that holds every micro-batch of `micro` sequences that one of `sets` can give, and each single
/// sequence. `prompt` is the number of virtual tokens before each.
pub fn step_shape<'a>(sets: impl IntoIterator<Item = &'a [Sequence]>, micro: u32, prompt: usize) -> Shape {
    let micro = micro as usize;
    let mut shape = Shape { tokens: 1, segments: micro.max(1), labelled: 1 };
    let largest = |mut sizes: Vec<usize>| {
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.iter().take(micro).sum::<usize>()
    };
    for set in sets {
        shape.tokens = shape.tokens.max(largest(set.iter().map(|s| s.len() + prompt).collect()));
        shape.labelled = shape.labelled.max(largest(set.iter().map(Sequence::label_tokens).collect()));
    }
    shape
}
