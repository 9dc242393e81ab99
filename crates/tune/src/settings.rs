//! The `[train]` section of a run file. `[method]`, `[objective]` and `[optimizer]` are tables with an `id`, read by the
//! registry of their axis; each entry documents its own keys.

use antiphon_core::ConfigError;
use serde::{Deserialize, Serialize};

use crate::rate::PersonalizedLr;
use crate::schedule::{self, Schedule};

/// The local training of a client in a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Peak learning rate; the schedule multiplies it.
    pub learning_rate: f64,
    /// Sequences in one forward and backward pass.
    pub micro_batch_size: u32,
    /// Micro-batches whose gradients make one optimiser step. Their loss is the mean over all their labelled tokens,
    /// so that splitting a batch does not change the step.
    #[serde(default = "one")]
    pub gradient_accumulation_steps: u32,
    /// Optimiser steps of each client in a round. Either this or `local_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_steps: Option<u32>,
    /// Passes of each client over its own training examples in a round. Either this or `local_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_epochs: Option<u32>,
    /// Largest global norm of a step's gradient; 0 turns clipping off.
    #[serde(default = "one_f64")]
    pub max_grad_norm: f64,
    /// Shape of the learning rate over rounds or steps: a table with an `id`.
    #[serde(default = "constant")]
    pub lr_scheduler: toml::Table,
    /// What becomes of a client's optimiser state between its rounds: `reset` or `keep`.
    #[serde(default)]
    pub optimizer_state: StatePolicy,
    /// Adds `proximal · ‖θ - θ_t‖²` to a client's loss, with `θ_t` the vector that the round began with: FedBiOT's ε, and half
    /// of FedProx's μ. Reported losses are without it. 0: off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub proximal: f64,
    /// FedMeZO's personalised rates: `{ spread = 1e-4, rounds = 1 }`. A client whose training loss over its last `rounds` rounds
    /// was above the others' takes steps longer by up to `spread`, one below it shorter ones. Its loss travels to everyone, as
    /// mean and greatest deviation. Default: one rate for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personalized_lr: Option<PersonalizedLr>,
}

/// What becomes of a client's optimiser state between its rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatePolicy {
    /// Every round starts from zero state; nothing is stored.
    #[default]
    Reset,
    /// The state waits at the client, of the optimiser's state vectors' size, and is part of a checkpoint.
    Keep,
}

/// How long a client trains in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    /// Optimiser steps.
    Steps(u32),
    /// Passes over the client's training examples.
    Epochs(u32),
}

/// Sequences of one optimiser step at most: what it takes to name them is memory too, and a step of more never ends.
const MOST_SEQUENCES: u64 = 1 << 20;

/// [`TrainSettings`] that can be used.
#[derive(Debug)]
pub struct Train {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Sequences in one pass.
    pub micro_batch_size: u32,
    /// Passes in one step.
    pub gradient_accumulation_steps: u32,
    /// Length of a client's work.
    pub duration: Duration,
    /// Bound of the gradient's norm.
    pub max_grad_norm: Option<f32>,
    /// Shape of the learning rate.
    pub schedule: Box<dyn Schedule>,
    /// Optimiser state between rounds.
    pub optimizer_state: StatePolicy,
    /// Weight of the squared distance from the round's beginning.
    pub proximal: Option<f32>,
    /// Each client's own rate.
    pub personalized_lr: Option<PersonalizedLr>,
}

impl TrainSettings {
    /// Checks every value; the message names the key.
    pub fn check(&self) -> Result<Train, ConfigError> {
        let id = "train";
        expect(id, "learning_rate", self.learning_rate, "finite and above 0", self.learning_rate > 0.0)?;
        let [micro, accumulate] = [self.micro_batch_size, self.gradient_accumulation_steps];
        expect(id, "micro_batch_size", f64::from(micro), "1 or more", micro > 0)?;
        expect(id, "gradient_accumulation_steps", f64::from(accumulate), "1 or more", accumulate > 0)?;
        let batch = u64::from(micro) * u64::from(accumulate);
        // a micro-batch alone is bounded by what clients hold
        if accumulate > 1 && batch > MOST_SEQUENCES {
            let why = format!(
                "`micro_batch_size` × `gradient_accumulation_steps` is {batch} sequences a step; expected {MOST_SEQUENCES} at most"
            );
            return invalid(id, &why);
        }
        expect(id, "max_grad_norm", self.max_grad_norm, "0 (off) or above", self.max_grad_norm >= 0.0)?;
        expect(id, "proximal", self.proximal, "0 (off) or above", self.proximal >= 0.0)?;
        let duration = match (self.local_steps, self.local_epochs) {
            (Some(n), None) => Duration::Steps(n),
            (None, Some(n)) => Duration::Epochs(n),
            (None, None) => return invalid(id, "needs `local_steps` or `local_epochs`"),
            (Some(_), Some(_)) => return invalid(id, "has both `local_steps` and `local_epochs`; keep one"),
        };
        if matches!(duration, Duration::Epochs(0)) {
            return invalid(
                id,
                "`local_epochs` is 0; expected 1 or more (`local_steps = 0` sends no change)",
            );
        }
        Ok(Train {
            learning_rate: self.learning_rate,
            micro_batch_size: micro,
            gradient_accumulation_steps: accumulate,
            duration,
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm as f32),
            schedule: schedule::build(&self.lr_scheduler)?,
            optimizer_state: self.optimizer_state,
            proximal: (self.proximal > 0.0).then_some(self.proximal as f32),
            personalized_lr: self.personalized_lr.map(|p| p.check(self.learning_rate)).transpose()?,
        })
    }
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

