//! A run directory, looked at without taking it: no lock, no row in the log, while another process may be at work on it.

use std::path::Path;

use antiphon_core::{ClientId, Round};

use crate::blob;
use crate::checkpoint::{Manifest, Restored};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::history::{Created, History, newest_intact, read_manifests};
use crate::layout::Layout;
use crate::log::{Event, EventLog, Verified};

/// A run as it was when it was looked at.
#[derive(Debug)]
pub struct Snapshot {
    layout: Layout,
    /// The resolved run file it was created with.
    pub run_toml: String,
    /// What [`crate::RunDir::create`] was given.
    pub meta: serde_json::Value,
    /// The newest checkpoint whose every byte is intact; `None` before the first closed round.
    pub checkpoint: Option<Restored>,
    /// Closed rounds whose checkpoint is damaged or gone, newest first.
    pub skipped: Vec<(Round, StoreError)>,
    /// All events, oldest first.
    pub events: Vec<Event>,
    /// The first round that the log does not say is closed.
    pub closed: Round,
    /// The round whose model `latest/` holds.
    pub published: Option<Round>,
    manifest: Option<Manifest>,
}

impl Snapshot {
    /// Looks at the run in `path`, verifying its log and the checkpoint.
    ///
    /// # Errors
    /// A directory without a run; a log that is damaged; a disk that fails.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(path);
        for (file, missing) in [(layout.run_file(), "run.toml"), (layout.log(), "events.sqlite")] {
            if !file.is_file() {
                return Err(StoreError::NoRun { path: path.to_owned(), missing });
            }
        }
        let Verified { events, digests, .. } = EventLog::open(layout.log(), Disk::default())?;
        let history = History::read(&layout, &events)?;
        let Created { settings, run_toml, meta, .. } = history.created;
        let mut kept = read_manifests(&layout, &history.closed, &digests, settings.durable)?;
        let (checkpoint, skipped) = newest_intact(&layout, &history.closed, &kept)?;
        let closed = history.closed.keys().next_back().map_or(Round(0), |last| last.next());
        let manifest = checkpoint.as_ref().and_then(|c| kept.remove(&c.round));
        Ok(Self {
            layout,
            run_toml,
            meta,
            checkpoint,
            skipped,
            events,
            closed,
            published: history.published,
            manifest,
        })
    }

    /// Its paths.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What `client` kept as of the checkpoint; verified.
    pub fn client_state(&self, client: ClientId) -> Result<Option<Vec<u8>>, StoreError> {
        let blob = self.manifest.as_ref().and_then(|m| m.clients.get(&client));
        blob.map(|b| blob::get(&self.layout.blobs(), *b)).transpose()
    }
}
