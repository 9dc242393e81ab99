//! Text of tokens that arrive one by one.

use super::{Tokenizer, TokenizerError};

/// Decodes a growing list of ids. A token may be part of a character or change how its neighbour is written (a leading
/// space), so each step decodes a short window twice, with and without the new tokens, and gives the difference; text
/// that ends in a broken character waits.
#[derive(Debug)]
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    /// First id of the window.
    from: usize,
    /// First id whose text was not given out.
    read: usize,
}

impl<'a> TokenStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: Vec::new(), from: 0, read: 0 }
    }

    /// Takes the next id and gives the text that it completes, possibly none.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let (known, all) = self.windows()?;
        if all.len() <= known.len() || all.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.from = self.read;
        self.read = self.ids.len();
        Ok(rest(&known, &all))
    }

    /// What is left, with a replacement character for a character that never ended.
    pub fn finish(self) -> Result<String, TokenizerError> {
        let (known, all) = self.windows()?;
        Ok(rest(&known, &all))
    }

    fn windows(&self) -> Result<(String, String), TokenizerError> {
        let known = self.tokenizer.decode(&self.ids[self.from..self.read], self.skip_special)?;
        let all = self.tokenizer.decode(&self.ids[self.from..], self.skip_special)?;
        Ok((known, all))
    }
}

/// `all` without the beginning that it shares with `known`.
fn rest(known: &str, all: &str) -> String {
    let shared: usize =
        known.chars().zip(all.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    all[shared..].to_owned()
}
