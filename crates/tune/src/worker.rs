//! The memory of one training thread, reused from client to client.
//!
//! A worker owns what a step needs: activations, the trainable vector with its gradient and optimiser state, and a batch.
//! Nothing of one client is left for the next: the trainable vector is uploaded and the optimiser's state set before the
//! first step. After a worker's first step of the largest shape, a step allocates nothing.

use antiphon_data::Sequence;
use antiphon_kernels::{Backend, Dst, Loss, Src};
use antiphon_model::{Batch, Mode, Perturbation, Workspace};

use crate::error::TuneError;
use crate::estimator::{Seen, Taken};
use crate::objective::Objective;
use crate::optim::Vectors;
use crate::order::Walk;
use crate::step::{At, OnWorker, Pass, Seeds};
use crate::tuning::Tuning;

/// Buffers of one training thread.
#[derive(Debug)]
pub(crate) struct Worker<B: Backend> {
    pub(crate) workspace: Workspace<B>,
    pub(crate) vectors: Vectors<B>,
    /// The vector that was put in place, where the recipe pulls towards it.
    pub(crate) anchor: Option<B::Buf>,
    pub(crate) batch: Batch,
    pub(crate) walk: Walk,
    /// The examples of the step at hand.
    pub(crate) picks: Vec<usize>,
    /// Directions, for estimators that draw them.
    pub(crate) noise: Option<Perturbation>,
    pub(crate) slopes: Vec<f64>,
}

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Zero-based local step.
    pub step: u32,
    /// Learning rate.
    pub learning_rate: f32,
    /// Mean loss over the step's units, nats: per labelled token, or per sequence for classification.
    pub loss: f64,
    /// Units of loss: labelled tokens, or sequences.
    pub units: u64,
    /// Units whose label was the model's first choice.
    pub correct: u64,
    /// Rows computed: tokens and virtual tokens.
    pub rows: u64,
    /// Norm of the gradient before clipping; see [`crate::estimator::Taken`].
    pub grad_norm: f64,
}

impl<B: Backend> Worker<B> {
    pub(crate) fn new(tuning: &Tuning<B>) -> Result<Self, TuneError> {
        let (backend, net, shape) = (tuning.backend(), tuning.net(), tuning.shape());
        let (recipe, schema) = (tuning.recipe(), &net.wiring().schema);
        let workspace = net.workspace(backend, shape, recipe.estimator.mode())?;
        let slots = recipe.optimizer.slots().len();
        let vectors = match recipe.estimator.mode() {
            Mode::Train => Vectors::new(backend, schema.dim(), slots)?,
            Mode::Infer => Vectors::without_gradient(backend, schema.dim(), slots)?,
        };
        let noise = recipe.estimator.law().map(|law| Perturbation::new(schema, law));
        let mut batch = net.batch();
        batch.reserve(shape.tokens, shape.segments);
        let picks = Vec::with_capacity(recipe.batch_size());
        let anchor = recipe.train.proximal.map(|_| backend.alloc(schema.dim())).transpose()?;
        Ok(Self {
            workspace,
            vectors,
            anchor,
            batch,
            walk: Walk::default(),
            picks,
            noise,
            slopes: Vec::new(),
        })
    }

    /// Puts a trainable vector in place.
    pub(crate) fn load(&mut self, tuning: &Tuning<B>, theta: &[f32]) -> Result<(), TuneError> {
        let expected = self.vectors.dim();
        if theta.len() != expected {
            return Err(TuneError::Length { expected, found: theta.len() });
        }
        if let Some(anchor) = &mut self.anchor {
            tuning.backend().upload(theta, Dst::new(anchor, 0, expected))?;
        }
        Ok(tuning.backend().upload(theta, Dst::new(&mut self.vectors.theta, 0, expected))?)
    }

    /// The trainable vector.
    pub(crate) fn theta(&self, tuning: &Tuning<B>) -> Result<Vec<f32>, TuneError> {
        let mut out = vec![0.0; self.vectors.dim()];
        tuning.backend().download(Src::new(&self.vectors.theta, 0, out.len()), &mut out)?;
        Ok(out)
    }

    /// One step, number `number` (from 1) of the optimiser's life, over the examples in `picks`. Directions are those of
    /// `seeds`, masks of dropout come from `key`.
    pub(crate) fn step(
        &mut self,
        tuning: &Tuning<B>,
        examples: &[Sequence],
        (step, number): (u32, u64),
        learning_rate: f32,
        (key, seeds): ([u32; 2], Seeds<'_>),
    ) -> Result<StepReport, TuneError> {
        let recipe = tuning.recipe();
        let units: usize = self.picks.iter().map(|&i| recipe.objective.units(&examples[i])).sum();
        if units == 0 {
            return Err(TuneError::NoLabels { step });
        }
        let mut on = OnWorker {
            worker: self,
            tuning,
            examples,
            at: At { step, number, learning_rate, key, seeds },
            units,
            rows: 0,
        };
        let taken = recipe.estimator.step(&mut on);
        let rows = on.rows;
        // what is scored next is the vector itself
        self.workspace.perturb(None);
        let Taken { seen: Seen { mean, sums }, grad_norm } = taken?;
        Ok(StepReport {
            step,
            learning_rate,
            loss: mean,
            units: sums.rows,
            correct: sums.correct,
            rows,
            grad_norm,
        })
    }

    /// Losses of the batch at hand under the loaded trainable vector, without dropout.
    pub(crate) fn score(&mut self, tuning: &Tuning<B>) -> Result<Loss, TuneError> {
        let net = tuning.net();
        let mut session = Pass {
            backend: tuning.backend(),
            net: &net,
            vectors: &mut self.vectors,
            workspace: &mut self.workspace,
            batch: &self.batch,
            dropout: None,
        };
        Ok(tuning.recipe().objective.score(&mut session)?)
    }
}

/// Refills `batch` with the examples at `picks`.
pub(crate) fn fill(
    batch: &mut Batch,
    objective: &dyn Objective,
    examples: &[Sequence],
    picks: &[usize],
) -> Result<(), TuneError> {
    batch.clear();
    for &index in picks {
        objective.push(&examples[index], batch).map_err(|source| TuneError::Example { index, source })?;
    }
    Ok(())
}
