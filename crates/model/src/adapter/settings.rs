//! peft's settings of a LoRA, and what they mean for a module.

use std::collections::{BTreeMap, BTreeSet};

use antiphon_kernels::Layout;
use fancy_regex::Regex;
use serde_json::{Map, Value, json};

use super::AdapterError;
use crate::names::{self, Role};
use crate::spec::{Proj, Spec};
use crate::wiring::{LoraPair, Pooling, Task, Wiring};

/// Which modules have pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Paths, or their ends after a dot.
    Names(Vec<String>),
    /// A regular expression over whole paths, or `all-linear`.
    Text(String),
}

/// The fields of peft's `LoraConfig` that decide what an adapter computes.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSettings {
    /// Rank of modules that `rank_pattern` does not match.
    pub r: usize,
    /// Numerator of the scale of modules that `alpha_pattern` does not match.
    pub lora_alpha: f64,
    /// Dropout on the low-rank path in training.
    pub lora_dropout: f64,
    /// Scale by `alpha / sqrt r` (arXiv:2312.03732) instead of `alpha / r`.
    pub use_rslora: bool,
    /// The modules.
    pub target_modules: Targets,
    /// Ranks by pattern, the first match wins.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas by pattern, the first match wins.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Layers that targets apply to; `None` is all.
    pub layers_to_transform: Option<Vec<usize>>,
}

/// A linear map that can have a pair, with its path.
pub(super) fn sites(spec: &Spec) -> Vec<(usize, Proj, String)> {
    const PROJS: [Proj; 8] =
        [Proj::Q, Proj::K, Proj::V, Proj::Qkv, Proj::O, Proj::Gate, Proj::Up, Proj::Down];
    (0..spec.layers)
        .flat_map(|layer| PROJS.map(|proj| (layer, proj)))
        .filter_map(|(layer, proj)| Some((layer, proj, names::module_path(spec, layer, proj)?)))
        .collect()
}

/// Every module with tensors in transformers' class, among which peft looks for targets.
fn modules(spec: &Spec) -> Vec<String> {
    // classes and pooling only decide which modules are listed
    let task =
        Task::Classify { classes: 1, pooling: if spec.causal { Pooling::Last } else { Pooling::Pooler } };
    let mut list: Vec<String> = names::tensors(spec, task)
        .into_iter()
        .filter(|t| !matches!(t.role, Role::ClassHead(_)))
        .filter_map(|t| t.name.rsplit_once('.').map(|(module, _)| module.to_owned()))
        .chain(["lm_head".to_owned()])
        .collect();
    list.dedup();
    list
}

fn regex(key: &'static str, pattern: &str, full: &str) -> Result<Regex, AdapterError> {
    Regex::new(full).map_err(|e| AdapterError::Pattern {
        key,
        pattern: pattern.to_owned(),
        source: Box::new(e),
    })
}

/// peft's `get_pattern_key`: the first key that matches the end of the path.
fn by_pattern<T: Copy>(
    key: &'static str,
    list: &[(String, T)],
    common: T,
    path: &str,
) -> Result<T, AdapterError> {
    for (pattern, value) in list {
        if regex(key, pattern, &format!(r"^(.*\.)?({pattern})$"))?.is_match(path).unwrap_or(false) {
            return Ok(*value);
        }
    }
    Ok(common)
}

