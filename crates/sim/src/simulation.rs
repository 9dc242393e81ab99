//! The round driver: one client per worker at a time, claimed as workers come free.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_algo::ServerStep;
use antiphon_core::{Millis, Noise, Round};
use antiphon_protocol::{Coordinator, Event, Gate, Log, Setup, Vector};

use crate::floor::{Close, Floor, Peer};
use crate::wire::Asked;
use crate::{
    Clock, Config, End, Faults, Meter, Observer, RoundFailed, RoundStarted, Server, SimError, Start,
    Workforce,
};

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

impl Simulation<'_> {
    /// Runs from `start` to the end, or until `stop` is set: then no further client is begun, work that
    /// notices may return [`antiphon_algo::WorkError::Interrupted`], and the round in progress is abandoned.
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
        let Start { round, mut theta, server: state, mut slots, mut client_slots, losses } = start;
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
        let coordinator = coordinator.after(losses);
        let server = Server::new(Gate::new(config.plan.clone()), coordinator, log, &meter, self.clock);
        let peers = config.roster.iter().map(|&id| {
            let slots = client_slots.remove(&id).unwrap_or_else(|| config.plan.slots());
            let client = config.client(id);
            (id, Mutex::new(Peer { client, slots }))
        });
        let floor = Floor::new(config, &server, &meter, self.faults, peers.collect(), observer, stop);
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
                self.wait(&server, next, stop)?;
                continue;
            };
            floor.observer().round_started(&RoundStarted {
                round,
                attempt,
                cohort: &cohort,
                at: self.clock.now(),
            });
            floor.work(workforce, round, &cohort);
            if let Some(e) = server.broken() {
                return Err(e.into());
            }
            let still_open =
                server.coordinator(|c| c.open_round().map(|(r, a, _)| (r, a))) == Some((round, attempt));
            if still_open && !stop.load(Ordering::Relaxed) {
                self.wait(&server, round, stop)?;
            }
        }
    }

    /// Lets time pass to the next deadline; without one nothing would ever change.
    fn wait(&self, server: &Server<'_>, round: Round, stop: &AtomicBool) -> Result<(), SimError> {
        if server.coordinator(Coordinator::ending).is_some() {
            return Ok(());
        }
        let (wake, pending) = server.coordinator(|c| (c.wake(), c.pending()));
        let Some(wake) = wake else { return Err(SimError::Stuck { round, pending }) };
        // in slices, so that a stop is noticed
        while self.clock.now() < wake && !stop.load(Ordering::Relaxed) {
            self.clock.wait_until(wake.min(Millis(self.clock.now().0 + 100)));
        }
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
