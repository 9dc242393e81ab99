//! What several commands share: models as the command line names them, and run directories that are only looked at.

use std::path::{Path, PathBuf};

use antiphon_model::adapter::{self, Adapter};
use antiphon_model::export::read_head;
use antiphon_model::{Base, Tokenizer};
use antiphon_report::Summary;
use antiphon_store::{Layout, Snapshot, StoreError, verify_latest};

use crate::error::{Fail, Failure, Kind, store};
use crate::runfile::{self, Loaded};
use crate::session::{self, Tokens, open_base};

/// A model that somebody named: a Hugging Face directory, or a run directory.
pub(super) struct Named {
    pub(super) base: Base,
    /// What stands on it: an adapter, the head of a classification checkpoint, or nothing.
    pub(super) adapter: Option<Adapter>,
    /// The run file, for a run directory.
    pub(super) run: Option<Loaded>,
}

impl Named {
    /// The tokenizer, with the chat template that the run chose.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        if let Some(run) = &self.run {
            return Tokens::open(&self.base, &run.settings).map(|t| t.0);
        }
        let tokenizer = Tokenizer::open(self.base.dir(), Some(self.base.config())).fail(Kind::Model)?;
        tokenizer.fits(self.base.spec().vocab).fail(Kind::Model)?;
        Ok(tokenizer)
    }
}

/// Whether `path` looks like a run directory.
pub(super) fn is_run(path: &Path) -> bool {
    let layout = Layout::new(path);
    layout.run_file().is_file() && layout.log().is_file()
}

/// Opens what `model` names, with the adapter in `adapter` instead of its own.
pub(super) fn open(model: &Path, adapter: Option<&Path>) -> Result<Named, Failure> {
    let run = if is_run(model) {
        let (snapshot, loaded) = look(model)?;
        here(&loaded)?;
        if adapter.is_none() {
            unaltered(&snapshot)?;
        }
        Some(loaded)
    } else {
        None
    };
    let latest = Layout::new(model).latest();
    let tuned_whole = latest.join("config.json").is_file();
    let base = match &run {
        Some(_) if adapter.is_none() && tuned_whole => checkpoint(&latest)?,
        Some(loaded) => open_base(loaded)?,
        None => checkpoint(model)?,
    };
    let own = match (adapter, &run) {
        (Some(dir), _) => Some(dir.to_owned()),
        (None, Some(_)) if !tuned_whole => Some(published(model, latest)?),
        (None, _) => None,
    };
    let adapter = match (own, &base) {
        (Some(dir), _) => Some(adapter::read(&dir, base.spec()).fail(Kind::Model)?),
        (None, Base::Checkpoint(c)) => read_head(c).fail(Kind::Model)?,
        (None, Base::Init { .. }) => None,
    };
    Ok(Named { base, adapter, run })
}

/// Refuses a run whose model is elsewhere.
pub(super) fn here(loaded: &Loaded) -> Result<(), Failure> {
    if loaded.settings.oracle.endpoint.is_none() {
        return Ok(());
    }
    let why = "the model of this run is behind `oracle.endpoint`: there is none to open here; latest/prompt.json holds the \
               prompt that was found, summary.json its numbers";
    Err(Failure::new(Kind::Model, why))
}

fn checkpoint(dir: &Path) -> Result<Base, Failure> {
    Base::open(&dir.display().to_string(), 0).fail(Kind::Model)
}

/// Refuses a run whose `latest/` is no longer what it wrote.
fn unaltered(run: &Snapshot) -> Result<(), Failure> {
    verify_latest(run.layout(), &run.events).map_err(|e| {
        let mut failure = store(&e);
        if matches!(e, StoreError::Altered { .. }) {
            let (root, latest) = (run.layout().root().display(), run.layout().latest());
            let (message, latest) = (failure.message, latest.display());
            failure.message = format!(
                "{message}; `antiphon resume {root}` writes it again, and `--adapter {latest}`, or {latest} as the model where all \
                 of it was tuned, takes it as it is"
            );
        }
        failure
    })
}

/// `latest/` of a run, which is there once the run has ended.
fn published(run: &Path, latest: PathBuf) -> Result<PathBuf, Failure> {
    if latest.join("adapter_config.json").is_file() {
        return Ok(latest);
    }
    Err(Failure::new(
        Kind::RunDir,
        format_args!(
            "{}: the run has written no model yet; it does so after its last round: antiphon resume {0}",
            run.display()
        ),
    ))
}

/// A run directory and its run file, without taking the run.
pub(super) fn look(dir: &Path) -> Result<(Snapshot, Loaded), Failure> {
    let snapshot = Snapshot::read(dir).fail(Kind::RunDir)?;
    let place = snapshot.layout().run_file().display().to_string();
    let loaded = runfile::parse(&snapshot.run_toml, &place, &[], directory(&snapshot.meta), "run")?;
    Ok((snapshot, loaded))
}

/// Where relative paths of a run's file start.
pub(super) fn directory(meta: &serde_json::Value) -> PathBuf {
    PathBuf::from(meta.get("directory").and_then(serde_json::Value::as_str).unwrap_or_default())
}

/// The summary of a run that has ended; `None` of one that has not.
pub(super) fn summary(layout: &Layout) -> Result<Option<Summary>, Failure> {
    let path = layout.summary();
    if !path.is_file() {
        return Ok(None);
    }
    session::summary(layout).map(Some).map_err(|mut f| {
        f.message = format!("{}\n`antiphon resume {}` writes it again", f.message, layout.root().display());
        f
    })
}
