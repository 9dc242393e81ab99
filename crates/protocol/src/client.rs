//! The client as a pure state machine, and the loop that drives it over a [`Link`].
//!
//! ```text
//! Join --Accepted--> rest;   Poll --Work--> train --> Deliver --Accepted--> rest;   Poll …
//! ```
//!
//! Every call may be made again with the same bytes: an answer that was lost or damaged on the way is asked for
//! again, and the receipt names what was accepted, so that an old answer is never taken for a new one.

use std::collections::BTreeMap;

use antiphon_algo::{Checked, ClientCx, Local, LocalWork, Slots, WorkError};
use antiphon_core::{ClientId, Digest, Round};

use crate::wire::{metric_name, printable};
use crate::{
    Changed, Code, Deliver, Down, Ending, Link, LinkError, Receipt, Rejection, Up, Vector, WaitFor, Work,
};

/// What a client should do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send this and tell [`Client::answered`] what came back.
    Call(Up),
    /// Train, and tell [`Client::trained`] or [`Client::gave_up`].
    Train(Work),
    /// Nothing to do for now; [`Client::begin`] asks again.
    Rest(Rest),
    /// The run is over.
    Stop(Ending),
}

/// Why a client rests.
#[derive(Clone, Debug, PartialEq)]
pub enum Rest {
    /// It takes part, and may poll.
    Joined,
    /// The coordinator has nothing for it.
    Waiting(WaitFor),
    /// Its update was accepted.
    Accepted {
        /// For this round.
        round: Round,
        /// At this attempt.
        attempt: u32,
    },
    /// It is out of a round.
    GaveUp {
        /// Of this round.
        round: Round,
        /// Why.
        reason: String,
    },
}

/// Why a client cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The coordinator will have nothing from it.
    #[error("{client} is excluded from this run: {reason}")]
    Excluded {
        /// Who.
        client: ClientId,
        /// As the coordinator says.
        reason: Rejection,
    },
    /// No answer, however often it asked.
    #[error("{client} got no usable answer in {attempts} attempts: {last}")]
    Unreachable {
        /// Who.
        client: ClientId,
        /// Calls made.
        attempts: u32,
        /// What the last one gave.
        last: String,
    },
    /// The connection is gone.
    #[error(transparent)]
    Link(LinkError),
}

/// One client of one run.
#[derive(Debug)]
pub struct Client {
    id: ClientId,
    plan: Checked,
    /// How often one call is made before giving up.
    attempts: u32,
    tries: u32,
    /// The last round it has done with, and the attempt: work for it, or older, is an old answer. Forgotten when the
    /// coordinator asks it to join anew, because a restarted coordinator may repeat a round.
    done: Option<(Round, u32)>,
    /// Parameters that it keeps, if it does.
    held: Option<Held>,
    state: State,
}

/// Parameters of earlier rounds, so that a client can be told what changed.
#[derive(Clone, Debug, Default)]
struct Held {
    /// What its last accepted update began from: the coordinator knows that it has these.
    accepted: Option<Vector>,
    /// What it was sent last.
    latest: Option<Vector>,
}

#[derive(Clone, Debug)]
enum State {
    Fresh,
    Joining,
    Joined,
    Polling,
    Training { round: Round, attempt: u32, base: Digest },
    Delivering { deliver: Deliver },
    Reporting { round: Round, attempt: u32, reason: String },
    Over(Ending),
}

impl Client {
    /// A client that makes each call up to `attempts >= 1` times.
    #[must_use]
    pub fn new(id: ClientId, plan: Checked, attempts: u32) -> Self {
        Self { id, plan, attempts: attempts.max(1), tries: 0, done: None, held: None, state: State::Fresh }
    }

