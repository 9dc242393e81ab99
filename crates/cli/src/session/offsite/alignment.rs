//! The emulator's middle over a run: distilled before the first round, aligned again between rounds, and sent to clients as
//! it changes.
//!
//! The owner keeps the middle as it trains it (`exact`) and as clients hold it (`held`), which differ by what the codec
//! loses. A change is encoded once, decoded as a client would, and what comes out is what clients train on from then on.
//! Bytes are counted when a client takes part: it then gets the changes that it has missed, or the middle as a whole where that
//! is shorter.
//!
//! All state is a checkpoint's slot, written with the round that it follows, so a run that is killed in an alignment repeats
//! that round and the alignment and ends with the same bits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use antiphon_core::{ClientId, Round};
use antiphon_kernels::Cpu;
use antiphon_model::emulator::{Codec, Made, Update, live_tensors, plugged};
use antiphon_model::{Task, Weights, Wiring};
use antiphon_report::{Aligned, Alignment as Record, Distance, Metrics};
use antiphon_tune::align::HiddenAt;
use antiphon_tune::{Adapter, Align, Alignment, Sides, TuneError};
use serde::{Deserialize, Serialize};

use super::Public;
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::progress::Progress;
use crate::runfile::{EmulatorSection, Loaded};
use crate::session::Session;
use crate::session::evaluate::interrupted_or;

/// Orders the public examples; no client has this id.
const OWNER: ClientId = ClientId(u64::MAX - 1);
/// The same before the first round.
const DISTILLER: ClientId = ClientId(u64::MAX - 2);

/// The name of the checkpoint's slot.
pub(crate) const SLOT: &str = "emulator";

/// What aligns an emulator, and how far that has come.
#[derive(Debug)]
pub(crate) struct Aligner {
    pub(crate) public: Public,
    distill: Option<Align>,
    /// Every so many rounds.
    again: Option<(u32, Align)>,
    codec: Codec,
    /// The middle's tensors.
    wiring: Arc<Wiring>,
    /// The emulator's tensors as the checkpoint has them.
    original: Arc<Weights<Cpu>>,
    state: Mutex<State>,
}

/// What a checkpoint keeps.
#[derive(Clone, Debug, Default)]
struct State {
    head: Head,
    /// The middle as the owner has it.
    exact: Vec<f32>,
    /// The middle as clients have it.
    held: Vec<f32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Head {
    /// Bytes of each change so far.
    changes: Vec<u64>,
    /// How many of them each client has.
    clients: BTreeMap<ClientId, usize>,
    /// Bytes of changes sent so far, to all clients.
    sent: u64,
    distilled: Option<Record>,
    /// The emulator before the first round, on test data.
    zero_shot: Metrics,
}

impl Aligner {
    /// Alignment as the run file asks for it; `None` where there is nothing to align.
    pub(super) fn new(
        loaded: &Loaded,
        section: &EmulatorSection,
        emulator: &antiphon_model::Emulator,
        (original, task): (Arc<Weights<Cpu>>, Task),
        public: Option<Public>,
    ) -> Result<Option<Self>, Failure> {
        use crate::session::Blame;
        let check = |settings: &Option<antiphon_tune::AlignSettings>, id: &'static str| {
            let how = settings.as_ref().map(|s| s.check(id)).transpose().blame(loaded, id)?;
            let tokens = how.as_ref().is_some_and(|h| h.terms.language_model + h.terms.kl > 0.0);
            if tokens && task != Task::CausalLm {
                let why = "`language_model` and `kl` are of next tokens, and this run classifies: use `hidden` alone";
                return Err(loaded.source.blame(id, why));
            }
            Ok(how)
        };
        let (distill, again) =
            (check(&section.distill, "emulator.distill")?, check(&section.align, "emulator.align")?);
        let Some(public) = public.filter(|_| !emulator.is_whole()) else { return Ok(None) };
        let wiring = emulator.wire_middle(original.spec(), task).fail(Kind::Internal)?;
        let mut phi = vec![0.0; wiring.schema.dim()];
        for (name, range) in &wiring.live {
            let found =
                original.infos().iter().find(|i| i.name == *name).and_then(|i| original.tensor(i.role));
            if let Some(data) = found {
                data.widen(0, &mut phi[range.clone()]);
            }
        }
        Ok(Some(Self {
            public,
            distill,
            again: again.zip(section.align_every).map(|(how, every)| (every, how)),
            codec: section.send,
            wiring: Arc::new(wiring),
            original,
            state: Mutex::new(State { exact: phi.clone(), held: phi, ..State::default() }),
        }))
    }

