//! What comes back: values, gaps with their reason, and what they cost.

use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Answers to a batch, in its order. A question without an answer is missing, never zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers<T> {
    /// One for each question.
    pub items: Vec<Result<T, Missing>>,
    /// What was spent, on the missing ones too.
    pub usage: Usage,
}

impl<T> Answers<T> {
    /// Every answer, or the first gap: a candidate that was evaluated on part of its examples is comparable with nothing.
    pub fn complete(self) -> Result<Vec<T>, Missing> {
        self.items.into_iter().collect()
    }
}

/// The log-probability of one label after one prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelScore {
    /// Sum over the label's tokens, nats, `<= 0`.
    pub logprob: f64,
    /// The endpoint named only its likeliest tokens and this was not among them: `logprob` is then the least that it named,
    /// an upper bound.
    pub censored: bool,
    /// Tokens of the label, `>= 1`.
    pub tokens: u32,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// No answer in time, or none at all.
    #[error("no answer: {reason}")]
    Unreachable {
        /// In the words of the transport, without addresses of keys or texts.
        reason: String,
    },
    /// Too many requests, or the server asks to come back.
    #[error("the endpoint asks to wait{}", after.map(|d| format!(" {:.1} s", d.as_secs_f64())).unwrap_or_default())]
    Busy {
        /// What it said, if it said.
        after: Option<Duration>,
    },
    /// The endpoint will not answer this question.
    #[error("the endpoint refused the request ({status}): {reason}")]
    Refused {
        /// HTTP status or its like.
        status: u16,
        /// What it said, shortened.
        reason: String,
    },
    /// An answer that cannot be true: a probability above 1, a missing label, half a message.
    #[error("the answer cannot be used: {reason}")]
    Malformed {
        /// What is wrong, expected and found.
        reason: String,
    },
    /// The prompt, its soft rows and its longest label do not fit the model.
    #[error("{found} tokens do not fit the context of {context}; a shorter prompt would")]
    Context {
        /// Tokens that the model can read.
        context: usize,
        /// Tokens of the question.
        found: usize,
    },
    /// Not asked, because something before it in the same batch ended the dispatch.
    #[error("not asked")]
    NotAsked,
}

impl Missing {
    /// Whether the same question may succeed later.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }
}

/// What asking cost. Kept apart because bills, papers and machines count different things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Requests sent, retries included.
    pub calls: u64,
    /// Examples evaluated under one candidate: the unit in which methods are compared ("queries").
    pub examples: u64,
    /// Tokens sent.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// Examples answered without asking.
    pub cache_hits: u64,
    /// Requests sent again.
    pub retries: u64,
    /// In millionths of the ledger's currency.
    pub micros: u64,
}

impl Usage {
    /// Nothing.
    pub const ZERO: Self = Self {
        calls: 0,
        examples: 0,
        prompt_tokens: 0,
        completion_tokens: 0,
        cache_hits: 0,
        retries: 0,
        micros: 0,
    };
}

impl Add for Usage {
    type Output = Self;
    /// Stops at the largest number instead of wrapping: a budget is never widened by an overflow.
    fn add(self, o: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(o.calls),
            examples: self.examples.saturating_add(o.examples),
            prompt_tokens: self.prompt_tokens.saturating_add(o.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(o.completion_tokens),
            cache_hits: self.cache_hits.saturating_add(o.cache_hits),
            retries: self.retries.saturating_add(o.retries),
            micros: self.micros.saturating_add(o.micros),
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_makes_the_batch_incomplete_and_is_no_number() {
        let whole = Answers { items: vec![Ok(1), Ok(2)], usage: Usage::ZERO };
        assert_eq!(whole.complete(), Ok(vec![1, 2]));
        let busy = Missing::Busy { after: Some(Duration::from_millis(1500)) };
        let gap = Answers { items: vec![Ok(1), Err(busy.clone())], usage: Usage::ZERO };
        assert_eq!(gap.complete(), Err(busy.clone()));
        assert_eq!(busy.to_string(), "the endpoint asks to wait 1.5 s");
        assert!(busy.may_retry() && !Missing::NotAsked.may_retry());
    }

    #[test]
    fn sums_stop_at_the_largest_number() {
        let much = Usage { examples: u64::MAX - 1, calls: 1, ..Usage::ZERO };
        let sum: Usage = [much, much].into_iter().sum();
        assert_eq!((sum.examples, sum.calls), (u64::MAX, 2));
    }
}
