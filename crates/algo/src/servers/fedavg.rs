//! `theta <- theta - delta`: the new model is the mean of the clients' models.
//!
//! McMahan et al. 2017, arXiv:1602.05629, Algorithm 1; in the notation of Reddi et al. 2021,
//! arXiv:2003.00295, server SGD with learning rate 1.

use antiphon_core::registry::{self, Entry};
use serde::Deserialize;

use super::same_length;
use crate::vector::by_columns;
use crate::{ServerStep, State, StepError};

const ID: &str = "fedavg";

/// Registry line for [`FedAvg`].
pub const ENTRY: Entry<dyn ServerStep> = Entry {
    id: ID,
    paper: "arXiv:1602.05629",
    about: "the new model is the mean of the clients' models",
    build: |table| {
        registry::settings::<Settings>(ID, table)?;
        Ok(Box::new(FedAvg))
    },
};

/// The `[server]` table of `fedavg`: no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// `theta <- theta - delta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FedAvg;

impl ServerStep for FedAvg {
    fn describe(&self) -> String {
        ID.into()
    }

    fn step(&mut self, theta: &mut [f32], delta: &[f32], threads: usize) -> Result<(), StepError> {
        same_length(ID, "the aggregate", theta, delta)?;
        by_columns(threads, theta, |at, part| {
            part.iter_mut().zip(&delta[at..]).for_each(|(t, d)| *t -= d);
        });
        Ok(())
    }

    fn state(&self) -> State {
        State::new()
    }

    fn load(&mut self, state: State) -> Result<(), StepError> {
        match state.into_keys().next() {
            Some(name) => Err(StepError::Unknown { step: ID, name }),
            None => Ok(()),
        }
    }
}
