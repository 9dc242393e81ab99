//! One trainable vector on held-out data of every client, on all workers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use antiphon_core::ClientId;
use antiphon_kernels::Cpu;
use antiphon_report::{Evaluation, Metrics, Split};
use antiphon_tune::{HeldOut, Scores, TuneError, Tuning};

use super::{Person, Session};
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};

/// Sequences that one worker scores at a time: held-out data may all lie in one place.
const PIECE: usize = 256;

impl Session {
    /// `theta` on `part` of every client, and on their union. Clients are scored in parallel and summed in their order.
    /// `theta` is what travels; a personal head is the client's own.
    pub(crate) fn evaluate(&self, theta: &[f32], part: Part) -> Result<Evaluation, Failure> {
        if self.searching.is_some() || self.scalars.is_some() {
            return self.evaluate_whole(&self.meant(theta)?, part);
        }
        self.evaluation(self.owner(), part, |id| self.personal_theta(id, theta))
    }

    /// The same for a whole trainable vector, personal tensors included.
    pub(crate) fn evaluate_whole(&self, theta: &[f32], part: Part) -> Result<Evaluation, Failure> {
        self.evaluate_on(self.owner(), theta, part)
    }

    /// The same under another model's wiring.
    pub(crate) fn evaluate_on(
        &self,
        tuning: &Tuning<Cpu>,
        theta: &[f32],
        part: Part,
    ) -> Result<Evaluation, Failure> {
        self.evaluation(tuning, part, |_| theta.into())
    }

    fn evaluation<'a>(
        &self,
        tuning: &Tuning<Cpu>,
        part: Part,
        theta: impl Fn(ClientId) -> Cow<'a, [f32]> + Sync,
    ) -> Result<Evaluation, Failure> {
        let scores = self.scores(tuning, &theta, part)?;
        Ok(self.summed(part, &scores))
    }

    /// The base model as it was: without a prompt where one is searched, else with the method's first values.
    pub(crate) fn evaluate_base(&self, part: Part) -> Result<Evaluation, Failure> {
        match &self.searching {
            Some(s) => Ok(self.summed(part, &self.scores(&s.plain, &|_| Cow::Borrowed(&s.head[..]), part)?)),
            None => self.evaluate_whole(&self.theta, part),
        }
    }

    /// Whether anything is held out to look at during a run.
    pub(crate) fn validates(&self) -> bool {
        validates(&self.people, &self.common)
    }

    fn summed(&self, part: Part, scores: &BTreeMap<ClientId, Scores>) -> Evaluation {
        let union = scores.values().copied().reduce(Scores::merge);
        Evaluation {
            split: split(part),
            global: union.map(|s| self.metrics(&s)).unwrap_or_default(),
            per_client: scores
                .iter()
                .filter(|(id, _)| **id != self.common.id)
                .map(|(id, s)| (*id, self.metrics(s)))
                .collect(),
        }
    }

    fn scores<'a>(
        &self,
        tuning: &Tuning<Cpu>,
        theta: &(impl Fn(ClientId) -> Cow<'a, [f32]> + Sync),
        part: Part,
    ) -> Result<BTreeMap<ClientId, Scores>, Failure> {
        let everyone = self.people.iter().chain([&self.common]);
        // of everybody's bytes the first piece speaks, the others add none
        let pieces: Vec<(ClientId, HeldOut<'_>)> = everyone
            .flat_map(|person| {
                let held = person.part(part);
                let bytes = |piece| if piece == 0 { held.bytes } else { held.bytes.map(|_| 0) };
                held.sequences.chunks(PIECE).enumerate().map(move |(piece, sequences)| {
                    let label_words = self.label_words.as_deref();
                    (person.id, HeldOut { sequences, bytes: bytes(piece), label_words })
                })
            })
            .collect();
        let next = AtomicUsize::new(0);
        let done: Mutex<BTreeMap<usize, Result<Scores, TuneError>>> = Mutex::default();
        let worker = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some((id, set)) = pieces.get(i) else { break };
                let score = tuning.evaluate(&theta(*id), *set);
                done.lock().unwrap_or_else(PoisonError::into_inner).insert(i, score);
            }
        };
        std::thread::scope(|s| {
            for _ in 1..self.workers.min(pieces.len()) {
                s.spawn(worker);
            }
            worker();
        });
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut scores = BTreeMap::<ClientId, Scores>::new();
        for (i, score) in done {
            let score = score.map_err(interrupted_or(Kind::Internal))?;
            let id = pieces[i].0;
            let sum = scores.get(&id).map_or(score, |s| s.merge(score));
            scores.insert(id, sum);
        }
        Ok(scores)
    }

    /// Scores as the report writes them. Accuracy is that of the label words where there are any.
    pub(crate) fn metrics(&self, s: &Scores) -> Metrics {
        Metrics {
            loss: s.loss(),
            perplexity: if self.classify() { None } else { s.perplexity() },
            bits_per_byte: if self.classify() { None } else { s.bits_per_byte() },
            accuracy: s.word_accuracy().or_else(|| s.accuracy()),
            examples: s.sequences,
            tokens: s.units,
        }
    }
}

/// Whether anybody has validation data.
pub(super) fn validates(people: &[Person], common: &Person) -> bool {
    people.iter().chain([common]).any(|p| !p.part(Part::Validation).sequences.is_empty())
}

/// The report's name of a part.
pub(crate) fn split(part: Part) -> Split {
    match part {
        Part::Train => Split::Train,
        Part::Validation => Split::Validation,
        Part::Test => Split::Test,
    }
}

/// Stopping is not a failure of the model.
pub(crate) fn interrupted_or(kind: Kind) -> impl Fn(TuneError) -> Failure {
    move |e| match e {
        TuneError::Interrupted => Failure::new(Kind::Interrupted, "stopped"),
        other => Err::<(), _>(other).fail(kind).err().unwrap_or_else(|| Failure::new(kind, "failed")),
    }
}