fn one_f64() -> f64 {
    1.0
}

pub(crate) fn constant() -> toml::Table {
    toml::Table::from_iter([("id".to_owned(), "constant".into())])
}

/// Refuses the section `id`.
pub(crate) fn invalid<T>(id: &str, reason: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid { id: id.to_owned(), reason: reason.to_owned() })
}

/// Refuses a number that is not finite or for which `ok` does not hold.
pub(crate) fn expect(id: &str, key: &str, found: f64, expected: &str, ok: bool) -> Result<(), ConfigError> {
    if ok && found.is_finite() {
        return Ok(());
    }
    let reason = format!("`{key}` is {found}; expected {expected}");
    Err(ConfigError::Invalid { id: id.to_owned(), reason })
}

/// Settings as the table that an entry's `build` reads, `id` first.
pub(crate) fn complete(id: &str, settings: &impl Serialize) -> Result<toml::Table, toml::ser::Error> {
    let mut table = toml::Table::from_iter([("id".to_owned(), id.into())]);
    table.extend(toml::Table::try_from(settings)?);
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "learning_rate = 2e-4\nmicro_batch_size = 8\nlocal_steps = 10";

    fn check(text: &str) -> Result<Train, String> {
        let s: TrainSettings = toml::from_str(text).map_err(|e| e.to_string())?;
        s.check().map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_documentation_and_survive_writing() {
        let s: TrainSettings = toml::from_str(FULL).unwrap();
        assert_eq!((s.gradient_accumulation_steps, s.max_grad_norm), (1, 1.0));
        assert_eq!(s.optimizer_state, StatePolicy::Reset);
        let again: TrainSettings = toml::from_str(&toml::to_string(&s).unwrap()).unwrap();
        assert_eq!(again, s);
        let t = s.check().unwrap();
        assert_eq!((t.duration, t.max_grad_norm), (Duration::Steps(10), Some(1.0)));
    }

    #[test]
    fn bad_values_name_their_key() {
        let cases = [
            ("learning_rate = 0.0\nmicro_batch_size = 8\nlocal_steps = 1", "learning_rate"),
            ("learning_rate = nan\nmicro_batch_size = 8\nlocal_steps = 1", "learning_rate"),
            ("learning_rate = 1e-3\nmicro_batch_size = 0\nlocal_steps = 1", "micro_batch_size"),
            (
                "learning_rate = 1e-3\nmicro_batch_size = 8\nlocal_steps = 1\npersonalized_lr = { spread = 1e-3 }",
                "below `train.learning_rate`",
            ),
            ("learning_rate = 1e-3\nmicro_batch_size = 8", "needs `local_steps`"),
            ("learning_rate = 1e-3\nmicro_batch_size = 8\nlocal_epochs = 0", "local_epochs"),
            ("learning_rate = 1e-3\nmicro_batch_size = 8\nlocal_steps = 1\nlocal_epochs = 1", "keep one"),
            (
                "learning_rate = 1e-3\nmicro_batch_size = 8\nlocal_steps = 1\nmax_grad_norm = -1",
                "max_grad_norm",
            ),
            ("learning_rate = 1e-3\nmicro_batch_size = 8\nlocal_steps = 1\nlearning_rat = 1", "learning_rat"),
            (
                "learning_rate = 1e-3\nmicro_batch_size = 8\nlocal_steps = 1\nlr_scheduler = { id = 'cos' }",
                "lr_scheduler `cos`",
            ),
        ];
        for (text, word) in cases {
            let e = check(text).unwrap_err();
            assert!(e.contains(word), "{text}: {e}");
        }
    }
}
