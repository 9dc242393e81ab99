//! Examples to token sequences with targets, with everything that was cut counted.

use std::ops::{AddAssign, Range};

use serde::{Deserialize, Serialize};

pub mod labels;
mod mark;
mod pack;
pub mod truncate;

pub use labels::{LabelSet, LabelSetError, Verbalizer};
pub use mark::ChatError;
pub use truncate::Truncation;

use crate::example::{Example, Kind};
use crate::sequence::{Batch, Sequence};
use crate::tokenize::{Tokenize, TokenizeError};
use mark::Marked;

/// What the model is to learn from an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// The next token. Labelled rows become prompts completed by the word for their label.
    Tokens {
        /// The words for labels; needed for labelled rows.
        verbalizer: Option<Verbalizer>,
    },
    /// The class of a text.
    Classes(LabelSet),
}

/// How examples become sequences. Every choice is made here; nothing depends on the tokenizer's moods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What is learnt.
    pub task: Task,
    /// Most tokens of a sequence, at least 2.
    pub sequence_len: usize,
    /// What happens to longer ones.
    pub truncation: Truncation,
    /// Whether the prompt is learnt too.
    pub train_on_prompt: bool,
    /// Put before running text and before prompts. Conversations have what their template writes.
    pub bos: Option<u32>,
    /// Put after running text and after completions, and learnt.
    pub eos: Option<u32>,
    /// Whether running text is packed into full rows.
    pub packing: bool,
}

/// What encoding did, in numbers that add up over clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeReport {
    /// Examples given.
    pub examples: usize,
    /// Examples kept.
    pub kept: usize,
    /// Tokens kept.
    pub tokens: usize,
    /// Tokens kept that carry loss.
    pub label_tokens: usize,
    /// Examples that lost tokens to the limit.
    pub truncated: usize,
    /// Tokens lost, those of dropped examples included.
    pub tokens_lost: usize,
    /// Tokens lost that would have carried loss.
    pub label_tokens_lost: usize,
    /// Examples left out because they are too long (`truncation = "drop"`).
    pub dropped_too_long: usize,
    /// Examples left out because no token carries loss, before or after truncation.
    pub dropped_all_masked: usize,
    /// Tokens that reach over the seam between prompt and completion and so carry no loss.
    pub straddling: usize,
}

impl AddAssign for EncodeReport {
    fn add_assign(&mut self, other: Self) {
        self.examples += other.examples;
        self.kept += other.kept;
        self.tokens += other.tokens;
        self.label_tokens += other.label_tokens;
        self.truncated += other.truncated;
        self.tokens_lost += other.tokens_lost;
        self.label_tokens_lost += other.label_tokens_lost;
        self.dropped_too_long += other.dropped_too_long;
        self.dropped_all_masked += other.dropped_all_masked;
        self.straddling += other.straddling;
    }
}

/// An encoded part of one client's data. A *row* is what a micro-batch counts: one example, or, when packing, one full
/// row of several documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    sequences: Vec<Sequence>,
    rows: Vec<Range<usize>>,
    /// What was cut and what was left out.
    pub report: EncodeReport,
}

impl Encoded {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The sequences of row `i`; empty for a row that does not exist.
    #[must_use]
    pub fn row(&self, i: usize) -> &[Sequence] {
        self.rows.get(i).and_then(|r| self.sequences.get(r.clone())).unwrap_or_default()
    }

    /// All sequences, in row order.
    #[must_use]
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Refills `batch` with the sequences of `rows`.
    pub fn fill(&self, rows: &[usize], batch: &mut Batch) {
        batch.fill(rows.iter().flat_map(|&i| self.row(i)));
    }

    /// Tokens of the longest row, for planning activations.
    #[must_use]
    pub fn longest_row(&self) -> usize {
        (0..self.len()).map(|i| self.row(i).iter().map(Sequence::len).sum()).max().unwrap_or(0)
    }

    fn push(&mut self, sequences: impl IntoIterator<Item = Sequence>) {
        let from = self.sequences.len();
        for s in sequences {
            self.report.tokens += s.len();
            self.report.label_tokens += s.label_tokens();
            self.sequences.push(s);
        }
        self.rows.push(from..self.sequences.len());
    }
}

