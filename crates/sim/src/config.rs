//! What a simulation is given and what it gives back.

use std::collections::BTreeMap;
use std::error::Error;

use antiphon_algo::{Checked, LocalWork, Losses, Slots, State, StepError, WorkError};
use antiphon_core::{ClientId, Round};
use antiphon_protocol::{Client, ClientError, Ending, LogError, Policy, PolicyError};

use crate::Traffic;

/// Makes the local work of a client, on the worker thread that has claimed it, each time it takes part. What
/// outlives a round (data cursors, optimiser state) belongs to the workforce, and so do the buffers that the
/// clients of one worker share.
pub trait Workforce: Sync {
    /// The work of `client`. At any time at most one is out for each client and for each worker.
    fn hire(&self, client: ClientId, worker: usize) -> Result<Box<dyn LocalWork + '_>, WorkError>;
}

impl<F> Workforce for F
where
    F: Fn(ClientId, usize) -> Result<Box<dyn LocalWork>, WorkError> + Sync,
{
    fn hire(&self, client: ClientId, worker: usize) -> Result<Box<dyn LocalWork + '_>, WorkError> {
        self(client, worker)
    }
}

/// What stays the same through a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// What clients and server do to updates.
    pub plan: Checked,
    /// How rounds are run.
    pub policy: Policy,
    /// Everyone who takes part.
    pub roster: Vec<ClientId>,
    /// Of the run.
    pub seed: u64,
    /// Worker threads, `>= 1`. Never changes a bit of the result.
    pub workers: usize,
    /// How often one call is made before a client gives up on the coordinator, `>= 1`.
    pub call_attempts: u32,
    /// How often a client that crashed is started again within one round.
    pub restarts: u32,
    /// Whether [`crate::RoundClosed::contributions`] carry the updates themselves.
    pub keep_updates: bool,
}

impl Config {
    /// A client that knows nothing yet.
    pub(crate) fn client(&self, id: ClientId) -> Client {
        let client = Client::new(id, self.plan.clone(), self.call_attempts);
        if self.policy.history > 0 { client.remembering() } else { client }
    }
}

/// Where a run begins: fresh, or from a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The first round to run.
    pub round: Round,
    /// The parameters, `[d]`.
    pub theta: Vec<f32>,
    /// What `ServerStep::state` returned.
    pub server: State,
    /// The server's layer memory.
    pub slots: Slots,
    /// The clients' layer memory.
    pub client_slots: BTreeMap<ClientId, Slots>,
    /// What the clients of the round before the first reported.
    pub losses: Option<Losses>,
}

impl Start {
    /// Round zero from `theta`.
    #[must_use]
    pub fn fresh(theta: Vec<f32>) -> Self {
        Self {
            round: Round(0),
            theta,
            server: State::new(),
            slots: Slots::default(),
            client_slots: BTreeMap::new(),
            losses: None,
        }
    }
}

/// How a simulation ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// `None`: stopped from outside; resume from the last round that the observer saw closed.
    pub ending: Option<Ending>,
    /// The round that would have come next.
    pub next: Round,
    /// The parameters, `[d]`.
    pub theta: Vec<f32>,
    /// Everything that was sent.
    pub traffic: Traffic,
}

/// A simulation that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// Settings that cannot be run.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A client that may not take part.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The event log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The server step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The observer, usually a checkpoint.
    #[error("{round} could not be persisted: {source}")]
    Persist {
        /// Which.
        round: Round,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Clients that will never answer, and no deadline.
    #[error("{round} waits for {} for ever: set `round_deadline_ms`", list(pending))]
    Stuck {
        /// Which round.
        round: Round,
        /// Who is missing.
        pending: Vec<ClientId>,
    },
    /// The parameters overflowed.
    #[error("the parameters are not finite after {round}; a lower server or client learning rate may help")]
    Diverged {
        /// Which round.
        round: Round,
    },
    /// A layer draws noise, and there is no source of it.
    #[error("the plan adds noise, but the simulation was given no source of noise")]
    NoNoise,
}

fn list(clients: &[ClientId]) -> String {
    clients.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
