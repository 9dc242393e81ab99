//! What a text says: hard answers, for oracles that give nothing else.
//!
//! The oracle writes greedily behind a question, and what it writes is compared with the labels, without regard to case:
//!
//! ```text
//! several labels   the one that occurs first as whole words; of those that begin at one place the longest
//! one label        whether the text begins with it, space aside
//! ```
//!
//! A text without any label is a wrong answer, not a missing one: a prompt that makes a model ramble is a bad prompt. The loss is the
//! share of wrong answers, [`Loss::ZeroOne`](crate::task::Loss::ZeroOne).
//!
//! Deliberately missing: negations. "Not positive" says `positive`.

use crate::answer::{Answers, Usage};
use crate::error::OracleError;
use crate::oracle::TextOracle;
use crate::query::{Label, Prompt, TextQuery};
use crate::task::{Fitness, Question};

/// Tokens beyond the longest label, for a word or two before it.
const SLACK: u32 = 4;

impl Question {
    /// The query for a text, with `prefix` before the prompt: long enough for every label, of which a token has a byte at least.
    #[must_use]
    pub fn text_query(&self, prefix: &[u32]) -> TextQuery {
        let ids = prefix.iter().chain(&self.prompt).copied().collect();
        let length = |label: &Label| match label {
            Label::Text(text) => text.trim().len(),
            Label::Tokens(ids) => ids.len(),
        };
        let longest = self.labels.iter().map(length).max().unwrap_or(0);
        TextQuery {
            prompt: Prompt::Tokens(ids),
            max_tokens: u32::try_from(longest).unwrap_or(u32::MAX).saturating_add(SLACK),
            temperature: 0.0,
            seed: 0,
            stop: Vec::new(),
        }
    }

    /// The label that `text` says; `None` where it says none of them, or they are ids.
    #[must_use]
    pub fn label_in(&self, text: &str) -> Option<&Label> {
        let text = text.trim_start().to_lowercase();
        said(&text, &self.words()?).and_then(|i| self.labels.get(i))
    }

    /// Its labels in lower case; `None` where they are ids.
    fn words(&self) -> Option<Vec<String>> {
        let word = |label: &Label| match label {
            Label::Text(text) => Some(text.trim().to_lowercase()),
            Label::Tokens(_) => None,
        };
        self.labels.iter().map(word).collect()
    }

    /// Whether `text` gives its answer; `None` where its labels are ids, which no text can be compared with.
    #[must_use]
    pub fn is_answered_by(&self, text: &str) -> Option<bool> {
        let labels = self.words()?;
        let text = text.trim_start().to_lowercase();
        match &labels[..] {
            [only] => Some(place(&text, only) == Some(0)),
            _ => Some(said(&text, &labels) == Some(self.answer)),
        }
    }
}

/// The label that `text` says, both in lower case.
fn said(text: &str, labels: &[String]) -> Option<usize> {
    let found =
        labels.iter().enumerate().filter_map(|(i, label)| Some((place(text, label)?, label.len(), i)));
    found.min_by_key(|(at, length, _)| (*at, std::cmp::Reverse(*length))).map(|(.., i)| i)
}

/// Where `label` first occurs in `text` as whole words.
fn place(text: &str, label: &str) -> Option<usize> {
    let whole = |at: &usize| {
        let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !inside(text[..*at].chars().next_back()) && !inside(text[at + label.len()..].chars().next())
    };
    let mut places = text.match_indices(label).map(|(at, _)| at).filter(|_| !label.is_empty());
    places.find(whole)
}

/// The fitness of tokens before every prompt, by what is written behind it.
pub fn text_fitness(
    oracle: &dyn TextOracle,
    prefix: &[u32],
    questions: &[Question],
) -> Result<Fitness, OracleError> {
    let batch: Vec<TextQuery> = questions.iter().map(|q| q.text_query(prefix)).collect();
    judge(questions, &oracle.generate(&batch)?)
}

fn judge(questions: &[Question], answers: &Answers<String>) -> Result<Fitness, OracleError> {
    let (mut wrong, mut missing) = (0_usize, 0);
    for (index, question) in questions.iter().enumerate() {
        match answers.items.get(index) {
            Some(Ok(text)) => {
                let reason = "its labels are ids, and a text is compared with words";
                let right = question.is_answered_by(text).ok_or(OracleError::Question { index, reason })?;
                wrong += usize::from(!right);
            }
            _ => missing += 1,
        }
    }
    let usage: Usage = answers.usage;
    if missing > 0 || questions.is_empty() {
        return Ok(Fitness { loss: f64::NAN, accuracy: f64::NAN, missing, usage });
    }
    let loss = wrong as f64 / questions.len() as f64;
    Ok(Fitness { loss, accuracy: 1.0 - loss, missing, usage })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Missing;

    fn question(labels: &[&str], answer: usize) -> Question {
        let labels = labels.iter().map(|l| Label::Text((*l).to_owned())).collect();
        Question { prompt: vec![5, 6, 7], labels, answer }
    }

    #[test]
    fn the_first_whole_word_counts_and_the_longest_of_those_that_begin_together() {
        let labels = [" good", " bad", " not bad"];
        let says = |text: &str| {
            let right: Vec<usize> =
                (0..3).filter(|i| question(&labels, *i).is_answered_by(text) == Some(true)).collect();
            right.first().copied()
        };
        assert_eq!(says(" good"), Some(0));
        assert_eq!(says("\nBad."), Some(1));
        assert_eq!(says("It is not bad, good even"), Some(2));
        assert_eq!(says("goodness, that is bad"), Some(1));
        assert_eq!(says("I cannot say"), None);
        assert_eq!(says(""), None);
        // longer in lower case than as it was
        assert_eq!(says("İİİ bad"), Some(1));
    }

    #[test]
    fn a_single_label_has_to_come_first_and_ids_cannot_be_compared() {
        let q = question(&["Paris"], 0);
        for (text, right) in
            [(" Paris", true), ("paris, France", true), ("In Paris", false), ("Parisian", false)]
        {
            assert_eq!(q.is_answered_by(text), Some(right), "{text}");
        }
        assert_eq!(question(&[" "], 0).is_answered_by(" "), Some(false));
        let ids = Question { labels: [Label::Tokens(vec![1])].into(), ..q };
        assert_eq!(ids.is_answered_by("Paris"), None);
    }

    #[test]
    fn a_text_without_a_label_is_wrong_and_one_that_is_missing_is_no_number() {
        let questions = [question(&["yes", "no"], 0), question(&["yes", "no"], 1)];
        let texts = |items: Vec<Result<String, Missing>>| Answers { items, usage: Usage::ZERO };
        let f = judge(&questions, &texts(vec![Ok("Yes".into()), Ok("well".into())])).unwrap();
        assert_eq!((f.loss, f.accuracy, f.missing), (0.5, 0.5, 0));
        let f = judge(&questions, &texts(vec![Ok("Yes".into()), Err(Missing::NotAsked)])).unwrap();
        assert!(f.loss.is_nan() && f.accuracy.is_nan() && f.missing == 1);
        let query = questions[0].text_query(&[1, 2]);
        assert_eq!((query.prompt, query.max_tokens), (Prompt::Tokens(vec![1, 2, 5, 6, 7]), 3 + SLACK));
    }
}
