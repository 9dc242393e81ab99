//! The coordinator as a pure state machine.
//!
//! ```text
//! Gathering --all joined, or enough at the deadline--> Open --all answered, or deadline--> Closing
//!     Closing --Applied--> Open (next round) … --> Over
//!     Open --below min_clients--> Open (next attempt, new cohort) … --> Over
//! ```
//!
//! Time passes before an event is handled: a message that comes at the deadline is late. Effects are carried
//! out in order; a record comes before the reply that depends on it, so a caller whose log is durable never
//! acknowledges what it could lose.
//!
//! Sampling is uniform without replacement over the clients that have joined, from
//! `Stream(seed, Sampling, round)`, substream `attempt`.
//!
//! Deliberately missing: asynchronous and overlapping rounds, over-selection, and keeping the answers of a
//! failed attempt for the next one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use antiphon_algo::Losses;
use antiphon_core::{ClientId, Millis, Purpose, Round, Stream};

use crate::phase::{Open, Phase, Seat};
use crate::{
    Changed, ClientStatus, Closing, Contribution, Delivered, Down, Effect, Ending, Event, Inbound, Patch,
    PolicyError, Receipt, Record, Refusal, Setup, Vector, WaitFor, What, Work,
};

/// The round machine.
#[derive(Debug)]
pub struct Coordinator {
    setup: Setup,
    clients: BTreeMap<ClientId, ClientStatus>,
    theta: Vector,
    /// The parameters of past rounds, oldest first.
    history: VecDeque<Vector>,
    /// What the clients of the last round reported, and those of the round that is closing.
    losses: [Option<Losses>; 2],
    phase: Phase,
}

impl Coordinator {
    /// A coordinator that begins with round `first` (zero, or where a checkpoint left off) from `theta`.
    /// Clients join anew, also after a restart.
    pub fn new(setup: Setup, first: Round, theta: Vector, now: Millis) -> Result<Self, PolicyError> {
        setup.policy.check(setup.roster.len())?;
        let expected = 4 * setup.plan.schema().dim();
        if theta.bytes().len() != expected {
            return Err(PolicyError::Theta { expected, found: theta.bytes().len() });
        }
        let mut clients = BTreeMap::new();
        for &id in &setup.roster {
            if clients.insert(id, ClientStatus::default()).is_some() {
                return Err(PolicyError::Twice(id));
            }
        }
        let until = setup.policy.join_deadline_ms.map(|ms| Millis(now.0.saturating_add(ms)));
        let history = VecDeque::new();
        Ok(Self {
            setup,
            clients,
            theta,
            history,
            losses: [None, None],
            phase: Phase::Gathering { first, until },
        })
    }

    /// The same after a round, before this coordinator's first, whose clients reported `losses`.
    #[must_use]
    pub fn after(mut self, losses: Option<Losses>) -> Self {
        self.losses[0] = losses;
        self
    }

    /// The parameters that the current round began from, `[d]` reals.
    #[must_use]
    pub fn theta(&self) -> &Vector {
        &self.theta
    }

    /// What is known about each client.
    #[must_use]
    pub fn clients(&self) -> &BTreeMap<ClientId, ClientStatus> {
        &self.clients
    }

    /// The open round, its attempt and its cohort.
    #[must_use]
    pub fn open_round(&self) -> Option<(Round, u32, &[ClientId])> {
        match &self.phase {
            Phase::Open(o) => Some((o.round, o.attempt, &o.cohort)),
            _ => None,
        }
    }

    /// Clients that the run waits for, ascending: those that have not joined, or not answered.
    #[must_use]
    pub fn pending(&self) -> Vec<ClientId> {
        match &self.phase {
            Phase::Open(o) => {
                o.seats.iter().filter(|(_, s)| matches!(s, Seat::Pending)).map(|(&id, _)| id).collect()
            }
            Phase::Gathering { .. } => {
                self.clients.iter().filter(|(_, c)| !c.joined).map(|(&id, _)| id).collect()
            }
            Phase::Closing { .. } | Phase::Over(_) => Vec::new(),
        }
    }

    /// When a [`Event::Tick`] will change something, if ever.
    #[must_use]
    pub fn wake(&self) -> Option<Millis> {
        match &self.phase {
            Phase::Gathering { until, .. } => *until,
            Phase::Open(o) => o.deadline,
            Phase::Closing { .. } | Phase::Over(_) => None,
        }
    }

