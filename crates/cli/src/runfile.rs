//! The run file: TOML in, typed settings out, and an error that points at the line.
//!
//! Precedence: defaults < file < `KEY=VALUE` on the command line. Every section is the settings struct of the crate that
//! owns it; here they are only put side by side. Paths are relative to the run file.

mod emulator;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use emulator::{EmulatorSection, PublicSettings};

use crate::error::{Failure, Kind};
use crate::oracle::OracleSettings;
use crate::place::{Source, overridden, plain};
use crate::secret;

/// A whole run file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// What the run is called and how it uses this machine.
    #[serde(default)]
    pub run: RunSettings,
    /// The base model.
    pub model: ModelSettings,
    /// The data and how clients hold them.
    pub data: antiphon_data::Settings,
    /// What is trained: `id` and the method's own keys.
    pub method: toml::Table,
    /// For off-site tuning: what clients hold of a model whose owner keeps the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator: Option<EmulatorSection>,
    /// What is minimised: `id` and the objective's own keys.
    #[serde(default = "sft")]
    pub objective: toml::Table,
    /// How the gradient arises: `id` and the estimator's own keys.
    #[serde(default = "backprop")]
    pub estimator: toml::Table,
    /// How a local step is taken: `id` and the optimiser's own keys.
    #[serde(default = "adamw")]
    pub optimizer: toml::Table,
    /// Local training. A run with `[search]` does without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<antiphon_tune::TrainSettings>,
    /// What travels instead of the trainable vector: `id` and the method's own keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scalars: Option<toml::Table>,
    /// How a prompt is found without gradients: `id` and the search's own keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<toml::Table>,
    /// What a search may ask, and how often.
    #[serde(default, skip_serializing_if = "OracleSettings::is_default")]
    pub oracle: OracleSettings,
    /// Rounds and clients.
    pub federation: FederationSettings,
    /// How many updates become one.
    #[serde(default)]
    pub aggregation: antiphon_algo::AggregationSettings,
    /// What the server does with the aggregate: `id` and the step's own keys.
    #[serde(default = "fedavg")]
    pub server: toml::Table,
    /// Evaluation and baselines.
    #[serde(default)]
    pub eval: EvalSettings,
}

fn with_id(id: &str) -> toml::Table {
    toml::Table::from_iter([("id".to_owned(), toml::Value::from(id))])
}
fn sft() -> toml::Table {
    with_id("sft")
}
fn backprop() -> toml::Table {
    with_id("backprop")
}
fn adamw() -> toml::Table {
    with_id("adamw")
}
fn fedavg() -> toml::Table {
    with_id("fedavg")
}

/// `[run]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Names the run directory and the report. Default: the run file's name.
    pub name: String,
    /// Seed of every random choice: initial values, partition, sampling, order, dropout, directions.
    pub seed: u64,
    /// Clients that train at the same time, each on one thread. 0: one per core.
    pub workers: usize,
    /// Sync every update to disk before it is acknowledged: nothing acknowledged is lost to a power failure.
    pub durable: bool,
    /// Checkpoints to keep besides the newest, of the rounds before it.
    pub keep_checkpoints: u32,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self { name: String::new(), seed: 0, workers: 0, durable: false, keep_checkpoints: 2 }
    }
}

/// Who owns the classification head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadSharing {
    /// Trained by all and counted in the bytes.
    #[default]
    Federated,
    /// Each client keeps its own; it never travels.
    Local,
}

/// `[model]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Hugging Face directory (config.json, safetensors, tokenizer.json), or `init:DIR/config.json` for a model
    /// from scratch with the tokenizer beside that file. With `oracle.endpoint`, a folder with the tokenizer is enough.
    pub base_model: String,
    /// For classification: whether the head is `federated` or `local`.
    #[serde(default)]
    pub head: HeadSharing,
    /// For classification: fits the head, before the first round, to so many examples of every class that no client has. It is
    /// where training begins; a search asks a sealed encoder with this head and never changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_shots: Option<usize>,
    /// A chat template by name, such as `chatml`, instead of the checkpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

