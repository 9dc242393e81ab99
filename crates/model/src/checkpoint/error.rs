//! Why a checkpoint cannot be used.

use std::path::PathBuf;

use crate::config::InvalidConfig;
use crate::gate::GateError;

/// A directory that is no checkpoint for this program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing at the path.
    #[error("{}: no such directory; expected a Hugging Face checkpoint (config.json, model.safetensors, tokenizer.json)", path.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// A file where a directory should be.
    #[error("{}: is a file; name the directory that holds it{}", path.display(), parent(path))]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// No configuration.
    #[error("{}: no such file; it says what the weights mean, and every Hugging Face checkpoint has one{}", path.display(), adapter(path))]
    NoConfig {
        /// Where it should be.
        path: PathBuf,
    },
    /// No weights.
    #[error("{}: no weights; expected model.safetensors, or shards with model.safetensors.index.json{}", dir.display(), pickle(pickle_files))]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// Weight files of other formats that are there.
        pickle_files: Vec<String>,
    },
    /// A configuration that cannot be used.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file is malformed.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The shard index is not one.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        reason: String,
    },
    /// A weight file is damaged or hostile.
    #[error("{}: {source}", path.display())]
    Gate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: GateError,
    },
    /// Tensors that the configuration needs and no file holds.
    #[error("{}: {} missing: {}; {hint}", dir.display(), plural(names.len()), list(names))]
    Missing {
        /// The directory.
        dir: PathBuf,
        /// Their names.
        names: Vec<String>,
        /// What may explain it.
        hint: String,
    },
    /// Tensors of the trunk that the configuration does not account for.
    #[error("{}: {} in the files that config.json does not account for: {}; the model would compute something else without them", dir.display(), plural(names.len()), list(names))]
    Unaccounted {
        /// The directory.
        dir: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor of another shape than the configuration implies.
    #[error("{}: tensor `{name}` has shape {found:?}, config.json implies {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the configuration.
        expected: Vec<usize>,
    },
    /// A tensor of a type that no weight has.
    #[error("{}: tensor `{name}` has element type {found}; supported: F32, BF16, F16 (quantised checkpoints are not)", path.display())]
    DType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// In the file.
        found: &'static str,
    },
}

fn parent(path: &std::path::Path) -> String {
    match path.parent() {
        Some(p) if p.join("config.json").is_file() => format!(", {}", p.display()),
        _ => String::new(),
    }
}

fn adapter(path: &std::path::Path) -> &'static str {
    if path.with_file_name("adapter_config.json").is_file() {
        "; this directory holds an adapter: name its base model, and this directory as the adapter"
    } else {
        ""
    }
}

fn pickle(files: &[String]) -> String {
    if files.is_empty() {
        return String::new();
    }
    format!(
        "; {} can run code when loaded and is not read: save the model again with `save_pretrained(…, safe_serialization=True)`",
        files.join(", ")
    )
}

fn plural(n: usize) -> String {
    if n == 1 { "1 tensor".into() } else { format!("{n} tensors") }
}

/// The first few names.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
