//! `config.json` → [`Spec`].
//!
//! Every key belongs to one of three classes. *Used* keys decide the [`Spec`]; a missing one takes the default of
//! the family's configuration class in transformers (5.23). *Neutral* keys would change the mathematics and must hold
//! the value that does not, such as `pretraining_tp: 1`. *Harmless* keys (metadata, generation settings,
//! dropout of a training that is over) are ignored and listed in [`Config::ignored`]. Any other key is an error:
//! a file that says something we do not understand may describe another function. The one exception is a `null`, by
//! which these files say "off".
//!
//! Deliberately missing: families that are not in [`Family`], mixtures of window and full attention between layers,
//! yarn and dynamic rotary scaling, quantised weights, code shipped with a checkpoint (`auto_map`).

mod keys;
mod rope;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use antiphon_core::Digest;
use antiphon_kernels::{Gelu, Layout};
use serde_json::{Map, Value, json};

use crate::spec::{Activation, Biases, Family, Norm, NormKind, Placement, Positions, Spec};
use keys::Keys;

/// A read `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The function that the checkpoint computes.
    pub spec: Spec,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// The token whose embedding starts at zero, and with which batches are padded.
    pub pad: Option<u32>,
    /// Keys that were present and change nothing here, in the order of the file.
    pub ignored: Vec<String>,
    /// The file as it was, for exports.
    pub json: Map<String, Value>,
}

/// A `config.json` that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct InvalidConfig {
    /// The file.
    pub path: PathBuf,
    /// What is wrong in it.
    pub problem: ConfigProblem,
}

/// What is wrong in a `config.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// The file cannot be read.
    #[error("cannot be read: {0}; expected the `config.json` of a Hugging Face checkpoint")]
    Unreadable(#[source] std::io::Error),
    /// Not JSON, or not an object.
    #[error("is not a JSON object: {0}")]
    Json(#[source] serde_json::Error),
    /// A key that nothing here knows.
    #[error("unknown key `{key}` = {found}{}: it may change the model's mathematics, so it is not ignored", near_text(near.as_deref()))]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// The nearest known key.
        near: Option<String>,
    },
    /// A known key with a value that means a model we cannot compute.
    #[error("`{key}` = {found} is not supported; supported: {supported}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What would work.
        supported: String,
    },
    /// A known key with a value of the wrong type or range.
    #[error("`{key}` = {found}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A key without which nothing is known.
    #[error("`{key}` is missing; {hint}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What would work.
        hint: String,
    },
}

fn near_text(near: Option<&str>) -> String {
    near.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
}

impl Config {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, InvalidConfig> {
        let fail = |problem| InvalidConfig { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|e| fail(ConfigProblem::Unreadable(e)))?;
        Self::parse(&text).map_err(fail)
    }

    /// Reads the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self, ConfigProblem> {
        Self::from_json(serde_json::from_str(text).map_err(ConfigProblem::Json)?)
    }

    /// Interprets the object of a `config.json`.
    pub fn from_json(json: Map<String, Value>) -> Result<Self, ConfigProblem> {
        let mut keys = Keys::new(&json);
        let family = family(&mut keys)?;
        neutral_everywhere(&mut keys, family)?;
        let spec = match family {
            Family::Gpt2 => gpt2(&mut keys)?,
            Family::Bert => bert(&mut keys)?,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama_like(family, &mut keys)?,
        };
        if !spec.heads.is_multiple_of(spec.kv_heads) {
            let found = spec.kv_heads.to_string();
            let supported = format!("a divisor of the {} query heads", spec.heads);
            return Err(ConfigProblem::Unsupported { key: "num_key_value_heads".into(), found, supported });
        }
        let initializer_range = keys.real("initializer_range", 0.02)?;
        let default_pad = if family == Family::Bert { Some(0) } else { None };
        let pad = keys.token("pad_token_id", default_pad, spec.vocab)?;
        let bos = keys.token("bos_token_id", default_token(family, 1), spec.vocab)?;
        let eos = keys.tokens("eos_token_id", default_token(family, 2), spec.vocab)?;
        let ignored = keys.finish()?;
        Ok(Self { spec: Spec { bos, eos, ..spec }, initializer_range, pad, ignored, json })
    }
}

