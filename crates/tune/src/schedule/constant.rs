//! Constant rate, after an optional warm-up (transformers' `constant_with_warmup`).

use antiphon_core::registry::{self, ConfigError, Entry};
use serde::{Deserialize, Serialize};

use super::{Clock, Over, Phase, Position, Schedule, WarmupKeys};
use crate::settings::complete;

pub(super) const ENTRY: Entry<dyn Schedule> = Entry {
    id: "constant",
    paper: "transformers:get_constant_schedule_with_warmup",
    about: "constant rate, after an optional linear warm-up",
    build: |t| Ok(Box::new(Constant::new(registry::settings("constant", t)?)?)),
};

/// Settings of a constant rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The clock of the warm-up: `rounds`, `run` or `round`.
    over: Option<Over>,
    /// Rounds of linear warm-up; with `over = "rounds"`.
    warmup_rounds: Option<u32>,
    /// Local steps of linear warm-up; with `over = "run"` or `"round"`.
    warmup_steps: Option<u32>,
    /// Warm-up as a share of the clock's length.
    warmup_ratio: Option<f64>,
}

#[derive(Debug)]
struct Constant {
    settings: Settings,
    clock: Clock,
}

impl Constant {
    fn new(settings: Settings) -> Result<Self, ConfigError> {
        let keys = WarmupKeys {
            rounds: settings.warmup_rounds,
            steps: settings.warmup_steps,
            ratio: settings.warmup_ratio,
        };
        if settings.over.is_none() && keys != WarmupKeys::default() {
            let reason =
                "a warm-up needs its clock: `over = \"rounds\"`, `\"run\"` or `\"round\"`".to_owned();
            return Err(ConfigError::Invalid { id: "constant".to_owned(), reason });
        }
        let clock = Clock::new("constant", settings.over.unwrap_or(Over::Rounds), keys)?;
        Ok(Self { settings, clock })
    }
}

impl Schedule for Constant {
    fn factor(&self, at: Position) -> f64 {
        match self.clock.phase(at) {
            Phase::Ramp(f) => f,
            Phase::Decay(_) => 1.0,
        }
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, &self.settings)
    }
}
