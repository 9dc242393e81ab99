//! The exact gradient, by backpropagation (Rumelhart, Hinton and Williams 1986).

use antiphon_core::registry::{self, Entry};
use antiphon_kernels::Law;
use antiphon_model::{Mode, Wiring};
use serde::{Deserialize, Serialize};

use super::{Estimator, EstimatorError, Step, Taken};
use crate::error::TuneError;
use crate::optim::Optimizer;
use crate::settings::{Train, complete};

pub(super) const ENTRY: Entry<dyn Estimator> = Entry {
    id: "backprop",
    paper: "doi:10.1038/323533a0",
    about: "the exact gradient; activations of every layer above the lowest trainable tensor are kept",
    build: |t| Ok(Box::new(registry::settings::<Settings>("backprop", t)?)),
};

/// Backpropagation has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Estimator for Settings {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn check(&self, _: &Wiring, _: &dyn Optimizer, _: &Train) -> Result<(), EstimatorError> {
        Ok(())
    }

    fn mode(&self) -> Mode {
        Mode::Train
    }

    fn forwards(&self) -> Option<u32> {
        None
    }

    fn law(&self) -> Option<Law> {
        None
    }

    fn directions(&self) -> u32 {
        0
    }

    fn step(&self, on: &mut dyn Step) -> Result<Taken, TuneError> {
        let seen = on.backward()?;
        Ok(Taken { seen, grad_norm: on.descend()? })
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
