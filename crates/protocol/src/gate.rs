//! What stands before the coordinator: bytes from a peer in, a checked message or a reason out.
//!
//! Costs one pass over an update (digest, finiteness and norm together) and copies nothing. It has no state, so
//! that any thread may run it beside the coordinator.

use std::collections::BTreeMap;

use antiphon_algo::{Admitted, Carrier, Checked};
use antiphon_core::{Digest, Round, Weight};

use crate::wire::decode_up;
use crate::{Frame, Refusal, Up, Vector};

/// Checks messages against one plan and schema.
#[derive(Clone, Debug)]
pub struct Gate {
    plan: Checked,
}

/// A message that passed the gate: what the coordinator handles.
#[derive(Clone, Debug, PartialEq)]
pub enum Inbound {
    /// Asks to take part, with the right plan and schema.
    Join,
    /// Asks for work.
    Poll,
    /// An update that fits the plan.
    Deliver(Delivered),
    /// Gives up on a round.
    Failed {
        /// Which round.
        round: Round,
        /// Which attempt at it.
        attempt: u32,
        /// Why, printable.
        reason: String,
    },
}

/// An update that fits the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// The round it was made for.
    pub round: Round,
    /// The attempt at that round.
    pub attempt: u32,
    /// Digest of the parameters that it starts from.
    pub base: Digest,
    /// Examples, as the client says.
    pub weight: Weight,
    /// As the client says, finite.
    pub metrics: BTreeMap<String, f64>,
    /// The update as it was sent.
    pub sent: Vector,
    /// The update as the reducer takes it: the same memory, unless a layer decodes each.
    pub update: Admitted,
}

impl Gate {
    /// A gate for runs of `plan`.
    #[must_use]
    pub fn new(plan: Checked) -> Self {
        Self { plan }
    }

    /// Reads and checks one message.
    pub fn open(&self, frame: &Frame) -> Result<Inbound, Refusal> {
        let mut scan = self.plan.scan();
        let reals = self.plan.wire().carrier == Carrier::Real;
        let look = |piece: &[u8]| {
            if reals {
                scan.bytes(piece);
            }
        };
        match decode_up(frame, self.plan.wire_bytes(), look)? {
            Up::Join { plan, schema } => {
                self.same_run(plan, schema)?;
                Ok(Inbound::Join)
            }
            Up::Poll => Ok(Inbound::Poll),
            Up::Failed { round, attempt, reason } => Ok(Inbound::Failed { round, attempt, reason }),
            Up::Deliver(d) => {
                self.same_run(d.plan, d.schema)?;
                let (round, attempt) = (d.round, d.attempt);
                let payload = d.update.to_payload(self.plan.wire().carrier);
                let update = self
                    .plan
                    .admit_scanned(payload, &scan, d.weight)
                    .map_err(|error| Refusal::Update { round, attempt, error })?;
                Ok(Inbound::Deliver(Delivered {
                    round,
                    attempt,
                    base: d.base,
                    weight: d.weight,
                    metrics: d.metrics,
                    sent: d.update,
                    update,
                }))
            }
        }
    }

    fn same_run(&self, plan: Digest, schema: Digest) -> Result<(), Refusal> {
        if plan != self.plan.digest() {
            return Err(Refusal::Plan { expected: self.plan.digest(), found: plan });
        }
        if schema != self.plan.schema_digest() {
            return Err(Refusal::Schema { expected: self.plan.schema_digest(), found: schema });
        }
        Ok(())
    }
}
