//! The cells of a study: what each would run, whether its folder already holds that, and that all of a seed share their data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use antiphon_core::{Digest, Round};
use antiphon_report::RoundRecord;
use antiphon_report::study::{Cell, Division, Measured, STUDY_SCHEMA, Status, Study, Variant as Shown};
use antiphon_store::{Change, Layout, Snapshot, diff, read_rounds};

use super::file::StudyFile;
use super::variants::{Variant, variants};
use crate::error::{Fail, Failure, Kind, store};
use crate::runfile::{self, Loaded};
use crate::session;

/// One run to be made.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// Index of its variant in the study.
    pub(crate) variant: usize,
    /// Index of its seed.
    pub(crate) seed: usize,
    /// For people.
    pub(crate) name: String,
    /// Its run directory.
    pub(crate) dir: PathBuf,
    /// The run file and what it overrides.
    pub(crate) file: PathBuf,
    pub(crate) overrides: Vec<String>,
    /// Rounds that it takes.
    pub(crate) rounds: u32,
    /// What there is of it.
    pub(crate) state: State,
}

/// What there is of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Absent,
    /// A run that has not ended.
    Begun,
    /// Everything.
    Finished,
}

/// A study that can run.
#[derive(Debug)]
pub(crate) struct Planned {
    /// With what is already there.
    pub(crate) study: Study,
    /// Every cell, in the order in which they run: all variants of the first seed, then of the next.
    pub(crate) cells: Vec<Work>,
}

/// Expands `file` into cells below `out`, reads those that are there, and refuses what cannot run or be compared.
pub(crate) fn plan(file: &StudyFile, out: &Path) -> Result<Planned, Failure> {
    let variants = variants(file)?;
    let seeds = &file.settings.seeds;
    let mut cells = Vec::new();
    let mut splits: Vec<Division> = Vec::new();
    let mut bases: Bases = BTreeMap::new();
    let mut known: BTreeMap<String, Digest> = BTreeMap::new();
    for (s, &seed) in seeds.iter().enumerate() {
        for (v, variant) in variants.iter().enumerate() {
            let overrides = variant.overrides(seed);
            let blame = |f: Failure| blame(file, variant, &f);
            let loaded = runfile::load(&variant.base, &overrides).map_err(blame)?;
            session::check(&loaded).map_err(blame)?;
            let split = division(&loaded, &mut known).map_err(blame)?;
            share(&mut splits, &variants, v, seed, split, file)?;
            let dir = out.join(folder(variant, seed));
            let state = look(&dir, &loaded, split, &mut bases)?;
            let name = format!("{}, seed {seed}", variant.name);
            let rounds = loaded.settings.federation.num_rounds;
            let file = variant.base.clone();
            cells.push(Work { variant: v, seed: s, name, dir, file, overrides, rounds, state });
        }
    }
    let waiting = |v: &Variant| Shown {
        name: v.name.clone(),
        set: v.text(),
        data: v.data(),
        cells: seeds
            .iter()
            .map(|&seed| Cell { seed, dir: folder(v, seed), status: Status::Waiting })
            .collect(),
    };
    let mut planned = Planned {
        study: Study {
            schema: STUDY_SCHEMA,
            name: file.name.clone(),
            seeds: seeds.clone(),
            metrics: file.settings.metrics.clone(),
            forwards: file.settings.forwards.clone(),
            variants: variants.iter().map(waiting).collect(),
            splits,
        },
        cells,
    };
    for i in 0..planned.cells.len() {
        if planned.cells[i].state == State::Finished {
            gather(&mut planned.study, &planned.cells[i])?;
        }
    }
    Ok(planned)
}

/// Reads a cell that has ended into `study`.
pub(crate) fn gather(study: &mut Study, work: &Work) -> Result<(), Failure> {
    let layout = Layout::new(&work.dir);
    let way_out = |mut f: Failure, what: &str| {
        f.message = format!("{}: {}\n{what}", work.name, f.message);
        f
    };
    let summary = session::summary(&layout).map_err(|f| {
        let again =
            format!("`antiphon resume {}` writes it again, from the last checkpoint", work.dir.display());
        way_out(f, &again)
    })?;
    let closed = Round(u32::try_from(summary.run.rounds_done).unwrap_or(u32::MAX));
    let rounds: Vec<RoundRecord> = read_rounds(&layout.metrics(), closed).map_err(|e| {
        let anew = format!("to run the cell anew as a whole, remove {}", work.dir.display());
        way_out(store(&e), &anew)
    })?;
    let measured = Box::new(Measured::of(&summary, &rounds));
    study.variants[work.variant].cells[work.seed].status = Status::Finished(measured);
    Ok(())
}

/// A cell's run directory within the study's.
fn folder(variant: &Variant, seed: u64) -> String {
    format!("{}/seed-{seed}", variant.slug)
}

