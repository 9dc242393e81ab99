//! The owner's side of off-site tuning: what clients hold of a model's middle is trained on public data to stand for all of
//! it, with the clients' adapter in both models.
//!
//! With the emulator `E` as student and the whole model `M` as teacher, on a batch with `m` labelled rows,
//!
//! ```text
//! L(φ) = w_lm · CE(E_φ) + w_hid · mean_taps ‖h_E - h_M‖² / ‖h_M‖² + w_kl · 1/m Σ KL(M ‖ E_φ)
//! ```
//!
//! over the middle `φ` alone: adapter, embeddings and head stand still in both. An adapter that is tensors of the checkpoint, or
//! pairs that merge into them, is put in their place; bottlenecks stand after `φ` in the vector and are not stepped. Offsite-Tuning (Xiao, Lin and Han 2023,
//! arXiv:2302.04870) is `w_lm = 1, w_hid = 30` at the end of the middle, once before the clients begin; FedBiOT (Wu et al.
//! 2024, arXiv:2406.17706) aligns again after every round with the adapter of that round.
//!
//! Optimiser state is not kept from one alignment to the next: the adapter has moved in between, and a resumed run needs no
//! more than the middle itself.
//!
//! Deliberately missing: temperatures other than 1, the cosine distance of FedBiOT's program, gradient accumulation.

mod influence;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_core::{ClientId, Round};
use antiphon_data::Sequence;
use antiphon_kernels::{Backend, Coef, Dst};
use antiphon_model::emulator::{Tensors, bottleneck_values, with_bottlenecks};
use antiphon_model::{Batch, Emulator, Mode, Net, Taps, Task, Teacher, Weights, Wiring, Workspace};

pub use influence::influence;
pub use settings::{Align, AlignSettings, HiddenAt, Terms};

use crate::error::TuneError;
use crate::method::{MethodError, head_alone};
use crate::optim::{Vectors, clip_global_norm};
use crate::order::Walk;
use crate::schedule::Position;
use crate::tuning::step_shape;

/// How far the emulator is from the model that it stands for, on some data, with one adapter in both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// `‖h_E - h_M‖² / ‖h_M‖²`, the mean over the taps.
    pub hidden: f64,
    /// `KL(M ‖ E)` in nats per labelled token; `None` for a classification.
    pub kl: Option<f64>,
    /// Cross-entropy of the emulator in nats per labelled token; `None` for a classification.
    pub loss: Option<f64>,
}

/// The two models as they are before an adapter is in them.
#[derive(Debug)]
pub struct Sides<'a, B: Backend> {
    /// Where alignment runs.
    pub backend: Arc<B>,
    /// The division.
    pub emulator: &'a Emulator,
    /// What clients hold.
    pub student: &'a Weights<B>,
    /// What the owner holds.
    pub teacher: &'a Weights<B>,
    /// What both are asked.
    pub task: Task,
}

/// The adapter of the moment.
#[derive(Clone, Copy, Debug)]
pub struct Adapter<'a> {
    /// What it puts in the place of the checkpoint's tensors.
    pub tensors: &'a Tensors,
    /// How it is wired on the emulator, and on the whole model: for what stands beside tensors.
    pub wirings: [&'a Wiring; 2],
    /// Its values, under both.
    pub theta: &'a [f32],
}

/// Both models with one adapter in them, and the memory of a step.
#[derive(Debug)]
pub struct Alignment<B: Backend> {
    backend: Arc<B>,
    student: Net<B>,
    teacher: Net<B>,
    own: Workspace<B>,
    theirs: Workspace<B>,
    /// Of the student and of the teacher.
    taps: [Taps<B>; 2],
    vectors: Vectors<B>,
    /// The teacher's vector: the unread head of a classification, and the adapter's bottlenecks.
    fixed: B::Buf,
    batch: Batch,
    picks: Vec<usize>,
}

/// Sums over batches.
#[derive(Clone, Debug, Default)]
struct Sums {
    /// `(‖h_E - h_M‖², ‖h_M‖²)` of each tap.
    hidden: Vec<(f64, f64)>,
    kl: f64,
    nll: f64,
    rows: u64,
}

