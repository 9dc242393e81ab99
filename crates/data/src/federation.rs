//! From the settings to every client's examples, in one call.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use antiphon_core::{ClientId, Digest};

use crate::encode::{
    EncodeError, EncodeReport, Encoded, LabelSet, LabelSetError, Policy, Task, Verbalizer, encode,
};
use crate::example::Example;
use crate::format::{Detected, FormatError, ReadOptions, files, read};
use crate::heterogeneity::{ClientShape, Heterogeneity};
use crate::kept_back::{self, KeptBack, TooFew};
use crate::partition::{self, PartitionError, Pool};
use crate::settings::{Paths, Settings, SettingsError};
use crate::split::{SplitError, split};
use crate::tokenize::{Tokenize, TokenizeError};

/// One client's examples. A part that nothing was held out for is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientExamples {
    /// Which client: its place in [`Federation::clients`].
    pub id: ClientId,
    /// The value, file or number it was made from.
    pub name: String,
    /// Trained on.
    pub train: Vec<Example>,
    /// Looked at for choices.
    pub validation: Vec<Example>,
    /// Looked at for results: held out of its own examples, or, where clients are values of a field, the rows of
    /// `test_path` with its value.
    pub test: Vec<Example>,
}

/// Everybody's data.
#[derive(Clone, Debug)]
pub struct Federation {
    /// In order of their ids.
    pub clients: Vec<ClientExamples>,
    /// Validation data of nobody in particular (`validation_path`).
    pub validation: Vec<Example>,
    /// Test data of nobody in particular (`test_path`).
    pub test: Vec<Example>,
    /// Examples that no client has, kept back for whoever runs the federation; see [`Federation::load_but`].
    pub public: Vec<Example>,
    /// What each file turned out to be, training files first.
    pub detected: Vec<Detected>,
    /// Training examples left out because they occur in `validation` or `test`.
    pub held_out_elsewhere: usize,
    /// The realised division.
    pub heterogeneity: Heterogeneity,
}

/// Data that cannot be made ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The settings contradict each other.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The examples cannot be divided.
    #[error("data.partition: {0}")]
    Partition(#[from] PartitionError),
    /// The clients' examples cannot be split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// An example cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The labels are no label set.
    #[error(transparent)]
    Labels(#[from] LabelSetError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// A marker was asked for that the tokenizer lacks.
    #[error("data.{key} = true, but the tokenizer names no such token; leave it out or set it to false")]
    NoMarker {
        /// `add_bos` or `add_eos`.
        key: &'static str,
    },
    /// Every training example is in the held-out data.
    #[error("all {examples} training examples also occur in the validation or test data")]
    AllHeldOut {
        /// Examples.
        examples: usize,
    },
    /// A class of which too few examples can be kept back.
    #[error(transparent)]
    TooFew(#[from] TooFew),
    /// Every training example was kept back.
    #[error(
        "all {public} training examples are kept back, and clients have none: ask for fewer of every class"
    )]
    NothingLeft {
        /// Examples kept back.
        public: usize,
    },
}

impl Federation {
    /// Reads, divides and splits. Relative paths start at `base`. A pure function of the files, the settings and the
    /// seed.
    pub fn load(settings: &Settings, base: &Path, seed: u64) -> Result<Self, DataError> {
        Self::load_but(settings, base, seed, KeptBack::Nothing)
    }

