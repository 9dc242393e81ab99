//! Adapters in.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use antiphon_core::{Schema, TensorSpec};
use antiphon_kernels::Mapped;
use serde_json::{Map, Value};

use super::settings::{LoraSettings, Targets, sites};
use super::{
    About, Adapter, AdapterError, CONFIG, EXTRA, Extra, POOLINGS, PROMPT, TENSORS, bottleneck,
    default_pooling, key,
};
use crate::gate::{self, GateError, Header, Limits, Stored};
use crate::names::{self, Part, Role};
use crate::spec::Spec;
use crate::wiring::{HeadWiring, LoraPair, Pooling, PromptWiring, Task, Wiring};

/// Reads the adapter in the directory `dir`, which must fit a model of this `spec`.
///
/// # Errors
/// Keys, pairs, shapes or ranks that do not fit the model or each other; settings that mean another computation; values
/// that are not finite.
pub fn read(dir: &Path, spec: &Spec) -> Result<Adapter, AdapterError> {
    let config = Settings::open(dir)?;
    let bottlenecks = bottleneck::is_one(&config.map);
    let file = Tensors::open(bottleneck::file(dir, bottlenecks))?;
    let extra = Extra::open(&file.path)?;
    let mut flat = Flat { file: &file, list: Vec::new(), theta: Vec::new() };
    let mut wiring = Wiring::default();
    let lora = match config.text("peft_type")?.as_deref() {
        _ if bottlenecks => {
            bottleneck::read(spec, &config, &mut flat, &mut wiring)?;
            None
        }
        Some("LORA") => {
            let settings = config.lora(spec)?;
            pairs(spec, &settings, &mut flat, &mut wiring)?;
            Some(settings)
        }
        Some("PROMPT_TUNING") => {
            prompt(spec, &config, &mut flat, &mut wiring)?;
            None
        }
        _ => return Err(config.wrong("peft_type", "\"LORA\", \"PROMPT_TUNING\"")),
    };
    let task = head(spec, &config, &extra, &mut flat, &mut wiring)?;
    file.all_used(&wiring, &flat.list, spec)?;
    wiring.schema = schema(&file.path, flat.list)?;
    if let Some(settings) = &lora {
        settings.check(spec, &wiring)?;
    }
    let named = if bottlenecks { "model_name" } else { "base_model_name_or_path" };
    let base_model = config.text(named)?.unwrap_or_default();
    let about = About { base_model, task, labels: extra.labels };
    Ok(Adapter { wiring, theta: flat.theta, about, lora })
}

fn pairs(
    spec: &Spec,
    settings: &LoraSettings,
    flat: &mut Flat<'_>,
    wiring: &mut Wiring,
) -> Result<(), AdapterError> {
    for (layer, proj, path) in sites(spec) {
        let name = |part: &str| format!("{path}.lora_{part}.weight");
        let present = |part| flat.file.header.tensors.contains_key(&key(wiring, &name(part)));
        if !present("A") && !present("B") {
            continue;
        }
        let Some((d_out, d_in)) = spec.proj_shape(proj) else { continue };
        let (rank, scale) = settings.of(&path)?;
        let partner = |part: &str| format!("its partner lora_{part} is there");
        let a = flat.take(wiring, name("A"), &[rank, d_in], &partner("B"))?;
        let b = flat.take(wiring, name("B"), &[d_out, rank], &partner("A"))?;
        if rank > d_in.min(d_out) {
            return Err(AdapterError::Shape {
                path: flat.file.path.clone(),
                name: name("A"),
                found: vec![rank, d_in],
                expected: format!("a rank of at most {}", d_in.min(d_out)),
            });
        }
        let dropout = settings.lora_dropout as f32;
        wiring.lora.insert((layer, proj), LoraPair { a, b, rank, scale, dropout });
    }
    Ok(())
}

fn prompt(
    spec: &Spec,
    config: &Settings,
    flat: &mut Flat<'_>,
    wiring: &mut Wiring,
) -> Result<(), AdapterError> {
    config.only(&[
        "num_virtual_tokens",
        "token_dim",
        "num_attention_heads",
        "num_layers",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_name_or_path",
        "tokenizer_kwargs",
    ])?;
    if config.map.get("num_transformer_submodules").is_some_and(|v| *v != 1) {
        return Err(config.wrong("num_transformer_submodules", "1"));
    }
    let tokens = config.whole("num_virtual_tokens")?;
    // names the prompt's key before its range is known
    wiring.prompt = Some(PromptWiring { range: 0..0, tokens });
    let range = flat.take(wiring, PROMPT.to_owned(), &[tokens, spec.hidden], "peft_type is PROMPT_TUNING")?;
    wiring.prompt = Some(PromptWiring { range, tokens });
    Ok(())
}

