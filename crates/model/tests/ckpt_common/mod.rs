//! What the checkpoint tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test helpers outside of test functions")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The shared models and data, or `None` with a message where they are absent.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ANTIPHON_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let full = root.join("data").join(path);
    if !full.exists() {
        println!("skipped: {} is absent", full.display());
        return None;
    }
    Some(full)
}

/// A safetensors file of F32 tensors, by hand.
pub(crate) fn safetensors(tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, (shape, values)) in tensors {
        let from = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, data.len()] });
        header.insert(name.clone(), entry);
    }
    file(&serde_json::Value::Object(header).to_string(), &data)
}

/// A file with this header and these data.
pub(crate) fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

/// A small Llama configuration.
pub(crate) fn llama_config(tied: bool) -> serde_json::Map<String, serde_json::Value> {
    let serde_json::Value::Object(map) = serde_json::json!({
        "model_type": "llama", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 32, "tie_word_embeddings": tied,
    }) else {
        unreachable!()
    };
    map
}

/// Tensors that fit `config`, each holding its own numbers.
pub(crate) fn tensors_for(
    config: &serde_json::Map<String, serde_json::Value>,
) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let spec = antiphon_model::Config::from_json(config.clone()).unwrap().spec;
    antiphon_model::tensors(&spec, antiphon_model::Task::CausalLm)
        .into_iter()
        .enumerate()
        .map(|(i, t)| {
            let len: usize = t.shape.iter().product();
            (t.name, (t.shape, (0..len).map(|k| (i * 1000 + k) as f32 * 1e-3).collect()))
        })
        .collect()
}

/// Writes a directory with `config.json` and one weight file.
pub(crate) fn write_checkpoint(
    dir: &Path,
    config: &serde_json::Map<String, serde_json::Value>,
    tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>,
) {
    std::fs::write(dir.join("config.json"), serde_json::to_string_pretty(config).unwrap()).unwrap();
    std::fs::write(dir.join("model.safetensors"), safetensors(tensors)).unwrap();
}
