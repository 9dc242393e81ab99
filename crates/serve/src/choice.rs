//! One choice of an answer as it grows: tokens into text, stop texts, what is held back.

use antiphon_model::tokenizer::{TokenStream, TokenizerError};

use crate::model::Served;
use crate::scores::Scored;

/// Tokens of the prompt that decoding looks back on: enough for a character in parts and a leading space.
const CONTEXT: usize = 8;

/// A token in an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: u32,
    /// Characters of the choice's text before it.
    pub(crate) offset: usize,
    /// Nothing for the first token of a prompt.
    pub(crate) scored: Option<Scored>,
}

/// A part of a choice, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    /// Of the choice.
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) records: Vec<Record>,
    /// `stop` or `length`, in the last piece.
    pub(crate) finish: Option<&'static str>,
}

/// A choice under way.
pub(crate) struct Choice<'a> {
    index: usize,
    stream: TokenStream<'a>,
    stops: &'a [String],
    /// Text that may be the beginning of a stop text.
    held: String,
    /// Records that have not been sent.
    records: Vec<Record>,
    /// Characters of the text, held ones included.
    chars: usize,
    pub(crate) tokens: usize,
}

impl<'a> Choice<'a> {
    /// The choice after a prompt of `tokens`; with `echo` its text begins with theirs. `scores` are those of the second and
    /// later ones, if there are any.
    pub(crate) fn new(
        index: usize,
        served: &'a Served,
        stops: &'a [String],
        tokens: &[u32],
        echo: bool,
        scores: &[Scored],
    ) -> Result<Self, TokenizerError> {
        let stream = served.tokenizer.stream(true);
        let mut new =
            Self { index, stream, stops, held: String::new(), records: Vec::new(), chars: 0, tokens: 0 };
        let from = if echo { 0 } else { tokens.len().saturating_sub(CONTEXT) };
        for (at, &id) in tokens.iter().enumerate().skip(from) {
            let offset = new.chars;
            let text = new.stream.push(id)?;
            if echo {
                new.chars += text.chars().count();
                new.held.push_str(&text);
                let scored = at.checked_sub(1).and_then(|at| scores.get(at)).cloned();
                new.records.push(Record { id, offset, scored });
            }
        }
        Ok(new)
    }

    /// What the prompt gives: its text and records, if it is echoed. Stop texts do not apply to it.
    pub(crate) fn prompt(&mut self) -> Option<Piece> {
        (!self.records.is_empty()).then(|| self.piece(self.held.len(), None))
    }

    /// Takes a token; a piece whenever there is text to send. A piece with a `finish` is the last.
    pub(crate) fn token(&mut self, id: u32, scored: Option<Scored>) -> Result<Option<Piece>, TokenizerError> {
        let offset = self.chars;
        let text = self.stream.push(id)?;
        self.tokens += 1;
        self.chars += text.chars().count();
        self.held.push_str(&text);
        self.records.push(Record { id, offset, scored });
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            return Ok(Some(self.piece(at, Some("stop"))));
        }
        let free = self.held.len() - held_back(&self.held, self.stops);
        Ok((free > 0).then(|| self.piece(free, None)))
    }

    /// The rest, after the last token.
    pub(crate) fn end(mut self, stopped: bool) -> Result<Piece, TokenizerError> {
        let finish = if stopped { "stop" } else { "length" };
        let stream = std::mem::take(&mut self.held);
        let rest = self.stream.finish()?;
        let held = stream + &rest;
        // a broken character at the end may still complete a stop text
        let at = self.stops.iter().filter_map(|s| held.find(s.as_str())).min();
        let (text, finish) = at.map_or((held.as_str(), finish), |at| (&held[..at], "stop"));
        Ok(Piece { index: self.index, text: text.to_owned(), records: self.records, finish: Some(finish) })
    }

    fn piece(&mut self, bytes: usize, finish: Option<&'static str>) -> Piece {
        let rest = self.held.split_off(bytes);
        let text = std::mem::replace(&mut self.held, rest);
        Piece { index: self.index, text, records: std::mem::take(&mut self.records), finish }
    }
}

/// Bytes at the end of `text` that may begin one of `stops`.
fn held_back(text: &str, stops: &[String]) -> usize {
    let begins = |stop: &String| {
        (1..stop.len()).rev().find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n]))
    };
    stops.iter().filter_map(begins).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_may_become_a_stop_is_held() {
        let stops = ["\n\n".to_owned(), "END".to_owned(), "é!".to_owned()];
        for (text, held) in [("a", 0), ("a\n", 1), ("aE", 1), ("aEN", 2), ("ENa", 0), ("é", 2), ("", 0)] {
            assert_eq!(held_back(text, &stops), held, "{text:?}");
        }
    }
}
