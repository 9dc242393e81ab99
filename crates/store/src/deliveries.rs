//! `deliveries.bin`: what clients delivered, round by round, for runs that can be audited.
//!
//! ```text
//! for each closed round    round, 4 bytes    length, 8 bytes    that many bytes, whose meaning is the caller's
//! ```
//!
//! Little-endian, append-only. What it holds is judged by the digests in the event log, so it has none of its own. A round that
//! a kill cut short was not closed, and is left out and done again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use antiphon_core::Round;

use crate::disk::Disk;
use crate::error::StoreError;

/// Bytes before a round's own.
const HEAD: usize = 12;

/// The whole rounds in `path`, in order; none when there is no file.
pub fn read_deliveries(path: &Path) -> Result<Vec<(Round, Vec<u8>)>, StoreError> {
    let bytes = read(path)?;
    Ok(whole(&bytes).map(|(round, body)| (round, body.to_vec())).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|e| StoreError::io("read", path, 0, e)),
    }
}

/// Round and body of each block up to the first that is cut short.
fn whole(mut rest: &[u8]) -> impl Iterator<Item = (Round, &[u8])> {
    std::iter::from_fn(move || {
        let (round, tail) = rest.split_first_chunk::<4>()?;
        let (length, tail) = tail.split_first_chunk::<8>()?;
        let (body, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        rest = tail;
        Some((Round(u32::from_le_bytes(*round)), body))
    })
}

/// Appends to `deliveries.bin`, which is made with its first round.
#[derive(Debug)]
pub(crate) struct Deliveries {
    path: PathBuf,
    file: Option<File>,
}

impl Deliveries {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Leaves only whole rounds before `next`: what comes after was not closed.
    pub(crate) fn keep_before(&mut self, next: Round, disk: &Disk) -> Result<(), StoreError> {
        let bytes = read(&self.path)?;
        let kept = whole(&bytes).take_while(|(round, _)| *round < next);
        let length: usize = kept.map(|(_, body)| HEAD + body.len()).sum();
        if length < bytes.len() {
            self.file = None;
            disk.replace(&self.path, &bytes[..length])?;
        }
        Ok(())
    }

    pub(crate) fn append(&mut self, round: Round, body: &[u8], disk: &Disk) -> Result<(), StoreError> {
        let needed = (HEAD + body.len()) as u64;
        let io = |action, e| StoreError::io(action, &self.path, needed, e);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path);
                none.insert(file.map_err(|e| io("open", e))?)
            }
        };
        let mut block = Vec::with_capacity(HEAD + body.len());
        block.extend(round.0.to_le_bytes());
        block.extend((body.len() as u64).to_le_bytes());
        block.extend(body);
        let (head, tail) = block.split_at(block.len() / 2);
        disk.pass(&self.path, "append")
            .and_then(|()| file.write_all(head))
            .and_then(|()| disk.pass(&self.path, "append on"))
            .and_then(|()| file.write_all(tail))
            .map_err(|e| io("append to", e))?;
        if disk.durable {
            file.sync_data().map_err(|e| io("sync", e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_rounds_come_back_and_a_cut_one_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deliveries.bin");
        let disk = Disk::default();
        assert_eq!(read_deliveries(&path).unwrap(), []);
        let mut file = Deliveries::new(path.clone());
        for (round, body) in [(0, &b"zero"[..]), (1, b""), (2, b"two")] {
            file.append(Round(round), body, &disk).unwrap();
        }
        let all = [(Round(0), b"zero".to_vec()), (Round(1), vec![]), (Round(2), b"two".to_vec())];
        assert_eq!(read_deliveries(&path).unwrap(), all);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let found = read_deliveries(&path).unwrap();
            assert_eq!(found, all[..found.len()], "{cut}");
            assert!(found.len() < 3);
        }
        // resumed after round 0, round 1 is written anew
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut file = Deliveries::new(path.clone());
        file.keep_before(Round(1), &disk).unwrap();
        file.append(Round(1), b"again", &disk).unwrap();
        assert_eq!(read_deliveries(&path).unwrap(), [all[0].clone(), (Round(1), b"again".to_vec())]);
    }
}
