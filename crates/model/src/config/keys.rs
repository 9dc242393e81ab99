//! A reader that knows which keys of a `config.json` were looked at.

use std::collections::BTreeSet;

use antiphon_core::nearest;
use serde_json::{Map, Value};

use super::ConfigProblem;

/// Sizes above this are no model; below it, products of two fit 64 bits.
const MAX_SIZE: u64 = 1 << 28;
/// Layers above this are no model, and would make long lists of names.
const MAX_LAYERS: usize = 4096;

/// Metadata, and settings of a training that is over or of a decoding that is chosen elsewhere.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "chunk_size_feed_forward",
    "cls_token_id",
    "decoder_start_token_id",
    "dtype",
    "finetuning_task",
    "gradient_checkpointing",
    "id2label",
    "label2id",
    "mask_token_id",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "prefix",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_last_hidden_states",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    // generation, which older files keep here
    "assistant_confidence_threshold",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

pub(super) struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// Keys that were asked for, present or not.
    asked: BTreeSet<&'static str>,
    /// Among them, those whose value does not matter.
    harmless: BTreeSet<&'static str>,
    /// Things said about ignored values that are not plain keys.
    notes: Vec<String>,
}

/// How a value is shown in an error, cut where it is long.
fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

impl<'a> Keys<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        let harmless: BTreeSet<_> = HARMLESS.iter().copied().collect();
        Self { map, asked: harmless.clone(), harmless, notes: Vec::new() }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn raw(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.insert(key);
        self.map.get(key)
    }

    fn present(&mut self, key: &'static str) -> Option<&'a Value> {
        self.raw(key).filter(|v| !v.is_null())
    }

    pub(super) fn harmless(&mut self, keys: &[&'static str]) {
        self.asked.extend(keys);
        self.harmless.extend(keys);
    }

    pub(super) fn unsupported(&self, key: &'static str, supported: String) -> ConfigProblem {
        let found = self.map.get(key).map_or_else(|| "nothing".to_owned(), show);
        ConfigProblem::Unsupported { key: key.into(), found, supported }
    }

    fn wrong(&self, key: &'static str, expected: &'static str) -> ConfigProblem {
        let found = self.map.get(key).map_or_else(|| "nothing".to_owned(), show);
        ConfigProblem::Type { key: key.into(), found, expected }
    }

    /// The value must be absent, `null` or one of `values`.
    pub(super) fn neutral(&mut self, key: &'static str, values: &[Value]) -> Result<(), ConfigProblem> {
        match self.present(key) {
            None => Ok(()),
            Some(v) if values.iter().any(|n| same(n, v)) => Ok(()),
            Some(_) if values.is_empty() => Err(self.unsupported(key, "null, or no such key".into())),
            Some(_) => {
                let list: Vec<String> = values.iter().map(Value::to_string).collect();
                Err(self.unsupported(key, list.join(" or ")))
            }
        }
    }

    /// `key` under its other name. Both may stand there if they agree.
    pub(super) fn alias(&mut self, alias: &'static str, key: &'static str) -> Result<(), ConfigProblem> {
        match (self.raw(alias), self.raw(key)) {
            (Some(a), Some(b)) if a != b => Err(self.unsupported(alias, format!("the value of `{key}`"))),
            (Some(_), None) => Err(self.unsupported(alias, format!("this under the name `{key}`"))),
            _ => Ok(()),
        }
    }

    fn to_size(&self, key: &'static str, v: &Value) -> Result<usize, ConfigProblem> {
        match v.as_u64() {
            Some(n) if (1..=MAX_SIZE).contains(&n) => Ok(n as usize),
            _ => Err(self.wrong(key, "a whole number from 1 to 268435456")),
        }
    }

    /// A size with the default of a missing key; `null` is no size.
    pub(super) fn size(&mut self, key: &'static str, default: usize) -> Result<usize, ConfigProblem> {
        self.raw(key).map_or(Ok(default), |v| self.to_size(key, v))
    }

    /// A size that may be `null` or absent.
    pub(super) fn opt_size(&mut self, key: &'static str) -> Result<Option<usize>, ConfigProblem> {
        self.present(key).map(|v| self.to_size(key, v)).transpose()
    }

    /// A size that differs between a missing key and `null`.
    pub(super) fn size_or(
        &mut self,
        key: &'static str,
        missing: usize,
        null: usize,
    ) -> Result<usize, ConfigProblem> {
        Ok(self.null_or_size(key, Some(missing))?.unwrap_or(null))
    }

    /// A size, or `None` for `null`; `missing` where there is no such key.
    pub(super) fn null_or_size(
        &mut self,
        key: &'static str,
        missing: Option<usize>,
    ) -> Result<Option<usize>, ConfigProblem> {
        match self.raw(key) {
            None => Ok(missing),
            Some(Value::Null) => Ok(None),
            Some(v) => self.to_size(key, v).map(Some),
        }
    }

    /// A number of things, possibly none.
    pub(super) fn count(&mut self, key: &'static str, default: usize) -> Result<usize, ConfigProblem> {
        match self.present(key) {
            Some(v) if v.as_u64() == Some(0) => Ok(0),
            Some(v) => self.to_size(key, v),
            None => Ok(default),
        }
    }

    pub(super) fn layers(&mut self, key: &'static str, default: usize) -> Result<usize, ConfigProblem> {
        let n = self.size(key, default)?;
        if n <= MAX_LAYERS { Ok(n) } else { Err(self.wrong(key, "at most 4096 layers")) }
    }

    /// A finite positive real.
    pub(super) fn real(&mut self, key: &'static str, default: f64) -> Result<f64, ConfigProblem> {
        match self.raw(key).map(Value::as_f64) {
            None => Ok(default),
            Some(Some(x)) if x.is_finite() && x > 0.0 => Ok(x),
            Some(_) => Err(self.wrong(key, "a positive number")),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, ConfigProblem> {
        match self.raw(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<&'a str>, ConfigProblem> {
        self.present(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, "a string"))).transpose()
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<&'a str>>, ConfigProblem> {
        let Some(v) = self.present(key) else { return Ok(None) };
        let list: Option<Vec<&str>> = v.as_array().and_then(|a| a.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| self.wrong(key, "a list of strings"))
    }

    pub(super) fn object(
        &mut self,
        key: &'static str,
    ) -> Result<Option<&'a Map<String, Value>>, ConfigProblem> {
        self.present(key).map(|v| v.as_object().ok_or_else(|| self.wrong(key, "an object"))).transpose()
    }

    /// A token id. Files derived from a larger model keep ids that their vocabulary lacks (and `-1` for none): nothing
    /// can use those, so they are ignored, and said to be.
    pub(super) fn token(
        &mut self,
        key: &'static str,
        default: Option<u32>,
        vocab: usize,
    ) -> Result<Option<u32>, ConfigProblem> {
        let ids = self.tokens(key, default, vocab)?;
        if ids.len() > 1 { Err(self.wrong(key, "one token id")) } else { Ok(ids.first().copied()) }
    }

    /// Token ids: one, a list, or none.
    pub(super) fn tokens(
        &mut self,
        key: &'static str,
        default: Option<u32>,
        vocab: usize,
    ) -> Result<Vec<u32>, ConfigProblem> {
        let given: Vec<i64> = match self.raw(key) {
            None => default.map(i64::from).into_iter().collect(),
            Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => match list.iter().map(Value::as_i64).collect() {
                Some(ids) => ids,
                None => return Err(self.wrong(key, "token ids")),
            },
            Some(v) => vec![v.as_i64().ok_or_else(|| self.wrong(key, "a token id, a list of them or null"))?],
        };
        let mut ids = Vec::new();
        for id in given {
            match u32::try_from(id) {
                Ok(id) if (id as usize) < vocab => ids.push(id),
                _ if self.has(key) => {
                    self.notes.push(format!("{key} {id}: outside the vocabulary of {vocab}"))
                }
                _ => {}
            }
        }
        Ok(ids)
    }

    /// Ignored keys, or the first key that nobody asked for.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigProblem> {
        let mut ignored = Vec::new();
        for (key, value) in self.map {
            if self.harmless.contains(key.as_str()) {
                ignored.push(key.clone());
            } else if !self.asked.contains(key.as_str()) {
                if !value.is_null() {
                    return Err(ConfigProblem::UnknownKey {
                        key: key.clone(),
                        found: show(value),
                        near: nearest(key, self.asked.iter().copied()).map(str::to_owned),
                    });
                }
                ignored.push(key.clone());
            }
        }
        ignored.extend(self.notes);
        Ok(ignored)
    }
}

/// Equality by value: `1.0` is `1`.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && a.as_f64() == b.as_f64())
}
