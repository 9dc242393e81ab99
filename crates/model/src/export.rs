//! Whole models out: a merged low-rank adapter, or a fully tuned checkpoint.
//!
//! Tensors are written under the names of transformers' class, so that `from_pretrained` finds each: `W + s·B·A` where a
//! pair was trained (transposed where the weight lies as GPT-2's Conv1D), the trained values where the tensor itself was,
//! the head of a classification, and the base for the rest. One tensor at a time is in memory.
//!
//! Deliberately missing: shards (one file is read by everything, up to the size of the disk), soft prompts (no checkpoint
//! holds one).

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use antiphon_kernels::{DType, FrozenData, Layout};
use serde_json::{Map, Value, json};

use crate::adapter::{self, About, Adapter, AdapterError};
use crate::atomic;
use crate::base::Base;
use crate::checkpoint::Checkpoint;
use crate::gate::write::{self as safetensors, Out, put};
use crate::names::{self, Part, Role, TensorInfo};
use crate::spec::{Family, Spec};
use crate::template::ChatTemplate;
use crate::wiring::{LoraPair, Pooling, Task, Wiring};

/// Element type of the tensors that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As in the base's file; what was trained is rounded to it.
    Keep,
    /// binary32 everywhere.
    F32,
    /// bfloat16 everywhere, rounded to nearest even.
    Bf16,
    /// binary16 everywhere, rounded to nearest even; values beyond 65504 become infinite.
    F16,
}

impl Precision {
    /// The one type that is written; `None` for that of each tensor.
    fn dtype(self) -> Option<DType> {
        match self {
            Self::Keep => None,
            Self::F32 => Some(DType::F32),
            Self::Bf16 => Some(DType::Bf16),
            Self::F16 => Some(DType::F16),
        }
    }
}

/// A model that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A soft prompt.
    #[error(
        "a soft prompt of {tokens} tokens cannot be merged into a checkpoint: export it as a peft adapter"
    )]
    Prompt {
        /// Its length.
        tokens: usize,
    },
    /// Bottlenecks.
    #[error(
        "bottlenecks have a nonlinearity and cannot be merged into a checkpoint: keep them as an adapter"
    )]
    Bottlenecks,
    /// A flat vector of another model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A tensor that the base lacks.
    #[error("{}: the base model has no tensor `{name}`", dir.display())]
    Missing {
        /// The base.
        dir: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// Files of a tokenizer and of generation that stand beside a model.
const COMPANIONS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
];

/// Writes the model that `theta` makes of `base` under `wiring` into `dir`: weights, the tokenizer's files, the labels
/// (and, last, `config.json`, without which the directory is no model).
///
/// # Errors
/// A soft prompt; a vector or a base that does not fit the wiring; a file that cannot be written.
pub fn write_model(
    dir: &Path,
    base: &Base,
    wiring: &Wiring,
    theta: &[f32],
    about: &About,
    precision: Precision,
) -> Result<(), ExportError> {
    if let Some(prompt) = &wiring.prompt {
        return Err(ExportError::Prompt { tokens: prompt.tokens });
    }
    if !wiring.bottlenecks.is_empty() {
        return Err(ExportError::Bottlenecks);
    }
    adapter::check_length(&wiring.schema, theta)?;
    let spec = base.spec();
    let tensors = tensors(base, wiring, theta, about.task, precision)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Io { path, source }
    };
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let path = dir.join("model.safetensors");
    safetensors::write(&path, tensors).map_err(io(&path))?;
    copy_companions(base.dir(), dir, None)?;
    adapter::write_extra(dir, spec, about)?;
    let path = dir.join("config.json");
    let text = format!("{:#}\n", Value::Object(config(base, about, precision)));
    atomic::write(&path, |w| w.write_all(text.as_bytes())).map_err(io(&path))
}

