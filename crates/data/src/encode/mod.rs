//! Examples to token sequences with targets, with everything that was cut counted.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

pub mod labels;
mod mark;
mod pieces;
pub mod truncate;

pub use labels::{LabelSet, LabelSetError, Verbalizer};
pub use mark::ChatError;
pub use truncate::Truncation;

use crate::example::{Example, Kind};
use crate::sequence::Sequence;
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
    /// Sequences made of them; more than `kept` where running text was cut into pieces.
    pub sequences: usize,
    /// Tokens kept that carry loss.
    pub label_tokens: usize,
    /// Bytes of text that those stand for, for bits per byte; zero for classification.
    pub label_bytes: usize,
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
        self.sequences += other.sequences;
        self.label_tokens += other.label_tokens;
        self.label_bytes += other.label_bytes;
        self.truncated += other.truncated;
        self.tokens_lost += other.tokens_lost;
        self.label_tokens_lost += other.label_tokens_lost;
        self.dropped_too_long += other.dropped_too_long;
        self.dropped_all_masked += other.dropped_all_masked;
        self.straddling += other.straddling;
    }
}

/// An encoded part of one client's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    sequences: Vec<Sequence>,
    label_bytes: Vec<u32>,
    /// What was cut and what was left out.
    pub report: EncodeReport,
}

impl Encoded {
    /// A part of which nothing was kept.
    pub(crate) fn nothing(report: EncodeReport) -> Self {
        Self { report, ..Self::default() }
    }

    /// The sequences, in the order of their examples.
    #[must_use]
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Bytes of text that the tokens with loss of each sequence stand for, one number a sequence, for bits per byte.
    #[must_use]
    pub fn label_bytes(&self) -> &[u32] {
        &self.label_bytes
    }

    fn push(&mut self, marked: Marked, class: Option<u32>) {
        let report = &mut self.report;
        report.sequences += 1;
        report.tokens += marked.ids.len();
        report.label_tokens += marked.targets();
        let bytes = marked.target_bytes();
        report.label_bytes += bytes;
        self.label_bytes.push(bytes as u32);
        self.sequences.push(Sequence { ids: marked.ids, target: marked.target, class });
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
    let limit = policy.sequence_len;
    for (i, example) in examples.iter().enumerate() {
        out.report.examples += 1;
        let (mut marked, class) = mark(example, policy, t, of, i)?;
        out.report.straddling += marked.straddling;
        let (tokens, targets) = (marked.ids.len(), marked.targets());
        let long = tokens > limit;
        let running = matches!(example.kind, Kind::Lm { .. });
        match policy.truncation {
            Truncation::Error if long => {
                return Err(EncodeError::TooLong { of: of.to_owned(), example: i, tokens, limit });
            }
            Truncation::Drop if long => {
                out.report.dropped_too_long += 1;
                out.report.tokens_lost += tokens;
                out.report.label_tokens_lost += targets;
                continue;
            }
            Truncation::Tail => truncate::tail(&mut marked, limit),
            Truncation::PromptLeft if !running => truncate::prompt_left(&mut marked, limit),
            _ => {}
        }
        out.report.truncated += usize::from(marked.ids.len() < tokens);
        out.report.tokens_lost += tokens - marked.ids.len();
        out.report.label_tokens_lost += targets - marked.targets();
        let nothing = if class.is_some() { marked.ids.is_empty() } else { marked.targets() == 0 };
        if nothing {
            out.report.dropped_all_masked += 1;
            continue;
        }
        out.report.kept += 1;
        if running {
            pieces::pieces(marked, limit).into_iter().for_each(|piece| out.push(piece, None));
        } else {
            out.push(marked, class);
        }
    }
    if out.sequences.is_empty() && !examples.is_empty() {
        return Err(EncodeError::AllMasked { of: of.to_owned(), report: Box::new(out.report), limit });
    }
    Ok(out)
}

/// The token that stands for each of `words` after `prompt`, in order: what a model that answers by one word chooses
/// among. Errors unless every word is one token there and no two share one.
pub fn label_words<'a>(
    prompt: &str,
    words: impl IntoIterator<Item = &'a str>,
    t: &dyn Tokenize,
) -> Result<Vec<u32>, LabelWordError> {
    let mut seen = BTreeMap::<u32, &str>::new();
    let mut ids = Vec::new();
    for word in words {
        let marked = mark::completion(t, prompt, word, None, None, false)?;
        let tokens = marked.answer.map_or(&[][..], |a| &marked.ids[a..]);
        let [id] = *tokens else {
            return Err(LabelWordError::NotOneToken { word: word.to_owned(), tokens: tokens.len() });
        };
        if let Some(other) = seen.insert(id, word) {
            return Err(LabelWordError::Shared { word: word.to_owned(), other: other.to_owned() });
        }
        ids.push(id);
    }
    Ok(ids)
}

/// Words that cannot be told apart by one token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelWordError {
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// No token of its own, or several.
    #[error(
        "label word {word:?} is {tokens} tokens after the prompt, and must be one; 0 means that it merges with the prompt"
    )]
    NotOneToken {
        /// The word.
        word: String,
        /// Tokens found.
        tokens: usize,
    },
    /// Two words with the same token.
    #[error("label words {word:?} and {other:?} are the same token")]
    Shared {
        /// The word.
        word: String,
        /// The one before it.
        other: String,
    },
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