impl Config {
    /// BLAKE3 over the keys that decide the function, in the order of their names. Ignored keys do not count.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let keys: BTreeMap<_, _> = self.json.iter().filter(|(k, _)| !self.ignored.contains(k)).collect();
        let text: String = keys.into_iter().map(|(k, v)| format!("{k}\0{v}\0")).collect();
        Digest::of(text.as_bytes())
    }
}

/// Transformers' default of `bos_token_id` and `eos_token_id`.
fn default_token(family: Family, llama: u32) -> Option<u32> {
    match family {
        Family::Llama | Family::Mistral => Some(llama),
        Family::Gpt2 => Some(50256),
        Family::Qwen2 | Family::Qwen3 | Family::Bert => None,
    }
}

fn family(keys: &mut Keys<'_>) -> Result<Family, ConfigProblem> {
    let known = [
        ("llama", Family::Llama),
        ("mistral", Family::Mistral),
        ("qwen2", Family::Qwen2),
        ("qwen3", Family::Qwen3),
        ("gpt2", Family::Gpt2),
        ("bert", Family::Bert),
    ];
    let list = known.map(|(name, _)| name).join(", ");
    let Some(name) = keys.text("model_type")? else {
        return Err(ConfigProblem::Missing { key: "model_type", hint: format!("expected one of: {list}") });
    };
    known.iter().find(|(k, _)| *k == name).map(|&(_, family)| family).ok_or_else(|| {
        ConfigProblem::Unsupported { key: "model_type".into(), found: format!("\"{name}\""), supported: list }
    })
}

/// Keys that may stand in any configuration and must not be switched on.
fn neutral_everywhere(keys: &mut Keys<'_>, family: Family) -> Result<(), ConfigProblem> {
    for key in ["is_encoder_decoder", "add_cross_attention"] {
        keys.neutral(key, &[json!(false)])?;
    }
    for key in ["quantization_config", "auto_map", "cross_attention_hidden_size"] {
        keys.neutral(key, &[])?;
    }
    for key in ["pruned_heads", "per_layer_config"] {
        keys.neutral(key, &[json!({}), json!([])])?;
    }
    if family == Family::Bert {
        keys.neutral("is_decoder", &[json!(false)])?;
        keys.neutral("is_causal", &[json!(false)])
    } else {
        // decoders are causal whatever this says
        keys.harmless(&["is_decoder"]);
        keys.neutral("is_causal", &[json!(true)])
    }
}

