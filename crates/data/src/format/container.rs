//! The outer form of a file: how bytes become rows. Told by the ending, checked against the content; can be forced
//! by `container`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{FormatError, Problem};

/// How a file stores its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// One JSON value: a list of rows, or an object that holds lists (`rows` names one).
    Json,
    /// One JSON value a line.
    Jsonl,
    /// Comma-separated values with double quotes.
    Csv,
    /// Tab-separated values. Quotes are ordinary characters, as in GLUE.
    Tsv,
    /// Apache Parquet.
    Parquet,
    /// Lines `LABEL text` or `COARSE:fine text`, as the TREC question files.
    Trec,
    /// Plain text, cut by a splitter.
    Text,
}

impl Container {
    /// Every container.
    pub const ALL: [Self; 7] =
        [Self::Json, Self::Jsonl, Self::Csv, Self::Tsv, Self::Parquet, Self::Trec, Self::Text];

    /// As the run file spells it.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
            Self::Trec => "trec",
            Self::Text => "text",
        }
    }

    /// Endings that are read when `path` is a folder.
    pub const ENDINGS: [&'static str; 9] =
        ["json", "jsonl", "ndjson", "csv", "tsv", "parquet", "txt", "all", "label"];
}

/// The container of `bytes`, which were read from `file`.
pub fn detect(file: &Path, bytes: &[u8]) -> Result<Container, FormatError> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Err(FormatError::new(file, Problem::Compressed));
    }
    if bytes.starts_with(b"PAR1") {
        return Ok(Container::Parquet);
    }
    let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let head = head(bytes);
    Ok(match ending.as_str() {
        "json" => json_or_lines(&head, false),
        "jsonl" | "ndjson" => json_or_lines(&head, true),
        "csv" => Container::Csv,
        "tsv" => Container::Tsv,
        "all" | "label" if lines(&head).all(is_trec) => Container::Trec,
        "txt" | "text" if is_tabular(&head) => Container::Tsv,
        "txt" | "text" | "md" => Container::Text,
        _ if head.trim_start().starts_with(['[', '{']) => json_or_lines(&head, false),
        _ => {
            let known = Container::ALL.map(Container::id).to_vec();
            return Err(FormatError::new(file, Problem::UnknownContainer { ending, known }));
        }
    })
}

/// The first whole lines, up to 64 KiB; what is not UTF-8 does not matter here.
fn head(bytes: &[u8]) -> String {
    const HEAD: usize = 64 << 10;
    let Some(head) = bytes.get(..HEAD) else { return String::from_utf8_lossy(bytes).into_owned() };
    let whole = head.iter().rposition(|&b| b == b'\n').map_or(head, |end| &head[..end]);
    String::from_utf8_lossy(whole).into_owned()
}

fn lines(head: &str) -> impl Iterator<Item = &str> {
    head.lines().filter(|l| !l.trim().is_empty())
}

/// JSON lines: the first line is a whole value and another begins after it. An ending that says so is believed even
/// of a file with one line, unless that line is a list.
fn json_or_lines(head: &str, says_lines: bool) -> Container {
    let mut lines = lines(head);
    let first = lines.next().unwrap_or_default().trim_start();
    let whole = || serde_json::from_str::<serde::de::IgnoredAny>(first).is_ok();
    let another = lines.next().is_some_and(|l| l.trim_start().starts_with(['{', '[']));
    let is_lines = if says_lines { another || !first.starts_with('[') } else { another && whole() };
    if is_lines { Container::Jsonl } else { Container::Json }
}

/// `LABEL text` where the label is a number or upper case with an optional `:fine`.
fn is_trec(line: &str) -> bool {
    let Some((label, text)) = line.split_once(' ') else { return false };
    let coarse = label.split_once(':').map_or(label, |(coarse, _)| coarse);
    let number = label.bytes().all(|b| b.is_ascii_digit());
    !text.trim().is_empty()
        && !coarse.is_empty()
        && (number || coarse.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
}

/// Every line has the same number of tabs, and at least one.
fn is_tabular(head: &str) -> bool {
    let mut tabs = lines(head).map(|l| l.matches('\t').count());
    let first = tabs.next().unwrap_or(0);
    first > 0 && tabs.all(|n| n == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, content: &str) -> Option<Container> {
        detect(Path::new(name), content.as_bytes()).ok()
    }

    #[test]
    fn the_content_corrects_the_ending() {
        assert_eq!(of("a.json", "[{\"a\": 1},\n {\"a\": 2}]"), Some(Container::Json));
        assert_eq!(of("a.json", "[{\"a\": 1}]"), Some(Container::Json));
        assert_eq!(of("a.json", "[\n{\"a\": 1}\n]"), Some(Container::Json));
        assert_eq!(of("a.json", "{\"a\": 1}\n{\"a\": 2}\n"), Some(Container::Jsonl));
        assert_eq!(of("a.jsonl", "{\"a\": 1}\n"), Some(Container::Jsonl));
        assert_eq!(of("a.jsonl", "[\"x\", 1]\n[\"y\", 2]\n"), Some(Container::Jsonl));
        assert_eq!(of("a.json", "{\"train\": []}"), Some(Container::Json));
        assert_eq!(of("a.json", "{\n \"train\": []\n}"), Some(Container::Json));
        assert_eq!(of("a.txt", "good\t1\nbad\t0\n"), Some(Container::Tsv));
        assert_eq!(of("a.txt", "one tab\there\nnone here\n"), Some(Container::Text));
        assert_eq!(of("a.all", "DESC:def What is an atom ?\nHUM:ind Who ?\n"), Some(Container::Trec));
        assert_eq!(of("a.all", "0 What is an atom ?\n"), Some(Container::Trec));
        assert_eq!(of("a.data", "PAR1…"), Some(Container::Parquet));
    }

    #[test]
    fn what_cannot_be_told_is_an_error_that_lists_the_choices() {
        let e = detect(Path::new("a.bin"), b"hello").unwrap_err().to_string();
        assert!(e.contains("a.bin") && e.contains("`bin`") && e.contains("json, jsonl, csv"), "{e}");
        let e = detect(Path::new("a.jsonl.gz"), &[0x1f, 0x8b, 8]).unwrap_err().to_string();
        assert!(e.contains("gzip"), "{e}");
    }
}