/// Copies the files of the tokenizer and of generation from one directory to another, those that are there. A `template`
/// that the run chose itself goes with them, as `chat_template.jinja`.
pub fn copy_companions(from: &Path, to: &Path, template: Option<&ChatTemplate>) -> Result<(), ExportError> {
    for name in COMPANIONS {
        let (source, target) = (from.join(name), to.join(name));
        if !source.is_file() {
            continue;
        }
        let bytes = std::fs::read(&source).map_err(|e| ExportError::Io { path: source, source: e })?;
        atomic::write(&target, |w| w.write_all(&bytes))
            .map_err(|e| ExportError::Io { path: target, source: e })?;
    }
    if let Some(template) = template {
        let path = to.join("chat_template.jinja");
        atomic::write(&path, |w| w.write_all(template.source().as_bytes()))
            .map_err(|source| ExportError::Io { path, source })?;
    }
    Ok(())
}

/// The classification head of a fully tuned or merged checkpoint, as an adapter with nothing else; `None` where the
/// checkpoint has no head.
pub fn read_head(checkpoint: &Checkpoint) -> Result<Option<Adapter>, AdapterError> {
    let spec = checkpoint.spec();
    let name = |part| names::tensor_name(spec, Role::ClassHead(part));
    let Some((_, shape)) = checkpoint.get(&name(Part::Weight)) else { return Ok(None) };
    let classes = shape.first().copied().unwrap_or(0);
    let parts =
        if names::class_head_bias(spec) { vec![Part::Weight, Part::Bias] } else { vec![Part::Weight] };
    let mut tensors = Vec::new();
    for part in parts {
        let expected = if part == Part::Weight { vec![classes, spec.hidden] } else { vec![classes] };
        let (data, shape) = checkpoint.get(&name(part)).ok_or_else(|| AdapterError::Missing {
            path: checkpoint.dir().to_owned(),
            name: name(part),
            because: "the head's weight is there".into(),
        })?;
        if shape != expected {
            let (path, expected) = (checkpoint.dir().to_owned(), format!("{expected:?}"));
            return Err(AdapterError::Shape { path, name: name(part), found: shape, expected });
        }
        let mut values = vec![0.0; data.len()];
        data.widen(0, &mut values);
        tensors.push((name(part), shape, values));
    }
    adapter::head_alone(checkpoint.dir(), spec, classes, tensors).map(Some)
}

/// What is written for each tensor.
fn tensors<'a>(
    base: &'a Base,
    wiring: &'a Wiring,
    theta: &'a [f32],
    task: Task,
    precision: Precision,
) -> Result<Vec<Out<'a>>, ExportError> {
    let spec = base.spec();
    let mut list = Vec::new();
    for info in all_tensors(spec, task) {
        let trained = match info.role {
            Role::ClassHead(part) => wiring.head.as_ref().and_then(|h| match part {
                Part::Weight => Some(h.weight.clone()),
                Part::Bias => h.bias.clone(),
            }),
            _ => wiring.live.get(&info.name).cloned(),
        };
        let found = base.source().get(&info.name);
        let stored = match (precision.dtype(), &found) {
            (Some(dtype), _) => dtype,
            (None, Some((FrozenData::Mapped { dtype, .. }, _))) => *dtype,
            (None, _) => DType::F32,
        };
        if let Some(range) = trained {
            let values = &theta[range];
            let fill = Box::new(move |w: &mut dyn Write| put(w, stored, values));
            list.push(Out { name: info.name, dtype: stored, shape: info.shape, fill });
            continue;
        }
        let Some((data, _)) = found else {
            return Err(ExportError::Missing { dir: base.dir().to_owned(), name: info.name });
        };
        let pair = match info.role {
            Role::Proj { layer, proj, part: Part::Weight } => wiring.lora.get(&(layer, proj)),
            _ => None,
        };
        let shape = info.shape.clone();
        let fill = Box::new(move |w: &mut dyn Write| match (pair, &data) {
            (None, FrozenData::Mapped { file, at, dtype, len }) if *dtype == stored => {
                w.write_all(&file.bytes()[*at..*at + len * dtype.size()])
            }
            _ => {
                let mut values = vec![0.0; data.len()];
                data.widen(0, &mut values);
                if let Some(pair) = pair {
                    merge(&mut values, pair, theta, &shape, spec.layout);
                }
                put(w, stored, &values)
            }
        });
        list.push(Out { name: info.name, dtype: stored, shape: info.shape, fill });
    }
    Ok(list)
}

