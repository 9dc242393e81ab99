//! Content-addressed files: `blobs/<BLAKE3>`.

use std::fs;
use std::path::{Path, PathBuf};

use antiphon_core::Digest;
use serde::{Deserialize, Serialize};

use crate::disk::{Content, Disk};
use crate::error::StoreError;

/// Names the content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobRef {
    /// BLAKE3 of the content, which is also the file's name.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

pub(crate) fn path(directory: &Path, digest: Digest) -> PathBuf {
    directory.join(digest.to_hex())
}

/// Writes `content` unless it is there. A file that is there was written whole by this process or
/// verified when the run was resumed.
pub(crate) fn put(disk: &Disk, directory: &Path, content: Content<'_>) -> Result<BlobRef, StoreError> {
    let (staged, digest) = disk.stage(directory, content)?;
    let to = path(directory, digest);
    if to.exists() {
        disk.remove(&staged)?;
    } else {
        disk.commit(&staged, &to)?;
    }
    Ok(BlobRef { digest, bytes: content.len() })
}

/// Reads and verifies.
pub(crate) fn get(directory: &Path, blob: BlobRef) -> Result<Vec<u8>, StoreError> {
    let path = path(directory, blob.digest);
    let bytes = fs::read(&path).map_err(|e| StoreError::io("read", &path, 0, e))?;
    let found = bytes.len() as u64;
    if found != blob.bytes {
        return Err(StoreError::Length { path, expected: blob.bytes, found });
    }
    let found = Digest::of(&bytes);
    if found != blob.digest {
        return Err(StoreError::Digest { path, expected: blob.digest, found });
    }
    Ok(bytes)
}

/// Reads and verifies a vector written as [`Content::Floats`].
pub(crate) fn get_floats(directory: &Path, blob: BlobRef) -> Result<Vec<f32>, StoreError> {
    let bytes = get(directory, blob)?;
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        let path = path(directory, blob.digest);
        let found = bytes.len() as u64;
        return Err(StoreError::Length { path, expected: found - rest.len() as u64, found });
    }
    Ok(words.iter().map(|w| f32::from_le_bytes(*w)).collect())
}
