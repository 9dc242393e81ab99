//! An example as token ids, each marked as a target or not, before any truncation.
//!
//! The text is tokenised once, as a whole, and targets are found by byte offsets: tokenising prompt and completion apart
//! can give other ids at the seam than the model will see. A token that reaches over the seam belongs to the prompt, so
//! that nothing of the prompt is ever a target.

use crate::example::{Message, Role};
use crate::tokenize::{Tokenize, TokenizeError};

/// Token ids with targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) ids: Vec<u32>,
    /// As long as `ids`.
    pub(super) target: Vec<bool>,
    /// Bytes of text that each token adds to those of the tokens before it; as long as `ids`.
    pub(super) bytes: Vec<u32>,
    /// Tokens at the beginning that truncation keeps: `<s>`, `[CLS]`.
    pub(super) prefix: usize,
    /// Tokens at the end that truncation keeps: `[SEP]`.
    pub(super) suffix: usize,
    /// Where the last answer begins, if there is one; truncation keeps it longest.
    pub(super) answer: Option<usize>,
    /// Tokens that reach over the seam between prompt and completion.
    pub(super) straddling: usize,
}

impl Marked {
    /// Tokens that carry loss.
    pub(super) fn targets(&self) -> usize {
        self.target.iter().filter(|t| **t).count()
    }

    /// Bytes of text that the tokens with loss stand for.
    pub(super) fn target_bytes(&self) -> usize {
        self.target.iter().zip(&self.bytes).filter(|(t, _)| **t).map(|(_, b)| *b as usize).sum()
    }

    /// Cuts tokens out.
    pub(super) fn cut(&mut self, tokens: std::ops::Range<usize>) {
        self.ids.drain(tokens.clone());
        self.target.drain(tokens.clone());
        self.bytes.drain(tokens);
    }

    /// Begins with the beginning-of-sequence token, if given.
    fn begin(bos: Option<u32>) -> Self {
        let prefix = usize::from(bos.is_some());
        let bytes = vec![0; prefix];
        Self { ids: bos.into_iter().collect(), target: vec![false; prefix], bytes, prefix, ..Self::default() }
    }

    fn push(&mut self, id: u32, target: bool, bytes: usize) {
        // Nothing comes before the first token, so nothing predicts it.
        self.target.push(target && !self.ids.is_empty());
        self.ids.push(id);
        self.bytes.push(bytes as u32);
    }
}

/// Bytes that a span adds to those before it: the tokens of one character of several bytes share its span.
fn new_bytes(covered: &mut usize, (start, end): (usize, usize)) -> usize {
    let from = start.max(*covered);
    *covered = end.max(*covered);
    end.saturating_sub(from)
}

