//! A run directory, open for work.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::num::NonZeroU32;
use std::path::Path;

use antiphon_core::{ClientId, Digest, Round};
use serde::{Deserialize, Serialize};

use crate::blob::{self, BlobRef};
use crate::checkpoint::{Checkpoint, Manifest, Restored};
use crate::deliveries::Deliveries;
use crate::diff::diff;
use crate::disk::{Content, Disk, Failpoint, TEMPORARY, names};
use crate::error::StoreError;
use crate::history::{Closed, Created, History, Rewound, Update, newest_intact, read_manifests};
use crate::layout::Layout;
use crate::lock::Lock;
use crate::log::{Event, EventLog, Verified, companions};
use crate::metrics::{self, MetricsFile};
use crate::publish;

/// How a run is stored. Chosen when it is created, kept in its log, the same after every resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Fsync everything before it is acknowledged, and keep the updates of the open round.
    pub durable: bool,
    /// Checkpoints kept: the newest so many.
    pub keep_last: NonZeroU32,
    /// And every so many-th round's for ever; rounds count from one here.
    pub keep_every: Option<NonZeroU32>,
}

/// An update of the open round, acknowledged in durable mode and found again by [`RunDir::resume`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredUpdate {
    /// Whose.
    pub client: ClientId,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Where a stopped run goes on.
#[derive(Debug)]
pub struct Resume {
    /// The round to do next.
    pub next: Round,
    /// The state it starts from; `None` before the first closed round.
    pub checkpoint: Option<Restored>,
    /// What was acknowledged of that round, in order of arrival.
    pub updates: Vec<StoredUpdate>,
    /// Closed rounds whose checkpoint is damaged or gone, newest first: they are done again.
    pub skipped: Vec<(Round, StoreError)>,
    /// All events before the resume, oldest first.
    pub events: Vec<Event>,
}

/// A run directory, held exclusively. Dropping it loses what was not committed, as a kill would.
#[derive(Debug)]
pub struct RunDir {
    layout: Layout,
    disk: Disk,
    settings: Settings,
    run_toml: String,
    meta: serde_json::Value,
    log: EventLog,
    metrics: MetricsFile,
    deliveries: Deliveries,
    /// The round that is open.
    next: Round,
    /// Checkpoints on disk.
    kept: BTreeMap<Round, Manifest>,
    /// Of the open round.
    updates: BTreeMap<ClientId, BlobRef>,
    /// Of the open round.
    staged: BTreeMap<ClientId, BlobRef>,
    /// The round whose model `latest/` holds.
    published: Option<Round>,
    _lock: Lock,
}

impl RunDir {
    /// Makes a new run in `path`, which must be absent, empty, or left by a creation that was killed.
    /// `resolved_toml` is the run file with every default filled in; `meta` whatever resuming needs to
    /// know of the program, such as the kernel profile. `now_unix_ms` is only shown.
    pub fn create(
        path: &Path,
        resolved_toml: &str,
        meta: &serde_json::Value,
        settings: Settings,
        now_unix_ms: u64,
    ) -> Result<Self, StoreError> {
        Self::create_with(path, resolved_toml, meta, settings, now_unix_ms, None)
    }

    /// [`RunDir::create`] with a [`Failpoint`], for tests.
    pub fn create_with(
        path: &Path,
        resolved_toml: &str,
        meta: &serde_json::Value,
        settings: Settings,
        now_unix_ms: u64,
        failpoint: Option<Failpoint>,
    ) -> Result<Self, StoreError> {
        let layout = Layout::new(path);
        let disk = Disk { durable: settings.durable, failpoint };
        parse_toml(&layout, resolved_toml)?;
        refuse_occupied(&layout)?;
        disk.create_directory(path)?;
        let lock = Lock::take(path, &layout.lock(), now_unix_ms)?;
        // another creation may have ended between the look and the lock
        refuse_occupied(&layout)?;
        for debris in companions(&layout.log()) {
            disk.remove(&debris)?;
        }
        disk.create_directory(&layout.blobs())?;
        disk.create_directory(&layout.rounds())?;
        let mut log = EventLog::create(layout.log(), disk.clone())?;
        let created = Created { format: 1, settings, run_toml: resolved_toml.to_owned(), meta: meta.clone() };
        log.append(now_unix_ms, None, "created", to_json(&layout.log(), &created)?);
        log.commit()?;
        let metrics = MetricsFile::open(layout.metrics())?;
        disk.replace(&layout.run_file(), resolved_toml.as_bytes())?;
        Ok(Self {
            deliveries: Deliveries::new(layout.deliveries()),
            layout,
            disk,
            settings,
            run_toml: created.run_toml,
            meta: created.meta,
            log,
            metrics,
            next: Round(0),
            kept: BTreeMap::new(),
            updates: BTreeMap::new(),
            staged: BTreeMap::new(),
            published: None,
            _lock: lock,
        })
    }

