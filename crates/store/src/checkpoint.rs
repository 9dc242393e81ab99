//! The state after a round: a manifest of blobs.
//!
//! There is no state of random generators: randomness is counter-based, so the round number is enough.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use antiphon_core::{ClientId, Digest, Round};
use serde::{Deserialize, Serialize};

use crate::blob::{self, BlobRef};
use crate::disk::{Content, Disk};
use crate::error::StoreError;
use crate::layout::Layout;
use crate::log::LogHead;

/// The state after a round, to be written.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint<'a> {
    /// The global trainable state in schema order.
    pub theta: &'a [f32],
    /// The server step's named vectors, such as `momentum`.
    pub server: Vec<(&'a str, &'a [f32])>,
    /// The named states of stateful layers, in whatever encoding they chose.
    pub slots: Vec<(&'a str, &'a [u8])>,
}

/// The state after a round, read back and verified. Client states are read one by one, with
/// [`crate::RunDir::client_state`].
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// The round it is the state after.
    pub round: Round,
    /// The global trainable state in schema order.
    pub theta: Vec<f32>,
    /// The server step's named vectors, in the order written.
    pub server: Vec<(String, Vec<f32>)>,
    /// The named states of stateful layers, in the order written.
    pub slots: Vec<(String, Vec<u8>)>,
    /// Clients that have a state.
    pub clients: Vec<ClientId>,
}

/// `checkpoint.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) round: Round,
    /// The log when this was written: a log that does not hold this row has lost its tail.
    pub(crate) log: LogHead,
    pub(crate) theta: BlobRef,
    pub(crate) server: Vec<(String, BlobRef)>,
    pub(crate) slots: Vec<(String, BlobRef)>,
    /// Every client that has a state, unchanged ones carried over from the checkpoint before.
    pub(crate) clients: BTreeMap<ClientId, BlobRef>,
}

impl Manifest {
    /// Writes the blobs of `checkpoint`, then the manifest that names them; returns its digest.
    pub(crate) fn write(
        disk: &Disk,
        layout: &Layout,
        round: Round,
        log: LogHead,
        checkpoint: &Checkpoint<'_>,
        clients: BTreeMap<ClientId, BlobRef>,
    ) -> Result<(Self, Digest), StoreError> {
        let blobs = layout.blobs();
        let put = |content| blob::put(disk, &blobs, content);
        let theta = put(Content::Floats(checkpoint.theta))?;
        let server = checkpoint
            .server
            .iter()
            .map(|(name, v)| Ok(((*name).to_owned(), put(Content::Floats(v))?)))
            .collect::<Result<_, StoreError>>()?;
        let slots = checkpoint
            .slots
            .iter()
            .map(|(name, v)| Ok(((*name).to_owned(), put(Content::Bytes(v))?)))
            .collect::<Result<_, StoreError>>()?;
        let manifest = Self { format: 1, round, log, theta, server, slots, clients };
        let path = layout.manifest(round);
        let json = |source| StoreError::Json { path: path.clone(), line: 0, source };
        let text = serde_json::to_vec(&manifest).map_err(json)?;
        disk.create_directory(&layout.round(round))?;
        disk.replace(&path, &text)?;
        Ok((manifest, Digest::of(&text)))
    }

    /// Reads `checkpoint.json` of `round`; `expected` is what the log says its digest is.
    pub(crate) fn read(layout: &Layout, round: Round, expected: Option<Digest>) -> Result<Self, StoreError> {
        let path = layout.manifest(round);
        let text = std::fs::read(&path).map_err(|e| StoreError::io("read", &path, 0, e))?;
        let found = Digest::of(&text);
        if let Some(expected) = expected.filter(|e| *e != found) {
            return Err(StoreError::Digest { path, expected, found });
        }
        serde_json::from_slice(&text).map_err(|source| StoreError::Json { path, line: source.line(), source })
    }

    /// Reads and verifies everything the manifest names; client states are verified and not kept.
    pub(crate) fn restore(&self, blobs: &Path) -> Result<Restored, StoreError> {
        for state in self.clients.values() {
            blob::get(blobs, *state)?;
        }
        let server = self.server.iter().map(|(n, b)| Ok((n.clone(), blob::get_floats(blobs, *b)?)));
        let slots = self.slots.iter().map(|(n, b)| Ok((n.clone(), blob::get(blobs, *b)?)));
        Ok(Restored {
            round: self.round,
            theta: blob::get_floats(blobs, self.theta)?,
            server: server.collect::<Result<_, StoreError>>()?,
            slots: slots.collect::<Result<_, StoreError>>()?,
            clients: self.clients.keys().copied().collect(),
        })
    }

    /// Adds the digests it names.
    pub(crate) fn add_references(&self, to: &mut BTreeSet<Digest>) {
        let named = self.server.iter().chain(&self.slots).map(|(_, b)| b);
        to.extend(named.chain(self.clients.values()).chain([&self.theta]).map(|b| b.digest));
    }
}
