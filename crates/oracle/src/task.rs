//! What a search minimises: questions with their answers, a loss of label scores, and the fitness of a candidate.
//!
//! With `l_c` the log-probability of label `c` and `y` the answer:
//!
//! ```text
//! nll            −l_y
//! cross_entropy  −l_y + log Σ_c exp l_c          renormalised over the labels of the task
//! hinge          Σ_{c≠y} max(0, l_c − l_y + m)   margin m = 2 in BBT
//! zero_one       1 unless l_y is the largest     the share of wrong answers; a text is enough for it, see [`crate::text`]
//! ```
//!
//! A label that an endpoint did not name enters with the upper bound that it has. FedOne's code feeds probabilities to a
//! cross-entropy that expects logits, which confines a two-class loss to [0.313, 1.313]; here they are log-probabilities.
//!
//! The fitness is the mean over all questions, or missing: a candidate evaluated on part of them is comparable with nothing.

use std::sync::Arc;

use antiphon_core::Stream;
use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::answer::{Answers, LabelScore, Usage};
use crate::error::OracleError;
use crate::oracle::{EmbedOracle, LogprobOracle};
use crate::query::{Label, Prompt, ScoreQuery, Soft};

/// One example as an oracle sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Token ids before the answer.
    pub prompt: Vec<u32>,
    /// What may follow; one label where only the answer's own probability is asked.
    pub labels: Arc<[Label]>,
    /// Index of the right one.
    pub answer: usize,
}

impl Question {
    /// The query, with `prefix` before the prompt.
    #[must_use]
    pub fn query(&self, prefix: &[u32]) -> ScoreQuery {
        let ids = prefix.iter().chain(&self.prompt).copied().collect();
        ScoreQuery { prompt: Prompt::Tokens(ids), labels: Arc::clone(&self.labels) }
    }

    /// The same question with each token replaced, with probability `rate`, by one drawn from `vocabulary` ids. FedBPT divides
    /// by the loss on such inputs: a prompt that wins whatever the input says is worth nothing.
    #[must_use]
    pub fn perturbed(&self, rate: f64, vocabulary: u32, stream: &mut Stream) -> Self {
        let mut replace = |id: u32| {
            // both drawn for every token, so that a rate changes no later draw
            let (chance, other) = (stream.uniform(), stream.below(u64::from(vocabulary)) as u32);
            if chance < rate { other } else { id }
        };
        let prompt = self.prompt.iter().map(|&id| replace(id)).collect();
        Self { prompt, ..self.clone() }
    }
}

/// A loss of label scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Of the answer among all continuations.
    Nll,
    /// Of the answer among the labels.
    CrossEntropy,
    /// Over the other labels, with a margin of 2 nats.
    Hinge,
    /// 1 for a wrong answer, 0 for the right one: all that an endpoint gives that answers in text.
    ZeroOne,
}

/// BBT's margin.
const MARGIN: f64 = 2.0;

impl Loss {
    /// The least access by which it can be had.
    #[must_use]
    pub fn access(self) -> Access {
        match self {
            Self::Nll | Self::CrossEntropy | Self::Hinge => Access::Logprobs,
            Self::ZeroOne => Access::Text,
        }
    }

    /// As written in run files.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Nll => "nll",
            Self::CrossEntropy => "cross_entropy",
            Self::Hinge => "hinge",
            Self::ZeroOne => "zero_one",
        }
    }

    /// Whether it compares labels: of a single one it is always the same.
    #[must_use]
    pub fn compares(self) -> bool {
        self != Self::Nll
    }

    /// The loss of one question, nats; `None` if the scores are not those of its labels.
    #[must_use]
    pub fn of(self, question: &Question, scores: &[LabelScore]) -> Option<f64> {
        let logs: Vec<f64> = scores.iter().map(|s| s.logprob).collect();
        self.of_logs(&logs, question.answer).filter(|_| logs.len() == question.labels.len())
    }

    /// The loss of label scores in nats, up to a constant of their own for `cross_entropy` and `hinge`; for `zero_one` a number without
    /// a unit, and none where there is nothing to choose from.
    #[must_use]
    pub fn of_logs(self, logs: &[f64], answer: usize) -> Option<f64> {
        let own = *logs.get(answer)?;
        let loss = match self {
            Self::Nll => -own,
            Self::CrossEntropy => log_sum_exp(logs) - own,
            Self::Hinge => {
                let others = logs.iter().enumerate().filter(|(c, _)| *c != answer);
                others.map(|(_, l)| (l - own + MARGIN).max(0.0)).sum()
            }
            Self::ZeroOne if logs.len() < 2 => return None,
            Self::ZeroOne => f64::from(u8::from(likeliest(logs) != answer)),
        };
        loss.is_finite().then_some(loss)
    }
}

/// Index of the largest, the first among equals; 0 of none.
#[must_use]
pub fn likeliest(logs: &[f64]) -> usize {
    (0..logs.len()).fold(0, |best, i| if logs[i] > logs[best] { i } else { best })
}

/// `log Σ exp`.
pub(crate) fn log_sum_exp(logs: &[f64]) -> f64 {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_finite() { logs.iter().map(|l| (l - top).exp()).sum::<f64>().ln() + top } else { top }
}

/// How good a candidate is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fitness {
    /// Mean loss, nats; `NaN` when any question has no answer.
    pub loss: f64,
    /// Share of questions whose likeliest label is the answer; `NaN` with the loss. The first among equals.
    pub accuracy: f64,
    /// Questions without an answer.
    pub missing: usize,
    /// What it cost.
    pub usage: Usage,
}

