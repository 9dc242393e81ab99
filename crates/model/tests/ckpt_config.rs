//! Configurations against transformers (`tests/golden/config`, made by the script there), and keys that are refused.

#![allow(clippy::unwrap_used, reason = "test helpers outside of test functions")]
mod ckpt_common;

use antiphon_kernels::Gelu;
use antiphon_model::config::ConfigProblem;
use antiphon_model::{Activation, Config, Positions, RopeScaling, Spec};
use ckpt_common::{llama_config, shared};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn rope(spec: &Spec) -> Value {
    let Positions::Rope { theta, scaling } = spec.positions else { return Value::Null };
    match scaling {
        RopeScaling::None => json!({ "rope_type": "default", "rope_theta": theta }),
        RopeScaling::Linear { factor } => {
            json!({ "rope_type": "linear", "rope_theta": theta, "factor": factor })
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => json!({
            "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_max_positions as u64,
        }),
    }
}

/// What the golden file records, from our side.
fn seen(config: &Config) -> Map<String, Value> {
    let s = &config.spec;
    let act = match s.activation {
        Activation::SwiGlu => "silu",
        Activation::Gelu(Gelu::Erf) => "erf",
        Activation::Gelu(Gelu::Tanh) => "tanh",
    };
    let Value::Object(map) = json!({
        "vocab": s.vocab, "hidden": s.hidden, "layers": s.layers, "heads": s.heads, "kv_heads": s.kv_heads,
        "head_dim": s.head_dim, "ffn": s.ffn, "max_positions": s.max_positions, "tied": s.tied, "act": act,
        "biases": [s.biases.qkv, s.biases.o, s.biases.mlp], "window": s.window, "qk_norm": s.qk_norm,
        "token_types": s.token_types, "initializer_range": config.initializer_range, "rope": rope(s),
        "bos": s.bos.into_iter().collect::<Vec<_>>(), "eos": s.eos, "pad": config.pad.into_iter().collect::<Vec<_>>(),
    }) else {
        unreachable!()
    };
    map
}

#[test]
fn configurations_mean_what_transformers_makes_of_them() {
    let golden: Vec<Value> = serde_json::from_str(include_str!("golden/config/golden.json")).unwrap();
    assert_eq!(golden.len(), 26);
    for case in &golden {
        let name = case["name"].as_str().unwrap();
        for form in ["given", "written"] {
            let config = Config::from_json(case[form].as_object().unwrap().clone());
            let config = config.unwrap_or_else(|e| panic!("{name}, {form}: {e}"));
            let ours = seen(&config);
            for (key, theirs) in case["expected"].as_object().unwrap() {
                let ours = match key.as_str() {
                    "eps" => {
                        assert_eq!(config.spec.norm.eps, theirs.as_f64().unwrap() as f32, "{name}: eps");
                        continue;
                    }
                    key => &ours[key],
                };
                // ids outside the vocabulary name no token, and transformers keeps them
                let vocab = config.spec.vocab as i64;
                let theirs = match (key.as_str(), theirs) {
                    ("bos" | "eos" | "pad", Value::Array(list)) => &Value::Array(
                        list.iter().filter(|v| (0..vocab).contains(&v.as_i64().unwrap())).cloned().collect(),
                    ),
                    _ => theirs,
                };
                assert_eq!(ours, theirs, "{name}, {form}: {key}");
            }
        }
    }
}

#[test]
fn the_shared_checkpoints_are_configured_without_unknown_keys() {
    for name in ["stories260k-hf", "tinystories-656k", "llama-2m-fresh"] {
        let Some(dir) = shared(&format!("models/{name}")) else { continue };
        let config = Config::read(&dir.join("config.json")).unwrap();
        assert!(config.ignored.iter().any(|k| k == "torch_dtype"), "{name}: {:?}", config.ignored);
        assert!(!config.ignored.iter().any(|k| k == "rope_theta"));
    }
}

/// Keys that published checkpoints carry and transformers does not write for itself any more.
#[test]
fn old_and_foreign_keys_that_change_nothing_are_ignored_and_listed() {
    let base = |family: &str| json!({ "model_type": family }).as_object().unwrap().clone();
    let cases = [
        (
            "llama",
            json!({ "pretraining_tp": 1, "rope_scaling": null, "rope_interleaved": false, "is_llama_config": true,
            "transformers.js_config": { "dtype": "q4" }, "use_cache": false, "max_length": 2048, "attention_dropout": 0.0 }),
        ),
        (
            "qwen2",
            json!({ "use_mrope": false, "use_sliding_window": false, "max_window_layers": 21, "sliding_window": 32768,
            "rope_theta": 1000000.0, "torch_dtype": "bfloat16" }),
        ),
        (
            "gpt2",
            json!({ "n_ctx": 1024, "hidden_size": 768, "n_embd": 768, "attn_pdrop": 0.1, "summary_type": "cls_index",
            "task_specific_params": { "text-generation": { "do_sample": true, "max_length": 50 } } }),
        ),
        (
            "bert",
            json!({ "gradient_checkpointing": false, "position_embedding_type": "absolute", "classifier_dropout": null,
            "pooler_type": "first_token_transform", "directionality": "bidi", "is_decoder": false,
            "some_new_key": null }),
        ),
    ];
    for (family, extra) in cases {
        let mut config = base(family);
        config.extend(extra.as_object().unwrap().clone());
        let read = Config::from_json(config).unwrap_or_else(|e| panic!("{family}: {e}"));
        assert!(!read.ignored.is_empty());
    }
    let mut config = llama_config(true);
    config.insert("eos_token_id".into(), json!([2, 99]));
    let read = Config::from_json(config).unwrap();
    assert_eq!(read.spec.eos, [2]);
    assert_eq!(read.ignored, ["eos_token_id 99: outside the vocabulary of 20"]);
}

#[test]
fn keys_that_would_change_the_mathematics_are_refused_by_name_value_and_remedy() {
    let refused = |family: &str, key: &str, value: Value| {
        let mut config = match family {
            "llama" | "mistral" | "qwen2" | "qwen3" => llama_config(false),
            _ => Map::new(),
        };
        config.insert("model_type".into(), json!(family));
        config.insert(key.into(), value);
        match Config::from_json(config) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("{family}: `{key}` was accepted"),
        }
    };
    let layers = json!(["full_attention", "sliding_attention"]);
    let cases: Vec<(&str, &str, Value, &[&str])> = vec![
        ("gemma", "x", json!(1), &["`model_type` = \"gemma\"", "llama, mistral, qwen2, qwen3, gpt2, bert"]),
        (
            "llama",
            "hidden_activation",
            json!("gelu"),
            &["unknown key `hidden_activation` = \"gelu\"", "did you mean `hidden_act`?"],
        ),
        ("llama", "attn_logit_softcapping", json!(50.0), &["unknown key `attn_logit_softcapping` = 50.0"]),
        ("llama", "hidden_act", json!("gelu"), &["`hidden_act` = \"gelu\"", "\"silu\""]),
        ("llama", "pretraining_tp", json!(2), &["`pretraining_tp` = 2", "supported: 1"]),
        ("llama", "sliding_window", json!(64), &["`sliding_window` = 64", "null"]),
        (
            "llama",
            "num_key_value_heads",
            json!(3),
            &["`num_key_value_heads` = 3", "divisor of the 2 query heads"],
        ),
        ("llama", "head_dim", json!(5), &["`head_dim` = 5", "even"]),
        (
            "llama",
            "num_attention_heads",
            json!(3),
            &["`hidden_size` = 8", "multiple of `num_attention_heads` = 3"],
        ),
        ("llama", "hidden_size", json!(-8), &["`hidden_size` = -8", "whole number"]),
        ("llama", "hidden_size", json!("8"), &["`hidden_size` = \"8\"", "whole number"]),
        ("llama", "vocab_size", json!(u64::MAX), &["`vocab_size`", "268435456"]),
        ("llama", "num_hidden_layers", json!(100_000), &["at most 4096 layers"]),
        ("llama", "rms_norm_eps", json!(0), &["`rms_norm_eps` = 0", "positive"]),
        ("llama", "tie_word_embeddings", json!(1), &["`tie_word_embeddings` = 1", "true or false"]),
        ("llama", "eos_token_id", json!("</s>"), &["`eos_token_id` = \"</s>\"", "token id"]),
        ("llama", "partial_rotary_factor", json!(0.5), &["`partial_rotary_factor` = 0.5", "supported: 1"]),
        ("llama", "rope_interleaved", json!(true), &["`rope_interleaved` = true", "false"]),
        (
            "llama",
            "rope_scaling",
            json!({ "rope_type": "yarn", "factor": 4.0 }),
            &["`rope_scaling.rope_type` = \"yarn\"", "\"llama3\""],
        ),
        (
            "llama",
            "rope_scaling",
            json!({ "type": "dynamic", "factor": 4.0 }),
            &["`rope_scaling.type` = \"dynamic\""],
        ),
        ("llama", "rope_scaling", json!({ "type": "linear" }), &["`rope_scaling.factor` = nothing"]),
        ("llama", "rope_scaling", json!({ "type": "linear", "factor": -1 }), &["`rope_scaling.factor` = -1"]),
        (
            "llama",
            "rope_parameters",
            json!({ "rope_type": "default", "mrope_section": [1] }),
            &["`rope_parameters.mrope_section`"],
        ),
        (
            "llama",
            "rope_parameters",
            json!({ "full_attention": { "rope_theta": 1e4 } }),
            &["`rope_parameters.full_attention`"],
        ),
        ("llama", "quantization_config", json!({ "bits": 4 }), &["`quantization_config`", "null"]),
        ("llama", "auto_map", json!({ "AutoModel": "x.y" }), &["`auto_map`"]),
        ("llama", "is_causal", json!(false), &["`is_causal` = false"]),
        ("llama", "is_encoder_decoder", json!(true), &["`is_encoder_decoder` = true"]),
        ("mistral", "attention_bias", json!(true), &["`attention_bias` = true"]),
        ("mistral", "layer_types", layers.clone(), &["`layer_types`", "the same attention in all 2 layers"]),
        ("qwen2", "attention_bias", json!(false), &["`attention_bias` = false", "true"]),
        ("qwen2", "mlp_bias", json!(true), &["`mlp_bias` = true"]),
        ("qwen3", "layer_types", layers, &["`layer_types`", "the same attention in all 2 layers"]),
        ("qwen3", "layer_types", json!(["full_attention"]), &["`layer_types`", "2 entries"]),
        (
            "qwen3",
            "layer_types",
            json!(["linear_attention", "full_attention"]),
            &["`layer_types`", "2 entries"],
        ),
        ("gpt2", "scale_attn_weights", json!(false), &["`scale_attn_weights` = false", "true"]),
        (
            "gpt2",
            "scale_attn_by_inverse_layer_idx",
            json!(true),
            &["`scale_attn_by_inverse_layer_idx` = true"],
        ),
        ("gpt2", "add_cross_attention", json!(true), &["`add_cross_attention` = true"]),
        ("gpt2", "activation_function", json!("relu"), &["`activation_function` = \"relu\"", "gelu_new"]),
        ("gpt2", "hidden_size", json!(768), &["`hidden_size` = 768", "`n_embd`"]),
        (
            "bert",
            "position_embedding_type",
            json!("relative_key"),
            &["`position_embedding_type`", "\"absolute\""],
        ),
        ("bert", "is_decoder", json!(true), &["`is_decoder` = true", "false"]),
        ("bert", "hidden_act", json!("quick_gelu"), &["`hidden_act` = \"quick_gelu\""]),
        ("bert", "rope_theta", json!(1e4), &["unknown key `rope_theta`"]),
    ];
    for (family, key, value, expected) in cases {
        let error = refused(family, key, value);
        for part in expected {
            assert!(error.contains(part), "{family} {key}: expected `{part}` in: {error}");
        }
    }
    let missing = Config::parse("{}").unwrap_err();
    assert!(matches!(missing, ConfigProblem::Missing { key: "model_type", .. }), "{missing}");
    assert!(matches!(Config::parse("[]").unwrap_err(), ConfigProblem::Json(_)));
}

