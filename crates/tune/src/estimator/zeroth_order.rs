//! Simultaneous perturbation (Spall 1992, equation 2.1) in the form of MeZO (Malladi et al. 2023, arXiv:2305.17333,
//! algorithm 1 and definition 6): along each of `P` directions `z_p`, all from the same `θ` and on the same examples,
//!
//! ```text
//! g_p = (L(θ + εz_p) - L(θ - εz_p)) / 2ε        two_point     2 P forward passes
//! g_p = (L(θ + εz_p) - L(θ)) / ε                forward       P + 1
//! θ ← θ - lr (1/P Σ_p g_p z_p + λ θ)
//! ```
//!
//! Directions are seeds, and `θ` is changed by the update alone: a perturbation is added on the way into the matrix products
//! and nowhere else, so nothing drifts and a frozen base stays shared.
//!
//! Deliberately missing: MeZO's exemption of biases and norms from weight decay (our optimisers have no parameter groups), and
//! momentum, for which a gradient would have to be kept.

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_kernels::{Law, Loss};
use antiphon_model::{Mode, Wiring};
use serde::{Deserialize, Serialize};

use super::{Estimator, EstimatorError, Probe, Seen, Step, Taken};
use crate::error::TuneError;
use crate::optim::Optimizer;
use crate::settings::{Train, complete, expect};

pub(super) const ENTRY: Entry<dyn Estimator> = Entry {
    id: "zeroth_order",
    paper: "arXiv:2305.17333",
    about: "slopes along random directions from losses alone (MeZO); the memory of inference",
    build: |t| Ok(Box::new(registry::settings::<ZerothOrder>("zeroth_order", t)?.check()?)),
};

/// Most directions of a step.
const MOST: u32 = 1024;

/// Settings of the estimate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZerothOrder {
    /// How far along a direction the loss is measured. Too small, and the difference drowns in rounding; too large, and it is
    /// no slope. MeZO: 1e-3 for weights, 1e-2 for LoRA, 1e-1 for prompts.
    epsilon: f64,
    /// Directions of a step.
    #[serde(default = "one")]
    directions: u32,
    /// How the numbers of a direction are distributed: `gaussian` or `rademacher` (±1).
    #[serde(default)]
    distribution: Distribution,
    /// Which losses are subtracted: `two_point` (on both sides of the vector) or `forward` (one side and the vector itself).
    #[serde(default)]
    difference: Difference,
    /// Largest magnitude of the slope along a direction; larger ones are cut to it. 0: off.
    #[serde(default)]
    max_projected_gradient: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Distribution {
    #[default]
    Gaussian,
    Rademacher,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Difference {
    #[default]
    TwoPoint,
    Forward,
}

fn one() -> u32 {
    1
}

impl ZerothOrder {
    fn check(self) -> Result<Self, ConfigError> {
        let id = ENTRY.id;
        // below, ε z is lost in the rounding of weights and losses; above, weights are noise
        expect(id, "epsilon", self.epsilon, "1e-6 to 1", (1e-6..=1.0).contains(&self.epsilon))?;
        let p = self.directions;
        expect(id, "directions", f64::from(p), "1 to 1024", (1..=MOST).contains(&p))?;
        let bound = self.max_projected_gradient;
        expect(id, "max_projected_gradient", bound, "0 (off) or above", bound >= 0.0)?;
        Ok(self)
    }

    fn bounded(&self, slope: f64) -> f64 {
        let bound = self.max_projected_gradient;
        if bound > 0.0 { slope.clamp(-bound, bound) } else { slope }
    }

    /// The slope along the direction of `seed`, and what was seen on the way.
    fn slope(&self, on: &mut dyn Step, seed: u64, here: Option<Seen>) -> Result<(f64, Seen), TuneError> {
        // what is divided by must be what was added
        let scale = self.epsilon as f32;
        let epsilon = f64::from(scale);
        let plus = on.loss(Some(Probe { seed, scale }))?;
        if let Some(here) = here {
            return Ok(((plus.mean - here.mean) / epsilon, here));
        }
        let minus = on.loss(Some(Probe { seed, scale: -scale }))?;
        let middle = Seen { mean: 0.5 * (plus.mean + minus.mean), ..minus };
        Ok(((plus.mean - minus.mean) / (2.0 * epsilon), middle))
    }
}

impl Estimator for ZerothOrder {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn check(&self, wiring: &Wiring, optimizer: &dyn Optimizer, train: &Train) -> Result<(), EstimatorError> {
        let estimator = ENTRY.id;
        if optimizer.plain_decay().is_none() {
            let state = optimizer.slots();
            let optimizer = format!("{} (it keeps {})", optimizer.id(), state.join(" and "));
            return Err(EstimatorError::Optimizer { estimator, optimizer });
        }
        if let Some(found) = train.max_grad_norm {
            return Err(EstimatorError::Clip { estimator, found });
        }
        match wiring.lora.values().map(|p| p.dropout).find(|p| *p > 0.0) {
            Some(found) => Err(EstimatorError::Dropout { estimator, found }),
            None => Ok(()),
        }
    }

    fn mode(&self) -> Mode {
        Mode::Infer
    }

    fn forwards(&self) -> Option<u32> {
        Some(match self.difference {
            Difference::TwoPoint => 2 * self.directions,
            Difference::Forward => self.directions + 1,
        })
    }

    fn law(&self) -> Option<Law> {
        Some(match self.distribution {
            Distribution::Gaussian => Law::Gaussian,
            Distribution::Rademacher => Law::Rademacher,
        })
    }

    fn step(&self, on: &mut dyn Step) -> Result<Taken, TuneError> {
        let here = match self.difference {
            Difference::TwoPoint => None,
            Difference::Forward => Some(on.loss(None)?),
        };
        let p = f64::from(self.directions);
        let (mut mean, mut squares, mut sums) = (0.0, 0.0, Loss::default());
        on.slopes().clear();
        for direction in 0..self.directions {
            let seed = on.seed(direction);
            let (slope, seen) = self.slope(on, seed, here)?;
            mean += seen.mean / p;
            squares += slope * slope / p;
            sums = seen.sums;
            on.slopes().push(self.bounded(slope));
        }
        let lr = on.learning_rate();
        if let Some(decay) = on.plain_decay().filter(|d| *d > 0.0) {
            on.scale(1.0 - lr * decay);
        }
        for direction in 0..self.directions {
            let seed = on.seed(direction);
            let slope = on.slopes()[direction as usize];
            on.shift(Probe { seed, scale: (-f64::from(lr) * slope / p) as f32 });
        }
        Ok(Taken { seen: Seen { mean, sums }, grad_norm: squares.sqrt() })
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
