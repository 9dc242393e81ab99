//! Where a [`crate::Coordinator`] stands, and who of a round has answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_algo::Tally;
use antiphon_core::{ClientId, Millis, Round};

use crate::{Contribution, Ending};

#[derive(Debug)]
pub(crate) enum Phase {
    Gathering { first: Round, until: Option<Millis> },
    Open(Open),
    Closing { round: Round, attempt: u32 },
    Over(Ending),
}

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) round: Round,
    pub(crate) attempt: u32,
    pub(crate) deadline: Option<Millis>,
    pub(crate) cohort: Arc<[ClientId]>,
    pub(crate) seats: BTreeMap<ClientId, Seat>,
    pub(crate) tally: Tally,
}

#[derive(Debug)]
pub(crate) enum Seat {
    Pending,
    Accepted(Contribution),
    /// Gave up, or sent what cannot be used.
    Out,
}

impl Open {
    pub(crate) fn answered(&self) -> usize {
        self.seats.values().filter(|s| !matches!(s, Seat::Pending)).count()
    }

    pub(crate) fn accepted(&self) -> usize {
        self.seats.values().filter(|s| matches!(s, Seat::Accepted(_))).count()
    }
}
