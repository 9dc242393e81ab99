//! Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751, section 2.1): behind the attention and behind the MLP of a frozen
//! block, `y ← y + W_up gelu(W_down y + b_down) + b_up` with `W_down: [bottleneck_size, hidden]`. The form is that of AdapterHub's
//! `DoubleSeqBnConfig` with `non_linearity = "gelu"`, whose files the adapter is written as.
//!
//! At the start `W_down ~ U(±1/sqrt hidden)` and the rest is zero (He et al. 2022, arXiv:2110.04366), so that the model computes what
//! it did. Deliberately missing: other activations, dropout inside, one bottleneck a block (Pfeiffer et al. 2021).

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_core::{Purpose, Stream};
use antiphon_model::names;
use antiphon_model::{Bottleneck, Branch, Spec, Task, Wiring};
use serde::{Deserialize, Serialize};

use super::layers;
use super::layout::Tensors;
use super::{Export, Method, MethodError, Start, head};
use crate::settings::{complete, expect};

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: "houlsby",
    paper: "arXiv:1902.00751",
    about: "bottlenecks behind the attention and the MLP of frozen blocks",
    build: |t| Ok(Box::new(registry::settings::<Houlsby>("houlsby", t)?.check()?)),
};

/// Settings of bottleneck adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Houlsby {
    /// Inner width, such as 64.
    bottleneck_size: usize,
    /// Layers that get bottlenecks, from 0, as the checkpoint counts them. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    layers_to_transform: Option<Vec<usize>>,
}

impl Houlsby {
    fn check(self) -> Result<Self, ConfigError> {
        let width = self.bottleneck_size;
        expect(ENTRY.id, "bottleneck_size", width as f64, "1 or more", width > 0)?;
        if self.layers_to_transform.as_ref().is_some_and(Vec::is_empty) {
            let reason =
                "`layers_to_transform` is empty; name at least one layer, or leave it out".to_owned();
            return Err(ConfigError::Invalid { id: ENTRY.id.to_owned(), reason });
        }
        Ok(self)
    }
}

impl Method for Houlsby {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn wire(&self, spec: &Spec, task: Task) -> Result<Wiring, MethodError> {
        let layers = layers::among(self.layers_to_transform.as_deref(), spec)?;
        let (width, hidden) = (self.bottleneck_size, spec.hidden);
        // a bottleneck as wide as the model is none, and a width by mistake would take all memory
        if width > hidden {
            return Err(MethodError::Bottleneck { width, hidden });
        }
        let (mut tensors, mut wiring) = (Tensors::default(), Wiring::default());
        for layer in (0..spec.layers).filter(|l| layers.as_ref().is_none_or(|list| list.contains(l))) {
            for branch in [Branch::Attention, Branch::Mlp] {
                let [down, down_bias, up, up_bias] = names::bottleneck_tensors(spec, layer, branch);
                let bottleneck = Bottleneck {
                    down: tensors.push(down, &[width, hidden]),
                    down_bias: tensors.push(down_bias, &[width]),
                    up: tensors.push(up, &[hidden, width]),
                    up_bias: tensors.push(up_bias, &[hidden]),
                    width,
                };
                wiring.bottlenecks.insert((layer, branch), bottleneck);
            }
        }
        wiring.head = head::wire(spec, task, &mut tensors);
        wiring.schema = tensors.schema()?;
        Ok(wiring)
    }

    fn init(&self, wiring: &Wiring, start: &Start<'_>) -> Result<Vec<f32>, MethodError> {
        let mut theta = vec![0.0; wiring.schema.dim()];
        let bound = 1.0 / (start.spec.hidden as f32).sqrt();
        for (&(layer, branch), b) in &wiring.bottlenecks {
            let [name, ..] = names::bottleneck_tensors(start.spec, layer, branch);
            let mut stream = Stream::keyed(start.seed, Purpose::Init, None, None, &name);
            theta[b.down.clone()].fill_with(|| bound * (2.0 * stream.uniform_f32() - 1.0));
        }
        head::init(wiring, start.spec, start.seed, &mut theta);
        Ok(theta)
    }

    fn export(&self, _: &Spec, _: &Wiring) -> Export {
        Export::Adapter(None)
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