    /// Scalars of the middle.
    pub(crate) fn dim(&self) -> usize {
        self.wiring.live.values().map(ExactSizeIterator::len).sum()
    }

    /// Alignments between the rounds of a run of `rounds`, and bytes of each change.
    pub(crate) fn changes(&self, rounds: u32) -> (u32, u64) {
        let count = (0..rounds).filter(|&r| self.due(r, rounds).is_some()).count() as u32;
        (count, self.codec.bytes(self.wiring.schema.dim()) as u64)
    }

    /// Optimiser steps of the distillation, and of each later alignment.
    pub(crate) fn steps(&self) -> (u32, u32) {
        (self.distill.as_ref().map_or(0, |d| d.steps), self.again.as_ref().map_or(0, |(_, a)| a.steps))
    }

    /// How it is distilled, and how it is aligned later.
    pub(super) fn plans(&self) -> [Option<&Align>; 2] {
        [self.distill.as_ref(), self.again.as_ref().map(|(_, how)| how)]
    }

    /// The middle's tensors.
    pub(super) fn middle(&self) -> &Wiring {
        &self.wiring
    }

    /// How the emulator is aligned after `round`, if it is.
    fn due(&self, round: u32, rounds: u32) -> Option<&Align> {
        let (every, how) = self.again.as_ref()?;
        ((round + 1).is_multiple_of(*every) && round + 1 < rounds).then_some(how)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a checkpoint.
    pub(crate) fn slot(&self) -> Result<Vec<u8>, Failure> {
        let state = self.state();
        // equal states give equal bytes, however long they took
        let distilled = state.head.distilled.map(|d| Record { seconds: None, ..d });
        let head = Head { distilled, ..state.head.clone() };
        let head = serde_json::to_vec(&head).fail(Kind::Internal)?;
        let vectors: &[&[f32]] =
            if state.exact == state.held { &[&state.held] } else { &[&state.held, &state.exact] };
        let mut out = Vec::with_capacity(8 + head.len() + 4 * vectors.len() * state.held.len());
        out.extend((head.len() as u64).to_le_bytes());
        out.extend(head);
        out.extend(vectors.iter().flat_map(|v| v.iter()).flat_map(|x| x.to_le_bytes()));
        Ok(out)
    }

    /// What [`Aligner::slot`] wrote; `None` for other bytes.
    fn decode(&self, bytes: &[u8]) -> Option<State> {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let (head, reals) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        let head = serde_json::from_slice(head).ok()?;
        let (reals, left) = reals.as_chunks::<4>();
        let mut held: Vec<f32> = reals.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let dim = self.wiring.schema.dim();
        let exact = match (held.len(), left.len()) {
            (n, 0) if n == dim => held.clone(),
            (n, 0) if n == 2 * dim => held.split_off(dim),
            _ => return None,
        };
        Some(State { head, exact, held })
    }

    /// Clients of a round get what they have missed; returns its bytes.
    pub(crate) fn deliver(&self, cohort: &[ClientId]) -> u64 {
        let mut state = self.state();
        let Head { changes, clients, sent, .. } = &mut state.head;
        let whole = Codec::F32.bytes(self.wiring.schema.dim()) as u64;
        let mut bytes = 0;
        for client in cohort {
            let has = clients.insert(*client, changes.len()).unwrap_or(0);
            bytes += changes.get(has..).unwrap_or_default().iter().sum::<u64>().min(whole);
        }
        *sent += bytes;
        bytes
    }

    /// Bytes of changes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.state().head.sent
    }

    /// The emulator before the first round, on test data.
    pub(crate) fn zero_shot(&self) -> Metrics {
        self.state().head.zero_shot.clone()
    }
}

