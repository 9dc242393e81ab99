//! The messages as plain types. How they become bytes is [`crate::wire`]'s business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use antiphon_algo::Losses;
use antiphon_core::{ClientId, Digest, Round, Weight};
use serde::{Deserialize, Serialize};

use crate::{Code, Patch, Vector};

/// Client to coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Up {
    /// Asks to take part; both digests must be those of the run.
    Join {
        /// Of the layers and the reducer.
        plan: Digest,
        /// Of what is trained.
        schema: Digest,
    },
    /// Asks for work.
    Poll,
    /// Delivers the result of a round.
    Deliver(Deliver),
    /// Gives up on a round.
    Failed {
        /// Which round.
        round: Round,
        /// Which attempt at it.
        attempt: u32,
        /// Why; printable, at most [`crate::wire::MAX_REASON`] bytes.
        reason: String,
    },
}

/// One client's update.
#[derive(Clone, Debug, PartialEq)]
pub struct Deliver {
    /// The round it was made for.
    pub round: Round,
    /// The attempt at that round.
    pub attempt: u32,
    /// Digest of the plan whose client half encoded it.
    pub plan: Digest,
    /// Digest of the schema that orders its coordinates.
    pub schema: Digest,
    /// Digest of the `theta` that it starts from.
    pub base: Digest,
    /// Examples trained on, as the client says.
    pub weight: Weight,
    /// Named measurements, finite.
    pub metrics: BTreeMap<String, f64>,
    /// The encoded update.
    pub update: Vector,
}

/// Coordinator to client.
#[derive(Clone, Debug, PartialEq)]
pub enum Down {
    /// Train from these parameters.
    Work(Work),
    /// Train from what these changes make of parameters that the client has.
    Changed(Changed),
    /// Nothing to do yet.
    Wait(WaitFor),
    /// Done: what the receipt names has been recorded, and an update counts once when its round closes.
    Accepted(Receipt),
    /// Not done; nothing has changed but the sender's status.
    Rejected(Rejection),
    /// The run is over.
    Done(Ending),
}

/// What was accepted, so that a late answer is not taken for the answer to another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// The client takes part.
    Join,
    /// An update.
    Update {
        /// For this round.
        round: Round,
        /// At this attempt.
        attempt: u32,
        /// Of the update's bytes.
        digest: Digest,
    },
    /// A report of failure.
    Failure {
        /// For this round.
        round: Round,
        /// At this attempt.
        attempt: u32,
    },
}

/// A round's task, the same for everyone in its cohort.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Which round.
    pub round: Round,
    /// Zero at the first attempt at this round.
    pub attempt: u32,
    /// Digest of the plan whose client half will encode the update.
    pub plan: Digest,
    /// Digest of the schema that orders `theta`.
    pub schema: Digest,
    /// Everyone selected, ascending.
    pub cohort: Arc<[ClientId]>,
    /// The parameters, `[d]` reals.
    pub theta: Vector,
    /// What the clients of the round before reported, if they did.
    pub losses: Option<Losses>,
}

/// A round's task for a client that has the parameters of an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// Which round.
    pub round: Round,
    /// Zero at the first attempt at this round.
    pub attempt: u32,
    /// As in [`Work`].
    pub plan: Digest,
    /// As in [`Work`].
    pub schema: Digest,
    /// Everyone selected, ascending.
    pub cohort: Arc<[ClientId]>,
    /// What makes the round's parameters of the earlier ones.
    pub theta: Patch,
    /// As in [`Work`].
    pub losses: Option<Losses>,
}

impl Changed {
    /// The task with its parameters whole, for a client that has `base`. `None` where `base` is not what was changed.
    #[must_use]
    pub fn resolve(&self, base: &Vector) -> Option<Work> {
        let Self { round, attempt, plan, schema, cohort, theta, losses } = self.clone();
        Some(Work { round, attempt, plan, schema, cohort, theta: theta.apply(base)?, losses })
    }
}

/// What a client with nothing to do waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// More clients, before the first round.
    Clients {
        /// Joined so far.
        joined: u32,
        /// Expected.
        expected: u32,
    },
    /// The end of a round that it was not selected for.
    Unselected {
        /// That round.
        round: Round,
    },
    /// The other clients of a round that it has answered.
    Others {
        /// That round.
        round: Round,
        /// Clients that have answered.
        answered: u32,
        /// Clients selected.
        cohort: u32,
    },
    /// The aggregation of a round.
    Aggregation {
        /// That round.
        round: Round,
    },
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients { joined, expected } => {
                write!(f, "waiting for clients: {joined} of {expected} joined")
            }
            Self::Unselected { round } => write!(f, "waiting for {round} to end, not selected for it"),
            Self::Others { round, answered, cohort } => {
                write!(f, "waiting for the others in {round}: {answered} of {cohort} answered")
            }
            Self::Aggregation { round } => write!(f, "waiting for the aggregation of {round}"),
        }
    }
}

/// Why a message was not accepted, as the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What to do about it.
    pub code: Code,
    /// For people: place, found, expected.
    pub detail: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.detail, self.code)
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// After its last round.
    Completed,
    /// Too few clients joined in time.
    TooFewClients,
    /// A round failed as often as the policy allows.
    RoundFailed,
    /// By its operator.
    Stopped,
}