impl ModelSettings {
    /// Refuses a head that cannot be fitted or would be fitted in vain.
    fn check(&self, s: &RunFile, name: &str) -> Result<(), Failure> {
        let Some(shots) = self.head_shots else { return Ok(()) };
        let classify = s.objective.get("id").and_then(toml::Value::as_str) == Some("classification");
        let why = if shots == 0 {
            "expected at least 1; leave it out for a head of random values"
        } else if !classify {
            "only a classification has a head to fit; set objective.id = \"classification\" or leave it out"
        } else if s.oracle.endpoint.is_some() {
            "the head is fitted in this process; leave `oracle.endpoint` out"
        } else if s.emulator.is_some() {
            "it is not known with [emulator]; leave one of them out"
        } else if s.search.is_some() && self.head == HeadSharing::Local {
            "a search never changes the head, so no client has its own; leave model.head = \"local\" out"
        } else {
            return Ok(());
        };
        Err(Failure::new(Kind::Settings, format_args!("{name}: model.head_shots = {shots}: {why}")))
    }
}

/// `[federation]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FederationSettings {
    /// Rounds.
    pub num_rounds: u32,
    /// Share of the clients sampled in each round, uniformly; at least `min_clients`.
    #[serde(default = "one")]
    pub fraction: f64,
    /// A round with fewer answers fails and is tried again with other clients.
    #[serde(default = "one_client")]
    pub min_clients: usize,
    /// Seconds after which a round closes without those who have not answered. 0: never.
    #[serde(default)]
    pub round_deadline_s: u64,
}

fn one() -> f64 {
    1.0
}
fn one_client() -> usize {
    1
}

/// A line to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The base model as it was.
    ZeroShot,
    /// Each client alone, for the same number of steps as it has in the federation.
    LocalOnly,
    /// One party with everybody's data, for the examples that the whole federation sees.
    Centralised,
}

/// Which round's model a run ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The last one's.
    #[default]
    Last,
    /// That of the evaluated round that was best on validation data.
    Best,
}

impl Select {
    /// What a run directory that was written before there was a choice means; it is left as it was.
    fn is_last(&self) -> bool {
        *self == Self::Last
    }
}

/// `[eval]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSettings {
    /// Evaluate the global model on validation data each so many rounds, and after the last. 0: only after the last.
    pub every_rounds: u32,
    /// Lines to compare with, on test data.
    pub baselines: Vec<Baseline>,
    /// Validation examples of each client used at most, evenly spaced. 0: all. Tables use all of the test data.
    pub max_examples: usize,
    /// Which round's model the run ends with: `last`, or `best`, that with the least loss on validation data (the greatest accuracy, at an
    /// endpoint of text alone) among the rounds that are evaluated, the earlier of equals. Random search then chooses among its own by the same data.
    #[serde(skip_serializing_if = "Select::is_last")]
    pub select: Select,
    /// For a search: random search with as many queries stands beside it. At an endpoint it is paid from the same budget.
    pub random_search: bool,
    /// For a search over labels: each client fits a scale and biases of its label scores to its validation data, and
    /// `summary.json` shows what they do to its test data. No question more is asked. The value, such as 0.1, is the weight of
    /// the pull towards the scores as they are. Default: no calibration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibrate: Option<f64>,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self {
            every_rounds: 1,
            baselines: vec![Baseline::ZeroShot],
            max_examples: 0,
            select: Select::Last,
            random_search: true,
            calibrate: None,
        }
    }
}

impl EvalSettings {
    /// Refuses to choose among rounds where there is one alone, or where more of a round would have to be kept than what travels.
    fn check(&self, s: &RunFile, name: &str) -> Result<(), Failure> {
        if self.select == Select::Last {
            return Ok(());
        }
        let (rounds, every) = (s.federation.num_rounds, self.every_rounds);
        let one = format!(
            "eval.every_rounds = {every}: of {rounds} rounds only the last is evaluated; set it to 1"
        );
        let why = if s.scalars.is_some() {
            "[scalars]: `antiphon audit` replays such a run to its last round; leave eval.select out"
        } else if s.emulator.as_ref().is_some_and(|e| e.align.is_some()) {
            "[emulator.align]: the emulator would be that of the last round; leave one of them out"
        } else if s.model.head == HeadSharing::Local {
            "model.head = \"local\": the heads would be those of the last round; leave one of them out"
        } else if rounds > 1 && (every == 0 || every >= rounds) {
            &one
        } else {
            return Ok(());
        };
        Err(Failure::new(
            Kind::Settings,
            format_args!("{name}: eval.select = \"best\" does not go with {why}"),
        ))
    }
}