    /// How the run ended, if it has.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        match self.phase {
            Phase::Over(ending) => Some(ending),
            _ => None,
        }
    }

    /// The one transition.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        self.progress(now, &mut out);
        match event {
            Event::Message { from, message } => self.message(now, from, message, &mut out),
            Event::Tick => {}
            Event::Applied { theta } => self.applied(now, theta, &mut out),
            Event::Unusable => {
                if let Phase::Closing { round, attempt } = self.phase {
                    self.next_attempt(now, round, attempt, &mut out);
                }
            }
            Event::Stop => self.finish(now, Ending::Stopped, &mut out),
        }
        self.progress(now, &mut out);
        out
    }

    fn message(
        &mut self,
        now: Millis,
        from: ClientId,
        message: Result<Inbound, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(status) = self.clients.get_mut(&from) {
            status.last_seen = Some(now);
        }
        let answer = match (message, &self.phase) {
            _ if !self.clients.contains_key(&from) => Err(Refusal::Stranger(from)),
            (Err(refusal), _) => {
                self.leave_seat(from, &refusal);
                Err(refusal)
            }
            (Ok(Inbound::Join), Phase::Over(ending)) => Ok(Down::Done(*ending)),
            (Ok(Inbound::Join), _) => Ok(self.join(now, from, out)),
            _ if !self.clients[&from].joined => Err(Refusal::NotJoined(from)),
            (Ok(Inbound::Poll), _) => Ok(self.poll(from)),
            (Ok(Inbound::Deliver(d)), _) => self.deliver(now, from, d, out),
            (Ok(Inbound::Failed { round, attempt, reason }), _) => {
                self.failed(now, from, round, attempt, reason, out)
            }
        };
        let down = answer.unwrap_or_else(|refusal| {
            if let Some(status) = self.clients.get_mut(&from) {
                status.refused += 1;
                status.last_trouble = Some(refusal.to_string());
                out.push(log(now, What::Refused { client: from, reason: refusal.to_string() }));
            }
            Down::Rejected(refusal.rejection())
        });
        out.push(Effect::Reply(down));
    }

    /// A client whose update for the open round cannot be used is not waited for.
    fn leave_seat(&mut self, from: ClientId, refusal: &Refusal) {
        if let (Phase::Open(o), Refusal::Update { round, attempt, .. }) = (&mut self.phase, refusal)
            && (*round, *attempt) == (o.round, o.attempt)
            && let Some(seat @ Seat::Pending) = o.seats.get_mut(&from)
        {
            *seat = Seat::Out;
            // the seat was pending, so the tally has not seen this client
            let _ = o.tally.skip(from);
        }
    }

    fn join(&mut self, now: Millis, from: ClientId, out: &mut Vec<Effect>) -> Down {
        if let Some(status) = self.clients.get_mut(&from) {
            // it may have lost everything
            status.holds = None;
            if !status.joined {
                status.joined = true;
                out.push(log(now, What::Joined { client: from }));
            }
        }
        Down::Accepted(Receipt::Join)
    }

    fn poll(&self, from: ClientId) -> Down {
        match &self.phase {
            Phase::Gathering { .. } => Down::Wait(WaitFor::Clients {
                joined: self.clients.values().filter(|c| c.joined).count() as u32,
                expected: self.clients.len() as u32,
            }),
            Phase::Open(o) => match o.seats.get(&from) {
                Some(Seat::Pending) => self.task(from, o),
                Some(Seat::Accepted(_) | Seat::Out) => Down::Wait(WaitFor::Others {
                    round: o.round,
                    answered: o.answered() as u32,
                    cohort: o.cohort.len() as u32,
                }),
                None => Down::Wait(WaitFor::Unselected { round: o.round }),
            },
            Phase::Closing { round, .. } => Down::Wait(WaitFor::Aggregation { round: *round }),
            Phase::Over(ending) => Down::Done(*ending),
        }
    }

    /// The open round's task: what changed, for a client that has parameters of which that is shorter to tell.
    fn task(&self, from: ClientId, o: &Open) -> Down {
        let (round, attempt, cohort) = (o.round, o.attempt, o.cohort.clone());
        let (plan, schema) = (self.setup.plan.digest(), self.setup.plan.schema_digest());
        let losses = self.losses[0];
        let holds = self.clients.get(&from).and_then(|c| c.holds).filter(|_| self.setup.policy.history > 0);
        let known = |h| self.history.iter().chain([&self.theta]).find(|v| v.digest() == h);
        match holds.and_then(known).and_then(|old| Patch::between(old, &self.theta)) {
            Some(theta) => Down::Changed(Changed { round, attempt, plan, schema, cohort, theta, losses }),
            None => {
                let theta = self.theta.clone();
                Down::Work(Work { round, attempt, plan, schema, cohort, theta, losses })
            }
        }
    }

    /// The open round, if `round` and `attempt` are its own and `from` was selected for it.
    fn open_for(&mut self, from: ClientId, round: Round, attempt: u32) -> Result<&mut Open, Refusal> {
        let (current, current_attempt) = match &self.phase {
            Phase::Open(Open { round, attempt, .. }) | Phase::Closing { round, attempt } => {
                (*round, *attempt)
            }
            Phase::Gathering { .. } | Phase::Over(_) => return Err(Refusal::NoRound),
        };
        match (round, attempt).cmp(&(current, current_attempt)) {
            std::cmp::Ordering::Less => {
                return Err(Refusal::Stale { round, attempt, current, current_attempt });
            }
            std::cmp::Ordering::Greater => {
                return Err(Refusal::Early { round, attempt, current, current_attempt });
            }
            std::cmp::Ordering::Equal => {}
        }
        match &mut self.phase {
            Phase::Open(o) if o.seats.contains_key(&from) => Ok(o),
            Phase::Open(_) => Err(Refusal::Unselected { client: from, round }),
            _ => Err(Refusal::NoRound),
        }
    }

    fn deliver(
        &mut self,
        now: Millis,
        from: ClientId,
        d: Delivered,
        out: &mut Vec<Effect>,
    ) -> Result<Down, Refusal> {
        let digest = d.sent.digest();
        let key = (d.round, d.attempt, digest, d.weight);
        let receipt = Down::Accepted(Receipt::Update { round: d.round, attempt: d.attempt, digest });
        if let Some(status) = self.clients.get_mut(&from)
            && status.last_accepted == Some(key)
        {
            status.repeated += 1;
            return Ok(receipt);
        }
        let (base, keep) = (self.theta.digest(), self.setup.keep_updates);
        let open = self.open_for(from, d.round, d.attempt)?;
        if !matches!(open.seats.get(&from), Some(Seat::Pending)) {
            return Err(Refusal::Answered { client: from, round: d.round });
        }
        if d.base != base {
            return Err(Refusal::Base { expected: base, found: d.base });
        }
        let norm = d.update.norm();
        let update = keep.then(|| d.update.clone());
        open.tally.accept(from, d.update)?;
        open.seats.insert(
            from,
            Seat::Accepted(Contribution {
                client: from,
                weight: d.weight,
                metrics: d.metrics.clone(),
                digest,
                norm,
                update,
            }),
        );
        if let Some(status) = self.clients.get_mut(&from) {
            status.accepted += 1;
            status.last_accepted = Some(key);
            status.holds = Some(base);
        }
        let what = What::Accepted {
            round: d.round,
            attempt: d.attempt,
            client: from,
            digest,
            bytes: d.sent.bytes().len() as u64,
            weight: d.weight,
            metrics: d.metrics,
        };
        out.push(Effect::LogUpdate(Record { at_ms: now, what }, d.sent));
        Ok(receipt)
    }

    fn failed(
        &mut self,
        now: Millis,
        from: ClientId,
        round: Round,
        attempt: u32,
        reason: String,
        out: &mut Vec<Effect>,
    ) -> Result<Down, Refusal> {
        let open = self.open_for(from, round, attempt)?;
        match open.seats.get_mut(&from) {
            Some(Seat::Accepted(_)) => return Err(Refusal::Answered { client: from, round }),
            Some(seat @ Seat::Pending) => {
                *seat = Seat::Out;
                open.tally.skip(from)?;
                if let Some(status) = self.clients.get_mut(&from) {
                    status.failed += 1;
                    status.last_trouble = Some(reason.clone());
                }
                out.push(log(now, What::Failed { round, attempt, client: from, reason }));
            }
            Some(Seat::Out) | None => {}
        }
        Ok(Down::Accepted(Receipt::Failure { round, attempt }))
    }

    fn applied(&mut self, now: Millis, theta: Vector, out: &mut Vec<Effect>) {
        if let Phase::Closing { round, .. } = self.phase {
            let before = std::mem::replace(&mut self.theta, theta);
            self.losses = [self.losses[1], None];
            if self.setup.policy.history > 0 {
                self.history.push_back(before);
                if self.history.len() > self.setup.policy.history {
                    self.history.pop_front();
                }
            }
            out.push(log(now, What::Closed { round, theta: self.theta.digest() }));
            self.open(now, round.next(), 0, out);
        }
    }

    /// Does what time and counts ask for.
    fn progress(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let late = |t: Option<Millis>| t.is_some_and(|t| now >= t);
        match &self.phase {
            Phase::Gathering { first, .. } if first.0 >= self.setup.policy.num_rounds => {
                self.finish(now, Ending::Completed, out);
            }
            Phase::Gathering { first, until } => {
                let (first, joined) = (*first, self.clients.values().filter(|c| c.joined).count());
                if joined == self.clients.len() || (late(*until) && joined >= self.setup.policy.min_clients) {
                    self.open(now, first, 0, out);
                } else if late(*until) {
                    self.finish(now, Ending::TooFewClients, out);
                }
            }
            Phase::Open(o) if o.answered() == o.cohort.len() || late(o.deadline) => self.close(now, out),
            Phase::Open(_) | Phase::Closing { .. } | Phase::Over(_) => {}
        }
    }

    fn open(&mut self, now: Millis, round: Round, attempt: u32, out: &mut Vec<Effect>) {
        let policy = &self.setup.policy;
        if round.0 >= policy.num_rounds {
            return self.finish(now, Ending::Completed, out);
        }
        let joined: Vec<ClientId> =
            self.clients.iter().filter(|(_, c)| c.joined).map(|(&id, _)| id).collect();
        let cohort: Arc<[ClientId]> =
            Stream::keyed(self.setup.seed, Purpose::Sampling, Some(round), None, "")
                .substream(attempt.into())
                .choose(joined.len(), policy.cohort_size(joined.len()))
                .into_iter()
                .map(|i| joined[i])
                .collect();
        let deadline = policy.round_deadline_ms.map(|ms| Millis(now.0.saturating_add(ms)));
        for id in &*cohort {
            if let Some(status) = self.clients.get_mut(id) {
                status.selected += 1;
            }
        }
        out.push(log(
            now,
            What::Opened {
                round,
                attempt,
                cohort: cohort.to_vec(),
                theta: self.theta.digest(),
                deadline_ms: deadline,
            },
        ));
        self.phase = Phase::Open(Open {
            round,
            attempt,
            deadline,
            seats: cohort.iter().map(|&id| (id, Seat::Pending)).collect(),
            tally: self.setup.plan.open(&cohort),
            cohort,
        });
    }

    fn close(&mut self, now: Millis, out: &mut Vec<Effect>) {
        // the placeholder is overwritten below on every path
        let phase = std::mem::replace(&mut self.phase, Phase::Over(Ending::Stopped));
        let Phase::Open(open) = phase else {
            self.phase = phase;
            return;
        };
        let (round, attempt, accepted) = (open.round, open.attempt, open.accepted());
        let mut contributions = Vec::with_capacity(accepted);
        for (id, seat) in open.seats {
            match seat {
                Seat::Accepted(c) => contributions.push(c),
                Seat::Out => {}
                Seat::Pending => {
                    if let Some(status) = self.clients.get_mut(&id) {
                        status.timed_out += 1;
                        status.last_trouble = Some(format!("did not answer {round} in time"));
                    }
                    out.push(log(now, What::TimedOut { round, attempt, client: id }));
                }
            }
        }
        self.phase = Phase::Closing { round, attempt };
        let needed = self.setup.policy.min_clients;
        if accepted < needed {
            let (accepted, needed) = (accepted as u32, needed as u32);
            out.push(log(now, What::RoundFailed { round, attempt, accepted, needed }));
            self.next_attempt(now, round, attempt, out);
            return;
        }
        self.losses[1] = Losses::of(contributions.iter().map(|c| &c.metrics));
        let ids = contributions.iter().map(|c| c.client).collect();
        out.push(log(now, What::Closing { round, attempt, accepted: ids }));
        out.push(Effect::Close(Closing { round, attempt, contributions, tally: open.tally }));
    }

    fn next_attempt(&mut self, now: Millis, round: Round, attempt: u32, out: &mut Vec<Effect>) {
        out.push(Effect::RoundFailed { round, attempt });
        if attempt + 1 < self.setup.policy.round_attempts {
            self.open(now, round, attempt + 1, out);
        } else {
            self.finish(now, Ending::RoundFailed, out);
        }
    }

    fn finish(&mut self, now: Millis, ending: Ending, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Over(_)) {
            return;
        }
        self.phase = Phase::Over(ending);
        out.push(log(now, What::Finished { ending }));
        out.push(Effect::Finished(ending));
    }
}

fn log(at_ms: Millis, what: What) -> Effect {
    Effect::Log(Record { at_ms, what })
}
