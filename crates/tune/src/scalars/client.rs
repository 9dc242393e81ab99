//! A client whose messages are scalars: it trains on the replica of the state and reports its notebook.

use std::sync::Arc;

use antiphon_algo::{Local, LocalWork, WorkError};
use antiphon_core::{ClientId, Round};
use antiphon_kernels::Backend;

use super::Replica;
use crate::client::Client;

/// One client of a run of scalars.
#[derive(Debug)]
pub struct ScalarClient<B: Backend> {
    client: Client<B>,
    replica: Arc<Replica<B>>,
}

impl<B: Backend> ScalarClient<B> {
    /// `client` with the replica that it shares with the others of its process.
    #[must_use]
    pub fn new(client: Client<B>, replica: Arc<Replica<B>>) -> Self {
        Self { client, replica }
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.client.id()
    }
}

impl<B: Backend> LocalWork for &ScalarClient<B> {
    /// `start` is the state; so is the update's other end.
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        let replica = &*self.replica;
        let weights = replica.at(start)?;
        let mut notebook = replica.scalars().begin(start, round, self.id())?;
        let mut local = self.client.work(&weights, round, Some(&mut *notebook))?;
        local.delta = notebook.close(&local.delta, replica)?;
        if local.delta.iter().all(|v| v.is_finite()) {
            return Ok(local);
        }
        let steps = local.metrics.get("train_steps").copied().unwrap_or(1.0);
        Err(WorkError::NotFinite { what: "update", step: (steps as u64).saturating_sub(1) })
    }
}