#[test]
fn an_error_begins_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let error = Config::read(&path).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    std::fs::write(&path, r#"{"model_type":"llama","n_layerz":3}"#).unwrap();
    let error = Config::read(&path).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()) && error.contains("`n_layerz`"), "{error}");
}

proptest! {
    /// A key that no list knows is never ignored, and no value of a known key panics.
    #[test]
    fn no_configuration_panics(key in "[a-z_]{1,20}", which in 0_usize..40, n in any::<i64>(), kind in 0_u8..6) {
        let mut config = llama_config(true);
        let value = match kind {
            0 => json!(n),
            1 => json!(n as f64 * 0.5),
            2 => json!(n.to_string()),
            3 => json!([n]),
            4 => json!({ "factor": n, "type": "llama3" }),
            _ => json!(n % 2 == 0),
        };
        const KNOWN: [&str; 12] = ["hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "head_dim",
            "num_key_value_heads", "rope_scaling", "rope_parameters", "rope_theta", "eos_token_id", "layer_types",
            "rms_norm_eps"];
        match KNOWN.get(which) {
            Some(known) => {
                config.insert((*known).into(), value);
                let _ = Config::from_json(config);
            }
            None => {
                let key = format!("zz_{key}");
                config.insert(key.clone(), value);
                match Config::from_json(config) {
                    Err(ConfigProblem::UnknownKey { key: named, .. }) => prop_assert_eq!(named, key),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}
