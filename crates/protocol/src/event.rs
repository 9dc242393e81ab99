//! What goes into the coordinator and what comes out.

use std::collections::BTreeMap;

use antiphon_algo::{Admitted, Checked, Tally};
use antiphon_core::{ClientId, Digest, Round, Weight};

use crate::{Down, Ending, Inbound, Policy, Record, Refusal, Vector};

/// Everything that the outside tells the coordinator. A run is the list of these.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message arrived, as the gate judged it.
    Message {
        /// Who sent it, as the transport knows.
        from: ClientId,
        /// What passed the gate, or why it did not.
        message: Result<Inbound, Refusal>,
    },
    /// Time passed.
    Tick,
    /// The closing round's aggregate was applied. Ignored unless a round is closing.
    Applied {
        /// The new parameters.
        theta: Vector,
    },
    /// The closing round has no usable aggregate; it counts as a failed attempt. Ignored unless a round is
    /// closing.
    Unusable,
    /// The operator ends the run.
    Stop,
}

/// Everything that the coordinator asks of the outside, to be done in order.
#[derive(Debug)]
pub enum Effect {
    /// Write this down, durably if the log is durable, before going on.
    Log(Record),
    /// Write this down with the accepted update that it is about, likewise.
    LogUpdate(Record, Vector),
    /// Answer the message being handled.
    Reply(Down),
    /// Close the tally, take the server step, and say [`Event::Applied`] or [`Event::Unusable`].
    Close(Closing),
    /// An attempt at a round had too few answers. The next one, if the policy allows it, is open already.
    RoundFailed {
        /// Which round.
        round: Round,
        /// Which attempt.
        attempt: u32,
    },
    /// The run is over.
    Finished(Ending),
}

/// A round to be closed.
#[derive(Debug)]
pub struct Closing {
    /// Which round.
    pub round: Round,
    /// Which attempt.
    pub attempt: u32,
    /// What was accepted, ascending by client.
    pub contributions: Vec<Contribution>,
    /// The sum in progress.
    pub tally: Tally,
}

/// One accepted update.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// Whose.
    pub client: ClientId,
    /// Examples, as the client says.
    pub weight: Weight,
    /// As the client says.
    pub metrics: BTreeMap<String, f64>,
    /// Of the update's bytes.
    pub digest: Digest,
    /// The l2 norm of the update in the units of the model, where the server can know it.
    pub norm: Option<f64>,
    /// The update itself, if the coordinator was asked to keep them.
    pub update: Option<Admitted>,
}

/// What a coordinator is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What clients and server do to updates.
    pub plan: Checked,
    /// How rounds are run.
    pub policy: Policy,
    /// Who may take part.
    pub roster: Vec<ClientId>,
    /// Of the run.
    pub seed: u64,
    /// Whether to hand out each update when a round closes (for diagnostics). Costs the memory of all
    /// updates of a round; without it they are dropped as they are summed.
    pub keep_updates: bool,
}
