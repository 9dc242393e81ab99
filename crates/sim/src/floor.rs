//! Where the clients of a round work, and how it is closed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use antiphon_algo::vector::finite_reals_on;
use antiphon_algo::{Local, LocalWork, ServerCx, ServerStep, Slots, WorkError};
use antiphon_core::{ClientId, Noise, Round};
use antiphon_protocol::{
    Client, ClientError, Closing, Event, Frame, LinkError, Rest, Session, Vector, run_session,
};

use crate::{
    ClientDone, Clock, Config, Faults, Framed, Meter, Observer, Outcome, RoundClosed, Server, SimError,
    Traffic, Wire, Workforce,
};

/// One client between rounds.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) slots: Slots,
}

/// What the workers share.
pub(crate) struct Floor<'a> {
    config: &'a Config,
    server: &'a Server<'a>,
    meter: &'a Meter,
    faults: Option<&'a Faults<'a>>,
    peers: BTreeMap<ClientId, Mutex<Peer>>,
    /// One per worker: where parameters are put that cannot be read in place.
    desks: Vec<Mutex<Vec<f32>>>,
    observer: Mutex<&'a mut dyn Observer>,
    stop: &'a AtomicBool,
}

/// What closing a round changes.
pub(crate) struct Close<'a> {
    pub(crate) step: &'a mut dyn ServerStep,
    pub(crate) noise: &'a mut dyn Noise,
    pub(crate) theta: &'a mut Vec<f32>,
    pub(crate) slots: &'a mut Slots,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) before: &'a mut Traffic,
}

impl<'a> Floor<'a> {
    pub(crate) fn new(
        config: &'a Config,
        server: &'a Server<'a>,
        meter: &'a Meter,
        faults: Option<&'a Faults<'a>>,
        peers: BTreeMap<ClientId, Mutex<Peer>>,
        observer: &'a mut dyn Observer,
        stop: &'a AtomicBool,
    ) -> Self {
        let desks = (0..config.workers.max(1)).map(|_| Mutex::default()).collect();
        Self { config, server, meter, faults, peers, desks, observer: Mutex::new(observer), stop }
    }

