//! Why the coordinator did not take a message: every reason with its facts.

use antiphon_algo::{LayerError, TallyError};
use antiphon_core::{ClientId, Digest, Round};

use crate::{Rejection, WireError};

/// Why a message changed nothing but its sender's status.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no message of this protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Another plan.
    #[error("plan {found:?}, but this run uses plan {expected:?}")]
    Plan {
        /// Of the run.
        expected: Digest,
        /// Of the message.
        found: Digest,
    },
    /// Another schema.
    #[error("schema {found:?}, but this run trains schema {expected:?}")]
    Schema {
        /// Of the run.
        expected: Digest,
        /// Of the message.
        found: Digest,
    },
    /// The update cannot be used: NaN, too long, of the wrong kind.
    #[error("an update for {round} that cannot be used: {error}")]
    Update {
        /// The round it was made for.
        round: Round,
        /// The attempt at that round.
        attempt: u32,
        /// What is wrong with it.
        error: LayerError,
    },
    /// The round's sum does not take it.
    #[error(transparent)]
    Tally(#[from] TallyError),
    /// Not on the roster of the run.
    #[error("{0} is not on the roster of this run")]
    Stranger(ClientId),
    /// Spoke before it joined.
    #[error("{0} has not joined")]
    NotJoined(ClientId),
    /// For a round, or an attempt at it, that is over.
    #[error("for {round} (attempt {attempt}), but the run is at {current} (attempt {current_attempt})")]
    Stale {
        /// Of the message.
        round: Round,
        /// Of the message.
        attempt: u32,
        /// Of the run.
        current: Round,
        /// Of the run.
        current_attempt: u32,
    },
    /// For a round that has not begun.
    #[error(
        "for {round} (attempt {attempt}), which has not begun; the run is at {current} (attempt {current_attempt})"
    )]
    Early {
        /// Of the message.
        round: Round,
        /// Of the message.
        attempt: u32,
        /// Of the run.
        current: Round,
        /// Of the run.
        current_attempt: u32,
    },
    /// No round is open.
    #[error("no round is open")]
    NoRound,
    /// Not selected for the round.
    #[error("{client} was not selected for {round}")]
    Unselected {
        /// The sender.
        client: ClientId,
        /// The round.
        round: Round,
    },
    /// Answered this round already, with something else.
    #[error("{client} has answered {round} already")]
    Answered {
        /// The sender.
        client: ClientId,
        /// The round.
        round: Round,
    },
    /// Trained from other parameters than the round's.
    #[error("made from parameters {found:?}, but the round began from {expected:?}")]
    Base {
        /// Of the round.
        expected: Digest,
        /// Of the message.
        found: Digest,
    },
}

/// What a client should do about a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Damaged on the way: send it again.
    Resend,
    /// Of no use now: ask for work again.
    Outdated,
    /// The update itself cannot be used; this client is out of the round.
    Unusable,
    /// Join first; the coordinator may have been restarted.
    Rejoin,
    /// This client has no part in this run.
    Excluded,
}

impl Refusal {
    /// What the client should do about it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Wire(e) if e.is_damage() => Code::Resend,
            Self::Wire(_) | Self::Update { .. } | Self::Tally(_) => Code::Unusable,
            Self::Plan { .. } | Self::Schema { .. } | Self::Stranger(_) => Code::Excluded,
            Self::NotJoined(_) => Code::Rejoin,
            Self::Stale { .. }
            | Self::Early { .. }
            | Self::NoRound
            | Self::Unselected { .. }
            | Self::Answered { .. }
            | Self::Base { .. } => Code::Outdated,
        }
    }

    /// As the client is told.
    #[must_use]
    pub fn rejection(&self) -> Rejection {
        Rejection { code: self.code(), detail: crate::wire::printable(&self.to_string()) }
    }
}