    /// Takes up the run in `path` after its last closed round, verifying the log and the checkpoint it
    /// starts from and removing what a kill left unfinished. That it was resumed is logged with the next
    /// commit, so that a caller who finds nothing to do leaves the log as it was.
    pub fn resume(path: &Path, now_unix_ms: u64) -> Result<(Self, Resume), StoreError> {
        Self::resume_with(path, now_unix_ms, None)
    }

    /// [`RunDir::resume`] with a [`Failpoint`], for tests.
    pub fn resume_with(
        path: &Path,
        now_unix_ms: u64,
        failpoint: Option<Failpoint>,
    ) -> Result<(Self, Resume), StoreError> {
        let layout = Layout::new(path);
        for (file, missing) in [(layout.run_file(), "run.toml"), (layout.log(), "events.sqlite")] {
            if !file.is_file() {
                return Err(StoreError::NoRun { path: path.to_owned(), missing });
            }
        }
        let lock = Lock::take(path, &layout.lock(), now_unix_ms)?;
        let mut disk = Disk { durable: false, failpoint };
        let Verified { mut log, events, digests } = EventLog::open(layout.log(), disk.clone())?;
        let history = History::read(&layout, &events)?;
        let Created { settings, run_toml, meta, .. } = history.created;
        disk.durable = settings.durable;
        log.set_disk(disk.clone())?;
        refuse_changed(&layout, &run_toml)?;

        let kept = read_manifests(&layout, &history.closed, &digests, settings.durable)?;
        let (checkpoint, skipped) = newest_intact(&layout, &history.closed, &kept)?;
        let next = checkpoint.as_ref().map_or(Round(0), |c| c.round.next());
        // before anything is written
        metrics::require(&layout.metrics(), next)?;
        let mut run = Self {
            metrics: MetricsFile::open(layout.metrics())?,
            deliveries: Deliveries::new(layout.deliveries()),
            layout,
            disk,
            settings,
            run_toml,
            meta,
            log,
            next,
            kept: kept.into_iter().filter(|(r, _)| *r < next).collect(),
            updates: BTreeMap::new(),
            staged: BTreeMap::new(),
            published: history.published,
            _lock: lock,
        };
        let updates = run.reread_updates(history.updates)?;
        if skipped.is_empty() {
            run.record(now_unix_ms, "resumed", &Rewound { next })?;
        } else {
            // what follows removes the rounds that are done again
            run.record(now_unix_ms, "rewound", &Rewound { next })?;
            run.log.commit()?;
        }
        run.metrics.keep_before(next, &run.disk)?;
        run.deliveries.keep_before(next, &run.disk)?;
        run.prune(BTreeSet::new())?;
        run.sweep()?;
        Ok((run, Resume { next, checkpoint, updates, skipped, events }))
    }

    /// Its paths.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The resolved run file it was created with.
    #[must_use]
    pub fn run_toml(&self) -> &str {
        &self.run_toml
    }

    /// What [`RunDir::create`] was given.
    #[must_use]
    pub fn meta(&self) -> &serde_json::Value {
        &self.meta
    }

    /// How it is stored.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The round that is open.
    #[must_use]
    pub fn next_round(&self) -> Round {
        self.next
    }

    /// Logs an event of the open round. It is written with the round's others when the round is closed,
    /// at the next durable update, or by [`RunDir::commit`].
    pub fn record(
        &mut self,
        now_unix_ms: u64,
        kind: &str,
        details: &impl Serialize,
    ) -> Result<(), StoreError> {
        let json = to_json(&self.layout.log(), details)?;
        self.log.append(now_unix_ms, Some(self.next), kind, json);
        Ok(())
    }