/// An example that cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The tokenizer failed.
    #[error("{of}: {source}")]
    Tokenize {
        /// Whose data.
        of: String,
        /// What it said.
        source: TokenizeError,
    },
    /// The chat template failed.
    #[error("{of}: example {example}: {source}")]
    Chat {
        /// Whose data.
        of: String,
        /// Index in that data.
        example: usize,
        /// What is wrong.
        source: ChatError,
    },
    /// A label outside the label set.
    #[error(
        "{of}: label `{label}` does not occur in training data; labels: {}{}. List all of them in `labels` if it is \
         meant to exist",
        known.join(", "), near.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
    )]
    UnseenLabel {
        /// Whose data.
        of: String,
        /// The label.
        label: String,
        /// The label set.
        known: Vec<String>,
        /// The closest of it.
        near: Option<String>,
    },
    /// A label without a word.
    #[error("{of}: `verbalizer` has no word for label `{label}`; it has words for {}", known.join(", "))]
    NoWord {
        /// Whose data.
        of: String,
        /// The label.
        label: String,
        /// Labels with words.
        known: Vec<String>,
    },
    /// Labelled rows and an objective of next tokens, without a verbaliser.
    #[error(
        "{of}: labelled rows cannot be learnt as text without words for their labels; give `verbalizer = {{ {label} = \
         \" …\" }}`, or use the objective `classification`"
    )]
    NoVerbalizer {
        /// Whose data.
        of: String,
        /// The first label met.
        label: String,
    },
    /// A classification objective and rows without labels.
    #[error(
        "{of}: example {example} has no label, which the objective `classification` needs; use `sft`, or name a label column"
    )]
    NoLabel {
        /// Whose data.
        of: String,
        /// Index in that data.
        example: usize,
    },
    /// An example over the limit under `truncation = "error"`.
    #[error(
        "{of}: example {example} has {tokens} tokens, more than sequence_len = {limit}; raise it, or set `truncation` to \
         \"prompt_left\", \"tail\" or \"drop\""
    )]
    TooLong {
        /// Whose data.
        of: String,
        /// Index in that data.
        example: usize,
        /// Its tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing left to learn from.
    #[error(
        "{of}: none of {} examples has a token to learn from ({} had them cut off at sequence_len = {limit}, {} were \
         left out as too long); {}", report.examples, report.truncated, report.dropped_too_long,
        if report.truncated + report.dropped_too_long > 0 {
            "raise `sequence_len`, or set `truncation = \"prompt_left\"`, which keeps the completion"
        } else {
            "completions are empty, or merge with the end of the prompt into one token: see `template`"
        }
    )]
    AllMasked {
        /// Whose data.
        of: String,
        /// What encoding did.
        report: Box<EncodeReport>,
        /// The limit.
        limit: usize,
    },
}

/// Encodes `examples`, which are `of` somebody ("client 3 (banking), train"). Errors if there are examples and none can
/// be learnt from.
pub fn encode(
    examples: &[Example],
    policy: &Policy,
    t: &dyn Tokenize,
    of: &str,
) -> Result<Encoded, EncodeError> {
    let mut out = Encoded::default();
    let mut documents = Vec::new();
    for (i, example) in examples.iter().enumerate() {
        out.report.examples += 1;
        let (mut marked, class) = mark(example, policy, t, of, i)?;
        out.report.straddling += marked.straddling;
        if policy.packing && matches!(example.kind, Kind::Lm { .. }) {
            documents.push(Sequence { ids: marked.ids, target: marked.target, class: None });
            continue;
        }
        let before = (marked.ids.len(), targets(&marked));
        if before.0 > policy.sequence_len {
            match policy.truncation {
                Truncation::PromptLeft => truncate::prompt_left(&mut marked, policy.sequence_len),
                Truncation::Tail => truncate::tail(&mut marked, policy.sequence_len),
                Truncation::Drop => {
                    out.report.dropped_too_long += 1;
                    out.report.tokens_lost += before.0;
                    out.report.label_tokens_lost += before.1;
                    continue;
                }
                Truncation::Error => {
                    let (tokens, limit) = (before.0, policy.sequence_len);
                    return Err(EncodeError::TooLong { of: of.to_owned(), example: i, tokens, limit });
                }
            }
            out.report.truncated += 1;
            out.report.tokens_lost += before.0 - marked.ids.len();
            out.report.label_tokens_lost += before.1 - targets(&marked);
        }
        let nothing = match class {
            Some(_) => marked.ids.is_empty(),
            None => targets(&marked) == 0,
        };
        if nothing {
            out.report.dropped_all_masked += 1;
            continue;
        }
        out.report.kept += 1;
        out.push([Sequence { ids: marked.ids, target: marked.target, class }]);
    }
    out.report.kept += documents.iter().filter(|d| d.len() > 1).count();
    out.report.dropped_all_masked += documents.iter().filter(|d| d.len() < 2).count();
    for row in pack::pack(documents, policy.sequence_len) {
        out.push(row);
    }
    if out.is_empty() && !examples.is_empty() {
        let (report, limit) = (Box::new(out.report), policy.sequence_len);
        return Err(EncodeError::AllMasked { of: of.to_owned(), report, limit });
    }
    Ok(out)
}

