//! The rounds of a run, from a fresh start or from a checkpoint.

use std::sync::{Mutex, PoisonError};

use antiphon_algo::Losses;
use antiphon_core::{ClientId, Millis, Round};
use antiphon_protocol::Ending;
use antiphon_report::ChosenRound;
use antiphon_sim::{Config, Simulation, Start, WallClock};
use antiphon_store::{Resume, RunDir};

use super::recorder::{Events, Recorder};
use super::{Chosen, Crew, Hand, Trial};
use crate::error::{Fail, Failure, Kind, store};
use crate::progress::Progress;
use crate::runfile::Select;

/// How the rounds ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The shared trainable vector that the run ends with.
    pub(crate) theta: Vec<f32>,
    /// The round that it is of, where validation data were to choose.
    pub(crate) chosen: Option<ChosenRound>,
    /// Rounds done in all.
    pub(crate) rounds_done: u32,
    /// False when the user stopped the run.
    pub(crate) completed: bool,
}

/// Where a run takes up, and the best of its rounds so far.
pub(crate) fn resume(
    trial: &dyn Trial,
    crew: &[Hand],
    dir: &RunDir,
    from: Resume,
    progress: &Progress,
) -> Result<(Start, Option<Chosen>), Failure> {
    let Some(checkpoint) = from.checkpoint else {
        trial.prepare(None, progress)?;
        return Ok((Start::fresh(trial.start()), None));
    };
    trial.prepare(Some(&checkpoint.slots), progress)?;
    let (found, expected) = (checkpoint.theta.len(), trial.plan().schema().dim());
    if found != expected {
        return Err(Failure::new(
            Kind::RunDir,
            format_args!("the checkpoint holds {found} scalars, this run file trains {expected}"),
        ));
    }
    let best = Chosen::of(&checkpoint.slots, expected).map_err(|why| Failure::new(Kind::RunDir, why))?;
    for client in checkpoint.clients {
        let Some(bytes) = dir.client_state(client).fail(Kind::RunDir)? else { continue };
        let state = ClientState::decode(&bytes)
            .ok_or_else(|| Failure::new(Kind::RunDir, format_args!("the state of {client} is damaged")))?;
        if let (Some((round, bytes)), Some(c)) =
            (&state.optimizer, crew.iter().filter_map(Hand::trains).find(|c| c.id() == client))
        {
            c.restore(*round, bytes).fail(Kind::RunDir)?;
        }
        if let (Some((_, bytes)), Some(c)) =
            (&state.losses, crew.iter().filter_map(Hand::trains).find(|c| c.id() == client))
            && !c.restore_losses(bytes)
        {
            return Err(Failure::new(Kind::RunDir, format_args!("the losses of {client} are damaged")));
        }
        if let (Some((round, own)), Some((personal, _))) = (state.personal, trial.personal())
            && !personal.restore(client, round, own)
        {
            return Err(Failure::new(Kind::RunDir, format_args!("the head of {client} has another size")));
        }
    }
    let slot = checkpoint.slots.iter().find(|(name, _)| name == LOSSES);
    let damaged = || Failure::new(Kind::RunDir, "the losses that the checkpoint holds are damaged");
    let losses = slot.map(|(_, bytes)| losses_from_bytes(bytes).ok_or_else(damaged)).transpose()?;
    let start = Start {
        round: from.next,
        losses,
        theta: checkpoint.theta,
        server: checkpoint.server.into_iter().collect(),
        ..Start::fresh(Vec::new())
    };
    Ok((start, best))
}

/// What a client keeps between rounds, as it lies in the store.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ClientState {
    /// The optimiser's.
    pub(crate) optimizer: Option<(Round, Vec<u8>)>,
    /// The tensors that never travel.
    pub(crate) personal: Option<(Round, Vec<f32>)>,
    /// Its losses of past rounds, where its learning rate depends on them.
    pub(crate) losses: Option<(Round, Vec<u8>)>,
}

impl ClientState {
    pub(crate) fn is_empty(&self) -> bool {
        self.optimizer.is_none() && self.personal.is_none() && self.losses.is_none()
    }

    /// For each part: its length in bytes (0 when absent), its round, its bytes. Losses are a part only where there are some.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut part = |round: Option<Round>, bytes: &[u8]| {
            out.extend((bytes.len() as u64).to_le_bytes());
            out.extend(round.map_or(u32::MAX, |r| r.0).to_le_bytes());
            out.extend(bytes);
        };
        match &self.optimizer {
            Some((round, bytes)) => part(Some(*round), bytes),
            None => part(None, &[]),
        }
        let own = self.personal.as_ref();
        let bytes: Vec<u8> = own.iter().flat_map(|(_, v)| v).flat_map(|v| v.to_le_bytes()).collect();
        part(own.map(|(round, _)| *round), &bytes);
        if let Some((round, bytes)) = &self.losses {
            part(Some(*round), bytes);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (optimizer, rest) = part(bytes)?;
        let (personal, rest) = part(rest)?;
        let personal = personal.map(|(round, body)| {
            let reals = body.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (round, reals.collect())
        });
        if rest.is_empty() {
            return Some(Self { optimizer, personal, losses: None });
        }
        let (losses, rest) = part(rest)?;
        rest.is_empty().then_some(Self { optimizer, personal, losses })
    }
}

