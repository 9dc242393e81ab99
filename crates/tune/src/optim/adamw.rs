//! AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2), in the form of `torch.optim.AdamW`:
//! `θ ← θ(1 - lr·λ)`; `m ← β₁m + (1-β₁)g`; `v ← β₂v + (1-β₂)g²`; `θ ← θ - lr · m̂ / (sqrt v̂ + ε)` with
//! `m̂ = m / (1-β₁ᵗ)`, `v̂ = v / (1-β₂ᵗ)`.

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_kernels::AdamW;
use serde::{Deserialize, Serialize};

use super::{Optimizer, StepBlocks};
use crate::settings::{complete, expect};

pub(super) const ENTRY: Entry<dyn Optimizer> = Entry {
    id: "adamw",
    paper: "arXiv:1711.05101",
    about: "Adam with decoupled weight decay; two state vectors",
    build: |t| Ok(Box::new(registry::settings::<Settings>("adamw", t)?.check()?)),
};

/// Settings of AdamW. Defaults are those of transformers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Decoupled weight decay, multiplied by the learning rate.
    weight_decay: f64,
    /// Decay of the first moment.
    adam_beta1: f64,
    /// Decay of the second moment.
    adam_beta2: f64,
    /// Added to the root of the second moment.
    adam_epsilon: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight_decay: 0.0, adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8 }
    }
}

impl Settings {
    fn check(self) -> Result<Self, ConfigError> {
        let unit = 0.0..1.0;
        expect("adamw", "weight_decay", self.weight_decay, "finite and 0 or more", self.weight_decay >= 0.0)?;
        expect(
            "adamw",
            "adam_beta1",
            self.adam_beta1,
            "0 or more and below 1",
            unit.contains(&self.adam_beta1),
        )?;
        expect(
            "adamw",
            "adam_beta2",
            self.adam_beta2,
            "0 or more and below 1",
            unit.contains(&self.adam_beta2),
        )?;
        expect("adamw", "adam_epsilon", self.adam_epsilon, "finite and above 0", self.adam_epsilon > 0.0)?;
        Ok(self)
    }
}

impl Optimizer for Settings {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn slots(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn step(&self, lr: f32, step: u64, on: &mut dyn StepBlocks) {
        on.adamw(AdamW {
            lr,
            beta1: self.adam_beta1 as f32,
            beta2: self.adam_beta2 as f32,
            eps: self.adam_epsilon as f32,
            weight_decay: self.weight_decay as f32,
            step,
        });
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