/// Judges what an oracle said.
#[must_use]
pub fn judge(questions: &[Question], answers: &Answers<Vec<LabelScore>>, loss: Loss) -> Fitness {
    let (mut sum, mut right, mut missing) = (0.0, 0_usize, 0);
    for (i, question) in questions.iter().enumerate() {
        let scores = answers.items.get(i).and_then(|item| item.as_ref().ok());
        match scores.and_then(|s| Some((s, loss.of(question, s)?))) {
            Some((scores, value)) => {
                sum += value;
                let logs: Vec<f64> = scores.iter().map(|s| s.logprob).collect();
                right += usize::from(likeliest(&logs) == question.answer);
            }
            None => missing += 1,
        }
    }
    let n = questions.len() as f64;
    let whole = missing == 0 && !questions.is_empty();
    let (loss, accuracy) = if whole { (sum / n, right as f64 / n) } else { (f64::NAN, f64::NAN) };
    Fitness { loss, accuracy, missing, usage: answers.usage }
}

/// The fitness of soft rows.
pub fn soft_fitness(
    oracle: &dyn EmbedOracle,
    soft: &Soft,
    questions: &[Question],
    loss: Loss,
) -> Result<Fitness, OracleError> {
    let batch: Vec<ScoreQuery> = questions.iter().map(|q| q.query(&[])).collect();
    Ok(judge(questions, &oracle.score_soft(soft, &batch)?, loss))
}

/// The fitness of tokens before every prompt.
pub fn token_fitness(
    oracle: &dyn LogprobOracle,
    prefix: &[u32],
    questions: &[Question],
    loss: Loss,
) -> Result<Fitness, OracleError> {
    let batch: Vec<ScoreQuery> = questions.iter().map(|q| q.query(prefix)).collect();
    Ok(judge(questions, &oracle.score(&batch)?, loss))
}

#[cfg(test)]
mod tests {
    use antiphon_core::Purpose;

    use super::*;
    use crate::answer::Missing;

    fn question(answer: usize) -> Question {
        let labels = [0, 1, 2].map(|i| Label::Tokens(vec![i])).into();
        Question { prompt: vec![5, 6, 7, 8], labels, answer }
    }

    fn scores(logs: [f64; 3]) -> Vec<LabelScore> {
        logs.map(|logprob| LabelScore { logprob, censored: false, tokens: 1 }).to_vec()
    }

    #[test]
    fn losses_are_those_of_hand() {
        let s = scores([-1.0, -2.0, -4.0]);
        let q = question(1);
        assert_eq!(Loss::Nll.of(&q, &s), Some(2.0));
        let ce = Loss::CrossEntropy.of(&q, &s).unwrap();
        assert!((ce - (1.0_f64.exp() + 1.0 + (-2.0_f64).exp()).ln()).abs() < 1e-12, "{ce}");
        // max(0, -1+2+2) + max(0, -4+2+2)
        assert_eq!(Loss::Hinge.of(&q, &s), Some(3.0));
        // unchanged by what all labels share, as logits may be
        let shifted = scores([4.0, 3.0, 1.0]);
        assert!((Loss::CrossEntropy.of(&q, &shifted).unwrap() - ce).abs() < 1e-12);
        assert_eq!(Loss::Hinge.of(&q, &shifted), Some(3.0));
        assert_eq!(Loss::ZeroOne.of(&q, &s), Some(1.0));
        assert_eq!(Loss::ZeroOne.of(&question(0), &s), Some(0.0));
        assert_eq!(Loss::ZeroOne.of_logs(&[-1.0], 0), None);
        assert_eq!(Loss::Nll.of(&q, &s[..2]), None);
        assert_eq!(Loss::Nll.of(&q, &scores([0.0, f64::NEG_INFINITY, 0.0])), None);
    }

    #[test]
    fn one_gap_leaves_no_fitness() {
        let questions = [question(0), question(1)];
        let usage = Usage { examples: 2, ..Usage::ZERO };
        let good =
            Answers { items: vec![Ok(scores([-1.0, -2.0, -3.0])), Ok(scores([-1.0, -1.0, -3.0]))], usage };
        let whole = judge(&questions, &good, Loss::Nll);
        // at a draw the first label is the choice
        assert_eq!((whole.loss, whole.accuracy, whole.missing), (1.0, 0.5, 0));
        let gap = Answers { items: vec![good.items[0].clone(), Err(Missing::NotAsked)], usage };
        let part = judge(&questions, &gap, Loss::Nll);
        assert!(part.loss.is_nan() && part.accuracy.is_nan() && part.missing == 1 && part.usage == usage);
        assert!(judge(&[], &Answers { items: vec![], usage: Usage::ZERO }, Loss::Nll).loss.is_nan());
    }

    #[test]
    fn perturbing_replaces_the_share_asked_for() {
        let q = Question { prompt: vec![9; 4000], ..question(0) };
        let mut s = Stream::new(1, Purpose::Test);
        let p = q.perturbed(0.5, 1000, &mut s);
        let changed = p.prompt.iter().filter(|id| **id != 9).count();
        assert!(changed.abs_diff(2000) < 150, "{changed}");
        assert!(p.prompt.iter().all(|id| *id < 1000));
        assert_eq!(q.perturbed(0.0, 1000, &mut s), q);
    }
}
