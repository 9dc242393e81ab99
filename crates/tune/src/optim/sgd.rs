//! Stochastic gradient descent with the heavy-ball momentum of `torch.optim.SGD` (Sutskever et al. 2013, section 2,
//! with the learning rate outside the buffer): `g ← g + λθ`; `b ← μb + g` (`b = g` at the first step);
//! `θ ← θ - lr·b`.

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_kernels::Sgd;
use serde::{Deserialize, Serialize};

use super::{Optimizer, StepBlocks};
use crate::settings::{complete, expect};

pub(super) const ENTRY: Entry<dyn Optimizer> = Entry {
    id: "sgd",
    paper: "doi:10.5555/3042817.3043064",
    about: "gradient descent, with momentum on request; one state vector with momentum, none without",
    build: |t| Ok(Box::new(registry::settings::<Settings>("sgd", t)?.check()?)),
};

/// Settings of SGD.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Decay of the momentum buffer; 0 keeps none.
    momentum: f64,
    /// L2 penalty, added to the gradient.
    weight_decay: f64,
}

impl Settings {
    fn check(self) -> Result<Self, ConfigError> {
        let unit = 0.0..1.0;
        expect("sgd", "momentum", self.momentum, "0 or more and below 1", unit.contains(&self.momentum))?;
        expect("sgd", "weight_decay", self.weight_decay, "finite and 0 or more", self.weight_decay >= 0.0)?;
        Ok(self)
    }
}

impl Optimizer for Settings {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn slots(&self) -> &'static [&'static str] {
        if self.momentum > 0.0 { &["momentum_buffer"] } else { &[] }
    }

    fn step(&self, lr: f32, step: u64, on: &mut dyn StepBlocks) {
        let (momentum, weight_decay) = (self.momentum as f32, self.weight_decay as f32);
        on.sgd(step <= 1, Sgd { lr, momentum, weight_decay });
    }

    fn plain_decay(&self) -> Option<f32> {
        (self.momentum == 0.0).then_some(self.weight_decay as f32)
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