impl<B: Backend> Alignment<B> {
    /// `sides` with `adapter` in both, for batches of `micro` of `sequences` (of all, where there are fewer), compared at `places`.
    ///
    /// # Errors
    /// An adapter of another model; sequences longer than the models read; too little memory.
    pub fn new(
        sides: &Sides<'_, B>,
        adapter: &Adapter<'_>,
        sequences: &[&[Sequence]],
        (micro, optimizer_slots): (u32, usize),
        places: HiddenAt,
    ) -> Result<Self, TuneError> {
        let Sides { backend, emulator, student, teacher, task } = sides;
        // no batch has more
        let most = sequences.iter().map(|s| s.len()).max().unwrap_or(0).max(1);
        let micro = micro.min(u32::try_from(most).unwrap_or(u32::MAX));
        let shape = step_shape(sequences.iter().copied(), micro, 0);
        let longest = sequences.iter().flat_map(|s| s.iter()).map(Sequence::len).max().unwrap_or(1);
        let wiring = emulator.wire_middle(student.spec(), *task).map_err(MethodError::from)?;
        let dim = wiring.schema.dim();
        let [on_student, on_teacher] = adapter.wirings;
        let beside = bottleneck_values(on_student, adapter.theta);
        let net = |weights: &Weights<B>, wiring: Wiring| -> Result<Net<B>, TuneError> {
            let weights = weights.with(backend, adapter.tensors).map_err(antiphon_model::NetError::from)?;
            Ok(Net::new(&**backend, weights, *task, Arc::new(wiring), longest)?)
        };
        let student = net(student, with_bottlenecks(wiring, on_student).map_err(MethodError::from)?)?;
        let head = head_alone(teacher.spec(), *task)?;
        let at = head.schema.dim();
        let teacher = net(teacher, with_bottlenecks(head, on_teacher).map_err(MethodError::from)?)?;
        let mut fixed = backend.alloc(at + beside.len())?;
        backend.upload(&beside, Dst::new(&mut fixed, at, beside.len()))?;
        let mut joints = emulator.joints();
        if places == HiddenAt::End {
            joints.drain(..joints.len().saturating_sub(1));
        }
        let at =
            |of: fn(&antiphon_model::emulator::Joint) -> usize| joints.iter().map(of).collect::<Vec<_>>();
        let taps = [
            student.taps(backend, &at(|j| j.emulator), shape, Mode::Train)?,
            teacher.taps(backend, &at(|j| j.whole), shape, Mode::Infer)?,
        ];
        let mut batch = student.batch();
        batch.reserve(shape.tokens, shape.segments);
        Ok(Self {
            own: student.workspace(backend, shape, Mode::Train)?,
            theirs: teacher.workspace(backend, shape, Mode::Infer)?,
            vectors: Vectors::with_fixed(&**backend, dim, &beside, optimizer_slots)?,
            fixed,
            backend: Arc::clone(backend),
            picks: Vec::with_capacity(micro as usize),
            student,
            teacher,
            taps,
            batch,
        })
    }

    /// How far apart the models are on `sequences`, with the middle `phi`.
    ///
    /// # Errors
    /// A vector that is not this middle; a sequence that the models cannot read; `stop` raised.
    pub fn distance(
        &mut self,
        phi: &[f32],
        sequences: &[Sequence],
        stop: &AtomicBool,
    ) -> Result<Distance, TuneError> {
        self.load(phi)?;
        let mut sums = Sums { hidden: vec![(0.0, 0.0); self.taps[0].count()], ..Sums::default() };
        let all = Terms { language_model: 1.0, hidden: 1.0, kl: 1.0 };
        let terms =
            if self.student.task() == Task::CausalLm { all } else { Terms { hidden: 1.0, ..Terms::NONE } };
        let micro = self.picks.capacity().max(1);
        for first in (0..sequences.len()).step_by(micro) {
            if stop.load(Ordering::Relaxed) {
                return Err(TuneError::Interrupted);
            }
            self.picks.clear();
            self.picks.extend(first..sequences.len().min(first + micro));
            self.fill(sequences)?;
            self.terms(terms, false, &mut sums)?;
        }
        let parts = sums.hidden.iter().map(|(apart, size)| if *size > 0.0 { apart / size } else { 0.0 });
        let causal = (terms.kl > 0.0 && sums.rows > 0).then_some(sums.rows as f64);
        Ok(Distance {
            hidden: parts.sum::<f64>() / sums.hidden.len().max(1) as f64,
            kl: causal.map(|rows| sums.kl / rows),
            loss: causal.map(|rows| sums.nll / rows),
        })
    }