fn head(
    spec: &Spec,
    config: &Settings,
    extra: &Extra,
    flat: &mut Flat<'_>,
    wiring: &mut Wiring,
) -> Result<Task, AdapterError> {
    let name = |part| names::tensor_name(spec, Role::ClassHead(part));
    match config.text("task_type")?.as_deref() {
        None if !wiring.bottlenecks.is_empty() && flat.shape(&name(Part::Weight)).is_some() => {}
        Some("CAUSAL_LM") | None => return Ok(Task::CausalLm),
        Some("SEQ_CLS") => {}
        Some(_) => return Err(config.wrong("task_type", "\"CAUSAL_LM\", \"SEQ_CLS\"")),
    }
    // without a task_type the head is there, see above
    let because = "task_type is SEQ_CLS";
    let stored = key(wiring, &name(Part::Weight));
    let classes = match flat.file.header.tensors.get(&stored).map(|t| t.shape.as_slice()) {
        Some(&[classes, _]) => classes,
        _ => 1,
    };
    let weight = flat.take(wiring, name(Part::Weight), &[classes, spec.hidden], because)?;
    let bias = match names::class_head_bias(spec) {
        true => Some(flat.take(wiring, name(Part::Bias), &[classes], because)?),
        false => None,
    };
    wiring.head = Some(HeadWiring { weight, bias });
    Ok(Task::Classify { classes, pooling: extra.pooling(&flat.file.path, spec, classes)? })
}

impl Extra {
    /// Beside the file at `path`, if it is there.
    fn open(path: &Path) -> Result<Self, AdapterError> {
        match path.with_file_name(EXTRA) {
            path if path.is_file() => read_json(&path),
            _ => Ok(Self::default()),
        }
    }

    /// The pooling of a model with `classes` classes, whose labels must be as many.
    fn pooling(&self, path: &Path, spec: &Spec, classes: usize) -> Result<Pooling, AdapterError> {
        let wrong = |key: &str, found: String, supported: String| AdapterError::Setting {
            path: path.with_file_name(EXTRA),
            key: key.to_owned(),
            found,
            supported,
        };
        if !self.labels.is_empty() && self.labels.len() != classes {
            let found = format!("{} names", self.labels.len());
            return Err(wrong("labels", found, format!("one for each of the {classes} classes")));
        }
        let known = || POOLINGS.iter().filter(|(_, p)| spec.pooler || *p != Pooling::Pooler);
        let pooling = match &self.pooling {
            None => default_pooling(spec),
            Some(name) => match POOLINGS.iter().find(|(n, _)| n == name) {
                Some(&(_, pooling)) => pooling,
                None => {
                    let list: Vec<&str> = known().map(|(n, _)| *n).collect();
                    return Err(wrong("pooling", name.clone(), list.join(", ")));
                }
            },
        };
        if !known().any(|(_, p)| *p == pooling) {
            let list: Vec<&str> = known().map(|(n, _)| *n).collect();
            return Err(wrong("pooling", "pooler, which the base model lacks".into(), list.join(", ")));
        }
        Ok(pooling)
    }
}