    /// The same, keeping the parameters of up to two rounds so that it can be sent what changed.
    #[must_use]
    pub fn remembering(mut self) -> Self {
        self.held = Some(Held::default());
        self
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// The first step, and the next after a rest.
    pub fn begin(&mut self) -> Step {
        match &self.state {
            State::Fresh => self.enter(State::Joining),
            State::Joined => self.enter(State::Polling),
            _ => self.current(),
        }
    }

    /// Enters `state` with a fresh budget of calls.
    fn enter(&mut self, state: State) -> Step {
        self.state = state;
        self.tries = 0;
        self.current()
    }

    /// The call that the current state makes, however often it is repeated.
    fn current(&self) -> Step {
        match &self.state {
            State::Fresh | State::Joining => {
                Step::Call(Up::Join { plan: self.plan.digest(), schema: self.plan.schema_digest() })
            }
            State::Joined | State::Polling => Step::Call(Up::Poll),
            State::Delivering { deliver } => Step::Call(Up::Deliver(deliver.clone())),
            // a caller that asks without having trained gives up on the round
            State::Training { round, attempt, .. } => {
                Step::Call(Up::Failed { round: *round, attempt: *attempt, reason: "not trained".into() })
            }
            State::Reporting { round, attempt, reason } => {
                Step::Call(Up::Failed { round: *round, attempt: *attempt, reason: reason.clone() })
            }
            State::Over(ending) => Step::Stop(*ending),
        }
    }

    /// What came back from the last call.
    pub fn answered(&mut self, answer: Result<Down, LinkError>) -> Result<Step, ClientError> {
        let down = match answer {
            Ok(down) => down,
            Err(e @ LinkError::Closed(_)) => return Err(ClientError::Link(e)),
            Err(e) => return self.again(&e.to_string()),
        };
        match (self.state.clone(), down) {
            (_, Down::Done(ending)) => Ok(self.enter(State::Over(ending))),
            (_, Down::Rejected(reason)) => self.rejected(reason),
            (State::Joining, Down::Accepted(Receipt::Join)) => Ok(self.rest(Rest::Joined)),
            (State::Polling, Down::Wait(what)) => Ok(self.rest(Rest::Waiting(what))),
            (State::Polling, Down::Work(work))
                if self.done.is_none_or(|d| (work.round, work.attempt) > d) =>
            {
                Ok(self.take(work))
            }
            (State::Polling, Down::Changed(changed))
                if self.done.is_none_or(|d| (changed.round, changed.attempt) > d) =>
            {
                Ok(self.change(&changed))
            }
            (
                State::Delivering { deliver: d },
                Down::Accepted(Receipt::Update { round, attempt, digest }),
            ) if (round, attempt, digest) == (d.round, d.attempt, d.update.digest()) => {
                Ok(self.rest(Rest::Accepted { round, attempt }))
            }
            (
                State::Reporting { round, attempt, reason },
                Down::Accepted(Receipt::Failure { round: r, attempt: a }),
            ) if (r, a) == (round, attempt) => Ok(self.rest(Rest::GaveUp { round, reason })),
            _ => self.again("an answer to another question"),
        }
    }

    fn again(&mut self, why: &str) -> Result<Step, ClientError> {
        self.tries += 1;
        if self.tries >= self.attempts {
            return Err(ClientError::Unreachable {
                client: self.id,
                attempts: self.tries,
                last: why.to_owned(),
            });
        }
        Ok(self.current())
    }

    fn rest(&mut self, why: Rest) -> Step {
        match &self.state {
            State::Delivering { deliver: d } => {
                self.done = Some((d.round, d.attempt));
                let began = |v: &Vector| v.digest() == d.base;
                if let (Some(held), Rest::Accepted { .. }) = (&mut self.held, &why) {
                    held.accepted = held.latest.clone().filter(began);
                }
            }
            State::Reporting { round, attempt, .. } => self.done = Some((*round, *attempt)),
            _ => {}
        }
        self.state = State::Joined;
        self.tries = 0;
        Step::Rest(why)
    }

    fn rejected(&mut self, reason: Rejection) -> Result<Step, ClientError> {
        match (reason.code, &self.state) {
            (Code::Excluded, _) => Err(ClientError::Excluded { client: self.id, reason }),
            (Code::Resend, _) => self.again(&reason.detail),
            (Code::Rejoin, State::Joining) => self.again(&reason.detail),
            (Code::Rejoin, _) => {
                self.done = None;
                Ok(self.enter(State::Joining))
            }
            (Code::Unusable, State::Delivering { deliver: d }) => {
                let (round, attempt, reason) = (d.round, d.attempt, printable(&reason.detail));
                Ok(self.enter(State::Reporting { round, attempt, reason }))
            }
            (Code::Outdated, State::Delivering { deliver: Deliver { round, .. } }) => {
                let round = *round;
                Ok(self.rest(Rest::GaveUp { round, reason: reason.detail }))
            }
            // what went wrong here says more than that the report of it came too late
            (Code::Outdated | Code::Unusable, State::Reporting { round, reason, .. }) => {
                let (round, reason) = (*round, reason.clone());
                Ok(self.rest(Rest::GaveUp { round, reason }))
            }
            (Code::Outdated | Code::Unusable, _) => self.again(&reason.detail),
        }
    }

    /// Puts the round's parameters together. A client that has not what was changed says so by joining anew, and is sent
    /// the whole.
    fn change(&mut self, changed: &Changed) -> Step {
        let resolve =
            |h: &Held| [&h.accepted, &h.latest].into_iter().flatten().find_map(|v| changed.resolve(v));
        match self.held.as_ref().and_then(resolve) {
            Some(work) => self.take(work),
            None => {
                if let Some(held) = &mut self.held {
                    *held = Held::default();
                }
                self.enter(State::Joining)
            }
        }
    }

    fn take(&mut self, work: Work) -> Step {
        let refuse = |reason: String| State::Reporting { round: work.round, attempt: work.attempt, reason };
        if work.plan != self.plan.digest() {
            return self.enter(refuse(format!("plan {:?}, mine is {:?}", work.plan, self.plan.digest())));
        }
        if work.schema != self.plan.schema_digest() {
            let mine = self.plan.schema_digest();
            return self.enter(refuse(format!("schema {:?}, mine is {mine:?}", work.schema)));
        }
        if work.cohort.binary_search(&self.id).is_err() {
            return self.enter(refuse(format!("the cohort does not contain {}", self.id)));
        }
        self.state = State::Training { round: work.round, attempt: work.attempt, base: work.theta.digest() };
        self.tries = 0;
        if let Some(held) = &mut self.held {
            held.latest = Some(work.theta.clone());
        }
        Step::Train(work)
    }

    /// The work is done: `update` is what the plan's client half made of `local`.
    pub fn trained(
        &mut self,
        update: Vector,
        weight: antiphon_core::Weight,
        metrics: BTreeMap<String, f64>,
    ) -> Step {
        let State::Training { round, attempt, base } = self.state else { return self.current() };
        if let Err(reason) = reportable(&metrics) {
            return self.enter(State::Reporting { round, attempt, reason });
        }
        let (plan, schema) = (self.plan.digest(), self.plan.schema_digest());
        self.enter(State::Delivering {
            deliver: Deliver { round, attempt, plan, schema, base, weight, metrics, update },
        })
    }

    /// The work could not be done.
    pub fn gave_up(&mut self, reason: &str) -> Step {
        let State::Training { round, attempt, .. } = self.state else { return self.current() };
        self.enter(State::Reporting { round, attempt, reason: printable(reason) })
    }
}

/// Metrics that the coordinator would refuse are the client's own failure.
fn reportable(metrics: &BTreeMap<String, f64>) -> Result<(), String> {
    if metrics.len() > Local::MAX_METRICS {
        return Err(format!("{} metrics, at most {} are allowed", metrics.len(), Local::MAX_METRICS));
    }
    for (name, value) in metrics {
        if !metric_name(name) {
            return Err(printable(&format!("`{}` is not a metric name", name.escape_debug())));
        }
        if !value.is_finite() {
            return Err(format!("metric `{name}` is {value}"));
        }
    }
    Ok(())
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Session {
    /// The client rests.
    Rest(Rest),
    /// The run is over.
    Over(Ending),
    /// Training was interrupted; nothing was sent.
    Interrupted,
}

/// Drives `client` over `link` until it rests or the run is over. `slots` are this client's layer memory,
/// replaced only once the coordinator has accepted the update made with it. `scratch` is used where the parameters
/// cannot be read in place.
pub fn run_session(
    client: &mut Client,
    link: &mut dyn Link,
    work: &mut dyn LocalWork,
    slots: &mut Slots,
    scratch: &mut Vec<f32>,
) -> Result<Session, ClientError> {
    let mut pending = None;
    let mut step = client.begin();
    loop {
        step = match step {
            Step::Call(up) => client.answered(link.call(up))?,
            Step::Train(task) => match train(client, &task, work, slots, scratch) {
                Ok((update, local, next)) => {
                    pending = Some(next);
                    client.trained(update, local.weight, local.metrics)
                }
                Err(TrainError::Work(WorkError::Interrupted)) => return Ok(Session::Interrupted),
                Err(e) => client.gave_up(&e.to_string()),
            },
            Step::Rest(rest) => {
                if let (Rest::Accepted { .. }, Some(next)) = (&rest, pending) {
                    *slots = next;
                }
                return Ok(Session::Rest(rest));
            }
            Step::Stop(ending) => return Ok(Session::Over(ending)),
        };
    }
}

#[derive(Debug, thiserror::Error)]
enum TrainError {
    #[error(transparent)]
    Work(#[from] WorkError),
    #[error(transparent)]
    Layer(#[from] antiphon_algo::LayerError),
}

fn train(
    client: &Client,
    task: &Work,
    work: &mut dyn LocalWork,
    slots: &Slots,
    scratch: &mut Vec<f32>,
) -> Result<(Vector, Local, Slots), TrainError> {
    work.told(task.losses);
    let mut local = work.run(task.theta.reals(scratch), task.round)?;
    let cx = ClientCx { round: task.round, client: client.id, cohort: &task.cohort, weight: local.weight };
    let mut next = slots.clone();
    let x = client.plan.encode(std::mem::take(&mut local.delta), &cx, &mut next)?;
    Ok((Vector::from_payload(x), local, next))
}
