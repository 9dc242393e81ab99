//! Adapters in peft's layout, out and in.
//!
//! A directory holds `adapter_model.safetensors` and `adapter_config.json` exactly as peft 0.21 writes them: a low-rank
//! pair under `base_model.model.<module>.lora_A.weight` and `.lora_B.weight`, a soft prompt under
//! `prompt_embeddings`, a classification head, which peft keeps whole, under `base_model.model.<module>.weight`
//! (`base_model.<module>.weight` beside a prompt). peft loads what it recognises and passes over the rest in silence,
//! so [`write()`] refuses settings under which peft would see other modules, ranks or scales than the wiring holds, and
//! [`read()`] refuses keys, pairs and shapes that do not fit.
//!
//! Bottlenecks, which peft does not know, are in the layout of AdapterHub; see `bottleneck.rs`.
//!
//! What peft has no words for, the labels and a pooling other than that of transformers' class, stands in
//! `antiphon.json` beside them, which peft does not read.
//!
//! Deliberately missing: DoRA, LoRA on embeddings and heads, trained biases, `.bin` files.

mod bottleneck;
mod error;
mod read;
mod settings;
mod write;

use serde::{Deserialize, Serialize};

use antiphon_core::Schema;

use crate::spec::{Family, Spec};
use crate::wiring::{Pooling, Task, Wiring};

pub use error::AdapterError;
pub(crate) use read::head_alone;
pub use read::read;
pub use settings::{LoraSettings, Targets};
pub use write::write;
pub(crate) use write::write_extra;

/// File of the tensors.
const TENSORS: &str = "adapter_model.safetensors";
/// File of peft's settings.
const CONFIG: &str = "adapter_config.json";
/// File of what peft has no words for.
const EXTRA: &str = "antiphon.json";
/// Name of a soft prompt's tensor.
const PROMPT: &str = "prompt_embeddings";

/// What an adapter was trained for, and on what.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// What the user called the base model: a directory or a name.
    pub base_model: String,
    /// What the model is asked.
    pub task: Task,
    /// Names of the classes, in order; empty where they have none.
    pub labels: Vec<String>,
}

/// An adapter that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Where its tensors attach.
    pub wiring: Wiring,
    /// Its values, in the order of the wiring's schema.
    pub theta: Vec<f32>,
    /// What it was trained for.
    pub about: About,
    /// peft's settings of a LoRA; `None` for anything else.
    pub lora: Option<LoraSettings>,
}

/// The sidecar.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pooling: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
}

/// How transformers' classification class of this model pools.
#[must_use]
pub fn default_pooling(spec: &Spec) -> Pooling {
    if spec.family == Family::Bert { Pooling::Pooler } else { Pooling::Last }
}

const POOLINGS: [(&str, Pooling); 4] =
    [("cls", Pooling::Cls), ("pooler", Pooling::Pooler), ("mean", Pooling::Mean), ("last", Pooling::Last)];

/// Key of a schema's tensor in the file.
fn key(wiring: &Wiring, name: &str) -> String {
    match &wiring.prompt {
        Some(_) if name == PROMPT => PROMPT.to_owned(),
        Some(_) => format!("base_model.{name}"),
        // AdapterHub's names are those of the model
        None if !wiring.bottlenecks.is_empty() => name.to_owned(),
        None => format!("base_model.model.{name}"),
    }
}

/// Whether the flat vector belongs to the schema.
pub(crate) fn check_length(schema: &Schema, theta: &[f32]) -> Result<(), AdapterError> {
    if schema.dim() == theta.len() {
        return Ok(());
    }
    Err(AdapterError::Length { found: theta.len(), expected: schema.dim() })
}