/// A run file as read: typed, and as the table it came from with every override in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Typed.
    pub settings: RunFile,
    /// Where relative paths start.
    pub dir: PathBuf,
    /// Its text, to point at.
    pub source: Source,
}

impl Loaded {
    /// A path of the run file, from where it is relative to.
    pub fn path(&self, text: &str) -> PathBuf {
        let path = Path::new(text);
        if path.is_absolute() { path.to_owned() } else { self.dir.join(path) }
    }

    /// The whole file with defaults and overrides written out.
    pub fn resolved(&self) -> Result<String, Failure> {
        toml::to_string(&self.settings).map_err(|e| Failure::new(Kind::Internal, e))
    }
}

/// Reads `path` and applies `overrides`.
pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded, Failure> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| {
        let hint = if path.is_dir() { "; it is a folder: a run file is a TOML file" } else { "" };
        Failure::new(Kind::Settings, format_args!("cannot read run file {name}: {e}{hint}"))
            .with_near_path(path)
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let (at, bytes) = (e.utf8_error().valid_up_to(), e.as_bytes());
        let line = 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
        Failure::new(
            Kind::Settings,
            format_args!("{name}:{line}: byte 0x{:02x} is not UTF-8; a run file is TOML in UTF-8", bytes[at]),
        )
    })?;
    let dir = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&text, &name, overrides, dir, &stem)
}

/// Reads a run file's text.
pub fn parse(
    text: &str,
    name: &str,
    overrides: &[String],
    dir: PathBuf,
    stem: &str,
) -> Result<Loaded, Failure> {
    let source = Source::new(name, text, overrides);
    let file: toml::Table = text.parse().map_err(|e| source.explain(&e))?;
    let table = with(&file, overrides.iter())?;
    let mut settings = RunFile::deserialize(table).map_err(|e| match culprit(&file, overrides) {
        Some(item) => overridden(item, &plain(e.message())),
        // once more from the text, so that the error has its line
        None => source.explain(&toml::from_str::<RunFile>(text).err().unwrap_or(e)),
    })?;
    if settings.run.name.is_empty() {
        stem.clone_into(&mut settings.run.name);
    }
    check(&settings, name)?;
    Ok(Loaded { settings, dir, source })
}

/// `file` with every item in it.
fn with<'a>(file: &toml::Table, items: impl Iterator<Item = &'a String>) -> Result<toml::Table, Failure> {
    let mut table = file.clone();
    for item in items {
        set(&mut table, item)?;
    }
    Ok(table)
}

/// The override without which the file could be read.
fn culprit<'a>(file: &toml::Table, overrides: &'a [String]) -> Option<&'a String> {
    overrides.iter().enumerate().find_map(|(i, item)| {
        let others = overrides.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, other)| other);
        let without = with(file, others).ok()?;
        RunFile::deserialize(without).is_ok().then_some(item)
    })
}

/// More threads than any machine has cores only take memory.
const MOST_WORKERS: usize = 1024;

/// Without a pull there is no one answer to a calibration, and with one lost in rounding none is found.
const LEAST_PENALTY: f64 = 1e-6;

