//! What the caller of a simulation learns while it runs, and where it persists.

use std::collections::BTreeMap;
use std::error::Error;

use antiphon_algo::{Checked, FactorError, ServerStep, Slots, factor_error};
use antiphon_core::{ClientId, Millis, Round};
use antiphon_protocol::{ClientStatus, Contribution, Vector};

use crate::Traffic;

/// Watches a run. Calls come one at a time, those about clients from worker threads.
pub trait Observer: Send {
    /// A round, or another attempt at it, has begun.
    fn round_started(&mut self, round: &RoundStarted<'_>) {
        let _ = round;
    }

    /// A client has finished its part of the round, well or badly.
    fn client_done(&mut self, done: &ClientDone<'_>) {
        let _ = done;
    }

    /// The aggregate was applied. What is persisted here is where a resumed run begins: the record that
    /// closes the round is written after this returns. An error ends the run.
    fn round_closed(&mut self, round: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let _ = round;
        Ok(())
    }

    /// An attempt at a round had too few answers.
    fn round_failed(&mut self, failed: &RoundFailed) {
        let _ = failed;
    }
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// A round begins.
#[derive(Clone, Copy, Debug)]
pub struct RoundStarted<'a> {
    /// Which.
    pub round: Round,
    /// Zero at first.
    pub attempt: u32,
    /// Everyone selected, ascending.
    pub cohort: &'a [ClientId],
    /// When.
    pub at: Millis,
}

/// A client's part of a round.
#[derive(Clone, Debug)]
pub struct ClientDone<'a> {
    /// Which round.
    pub round: Round,
    /// Who.
    pub client: ClientId,
    /// How it went.
    pub outcome: &'a Outcome,
    /// Clients of this round that are done, this one included.
    pub done: usize,
    /// Clients of this round.
    pub cohort: usize,
}

/// How a client's part of a round went.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Its update counts.
    Accepted,
    /// It gave up, or its update could not be used.
    GaveUp {
        /// Why.
        reason: String,
    },
    /// It got no usable answer.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It had nothing to do any more.
    Idle,
    /// The run is being stopped.
    Interrupted,
}

/// A round closed.
#[derive(Clone, Copy, Debug)]
pub struct RoundClosed<'a> {
    /// Which; a resumed run begins with the next.
    pub round: Round,
    /// Which attempt at it.
    pub attempt: u32,
    /// The plan.
    pub plan: &'a Checked,
    /// The parameters that the round began from.
    pub start: &'a Vector,
    /// The parameters now, `[d]`.
    pub theta: &'a [f32],
    /// The same with their digest.
    pub encoded: &'a Vector,
    /// The aggregate, `[d]`.
    pub delta: &'a [f32],
    /// The server step; its `state()` belongs in a checkpoint.
    pub server: &'a dyn ServerStep,
    /// The server's layer memory.
    pub slots: &'a Slots,
    /// Each client's layer memory, where it has any.
    pub client_slots: &'a BTreeMap<ClientId, Slots>,
    /// What was accepted, ascending by client; with the updates themselves if asked for.
    pub contributions: &'a [Contribution],
    /// What the coordinator knows about each client.
    pub clients: &'a BTreeMap<ClientId, ClientStatus>,
    /// Bytes of this round, failed attempts included.
    pub traffic: Traffic,
    /// When.
    pub at: Millis,
}

/// An attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundFailed {
    /// Which round.
    pub round: Round,
    /// Which attempt.
    pub attempt: u32,
}

impl RoundClosed<'_> {
    /// How far averaging LoRA factors is from averaging their products in this round. `None` where nothing is
    /// LoRA, or where the updates were not kept ([`crate::Config::keep_updates`]) or cannot be told apart.
    #[must_use]
    pub fn factor_error(&self, threads: usize) -> Option<FactorError> {
        let updates: Vec<(f64, Vec<f32>)> = self.updates().collect::<Option<_>>()?;
        let updates: Vec<(f64, &[f32])> = updates.iter().map(|(w, x)| (*w, &x[..])).collect();
        factor_error(self.plan.schema(), self.start.reals(&mut Vec::new()), &updates, threads).ok().flatten()
    }

    /// Each accepted client's contribution to the aggregate, as `(what it counts, its update [d])`, ascending by
    /// client; `None` for one that was not kept or cannot be told apart. One update is decoded at a time.
    pub fn updates(&self) -> impl Iterator<Item = Option<(f64, Vec<f32>)>> {
        self.contributions.iter().map(|c| {
            let update = self.plan.alone(c.update.as_ref()?)?;
            Some((self.plan.counts(c.weight), update))
        })
    }
}