fn llama_like(family: Family, keys: &mut Keys<'_>) -> Result<Spec, ConfigProblem> {
    let qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
    let vocab = keys.size("vocab_size", if qwen { 151_936 } else { 32_000 })?;
    let hidden = keys.size("hidden_size", 4096)?;
    let layers = keys.layers("num_hidden_layers", 32)?;
    let heads = keys.size("num_attention_heads", 32)?;
    let kv_default = match family {
        Family::Llama => heads,
        Family::Mistral => 8,
        _ => 32,
    };
    let kv_heads = keys.size_or("num_key_value_heads", kv_default, heads)?;
    let head_dim = match (keys.opt_size("head_dim")?, family) {
        (Some(n), _) => n,
        (None, Family::Qwen3) => 128,
        (None, _) => divide(hidden, heads, "hidden_size", "num_attention_heads")?,
    };
    if !head_dim.is_multiple_of(2) {
        return Err(ConfigProblem::Unsupported {
            key: "head_dim".into(),
            found: head_dim.to_string(),
            supported: "an even number: rotary positions turn pairs".into(),
        });
    }
    let ffn = keys.size(
        "intermediate_size",
        match family {
            Family::Llama => 11_008,
            Family::Mistral => 14_336,
            _ => 22_016,
        },
    )?;
    let max_positions = keys.size(
        "max_position_embeddings",
        match family {
            Family::Llama => 2048,
            Family::Mistral => 131_072,
            _ => 32_768,
        },
    )?;
    let act = keys.text("hidden_act")?.unwrap_or("silu");
    if !matches!(act, "silu" | "swish") {
        return Err(ConfigProblem::Unsupported {
            key: "hidden_act".into(),
            found: format!("\"{act}\""),
            supported: "\"silu\" (the gated SwiGLU)".into(),
        });
    }
    let attention_bias = match family {
        Family::Llama | Family::Qwen3 => keys.flag("attention_bias", false)?,
        Family::Qwen2 => {
            keys.neutral("attention_bias", &[json!(true)])?;
            true
        }
        _ => {
            keys.neutral("attention_bias", &[json!(false)])?;
            false
        }
    };
    let mlp = match family {
        Family::Llama => keys.flag("mlp_bias", false)?,
        _ => {
            keys.neutral("mlp_bias", &[json!(false)])?;
            false
        }
    };
    for key in ["rope_interleaved", "use_mrope"] {
        keys.neutral(key, &[json!(false)])?;
    }
    keys.neutral("pretraining_tp", &[json!(1)])?;
    keys.harmless(&["attention_dropout", "hidden_dropout", "is_llama_config"]);
    Ok(Spec {
        family,
        vocab,
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        ffn,
        max_positions,
        norm: Norm { kind: NormKind::Rms, eps: keys.real("rms_norm_eps", 1e-6)? as f32 },
        placement: Placement::Pre,
        activation: Activation::SwiGlu,
        positions: rope::positions(keys, max_positions)?,
        biases: Biases { qkv: attention_bias, o: attention_bias && family != Family::Qwen2, mlp },
        qk_norm: family == Family::Qwen3,
        causal: true,
        window: window(family, layers, keys)?,
        fused_qkv: false,
        layout: Layout::OutIn,
        tied: keys.flag("tie_word_embeddings", false)?,
        token_types: None,
        pooler: false,
        kept: None,
        bos: None,
        eos: Vec::new(),
    })
}

/// The sliding window of every layer. Mistral has it on unless `null`; Qwen has a switch and, above
/// `max_window_layers`, kinds of layers, which here must agree.
fn window(family: Family, layers: usize, keys: &mut Keys<'_>) -> Result<Option<usize>, ConfigProblem> {
    let size = match family {
        Family::Llama => {
            keys.neutral("sliding_window", &[])?;
            None
        }
        Family::Mistral => keys.null_or_size("sliding_window", Some(4096))?,
        _ => {
            let size = keys.null_or_size("sliding_window", Some(4096))?;
            keys.flag("use_sliding_window", false)?.then_some(size).flatten()
        }
    };
    if matches!(family, Family::Llama | Family::Mistral) {
        keys.neutral("use_sliding_window", &[json!(size.is_some()), json!(false)])?;
    }
    // layers below this one see everything
    let first = match family {
        Family::Qwen2 | Family::Qwen3 => keys.count("max_window_layers", 28)?,
        _ => {
            keys.harmless(&["max_window_layers"]);
            0
        }
    };
    let windowed = |layer: usize| size.is_some() && layer >= first;
    let kinds: Vec<bool> = match keys.texts("layer_types")? {
        None => (0..layers).map(windowed).collect(),
        Some(kinds) => {
            let kinds: Option<Vec<bool>> = kinds
                .iter()
                .map(|&k| match k {
                    "full_attention" => Some(false),
                    "sliding_attention" => Some(true),
                    _ => None,
                })
                .collect();
            match kinds {
                Some(kinds) if kinds.len() == layers => kinds,
                _ => {
                    return Err(keys.unsupported(
                        "layer_types",
                        format!("{layers} entries, each \"full_attention\" or each \"sliding_attention\""),
                    ));
                }
            }
        }
    };
    match (kinds.iter().all(|&k| k), kinds.iter().any(|&k| k), size) {
        (_, false, None) => Ok(None),
        // Mistral takes its window from `sliding_window` alone and would slide here
        (_, false, Some(_)) if family != Family::Mistral => Ok(None),
        (true, _, Some(size)) => Ok(Some(size)),
        _ => {
            let key = if keys.has("layer_types") { "layer_types" } else { "max_window_layers" };
            Err(keys.unsupported(
                key,
                format!(
                    "the same attention in all {layers} layers, agreeing with `sliding_window` and `use_sliding_window`"
                ),
            ))
        }
    }
}

