//! `metrics.jsonl`: one JSON record a line.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use antiphon_core::Round;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk::Disk;
use crate::error::StoreError;

/// The only field this crate knows of a record.
#[derive(serde::Deserialize)]
struct OfRound {
    round: Round,
}

/// Reads the records of `path`, one a line; none when there is no file. A last line without its line
/// break was cut by a kill and is left out; any other line that does not parse is an error that says where.
pub fn read_metrics<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StoreError> {
    whole_lines(&read(path)?)
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|source| StoreError::Json {
                path: path.to_owned(),
                line: i + 1,
                source,
            })
        })
        .collect()
}

/// Reads the records of rounds 0, 1, … from `path`: each once and in order, and of the first `closed` rounds all.
///
/// # Errors
/// As [`read_metrics`]; a line that is not the record of its round, or none where one must be, by its number.
pub fn read_rounds<T: DeserializeOwned>(path: &Path, closed: Round) -> Result<Vec<T>, StoreError> {
    let text = read(path)?;
    let lines = whole_lines(&text).count();
    verify(path, &text, u32::try_from(lines).unwrap_or(u32::MAX).max(closed.0))?;
    read_metrics(path)
}

/// Refuses a file in which the record of one of the rounds before `closed` is not in its line.
pub(crate) fn require(path: &Path, closed: Round) -> Result<(), StoreError> {
    verify(path, &read(path)?, closed.0)
}

/// Whether the first `rounds` lines of `text` are the records of as many rounds, in order.
fn verify(path: &Path, text: &str, rounds: u32) -> Result<(), StoreError> {
    let mut lines = whole_lines(text);
    for (line, expected) in (1..).zip((0..rounds).map(Round)) {
        let found = match lines.next().map(serde_json::from_str::<OfRound>) {
            Some(Ok(record)) if record.round == expected => continue,
            Some(Ok(record)) => format!("the record of {}", record.round),
            Some(Err(e)) => format!("no record ({e})"),
            None if text.is_empty() || text.ends_with('\n') => "nothing".to_owned(),
            None => "a line that was cut".to_owned(),
        };
        return Err(StoreError::Metrics { path: path.to_owned(), line, found, expected });
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, StoreError> {
    match std::fs::read(path) {
        // a cut in the middle of a character is a cut line like any other
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(StoreError::io("read", path, 0, e)),
    }
}

fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

/// Appends to `metrics.jsonl`.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl MetricsFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let io = |e| StoreError::io("open", &path, 0, e);
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        Ok(Self { path, file, length })
    }

    /// Leaves only whole lines of rounds before `next`, each once: what comes after was not closed.
    pub(crate) fn keep_before(&mut self, next: Round, disk: &Disk) -> Result<(), StoreError> {
        let text = read(&self.path)?;
        let mut kept = String::with_capacity(text.len());
        let mut seen = BTreeSet::new();
        for line in whole_lines(&text) {
            let new = |r: OfRound| r.round < next && seen.insert(r.round);
            if serde_json::from_str::<OfRound>(line).is_ok_and(new) {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        if kept != text {
            disk.replace(&self.path, kept.as_bytes())?;
            *self = Self::open(std::mem::take(&mut self.path))?;
        }
        Ok(())
    }

    /// Appends one line, whole or not at all.
    pub(crate) fn append<T: Serialize>(&mut self, record: &T, disk: &Disk) -> Result<(), StoreError> {
        let json = |source| StoreError::Json { path: self.path.clone(), line: 0, source };
        let mut line = serde_json::to_vec(record).map_err(json)?;
        line.push(b'\n');
        let needed = line.len() as u64;
        let (head, tail) = line.split_at(line.len() / 2);
        let written = disk
            .pass(&self.path, "append")
            .and_then(|()| self.file.write_all(head))
            .and_then(|()| disk.pass(&self.path, "append on"))
            .and_then(|()| self.file.write_all(tail));
        if let Err(e) = written {
            // back to whole lines; should that fail too, the reader drops the cut one
            let _ = self.file.set_len(self.length);
            return Err(StoreError::io("append to", &self.path, needed, e));
        }
        self.length += needed;
        if disk.durable {
            self.file.sync_data().map_err(|e| StoreError::io("sync", &self.path, needed, e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_closed_round_has_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let lines = ["{\"round\":0}\n", "{\"round\":1}\n", "{\"round\":2}\n"];
        let refused = |text: &str, closed: u32, line: usize, words: &str| {
            std::fs::write(&path, text).unwrap();
            let error = read_rounds::<serde_json::Value>(&path, Round(closed)).unwrap_err();
            let at = error.to_string();
            assert!(matches!(error, StoreError::Metrics { line: l, .. } if l == line), "{text:?}: {at}");
            assert!(at.contains(words), "{text:?}: {at}");
        };
        assert!(matches!(require(&path, Round(1)), Err(StoreError::Metrics { line: 1, .. })), "no file");
        assert!(require(&path, Round(0)).is_ok());
        refused("", 1, 1, "nothing where the record of round 0");
        refused(&lines[1..].concat(), 3, 1, "the record of round 1");
        refused(&["garbage\n", lines[1]].concat(), 2, 1, "no record");
        refused(&[lines[0], lines[1], lines[1]].concat(), 2, 3, "the record of round 1");
        refused(&lines[..2].concat(), 3, 3, "nothing");
        refused(&[lines[0], "{\"round\":1}"].concat(), 2, 2, "a line that was cut");
        // a kill leaves the record of a round that is not closed, whole or cut
        for after in ["", lines[2], "{\"rou"] {
            std::fs::write(&path, [lines[0], lines[1], after].concat()).unwrap();
            require(&path, Round(2)).unwrap();
            assert!(read_rounds::<serde_json::Value>(&path, Round(2)).unwrap().len() >= 2);
        }
    }

    #[test]
    fn a_cut_last_line_is_dropped_and_a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        assert_eq!(read_metrics::<u32>(&path).unwrap(), [0; 0]);
        std::fs::write(&path, "1\n2\n3").unwrap();
        assert_eq!(read_metrics::<u32>(&path).unwrap(), [1, 2]);
        std::fs::write(&path, "1\nx\n3\n").unwrap();
        let error = read_metrics::<u32>(&path).unwrap_err();
        assert!(matches!(error, StoreError::Json { line: 2, .. }), "{error}");
        std::fs::write(&path, b"1\n\"\xc3").unwrap();
        assert_eq!(read_metrics::<u32>(&path).unwrap(), [1]);
    }
}
