//! What the coordinator knows about one client.

use antiphon_core::{Digest, Millis, Round, Weight};

/// Counts since the coordinator started, and the last trouble. Never influences another client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientStatus {
    /// Whether it has joined.
    pub joined: bool,
    /// When its last message came.
    pub last_seen: Option<Millis>,
    /// Rounds (attempts) it was selected for.
    pub selected: u32,
    /// Updates that counted.
    pub accepted: u32,
    /// Rounds it gave up on.
    pub failed: u32,
    /// Rounds it did not answer in time.
    pub timed_out: u32,
    /// Messages refused.
    pub refused: u32,
    /// Updates sent again after they had been accepted.
    pub repeated: u32,
    /// The last failure, refusal or delay, in words.
    pub last_trouble: Option<String>,
    /// The last update accepted: round, attempt, digest, weight. What makes a repeated delivery recognisable
    /// after its round has closed.
    pub last_accepted: Option<(Round, u32, Digest, Weight)>,
    /// The parameters that its last accepted update began from: it has them until it joins anew.
    pub holds: Option<Digest>,
}
