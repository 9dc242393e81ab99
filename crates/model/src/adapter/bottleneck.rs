//! Bottleneck adapters in the layout of AdapterHub's `adapters` 1.3 (`load_adapter(dir, use_safetensors=True)` reads it): `adapter.safetensors` under the
//! names of [`names::bottleneck_tensors`], and an `adapter_config.json` of a `DoubleSeqBnConfig`. A classification head stands in the
//! same file under the checkpoint's name for it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::read::{Flat, Settings};
use super::{About, AdapterError};
use crate::names;
use crate::spec::{Family, Spec};
use crate::wiring::{Bottleneck, Branch, Wiring};

/// File of the tensors.
pub(super) const TENSORS: &str = "adapter.safetensors";

/// What of `DoubleSeqBnConfig` decides what is computed. The rest is of other kinds of adapters.
fn computes() -> [(&'static str, Value); 12] {
    [
        ("mh_adapter", json!(true)),
        ("output_adapter", json!(true)),
        ("non_linearity", json!("gelu")),
        ("original_ln_before", json!(false)),
        ("ln_before", json!(false)),
        ("ln_after", json!(false)),
        ("is_parallel", json!(false)),
        ("scaling", json!(1.0)),
        ("use_gating", json!(false)),
        ("phm_layer", json!(false)),
        ("residual_before_ln", json!(true)),
        ("adapter_residual_before_ln", json!(false)),
    ]
}

/// Whether settings are of AdapterHub and not of peft.
pub(super) fn is_one(map: &Map<String, Value>) -> bool {
    map.contains_key("model_class") && map.contains_key("config")
}

/// `adapter_config.json`.
pub(super) fn config(spec: &Spec, wiring: &Wiring, about: &About) -> Map<String, Value> {
    let width = wiring.bottlenecks.values().map(|b| b.width).next().unwrap_or(1);
    let mut config: Map<String, Value> = computes().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let absent = |layer: &usize| !wiring.bottlenecks.contains_key(&(*layer, Branch::Mlp));
    let mut put = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    put("reduction_factor", json!(spec.hidden as f64 / width as f64));
    put("leave_out", json!((0..spec.layers).filter(absent).collect::<Vec<_>>()));
    put("original_ln_after", json!(true));
    put("init_weights", json!("bert"));
    put("cross_adapter", json!(false));
    put("dropout", json!(0.0));
    put("inv_adapter", Value::Null);
    put("inv_adapter_reduction_factor", Value::Null);
    let (model_type, class) = match spec.family {
        Family::Llama => ("llama", "LlamaForCausalLM"),
        Family::Mistral => ("mistral", "MistralForCausalLM"),
        Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
        Family::Gpt2 => ("gpt2", "GPT2LMHeadModel"),
        Family::Bert => ("bert", "BertForSequenceClassification"),
    };
    let file = json!({
        "config": config,
        "hidden_size": spec.hidden,
        "model_type": model_type,
        "model_class": class,
        "model_name": about.base_model,
        "name": names::BOTTLENECK,
        "version": "adapters.1.3.0",
    });
    file.as_object().cloned().unwrap_or_default()
}

/// Takes the bottlenecks of the file that `flat` reads.
pub(super) fn read(
    spec: &Spec,
    config: &Settings,
    flat: &mut Flat<'_>,
    wiring: &mut Wiring,
) -> Result<(), AdapterError> {
    let table = config.map.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, expected) in computes() {
        // what is left out has the value that adapters gives it, which is one of these but for the activation
        let left_out = key != "non_linearity" && !table.contains_key(key);
        if !left_out && table.get(key) != Some(&expected) {
            let found = table.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
            let supported = format!("{expected}, as in a DoubleSeqBnConfig(non_linearity=\"gelu\")");
            return Err(config.setting(&format!("config.{key}"), found, supported));
        }
    }
    for layer in 0..spec.layers {
        for branch in [Branch::Attention, Branch::Mlp] {
            let tensors = names::bottleneck_tensors(spec, layer, branch);
            let Some(shape) = tensors.iter().find_map(|name| flat.shape(name)) else { continue };
            // of a whole bottleneck, `[width, hidden]` comes first
            let width = *shape.first().unwrap_or(&1);
            let because = "another tensor of its bottleneck is there";
            let [down, down_bias, up, up_bias] = tensors;
            // names the keys before their ranges are known
            wiring.bottlenecks.insert((layer, branch), Bottleneck::default());
            let bottleneck = Bottleneck {
                down: flat.take(wiring, down, &[width, spec.hidden], because)?,
                down_bias: flat.take(wiring, down_bias, &[width], because)?,
                up: flat.take(wiring, up, &[spec.hidden, width], because)?,
                up_bias: flat.take(wiring, up_bias, &[spec.hidden], because)?,
                width,
            };
            wiring.bottlenecks.insert((layer, branch), bottleneck);
        }
    }
    if wiring.bottlenecks.is_empty() {
        let [name, ..] = names::bottleneck_tensors(spec, 0, Branch::Attention);
        return Err(flat.missing(name, "adapter_config.json describes bottlenecks"));
    }
    Ok(())
}

/// File of an adapter's tensors in `dir`.
pub(super) fn file(dir: &Path, bottlenecks: bool) -> std::path::PathBuf {
    dir.join(if bottlenecks { TENSORS } else { super::TENSORS })
}
