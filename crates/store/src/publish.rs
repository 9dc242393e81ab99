//! `latest/`: a real directory, so that `cp -r` and every other program can use it, replaced as a whole.
//!
//! The new directory is written and fsynced beside the old one and exchanged with it in one system call
//! (`renameat2` with `RENAME_EXCHANGE`). File systems without it get two renames; a kill between them
//! leaves `.latest-old`, which [`repair`] puts back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use antiphon_core::Digest;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::layout::Layout;
use crate::log::Event;

/// Whether `latest/` still holds what was published last: the files a model is read from (`.safetensors`, `.json`), by their
/// digests in `events`. Logs from before these were kept say only that there is something.
///
/// # Errors
/// The first file that is gone or another.
pub fn verify_latest(layout: &Layout, events: &[Event]) -> Result<(), StoreError> {
    let last = |kind: &str| events.iter().rev().find(|e| e.kind == kind);
    let Some(event) = last("output") else {
        let path = layout.latest();
        return match last("published").is_some() && digests(&path)?.is_empty() {
            true => Err(StoreError::Altered { path, gone: true }),
            false => Ok(()),
        };
    };
    let published: BTreeMap<String, Digest> = serde_json::from_str(&event.json).map_err(|source| {
        StoreError::Json { path: layout.log(), line: usize::try_from(event.seq).unwrap_or(0), source }
    })?;
    for (name, digest) in published {
        let path = layout.latest().join(name);
        let gone = !path.is_file();
        if gone || digest_of(&path)? != digest {
            return Err(StoreError::Altered { path, gone });
        }
    }
    Ok(())
}

/// Of the files in `latest` that a model is read from.
pub(crate) fn digests(latest: &Path) -> Result<BTreeMap<String, Digest>, StoreError> {
    let read = |name: &String| name.ends_with(".safetensors") || name.ends_with(".json");
    let files = crate::disk::names(latest)?.into_iter().filter(read);
    files.map(|name| digest_of(&latest.join(&name)).map(|digest| (name, digest))).collect()
}

/// Without the whole file in memory.
fn digest_of(path: &Path) -> Result<Digest, StoreError> {
    let io = |e| StoreError::io("read", path, 0, e);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(io)?).map_err(io)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn beside(latest: &Path, name: &str) -> PathBuf {
    latest.with_file_name(name)
}

/// Replaces `latest` by what `write` puts into the directory it is given.
pub(crate) fn publish<E: From<StoreError>>(
    disk: &Disk,
    latest: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let fresh = beside(latest, ".latest-new");
    disk.remove(&fresh)?;
    disk.create_directory(&fresh)?;
    let result = write(&fresh).and_then(|()| exchange(disk, latest, &fresh).map_err(E::from));
    // afterwards the old directory bears this name, after a failure the unfinished one
    let removed = disk.remove(&fresh);
    result?;
    Ok(removed?)
}

fn exchange(disk: &Disk, latest: &Path, fresh: &Path) -> Result<(), StoreError> {
    sync_tree(disk, fresh)?;
    let io = |e| StoreError::io("replace", latest, 0, e);
    disk.pass(latest, "exchange").map_err(io)?;
    if !latest.exists() {
        fs::rename(fresh, latest).map_err(io)?;
    } else {
        match renameat_with(CWD, fresh, CWD, latest, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => exchange_in_two(disk, latest, fresh)?,
            Err(e) => return Err(io(e.into())),
        }
    }
    match latest.parent() {
        Some(parent) => disk.sync_directory(parent),
        None => Ok(()),
    }
}

fn exchange_in_two(disk: &Disk, latest: &Path, fresh: &Path) -> Result<(), StoreError> {
    let old = beside(latest, ".latest-old");
    let io = |e| StoreError::io("replace", latest, 0, e);
    disk.remove(&old)?;
    fs::rename(latest, &old).map_err(io)?;
    disk.pass(latest, "exchange on").map_err(io)?;
    fs::rename(fresh, latest).map_err(io)?;
    disk.remove(&old)
}

/// Puts right what a kill left: `latest/` is whole if it was ever published.
pub(crate) fn repair(disk: &Disk, latest: &Path) -> Result<(), StoreError> {
    let old = beside(latest, ".latest-old");
    if !latest.exists() && old.exists() {
        fs::rename(&old, latest).map_err(|e| StoreError::io("replace", latest, 0, e))?;
    }
    disk.remove(&old)?;
    disk.remove(&beside(latest, ".latest-new"))
}

fn sync_tree(disk: &Disk, directory: &Path) -> Result<(), StoreError> {
    for name in crate::disk::names(directory)? {
        let path = directory.join(name);
        if path.is_dir() {
            sync_tree(disk, &path)?;
        } else {
            disk.pass(&path, "sync")
                .and_then(|()| File::open(&path)?.sync_all())
                .map_err(|e| StoreError::io("sync", &path, 0, e))?;
        }
    }
    disk.sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(latest: &Path) -> String {
        fs::read_to_string(latest.join("model")).unwrap()
    }

    fn put(disk: &Disk, latest: &Path, text: &str) -> Result<(), StoreError> {
        publish(disk, latest, |dir| {
            fs::write(dir.join("model"), text).map_err(|e| StoreError::io("write", dir, 0, e))
        })
    }

    #[test]
    fn a_failed_publication_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let latest = dir.path().join("latest");
        let disk = Disk::default();
        put(&disk, &latest, "one").unwrap();
        put(&disk, &latest, "two").unwrap();
        assert_eq!(read(&latest), "two");
        let failed = publish(&disk, &latest, |dir| {
            fs::write(dir.join("model"), "thr").unwrap();
            Err(StoreError::DiskFull { path: dir.to_owned(), needed: 5 })
        });
        assert!(matches!(failed, Err(StoreError::DiskFull { .. })));
        assert_eq!(read(&latest), "two");
        assert_eq!(crate::disk::names(dir.path()).unwrap(), ["latest"]);
    }

    #[test]
    fn what_was_changed_after_publication_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let latest = layout.latest();
        let weights = latest.join("a.safetensors");
        fs::create_dir(&latest).unwrap();
        for name in ["a.safetensors", "config.json", "README.md"] {
            fs::write(latest.join(name), name).unwrap();
        }
        let json = serde_json::to_string(&digests(&latest).unwrap()).unwrap();
        let event = Event { seq: 3, unix_ms: 0, round: None, kind: "output".to_owned(), json };
        let verify = || verify_latest(&layout, std::slice::from_ref(&event));
        fs::write(latest.join("README.md"), "a note").unwrap();
        verify().unwrap();
        fs::write(&weights, "other").unwrap();
        assert!(matches!(verify(), Err(StoreError::Altered { path, gone: false }) if path == weights));
        fs::remove_file(&weights).unwrap();
        assert!(matches!(verify(), Err(StoreError::Altered { gone: true, .. })));
        verify_latest(&layout, &[]).unwrap();
    }

    #[test]
    fn two_renames_and_a_kill_between_them() {
        let dir = tempfile::tempdir().unwrap();
        let latest = dir.path().join("latest");
        let fresh = dir.path().join(".latest-new");
        let disk = Disk::default();
        put(&disk, &latest, "one").unwrap();
        fs::create_dir(&fresh).unwrap();
        fs::write(fresh.join("model"), "two").unwrap();
        exchange_in_two(&disk, &latest, &fresh).unwrap();
        assert_eq!(read(&latest), "two");
        fs::rename(&latest, dir.path().join(".latest-old")).unwrap();
        repair(&disk, &latest).unwrap();
        assert_eq!(read(&latest), "two");
    }
}
