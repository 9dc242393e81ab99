//! The round driver: one client per worker at a time, claimed as workers come free.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use antiphon_algo::vector::finite_reals;
use antiphon_algo::{Checked, LocalWork, ServerCx, ServerStep, Slots, State, StepError, WorkError};
use antiphon_core::{ClientId, Noise, Round};
use antiphon_protocol::{
    Client, ClientError, Closing, Coordinator, Ending, Event, Frame, Gate, LinkError, Log, LogError, Policy,
    PolicyError, Rest, Session, Setup, Vector, run_session,
};

use crate::wire::Asked;
use crate::{
    ClientDone, Clock, Faults, Framed, Meter, Observer, Outcome, RoundClosed, RoundFailed, RoundStarted,
    Server, Traffic, Wire,
};

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
    /// Whether [`RoundClosed::contributions`] carry the updates themselves.
    pub keep_updates: bool,
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

/// A federation in this process.
pub struct Simulation<'a> {
    /// What stays the same.
    pub config: Config,
    /// The server step, as [`Start::server`] says it was; [`Simulation::run`] loads that state.
    pub server: Box<dyn ServerStep>,
    /// Needed by plans that add noise.
    pub noise: Option<Box<dyn Noise + Send>>,
    /// Where the time comes from.
    pub clock: &'a dyn Clock,
    /// What befalls messages; `None` for a real run.
    pub faults: Option<&'a Faults<'a>>,
}

impl std::fmt::Debug for Simulation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("config", &self.config).field("server", &self.server).finish()
    }
}

/// One client between rounds.
struct Peer {
    client: Client,
    slots: Slots,
}

/// What one worker keeps from client to client.
#[derive(Default)]
struct Desk {
    scratch: Vec<f32>,
    known: Option<Vector>,
}

/// What the workers share.
struct Floor<'a> {
    config: &'a Config,
    server: &'a Server<'a>,
    meter: &'a Meter,
    faults: Option<&'a Faults<'a>>,
    peers: BTreeMap<ClientId, Mutex<Peer>>,
    /// One per worker.
    desks: Vec<Mutex<Desk>>,
    observer: Mutex<&'a mut dyn Observer>,
    stop: &'a AtomicBool,
}

