//! Where things are inside a run directory.

use std::path::{Path, PathBuf};

use antiphon_core::{ClientId, Round};

/// The paths of one run. Needs no lock and touches no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of the run at `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `run.toml`, the resolved run file.
    #[must_use]
    pub fn run_file(&self) -> PathBuf {
        self.root.join("run.toml")
    }

    /// `events.sqlite`.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("events.sqlite")
    }

    /// `metrics.jsonl`.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// `deliveries.bin`.
    #[must_use]
    pub fn deliveries(&self) -> PathBuf {
        self.root.join("deliveries.bin")
    }

    /// `summary.json`.
    #[must_use]
    pub fn summary(&self) -> PathBuf {
        self.root.join("summary.json")
    }

    /// `report.html`.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// `latest/`, the newest exported model.
    #[must_use]
    pub fn latest(&self) -> PathBuf {
        self.root.join("latest")
    }

    /// `clients/<id>/`.
    #[must_use]
    pub fn client(&self, client: ClientId) -> PathBuf {
        self.root.join("clients").join(client.0.to_string())
    }

    /// `rounds/00012/`.
    #[must_use]
    pub fn round(&self, round: Round) -> PathBuf {
        self.rounds().join(format!("{:05}", round.0))
    }

    pub(crate) fn rounds(&self) -> PathBuf {
        self.root.join("rounds")
    }

    pub(crate) fn manifest(&self, round: Round) -> PathBuf {
        self.round(round).join("checkpoint.json")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("run.lock")
    }
}