    /// Writes all recorded events.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.log.commit()
    }

    /// Logs the update of `client` in the open round by its digest. In durable mode the bytes are checked
    /// against `digest`, and bytes and row are on the disk when this returns, to be found again by
    /// [`RunDir::resume`]. `false`: the client's update of this round is logged already and that one counts.
    pub fn put_update(
        &mut self,
        now_unix_ms: u64,
        client: ClientId,
        bytes: &[u8],
        digest: Digest,
    ) -> Result<bool, StoreError> {
        if self.updates.contains_key(&client) {
            return Ok(false);
        }
        let stored = self.settings.durable;
        let mut blob = BlobRef { digest, bytes: bytes.len() as u64 };
        if stored {
            blob = blob::put(&self.disk, &self.layout.blobs(), Content::Bytes(bytes))?;
            if blob.digest != digest {
                if !self.references().contains(&blob.digest) {
                    self.disk.remove(&blob::path(&self.layout.blobs(), blob.digest))?;
                }
                let (round, found) = (self.next, blob.digest);
                return Err(StoreError::UpdateDigest { round, client: client.0, found, announced: digest });
            }
        }
        self.record(now_unix_ms, "update", &Update { client, digest, bytes: blob.bytes, stored })?;
        if stored {
            self.log.commit()?;
        }
        self.updates.insert(client, blob);
        Ok(true)
    }

    /// Writes what `client` keeps between rounds, such as optimiser state; it counts from the closing of
    /// the open round on.
    pub fn set_client_state(&mut self, client: ClientId, state: &[u8]) -> Result<(), StoreError> {
        let blob = blob::put(&self.disk, &self.layout.blobs(), Content::Bytes(state))?;
        self.staged.insert(client, blob);
        Ok(())
    }

    /// Keeps what clients delivered in the open round; it counts from the closing of that round on.
    pub fn keep_deliveries(&mut self, deliveries: &[u8]) -> Result<(), StoreError> {
        self.deliveries.append(self.next, deliveries, &self.disk)
    }

    /// What `client` kept as of the last closed round; verified.
    pub fn client_state(&self, client: ClientId) -> Result<Option<Vec<u8>>, StoreError> {
        let blob = self.kept.values().next_back().and_then(|m| m.clients.get(&client));
        blob.map(|b| blob::get(&self.layout.blobs(), *b)).transpose()
    }

    /// Closes the open round: appends `metrics` (an object with a field `round`) to `metrics.jsonl`,
    /// writes the checkpoint, then commits the row that makes both count together with the round's other
    /// events. Afterwards old checkpoints are removed as [`Settings`] say, never the one of the round
    /// that `latest/` shows.
    pub fn close_round(
        &mut self,
        now_unix_ms: u64,
        round: Round,
        checkpoint: &Checkpoint<'_>,
        metrics: &impl Serialize,
    ) -> Result<(), StoreError> {
        if round != self.next {
            return Err(StoreError::RoundOrder { found: round, expected: self.next });
        }
        let mut clients = self.kept.values().next_back().map(|m| m.clients.clone()).unwrap_or_default();
        clients.extend(self.staged.iter().map(|(c, b)| (*c, *b)));
        let (manifest, digest) =
            Manifest::write(&self.disk, &self.layout, round, self.log.head(), checkpoint, clients)?;
        self.metrics.append(metrics, &self.disk)?;
        self.record(now_unix_ms, "closed", &Closed { manifest: digest, theta: manifest.theta.digest })?;
        self.log.commit()?;
        self.kept.insert(round, manifest);
        self.next = round.next();
        let mut unused = BTreeSet::new();
        unused.extend(
            std::mem::take(&mut self.updates).values().filter(|_| self.settings.durable).map(|b| b.digest),
        );
        self.staged.clear();
        self.prune(unused)
    }

    /// Replaces `latest/` by what `write` puts into the directory it is given: the model after the last
    /// closed round. The old one stays whole until the new one is, also under `kill -9` and power loss. What is there then is
    /// logged, for [`crate::verify_latest`].
    pub fn publish<E: From<StoreError>>(
        &mut self,
        now_unix_ms: u64,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        publish::publish(&self.disk, &self.layout.latest(), write)?;
        self.published = self.kept.keys().next_back().copied();
        let published = self.published;
        self.record(now_unix_ms, "published", &published)?;
        Ok(self.record(now_unix_ms, "output", &publish::digests(&self.layout.latest())?)?)
    }

    /// Replaces `summary.json`.
    pub fn write_summary(&self, summary: &impl Serialize) -> Result<(), StoreError> {
        let path = self.layout.summary();
        let json = |source| StoreError::Json { path: path.clone(), line: 0, source };
        let mut text = serde_json::to_vec_pretty(summary).map_err(json)?;
        text.push(b'\n');
        self.disk.replace(&path, &text)
    }

    /// Replaces `report.html`.
    pub fn write_report(&self, html: &str) -> Result<(), StoreError> {
        self.disk.replace(&self.layout.report(), html.as_bytes())
    }

    /// Appends a line to `clients/<id>/client.log`.
    pub fn log_client(&self, client: ClientId, line: &str) -> Result<(), StoreError> {
        let directory = self.layout.client(client);
        self.disk.create_directory(&directory)?;
        let path = directory.join("client.log");
        let text = format!("{line}\n");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut f| f.write_all(text.as_bytes()))
            .map_err(|e| StoreError::io("append to", &path, text.len() as u64, e))
    }

    fn reread_updates(&mut self, logged: Vec<Update>) -> Result<Vec<StoredUpdate>, StoreError> {
        let mut found = Vec::new();
        // outside durable mode nothing was promised: the clients are asked again
        for u in logged.into_iter().filter(|u| u.stored) {
            let blob = BlobRef { digest: u.digest, bytes: u.bytes };
            let bytes = blob::get(&self.layout.blobs(), blob)?;
            self.updates.insert(u.client, blob);
            found.push(StoredUpdate { client: u.client, digest: u.digest, bytes });
        }
        Ok(found)
    }

    fn references(&self) -> BTreeSet<Digest> {
        let mut used = BTreeSet::new();
        self.kept.values().for_each(|m| m.add_references(&mut used));
        used.extend(self.updates.values().chain(self.staged.values()).map(|b| b.digest));
        used
    }

    /// Removes checkpoints that need not be kept, and of `unused` and their blobs what nothing names.
    fn prune(&mut self, mut unused: BTreeSet<Digest>) -> Result<(), StoreError> {
        let last = self.settings.keep_last.get() as usize;
        let newest: BTreeSet<Round> = self.kept.keys().rev().take(last).copied().collect();
        let every = |r: &Round| self.settings.keep_every.is_some_and(|n| (r.0 + 1).is_multiple_of(n.get()));
        let old: Vec<Round> = self
            .kept
            .keys()
            .filter(|r| !newest.contains(r) && !every(r) && self.published != Some(**r))
            .copied()
            .collect();
        for round in old {
            // the manifest first: a kill in between leaves blobs without a name, which a resume sweeps
            self.disk.remove(&self.layout.round(round))?;
            if let Some(manifest) = self.kept.remove(&round) {
                manifest.add_references(&mut unused);
            }
        }
        let used = self.references();
        for digest in unused.difference(&used) {
            self.disk.remove(&blob::path(&self.layout.blobs(), *digest))?;
        }
        Ok(())
    }

    /// Removes what no kept checkpoint and no update of the open round names.
    fn sweep(&self) -> Result<(), StoreError> {
        publish::repair(&self.disk, &self.layout.latest())?;
        let used = self.references();
        for name in names(&self.layout.blobs())? {
            if !Digest::from_hex(&name).is_some_and(|d| used.contains(&d)) {
                self.disk.remove(&self.layout.blobs().join(name))?;
            }
        }
        for name in names(&self.layout.rounds())? {
            if !name.parse().is_ok_and(|n| self.kept.contains_key(&Round(n))) {
                self.disk.remove(&self.layout.rounds().join(name))?;
            }
        }
        for name in names(self.layout.root())?.iter().filter(|n| n.starts_with(TEMPORARY)) {
            self.disk.remove(&self.layout.root().join(name))?;
        }
        Ok(())
    }
}