/// An error of a variant's settings, at the key of the study file that is to blame where one is.
fn blame(file: &StudyFile, variant: &Variant, failure: &Failure) -> Failure {
    let named = |key: &&String| failure.message.contains(&format!("override `{key}="));
    let message = format!("variant `{}`: {}", variant.name, failure.message);
    match variant.set.keys().find(named).and_then(|key| variant.places.get(key)) {
        Some(place) => file.refuse(place, message),
        None => Failure::new(failure.kind, format_args!("{}: {message}", file.place())),
    }
}

/// The division of the data of `loaded`; each is made once.
fn division(loaded: &Loaded, known: &mut BTreeMap<String, Digest>) -> Result<Digest, Failure> {
    let data = toml::to_string(&loaded.settings.data).fail(Kind::Internal)?;
    let (seed, back) = (loaded.settings.run.seed, session::kept_back(&loaded.settings));
    let key = format!("{seed}\n{}\n{back:?}\n{data}", loaded.dir.display());
    match known.get(&key) {
        Some(digest) => Ok(*digest),
        None => {
            let digest = session::division(loaded)?;
            known.insert(key, digest);
            Ok(digest)
        }
    }
}

/// Records the division of the data that variant `at` has, or refuses it where one before it has another.
fn share(
    splits: &mut Vec<Division>,
    variants: &[Variant],
    at: usize,
    seed: u64,
    digest: Digest,
    file: &StudyFile,
) -> Result<(), Failure> {
    let data = variants[at].data();
    let Some(first) = splits.iter().find(|d| d.seed == seed && d.data == data) else {
        splits.push(Division { seed, data, digest });
        return Ok(());
    };
    if first.digest == digest {
        return Ok(());
    }
    let other = variants[..at].iter().find(|v| v.data() == data).map_or("", |v| v.name.as_str());
    Err(Failure::new(
        Kind::Settings,
        format_args!(
            "{}: `{}` and `{other}` would be compared on different data: with seed {seed} their divisions are {:?} and \
             {:?}. Give both the same `data.path`, `data.template`, `data.partition` and `data.split`, or vary these in \
             [grid], where variants are compared within each value",
            file.place(),
            variants[at].name,
            digest,
            first.digest
        ),
    ))
}

/// The digest of each base model that some cell was run with, and which cell. The seed where that makes the model.
type Bases = BTreeMap<(PathBuf, Option<u64>), (String, PathBuf)>;

/// What `dir` holds of the run that `loaded` describes. Refuses a run of other settings, data or base model.
fn look(dir: &Path, loaded: &Loaded, split: Digest, bases: &mut Bases) -> Result<State, Failure> {
    let layout = Layout::new(dir);
    if !layout.run_file().is_file() {
        return Ok(State::Absent);
    }
    let snapshot = Snapshot::read(dir).fail(Kind::RunDir)?;
    let refuse = |why: &str| {
        let message = format!(
            "{}: {why}\nput that back, or remove this folder to run the cell anew, or choose another --out",
            dir.display()
        );
        Err(Failure::new(Kind::RunDir, message))
    };
    let table = |text: &str| text.parse::<toml::Table>().fail_at(Kind::RunDir, dir.display());
    let changes = diff(&table(&snapshot.run_toml)?, &table(&loaded.resolved()?)?);
    let changes: Vec<String> = changes.iter().filter(|c| matters(c)).map(|c| format!("\n  {c}")).collect();
    if !changes.is_empty() {
        return refuse(&format!("this cell was run with other settings:{}", changes.concat()));
    }
    let meta = |key: &str| snapshot.meta.get(key).and_then(serde_json::Value::as_str);
    if meta("split").and_then(Digest::from_hex).is_some_and(|was| was != split) {
        return refuse("the data have changed since this cell was run");
    }
    if let Some(now) = meta("base") {
        let name = &loaded.settings.model.base_model;
        // a model from scratch is another one with each seed
        let seed = name.starts_with("init:").then_some(loaded.settings.run.seed);
        let model = (loaded.path(name), seed);
        let (first, at) = bases.entry(model).or_insert_with(|| (now.to_owned(), dir.to_owned()));
        if first != now {
            return refuse(&format!("the base model has changed between this cell and {}", at.display()));
        }
    }
    let last = loaded.settings.federation.num_rounds.checked_sub(1).map(Round);
    let files = [layout.summary(), layout.report(), layout.latest()];
    let ended =
        snapshot.published.is_some() && snapshot.published == last && files.iter().all(|f| f.exists());
    Ok(if ended { State::Finished } else { State::Begun })
}

/// Whether a setting can change a result: names and numbers of threads cannot.
fn matters(change: &Change) -> bool {
    !matches!(change.key.as_str(), "run.name" | "run.workers")
}
