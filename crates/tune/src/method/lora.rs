//! Low-rank adaptation (Hu et al. 2022, arXiv:2106.09685, equation 3): `y = x W^T + s · x A^T B^T` with `A: [r, d_in]`,
//! `B: [d_out, r]` and `s = alpha / r`, or `alpha / sqrt r` for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732). At the start
//! `A ~ U(±1/sqrt d_in)`, which is peft's Kaiming initialisation with `a = sqrt 5`, and `B = 0`.
//!
//! Modules are chosen by peft's rules (see [`super::target`]) among the linear maps of the blocks. Stricter than peft: a
//! name or pattern that matches nothing is an error. Deliberately missing: BERT's pooler and heads as targets.

use std::collections::BTreeMap;

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_core::{Purpose, Stream, nearest};
use antiphon_model::adapter::{self, LoraSettings};
use antiphon_model::names;
use antiphon_model::{LoraPair, Pooling, Proj, Spec, Task, Wiring};
use serde::{Deserialize, Serialize};

use super::layers;
use super::layout::Tensors;
use super::target::{Matcher, Pattern, Targets};
use super::{Export, Method, MethodError, Start, head};
use crate::settings::{complete, expect};

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: "lora",
    paper: "arXiv:2106.09685",
    about: "low-rank pairs on chosen linear maps of a frozen model",
    build: |t| Ok(Box::new(registry::settings::<Lora>("lora", t)?.check()?)),
};

/// The linear maps of a block, in the order of the `state_dict`.
const PROJS: [Proj; 8] = [Proj::Q, Proj::K, Proj::V, Proj::Qkv, Proj::O, Proj::Gate, Proj::Up, Proj::Down];

/// Settings of LoRA, by their names in peft and axolotl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lora {
    /// Rank of every pair that `rank_pattern` does not name.
    lora_r: usize,
    /// Numerator of the scale.
    lora_alpha: f64,
    /// Probability of dropping an input element on the low-rank path.
    #[serde(default)]
    lora_dropout: f64,
    /// Names or path suffixes of modules, such as `["q_proj", "v_proj"]`; `"all-linear"`; or a regular expression
    /// over whole paths.
    target_modules: Targets,
    /// Scale by `alpha / sqrt r` instead of `alpha / r`.
    #[serde(default)]
    use_rslora: bool,
    /// Rank of modules whose path ends in a match of the key, a regular expression.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rank_pattern: BTreeMap<String, usize>,
    /// Alpha of modules whose path ends in a match of the key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    alpha_pattern: BTreeMap<String, f64>,
    /// Layers that get pairs, from 0, as the checkpoint counts them. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    layers_to_transform: Option<Vec<usize>>,
}

/// A linear map of a model.
#[derive(Clone, Debug)]
struct Site {
    layer: usize,
    proj: Proj,
    path: String,
    d_out: usize,
    d_in: usize,
}

fn sites(spec: &Spec) -> Vec<Site> {
    let in_block = |layer| {
        PROJS.into_iter().filter_map(move |proj| {
            let (d_out, d_in) = spec.proj_shape(proj)?;
            Some(Site { layer, proj, path: names::module_path(spec, layer, proj)?, d_out, d_in })
        })
    };
    (0..spec.layers).flat_map(in_block).collect()
}

impl Lora {
    fn check(self) -> Result<Self, ConfigError> {
        let id = ENTRY.id;
        expect(id, "lora_r", self.lora_r as f64, "1 or more", self.lora_r > 0)?;
        expect(id, "lora_alpha", self.lora_alpha, "finite and above 0", self.lora_alpha > 0.0)?;
        let p = self.lora_dropout;
        expect(id, "lora_dropout", p, "0 or more and below 1", (0.0..1.0).contains(&p))?;
        for (key, &r) in &self.rank_pattern {
            expect(id, &format!("rank_pattern.{key}"), r as f64, "1 or more", r > 0)?;
        }
        for (key, &a) in &self.alpha_pattern {
            expect(id, &format!("alpha_pattern.{key}"), a, "finite and above 0", a > 0.0)?;
        }
        let empty = |key: &str| ConfigError::Invalid {
            id: id.to_owned(),
            reason: format!("`{key}` is empty; name at least one, or `target_modules = \"all-linear\"`"),
        };
        match &self.target_modules {
            Targets::Names(list) if list.is_empty() => Err(empty("target_modules")),
            _ if self.layers_to_transform.as_ref().is_some_and(Vec::is_empty) => {
                Err(empty("layers_to_transform"))
            }
            _ => Ok(self),
        }
    }

    /// The maps that get a pair.
    fn targets(&self, spec: &Spec) -> Result<Vec<Site>, MethodError> {
        let layers = layers::among(self.layers_to_transform.as_deref(), spec)?;
        let all = sites(spec);
        let matchers = self.target_modules.matchers()?;
        for m in &matchers {
            if !all.iter().any(|s| m.matches(&s.path)) {
                return Err(no_match(spec, m.source()));
            }
        }
        let in_layers = |s: &Site| layers.as_ref().is_none_or(|list| list.contains(&s.layer));
        // peft: a whole path in the list is taken as it is, whatever the layers
        let whole = |m: &Matcher, s: &Site| matches!(m, Matcher::Suffix(name) if *name == s.path);
        let chosen = |s: &Site| matchers.iter().any(|m| m.matches(&s.path) && (in_layers(s) || whole(m, s)));
        Ok(all.into_iter().filter(chosen).collect())
    }
}