    /// [`Federation::load`] that keeps examples, drawn by the seed, back as [`Federation::public`] before the rest is
    /// divided.
    pub fn load_but(settings: &Settings, base: &Path, seed: u64, back: KeptBack) -> Result<Self, DataError> {
        settings.check()?;
        let options = settings.read_options(base)?;
        let paths = files(&settings.path.resolve(base))?;
        let mut all = read(&paths, &options)?;
        let held_out = |path: &Option<Paths>, rows: &Option<String>| -> Result<Option<_>, FormatError> {
            if path.is_none() && rows.is_none() {
                return Ok(None);
            }
            // The rows mean what they mean in training, even if the columns alone would say otherwise.
            let layout = all.detected.first().map(|d| d.layout);
            let rows = rows.clone().or_else(|| settings.rows.clone());
            let options = ReadOptions { rows, layout, ..options.clone() };
            let paths = files(&path.as_ref().unwrap_or(&settings.path).resolve(base))?;
            read(&paths, &options).map(Some)
        };
        let validation = held_out(&settings.validation_path, &settings.validation_rows)?;
        let test = held_out(&settings.test_path, &settings.test_rows)?;
        let mut detected = std::mem::take(&mut all.detected);
        let mut take = |part: Option<crate::format::Read>| {
            part.map_or_else(Vec::new, |read| {
                detected.extend(read.detected);
                read.examples
            })
        };
        let (mut validation, mut test) = (take(validation), take(test));

        let test_keys: BTreeSet<Digest> = test.iter().map(|e| e.key).collect();
        validation.retain(|e| !test_keys.contains(&e.key));
        let held: BTreeSet<Digest> = validation.iter().map(|e| e.key).chain(test_keys).collect();
        let examples = all.examples.len();
        all.examples.retain(|e| !held.contains(&e.key));
        let held_out_elsewhere = examples - all.examples.len();
        if all.examples.is_empty() {
            return Err(DataError::AllHeldOut { examples });
        }
        let (examples, public) =
            kept_back::draw(all.examples, settings.max_examples, back, &settings.labels, seed)?;
        if examples.is_empty() {
            return Err(DataError::NothingLeft { public: public.len() });
        }

        let names: Vec<String> = names(&paths);
        let partition =
            partition::divide(&settings.partition, &Pool { examples: &examples, files: &names }, seed)?;
        let keys: Vec<Vec<Digest>> =
            partition.clients.iter().map(|c| c.examples.iter().map(|&i| examples[i].key).collect()).collect();
        let parts = split(&keys, settings.split, seed)?;
        let mut clients: Vec<ClientExamples> = partition
            .clients
            .iter()
            .zip(parts)
            .enumerate()
            .map(|(i, (share, parts))| {
                let take = |part: Vec<usize>| {
                    part.into_iter().map(|j| examples[share.examples[j]].clone()).collect()
                };
                ClientExamples {
                    id: ClientId(i as u64),
                    name: share.name.clone(),
                    train: take(parts.train),
                    validation: take(parts.validation),
                    test: take(parts.test),
                }
            })
            .collect();
        if settings.partition.get("id").and_then(toml::Value::as_str) == Some("field") {
            by_field(&mut clients, &mut validation, &mut test);
        }
        let mut heterogeneity = Heterogeneity::measure(clients.iter().map(|c| {
            let shape = ClientShape::of(c.id, &c.name, [&c.train, &c.validation, &c.test]);
            (shape, c.train.iter().chain(&c.validation).chain(&c.test))
        }));
        heterogeneity.left = partition.left.len();
        heterogeneity.left_why = partition.left_why;
        Ok(Self { clients, validation, test, public, detected, held_out_elsewhere, heterogeneity })
    }

