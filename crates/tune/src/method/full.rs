//! Full tuning: the checkpoint's own tensors are trained, all of them or those that a pattern names.

use antiphon_core::nearest;
use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_model::names::{self, Role};
use antiphon_model::{Spec, Task, Wiring};
use serde::{Deserialize, Serialize};

use super::layers;
use super::layout::Tensors;
use super::target::Pattern;
use super::{Export, Method, MethodError, Start, head, read};
use crate::settings::complete;

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: "full",
    paper: "arXiv:1602.05629",
    about: "every tensor of the checkpoint, or those of some layers or that a pattern names",
    build: |t| Ok(Box::new(registry::settings::<Full>("full", t)?.check()?)),
};

/// Settings of full tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    /// Regular expressions matched from the start of a tensor's name (as axolotl does), such as
    /// `model\.layers\.1[0-9]\.` or `.*\.bias$`. Absent: every tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfrozen_parameters: Option<Vec<String>>,
    /// Layers whose tensors are trained, from 0, as the checkpoint counts them; embeddings, last norm and head then stay
    /// frozen. Absent: all of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    layers_to_transform: Option<Vec<usize>>,
}

impl Full {
    fn check(self) -> Result<Self, ConfigError> {
        let empty = |key: &str, one: &str| {
            let reason = format!("`{key}` is empty: name a {one}, or leave the key out to train them all");
            Err(ConfigError::Invalid { id: ENTRY.id.to_owned(), reason })
        };
        if self.unfrozen_parameters.as_ref().is_some_and(Vec::is_empty) {
            return empty("unfrozen_parameters", "tensor");
        }
        if self.layers_to_transform.as_ref().is_some_and(Vec::is_empty) {
            return empty("layers_to_transform", "layer");
        }
        Ok(self)
    }

    fn patterns(&self) -> Result<Option<Vec<Pattern>>, MethodError> {
        let Some(list) = &self.unfrozen_parameters else { return Ok(None) };
        list.iter().map(|p| Pattern::prefix("unfrozen_parameters", p)).collect::<Result<_, _>>().map(Some)
    }
}

impl Method for Full {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn wire(&self, spec: &Spec, task: Task) -> Result<Wiring, MethodError> {
        let patterns = self.patterns()?;
        let layers = layers::among(self.layers_to_transform.as_deref(), spec)?;
        let in_layers =
            |role: Role| layers.as_ref().is_none_or(|list| role.layer().is_some_and(|l| list.contains(&l)));
        let own: Vec<_> = names::tensors(spec, task)
            .into_iter()
            .filter(|t| !matches!(t.role, Role::ClassHead(_)) && in_layers(t.role))
            .collect();
        for p in patterns.iter().flatten() {
            if !own.iter().any(|t| p.matches(&t.name)) {
                let known: Vec<String> = own.iter().map(|t| t.name.clone()).collect();
                let nearest = nearest(p.source(), known.iter().map(String::as_str)).map(str::to_owned);
                let (key, pattern) = ("unfrozen_parameters", p.source().to_owned());
                return Err(MethodError::NoMatch { key, pattern, nearest, known });
            }
        }
        let mut tensors = Tensors::default();
        let mut wiring = Wiring::default();
        for t in own {
            if patterns.as_ref().is_none_or(|list| list.iter().any(|p| p.matches(&t.name))) {
                let range = tensors.push(t.name.clone(), &t.shape);
                wiring.live.insert(t.name, range);
            }
        }
        wiring.head = head::wire(spec, task, &mut tensors);
        wiring.schema = tensors.schema()?;
        Ok(wiring)
    }

    fn init(&self, wiring: &Wiring, start: &Start<'_>) -> Result<Vec<f32>, MethodError> {
        let mut theta = vec![0.0; wiring.schema.dim()];
        for (name, range) in &wiring.live {
            read(start.base, name, 0, &mut theta[range.clone()])?;
        }
        head::init(wiring, start.spec, start.seed, &mut theta);
        Ok(theta)
    }

    fn export(&self, _: &Spec, _: &Wiring) -> Export {
        Export::Checkpoint
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
