//! Everybody's data as token sequences, with what the report says about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use antiphon_core::{ClientId, Digest};
use antiphon_data::encode::{self, Encoded, Policy, Task};
use antiphon_data::partition::PartitionError;
use antiphon_data::{DataError, Federation, Heterogeneity, KeptBack, Sequence};
use antiphon_report::{ClientData, DataReport, Truncation};

use super::Tokens;
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::runfile::{Loaded, RunFile};

/// Sequences of one part of somebody's data.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) sequences: Arc<[Sequence]>,
    /// Examples that they are made of.
    pub(crate) examples: u64,
    /// Bytes of text that the labelled tokens stand for; `None` where some of them were cut off.
    pub(crate) bytes: Option<u64>,
}

/// One client, or the shared held-out data.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) id: ClientId,
    pub(crate) name: String,
    pub(crate) train: Held,
    pub(crate) validation: Held,
    pub(crate) test: Held,
}

impl Person {
    /// One part of the data.
    pub(crate) fn part(&self, part: Part) -> &Held {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
            Part::Test => &self.test,
        }
    }

    /// Tokens of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        let all = [&self.train, &self.validation, &self.test];
        all.iter().flat_map(|h| h.sequences.iter()).map(Sequence::len).max().unwrap_or(0)
    }
}

/// Everybody's data.
pub(crate) struct Gathered {
    pub(crate) people: Vec<Person>,
    /// Held-out data of nobody in particular.
    pub(crate) common: Person,
    /// What no client has, where the run keeps some back.
    pub(crate) public: Vec<Sequence>,
    pub(crate) labels: Vec<String>,
    pub(crate) label_words: Option<Vec<u32>>,
    pub(crate) data: DataReport,
    pub(crate) truncation: Truncation,
    pub(crate) notes: Vec<String>,
}

/// The data as the run file names them.
pub(crate) fn shown(file: &RunFile) -> String {
    let paths: Vec<String> = file.data.path.0.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

/// Reads, divides, splits and encodes.
/// `classify`: the objective is a class, not the next token.
pub(crate) fn gather(loaded: &Loaded, tokens: &Tokens, classify: bool) -> Result<Gathered, Failure> {
    let file = &loaded.settings;
    let federation = Federation::load_but(&file.data, &loaded.dir, file.run.seed, kept_back(file))
        .map_err(|e| refused(loaded, &e))?;
    let policy = federation.policy(&file.data, classify, tokens).fail(Kind::Data)?;
    let encoded = federation.encode(&policy, tokens).fail(Kind::Data)?;
    let public = encode::encode(&federation.public, &policy, tokens, public_key(file)).fail(Kind::Data)?;
    let labels = match &policy.task {
        Task::Classes(set) => set.names().to_vec(),
        Task::Tokens { .. } => Vec::new(),
    };
    let most = file.eval.max_examples;
    let mut people = Vec::new();
    for e in &encoded.clients {
        people.push(Person {
            id: e.id,
            name: e.name.clone(),
            train: held(&e.train, 0),
            validation: held(&e.validation, most),
            test: held(&e.test, 0),
        });
    }
    let common = Person {
        id: ClientId(u64::MAX),
        name: "shared held-out data".to_owned(),
        train: held(&Encoded::default(), 0),
        validation: held(&encoded.validation, most),
        test: held(&encoded.test, 0),
    };
    let mut notes: Vec<String> = federation.detected.iter().map(ToString::to_string).collect();
    if file.search.is_some() && file.train.is_some() {
        notes.push("`[train]` is not used: with `[search]` nothing is trained by gradients".to_owned());
    }
    if federation.held_out_elsewhere > 0 {
        notes.push(format!(
            "{} training examples also occur in held-out data and were left out",
            federation.held_out_elsewhere
        ));
    }
    let h = &federation.heterogeneity;
    if h.left > 0 {
        notes.push(format!("{} examples belong to no client: {}", h.left, h.left_why));
    }
    let parts = encoded.clients.iter().flat_map(|c| [&c.train, &c.validation, &c.test]);
    let truncation = truncation(file.data.sequence_len, parts.chain([&encoded.validation, &encoded.test]));
    if truncation.truncated + truncation.emptied > 0 {
        notes.push(format!(
            "{} of {} examples are longer than sequence_len = {} and lost {} of {} labelled tokens; {} are left out",
            truncation.truncated,
            truncation.examples,
            truncation.max_tokens,
            truncation.labels_lost,
            truncation.labels,
            truncation.emptied
        ));
    }
    Ok(Gathered {
        data: DataReport { digest: Some(federation.digest()), ..report(file, h) },
        label_words: label_words(&policy, tokens)?,
        public: public.sequences().to_vec(),
        people,
        common,
        labels,
        truncation,
        notes,
    })
}

/// What no client gets of the training data.
pub(crate) fn kept_back(file: &RunFile) -> KeptBack {
    let share = || file.emulator.as_ref()?.public.as_ref()?.share;
    match file.model.head_shots {
        Some(shots) => KeptBack::Shots(shots),
        None => share().map_or(KeptBack::Nothing, KeptBack::Share),
    }
}

/// The key of the run file that keeps examples back.
fn public_key(file: &RunFile) -> &'static str {
    if file.model.head_shots.is_some() { "model.head_shots" } else { "emulator.public" }
}

/// Identifies the division of the data that `loaded` asks for, without model or tokenizer.
pub(crate) fn division(loaded: &Loaded) -> Result<Digest, Failure> {
    let file = &loaded.settings;
    let federation = Federation::load_but(&file.data, &loaded.dir, file.run.seed, kept_back(file));
    federation.map(|f| f.digest()).map_err(|e| refused(loaded, &e))
}