fn gpt2(keys: &mut Keys<'_>) -> Result<Spec, ConfigProblem> {
    for (alias, key) in [
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "n_positions"),
    ] {
        keys.alias(alias, key)?;
    }
    let hidden = keys.size("n_embd", 768)?;
    let heads = keys.size("n_head", 12)?;
    keys.neutral("scale_attn_weights", &[json!(true)])?;
    keys.neutral("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    keys.harmless(&[
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
        // the order of a product, not its value
        "reorder_and_upcast_attn",
        "n_ctx",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
    ]);
    Ok(Spec {
        family: Family::Gpt2,
        vocab: keys.size("vocab_size", 50_257)?,
        hidden,
        layers: keys.layers("n_layer", 12)?,
        heads,
        kv_heads: heads,
        head_dim: divide(hidden, heads, "n_embd", "n_head")?,
        ffn: keys.opt_size("n_inner")?.unwrap_or(4 * hidden),
        max_positions: keys.size("n_positions", 1024)?,
        norm: Norm { kind: NormKind::Layer, eps: keys.real("layer_norm_epsilon", 1e-5)? as f32 },
        placement: Placement::Pre,
        activation: gelu(keys, "activation_function", "gelu_new")?,
        positions: Positions::Learned,
        biases: Biases { qkv: true, o: true, mlp: true },
        qk_norm: false,
        causal: true,
        window: None,
        fused_qkv: true,
        layout: Layout::InOut,
        tied: keys.flag("tie_word_embeddings", true)?,
        token_types: None,
        pooler: false,
        kept: None,
        bos: None,
        eos: Vec::new(),
    })
}

fn bert(keys: &mut Keys<'_>) -> Result<Spec, ConfigProblem> {
    let hidden = keys.size("hidden_size", 768)?;
    let heads = keys.size("num_attention_heads", 12)?;
    keys.neutral("position_embedding_type", &[json!("absolute")])?;
    keys.harmless(&[
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ]);
    Ok(Spec {
        family: Family::Bert,
        vocab: keys.size("vocab_size", 30_522)?,
        hidden,
        layers: keys.layers("num_hidden_layers", 12)?,
        heads,
        kv_heads: heads,
        head_dim: divide(hidden, heads, "hidden_size", "num_attention_heads")?,
        ffn: keys.size("intermediate_size", 3072)?,
        max_positions: keys.size("max_position_embeddings", 512)?,
        norm: Norm { kind: NormKind::Layer, eps: keys.real("layer_norm_eps", 1e-12)? as f32 },
        placement: Placement::Post,
        activation: gelu(keys, "hidden_act", "gelu")?,
        positions: Positions::Learned,
        biases: Biases { qkv: true, o: true, mlp: true },
        qk_norm: false,
        causal: false,
        window: None,
        fused_qkv: false,
        layout: Layout::OutIn,
        tied: keys.flag("tie_word_embeddings", true)?,
        token_types: Some(keys.size("type_vocab_size", 2)?),
        pooler: true,
        kept: None,
        bos: None,
        eos: Vec::new(),
    })
}

fn gelu(keys: &mut Keys<'_>, key: &'static str, default: &str) -> Result<Activation, ConfigProblem> {
    match keys.text(key)?.unwrap_or(default) {
        "gelu" | "gelu_python" => Ok(Activation::Gelu(Gelu::Erf)),
        // four names of one formula
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => {
            Ok(Activation::Gelu(Gelu::Tanh))
        }
        _ => {
            Err(keys.unsupported(key, "\"gelu\", \"gelu_new\", \"gelu_fast\", \"gelu_pytorch_tanh\"".into()))
        }
    }
}

fn divide(hidden: usize, heads: usize, key: &'static str, by: &str) -> Result<usize, ConfigProblem> {
    if hidden.is_multiple_of(heads) {
        return Ok(hidden / heads);
    }
    Err(ConfigProblem::Unsupported {
        key: key.into(),
        found: hidden.to_string(),
        supported: format!("a multiple of `{by}` = {heads}"),
    })
}
