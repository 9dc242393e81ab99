//! Why an adapter cannot be written or read.

use std::path::PathBuf;

use crate::gate::GateError;

/// An adapter that peft would misread, or that does not fit the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not an adapter's directory.
    #[error("{}: no such file; an adapter's directory holds adapter_config.json and adapter_model.safetensors{hint}", path.display())]
    NoFile {
        /// What is missing.
        path: PathBuf,
        /// What is there instead.
        hint: &'static str,
    },
    /// A JSON file is malformed.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A key of `adapter_config.json` has a value that means something we cannot compute, or is unknown.
    #[error("{}: `{key}` = {found}; supported: {supported}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What would work.
        supported: String,
    },
    /// The tensors' file is damaged or hostile.
    #[error("{}: {source}", path.display())]
    Gate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: GateError,
    },
    /// A tensor that no module of the model takes.
    #[error("{}: tensor `{name}` belongs to nothing in this model{hint}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What may explain it.
        hint: String,
    },
    /// A tensor without its partner.
    #[error("{}: tensor `{name}` is missing, though {because}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Why it should be there.
        because: String,
    },
    /// A shape that does not fit the model or the settings.
    #[error("{}: tensor `{name}` has shape {found:?}, expected {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the model and the settings.
        expected: String,
    },
    /// A pattern over modules that cannot be understood.
    #[error("`{key}` holds `{pattern}`, which is no regular expression: {source}")]
    Pattern {
        /// `target_modules`, `rank_pattern` or `alpha_pattern`.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// What the parser says.
        source: Box<fancy_regex::Error>,
    },
    /// Settings under which peft would see something else than the wiring.
    #[error(
        "these settings would not describe the adapter to peft: module `{module}` {found}, trained {expected}"
    )]
    Disagrees {
        /// The module.
        module: String,
        /// What peft would see.
        found: String,
        /// What was trained.
        expected: String,
    },
    /// Trainable tensors that no peft adapter of this kind holds.
    #[error("`{0}` is trained but has no place in a peft adapter; write the whole model instead")]
    NotAnAdapter(String),
    /// A flat vector of another model.
    #[error("{found} values for a schema of {expected}")]
    Length {
        /// Given.
        found: usize,
        /// By the schema.
        expected: usize,
    },
}