/// Why no client has enough, where the run file keeps a share of the data back.
pub(crate) fn kept_too_much(file: &RunFile, mut failure: Failure) -> Failure {
    if let KeptBack::Share(share) = kept_back(file) {
        failure.message += &format!(
            "\nemulator.public.share = {share} keeps that part of the training data from clients; a smaller share leaves them more"
        );
    }
    failure
}

/// Settings that the data crate refuses are the run file's fault; of a path that is not there, the nearest one is named.
fn refused(loaded: &Loaded, e: &DataError) -> Failure {
    let data = &loaded.settings.data;
    match (e, kept_back(&loaded.settings)) {
        (DataError::NothingLeft { public }, KeptBack::Share(share)) => {
            let why = format!(
                "`share` = {share} keeps back all {public} training examples, and clients have none; choose a smaller share, such as 0.1"
            );
            return loaded.source.blame("emulator.public", &why);
        }
        (DataError::Partition(why), KeptBack::Share(_)) if !matches!(why, PartitionError::Config(_)) => {
            let failure =
                Err::<(), _>(e).fail(Kind::Data).err().unwrap_or_else(|| Failure::new(Kind::Data, e));
            return kept_too_much(&loaded.settings, failure);
        }
        _ => {}
    }
    match e {
        DataError::TooFew(_) | DataError::NothingLeft { .. } => {
            let key = public_key(&loaded.settings);
            Err::<(), _>(e).fail_at(Kind::Data, key).err().unwrap_or_else(|| Failure::new(Kind::Data, e))
        }
        DataError::Settings(_) => loaded.source.blame("data", &e.to_string()),
        DataError::Partition(PartitionError::Config(config)) => {
            loaded.source.blame("data.partition", &config.to_string())
        }
        _ => {
            let named = [Some(&data.path), data.validation_path.as_ref(), data.test_path.as_ref()];
            let paths = named.into_iter().flatten().flat_map(|p| p.resolve(&loaded.dir));
            let failure = Err::<(), _>(e).fail(Kind::Data).err();
            let failure = failure.unwrap_or_else(|| Failure::new(Kind::Data, e));
            paths.fold(failure, |f, path| f.with_near_path(&path))
        }
    }
}

/// At most `most` sequences (0: all) of a part, evenly spaced: files are often sorted by label.
fn held(encoded: &Encoded, most: usize) -> Held {
    let all = encoded.sequences();
    let kept = if most == 0 { all.len() } else { most.min(all.len()) };
    let report = &encoded.report;
    Held {
        sequences: (0..kept).map(|i| all[i * all.len() / kept].clone()).collect(),
        examples: report.kept as u64,
        bytes: (kept == all.len() && report.label_bytes > 0).then_some(report.label_bytes as u64),
    }
}

/// The token of each label word, where the task is solved by generation.
fn label_words(policy: &Policy, tokens: &Tokens) -> Result<Option<Vec<u32>>, Failure> {
    let Task::Tokens { verbalizer: Some(words) } = &policy.task else { return Ok(None) };
    let list = words.0.values().map(String::as_str);
    encode::label_words("", list, tokens).map(Some).fail_at(Kind::Data, "data.verbalizer")
}

fn truncation<'a>(limit: usize, parts: impl Iterator<Item = &'a Encoded>) -> Truncation {
    let mut t = Truncation { max_tokens: limit as u64, ..Truncation::default() };
    for part in parts {
        let r = &part.report;
        t.examples += r.examples as u64;
        t.truncated += r.truncated as u64;
        t.labels += (r.label_tokens + r.label_tokens_lost) as u64;
        t.labels_lost += r.label_tokens_lost as u64;
        t.emptied += (r.dropped_all_masked + r.dropped_too_long) as u64;
    }
    t
}

/// The division as the report shows it: by label where there are labels, else by field.
fn report(file: &RunFile, h: &Heterogeneity) -> DataReport {
    let labelled = h.clients.iter().any(|c| !c.labels.is_empty());
    let counts = |c: &antiphon_data::heterogeneity::ClientShape| -> BTreeMap<String, usize> {
        if labelled { c.labels.clone() } else { c.fields.clone() }
    };
    let values: BTreeSet<String> = h.clients.iter().flat_map(|c| counts(c).into_keys()).collect();
    let clients = h.clients.iter().map(|c| {
        let own = counts(c);
        ClientData {
            client: c.id,
            name: c.name.clone(),
            train: c.train as u64,
            validation: c.validation as u64,
            test: c.test as u64,
            counts: values.iter().map(|v| own.get(v).copied().unwrap_or(0) as u64).collect(),
        }
    });
    let mut divergence = BTreeMap::from([("size variation (std / mean)".to_owned(), h.size_variation)]);
    for d in &h.divergences {
        divergence.insert(format!("{}: mean Jensen-Shannon (bits)", d.over), d.js_mean);
        divergence.insert(format!("{}: largest Jensen-Shannon (bits)", d.over), d.js_max);
        divergence.insert(format!("{}: mean total variation", d.over), d.tv_mean);
    }
    DataReport {
        partitioner: inline(&file.data.partition),
        field: if labelled { "label" } else { "field" }.to_owned(),
        clients: clients.collect(),
        values: values.into_iter().collect(),
        divergence,
        digest: None,
    }
}

/// `dirichlet_client(alpha = 0.3, clients = 8)`.
pub(crate) fn inline(table: &toml::Table) -> String {
    let id = table.get("id").and_then(toml::Value::as_str).unwrap_or_default();
    let rest: Vec<String> =
        table.iter().filter(|(k, _)| *k != "id").map(|(k, v)| format!("{k} = {v}")).collect();
    if rest.is_empty() { id.to_owned() } else { format!("{id}({})", rest.join(", ")) }
}
