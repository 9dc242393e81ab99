//! Cosine decay without restarts, `factor = min + (1 - min)(1 + cos πp) / 2` (Loshchilov and Hutter 2017, equation 5).

use antiphon_core::registry::{self, ConfigError, Entry};

use super::{Clock, Decay, Position, Schedule};
use crate::settings::complete;

pub(super) const ENTRY: Entry<dyn Schedule> = Entry {
    id: "cosine",
    paper: "arXiv:1608.03983",
    about: "half a cosine from the peak rate to `min_ratio` of it",
    build: |t| Ok(Box::new(Cosine::new(registry::settings("cosine", t)?)?)),
};

#[derive(Debug)]
struct Cosine {
    settings: Decay,
    clock: Clock,
}

impl Cosine {
    fn new(settings: Decay) -> Result<Self, ConfigError> {
        let clock = settings.clock(ENTRY.id)?;
        Ok(Self { settings, clock })
    }
}

impl Schedule for Cosine {
    fn factor(&self, at: Position) -> f64 {
        self.settings.factor(self.clock, at, |p| 0.5 * (1.0 + (std::f64::consts::PI * p).cos()))
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, &self.settings)
    }
}
