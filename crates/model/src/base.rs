//! What a run starts from: a checkpoint, or `init:` and a configuration, under one name.

use std::path::{Path, PathBuf};

use antiphon_core::Digest;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::init::InitWeights;
use crate::spec::Spec;
use crate::weights::TensorSource;
use crate::wiring::Task;

/// Prefix of a model that is made, not loaded.
const INIT: &str = "init:";

/// The base model of a run.
#[derive(Debug)]
pub enum Base {
    /// Files on disk.
    Checkpoint(Box<Checkpoint>),
    /// Random weights.
    Init {
        /// The configuration's directory, where its tokenizer stands too.
        dir: PathBuf,
        /// The configuration.
        config: Box<Config>,
        /// The weights.
        weights: InitWeights,
        /// The seed that they were made from.
        seed: u64,
    },
}

impl Base {
    /// Opens what a run file calls `base_model`: the directory of a checkpoint, or `init:` before a `config.json` or its
    /// directory, whose weights are made from `seed`.
    pub fn open(name: &str, seed: u64) -> Result<Self, CheckpointError> {
        let Some(path) = name.strip_prefix(INIT) else {
            return Checkpoint::open(Path::new(name)).map(|c| Self::Checkpoint(Box::new(c)));
        };
        let mut path = PathBuf::from(path);
        if path.is_dir() {
            path.push("config.json");
        }
        if !path.is_file() {
            return Err(CheckpointError::NoConfig { path });
        }
        let config = Box::new(Config::read(&path)?);
        let weights = InitWeights::new(&config, seed);
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self::Init { dir, config, weights, seed })
    }

    /// Where the configuration and the tokenizer stand.
    #[must_use]
    pub fn dir(&self) -> &Path {
        match self {
            Self::Checkpoint(c) => c.dir(),
            Self::Init { dir, .. } => dir,
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        match self {
            Self::Checkpoint(c) => c.config(),
            Self::Init { config, .. } => config,
        }
    }

    /// The function.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.config().spec
    }

    /// The weights.
    #[must_use]
    pub fn source(&self) -> &dyn TensorSource {
        match self {
            Self::Checkpoint(c) => c.as_ref(),
            Self::Init { weights, .. } => weights,
        }
    }

    /// Whether `task` finds the tensors that it reads, see [`Checkpoint::require`].
    pub fn require(&self, task: Task) -> Result<(), CheckpointError> {
        match self {
            Self::Checkpoint(c) => c.require(task),
            Self::Init { .. } => Ok(()),
        }
    }

    /// The identity of the weights and of what they compute.
    #[must_use]
    pub fn digest(&self, threads: usize) -> Digest {
        match self {
            Self::Checkpoint(c) => c.digest(threads),
            Self::Init { config, seed, .. } => {
                let mut bytes = b"antiphon init 1".to_vec();
                bytes.extend(config.digest().0);
                bytes.extend(seed.to_le_bytes());
                Digest::of(&bytes)
            }
        }
    }
}