    pub(crate) fn observer(&self) -> MutexGuard<'_, &'a mut dyn Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every client asks to take part.
    pub(crate) fn join(&self) -> Result<(), SimError> {
        for (&id, peer) in &self.peers {
            let mut peer = peer.lock().unwrap_or_else(PoisonError::into_inner);
            let nothing = &mut Fails(None);
            match self.session(id, &mut peer, nothing, &mut Vec::new()) {
                // unreachable clients are for the deadline to judge
                Ok(_) | Err(ClientError::Unreachable { .. } | ClientError::Link(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn session(
        &self,
        id: ClientId,
        peer: &mut Peer,
        work: &mut dyn LocalWork,
        desk: &mut Vec<f32>,
    ) -> Result<Session, ClientError> {
        let mut direct = self.server;
        let mut faulty;
        let wire: &mut dyn Wire = match self.faults {
            None => &mut direct,
            Some(faults) => {
                faulty = Faulty { faults, inner: &mut direct };
                &mut faulty
            }
        };
        let theta_bytes = 4 * self.config.plan.schema().dim();
        let sparse = self.config.policy.history > 0;
        let mut link = Framed { id, wire, meter: self.meter, theta_bytes, sparse };
        run_session(&mut peer.client, &mut link, work, &mut peer.slots, desk)
    }

    /// One round: workers claim clients until none is left.
    pub(crate) fn work(&self, workforce: &dyn Workforce, round: Round, cohort: &[ClientId]) {
        let claimed = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        let worker = |index: usize| {
            let mut desk = self.desks[index].lock().unwrap_or_else(PoisonError::into_inner);
            while !self.stop.load(Ordering::Relaxed)
                && let Some(&client) = cohort.get(claimed.fetch_add(1, Ordering::Relaxed))
            {
                let outcome = self.take_part(workforce, round, client, index, &mut desk);
                let mut observer = self.observer();
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                let (outcome, cohort) = (&outcome, cohort.len());
                observer.client_done(&ClientDone { round, client, outcome, done, cohort });
            }
        };
        std::thread::scope(|s| {
            for index in 1..self.config.workers.min(cohort.len()).max(1) {
                let worker = &worker;
                s.spawn(move || worker(index));
            }
            worker(0);
        });
    }

    fn take_part(
        &self,
        workforce: &dyn Workforce,
        this: Round,
        id: ClientId,
        worker: usize,
        desk: &mut Vec<f32>,
    ) -> Outcome {
        let mut peer = self.peers[&id].lock().unwrap_or_else(PoisonError::into_inner);
        let mut work = workforce.hire(id, worker).unwrap_or_else(|e| Box::new(Fails(Some(e))));
        let (mut restarts, mut sessions) = (self.config.restarts, self.config.call_attempts);
        loop {
            sessions = sessions.saturating_sub(1);
            let more = sessions > 0;
            match self.session(id, &mut peer, &mut *work, desk) {
                // after a restart the client joins anew before it polls
                Ok(Session::Rest(Rest::Joined)) => {}
                // an old answer led it to a round that is over: it asks again
                Ok(Session::Rest(Rest::Accepted { round, .. } | Rest::GaveUp { round, .. }))
                    if round != this && more => {}
                Ok(Session::Rest(Rest::Accepted { round, .. })) if round == this => return Outcome::Accepted,
                Ok(Session::Rest(Rest::GaveUp { reason, .. })) => return Outcome::GaveUp { reason },
                Ok(Session::Rest(_) | Session::Over(_)) => return Outcome::Idle,
                Ok(Session::Interrupted) => return Outcome::Interrupted,
                Err(e) => {
                    // whatever it was in the middle of, it begins anew
                    peer.client = self.config.client(id);
                    if !matches!(e, ClientError::Link(_)) || restarts == 0 {
                        return Outcome::Unreachable { reason: e.to_string() };
                    }
                    restarts -= 1;
                }
            }
        }
    }

    /// Aggregates, steps and persists. `Ok(false)`: there is no usable aggregate.
    pub(crate) fn close(&self, closing: Closing, c: Close<'_>) -> Result<bool, SimError> {
        let Closing { round, attempt, contributions, tally } = closing;
        let mut slots = c.slots.clone();
        let mut cx =
            ServerCx { round, accepted: contributions.len(), noise: c.noise, threads: self.config.workers };
        let Ok(delta) = tally.close(&mut cx, &mut slots) else {
            let _ = self.server.tell(Event::Unusable);
            return Ok(false);
        };
        *c.slots = slots;
        let start = self.server.coordinator(|s| s.theta().clone());
        c.step.step(c.theta, &delta, self.config.workers)?;
        if finite_reals_on(self.config.workers, c.theta).is_err() {
            return Err(SimError::Diverged { round });
        }
        let encoded = Vector::from_reals_on(self.config.workers, c.theta);
        let client_slots = self.client_slots();
        let clients = self.server.coordinator(|s| s.clients().clone());
        let total = self.meter.read();
        let traffic = total - std::mem::replace(c.before, total);
        self.observer()
            .round_closed(&RoundClosed {
                round,
                attempt,
                plan: &self.config.plan,
                start: &start,
                theta: c.theta,
                encoded: &encoded,
                delta: &delta,
                server: c.step,
                slots: c.slots,
                client_slots: &client_slots,
                contributions: &contributions,
                clients: &clients,
                traffic,
                at: c.clock.now(),
            })
            .map_err(|source| SimError::Persist { round, source })?;
        let _ = self.server.tell(Event::Applied { theta: encoded });
        Ok(true)
    }

    fn client_slots(&self) -> BTreeMap<ClientId, Slots> {
        let mut out = BTreeMap::new();
        for (&id, peer) in &self.peers {
            let peer = peer.lock().unwrap_or_else(PoisonError::into_inner);
            if !peer.slots.is_empty() {
                out.insert(id, peer.slots.clone());
            }
        }
        out
    }
}

/// Work that could not be had: reports why.
struct Fails(Option<WorkError>);

impl LocalWork for Fails {
    fn run(&mut self, _: &[f32], _: Round) -> Result<Local, WorkError> {
        Err(self.0.take().unwrap_or(WorkError::NoData))
    }
}

/// A wire that faults may strike.
struct Faulty<'a, 'f> {
    faults: &'a Faults<'f>,
    inner: &'a mut dyn Wire,
}

impl Wire for Faulty<'_, '_> {
    fn exchange(&mut self, from: ClientId, frame: Frame) -> Result<Frame, LinkError> {
        self.faults.strike(self.inner, from, frame)
    }
}