impl Session {
    /// Makes the emulator that clients begin with: the one in a checkpoint's `slot`, or a distilled one.
    pub(crate) fn begin_offsite(&self, slot: Option<&[u8]>, progress: &Progress) -> Result<(), Failure> {
        let Some(aligner) = self.aligner() else { return Ok(()) };
        if let Some(bytes) = slot {
            let state = aligner.decode(bytes).ok_or_else(|| {
                Failure::new(Kind::RunDir, "the emulator in the checkpoint is not this run's")
            })?;
            *aligner.state() = state;
            return self.hand_out(aligner);
        }
        if let Some(how) = &aligner.distill {
            progress.stage(&format!("distilling the emulator: {} steps", how.steps));
            let mut phi = aligner.state().exact.clone();
            let record =
                self.align(aligner, how, &mut phi, &self.theta, (Round(0), DISTILLER), |_, phi| {
                    Ok((phi.to_vec(), None))
                })?;
            progress.note(&format!(
                "distilled: {} → {} on {} public sequences that it never saw",
                record.before,
                record.after,
                aligner.public.held_out.len()
            ));
            let mut state = aligner.state();
            (state.held, state.exact, state.head.distilled) = (phi.clone(), phi, Some(record));
        }
        self.hand_out(aligner)?;
        let zero_shot = self.evaluate_on(&self.tuning, &self.theta, Part::Test)?.global;
        aligner.state().head.zero_shot = zero_shot;
        Ok(())
    }

    /// Aligns the emulator with `theta` after `round`, where that is due.
    pub(crate) fn align_after(
        &self,
        round: Round,
        theta: &[f32],
        progress: &Progress,
    ) -> Result<Option<Record>, Failure> {
        let Some(aligner) = self.aligner() else { return Ok(None) };
        let Some(how) = aligner.due(round.0, self.policy.num_rounds) else { return Ok(None) };
        progress.stage("aligning the emulator");
        let State { mut exact, held, head } = aligner.state().clone();
        let made = self.made(aligner);
        let version = head.changes.len() as u32 + 1;
        let mut received = held.clone();
        let record = self.align(aligner, how, &mut exact, theta, (round, OWNER), |held, phi| {
            let bytes = Update::encode(made, version, aligner.codec, held, phi);
            // as a client reads it
            let update = Update::decode(&bytes, made, version, held.len()).fail(Kind::Internal)?;
            update.apply(&mut received);
            Ok((received.clone(), Some(bytes.len() as u64)))
        })?;
        let mut state = aligner.state();
        state.head.changes.extend(record.bytes);
        // an exact codec loses nothing but the rounding of a difference: the owner goes on from what was sent
        state.exact = if aligner.codec == Codec::F32 { received.clone() } else { exact };
        state.held = received;
        drop(state);
        self.hand_out(aligner)?;
        Ok(Some(record))
    }

    /// How far the emulator that clients hold is from the model, with `theta` in both; `None` where nothing aligns it.
    pub(crate) fn aligned(&self, theta: &[f32]) -> Result<Option<Aligned>, Failure> {
        let Some(aligner) = self.aligner() else { return Ok(None) };
        let places = aligner.again.as_ref().map(|(_, a)| a).or(aligner.distill.as_ref());
        let places = places.map_or(HiddenAt::End, |a| a.hidden_at);
        let held = aligner.state().held.clone();
        let mut both = self.alignment(aligner, theta, (8, 0), places)?;
        let last = both.distance(&held, &aligner.public.held_out, &self.stop).map_err(stopped)?;
        let State { head, .. } = aligner.state().clone();
        Ok(Some(Aligned {
            public: aligner.public.train.len() as u64,
            held_out: aligner.public.held_out.len() as u64,
            overlap: aligner.public.overlap,
            scalars: aligner.dim() as u64,
            distilled: head.distilled,
            alignments: head.changes.len() as u64,
            last: distance(last),
        }))
    }

    /// What aligns the emulator, where there is one and something does.
    pub(crate) fn aligner(&self) -> Option<&Aligner> {
        self.offsite.as_ref()?.aligner.as_ref()
    }