/// The tensors of transformers' class for `task`: BERT's has a pooler whatever the pooling.
fn all_tensors(spec: &Spec, task: Task) -> Vec<TensorInfo> {
    let task = match task {
        Task::Classify { classes, .. } if spec.pooler => Task::Classify { classes, pooling: Pooling::Pooler },
        other => other,
    };
    names::tensors(spec, task)
}

/// `W += s · B A`, with `w` of `shape` in `layout`.
pub(crate) fn merge(w: &mut [f32], pair: &LoraPair, theta: &[f32], shape: &[usize], layout: Layout) {
    let (a, b) = (&theta[pair.a.clone()], &theta[pair.b.clone()]);
    let (d_in, d_out) = (a.len() / pair.rank, b.len() / pair.rank);
    debug_assert_eq!(shape.iter().product::<usize>(), d_in * d_out);
    let mut delta = vec![0.0_f32; d_in];
    for (o, b) in b.chunks_exact(pair.rank).enumerate() {
        delta.fill(0.0);
        for (&b, a) in b.iter().zip(a.chunks_exact(d_in)) {
            delta.iter_mut().zip(a).for_each(|(d, a)| *d += b * a);
        }
        match layout {
            Layout::OutIn => {
                let row = &mut w[o * d_in..(o + 1) * d_in];
                row.iter_mut().zip(&delta).for_each(|(w, d)| *w += pair.scale * d);
            }
            Layout::InOut => {
                let column = w.iter_mut().skip(o).step_by(d_out);
                column.zip(&delta).for_each(|(w, d)| *w += pair.scale * d);
            }
        }
    }
}

/// The base's `config.json` with the class, the labels and the element type of what was written.
fn config(base: &Base, about: &About, precision: Precision) -> Map<String, Value> {
    let mut json = base.config().json.clone();
    let spec = base.spec();
    let stem = match spec.family {
        Family::Llama => "Llama",
        Family::Mistral => "Mistral",
        Family::Qwen2 => "Qwen2",
        Family::Qwen3 => "Qwen3",
        Family::Gpt2 => "GPT2",
        Family::Bert => "Bert",
    };
    let class = match about.task {
        Task::Classify { .. } => format!("{stem}ForSequenceClassification"),
        Task::CausalLm => match spec.family {
            Family::Gpt2 => "GPT2LMHeadModel".to_owned(),
            Family::Bert => "BertModel".to_owned(),
            _ => format!("{stem}ForCausalLM"),
        },
    };
    json.insert("architectures".into(), json!([class]));
    if let Task::Classify { classes, .. } = about.task {
        let label = |i: usize| about.labels.get(i).cloned().unwrap_or_else(|| format!("LABEL_{i}"));
        let names: Map<_, _> = (0..classes).map(|i| (i.to_string(), json!(label(i)))).collect();
        let ids: Map<_, _> = (0..classes).map(|i| (label(i), json!(i))).collect();
        json.insert("id2label".into(), Value::Object(names));
        json.insert("label2id".into(), Value::Object(ids));
        json.insert("problem_type".into(), json!("single_label_classification"));
        json.remove("num_labels");
    }
    if let Some(dtype) = precision.dtype() {
        let key = if json.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        let name = match dtype {
            DType::F32 => "float32",
            DType::Bf16 => "bfloat16",
            DType::F16 => "float16",
        };
        json.insert(key.into(), json!(name));
    }
    json
}