/// Values that are of the right type and still make no sense.
fn check(s: &RunFile, name: &str) -> Result<(), Failure> {
    let refuse = |key: &str, found: &dyn std::fmt::Display, expected: &str| {
        Err(Failure::new(Kind::Settings, format_args!("{name}: {key} = {found}: expected {expected}")))
    };
    if s.train.is_none() && s.search.is_none() {
        let why = "there is neither `[train]` (local steps by gradients) nor `[search]` (without)";
        return Err(Failure::new(Kind::Settings, format_args!("{name}: {why}; add one")));
    }
    if s.search.is_none() && !s.oracle.is_default() {
        let why = "`[oracle]` is what a search asks, and there is no `[search]`";
        return Err(Failure::new(
            Kind::Settings,
            format_args!("{name}: {why}; add it, or leave `[oracle]` out"),
        ));
    }
    if s.search.is_some() && s.eval.baselines.iter().any(|b| *b != Baseline::ZeroShot) {
        let why = "eval.baselines: a run with `[search]` has no gradients to train other baselines with";
        return Err(Failure::new(
            Kind::Settings,
            format_args!("{name}: {why}; use [\"zero_shot\"], random search is added by itself"),
        ));
    }
    if let Some(penalty) = s.eval.calibrate {
        if !(penalty >= LEAST_PENALTY && penalty.is_finite()) {
            let expected = format!("{LEAST_PENALTY:e} or more, such as 0.1");
            return refuse("eval.calibrate", &penalty, &expected);
        }
        if s.search.is_none() {
            return refuse(
                "eval.calibrate",
                &penalty,
                "`[search]`: it is the scores of labels that are calibrated",
            );
        }
        if s.oracle.most() == antiphon_oracle::Access::Text {
            return refuse("eval.calibrate", &penalty, "scores of labels, which text access does not give");
        }
    }
    if let Some((key, found, expected)) = s.oracle.refusal() {
        return refuse(key, &found, expected);
    }
    if s.oracle.endpoint.is_some() && s.emulator.is_some() {
        return refuse(
            "emulator",
            &"(given)",
            "none with `oracle.endpoint`: clients hold no part of the model",
        );
    }
    if s.scalars.is_some() {
        let clash = [
            ("[search]", s.search.is_some()),
            ("[emulator]", s.emulator.is_some()),
            ("model.head = \"local\"", s.model.head == HeadSharing::Local),
        ];
        if let Some((what, _)) = clash.into_iter().find(|(_, there)| *there) {
            let why = format!("[scalars] and {what} both say what travels; leave one out");
            return Err(Failure::new(Kind::Settings, format_args!("{name}: {why}")));
        }
    }
    if s.scalars.is_some() && s.train.as_ref().is_some_and(|t| t.personalized_lr.is_some()) {
        let why = "train.personalized_lr: `[scalars]` sums slopes over clients and rounds, which is right for one learning \
                   rate alone; leave one out";
        return Err(Failure::new(Kind::Settings, format_args!("{name}: {why}")));
    }
    if let Some(emulator) = &s.emulator {
        emulator.check(name)?;
    }
    s.model.check(s, name)?;
    s.eval.check(s, name)?;
    let f = &s.federation;
    if f.num_rounds == 0 {
        return refuse("federation.num_rounds", &0, "at least 1");
    }
    if !(f.fraction > 0.0 && f.fraction <= 1.0) {
        return refuse("federation.fraction", &f.fraction, "a share in (0, 1], such as 0.1");
    }
    if f.min_clients == 0 {
        return refuse("federation.min_clients", &0, "at least 1");
    }
    if s.run.workers > MOST_WORKERS {
        return refuse("run.workers", &s.run.workers, &format!("0 (one per core) to {MOST_WORKERS}"));
    }
    if s.run.name.is_empty() || s.run.name.contains(['/', '\\', '\0']) || s.run.name.starts_with('.') {
        return refuse("run.name", &format_args!("`{}`", s.run.name), "a name that can be part of a path");
    }
    Ok(())
}

/// Applies `a.b.c=value`; a value that is no TOML is a string.
fn set(table: &mut toml::Table, item: &str) -> Result<(), Failure> {
    let usage = |why: &str| {
        Failure::new(
            Kind::Usage,
            format_args!(
                "override `{}`: {why}; write KEY=VALUE, such as train.learning_rate=1e-3",
                secret::shown(item)
            ),
        )
    };
    let (key, value) = item.split_once('=').ok_or_else(|| usage("there is no `=`"))?;
    let value = format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut here = table;
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().filter(|p| !p.is_empty()).ok_or_else(|| usage("the key is empty"))?;
    for part in parts {
        here = here
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| usage(&format!("`{part}` is a value, not a section")))?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}