    /// Identifies who holds which examples, and which of them are held out; whatever is done with them afterwards does not
    /// matter.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        let own = self.clients.iter().flat_map(|c| [&c.train, &c.validation, &c.test]);
        for part in own.chain([&self.validation, &self.test]) {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part.iter().flat_map(|e| e.key.0));
        }
        Digest::of(&bytes)
    }

    /// The label set of classification: `labels` of the settings, otherwise every label of training data, what is kept back
    /// included.
    pub fn label_set(&self, settings: &Settings) -> Result<LabelSet, LabelSetError> {
        if settings.labels.is_empty() {
            let trained = self.clients.iter().flat_map(|c| &c.train).chain(&self.public);
            LabelSet::of(trained.filter_map(Example::label))
        } else {
            LabelSet::new(settings.labels.clone())
        }
    }

    /// How examples become sequences, with what the settings leave open taken from the tokenizer. `classify`: the
    /// objective is a class, not the next token.
    pub fn policy(&self, settings: &Settings, classify: bool, t: &dyn Tokenize) -> Result<Policy, DataError> {
        let marker = |key, wanted: Option<bool>, token: Option<u32>, by_itself: bool| match (wanted, token) {
            (Some(true), None) => Err(DataError::NoMarker { key }),
            (Some(wanted), token) => Ok(token.filter(|_| wanted)),
            (None, token) => Ok(token.filter(|_| by_itself)),
        };
        let begins = t.encode("a", true)?.ids.first().copied();
        let bos = marker("add_bos", settings.add_bos, t.bos(), begins == t.bos())?;
        let eos = marker("add_eos", settings.add_eos, t.eos(), true)?;
        let words = &settings.verbalizer;
        let task = if classify {
            Task::Classes(self.label_set(settings)?)
        } else {
            Task::Tokens { verbalizer: (!words.is_empty()).then(|| Verbalizer(words.clone())) }
        };
        Ok(Policy {
            task,
            sequence_len: settings.sequence_len,
            truncation: settings.truncation,
            train_on_prompt: settings.train_on_prompt,
            bos,
            eos,
        })
    }

    /// Encodes every part of every client, and the shared parts. A client without a single training token is an error,
    /// so is shared held-out data without one, and so is a label that training does not know.
    pub fn encode(&self, policy: &Policy, t: &dyn Tokenize) -> Result<EncodedFederation, EncodeError> {
        let clients = self
            .clients
            .iter()
            .map(|c| {
                let whose = if c.name == c.id.to_string() {
                    c.name.clone()
                } else {
                    format!("{} ({})", c.id, c.name)
                };
                let part = |examples: &[Example], part: &str| {
                    encode(examples, policy, t, &format!("{whose}, {part}"))
                };
                // One client's few held-out examples may all be cut off; its report says so, and the union has others.
                let held_out = |examples, name| match part(examples, name) {
                    Err(EncodeError::AllMasked { report, .. }) => Ok(Encoded::nothing(*report)),
                    result => result,
                };
                Ok(ClientSequences {
                    id: c.id,
                    name: c.name.clone(),
                    train: part(&c.train, "train")?,
                    validation: held_out(&c.validation, "validation")?,
                    test: held_out(&c.test, "test")?,
                })
            })
            .collect::<Result<_, EncodeError>>()?;
        Ok(EncodedFederation {
            clients,
            validation: encode(&self.validation, policy, t, "validation_path")?,
            test: encode(&self.test, policy, t, "test_path")?,
        })
    }
}

/// One client's sequences.
#[derive(Clone, Debug)]
pub struct ClientSequences {
    /// Which client.
    pub id: ClientId,
    /// The value, file or number it was made from.
    pub name: String,
    /// Trained on.
    pub train: Encoded,
    /// Looked at for choices.
    pub validation: Encoded,
    /// Looked at for results.
    pub test: Encoded,
}

/// Everybody's sequences.
#[derive(Clone, Debug)]
pub struct EncodedFederation {
    /// In order of their ids.
    pub clients: Vec<ClientSequences>,
    /// Of `validation_path`.
    pub validation: Encoded,
    /// Of `test_path`.
    pub test: Encoded,
}

impl EncodedFederation {
    /// The test data of the union: what every client holds, and what is nobody's.
    pub fn union_test(&self) -> impl Iterator<Item = &Encoded> {
        self.clients.iter().map(|c| &c.test).chain([&self.test])
    }

    /// The validation data of the union, likewise.
    pub fn union_validation(&self) -> impl Iterator<Item = &Encoded> {
        self.clients.iter().map(|c| &c.validation).chain([&self.validation])
    }

    /// What encoding did to everything.
    #[must_use]
    pub fn report(&self) -> EncodeReport {
        let mut sum = EncodeReport::default();
        let clients = self.clients.iter().flat_map(|c| [&c.train, &c.validation, &c.test]);
        clients.chain([&self.validation, &self.test]).for_each(|part| sum += part.report);
        sum
    }
}

/// Under the partitioner `field`, moves to each client the rows of the shared held-out data that bear its value; what
/// stays belongs to nobody, so that no row is counted twice.
fn by_field(clients: &mut [ClientExamples], validation: &mut Vec<Example>, test: &mut Vec<Example>) {
    for c in clients {
        let mut own = |e: &mut Example| e.field.as_ref() == Some(&c.name);
        c.validation.extend(validation.extract_if(.., &mut own));
        c.test.extend(test.extract_if(.., &mut own));
    }
}

/// Names of files without folders and endings, where these tell them apart; otherwise the whole paths.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let stem = |p: &PathBuf| p.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stems: Vec<String> = paths.iter().map(stem).collect();
    let distinct: BTreeSet<&String> = stems.iter().collect();
    if distinct.len() == stems.len() {
        stems
    } else {
        paths.iter().map(|p| p.display().to_string()).collect()
    }
}
