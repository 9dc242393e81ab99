//! The clients of a run as the simulation hires them: one at a time each, timed, with what outlives a round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use antiphon_algo::{Local, LocalWork, Losses, WorkError};
use antiphon_core::{ClientId, Round};
use antiphon_kernels::Cpu;
use antiphon_oracle::search::Seeker;
use antiphon_sim::Workforce;
use antiphon_tune::Client;
use antiphon_tune::scalars::ScalarClient;

use super::Trial;
use super::execute::ClientState;
use crate::progress::Progress;

/// What a client's part of the last round took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    /// Seconds of local work.
    pub(crate) seconds: f64,
}

/// Whoever does a client's local work.
#[derive(Debug)]
pub(crate) enum Hand {
    /// By gradients.
    Trains(Client<Cpu>),
    /// On a replica of the state, whose scalars it sends. Keeps nothing between rounds.
    Tells(ScalarClient<Cpu>),
    /// By asking. Keeps nothing between rounds.
    Seeks(Seeker),
}

impl Hand {
    pub(crate) fn id(&self) -> ClientId {
        match self {
            Self::Trains(c) => c.id(),
            Self::Tells(c) => c.id(),
            Self::Seeks(s) => s.id(),
        }
    }

    /// Who keeps something between rounds.
    pub(crate) fn trains(&self) -> Option<&Client<Cpu>> {
        match self {
            Self::Trains(c) => Some(c),
            Self::Tells(_) | Self::Seeks(_) => None,
        }
    }
}

impl LocalWork for &Hand {
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        match self {
            Hand::Trains(c) => (&mut &*c).run(start, round),
            Hand::Tells(c) => (&mut &*c).run(start, round),
            Hand::Seeks(s) => (&mut &*s).run(start, round),
        }
    }

    fn told(&mut self, losses: Option<Losses>) {
        if let Hand::Trains(c) = self {
            (&mut &*c).told(losses);
        }
    }
}

/// Every client of the run.
pub(crate) struct Crew<'a> {
    clients: BTreeMap<ClientId, Hand>,
    took: Mutex<BTreeMap<ClientId, Took>>,
    trial: &'a dyn Trial,
    progress: &'a Progress,
}

impl<'a> Crew<'a> {
    pub(crate) fn new(clients: Vec<Hand>, trial: &'a dyn Trial, progress: &'a Progress) -> Self {
        let clients = clients.into_iter().map(|c| (c.id(), c)).collect();
        Self { clients, took: Mutex::default(), trial, progress }
    }

    /// What the parts of the round took, and forgets it.
    pub(crate) fn took(&self) -> BTreeMap<ClientId, Took> {
        std::mem::take(&mut lock(&self.took))
    }

    /// Forgets what clients other than `counted` learnt in `round`: they worked in an attempt that failed, or in vain.
    pub(crate) fn forget_others(&self, counted: &BTreeSet<ClientId>, round: Round) {
        for (id, client) in self.clients.iter().filter(|(id, _)| !counted.contains(id)) {
            if let Some(c) = client.trains() {
                c.forget(round);
            }
            if let Some((p, _)) = self.trial.personal() {
                p.forget(*id, round);
            }
        }
    }

    /// What `client` keeps between rounds.
    pub(crate) fn state(&self, client: ClientId) -> ClientState {
        let optimizer = self.clients.get(&client).and_then(Hand::trains).and_then(Client::state);
        let personal = self.trial.personal().and_then(|(p, _)| p.state(client));
        let losses = self.clients.get(&client).and_then(Hand::trains).and_then(Client::losses);
        ClientState { optimizer, personal, losses }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workforce for Crew<'_> {
    fn hire(&self, client: ClientId, _worker: usize) -> Result<Box<dyn LocalWork + '_>, WorkError> {
        let held = self.clients.get(&client).ok_or(WorkError::NoData)?;
        Ok(Box::new(Shift { crew: self, client: held }))
    }
}

/// One client at work.
struct Shift<'a> {
    crew: &'a Crew<'a>,
    client: &'a Hand,
}

impl LocalWork for Shift<'_> {
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        let id = self.client.id();
        self.crew.progress.client_started(id.0);
        let begun = Instant::now();
        let local = match self.crew.trial.personal() {
            None => (&mut &*self.client).run(start, round),
            Some((p, theta)) => p.run(id, &mut &*self.client, start, theta, round),
        };
        let took = Took { seconds: begun.elapsed().as_secs_f64() };
        lock(&self.crew.took).insert(id, took);
        self.crew.progress.client_done(id.0);
        local
    }

    fn told(&mut self, losses: Option<Losses>) {
        (&mut &*self.client).told(losses);
    }
}
