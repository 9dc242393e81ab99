//! Adapters out.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::settings::LoraSettings;
use super::{
    About, AdapterError, CONFIG, EXTRA, Extra, POOLINGS, bottleneck, check_length, default_pooling, key,
};
use crate::atomic;
use crate::gate::write::{self as safetensors, Out};
use crate::names;
use crate::spec::Spec;
use crate::wiring::{Task, Wiring};

/// Writes the adapter that `theta` is under `wiring` into the directory `dir`, which is made if absent. Each file
/// appears whole, the tensors before the configuration that refers to them.
///
/// `lora` holds the user's own settings, for a file that looks as peft would have written it; `None` derives them. Either
/// way peft, reading the files, makes exactly this adapter.
///
/// # Errors
/// Settings that mean other modules, ranks or scales than the wiring; trained checkpoint tensors, which make no
/// adapter; a file that cannot be written.
pub fn write(
    dir: &Path,
    spec: &Spec,
    wiring: &Wiring,
    theta: &[f32],
    about: &About,
    lora: Option<&LoraSettings>,
) -> Result<(), AdapterError> {
    if let Some(name) = wiring.live.keys().next() {
        return Err(AdapterError::NotAnAdapter(name.clone()));
    }
    let kinds = [!wiring.lora.is_empty(), wiring.prompt.is_some(), !wiring.bottlenecks.is_empty()];
    if let (Some(name), true) = (wiring.schema.tensors().first(), kinds[2] && kinds[..2].contains(&true)) {
        return Err(AdapterError::NotAnAdapter(format!("{} beside bottlenecks", name.name)));
    }
    if let (Some(prompt), Some((layer, proj))) = (&wiring.prompt, wiring.lora.keys().next()) {
        let path = names::module_path(spec, *layer, *proj).unwrap_or_default();
        return Err(AdapterError::NotAnAdapter(format!("{path} beside a prompt of {}", prompt.tokens)));
    }
    check_length(&wiring.schema, theta)?;
    let config = match wiring.prompt {
        None if kinds[2] => bottleneck::config(spec, wiring, about),
        Some(_) => prompt_config(spec, wiring, about),
        None => {
            let derived;
            let settings = match lora {
                Some(given) => given,
                None => {
                    derived = LoraSettings::derive(spec, wiring);
                    &derived
                }
            };
            settings.check(spec, wiring)?;
            let mut map = common("LORA", about);
            map.extend(settings.to_json(spec));
            map.insert("modules_to_save".into(), modules_to_save(spec, wiring));
            map
        }
    };
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| AdapterError::Io { path, source }
    };
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let tensors = wiring
        .schema
        .iter()
        .map(|(t, range)| Out::values(key(wiring, &t.name), t.shape.clone(), &theta[range]))
        .collect();
    let path = bottleneck::file(dir, kinds[2]);
    safetensors::write(&path, tensors).map_err(io(&path))?;
    write_extra(dir, spec, about)?;
    put_json(&dir.join(CONFIG), &config)
}

fn put_json(path: &Path, value: &impl serde::Serialize) -> Result<(), AdapterError> {
    atomic::write(path, |w| {
        serde_json::to_writer_pretty(&mut *w, value)?;
        w.write_all(b"\n")
    })
    .map_err(|source| AdapterError::Io { path: path.to_owned(), source })
}

/// The keys that every adapter has.
fn common(peft_type: &str, about: &About) -> Map<String, Value> {
    let task_type = match about.task {
        Task::CausalLm => "CAUSAL_LM",
        Task::Classify { .. } => "SEQ_CLS",
    };
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
    put("peft_type", json!(peft_type));
    put("task_type", json!(task_type));
    put("auto_mapping", Value::Null);
    put("base_model_name_or_path", json!(about.base_model));
    put("revision", Value::Null);
    put("inference_mode", json!(true));
    map
}

fn modules_to_save(spec: &Spec, wiring: &Wiring) -> Value {
    match wiring.head {
        Some(_) => json!([names::class_head_module(spec)]),
        None => Value::Null,
    }
}

fn prompt_config(spec: &Spec, wiring: &Wiring, about: &About) -> Map<String, Value> {
    let mut map = common("PROMPT_TUNING", about);
    let mut put = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
    put("num_virtual_tokens", json!(wiring.prompt.as_ref().map(|p| p.tokens)));
    put("token_dim", json!(spec.hidden));
    put("num_transformer_submodules", json!(1));
    put("num_attention_heads", json!(spec.heads));
    put("num_layers", json!(spec.layers));
    // what the first values were made from no longer matters, and a text would need the tokenizer
    put("prompt_tuning_init", json!("RANDOM"));
    put("prompt_tuning_init_text", Value::Null);
    put("tokenizer_name_or_path", Value::Null);
    put("tokenizer_kwargs", Value::Null);
    put("modules_to_save", modules_to_save(spec, wiring));
    map
}

/// Writes what peft and transformers have no words for, or removes what an earlier model left in this directory.
pub(crate) fn write_extra(dir: &Path, spec: &Spec, about: &About) -> Result<(), AdapterError> {
    let path = dir.join(EXTRA);
    match extra(spec, about) {
        Some(extra) => put_json(&path, &extra),
        None if path.exists() => {
            std::fs::remove_file(&path).map_err(|source| AdapterError::Io { path, source })
        }
        None => Ok(()),
    }
}

fn extra(spec: &Spec, about: &About) -> Option<Extra> {
    let Task::Classify { pooling, .. } = about.task else { return None };
    let pooling = (pooling != default_pooling(spec))
        .then(|| POOLINGS.iter().find(|(_, p)| *p == pooling).map(|(name, _)| (*name).to_owned()))
        .flatten();
    (pooling.is_some() || !about.labels.is_empty()).then(|| Extra { pooling, labels: about.labels.clone() })
}
