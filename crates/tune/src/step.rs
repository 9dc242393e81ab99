//! A worker's step as an estimator sees it.

use antiphon_core::Stream;
use antiphon_data::Sequence;
use antiphon_kernels::{Backend, Coef, Dst, Loss, Src};
use antiphon_model::{Batch, DropoutSeed, Net, NetError, Task, Workspace};

use crate::error::TuneError;
use crate::estimator::{Probe, Seen, Step};
use crate::objective::Session;
use crate::optim::{Vectors, clip_global_norm};
use crate::tuning::Tuning;
use crate::worker::{Worker, fill};

/// Where the seeds of a step's directions come from.
#[derive(Clone, Debug)]
pub(crate) enum Seeds<'a> {
    /// Drawn: direction `i` has word pair `i`.
    Drawn(Stream),
    /// One for each direction.
    Given(&'a [u64]),
}

impl Seeds<'_> {
    fn of(&self, direction: u32) -> u64 {
        match self {
            Self::Drawn(stream) => stream.word_pair(u64::from(direction)),
            // as many are given as the estimator has directions
            Self::Given(seeds) => seeds.get(direction as usize).copied().unwrap_or(0),
        }
    }
}

/// Which step it is.
pub(crate) struct At<'a> {
    /// Zero-based local step.
    pub(crate) step: u32,
    /// One-based step of the optimiser's life.
    pub(crate) number: u64,
    pub(crate) learning_rate: f32,
    /// Of the masks of dropout.
    pub(crate) key: [u32; 2],
    /// Of this step's directions.
    pub(crate) seeds: Seeds<'a>,
}

/// The step at hand on a worker.
pub(crate) struct OnWorker<'a, B: Backend> {
    pub(crate) worker: &'a mut Worker<B>,
    pub(crate) tuning: &'a Tuning<B>,
    pub(crate) examples: &'a [Sequence],
    pub(crate) at: At<'a>,
    /// Units of loss of all its examples.
    pub(crate) units: usize,
    /// Rows computed so far.
    pub(crate) rows: u64,
}

impl<B: Backend> OnWorker<'_, B> {
    /// Sums over the micro-batches of what `of` makes of each.
    fn micro_batches(
        &mut self,
        dropout: bool,
        mut of: impl FnMut(&mut Pass<'_, B>) -> Result<Loss, NetError>,
    ) -> Result<Seen, TuneError> {
        let recipe = self.tuning.recipe();
        let (micro, accumulate) =
            (recipe.train.micro_batch_size as usize, recipe.train.gradient_accumulation_steps);
        let Worker { workspace, vectors, batch, picks, .. } = &mut *self.worker;
        let net = &*self.tuning.net();
        let mut sums = Loss::default();
        for (i, picks) in picks.chunks(micro).enumerate() {
            if self.tuning.stopped() {
                return Err(TuneError::Interrupted);
            }
            fill(batch, &*recipe.objective, self.examples, picks)?;
            // a micro-batch without labels adds nothing, and the head has no rows to run on
            if batch.labels().is_empty() && batch.classes().is_empty() {
                continue;
            }
            self.rows += batch.rows() as u64;
            let seed = DropoutSeed {
                key: self.at.key,
                step: self.at.step.wrapping_mul(accumulate).wrapping_add(i as u32),
            };
            let backend = self.tuning.backend();
            let dropout = dropout.then_some(seed);
            let loss = of(&mut Pass { backend, net, vectors, workspace, batch, dropout })?;
            sums = Loss {
                nll: sums.nll + loss.nll,
                correct: sums.correct + loss.correct,
                rows: sums.rows + loss.rows,
            };
        }
        if !sums.nll.is_finite() {
            return Err(TuneError::NotFinite { what: "loss", step: self.at.step });
        }
        Ok(Seen { mean: sums.nll / self.units as f64, sums })
    }
}

impl<B: Backend> OnWorker<'_, B> {
    /// Adds the gradient of `ε ‖θ - θ_t‖²`, which is `2 ε (θ - θ_t)`.
    fn pull(&mut self) {
        let backend = self.tuning.backend();
        let (Some(weight), Worker { vectors, anchor: Some(anchor), .. }) =
            (self.tuning.recipe().train.proximal, &mut *self.worker)
        else {
            return;
        };
        let (dim, slope) = (vectors.dim(), 2.0 * weight);
        let Vectors { theta, grad, .. } = vectors;
        backend.axpy(slope, Src::new(theta, 0, dim), Dst::new(grad, 0, dim), true);
        backend.axpy(-slope, Src::new(anchor, 0, dim), Dst::new(grad, 0, dim), true);
    }
}

impl<B: Backend> Step for OnWorker<'_, B> {
    fn learning_rate(&self) -> f32 {
        self.at.learning_rate
    }

    fn seed(&self, direction: u32) -> u64 {
        self.at.seeds.of(direction)
    }

    fn slopes(&mut self) -> &mut Vec<f64> {
        &mut self.worker.slopes
    }

    fn loss(&mut self, at: Option<Probe>) -> Result<Seen, TuneError> {
        let noise = match (at, &self.worker.noise) {
            (Some(Probe { seed, scale }), Some(noise)) => Some(noise.at(seed, scale)),
            _ => None,
        };
        self.worker.workspace.perturb(noise);
        let objective = &*self.tuning.recipe().objective;
        self.micro_batches(false, |pass| objective.score(pass))
    }

    fn backward(&mut self) -> Result<Seen, TuneError> {
        self.worker.vectors.zero_grad(self.tuning.backend());
        let objective = &*self.tuning.recipe().objective;
        let coef = 1.0 / self.units as f32;
        let seen = self.micro_batches(true, |pass| objective.backward(pass, coef))?;
        self.pull();
        Ok(seen)
    }

    fn descend(&mut self) -> Result<f64, TuneError> {
        let (backend, recipe) = (self.tuning.backend(), self.tuning.recipe());
        let vectors = &mut self.worker.vectors;
        let dim = vectors.dim();
        let norm = clip_global_norm(backend, &mut vectors.grad, dim, recipe.train.max_grad_norm);
        if !norm.is_finite() {
            return Err(TuneError::NotFinite { what: "gradient", step: self.at.step });
        }
        vectors.step(backend, &*recipe.optimizer, self.at.learning_rate, self.at.number);
        Ok(norm)
    }

    fn plain_decay(&self) -> Option<f32> {
        self.tuning.recipe().optimizer.plain_decay()
    }

    fn scale(&mut self, factor: f32) {
        let vectors = &mut self.worker.vectors;
        let dim = vectors.dim();
        self.tuning.backend().scale(factor, Dst::new(&mut vectors.theta, 0, dim));
    }

    fn shift(&mut self, Probe { seed, scale }: Probe) {
        let Worker { vectors, noise, .. } = &mut *self.worker;
        if let Some(noise) = noise {
            noise.at(seed, scale).apply(self.tuning.backend(), &mut vectors.theta);
        }
    }
}

/// A batch in front of the shared model with one client's vectors.
pub(crate) struct Pass<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) net: &'a Net<B>,
    pub(crate) vectors: &'a mut Vectors<B>,
    pub(crate) workspace: &'a mut Workspace<B>,
    pub(crate) batch: &'a Batch,
    pub(crate) dropout: Option<DropoutSeed>,
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