impl Simulation<'_> {
    /// Runs from `start` to the end, or until `stop` is set: then no further client is begun, work that
    /// notices may return [`WorkError::Interrupted`], and the round in progress is abandoned.
    pub fn run(
        &mut self,
        start: Start,
        workforce: &dyn Workforce,
        observer: &mut dyn Observer,
        log: &mut (dyn Log + Send),
        stop: &AtomicBool,
    ) -> Result<End, SimError> {
        let config = &self.config;
        if config.plan.privacy().next().is_some() && self.noise.is_none() {
            return Err(SimError::NoNoise);
        }
        let Start { round, mut theta, server: state, mut slots, mut client_slots } = start;
        self.server.load(state)?;
        let meter = Meter::default();
        let setup = Setup {
            plan: config.plan.clone(),
            policy: config.policy.clone(),
            roster: config.roster.clone(),
            seed: config.seed,
            keep_updates: config.keep_updates,
        };
        let coordinator = Coordinator::new(setup, round, Vector::from_reals(&theta), self.clock.now())?;
        let server = Server::new(Gate::new(config.plan.clone()), coordinator, log, &meter, self.clock);
        let peers = config.roster.iter().map(|&id| {
            let slots = client_slots.remove(&id).unwrap_or_else(|| config.plan.slots());
            let client = Client::new(id, config.plan.clone(), config.call_attempts);
            (id, Mutex::new(Peer { client, slots }))
        });
        let floor = Floor {
            config,
            server: &server,
            meter: &meter,
            faults: self.faults,
            peers: peers.collect(),
            desks: (0..config.workers.max(1)).map(|_| Mutex::default()).collect(),
            observer: Mutex::new(observer),
            stop,
        };
        let mut next = round;
        let ended = |ending, next, theta| Ok(End { ending, next, theta, traffic: meter.read() });

        floor.join()?;
        let mut before = meter.read();
        loop {
            if let Some(e) = server.broken() {
                return Err(e.into());
            }
            for asked in server.asked() {
                match asked {
                    Asked::Finished(ending) => return ended(Some(ending), next, theta),
                    Asked::RoundFailed { round, attempt } => {
                        floor.observer().round_failed(&RoundFailed { round, attempt });
                    }
                    Asked::Close(closing) => {
                        let mut silence = Silence;
                        let noise: &mut dyn Noise = match &mut self.noise {
                            Some(noise) => &mut **noise,
                            None => &mut silence,
                        };
                        let closed = Close {
                            step: &mut *self.server,
                            noise,
                            theta: &mut theta,
                            slots: &mut slots,
                            clock: self.clock,
                            before: &mut before,
                        };
                        if floor.close(closing, closed)? {
                            next = next.next();
                        }
                    }
                }
            }
            if stop.load(Ordering::Relaxed) {
                return ended(None, next, theta);
            }
            let open = server.coordinator(|c| c.open_round().map(|(r, a, c)| (r, a, c.to_vec())));
            let Some((round, attempt, cohort)) = open else {
                self.wait(&server, next)?;
                continue;
            };
            floor.observer().round_started(&RoundStarted {
                round,
                attempt,
                cohort: &cohort,
                at: self.clock.now(),
            });
            floor.work(workforce, round, &cohort);
            let still_open =
                server.coordinator(|c| c.open_round().map(|(r, a, _)| (r, a))) == Some((round, attempt));
            if still_open && !stop.load(Ordering::Relaxed) {
                self.wait(&server, round)?;
            }
        }
    }

    /// Lets time pass to the next deadline; without one nothing would ever change.
    fn wait(&self, server: &Server<'_>, round: Round) -> Result<(), SimError> {
        if server.coordinator(Coordinator::ending).is_some() {
            return Ok(());
        }
        let (wake, pending) = server.coordinator(|c| (c.wake(), c.pending()));
        let Some(wake) = wake else { return Err(SimError::Stuck { round, pending }) };
        self.clock.wait_until(wake);
        let _ = server.tell(Event::Tick);
        Ok(())
    }
}

/// Stands where no layer draws noise.
struct Silence;

impl Noise for Silence {
    fn standard_normal(&mut self) -> f64 {
        0.0
    }
}

/// What closing a round changes.
struct Close<'a> {
    step: &'a mut dyn ServerStep,
    noise: &'a mut dyn Noise,
    theta: &'a mut Vec<f32>,
    slots: &'a mut Slots,
    clock: &'a dyn Clock,
    before: &'a mut Traffic,
}

impl<'a> Floor<'a> {
    fn observer(&self) -> MutexGuard<'_, &'a mut dyn Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every client asks to take part.
    fn join(&self) -> Result<(), SimError> {
        for (&id, peer) in &self.peers {
            let mut peer = peer.lock().unwrap_or_else(PoisonError::into_inner);
            let nothing = &mut Fails(None);
            match self.session(id, &mut peer, nothing, &mut Desk::default()) {
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
        desk: &mut Desk,
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
        let mut link = Framed { id, wire, meter: self.meter, theta_bytes, known: &mut desk.known };
        run_session(&mut peer.client, &mut link, work, &mut peer.slots, &mut desk.scratch)
    }

    /// One round: workers claim clients until none is left.
    fn work(&self, workforce: &dyn Workforce, round: Round, cohort: &[ClientId]) {
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
        desk: &mut Desk,
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
                    peer.client = Client::new(id, self.config.plan.clone(), self.config.call_attempts);
                    if !matches!(e, ClientError::Link(_)) || restarts == 0 {
                        return Outcome::Unreachable { reason: e.to_string() };
                    }
                    restarts -= 1;
                }
            }
        }
    }

    /// Aggregates, steps and persists. `Ok(false)`: there is no usable aggregate.
    fn close(&self, closing: Closing, c: Close<'_>) -> Result<bool, SimError> {
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
        if finite_reals(c.theta).is_err() {
            return Err(SimError::Diverged { round });
        }
        let encoded = Vector::from_reals(c.theta);
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
    fn run(&mut self, _: &[f32], _: Round) -> Result<antiphon_algo::Local, WorkError> {
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
