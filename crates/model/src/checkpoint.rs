//! A Hugging Face checkpoint: `config.json` and one `model.safetensors`, or shards under `model.safetensors.index.json`.
//!
//! Files are mapped, never copied; [`Checkpoint::get`] hands out ranges of the maps, in the element type of the file, and
//! every client of a process shares them. Opening reads headers only. It fails on a tensor of the trunk that is missing,
//! has another shape than `config.json` implies or a type that no weight has, and on one that the configuration
//! gives no meaning, because a model without it computes something else. What can be left unread without
//! changing the function (buffers, heads of other tasks) is listed in [`Checkpoint::unread`].
//!
//! Deliberately missing: pickle files, quantised types, downloads. A checkpoint must not change while it is open.

mod digest;
mod error;
mod shards;
mod unread;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use antiphon_kernels::{FrozenData, Mapped};

use crate::config::Config;
use crate::gate::{Located, Stored};
use crate::names::{self, Role, TensorInfo};
use crate::spec::Spec;
use crate::wiring::Task;

pub use error::CheckpointError;
pub(crate) use shards::read_json;

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Config,
    files: Vec<Arc<Mapped>>,
    /// By the name in the file: which file, and where.
    tensors: BTreeMap<String, (usize, Located)>,
    unread: Vec<String>,
}

impl Checkpoint {
    /// Opens the directory `dir`.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if dir.is_file() {
            return Err(CheckpointError::NotADirectory { path: dir.to_owned() });
        }
        if !dir.is_dir() {
            return Err(CheckpointError::NoDirectory { path: dir.to_owned() });
        }
        let config_path = dir.join("config.json");
        if !config_path.is_file() {
            return Err(CheckpointError::NoConfig { path: config_path });
        }
        let mut config = Config::read(&config_path)?;
        config.spec.eos = with_generation_eos(dir, config.spec.eos, config.spec.vocab)?;
        let (files, tensors) = shards::open(dir)?;
        let mut checkpoint = Self { dir: dir.to_owned(), config, files, tensors, unread: Vec::new() };
        // a decoder saved for classification has no head, and an encoder may have no pooler: the task will say
        checkpoint.config.spec.pooler &= checkpoint.pooler_present();
        let trunk: Vec<TensorInfo> = names::tensors(checkpoint.spec(), Task::CausalLm)
            .into_iter()
            .filter(|t| t.role != Role::LmHead)
            .collect();
        checkpoint.check(&trunk)?;
        checkpoint.unread = unread::classify(&checkpoint, &trunk)?;
        Ok(checkpoint)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `config.json` said.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The function that the checkpoint computes. Its ends of a text include those of `generation_config.json`, and it
    /// has a pooler only if the files hold one.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.config.spec
    }

    /// The mapped weight files.
    #[must_use]
    pub fn files(&self) -> &[Arc<Mapped>] {
        &self.files
    }

    /// Names in the files that nothing here reads, each with the reason: buffers, heads of other tasks.
    #[must_use]
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// Whether every tensor that `task` reads from a checkpoint is there: the language model's head, the pooler.
    pub fn require(&self, task: Task) -> Result<(), CheckpointError> {
        let mut all = names::tensors(self.spec(), task);
        all.retain(|t| !matches!(t.role, Role::ClassHead(_)));
        self.check(&all)
    }

    /// The tensor called `name` in a `state_dict` of the model: its bytes and shape. `None` where the files hold no
    /// such tensor, or hold it in a type that no weight has.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let (_, (file, located)) = self.find(name)?;
        let Stored::Weight(dtype) = located.dtype else { return None };
        let data = FrozenData::Mapped {
            file: Arc::clone(&self.files[*file]),
            at: located.bytes.start,
            dtype,
            len: located.len(),
        };
        Some((data, located.shape.clone()))
    }

    /// Where the tensor called `name` stands, and under which name: as given, without the trunk's prefix, or, for the
    /// embedding of a tied model, as the head (shared tensors are stored once, under either name).
    fn find(&self, name: &str) -> Option<(&str, &(usize, Located))> {
        let spec = self.spec();
        let shared = (spec.tied && name == names::tensor_name(spec, Role::TokenEmbedding))
            .then(|| names::tensor_name(spec, Role::LmHead));
        names::load_candidates(spec, name)
            .chain(shared)
            .find_map(|n| self.tensors.get_key_value(&n))
            .map(|(n, t)| (n.as_str(), t))
    }

    fn pooler_present(&self) -> bool {
        [names::Part::Weight, names::Part::Bias]
            .map(|p| names::tensor_name(self.spec(), Role::Pooler(p)))
            .iter()
            .all(|n| self.find(n).is_some())
    }

    fn check(&self, wanted: &[TensorInfo]) -> Result<(), CheckpointError> {
        let missing: Vec<String> =
            wanted.iter().filter(|t| self.find(&t.name).is_none()).map(|t| t.name.clone()).collect();
        if !missing.is_empty() {
            return Err(CheckpointError::Missing {
                dir: self.dir.clone(),
                names: missing,
                hint: self.missing_hint(wanted),
            });
        }
        for tensor in wanted {
            let Some((stored_as, (file, located))) = self.find(&tensor.name) else { continue };
            let path = self.files[*file].path().to_owned();
            if located.shape != tensor.shape {
                return Err(CheckpointError::Shape {
                    path,
                    name: stored_as.to_owned(),
                    found: located.shape.clone(),
                    expected: tensor.shape.clone(),
                });
            }
            if let Stored::Other(found, _) = located.dtype {
                return Err(CheckpointError::DType { path, name: stored_as.to_owned(), found });
            }
        }
        Ok(())
    }

    /// What most likely explains a missing tensor.
    fn missing_hint(&self, wanted: &[TensorInfo]) -> String {
        let absent: BTreeSet<Role> =
            wanted.iter().filter(|t| self.find(&t.name).is_none()).map(|t| t.role).collect();
        if absent.iter().all(|r| *r == Role::LmHead) {
            "a model whose head is its embedding says so by `tie_word_embeddings: true` in config.json".into()
        } else if absent.iter().all(|r| matches!(r, Role::Pooler(_))) {
            "this encoder was saved without a pooler: choose another pooling, such as `mean` or `cls`".into()
        } else {
            let held: Vec<&str> = self.tensors.keys().take(3).map(String::as_str).collect();
            format!("the files hold {} tensors, such as {}", self.tensors.len(), held.join(", "))
        }
    }
}

/// `generation_config.json` may know more ends of a text than `config.json` (a chat model ends its turns by another
/// token than its texts). The file is optional.
fn with_generation_eos(dir: &Path, mut eos: Vec<u32>, vocab: usize) -> Result<Vec<u32>, CheckpointError> {
    let path = dir.join("generation_config.json");
    if !path.is_file() {
        return Ok(eos);
    }
    let json = shards::read_json(&path)?;
    let ids = match json.get("eos_token_id") {
        Some(serde_json::Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    for id in ids.iter().filter_map(serde_json::Value::as_u64).filter_map(|id| u32::try_from(id).ok()) {
        if (id as usize) < vocab && !eos.contains(&id) {
            eos.push(id);
        }
    }
    Ok(eos)
}
