//! One process at a time works on a run.
//!
//! The lock is the operating system's (`flock`): it goes with the process however that ends, so a
//! killed run leaves nothing to clean up. The file's content only tells the next one who holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;

#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    since_unix_ms: u64,
}

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Locks the run at `root` through the file `path`, or says who holds it.
    pub(crate) fn take(root: &Path, path: &Path, now_unix_ms: u64) -> Result<Self, StoreError> {
        let io = |e| StoreError::io("lock", path, 64, e);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // the holder may be writing just now: then the error names nobody
                let _ = file.read_to_string(&mut text);
                let holder = serde_json::from_str::<Holder>(&text).ok();
                return Err(StoreError::InUse {
                    path: root.to_owned(),
                    pid: holder.as_ref().map(|h| h.pid),
                    since_unix_ms: holder.as_ref().map(|h| h.since_unix_ms),
                });
            }
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        let text = format!("{{\"pid\":{},\"since_unix_ms\":{now_unix_ms}}}\n", std::process::id());
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    /// Explicitly: a child process between fork and exec holds a copy of the handle, and with it the lock.
    fn drop(&mut self) {
        // on failure the lock goes when the last handle is closed
        let _ = self.file.unlock();
    }
}
