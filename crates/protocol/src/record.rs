//! What the coordinator writes down. Updates are recorded by digest.

use std::collections::BTreeMap;

use antiphon_core::{ClientId, Digest, Millis, Round, Weight};
use serde::{Deserialize, Serialize};

use crate::Ending;

/// One line of the event log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When, in milliseconds since the run began.
    pub at_ms: Millis,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// A client joined, for the first time.
    Joined {
        /// Who.
        client: ClientId,
    },
    /// A round, or another attempt at it, began.
    Opened {
        /// Which.
        round: Round,
        /// Zero at first.
        attempt: u32,
        /// Everyone selected, ascending.
        cohort: Vec<ClientId>,
        /// Digest of the parameters sent out.
        theta: Digest,
        /// When it closes at the latest, if ever.
        deadline_ms: Option<Millis>,
    },
    /// An update was accepted: from here on it counts.
    Accepted {
        /// Which round.
        round: Round,
        /// Which attempt.
        attempt: u32,
        /// Whose.
        client: ClientId,
        /// Of the update's bytes.
        digest: Digest,
        /// Length of the update in bytes.
        bytes: u64,
        /// Examples, as the client says.
        weight: Weight,
        /// As the client says.
        metrics: BTreeMap<String, f64>,
    },
    /// A client gave up on a round.
    Failed {
        /// Which round.
        round: Round,
        /// Which attempt.
        attempt: u32,
        /// Who.
        client: ClientId,
        /// As the client says.
        reason: String,
    },
    /// A client did not answer before the deadline.
    TimedOut {
        /// Which round.
        round: Round,
        /// Which attempt.
        attempt: u32,
        /// Who.
        client: ClientId,
    },
    /// A message changed nothing but its sender's status.
    Refused {
        /// Who.
        client: ClientId,
        /// Why.
        reason: String,
    },
    /// Everyone has answered or is late; aggregation begins.
    Closing {
        /// Which round.
        round: Round,
        /// Which attempt.
        attempt: u32,
        /// Whose updates count, ascending.
        accepted: Vec<ClientId>,
    },
    /// Too few answers.
    RoundFailed {
        /// Which round.
        round: Round,
        /// Which attempt.
        attempt: u32,
        /// Updates accepted, now of no use.
        accepted: u32,
        /// Updates needed.
        needed: u32,
    },
    /// A round's aggregate was applied.
    Closed {
        /// Which round.
        round: Round,
        /// Digest of the new parameters.
        theta: Digest,
    },
    /// The run is over.
    Finished {
        /// How.
        ending: Ending,
    },
}
