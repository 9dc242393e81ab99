//! Server SGD with heavy-ball momentum (FedAvgM):
//!
//! ```text
//! m <- momentum * m + delta
//! theta <- theta - learning_rate * m
//! ```
//!
//! Hsu, Qi and Brown 2019, arXiv:1909.06335, section 3 (`v <- beta v + dw, w <- w - v`), with the server
//! learning rate of Reddi et al. 2021, arXiv:2003.00295. The classical form, without the factor
//! `1 - momentum` on `delta` that their FedAdam and FedYogi have: at `momentum = 0.9` the effective step
//! is ten times `learning_rate`. `momentum = 0`, `learning_rate = 1` is `fedavg`.
//!
//! Deliberately missing: Nesterov's variant, dampening, weight decay.

use antiphon_core::registry::{self, ConfigError, Entry};
use serde::Deserialize;

use super::same_length;
use crate::vector::by_columns;
use crate::{ServerStep, State, StepError};

const ID: &str = "sgdm";
/// Name of the momentum in a checkpoint.
const MOMENTUM: &str = "momentum";

/// Registry line for [`Sgdm`].
pub const ENTRY: Entry<dyn ServerStep> = Entry {
    id: ID,
    paper: "arXiv:1909.06335",
    about: "server SGD with momentum (FedAvgM): learning_rate, momentum",
    build: |table| Ok(Box::new(Sgdm::from_settings(registry::settings(ID, table)?)?)),
};

/// The `[server]` table of `sgdm`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Server step size, dimensionless; 1 applies the whole mean update.
    pub learning_rate: f32,
    /// Part of the last direction that is kept, in `[0, 1)`.
    pub momentum: f32,
}

/// Server SGD with momentum.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgdm {
    learning_rate: f32,
    momentum: f32,
    /// `m`, `[d]`; empty before the first step.
    m: Vec<f32>,
}

impl Sgdm {
    /// From the run file. Errors on a step size that is not positive or a momentum outside `[0, 1)`.
    pub fn from_settings(s: Settings) -> Result<Self, ConfigError> {
        let refuse = |reason: String| Err(ConfigError::Invalid { id: ID.into(), reason });
        if !(s.learning_rate.is_finite() && s.learning_rate > 0.0) {
            return refuse(format!("`learning_rate = {}` is not a positive number", s.learning_rate));
        }
        if !(0.0..1.0).contains(&s.momentum) {
            return refuse(format!("`momentum = {}` is not in [0, 1)", s.momentum));
        }
        Ok(Self { learning_rate: s.learning_rate, momentum: s.momentum, m: Vec::new() })
    }
}

impl ServerStep for Sgdm {
    fn describe(&self) -> String {
        format!("{ID} learning_rate={} momentum={}", self.learning_rate, self.momentum)
    }

    fn step(&mut self, theta: &mut [f32], delta: &[f32], threads: usize) -> Result<(), StepError> {
        same_length(ID, "the aggregate", theta, delta)?;
        if self.m.is_empty() {
            self.m = vec![0.0; theta.len()];
        }
        same_length(ID, "the momentum", theta, &self.m)?;
        let momentum = self.momentum;
        by_columns(threads, &mut self.m, |at, part| {
            part.iter_mut().zip(&delta[at..]).for_each(|(m, d)| *m = momentum * *m + d);
        });
        by_columns(threads, theta, |at, part| {
            part.iter_mut().zip(&self.m[at..]).for_each(|(t, m)| *t -= self.learning_rate * m);
        });
        Ok(())
    }

    fn state(&self) -> State {
        if self.m.is_empty() { State::new() } else { State::from([(MOMENTUM.to_owned(), self.m.clone())]) }
    }

    fn load(&mut self, mut state: State) -> Result<(), StepError> {
        let m = state.remove(MOMENTUM).unwrap_or_default();
        if let Some(name) = state.into_keys().next() {
            return Err(StepError::Unknown { step: ID, name });
        }
        self.m = m;
        Ok(())
    }
}