/// The error for a target that is no module, with names of one block for orientation.
fn no_match(spec: &Spec, pattern: &str) -> MethodError {
    let mut known: Vec<String> =
        PROJS.iter().filter_map(|&p| names::module_leaf(spec, p)).map(str::to_owned).collect();
    known.dedup();
    let nearest = nearest(pattern, known.iter().map(String::as_str)).map(str::to_owned);
    MethodError::NoMatch { key: "target_modules", pattern: pattern.to_owned(), nearest, known }
}

/// Per-module values: the first key in alphabetical order that matches, else the common value. An exported adapter holds
/// the keys in that order, so peft, which takes the first of the file, agrees.
struct Patterns<T> {
    list: Vec<(Pattern, T)>,
    common: T,
}

impl<T: Copy> Patterns<T> {
    fn new(
        key: &'static str,
        map: &BTreeMap<String, T>,
        common: T,
        sites: &[Site],
    ) -> Result<Self, MethodError> {
        let mut list = Vec::with_capacity(map.len());
        for (source, &value) in map {
            let pattern = Pattern::suffix(key, source)?;
            if !sites.iter().any(|s| pattern.matches(&s.path)) {
                let targets = sites.iter().map(|s| s.path.clone()).collect();
                return Err(MethodError::NoTarget { key, pattern: source.clone(), targets });
            }
            list.push((pattern, value));
        }
        Ok(Self { list, common })
    }

    fn of(&self, path: &str) -> T {
        self.list.iter().find(|(p, _)| p.matches(path)).map_or(self.common, |(_, v)| *v)
    }
}

fn name_a(path: &str) -> String {
    format!("{path}.lora_A.weight")
}

impl Method for Lora {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn wire(&self, spec: &Spec, task: Task) -> Result<Wiring, MethodError> {
        let sites = self.targets(spec)?;
        let ranks = Patterns::new("rank_pattern", &self.rank_pattern, self.lora_r, &sites)?;
        let alphas = Patterns::new("alpha_pattern", &self.alpha_pattern, self.lora_alpha, &sites)?;
        let mut tensors = Tensors::default();
        let mut wiring = Wiring::default();
        for Site { layer, proj, path, d_out, d_in } in sites {
            let (rank, alpha) = (ranks.of(&path), alphas.of(&path));
            if rank > d_out.min(d_in) {
                return Err(MethodError::Rank { module: path, rank, d_out, d_in });
            }
            let inner = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            let pair = LoraPair {
                a: tensors.push(name_a(&path), &[rank, d_in]),
                b: tensors.push(format!("{path}.lora_B.weight"), &[d_out, rank]),
                rank,
                scale: (alpha / inner) as f32,
                dropout: self.lora_dropout as f32,
            };
            wiring.lora.insert((layer, proj), pair);
        }
        wiring.head = head::wire(spec, task, &mut tensors);
        wiring.schema = tensors.schema()?;
        Ok(wiring)
    }

    fn init(&self, wiring: &Wiring, start: &Start<'_>) -> Result<Vec<f32>, MethodError> {
        let mut theta = vec![0.0; wiring.schema.dim()];
        for (&(layer, proj), pair) in &wiring.lora {
            let Some(path) = names::module_path(start.spec, layer, proj) else { continue };
            let bound = 1.0 / ((pair.a.len() / pair.rank) as f32).sqrt();
            let mut stream = Stream::keyed(start.seed, Purpose::Init, None, None, &name_a(&path));
            theta[pair.a.clone()].fill_with(|| bound * (2.0 * stream.uniform_f32() - 1.0));
        }
        head::init(wiring, start.spec, start.seed, &mut theta);
        Ok(theta)
    }

    fn export(&self, spec: &Spec, wiring: &Wiring) -> Export {
        let (target_modules, layers_to_transform) = match &self.target_modules {
            Targets::Names(list) if finds_only(spec, list) => {
                (adapter::Targets::Names(list.clone()), self.layers_to_transform.clone())
            }
            _ => {
                let derived = LoraSettings::derive(spec, wiring);
                (derived.target_modules, derived.layers_to_transform)
            }
        };
        Export::Adapter(Some(LoraSettings {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            use_rslora: self.use_rslora,
            target_modules,
            rank_pattern: self.rank_pattern.clone().into_iter().collect(),
            alpha_pattern: self.alpha_pattern.clone().into_iter().collect(),
            layers_to_transform,
        }))
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}

/// Whether peft, looking through the whole transformers class, would find no module outside the blocks' maps under
/// these names: `dense` also names BERT's pooler.
fn finds_only(spec: &Spec, names: &[String]) -> bool {
    let sites = sites(spec);
    let every = Task::Classify { classes: 1, pooling: Pooling::Pooler };
    names::tensors(spec, every)
        .iter()
        .filter_map(|t| t.name.rsplit_once('.').map(|(module, _)| module.to_owned()))
        .chain(["lm_head".to_owned()])
        .filter(|module| !sites.iter().any(|s| s.path == *module))
        .all(|module| !names.iter().any(|n| Matcher::Suffix(n.clone()).matches(&module)))
}