impl LoraSettings {
    /// Settings that describe the pairs of `wiring`: the commonest rank and scale as the rule, the others by path.
    #[must_use]
    pub fn derive(spec: &Spec, wiring: &Wiring) -> Self {
        let paths: Vec<(String, &LoraPair)> = wiring
            .lora
            .iter()
            .filter_map(|(&(layer, proj), pair)| Some((names::module_path(spec, layer, proj)?, pair)))
            .collect();
        let alpha = |pair: &LoraPair| tidy(f64::from(pair.scale) * pair.rank as f64, pair);
        let r = commonest(paths.iter().map(|(_, p)| p.rank)).unwrap_or(1);
        let lora_alpha = commonest(paths.iter().map(|(_, p)| alpha(p).to_bits())).map_or(1.0, f64::from_bits);
        let exact = |path: &str| path.replace('.', r"\.");
        let derived = Self {
            r,
            lora_alpha,
            lora_dropout: paths.first().map_or(0.0, |(_, p)| tidy_f32(p.dropout)),
            use_rslora: false,
            target_modules: Targets::Names(shortest_names(spec, wiring)),
            rank_pattern: paths
                .iter()
                .filter(|(_, p)| p.rank != r)
                .map(|(m, p)| (exact(m), p.rank))
                .collect(),
            alpha_pattern: paths
                .iter()
                .filter(|(_, p)| alpha(p) != lora_alpha)
                .map(|(m, p)| (exact(m), alpha(p)))
                .collect(),
            layers_to_transform: None,
        };
        derived.in_layers(spec, wiring).unwrap_or(derived)
    }

    /// The same with modules named by their kind and `layers_to_transform` beside them, where every pair lies in some of the
    /// layers and those have the same modules: as the user would write it, and not a path for each module.
    fn in_layers(&self, spec: &Spec, wiring: &Wiring) -> Option<Self> {
        let layers: BTreeSet<usize> = wiring.lora.keys().map(|(layer, _)| *layer).collect();
        if layers.is_empty() || layers.len() == spec.layers {
            return None;
        }
        let everywhere = wiring
            .lora
            .iter()
            .flat_map(|(&(_, proj), pair)| (0..spec.layers).map(move |layer| ((layer, proj), pair.clone())));
        let spread = Wiring { lora: everywhere.collect(), ..Wiring::default() };
        let named = Self {
            target_modules: Targets::Names(shortest_names(spec, &spread)),
            layers_to_transform: Some(layers.into_iter().collect()),
            ..self.clone()
        };
        named.check(spec, wiring).is_ok().then_some(named)
    }

