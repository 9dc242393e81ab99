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
    /// A direction whose two losses are farther apart than this, or one of which is no number, is skipped: its slope counts
    /// as 0 (FedKSeed's `grad_clip`). 0: off, and a loss that is no number ends the client's round.
    #[serde(default)]
    max_loss_difference: f64,
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
        let apart = self.max_loss_difference;
        expect(id, "max_loss_difference", apart, "0 (off) or above", apart >= 0.0)?;
        Ok(self)
    }

    fn bounded(&self, slope: f64) -> f64 {
        let bound = self.max_projected_gradient;
        if bound > 0.0 { slope.clamp(-bound, bound) } else { slope }
    }

    /// A step whose every direction was skipped: no unit of loss was seen.
    fn nothing(&self, on: &mut dyn Step) -> Taken {
        on.slopes().clear();
        on.slopes().resize(self.directions as usize, 0.0);
        Taken { seen: Seen { mean: 0.0, sums: Loss::default() }, grad_norm: 0.0 }
    }

    /// A loss; `None` where it is no number and such directions are skipped.
    fn loss(&self, on: &mut dyn Step, at: Option<Probe>) -> Result<Option<Seen>, TuneError> {
        match on.loss(at) {
            Err(TuneError::NotFinite { .. }) if self.max_loss_difference > 0.0 => Ok(None),
            seen => seen.map(Some),
        }
    }

    /// The slope along the direction of `seed`, and what was seen on the way; `None` where the direction is skipped.
    fn slope(
        &self,
        on: &mut dyn Step,
        seed: u64,
        here: Option<Seen>,
    ) -> Result<Option<(f64, Seen)>, TuneError> {
        // what is divided by must be what was added
        let scale = self.epsilon as f32;
        let epsilon = f64::from(scale);
        let Some(plus) = self.loss(on, Some(Probe { seed, scale }))? else { return Ok(None) };
        let (difference, distance, seen) = match here {
            Some(here) => (plus.mean - here.mean, epsilon, here),
            None => {
                let Some(minus) = self.loss(on, Some(Probe { seed, scale: -scale }))? else {
                    return Ok(None);
                };
                let middle = Seen { mean: 0.5 * (plus.mean + minus.mean), ..minus };
                (plus.mean - minus.mean, 2.0 * epsilon, middle)
            }
        };
        let apart = self.max_loss_difference;
        Ok((apart == 0.0 || difference.abs() <= apart).then_some((difference / distance, seen)))
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
        if let Some(found) = train.proximal {
            return Err(EstimatorError::Proximal { estimator, found });
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

    fn directions(&self) -> u32 {
        self.directions
    }

    fn step(&self, on: &mut dyn Step) -> Result<Taken, TuneError> {
        let p = f64::from(self.directions);
        on.slopes().clear();
        let here = match self.difference {
            Difference::TwoPoint => None,
            Difference::Forward => match self.loss(on, None)? {
                None => return Ok(self.nothing(on)),
                here => here,
            },
        };
        let (mut mean, mut known, mut squares, mut sums) = (0.0, 0.0, 0.0, Loss::default());
        for direction in 0..self.directions {
            let seed = on.seed(direction);
            let slope = match self.slope(on, seed, here)? {
                Some((slope, seen)) => {
                    mean += seen.mean;
                    known += 1.0;
                    sums = seen.sums;
                    slope
                }
                None => 0.0,
            };
            squares += slope * slope / p;
            on.slopes().push(self.bounded(slope));
        }
        if known == 0.0 {
            return Ok(self.nothing(on));
        }
        let lr = on.learning_rate();
        if let Some(decay) = on.plain_decay().filter(|d| *d > 0.0) {
            on.scale(1.0 - lr * decay);
        }
        for direction in 0..self.directions {
            let slope = on.slopes()[direction as usize];
            if slope != 0.0 {
                let seed = on.seed(direction);
                on.shift(Probe { seed, scale: (-f64::from(lr) * slope / p) as f32 });
            }
        }
        Ok(Taken { seen: Seen { mean: mean / known, sums }, grad_norm: squares.sqrt() })
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
