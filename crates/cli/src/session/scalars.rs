//! A run of `[scalars]`: what travels is a method's state, and one replica of it serves every client of this process.
//!
//! What clients delivered is kept in the run directory, so that whoever holds it can recompute every round
//! ([`super::audit`]).

use std::sync::Arc;

use antiphon_core::Schema;
use antiphon_kernels::Cpu;
use antiphon_tune::scalars::{self, Replica, ScalarClient};
use antiphon_tune::{Client, Tuning};

use super::{Blame, Person};
use crate::error::{Fail, Failure, Kind};
use crate::runfile::Loaded;

/// The method and the model that follows its state.
pub(crate) struct Scalars {
    pub(crate) id: &'static str,
    replica: Arc<Replica<Cpu>>,
}

/// Parameters of past rounds that the coordinator keeps: a client that sat out for longer is sent the whole state.
pub(crate) const HISTORY: usize = 64;

impl Scalars {
    /// What the run file asks for; `None` where vectors travel. Refuses steps that a scalar cannot tell.
    pub(super) fn open(
        loaded: &Loaded,
        tuning: &Tuning<Cpu>,
        theta: &[f32],
        threads: usize,
    ) -> Result<Option<Self>, Failure> {
        let Some(table) = &loaded.settings.scalars else { return Ok(None) };
        let method = scalars::build(table).blame(loaded, "scalars")?;
        let net = tuning.net();
        let schema = &net.wiring().schema;
        let prepared = method.prepare(schema, tuning.recipe()).blame(loaded, "scalars")?;
        let replica = Replica::new(Arc::new(Cpu::serial()), prepared, schema, theta.to_vec(), threads);
        Ok(Some(Self { id: method.id(), replica: Arc::new(replica) }))
    }

    /// Of what travels.
    pub(crate) fn schema(&self) -> &Schema {
        self.replica.scalars().schema()
    }

    /// What travels first.
    pub(crate) fn start(&self) -> Vec<f32> {
        self.replica.start()
    }

    /// The trainable vector of `state`.
    pub(crate) fn whole(&self, state: &[f32]) -> Result<Arc<[f32]>, Failure> {
        self.replica.at(state).fail(Kind::Federation)
    }

    /// Coordinates of an update that are not zero, at most, after `steps` local steps.
    pub(crate) fn most_sent(&self, steps: u32) -> usize {
        self.replica.scalars().most_sent(steps)
    }

    /// A client that delivers scalars.
    pub(crate) fn client(
        &self,
        tuning: &Arc<Tuning<Cpu>>,
        person: &Person,
    ) -> Result<ScalarClient<Cpu>, Failure> {
        let client = Client::new(
            Arc::clone(tuning),
            person.id,
            Arc::clone(&person.train.sequences),
            person.train.examples,
        )
        .fail_at(Kind::Data, format_args!("`{}`", person.name))?;
        Ok(ScalarClient::new(client, Arc::clone(&self.replica)))
    }
}