/// Running text: every token is a target.
pub(super) fn text(
    t: &dyn Tokenize,
    text: &str,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<Marked, TokenizeError> {
    let mut marked = Marked::begin(bos);
    let (encoding, mut covered) = (t.encode(text, false)?, 0);
    for (id, span) in encoding.ids.into_iter().zip(encoding.offsets) {
        marked.push(id, true, new_bytes(&mut covered, span));
    }
    if let Some(eos) = eos {
        marked.push(eos, true, 0);
    }
    Ok(marked)
}

/// A prompt and its completion; `eos` ends the completion and is learnt with it.
pub(super) fn completion(
    t: &dyn Tokenize,
    prompt: &str,
    completion: &str,
    bos: Option<u32>,
    eos: Option<u32>,
    train_on_prompt: bool,
) -> Result<Marked, TokenizeError> {
    let mut marked = Marked::begin(bos);
    let (seam, mut covered) = (prompt.len(), 0);
    let encoding = t.encode(&format!("{prompt}{completion}"), false)?;
    for (id, (start, end)) in encoding.ids.into_iter().zip(encoding.offsets) {
        let learnt = start >= seam && end > start;
        if learnt && marked.answer.is_none() {
            marked.answer = Some(marked.ids.len());
        }
        marked.push(id, train_on_prompt || learnt, new_bytes(&mut covered, (start, end)));
        marked.straddling += usize::from(start < seam && seam < end);
    }
    if let Some(eos) = eos {
        marked.push(eos, true, 0);
    }
    Ok(marked)
}

/// A text to classify, between the tokens that the checkpoint puts around every text; no targets.
pub(super) fn classified(t: &dyn Tokenize, text: &str) -> Result<Marked, TokenizeError> {
    let encoding = t.encode(text, true)?;
    let inserted = |span: &&(usize, usize)| span.0 == span.1;
    let n = encoding.ids.len();
    let prefix = encoding.offsets.iter().take_while(inserted).count();
    let suffix = encoding.offsets.iter().rev().take_while(inserted).count().min(n - prefix);
    Ok(Marked {
        ids: encoding.ids,
        target: vec![false; n],
        bytes: vec![0; n],
        prefix,
        suffix,
        ..Marked::default()
    })
}

/// Why a conversation has no targets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The tokenizer or the template failed.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The template renders a turn differently once more turns follow, so its text cannot be found.
    #[error(
        "the chat template does not render turn {turn} as a continuation of the turns before it, so the assistant's \
         words cannot be told from the rest; rendered so far {so_far:?}, whole {whole:?}"
    )]
    NotAContinuation {
        /// The turn, from zero.
        turn: usize,
        /// End of the rendering up to the turn.
        so_far: String,
        /// The same place in the whole rendering.
        whole: String,
    },
}

/// A conversation through the chat template; targets are the assistant's turns with the marker that ends them, without
/// the white space after it. A turn of the assistant before anyone else spoke is context only.
///
/// Turn `i` begins where the rendering of the turns before it with the generation prompt ends, and ends where the
/// rendering up to it ends; both must begin the rendering of the whole conversation.
pub(super) fn chat(
    t: &dyn Tokenize,
    messages: &[Message],
    train_on_prompt: bool,
) -> Result<Marked, ChatError> {
    let whole = t.render_chat(messages, false)?;
    let mut spans = Vec::new();
    for (turn, _) in messages.iter().enumerate().filter(|(i, m)| *i > 0 && m.role == Role::Assistant) {
        let before = t.render_chat(&messages[..turn], true)?;
        let upto = t.render_chat(&messages[..=turn], false)?;
        // Templates differ in the white space after the last turn; the end marker comes before it.
        let end = upto.trim_end().len();
        for (prefix, at) in [(before.as_str(), before.len()), (&upto[..end], end)] {
            if !whole.starts_with(prefix) {
                return Err(ChatError::NotAContinuation {
                    turn,
                    so_far: tail(prefix, at),
                    whole: tail(&whole, at.min(whole.len())),
                });
            }
        }
        spans.push(before.len()..end);
    }
    let encoding = t.encode(&whole, false)?;
    let (mut marked, mut covered) = (Marked::default(), 0);
    for (id, (start, end)) in encoding.ids.into_iter().zip(encoding.offsets) {
        let learnt = spans.iter().any(|s| start >= s.start && start < s.end && end > start);
        if marked.answer.is_none() && spans.last().is_some_and(|s| start >= s.start && end > start) {
            marked.answer = Some(marked.ids.len());
        }
        marked.push(id, train_on_prompt || learnt, new_bytes(&mut covered, (start, end)));
        marked.straddling += usize::from(spans.iter().any(|s| start < s.start && s.start < end));
    }
    // A template that writes the beginning-of-sequence token itself: keep it when cutting from the left.
    marked.prefix = usize::from(t.bos().is_some() && marked.ids.first().copied() == t.bos());
    Ok(marked)
}

/// The last few characters of `text` up to byte `at`.
fn tail(text: &str, at: usize) -> String {
    let from = text.char_indices().map(|(i, _)| i).filter(|&i| i < at).rev().nth(29).unwrap_or(0);
    let to = text.char_indices().map(|(i, _)| i).find(|&i| i >= at).unwrap_or(text.len());
    text[from..to].to_owned()
}
