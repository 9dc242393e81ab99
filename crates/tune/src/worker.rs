//! The memory of one training thread, reused from client to client.
//!
//! A worker owns what a step needs: activations, the trainable vector with its gradient and optimiser state, and a batch.
//! Nothing of one client is left for the next: the trainable vector is uploaded and the optimiser's state set before the
//! first step. After a worker's first step of the largest shape, a step allocates nothing.

use antiphon_data::Sequence;
use antiphon_kernels::{Backend, Coef, Dst, Loss, Src};
use antiphon_model::{Batch, DropoutSeed, Mode, Net, NetError, Task, Workspace};

use crate::error::TuneError;
use crate::objective::{Objective, Session};
use crate::optim::{Vectors, clip_global_norm};
use crate::order::Walk;
use crate::tuning::Tuning;

/// Buffers of one training thread.
#[derive(Debug)]
pub(crate) struct Worker<B: Backend> {
    pub(crate) workspace: Workspace<B>,
    pub(crate) vectors: Vectors<B>,
    pub(crate) batch: Batch,
    pub(crate) walk: Walk,
    /// The examples of the step at hand.
    pub(crate) picks: Vec<usize>,
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
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

impl<B: Backend> Worker<B> {
    pub(crate) fn new(tuning: &Tuning<B>) -> Result<Self, TuneError> {
        let (backend, net, shape) = (tuning.backend(), tuning.net(), tuning.shape());
        let workspace = net.workspace(backend, shape, Mode::Train)?;
        let slots = tuning.recipe().optimizer.slots().len();
        let vectors = Vectors::new(backend, net.wiring().schema.dim(), slots)?;
        let mut batch = net.batch();
        batch.reserve(shape.tokens, shape.segments);
        let train = &tuning.recipe().train;
        let picks = Vec::with_capacity((train.micro_batch_size * train.gradient_accumulation_steps) as usize);
        Ok(Self { workspace, vectors, batch, walk: Walk::default(), picks })
    }

    /// Puts a trainable vector in place.
    pub(crate) fn load(&mut self, tuning: &Tuning<B>, theta: &[f32]) -> Result<(), TuneError> {
        let expected = self.vectors.dim();
        if theta.len() != expected {
            return Err(TuneError::Length { expected, found: theta.len() });
        }
        Ok(tuning.backend().upload(theta, Dst::new(&mut self.vectors.theta, 0, expected))?)
    }

    /// The trainable vector.
    pub(crate) fn theta(&self, tuning: &Tuning<B>) -> Result<Vec<f32>, TuneError> {
        let mut out = vec![0.0; self.vectors.dim()];
        tuning.backend().download(Src::new(&self.vectors.theta, 0, out.len()), &mut out)?;
        Ok(out)
    }

