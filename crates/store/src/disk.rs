//! Whole-file writes that either happened or did not.
//!
//! A file is written under a temporary name beside its place and renamed over it. Rename is atomic for
//! every observer and for `kill -9`; for power loss the file is fsynced before the rename and its
//! directory after.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use antiphon_core::Digest;

use crate::error::StoreError;

/// Called between any two operations on the disk with the file concerned and the operation that comes
/// next. Tests die or fail in it; an error is treated as one of that operation.
pub type Failpoint = Arc<dyn Fn(&Path, &'static str) -> std::io::Result<()> + Send + Sync>;

/// Prefix of what is not yet complete; left behind only by a kill, swept on resume.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// Bytes converted, hashed and written at a time: within a second-level cache, above BLAKE3's 128 KiB
/// for full SIMD width.
const CHUNK: usize = 256 * 1024;

/// How files are written in this run.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    /// Fsync before anything is named as complete.
    pub(crate) durable: bool,
    pub(crate) failpoint: Option<Failpoint>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("durable", &self.durable).finish_non_exhaustive()
    }
}

/// What a file will hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    /// Written as little-endian binary32.
    Floats(&'a [f32]),
}

impl Content<'_> {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(b) => b.len() as u64,
            Self::Floats(f) => 4 * f.len() as u64,
        }
    }

    /// Calls `each` with consecutive chunks of the bytes.
    fn chunks(&self, mut each: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        match self {
            Self::Bytes(bytes) => bytes.chunks(CHUNK).try_for_each(each),
            Self::Floats(floats) => {
                let mut buffer = vec![0; CHUNK.min(4 * floats.len())];
                for part in floats.chunks(CHUNK / 4) {
                    let bytes = &mut buffer[..4 * part.len()];
                    for (to, from) in bytes.chunks_exact_mut(4).zip(part) {
                        to.copy_from_slice(&from.to_le_bytes());
                    }
                    each(bytes)?;
                }
                Ok(())
            }
        }
    }
}

impl Disk {
    /// Passes the failpoint before `operation` on `path`.
    pub(crate) fn pass(&self, path: &Path, operation: &'static str) -> std::io::Result<()> {
        self.failpoint.as_ref().map_or(Ok(()), |f| f(path, operation))
    }

    /// Writes `content` under a temporary name in `directory`; returns that name and the digest. Removes
    /// what it wrote when it fails.
    pub(crate) fn stage(
        &self,
        directory: &Path,
        content: Content<'_>,
    ) -> Result<(PathBuf, Digest), StoreError> {
        let path = directory.join(format!("{TEMPORARY}{}", std::process::id()));
        self.write_new(&path, content).map(|digest| (path.clone(), digest)).map_err(|e| {
            // the error that matters is `e`; what cannot be removed is swept on resume
            let _ = fs::remove_file(&path);
            StoreError::io("write", &path, content.len(), e)
        })
    }

    fn write_new(&self, path: &Path, content: Content<'_>) -> std::io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        self.pass(path, "create")?;
        let mut file = File::create(path)?;
        self.pass(path, "write")?;
        content.chunks(|bytes| {
            hasher.update(bytes);
            file.write_all(bytes)?;
            self.pass(path, "write on")
        })?;
        if self.durable {
            self.pass(path, "sync")?;
            file.sync_data()?;
        }
        Ok(Digest(*hasher.finalize().as_bytes()))
    }

    /// Renames a complete file to its place.
    pub(crate) fn commit(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let renamed = self.pass(to, "rename").and_then(|()| fs::rename(from, to));
        if let Err(e) = renamed {
            let _ = fs::remove_file(from);
            return Err(StoreError::io("rename a finished file to", to, 0, e));
        }
        match to.parent() {
            Some(directory) if self.durable => self.sync_directory(directory),
            _ => Ok(()),
        }
    }

    /// Replaces or creates `path`.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let (staged, _) = self.stage(directory, Content::Bytes(bytes))?;
        self.commit(&staged, path)
    }

    /// Makes the names in `directory` survive power loss.
    pub(crate) fn sync_directory(&self, directory: &Path) -> Result<(), StoreError> {
        self.pass(directory, "sync directory")
            .and_then(|()| File::open(directory)?.sync_all())
            .map_err(|e| StoreError::io("sync", directory, 0, e))
    }

    pub(crate) fn create_directory(&self, path: &Path) -> Result<(), StoreError> {
        self.pass(path, "create directory")
            .and_then(|()| fs::create_dir_all(path))
            .map_err(|e| StoreError::io("create directory", path, 4096, e))?;
        match path.parent() {
            Some(parent) if self.durable && !parent.as_os_str().is_empty() => self.sync_directory(parent),
            _ => Ok(()),
        }
    }

    /// Removes a file or a directory with all it holds; one that is gone is fine.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        let remove = || {
            self.pass(path, "remove")?;
            if fs::symlink_metadata(path)?.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
        };
        match remove() {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", path, 0, e)),
            _ => Ok(()),
        }
    }
}

/// The names in `directory`, ascending; none when it does not exist.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    };
    match read() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| StoreError::io("list", directory, 0, e)),
    }
}
