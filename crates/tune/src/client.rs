//! One client's work in a round, on its own examples: the training crate's [`LocalWork`].
//!
//! The work is of a shared reference, so that whoever hires clients can lend them out without owning them; at most one
//! round of a client is under way at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use antiphon_algo::{Local, LocalWork, Losses, WorkError};
use antiphon_core::{ClientId, Purpose, Round, Stream, Weight};
use antiphon_data::Sequence;
use antiphon_kernels::Backend;

use crate::error::TuneError;
use crate::optim::OptimizerState;
use crate::rate::Past;
use crate::scalars::Notebook;
use crate::schedule::Position;
use crate::settings::{Duration, StatePolicy};
use crate::step::Seeds;
use crate::tuning::Tuning;
use crate::worker::{StepReport, Worker};

/// A client: its examples and, if the recipe keeps it, its optimiser's state. All buffers are a worker's.
#[derive(Debug)]
pub struct Client<B: Backend> {
    tuning: Arc<Tuning<B>>,
    id: ClientId,
    sequences: Arc<[Sequence]>,
    weight: Weight,
    /// State after the last round, and the one before it, from which that round would be repeated.
    kept: Mutex<[Option<Kept>; 2]>,
    /// Its losses of past rounds, where its learning rate depends on them.
    past: Mutex<Past>,
    /// Those of the others, as they came with the next round's parameters.
    told: Mutex<Option<Losses>>,
}

/// Optimiser state and the round that left it.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    round: Round,
    state: OptimizerState,
}

impl<B: Backend> Client<B> {
    /// A client that trains on `sequences`, made of `examples` training examples: its `n_k`, whatever number of them a
    /// round touches. Packing makes the two numbers differ.
    pub fn new(
        tuning: Arc<Tuning<B>>,
        id: ClientId,
        sequences: Arc<[Sequence]>,
        examples: u64,
    ) -> Result<Self, TuneError> {
        let expected = tuning.recipe().train.micro_batch_size as usize;
        if sequences.len() < expected {
            return Err(TuneError::FewExamples { client: id, found: sequences.len(), expected });
        }
        let weight =
            Weight::new(examples as f64).map_err(|source| TuneError::Weight { client: id, source })?;
        let (kept, past, told) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { tuning, id, sequences, weight, kept, past, told })
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// For a checkpoint: the optimiser's state as bytes and the round that left it. `None` before the first round, and
    /// where the recipe resets state.
    #[must_use]
    pub fn state(&self) -> Option<(Round, Vec<u8>)> {
        let kept = self.kept();
        let Kept { round, state } = kept[0].as_ref()?;
        let digest = self.tuning.net().wiring().schema.digest();
        Some((*round, state.to_bytes(self.tuning.recipe().optimizer.id(), digest)))
    }

    /// Puts back what [`Client::state`] gave.
    pub fn restore(&self, round: Round, bytes: &[u8]) -> Result<(), TuneError> {
        let net = self.tuning.net();
        let (optimizer, schema) = (&self.tuning.recipe().optimizer, &net.wiring().schema);
        let slots = optimizer.slots().len();
        let state = OptimizerState::from_bytes(bytes, optimizer.id(), schema.digest(), slots, schema.dim())?;
        *self.kept() = [Some(Kept { round, state }), None];
        Ok(())
    }

    /// For a checkpoint: its losses of past rounds as bytes, and the last of these rounds; `None` where it keeps none.
    #[must_use]
    pub fn losses(&self) -> Option<(Round, Vec<u8>)> {
        lock(&self.past).to_bytes()
    }

    /// Puts back what [`Client::losses`] gave; `false` for bytes that are no losses.
    pub fn restore_losses(&self, bytes: &[u8]) -> bool {
        let past = Past::from_bytes(bytes);
        let fits = past.is_some();
        if let Some(past) = past {
            *lock(&self.past) = past;
        }
        fits
    }

    /// Goes back to the state before `round`, in which this client's work did not count: what a checkpoint does not hold
    /// must not outlive the round.
    pub fn forget(&self, round: Round) {
        lock(&self.past).forget(round);
        let [last, earlier] = &mut *self.kept();
        if last.as_ref().is_some_and(|k| k.round == round) {
            *last = earlier.take();
        }
    }

