//! Rotary positions of a `config.json`, in the three layouts that exist.
//!
//! Before transformers 5 `rope_theta` stood at the top and `rope_scaling` held the stretching under `type`, later
//! `rope_type`; since then `rope_parameters` holds all of it. Where both objects are given the old one wins, as there.

use serde_json::{Map, Value, json};

use super::ConfigProblem;
use super::keys::Keys;
use crate::spec::{Positions, RopeScaling};

/// Transformers' base for every family here.
const DEFAULT_THETA: f64 = 10_000.0;

pub(super) fn positions(keys: &mut Keys<'_>, max_positions: usize) -> Result<Positions, ConfigProblem> {
    keys.neutral("partial_rotary_factor", &[json!(1)])?;
    let top_theta = keys.real("rope_theta", DEFAULT_THETA)?;
    let original = keys.opt_size("original_max_position_embeddings")?;
    let legacy = keys.object("rope_scaling")?.filter(|m| !m.is_empty());
    let current = keys.object("rope_parameters")?.filter(|m| !m.is_empty());
    let (place, map) = match (legacy, current) {
        (Some(map), _) => ("rope_scaling", map),
        (None, Some(map)) => ("rope_parameters", map),
        (None, None) => return Ok(Positions::Rope { theta: top_theta, scaling: RopeScaling::None }),
    };
    let rope = Rope { place, map };
    let theta = rope.real("rope_theta")?.unwrap_or(top_theta);
    let kind = match (map.get("rope_type"), map.get("type")) {
        (Some(v), _) | (None, Some(v)) => v.as_str().unwrap_or_default(),
        (None, None) => "default",
    };
    let (scaling, own): (_, &[&str]) = match kind {
        "default" => (RopeScaling::None, &[]),
        "linear" => (RopeScaling::Linear { factor: rope.needed("factor")? }, &["factor"]),
        "llama3" => (
            RopeScaling::Llama3 {
                factor: rope.needed("factor")?,
                low_freq_factor: rope.needed("low_freq_factor")?,
                high_freq_factor: rope.needed("high_freq_factor")?,
                original_max_positions: match (original, rope.real("original_max_position_embeddings")?) {
                    (Some(n), _) => n as f64,
                    (None, Some(n)) => n,
                    (None, None) => max_positions as f64,
                },
            },
            &["factor", "low_freq_factor", "high_freq_factor"],
        ),
        _ => {
            let key = if map.contains_key("rope_type") { "rope_type" } else { "type" };
            return Err(rope.unsupported(key, "\"default\", \"linear\", \"llama3\""));
        }
    };
    for (key, value) in map {
        let known = ["rope_type", "type", "rope_theta", "original_max_position_embeddings"];
        let full = key == "partial_rotary_factor" && value.as_f64() == Some(1.0);
        if !(value.is_null() || full || known.contains(&key.as_str()) || own.contains(&key.as_str())) {
            return Err(rope.unsupported(key, "no such key for this type of rotary positions"));
        }
    }
    if let RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } = scaling
        && high <= low
    {
        return Err(rope.unsupported("high_freq_factor", "a number above `low_freq_factor`"));
    }
    Ok(Positions::Rope { theta, scaling })
}

struct Rope<'a> {
    place: &'static str,
    map: &'a Map<String, Value>,
}

impl Rope<'_> {
    fn unsupported(&self, key: &str, supported: &str) -> ConfigProblem {
        let found = self.map.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        let key = format!("{}.{key}", self.place);
        ConfigProblem::Unsupported { key, found, supported: supported.to_owned() }
    }

    fn real(&self, key: &str) -> Result<Option<f64>, ConfigProblem> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
                _ => Err(self.unsupported(key, "a positive number")),
            },
        }
    }

    fn needed(&self, key: &str) -> Result<f64, ConfigProblem> {
        self.real(key)?.ok_or_else(|| self.unsupported(key, "a positive number"))
    }
}
