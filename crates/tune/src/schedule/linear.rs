//! Linear decay, `factor = min + (1 - min)(1 - p)`.

use antiphon_core::registry::{self, ConfigError, Entry};

use super::{Clock, Decay, Position, Schedule};
use crate::settings::complete;

pub(super) const ENTRY: Entry<dyn Schedule> = Entry {
    id: "linear",
    paper: "transformers:get_linear_schedule_with_warmup",
    about: "straight line from the peak rate to `min_ratio` of it",
    build: |t| Ok(Box::new(Linear::new(registry::settings("linear", t)?)?)),
};

#[derive(Debug)]
struct Linear {
    settings: Decay,
    clock: Clock,
}

impl Linear {
    fn new(settings: Decay) -> Result<Self, ConfigError> {
        let clock = settings.clock(ENTRY.id)?;
        Ok(Self { settings, clock })
    }
}

impl Schedule for Linear {
    fn factor(&self, at: Position) -> f64 {
        self.settings.factor(self.clock, at, |p| 1.0 - p)
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, &self.settings)
    }
}
