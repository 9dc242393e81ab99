//! `[emulator.distill]` and `[emulator.align]` of a run file.

use antiphon_core::ConfigError;
use serde::{Deserialize, Serialize};

use crate::optim::{self, Optimizer};
use crate::schedule::{self, Schedule};
use crate::settings::{constant, expect, invalid};

/// Where hidden states of emulator and model are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiddenAt {
    /// Once, where the middle ends.
    #[default]
    End,
    /// After every block of the middle that clients hold: there the stream should be what enters the next such block of the
    /// whole model.
    Layers,
}

/// How the owner trains the emulator's middle to stand for the whole of it, on public data. At least one of the three weights
/// is above 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignSettings {
    /// Optimiser steps of an alignment.
    pub steps: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Public sequences of a step.
    pub micro_batch_size: u32,
    /// Weight of the emulator's own cross-entropy of next tokens.
    #[serde(default)]
    pub language_model: f64,
    /// Weight of the hidden states' distance, in units of the whole model's mean square. Offsite-Tuning: 30, beside 1 for
    /// `language_model`.
    #[serde(default)]
    pub hidden: f64,
    /// Weight of the divergence of next tokens, `KL(model ‖ emulator)` in nats per labelled token.
    #[serde(default)]
    pub kl: f64,
    /// Where hidden states are compared: `end` (of the middle) or `layers` (after each block that is left of it).
    #[serde(default)]
    pub hidden_at: HiddenAt,
    /// Largest global norm of a step's gradient; 0 turns clipping off.
    #[serde(default = "one")]
    pub max_grad_norm: f64,
    /// A table with an `id`, as `[optimizer]`. Its state begins anew with each alignment.
    #[serde(default = "adamw")]
    pub optimizer: toml::Table,
    /// Shape of the learning rate over the steps of an alignment: a table with an `id`, as `train.lr_scheduler`.
    #[serde(default = "constant")]
    pub lr_scheduler: toml::Table,
}

fn one() -> f64 {
    1.0
}

fn adamw() -> toml::Table {
    toml::Table::from_iter([("id".to_owned(), "adamw".into())])
}

/// Weights of the terms of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Of the emulator's cross-entropy.
    pub language_model: f64,
    /// Of the distance of hidden states.
    pub hidden: f64,
    /// Of the divergence of next tokens.
    pub kl: f64,
}

impl Terms {
    /// No loss at all.
    pub const NONE: Self = Self { language_model: 0.0, hidden: 0.0, kl: 0.0 };
}

/// [`AlignSettings`] that can be used.
#[derive(Debug)]
pub struct Align {
    /// Optimiser steps.
    pub steps: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Sequences of a step.
    pub micro_batch_size: u32,
    /// Weights.
    pub terms: Terms,
    /// Where hidden states are compared.
    pub hidden_at: HiddenAt,
    /// Bound of the gradient's norm.
    pub max_grad_norm: Option<f32>,
    /// The rule of a step.
    pub optimizer: Box<dyn Optimizer>,
    /// Shape of the learning rate.
    pub schedule: Box<dyn Schedule>,
}

impl AlignSettings {
    /// Checks every value; the message names the key and, as `id`, the section.
    ///
    /// # Errors
    /// A value out of range, or nothing to minimise.
    pub fn check(&self, id: &str) -> Result<Align, ConfigError> {
        let Self { language_model, hidden, kl, .. } = *self;
        expect(id, "learning_rate", self.learning_rate, "finite and above 0", self.learning_rate > 0.0)?;
        let micro = self.micro_batch_size;
        expect(id, "micro_batch_size", f64::from(micro), "1 or more", micro > 0)?;
        expect(
            id,
            "steps",
            f64::from(self.steps),
            "1 or more; leave the section out for none",
            self.steps > 0,
        )?;
        expect(id, "max_grad_norm", self.max_grad_norm, "0 (off) or above", self.max_grad_norm >= 0.0)?;
        for (key, weight) in [("language_model", language_model), ("hidden", hidden), ("kl", kl)] {
            expect(id, key, weight, "0 (off) or above", weight >= 0.0)?;
        }
        if language_model + hidden + kl == 0.0 {
            return invalid(
                id,
                "`language_model`, `hidden` and `kl` are all 0: there is nothing to minimise; Offsite-Tuning has 1, 30 and 0",
            );
        }
        Ok(Align {
            steps: self.steps,
            learning_rate: self.learning_rate,
            micro_batch_size: micro,
            terms: Terms { language_model, hidden, kl },
            hidden_at: self.hidden_at,
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm as f32),
            optimizer: optim::build(&self.optimizer)?,
            schedule: schedule::build(&self.lr_scheduler)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_name_their_section_and_key() {
        let base = "steps = 5\nlearning_rate = 1e-4\nmicro_batch_size = 4\n";
        let check = |text: &str| {
            let s: AlignSettings = toml::from_str(text).map_err(|e| e.to_string())?;
            s.check("emulator.distill").map(|_| ()).map_err(|e| e.to_string())
        };
        for (extra, words) in [
            ("", ["emulator.distill", "nothing to minimise"]),
            ("hidden = -1.0", ["`hidden` is -1", "0 (off)"]),
            ("kl = nan", ["`kl`", "above"]),
            ("hidden = 1\nhidden_at = 'middle'", ["unknown variant", "`layers`"]),
            ("hidden = 1\noptimizer = { id = 'adam' }", ["optimizer `adam`", "adamw"]),
            ("hidden = 1\nmax_grad_norm = -1", ["max_grad_norm", "or above"]),
        ] {
            let e = check(&format!("{base}{extra}")).unwrap_err();
            assert!(words.iter().all(|w| e.contains(w)), "{extra}: {e}");
        }
        assert!(
            check("steps = 0\nlearning_rate = 1e-4\nmicro_batch_size = 4\nkl = 1")
                .unwrap_err()
                .contains("steps")
        );
        assert_eq!(check(&format!("{base}language_model = 1\nhidden = 30")), Ok(()));
    }
}
