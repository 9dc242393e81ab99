//! Where the real data are, when they are, and a tokenizer of bytes.

#![allow(dead_code, reason = "not every test binary uses all of it")]

use std::path::{Path, PathBuf};

use antiphon_data::{Encoding, Message, Tokenize, TokenizeError};

/// A folder of `../shared`, or `None` with a printed reason.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ANTIPHON_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let dir = root.join(path);
    if dir.is_dir() {
        return Some(dir);
    }
    #[allow(clippy::print_stdout, reason = "a skipped test says why")]
    {
        println!("skipped: no folder {} (set ANTIPHON_SHARED)", dir.display());
    }
    None
}

/// A data set of `../shared/data`.
pub(crate) fn dataset(name: &str) -> Option<PathBuf> {
    shared(&format!("data/datasets/{name}"))
}

/// One token a byte, `^` first when special tokens are asked for; no chat template.
pub(crate) struct Bytes;

impl Tokenize for Bytes {
    fn encode(&self, text: &str, special: bool) -> Result<Encoding, TokenizeError> {
        let mut e = Encoding { ids: text.bytes().map(u32::from).collect(), offsets: Vec::new() };
        e.offsets =
            text.char_indices().flat_map(|(i, c)| vec![(i, i + c.len_utf8()); c.len_utf8()]).collect();
        if special {
            e.ids.insert(0, 256);
            e.offsets.insert(0, (0, 0));
        }
        Ok(e)
    }

    fn bos(&self) -> Option<u32> {
        Some(256)
    }

    fn eos(&self) -> Option<u32> {
        Some(257)
    }

    fn render_chat(&self, _: &[Message], _: bool) -> Result<String, TokenizeError> {
        Err(TokenizeError::NoChatTemplate)
    }
}