    /// Trains the middle `phi` on `sequences` as `how` says. `key` (seed, round, who) decides their order. Returns the mean
    /// loss of the last tenth of the steps.
    ///
    /// # Errors
    /// As [`Alignment::distance`], and a loss or a gradient that is not finite.
    pub fn train(
        &mut self,
        phi: &mut [f32],
        how: &Align,
        sequences: &[Sequence],
        (seed, round, who): (u64, Round, ClientId),
        stop: &AtomicBool,
    ) -> Result<f64, TuneError> {
        self.load(phi)?;
        self.vectors.set_state(&*self.backend, None)?;
        let mut walk = Walk::default();
        walk.start(seed, round, who, sequences.len());
        let batch = (how.micro_batch_size as usize).min(sequences.len());
        let (mut tail, mut counted) = (0.0, 0_u32);
        for step in 0..how.steps {
            if stop.load(Ordering::Relaxed) {
                return Err(TuneError::Interrupted);
            }
            self.picks.clear();
            self.picks.extend((0..batch).map_while(|_| walk.next()));
            self.fill(sequences)?;
            let loss = self.step(how, step)?;
            if u64::from(step) * 10 >= u64::from(how.steps) * 9 {
                (tail, counted) = (tail + loss, counted + 1);
            }
        }
        let dim = phi.len();
        self.backend.download(antiphon_kernels::Src::new(&self.vectors.theta, 0, dim), phi)?;
        Ok(tail / f64::from(counted.max(1)))
    }

    /// One step on the batch at hand; returns its loss.
    fn step(&mut self, how: &Align, step: u32) -> Result<f64, TuneError> {
        let backend = Arc::clone(&self.backend);
        self.vectors.zero_grad(&*backend);
        let mut sums = Sums { hidden: vec![(0.0, 0.0); self.taps[0].count()], ..Sums::default() };
        let loss = self.terms(how.terms, true, &mut sums)?;
        if !loss.is_finite() {
            return Err(TuneError::NotFinite { what: "loss of the alignment", step });
        }
        let dim = self.vectors.dim();
        let norm = clip_global_norm(&*backend, &mut self.vectors.grad, dim, how.max_grad_norm);
        if !norm.is_finite() {
            return Err(TuneError::NotFinite { what: "gradient of the alignment", step });
        }
        let at = Position { round: 0, rounds: 1, step, steps: how.steps };
        let lr = (how.learning_rate * how.schedule.factor(at)) as f32;
        self.vectors.step(&*backend, &*how.optimizer, lr, u64::from(step) + 1);
        Ok(loss)
    }

    fn load(&mut self, phi: &[f32]) -> Result<(), TuneError> {
        let expected = self.vectors.dim();
        if phi.len() != expected {
            return Err(TuneError::Length { expected, found: phi.len() });
        }
        Ok(self.backend.upload(phi, Dst::new(&mut self.vectors.theta, 0, expected))?)
    }

    /// The sequences in `picks` as the batch. A classification's classes are never read.
    fn fill(&mut self, sequences: &[Sequence]) -> Result<(), TuneError> {
        self.batch.clear();
        for &index in &self.picks {
            let s = &sequences[index];
            let pushed = match self.student.task() {
                Task::CausalLm => self.batch.push(&s.ids, s.labels()),
                Task::Classify { .. } => self.batch.push_class(&s.ids, s.class.unwrap_or(0)),
            };
            pushed.map_err(|source| TuneError::Example { index, source: source.into() })?;
        }
        Ok(())
    }

    /// The loss of the batch at hand, and with `backward` its gradient.
    fn terms(&mut self, terms: Terms, backward: bool, sums: &mut Sums) -> Result<f64, TuneError> {
        let Self {
            backend, student, teacher, own, theirs, taps: [mine, other], vectors, fixed, batch, ..
        } = self;
        let b = &**backend;
        let Vectors { theta, grad, .. } = vectors;
        teacher.forward_tapped(b, fixed, batch, theirs, None, other)?;
        student.forward_tapped(b, theta, batch, own, None, mine)?;
        let m = batch.labels().len() as f64;
        let (lm, kl) = if m > 0.0 { (terms.language_model, terms.kl) } else { (0.0, 0.0) };
        let mut loss = 0.0;
        if lm > 0.0 {
            let to = backward.then_some(&mut *grad);
            let nll = student.lm_loss(b, theta, batch, own, Coef::Uniform((lm / m) as f32), to, None)?.nll;
            (loss, sums.nll) = (loss + lm * nll / m, sums.nll + nll);
        }
        if kl > 0.0 {
            let of = Teacher { net: teacher, params: fixed, workspace: theirs };
            let to = (backward.then_some(&mut *grad), lm > 0.0);
            let apart = student.kl_loss(b, theta, batch, own, of, (kl / m) as f32, to)?;
            (loss, sums.kl) = (loss + kl * apart / m, sums.kl + apart);
        }
        sums.rows += m as u64;
        let each = terms.hidden / mine.count().max(1) as f64;
        for (tap, sum) in sums.hidden.iter_mut().enumerate() {
            let (apart, size) = mine.pull(b, tap, other, each as f32);
            loss += if size > 0.0 { each * apart / size } else { 0.0 };
            *sum = (sum.0 + apart, sum.1 + size);
        }
        if backward {
            student.backward_tapped(b, theta, batch, own, None, grad, (lm + kl > 0.0, mine))?;
        }
        Ok(loss)
    }
}