/// The first part of `bytes`, absent where its round says so, and what comes after it.
#[allow(clippy::type_complexity, reason = "a part and the rest")]
fn part(bytes: &[u8]) -> Option<(Option<(Round, Vec<u8>)>, &[u8])> {
    let (length, tail) = bytes.split_first_chunk::<8>()?;
    let (round, tail) = tail.split_first_chunk::<4>()?;
    let (body, rest) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let round = u32::from_le_bytes(*round);
    Some(((round != u32::MAX).then(|| (Round(round), body.to_vec())), rest))
}

/// What a checkpoint keeps of the clients' losses.
pub(super) const LOSSES: &str = "losses";

/// 16 bytes: mean and greatest deviation.
pub(super) fn losses_to_bytes(losses: Losses) -> Vec<u8> {
    [losses.mean.to_le_bytes(), losses.greatest.to_le_bytes()].concat()
}

/// Undoes [`losses_to_bytes`].
fn losses_from_bytes(bytes: &[u8]) -> Option<Losses> {
    let (mean, rest) = bytes.split_first_chunk::<8>()?;
    let greatest = f64::from_le_bytes(<[u8; 8]>::try_from(rest).ok()?);
    let losses = Losses { mean: f64::from_le_bytes(*mean), greatest };
    (losses.mean.is_finite() && greatest.is_finite() && greatest >= 0.0).then_some(losses)
}

/// Runs from `start`, with the best of the rounds before it, to the end, or until the user stops it.
pub(crate) fn execute(
    trial: &dyn Trial,
    crew: Vec<Hand>,
    (start, best): (Start, Option<Chosen>),
    dir: RunDir,
    progress: &Progress,
) -> Result<(Outcome, RunDir), Failure> {
    let selects = trial.file().eval.select == Select::Best;
    let crew = Crew::new(crew, trial, progress);
    let shared = Mutex::new(dir);
    let clock = WallClock::starting_at(Millis(0));
    let mut simulation = Simulation {
        config: Config {
            plan: trial.plan().clone(),
            policy: trial.policy().clone(),
            roster: trial.people().iter().map(|p| p.id).collect::<Vec<ClientId>>(),
            seed: trial.file().run.seed,
            workers: trial.workers(),
            call_attempts: 1,
            restarts: 0,
            keep_updates: trial.keep_updates(),
        },
        server: trial.server_step()?,
        noise: None,
        clock: &clock,
        faults: None,
    };
    let first = start.round;
    let (end, reasons, best) = {
        let mut recorder = Recorder::new(trial, &crew, &shared, progress, best);
        let mut events = Events(&shared);
        let end = simulation.run(start, &crew, &mut recorder, &mut events, trial.stop());
        (end, recorder.reasons, recorder.best)
    };
    let mut dir = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    // what was logged before a failure is worth keeping; the failure itself comes first
    let kept = dir.commit();
    let end = end.map_err(|e| failure(&e))?;
    kept.map_err(|e| store(&e))?;
    match end.ending {
        Some(Ending::Completed) | None => {}
        Some(_) => {
            return Err(Failure::new(
                Kind::Federation,
                format_args!(
                    "round {} of {} failed: fewer than {} clients answered, in {} attempts\n{}",
                    end.next.0 + 1,
                    trial.policy().num_rounds,
                    trial.policy().min_clients,
                    trial.policy().round_attempts,
                    reasons.join("\n")
                ),
            ));
        }
    }
    let completed = end.ending.is_some() || (first.0 >= trial.policy().num_rounds);
    let chosen = selects.then(|| Chosen::report(best.as_ref(), trial.file(), end.next.0));
    let theta = best.map_or(end.theta, |b| b.theta);
    Ok((Outcome { theta, chosen, rounds_done: end.next.0, completed }, dir))
}

/// Which exit code an error of the simulation has.
pub(super) fn failure(e: &antiphon_sim::SimError) -> Failure {
    use antiphon_sim::SimError as E;
    let kind = match e {
        E::Log(_) | E::Persist { .. } => Kind::Storage,
        E::Policy(_) | E::NoNoise | E::Step(_) => Kind::Settings,
        _ => Kind::Federation,
    };
    if let E::Persist { source, .. } = e
        && let Some(inner) = source.downcast_ref::<Failure>()
    {
        return Failure::new(inner.kind, inner);
    }
    Err::<(), _>(e).fail(kind).err().unwrap_or_else(|| Failure::new(kind, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_state_survives_its_bytes() {
        let states = [
            ClientState::default(),
            ClientState { optimizer: Some((Round(3), vec![1, 2, 3])), personal: None, losses: None },
            ClientState { optimizer: None, personal: Some((Round(0), vec![0.5, -2.0])), losses: None },
            ClientState { losses: Some((Round(4), vec![9; 24])), ..ClientState::default() },
        ];
        for state in states {
            let bytes = state.encode();
            assert_eq!(ClientState::decode(&bytes), Some(state));
            assert_eq!(ClientState::decode(&bytes[..bytes.len() - 1]), None);
        }
    }
}