/// An adapter of nothing but a classification head, of a model in `dir`.
pub(crate) fn head_alone(
    dir: &Path,
    spec: &Spec,
    classes: usize,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
) -> Result<Adapter, AdapterError> {
    let path = dir.join(TENSORS);
    let extra = Extra::open(&path)?;
    let task = Task::Classify { classes, pooling: extra.pooling(&path, spec, classes)? };
    let (mut list, mut theta, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
    for (name, shape, values) in tensors {
        gate::finite(&name, &values).map_err(|source| AdapterError::Gate { path: dir.to_owned(), source })?;
        ranges.push(theta.len()..theta.len() + values.len());
        theta.extend(values);
        list.push(TensorSpec { name, shape });
    }
    let mut ranges = ranges.into_iter();
    let head = ranges.next().map(|weight| HeadWiring { weight, bias: ranges.next() });
    let wiring = Wiring { schema: schema(dir, list)?, head, ..Wiring::default() };
    let about = About { base_model: dir.display().to_string(), task, labels: extra.labels };
    Ok(Adapter { wiring, theta, about, lora: None })
}

fn schema(path: &Path, list: Vec<TensorSpec>) -> Result<Schema, AdapterError> {
    Schema::new(list).map_err(|e| AdapterError::Unknown {
        path: path.to_owned(),
        name: e.to_string(),
        hint: String::new(),
    })
}

/// `adapter_config.json`.
pub(super) struct Settings {
    path: PathBuf,
    pub(super) map: Map<String, Value>,
}

/// Keys that say where an adapter comes from or how it was trained.
const HARMLESS: &[&str] = &[
    "peft_type",
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "modules_to_save",
    "num_transformer_submodules",
];

impl Settings {
    fn open(dir: &Path) -> Result<Self, AdapterError> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            let hint = if dir.join("config.json").is_file() {
                "; this directory holds a whole model: name it as the model"
            } else if dir.is_file() {
                "; this is a file: name the directory that holds it"
            } else {
                ""
            };
            return Err(AdapterError::NoFile { path, hint });
        }
        let map = read_json(&path)?;
        Ok(Self { path, map })
    }

    fn wrong(&self, key: &str, supported: &str) -> AdapterError {
        let found = self.map.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        self.setting(key, found, supported.to_owned())
    }

    pub(super) fn setting(&self, key: &str, found: String, supported: String) -> AdapterError {
        AdapterError::Setting { path: self.path.clone(), key: key.to_owned(), found, supported }
    }

    fn present(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<String>, AdapterError> {
        self.present(key)
            .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, "a string")))
            .transpose()
    }

    fn whole(&self, key: &str) -> Result<usize, AdapterError> {
        let n = self.map.get(key).and_then(Value::as_u64).filter(|&n| n > 0);
        n.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| self.wrong(key, "a whole number above 0"))
    }

    fn real(&self, key: &str, default: f64) -> Result<f64, AdapterError> {
        match self.map.get(key) {
            None => Ok(default),
            Some(v) => v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, AdapterError> {
        self.present(key).map_or(Ok(false), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false")))
    }

    /// Refuses keys beside `known` that are switched on.
    fn only(&self, known: &[&str]) -> Result<(), AdapterError> {
        let off = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        for (key, value) in &self.map {
            if !known.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()) && !off(value) {
                return Err(self.wrong(key, "no such key, or null"));
            }
        }
        Ok(())
    }

    /// Numbers by pattern.
    fn pattern<T>(
        &self,
        key: &str,
        number: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<(String, T)>, AdapterError> {
        let wrong = || self.wrong(key, "an object from module patterns to numbers above 0");
        let Some(map) = self.present(key) else { return Ok(Vec::new()) };
        let map = map.as_object().ok_or_else(wrong)?;
        map.iter().map(|(k, v)| Some((k.clone(), number(v)?))).collect::<Option<_>>().ok_or_else(wrong)
    }

    fn lora(&self, spec: &Spec) -> Result<LoraSettings, AdapterError> {
        self.only(&[
            "r",
            "lora_alpha",
            "lora_dropout",
            "target_modules",
            "use_rslora",
            "rank_pattern",
            "alpha_pattern",
            "layers_to_transform",
            // peft corrects it to what the layer is
            "fan_in_fan_out",
            "bias",
            // how training began
            "init_lora_weights",
            "loftq_config",
            "eva_config",
            "corda_config",
            "lora_ga_config",
            // say nothing unless their method is on
            "megatron_core",
            "qalora_group_size",
            "runtime_config",
            // among modules that the tensors show; the targets are checked against them
            "layers_pattern",
            "exclude_modules",
        ])?;
        if self.present("bias").is_some_and(|v| v != "none") {
            return Err(self.wrong("bias", "\"none\""));
        }
        let list = |v: &Value| -> Option<Vec<String>> {
            v.as_array()?.iter().map(|n| n.as_str().map(str::to_owned)).collect()
        };
        let targets = match self.present("target_modules") {
            Some(Value::String(text)) => Targets::Text(text.clone()),
            Some(v) => Targets::Names(
                list(v).ok_or_else(|| self.wrong("target_modules", "a list of module names, or a string"))?,
            ),
            None => return Err(self.wrong("target_modules", "a list of module names, or a string")),
        };
        let layers = match self.present("layers_to_transform") {
            None => None,
            Some(v) => {
                let one = v.as_u64().map(|n| vec![n as usize]);
                let many = || {
                    v.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize)).collect::<Option<Vec<_>>>()
                };
                let layers = one.or_else(many);
                Some(layers.filter(|l| l.iter().all(|&n| n < spec.layers)).ok_or_else(|| {
                    self.wrong("layers_to_transform", &format!("layers from 0 to {}", spec.layers - 1))
                })?)
            }
        };
        Ok(LoraSettings {
            r: if self.map.contains_key("r") { self.whole("r")? } else { 8 },
            lora_alpha: self.real("lora_alpha", 8.0)?,
            lora_dropout: self.real("lora_dropout", 0.0)?,
            use_rslora: self.flag("use_rslora")?,
            target_modules: targets,
            rank_pattern: self
                .pattern("rank_pattern", |v| v.as_u64().filter(|&n| n > 0).map(|n| n as usize))?,
            alpha_pattern: self.pattern("alpha_pattern", |v| v.as_f64().filter(|x| x.is_finite()))?,
            layers_to_transform: layers,
        })
    }
}