    fn kept(&self) -> MutexGuard<'_, [Option<Kept>; 2]> {
        lock(&self.kept)
    }

    /// The peak of its learning rate in `round`.
    fn rate(&self, round: Round) -> f64 {
        let train = &self.tuning.recipe().train;
        train.personalized_lr.map_or(train.learning_rate, |p| {
            let own = lock(&self.past).before(round, p.rounds);
            p.rate(train.learning_rate, own, *lock(&self.told))
        })
    }

    /// Puts the state that `round` starts from, the last one left before it, in the worker. Returns its step count.
    fn load_state(&self, worker: &mut Worker<B>, round: Round) -> Result<u64, TuneError> {
        let kept = self.kept();
        let before = kept.iter().flatten().find(|k| k.round < round).map(|k| &k.state);
        Ok(worker.vectors.set_state(self.tuning.backend(), before)?)
    }

    fn keep(&self, round: Round, state: OptimizerState) {
        let [last, earlier] = &mut *self.kept();
        if last.as_ref().is_some_and(|k| k.round < round) {
            *earlier = last.take();
        }
        *last = Some(Kept { round, state });
    }

    /// Trains and leaves the end in the worker. Returns the optimiser's step count.
    fn train(
        &self,
        worker: &mut Worker<B>,
        start: &[f32],
        round: Round,
        sums: &mut Sums,
        (peak, mut notebook): (f64, Option<&mut dyn Notebook>),
    ) -> Result<u64, TuneError> {
        let tuning = &*self.tuning;
        let recipe = tuning.recipe();
        worker.load(tuning, start)?;
        let mut number = self.load_state(worker, round)?;
        let (n, batch) = (self.sequences.len(), recipe.batch_size());
        let steps = recipe.local_steps(n);
        let key = Stream::keyed(recipe.seed, Purpose::Dropout, Some(round), Some(self.id), "").key();
        let directions = Stream::keyed(recipe.seed, Purpose::Perturbation, Some(round), Some(self.id), "");
        worker.walk.start(recipe.seed, round, self.id, n);
        let mut drawn = Vec::new();
        for step in 0..steps {
            if tuning.stopped() {
                return Err(TuneError::Interrupted);
            }
            let count = match recipe.train.duration {
                Duration::Steps(_) => batch,
                // the last batch of a pass is what is left of it
                Duration::Epochs(_) => batch.min(n - (step as usize % n.div_ceil(batch)) * batch),
            };
            worker.picks.clear();
            worker.picks.extend((0..count).map_while(|_| worker.walk.next()));
            let at = Position { round: round.0, rounds: recipe.rounds, step, steps };
            let lr = (peak * recipe.train.schedule.factor(at)) as f32;
            number += 1;
            let seeds = match &mut notebook {
                Some(notebook) => {
                    notebook.draw(step, &mut drawn);
                    Seeds::Given(&drawn)
                }
                None => Seeds::Drawn(directions.substream(u64::from(step))),
            };
            let report = worker.step(tuning, &self.sequences, (step, number), lr, (key, seeds))?;
            if let Some(notebook) = &mut notebook {
                notebook.note(step, &worker.slopes);
            }
            sums.add(&report);
            tuning.watch(self.id, round, &report);
        }
        Ok(number)
    }
}

impl<B: Backend> Client<B> {
    /// A round of local work. A `notebook` chooses the directions of each step and is told their slopes.
    pub(crate) fn work(
        &self,
        start: &[f32],
        round: Round,
        notebook: Option<&mut dyn Notebook>,
    ) -> Result<Local, WorkError> {
        let keep = self.tuning.recipe().train.optimizer_state == StatePolicy::Keep;
        let (mut sums, peak) = (Sums::default(), self.rate(round));
        let (mut delta, state) = self.tuning.with_worker(|worker| {
            let number = self.train(worker, start, round, &mut sums, (peak, notebook))?;
            let state = keep.then(|| worker.vectors.state(self.tuning.backend(), number)).transpose()?;
            Ok((worker.theta(&self.tuning)?, state))
        })?;
        for (end, start) in delta.iter_mut().zip(start) {
            *end = start - *end;
        }
        if !delta.iter().all(|v| v.is_finite()) {
            let step = sums.steps.saturating_sub(1);
            return Err(WorkError::NotFinite { what: "update", step: u64::from(step) });
        }
        if let Some(state) = state {
            self.keep(round, state);
        }
        let mut metrics = sums.metrics();
        if let (Some(p), Some(loss)) = (self.tuning.recipe().train.personalized_lr, metrics.get("train_loss"))
        {
            let mut past = lock(&self.past);
            past.note(round, *loss, p.rounds);
            metrics
                .extend(past.before(round.next(), p.rounds).map(|own| (Local::SHARED_LOSS.to_owned(), own)));
            metrics.insert("learning_rate".to_owned(), peak);
        }
        Ok(Local { delta, weight: self.weight, metrics })
    }
}

impl<B: Backend> LocalWork for &Client<B> {
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        self.work(start, round, None)
    }

    fn told(&mut self, losses: Option<Losses>) {
        *lock(&self.told) = losses;
    }
}

impl<B: Backend> LocalWork for Client<B> {
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        (&*self).run(start, round)
    }

    fn told(&mut self, losses: Option<Losses>) {
        (&*self).told(losses);
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sums over the steps of a round.
#[derive(Debug, Default)]
struct Sums {
    steps: u32,
    nll: f64,
    units: u64,
    correct: u64,
    rows: u64,
    grad_norm: f64,
    first_last: Option<(f64, f64)>,
}

impl Sums {
    fn add(&mut self, r: &StepReport) {
        self.steps += 1;
        self.nll += r.loss * r.units as f64;
        self.units += r.units;
        self.correct += r.correct;
        self.rows += r.rows;
        self.grad_norm += r.grad_norm;
        // a step whose every direction was skipped saw no loss
        if r.units > 0 {
            let first = self.first_last.map_or(r.loss, |(first, _)| first);
            self.first_last = Some((first, r.loss));
        }
    }

    /// `train_loss` is the mean over the round's units, nats per labelled token or per sequence; a round without steps
    /// has only the counts.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let mut out = BTreeMap::from([
            ("train_steps".to_owned(), f64::from(self.steps)),
            ("train_rows".to_owned(), self.rows as f64),
            ("train_units".to_owned(), self.units as f64),
        ]);
        if let Some((first, last)) = self.first_last {
            let units = self.units as f64;
            out.insert("train_loss".to_owned(), self.nll / units);
            out.insert("train_loss_first".to_owned(), first);
            out.insert("train_loss_last".to_owned(), last);
            out.insert("train_accuracy".to_owned(), self.correct as f64 / units);
            out.insert("grad_norm".to_owned(), self.grad_norm / f64::from(self.steps));
        }
        out
    }
}
