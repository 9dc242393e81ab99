//! Held-out measurements of one trainable vector.
//!
//! Sums are kept, not means, so that clients' results add up to the union's: [`Scores::merge`]. Batches are filled by rows
//! up to the shape that training was planned for, on a worker's buffers.

use antiphon_data::Sequence;
use antiphon_kernels::{Backend, Dst, Src};
use antiphon_model::Task;

use crate::error::TuneError;
use crate::tuning::Tuning;
use crate::worker::{Worker, fill};

/// What is measured on.
#[derive(Clone, Copy, Debug)]
pub struct HeldOut<'a> {
    /// Sequences that were not trained on.
    pub sequences: &'a [Sequence],
    /// Bytes of text that the labelled tokens stand for, where known; for bits per byte.
    pub bytes: Option<u64>,
    /// Token ids of the label words of a task that is solved by generation. The label position of a sequence is its
    /// first labelled row, and the answer is the likeliest of these tokens there.
    pub label_words: Option<&'a [u32]>,
}

/// Sums over held-out units: labelled tokens, or sequences for classification.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// Negative log-likelihood, nats.
    pub nll: f64,
    /// Units.
    pub units: u64,
    /// Units whose label was the first choice among all tokens or classes.
    pub correct: u64,
    /// Sequences that had units.
    pub sequences: u64,
    /// Bytes of text that the units stand for; `None` once unknown for a part.
    pub bytes: Option<u64>,
    /// Sequences whose label word was the likeliest of the label words; `None` without label words.
    pub words_correct: Option<u64>,
}

impl Scores {
    /// Nats per unit; `None` without units.
    #[must_use]
    pub fn loss(&self) -> Option<f64> {
        (self.units > 0).then(|| self.nll / self.units as f64)
    }

    /// `exp` of the loss.
    #[must_use]
    pub fn perplexity(&self) -> Option<f64> {
        self.loss().map(f64::exp)
    }

    /// `nll / (ln 2 · bytes)`: comparable between tokenizers.
    #[must_use]
    pub fn bits_per_byte(&self) -> Option<f64> {
        self.bytes.filter(|&b| b > 0).map(|b| self.nll / (std::f64::consts::LN_2 * b as f64))
    }

    /// Share of units whose label was the first choice: of tokens for `sft`, of sequences for `classification`.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.units > 0).then(|| self.correct as f64 / self.units as f64)
    }

    /// Share of sequences answered rightly among the label words.
    #[must_use]
    pub fn word_accuracy(&self) -> Option<f64> {
        self.words_correct.filter(|_| self.sequences > 0).map(|c| c as f64 / self.sequences as f64)
    }

    /// The scores of both sets together. What is unknown of one is unknown of both.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
        Self {
            nll: self.nll + other.nll,
            units: self.units + other.units,
            correct: self.correct + other.correct,
            sequences: self.sequences + other.sequences,
            bytes: both(self.bytes, other.bytes),
            words_correct: both(self.words_correct, other.words_correct),
        }
    }
}

impl<B: Backend> Tuning<B> {
    /// Scores the trainable vector `theta` on held-out sequences; those without a labelled row are left out.
    pub fn evaluate(&self, theta: &[f32], set: HeldOut<'_>) -> Result<Scores, TuneError> {
        let words = set.label_words.filter(|_| self.net().task() == Task::CausalLm);
        self.with_worker(|worker| {
            worker.load(self, theta)?;
            let mut scores =
                Scores { bytes: set.bytes, words_correct: words.map(|_| 0), ..Scores::default() };
            let mut logits = match words {
                Some(_) => Some(self.backend().alloc(self.shape().segments * self.net().spec().vocab)?),
                None => None,
            };
            let mut next = 0;
            while next < set.sequences.len() {
                if self.stopped() {
                    return Err(TuneError::Interrupted);
                }
                next = self.pick(worker, set.sequences, next)?;
                if worker.picks.is_empty() {
                    continue;
                }
                fill(&mut worker.batch, &*self.recipe().objective, set.sequences, &worker.picks)?;
                let loss = worker.score(self)?;
                scores.nll += loss.nll;
                scores.units += loss.rows;
                scores.correct += loss.correct;
                scores.sequences += worker.picks.len() as u64;
                if let (Some(words), Some(logits), Some(right)) =
                    (words, &mut logits, &mut scores.words_correct)
                {
                    *right += self.right_words(worker, set.sequences, words, logits)?;
                }
            }
            Ok(scores)
        })
    }

    /// Collects sequences from `next` on into the worker's picks, as many as the planned shape holds. Returns the first
    /// that was left for later.
    fn pick(&self, worker: &mut Worker<B>, set: &[Sequence], mut next: usize) -> Result<usize, TuneError> {
        let (shape, objective) = (self.shape(), &self.recipe().objective);
        let prompt = self.net().limits().prompt;
        let (mut rows, mut labels) = (0, 0);
        worker.picks.clear();
        while let Some(s) = set.get(next) {
            let (units, len) = (objective.units(s), s.len() + prompt);
            if units > 0 {
                rows += len;
                labels += s.label_tokens();
                let fits =
                    rows <= shape.tokens && labels <= shape.labelled && worker.picks.len() < shape.segments;
                if !fits && worker.picks.is_empty() {
                    return Err(TuneError::TooLarge { index: next, rows: len, planned: shape.tokens });
                }
                if !fits {
                    break;
                }
                worker.picks.push(next);
            }
            next += 1;
        }
        Ok(next)
    }

    /// How many of the batch's sequences have their own label as the likeliest of `words` at their first labelled row.
    fn right_words(
        &self,
        worker: &mut Worker<B>,
        set: &[Sequence],
        words: &[u32],
        logits: &mut B::Buf,
    ) -> Result<u64, TuneError> {
        let Worker { workspace, vectors, batch, picks, .. } = worker;
        let (backend, vocab) = (self.backend(), self.net().spec().vocab);
        let prompt = self.net().limits().prompt;
        let answers: Vec<(u32, u32)> = picks
            .iter()
            .zip(batch.segments())
            .filter_map(|(&i, segment)| {
                set[i].labels().next().map(|(row, id)| ((segment.q_at + prompt + row) as u32, id))
            })
            .collect();
        let rows: Vec<u32> = answers.iter().map(|&(row, _)| row).collect();
        let len = rows.len() * vocab;
        self.net().logits(backend, &vectors.theta, batch, &rows, workspace, Dst::new(logits, 0, len))?;
        let mut row = vec![0.0; vocab];
        let mut right = 0;
        for (i, &(_, id)) in answers.iter().enumerate() {
            backend.download(Src::new(logits, i * vocab, vocab), &mut row)?;
            let value = |&w: &u32| row.get(w as usize).copied().unwrap_or(f32::NEG_INFINITY);
            // the first among equals, as everywhere
            let best = words.iter().copied().reduce(|a, b| if value(&b) > value(&a) { b } else { a });
            right += u64::from(best == Some(id));
        }
        Ok(right)
    }
}
