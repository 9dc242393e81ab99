//! What is trained: a method is a function from a model's [`Spec`] to a [`Wiring`].
//!
//! A method adds tensors (an overlay: `lora`, `prompt`) or releases the checkpoint's own (`full`), names them as
//! transformers and peft do, in the order of their `state_dict`, and gives them their first values. What is minimised and
//! how the gradient arises are other axes.
//!
//! Deliberately missing: run-time state. A method is its settings.

mod full;
mod head;
mod houlsby;
mod layers;
mod layout;
mod lora;
mod prompt;
mod target;

use std::error::Error;
use std::fmt;

use antiphon_core::{ConfigError, Entry, SchemaError, registry};
use antiphon_model::adapter::LoraSettings;
use antiphon_model::{Spec, Task, TensorSource, Wiring};
pub use prompt::{embedding_std, token_rows};

/// Every method.
pub const METHODS: &[&Entry<dyn Method>] = &[&full::ENTRY, &houlsby::ENTRY, &lora::ENTRY, &prompt::ENTRY];

/// The method that `table["id"]` names.
pub fn build(table: &toml::Table) -> Result<Box<dyn Method>, ConfigError> {
    registry::build("method", METHODS, table)
}

/// A way of making a model trainable.
///
/// Laws, checked for every registry entry:
/// 1. right after [`Method::init`] the model computes what the checkpoint computes, a soft prompt excepted;
/// 2. [`Method::wire`] gives the same names, shapes and order on every call, so the schema's digest is stable;
/// 3. [`Method::init`] is a function of the checkpoint and the seed alone.
pub trait Method: fmt::Debug + Send + Sync {
    /// Id in the registry.
    fn id(&self) -> &'static str;
    /// The trainable tensors of a model of this spec for this task, and where they attach. A classification head, which
    /// no checkpoint has, is always among them, last.
    fn wire(&self, spec: &Spec, task: Task) -> Result<Wiring, MethodError>;
    /// First values of everything in `wiring`, flat, in schema order.
    fn init(&self, wiring: &Wiring, start: &Start<'_>) -> Result<Vec<f32>, MethodError>;
    /// Which files of peft or transformers hold what this method trains.
    fn export(&self, spec: &Spec, wiring: &Wiring) -> Export;
    /// The complete table that builds this method, defaults written out.
    fn settings(&self) -> Result<toml::Table, toml::ser::Error>;
}

/// What first values are made from.
pub struct Start<'a> {
    /// The model.
    pub spec: &'a Spec,
    /// The checkpoint's values.
    pub base: &'a dyn TensorSource,
    /// The tokenizer, for methods that start from a text: ids of the text without special tokens.
    pub tokenize: Option<&'a Tokenize<'a>>,
    /// The run's seed.
    pub seed: u64,
}

impl fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// Ids of a text.
pub type Tokenize<'a> = dyn Fn(&str) -> Result<Vec<u32>, SourceError> + 'a;

/// Why a tokenizer could not answer.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// Copies elements `at .. at + out.len()` of a checkpoint's tensor, row-major, widened to binary32.
fn read(base: &dyn TensorSource, name: &str, at: usize, out: &mut [f32]) -> Result<(), MethodError> {
    let absent = || MethodError::Absent { name: name.to_owned() };
    let (data, _) = base.get(name).ok_or_else(absent)?;
    let expected = at + out.len();
    if expected > data.len() {
        return Err(MethodError::Short { name: name.to_owned(), found: data.len(), expected });
    }
    data.widen(at, out);
    Ok(())
}

/// A model that trains nothing but the head without which it has no task, if the task has one.
pub fn head_alone(spec: &Spec, task: Task) -> Result<Wiring, MethodError> {
    let mut tensors = layout::Tensors::default();
    let head = head::wire(spec, task, &mut tensors);
    Ok(Wiring { head, schema: tensors.schema()?, ..Wiring::default() })
}

/// Which files hold what a method trains.
#[derive(Clone, Debug, PartialEq)]
pub enum Export {
    /// Checkpoint tensors themselves: `config.json` and `model.safetensors`.
    Checkpoint,
    /// An adapter beside the checkpoint; with the settings of its `LoraConfig`, if it is one of low-rank pairs.
    Adapter(Option<LoraSettings>),
}

/// A method that does not fit a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// A pattern names no module or tensor of this model.
    #[error("`{key}`: `{pattern}` matches nothing in this model{}; it has: {}", near(nearest), list(known))]
    NoMatch {
        /// Key of the run file.
        key: &'static str,
        /// What was written there.
        pattern: String,
        /// The name most likely meant.
        nearest: Option<String>,
        /// What exists.
        known: Vec<String>,
    },
    /// A pattern for a module that is not a target.
    #[error("`{key}`: `{pattern}` matches none of the target modules: {}", list(targets))]
    NoTarget {
        /// Key of the run file.
        key: &'static str,
        /// What was written there.
        pattern: String,
        /// The targets.
        targets: Vec<String>,
    },
    /// Not a regular expression.
    #[error("`{key}`: `{pattern}` is no regular expression: {source}")]
    Pattern {
        /// Key of the run file.
        key: &'static str,
        /// What was written there.
        pattern: String,
        /// What the parser says.
        #[source]
        source: Box<fancy_regex::Error>,
    },
    /// A low-rank update of full rank or more.
    #[error(
        "rank {rank} is above the dimension of `{module}` ({d_out} x {d_in}); at most {} works there",
        d_out.min(d_in)
    )]
    Rank {
        /// Where.
        module: String,
        /// Rank asked for.
        rank: usize,
        /// Rows.
        d_out: usize,
        /// Columns.
        d_in: usize,
    },
    /// A bottleneck wider than what it narrows.
    #[error("`bottleneck_size` is {width}, and the model is {hidden} wide; expected at most {hidden}, such as {}", (hidden / 8).max(1))]
    Bottleneck {
        /// Asked for.
        width: usize,
        /// Of the model.
        hidden: usize,
    },
    /// A layer that the model does not have.
    #[error("`layers_to_transform`: layer {layer} of a model with layers {}", layers::listed(known))]
    Layer {
        /// Asked for.
        layer: usize,
        /// Those that the model has.
        known: Vec<usize>,
    },
    /// A prompt that leaves no position for a token.
    #[error("{tokens} virtual tokens in a model of {positions} positions leave no room for a text")]
    Prompt {
        /// Virtual tokens.
        tokens: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// A text that gives no tokens.
    #[error("`prompt_tuning_init_text`: `{0}` has no tokens")]
    NoTokens(String),
    /// A token that the embedding does not have.
    #[error("`prompt_tuning_init_text`: token {id} in a vocabulary of {vocab}")]
    Token {
        /// The tokenizer's id.
        id: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A start from text without a tokenizer at hand.
    #[error("`prompt_tuning_init = \"text\"` needs the model's tokenizer, and this model has none")]
    NoTokenizer,
    /// The tokenizer failed.
    #[error("cannot tokenise `prompt_tuning_init_text`")]
    Tokenize(#[source] SourceError),
    /// A tensor that the checkpoint does not hold.
    #[error("the checkpoint has no tensor `{name}`")]
    Absent {
        /// Its name.
        name: String,
    },
    /// A tensor that is smaller than the model's.
    #[error("tensor `{name}` of the checkpoint has {found} elements, the model needs {expected}")]
    Short {
        /// Its name.
        name: String,
        /// Elements found.
        found: usize,
        /// Elements needed.
        expected: usize,
    },
    /// The tensors make no schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

fn near(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
}

/// The first names of a list that may be long.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let head = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => head,
        more => format!("{head} and {more} more"),
    }
}