    /// Rank and scale that peft gives the module at `path`.
    pub(super) fn of(&self, path: &str) -> Result<(usize, f32), AdapterError> {
        let rank = by_pattern("rank_pattern", &self.rank_pattern, self.r, path)?;
        let alpha = by_pattern("alpha_pattern", &self.alpha_pattern, self.lora_alpha, path)?;
        let inner = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / inner) as f32))
    }

    /// Whether peft gives the module at `path` in `layer` a pair.
    fn targets(&self, layer: Option<usize>, path: &str) -> Result<bool, AdapterError> {
        match &self.target_modules {
            Targets::Text(text) if text.eq_ignore_ascii_case("all-linear") => Ok(layer.is_some()),
            Targets::Text(text) => {
                Ok(regex("target_modules", text, &format!("^(?:{text})$"))?.is_match(path).unwrap_or(false))
            }
            Targets::Names(list) if list.iter().any(|n| n == path) => Ok(true),
            Targets::Names(list) => {
                let ends = list
                    .iter()
                    .any(|n| path.strip_suffix(n.as_str()).is_some_and(|rest| rest.ends_with('.')));
                let inside = match (&self.layers_to_transform, layer) {
                    (None, _) => true,
                    (Some(layers), _) if layers.is_empty() => true,
                    (Some(layers), Some(layer)) => layers.contains(&layer),
                    (Some(_), None) => false,
                };
                Ok(ends && inside)
            }
        }
    }

    /// Fails unless peft, reading these settings, would make exactly the pairs of `wiring`.
    pub(super) fn check(&self, spec: &Spec, wiring: &Wiring) -> Result<(), AdapterError> {
        let sites = sites(spec);
        for (layer, proj, path) in &sites {
            let pair = wiring.lora.get(&(*layer, *proj));
            let say = |found: &str, expected: &str| AdapterError::Disagrees {
                module: path.clone(),
                found: found.to_owned(),
                expected: expected.to_owned(),
            };
            match (self.targets(Some(*layer), path)?, pair) {
                (true, None) => return Err(say("is a target", "without a pair")),
                (false, Some(_)) => return Err(say("is no target", "with a pair")),
                (false, None) => {}
                (true, Some(pair)) => {
                    let (rank, scale) = self.of(path)?;
                    if rank != pair.rank || scale != pair.scale {
                        return Err(say(
                            &format!("has rank {rank} and scale {scale}"),
                            &format!("with rank {} and scale {}", pair.rank, pair.scale),
                        ));
                    }
                }
            }
        }
        for path in modules(spec) {
            if !sites.iter().any(|(_, _, p)| *p == path) && self.targets(None, &path)? {
                return Err(AdapterError::Disagrees {
                    module: path,
                    found: "is a target".into(),
                    expected: "without a pair".into(),
                });
            }
        }
        Ok(())
    }

    /// The object that peft reads, in its layout.
    pub(super) fn to_json(&self, spec: &Spec) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
        put("r", json!(self.r));
        put("lora_alpha", number(self.lora_alpha));
        put("lora_dropout", json!(self.lora_dropout));
        put(
            "target_modules",
            match &self.target_modules {
                Targets::Names(list) => json!(list),
                Targets::Text(text) => json!(text),
            },
        );
        put("exclude_modules", Value::Null);
        put("bias", json!("none"));
        put("fan_in_fan_out", json!(spec.layout == Layout::InOut));
        put("use_rslora", json!(self.use_rslora));
        put("use_dora", json!(false));
        put("init_lora_weights", json!(true));
        let ranks: Map<_, _> = self.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        put("rank_pattern", Value::Object(ranks));
        let alphas: Map<_, _> = self.alpha_pattern.iter().map(|(k, v)| (k.clone(), number(*v))).collect();
        put("alpha_pattern", Value::Object(alphas));
        put("layers_to_transform", json!(self.layers_to_transform));
        put("layers_pattern", Value::Null);
        map
    }
}

/// peft's alphas are integers where they can be.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

/// The shortest decimal that is this binary32 value.
fn tidy_f32(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// An alpha without the rounding of the scale it was divided into: fewer decimals, if they give the same scale.
fn tidy(alpha: f64, pair: &LoraPair) -> f64 {
    (0..9)
        .map(|digits| 10_f64.powi(digits))
        .map(|p| (alpha * p).round() / p)
        .find(|a| (a / pair.rank as f64) as f32 == pair.scale)
        .unwrap_or(alpha)
}

/// The commonest value, the smallest among equals.
fn commonest<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = BTreeMap::new();
    values.for_each(|v| *counts.entry(v).or_insert(0_usize) += 1);
    counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0))).map(|(v, _)| v)
}

/// For each map that has a pair in every layer, the shortest end of its path that names nothing else; whole paths for
/// the rest.
fn shortest_names(spec: &Spec, wiring: &Wiring) -> Vec<String> {
    let modules = modules(spec);
    let wired: Vec<String> =
        wiring.lora.keys().filter_map(|&(layer, proj)| names::module_path(spec, layer, proj)).collect();
    let mut chosen: Vec<String> = Vec::new();
    for path in &wired {
        let covered = |n: &String| ends_with(path, n);
        if chosen.iter().any(covered) {
            continue;
        }
        // ends of the path inside its block: they do not hold the layer's number
        let parts: Vec<&str> = path.split('.').collect();
        let inside = parts.iter().rposition(|p| p.parse::<usize>().is_ok()).map_or(0, |i| i + 1);
        let ends = (inside..parts.len()).rev().map(|i| parts[i..].join("."));
        let fits = |end: &String| modules.iter().filter(|m| ends_with(m, end)).all(|m| wired.contains(m));
        chosen.push(ends.into_iter().find(fits).unwrap_or_else(|| path.clone()));
    }
    chosen
}

fn ends_with(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