    /// Whose updates these are.
    fn made(&self, aligner: &Aligner) -> Made {
        Made { base: self.base.digest(self.workers), schema: aligner.wiring.schema.digest() }
    }

    /// From now on clients train on the middle that they hold.
    fn hand_out(&self, aligner: &Aligner) -> Result<(), Failure> {
        let tensors = live_tensors(&aligner.wiring, &aligner.state().held);
        let weights = aligner.original.with(self.tuning.backend(), &tensors).fail(Kind::Internal)?;
        self.tuning.replace_weights(weights).fail(Kind::Internal)
    }

    /// Both models with `theta` in them.
    fn alignment(
        &self,
        aligner: &Aligner,
        theta: &[f32],
        (micro, slots): (u32, usize),
        places: HiddenAt,
    ) -> Result<Alignment<Cpu>, Failure> {
        let offsite = self.offsite.as_ref().ok_or_else(|| Failure::new(Kind::Internal, "no emulator"))?;
        let (net, owner) = (self.tuning.net(), offsite.owner.net());
        let tensors = plugged(self.base.source(), net.spec(), net.wiring(), theta).fail(Kind::Model)?;
        let adapter = Adapter { tensors: &tensors, wirings: [net.wiring(), owner.wiring()], theta };
        let sides = Sides {
            backend: Arc::new(Cpu::threads(self.workers)),
            emulator: &offsite.emulator,
            student: &aligner.original,
            teacher: owner.weights(),
            task: self.task,
        };
        let sets: [&[_]; 2] = [&aligner.public.train, &aligner.public.held_out];
        Alignment::new(&sides, &adapter, &sets, (micro, slots), places).map_err(stopped)
    }

    /// Trains `phi` with `theta` in both models. `send` makes of (what clients hold, the new middle) what they hold next,
    /// with the bytes that takes.
    fn align(
        &self,
        aligner: &Aligner,
        how: &Align,
        phi: &mut [f32],
        theta: &[f32],
        (round, who): (Round, ClientId),
        send: impl FnOnce(&[f32], &[f32]) -> Result<(Vec<f32>, Option<u64>), Failure>,
    ) -> Result<Record, Failure> {
        let begun = Instant::now();
        let slots = how.optimizer.slots().len();
        let mut both = self.alignment(aligner, theta, (how.micro_batch_size, slots), how.hidden_at)?;
        let Public { train, held_out, .. } = &aligner.public;
        let held = aligner.state().held.clone();
        let before = both.distance(&held, held_out, &self.stop).map_err(stopped)?;
        let key = (self.file().run.seed, round, who);
        let diverged = |what: &str| {
            let section = if who == DISTILLER { "distill" } else { "align" };
            let rate = how.learning_rate;
            let why = format!(
                "the alignment of the emulator diverged: {what}; emulator.{section}.learning_rate = {rate:e} is too large"
            );
            Failure::new(Kind::Federation, why)
        };
        both.train(phi, how, train, key, &self.stop).map_err(|e| match e {
            TuneError::NotFinite { .. } => diverged(&e.to_string()),
            e => stopped(e),
        })?;
        if !phi.iter().all(|v| v.is_finite()) {
            return Err(diverged("a weight is not finite"));
        }
        let (held, bytes) = send(&held, phi)?;
        let after = both.distance(&held, held_out, &self.stop).map_err(stopped)?;
        // a later client must not be blamed for it
        if ![Some(after.hidden), after.kl, after.loss].into_iter().flatten().all(f64::is_finite) {
            return Err(diverged("its distance to the model is not finite"));
        }
        let trained_on = both.distance(&held, train, &self.stop).map_err(stopped)?;
        Ok(Record {
            before: distance(before),
            after: distance(after),
            trained_on: distance(trained_on),
            steps: u64::from(how.steps),
            bytes,
            seconds: Some(begun.elapsed().as_secs_f64()),
        })
    }
}

fn distance(d: antiphon_tune::Distance) -> Distance {
    Distance { hidden: d.hidden, kl: d.kl, loss: d.loss }
}

fn stopped(e: TuneError) -> Failure {
    interrupted_or(Kind::Model)(e)
}