/// The file of tensors, past the gate.
struct Tensors {
    path: PathBuf,
    file: Mapped,
    header: Header,
}

impl Tensors {
    fn open(path: PathBuf) -> Result<Self, AdapterError> {
        if !path.is_file() {
            let hint = if path.with_file_name("adapter_model.bin").is_file() {
                "; adapter_model.bin can run code when loaded and is not read: save it again with peft"
            } else if path.with_file_name("pytorch_adapter.bin").is_file() {
                "; pytorch_adapter.bin can run code when loaded and is not read: save it with use_safetensors=True"
            } else {
                ""
            };
            return Err(AdapterError::NoFile { path, hint });
        }
        let io = |source| AdapterError::Io { path: path.clone(), source };
        let refused = |source| AdapterError::Gate { path: path.clone(), source };
        if std::fs::metadata(&path).map_err(io)?.len() == 0 {
            return Err(refused(GateError::NoLength { found: 0 }));
        }
        let file = Mapped::open(&path).map_err(io)?;
        let header = gate::header(file.bytes(), &Limits::LOCAL).map_err(refused)?;
        Ok(Self { path, file, header })
    }

    /// Fails on a tensor that nothing took.
    fn all_used(&self, wiring: &Wiring, taken: &[TensorSpec], spec: &Spec) -> Result<(), AdapterError> {
        let used: BTreeMap<String, ()> = taken.iter().map(|t| (key(wiring, &t.name), ())).collect();
        let Some(name) = self.header.tensors.keys().find(|n| !used.contains_key(*n)) else { return Ok(()) };
        let hint = if name.contains(".lora_magnitude_vector") {
            "; DoRA is not supported".to_owned()
        } else if name.contains(".default.") {
            "; the adapter's name must not be part of a key".to_owned()
        } else {
            match names::module_path(spec, 0, crate::spec::Proj::O) {
                Some(path) => {
                    format!("; expected names such as `{}`", key(wiring, &format!("{path}.lora_A.weight")))
                }
                None => String::new(),
            }
        };
        Err(AdapterError::Unknown { path: self.path.clone(), name: name.clone(), hint })
    }
}

/// The flat vector in the making.
pub(super) struct Flat<'a> {
    file: &'a Tensors,
    list: Vec<TensorSpec>,
    theta: Vec<f32>,
}

impl Flat<'_> {
    /// Shape of a tensor of the file.
    pub(super) fn shape(&self, stored: &str) -> Option<&[usize]> {
        self.file.header.tensors.get(stored).map(|t| t.shape.as_slice())
    }

    pub(super) fn missing(&self, name: String, because: &str) -> AdapterError {
        AdapterError::Missing { path: self.file.path.clone(), name, because: because.to_owned() }
    }

    /// Appends the tensor that a schema calls `name`, if it has this shape and finite values.
    pub(super) fn take(
        &mut self,
        wiring: &Wiring,
        name: String,
        shape: &[usize],
        because: &str,
    ) -> Result<Range<usize>, AdapterError> {
        let path = || self.file.path.clone();
        let stored = key(wiring, &name);
        let Some(located) = self.file.header.tensors.get(&stored) else {
            return Err(self.missing(stored, because));
        };
        if located.shape != shape {
            let (found, expected) = (located.shape.clone(), format!("{shape:?}"));
            return Err(AdapterError::Shape { path: path(), name: stored, found, expected });
        }
        let Stored::Weight(dtype) = located.dtype else {
            let (found, accepted) = (located.dtype.to_string(), "F32, BF16, F16");
            let source = GateError::DType { name: stored, found, accepted };
            return Err(AdapterError::Gate { path: path(), source });
        };
        let from = self.theta.len();
        self.theta.extend(gate::widen(&self.file.file.bytes()[located.bytes.clone()], dtype));
        gate::finite(&stored, &self.theta[from..])
            .map_err(|source| AdapterError::Gate { path: self.file.path.clone(), source })?;
        self.list.push(TensorSpec { name, shape: shape.to_vec() });
        Ok(from..self.theta.len())
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, AdapterError> {
    /// Bytes of a JSON file of an adapter.
    const MAX: u64 = 1 << 20;
    let io = |source| AdapterError::Io { path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(io)?.len();
    if found > MAX {
        return Err(io(std::io::Error::other(format!("{found} bytes; at most {MAX} are accepted"))));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    serde_json::from_str(&text).map_err(|source| AdapterError::Json { path: path.to_owned(), source })
}