fn refuse_occupied(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.root().to_owned();
    if layout.run_file().exists() {
        return Err(StoreError::AlreadyARun { path });
    }
    for found in names(layout.root())? {
        let ours = match found.as_str() {
            "run.lock" => true,
            "metrics.jsonl" => std::fs::metadata(layout.metrics()).is_ok_and(|m| m.len() == 0),
            "blobs" | "rounds" => names(&layout.root().join(&found))?.is_empty(),
            other => {
                other.starts_with(TEMPORARY) || companions(&layout.log()).contains(&layout.root().join(other))
            }
        };
        if !ours {
            return Err(StoreError::NotEmpty { path, found });
        }
    }
    Ok(())
}

fn refuse_changed(layout: &Layout, original: &str) -> Result<(), StoreError> {
    let path = layout.run_file();
    let text = std::fs::read_to_string(&path).map_err(|e| StoreError::io("read", &path, 0, e))?;
    if text == original {
        return Ok(());
    }
    let changes = diff(&parse_toml(layout, original)?, &parse_toml(layout, &text)?);
    if changes.is_empty() { Ok(()) } else { Err(StoreError::RunFileChanged { path, changes }) }
}

fn parse_toml(layout: &Layout, text: &str) -> Result<toml::Table, StoreError> {
    text.parse().map_err(|source| StoreError::Toml { path: layout.run_file(), source })
}

fn to_json(path: &Path, value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Json { path: path.to_owned(), line: 0, source })
}