/// The sequences of a text under each word of `verbalizer`, in the order of its labels: whoever compares their losses
/// classifies by words. Cut as the policy says, whatever [`Truncation`] it names, to the same context for every word.
pub fn choices(
    text: &str,
    verbalizer: &Verbalizer,
    policy: &Policy,
    t: &dyn Tokenize,
) -> Result<Vec<Sequence>, TokenizeError> {
    let marked: Vec<Marked> = verbalizer
        .0
        .values()
        .map(|word| mark::completion(t, text, word, policy.bos, None, false))
        .collect::<Result<_, _>>()?;
    let longest = marked.iter().map(|m| m.ids.len()).max().unwrap_or(0);
    let surplus = longest.saturating_sub(policy.sequence_len);
    Ok(marked
        .into_iter()
        .map(|mut m| {
            let limit = m.ids.len().saturating_sub(surplus);
            truncate::prompt_left(&mut m, limit);
            Sequence { ids: m.ids, target: m.target, class: None }
        })
        .collect())
}

fn targets(marked: &Marked) -> usize {
    marked.target.iter().filter(|t| **t).count()
}

fn mark(
    example: &Example,
    policy: &Policy,
    t: &dyn Tokenize,
    of: &str,
    index: usize,
) -> Result<(Marked, Option<u32>), EncodeError> {
    let failed = |source| EncodeError::Tokenize { of: of.to_owned(), source };
    let Policy { bos, eos, train_on_prompt, .. } = *policy;
    let marked = match (&example.kind, &policy.task) {
        (Kind::Labelled { text, label }, Task::Classes(set)) => {
            let class = set.class(label).ok_or_else(|| EncodeError::UnseenLabel {
                of: of.to_owned(),
                label: label.clone(),
                known: set.names().to_vec(),
                near: antiphon_core::nearest(label, set.names().iter().map(String::as_str))
                    .map(str::to_owned),
            })?;
            return Ok((mark::classified(t, text).map_err(failed)?, Some(class)));
        }
        (_, Task::Classes(_)) => return Err(EncodeError::NoLabel { of: of.to_owned(), example: index }),
        (Kind::Labelled { text, label }, Task::Tokens { verbalizer }) => {
            let Some(Verbalizer(words)) = verbalizer else {
                return Err(EncodeError::NoVerbalizer { of: of.to_owned(), label: label.clone() });
            };
            let word = words.get(label).ok_or_else(|| EncodeError::NoWord {
                of: of.to_owned(),
                label: label.clone(),
                known: words.keys().cloned().collect(),
            })?;
            mark::completion(t, text, word, bos, eos, train_on_prompt).map_err(failed)?
        }
        (Kind::Lm { text }, _) => mark::text(t, text, bos, eos).map_err(failed)?,
        (Kind::Completion { prompt, completion }, _) => {
            mark::completion(t, prompt, completion, bos, eos, train_on_prompt).map_err(failed)?
        }
        (Kind::Chat { messages }, _) => mark::chat(t, messages, train_on_prompt)
            .map_err(|source| EncodeError::Chat { of: of.to_owned(), example: index, source })?,
    };
    Ok((marked, None))
}

#[cfg(test)]
mod tests;