    /// One optimiser step, number `number` (from 1) of the optimiser's life, over the examples in `picks`.
    pub(crate) fn step(
        &mut self,
        tuning: &Tuning<B>,
        examples: &[Sequence],
        (step, number): (u32, u64),
        learning_rate: f32,
        key: [u32; 2],
    ) -> Result<StepReport, TuneError> {
        let (backend, recipe) = (tuning.backend(), tuning.recipe());
        let Train { micro, accumulate, max_norm } = Train::of(tuning);
        let units: usize = self.picks.iter().map(|&i| recipe.objective.units(&examples[i])).sum();
        if units == 0 {
            return Err(TuneError::NoLabels { step });
        }
        self.vectors.zero_grad(backend);
        let (mut total, mut rows) = (Loss::default(), 0);
        for (i, picks) in self.picks.chunks(micro).enumerate() {
            fill(&mut self.batch, &*recipe.objective, examples, picks)?;
            // a micro-batch without labels adds nothing, and the head has no rows to run on
            if self.batch.labels().is_empty() && self.batch.classes().is_empty() {
                continue;
            }
            rows += self.batch.rows() as u64;
            let seed = DropoutSeed { key, step: step * accumulate + i as u32 };
            let mut session = Pass {
                backend,
                net: tuning.net(),
                vectors: &mut self.vectors,
                workspace: &mut self.workspace,
                batch: &self.batch,
                dropout: Some(seed),
            };
            let loss = recipe.objective.backward(&mut session, 1.0 / units as f32)?;
            total = Loss {
                nll: total.nll + loss.nll,
                correct: total.correct + loss.correct,
                rows: total.rows + loss.rows,
            };
        }
        if !total.nll.is_finite() {
            return Err(TuneError::NotFinite { what: "loss", step });
        }
        let dim = self.vectors.dim();
        let grad_norm = clip_global_norm(backend, &mut self.vectors.grad, dim, max_norm);
        if !grad_norm.is_finite() {
            return Err(TuneError::NotFinite { what: "gradient", step });
        }
        self.vectors.step(backend, &*recipe.optimizer, learning_rate, number);
        Ok(StepReport {
            step,
            learning_rate,
            loss: total.nll / units as f64,
            units: total.rows,
            correct: total.correct,
            rows,
            grad_norm,
        })
    }

    /// Losses of the batch at hand under the loaded trainable vector, without dropout.
    pub(crate) fn score(&mut self, tuning: &Tuning<B>) -> Result<Loss, TuneError> {
        let mut session = Pass {
            backend: tuning.backend(),
            net: tuning.net(),
            vectors: &mut self.vectors,
            workspace: &mut self.workspace,
            batch: &self.batch,
            dropout: None,
        };
        Ok(tuning.recipe().objective.score(&mut session)?)
    }
}

/// The numbers of `[train]` that a step reads.
struct Train {
    micro: usize,
    accumulate: u32,
    max_norm: Option<f32>,
}

impl Train {
    fn of<B: Backend>(tuning: &Tuning<B>) -> Self {
        let t = &tuning.recipe().train;
        Self {
            micro: t.micro_batch_size as usize,
            accumulate: t.gradient_accumulation_steps,
            max_norm: t.max_grad_norm,
        }
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

/// A batch in front of the shared model with one client's vectors.
struct Pass<'a, B: Backend> {
    backend: &'a B,
    net: &'a Net<B>,
    vectors: &'a mut Vectors<B>,
    workspace: &'a mut Workspace<B>,
    batch: &'a Batch,
    dropout: Option<DropoutSeed>,
}

impl<B: Backend> Pass<'_, B> {
    fn loss(&mut self, coef: Coef<'_>, gradient: bool, rows: Option<&mut [f32]>) -> Result<Loss, NetError> {
        let Vectors { theta, grad, .. } = &mut *self.vectors;
        let grad = gradient.then_some(grad);
        match self.net.task() {
            Task::CausalLm => {
                self.net.lm_loss(self.backend, theta, self.batch, self.workspace, coef, grad, rows)
            }
            Task::Classify { .. } => {
                self.net.class_loss(self.backend, theta, self.batch, self.workspace, coef, grad, rows)
            }
        }
    }
}

impl<B: Backend> Session for Pass<'_, B> {
    fn batch(&self) -> &Batch {
        self.batch
    }

    fn forward(&mut self) -> Result<(), NetError> {
        self.net.forward(self.backend, &self.vectors.theta, self.batch, self.workspace, self.dropout)
    }

    fn losses(&mut self, rows: Option<&mut [f32]>) -> Result<Loss, NetError> {
        self.loss(Coef::Uniform(0.0), false, rows)
    }

    fn backward(&mut self, coef: Coef<'_>) -> Result<Loss, NetError> {
        let loss = self.loss(coef, true, None)?;
        let Vectors { theta, grad, .. } = &mut *self.vectors;
        self.net.backward(self.backend, theta, self.batch, self.workspace, self.dropout, grad)?;
        Ok(loss)
    }
}
