//! Watches the rounds of a run: evaluates, writes the checkpoint and the record that make a round count, and tells the user.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use antiphon_algo::Losses;
use antiphon_core::{ClientId, Digest};
use antiphon_oracle::Usage;
use antiphon_protocol::{Log, LogError, Record, Vector, What};
use antiphon_report::format::count;
use antiphon_report::{ClientRecord, ClientStatus, RoundRecord, Spent, Traffic, UpdateSpread};
use antiphon_sim::{ClientDone, Observer, Outcome, RoundClosed, RoundFailed, RoundStarted};
use antiphon_store::{Checkpoint, RunDir};

use super::audit::Kept;
use super::execute::{LOSSES, losses_to_bytes};
use super::{Chosen, Crew, Trial, figure};
use crate::args::Part;
use crate::progress::{Progress, bytes};
use crate::runfile::Select;

/// The run directory, shared by the recorder and the event log.
pub(crate) type Shared = Mutex<RunDir>;

/// Milliseconds since 1970, for people.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// The event log of the protocol, in the run directory.
pub(crate) struct Events<'a>(pub(crate) &'a Shared);

impl Log for Events<'_> {
    fn append(&mut self, record: &Record) -> Result<(), LogError> {
        let mut dir = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dir.record(unix_ms(), "protocol", record).map_err(|e| LogError(Box::new(e)))
    }

    /// In a durable run the bytes are on the disk, with every record so far, when this returns.
    fn append_update(&mut self, record: &Record, update: &Vector) -> Result<(), LogError> {
        self.append(record)?;
        let mut dir = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let What::Accepted { client, digest, .. } = &record.what else { return Ok(()) };
        if !dir.settings().durable {
            return Ok(());
        }
        // in another attempt at a round its first bytes count, and the record must be kept all the same
        let kept = dir
            .put_update(unix_ms(), *client, update.bytes(), *digest)
            .and_then(|new| if new { Ok(()) } else { dir.commit() });
        kept.map_err(|e| LogError(Box::new(e)))
    }
}

/// Turns what the simulation reports into records, checkpoints and lines.
pub(crate) struct Recorder<'a> {
    pub(crate) trial: &'a dyn Trial,
    pub(crate) crew: &'a Crew<'a>,
    pub(crate) dir: &'a Shared,
    pub(crate) progress: &'a Progress,
    begun: Instant,
    /// What a search had asked when the round began.
    before: Usage,
    /// Held-out loss of the last evaluation, and examples that the search asked since.
    evaluated: Option<(f64, u64)>,
    cohort: Vec<ClientId>,
    outcomes: BTreeMap<ClientId, Outcome>,
    /// Why clients gave no answer in the last round that failed, one line each.
    pub(crate) reasons: Vec<String>,
    /// The best round so far, where the best is chosen.
    pub(crate) best: Option<Chosen>,
    /// Bytes of changes of the emulator that the round has sent.
    emulator_down: u64,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(
        trial: &'a dyn Trial,
        crew: &'a Crew<'a>,
        dir: &'a Shared,
        progress: &'a Progress,
        best: Option<Chosen>,
    ) -> Self {
        let begun = Instant::now();
        let (cohort, outcomes) = (Vec::new(), BTreeMap::new());
        let (before, evaluated, reasons) = (Usage::ZERO, None, Vec::new());
        Self {
            trial,
            crew,
            dir,
            progress,
            begun,
            before,
            evaluated,
            cohort,
            outcomes,
            reasons,
            best,
            emulator_down: 0,
        }
    }

    fn clients(&self, closed: &RoundClosed<'_>) -> Vec<ClientRecord> {
        let took = self.crew.took();
        let accepted: BTreeMap<_, _> = closed.contributions.iter().map(|c| (c.client, c)).collect();
        let record = |&client: &ClientId| {
            let counted = accepted.get(&client);
            let metric = |name: &str| counted.and_then(|c| c.metrics.get(name)).copied();
            ClientRecord {
                client,
                status: match (counted, self.outcomes.get(&client)) {
                    (Some(_), _) => ClientStatus::Counted,
                    (None, Some(Outcome::GaveUp { reason })) if reason.contains("not finite") => {
                        ClientStatus::NotFinite
                    }
                    (None, Some(Outcome::GaveUp { reason } | Outcome::Unreachable { reason })) => {
                        ClientStatus::Failed(reason.clone())
                    }
                    (None, _) => ClientStatus::TimedOut,
                },
                examples: counted.map(|c| c.weight.get() as u64),
                train_loss: metric("train_loss"),
                update_norm: counted.and_then(|c| c.norm),
                seconds: took.get(&client).map(|t| t.seconds),
                tokens: metric("train_rows").map(|n| n as u64),
                bytes_up: None,
            }
        };
        self.cohort.iter().map(record).collect()
    }

    /// What the search has spent of its budget, and what a thousand queries have gained; empty for training by gradients.
    fn queries(&mut self, record: &RoundRecord) -> String {
        let (Some(spent), Some(all)) = (record.spent, self.trial.spent()) else { return String::new() };
        let budget = self.trial.file().oracle.budget;
        let of = |limit: Option<u64>| limit.map_or(String::new(), |l| format!(" of {}", count(l)));
        let mut text = format!("  asked {}{} examples", count(all.examples), of(budget.examples));
        if all.micros > 0 || budget.money.is_some() {
            let _ = write!(
                text,
                ", {:.4}{} money",
                all.micros as f64 / 1e6,
                budget.money.map_or(String::new(), |m| format!(" of {m}"))
            );
        }
        let asked = self.evaluated.map_or(0, |(_, asked)| asked) + spent.examples;
        let loss = record.eval.as_ref().and_then(|e| e.global.loss);
        if let (Some(loss), Some((before, _)), true) = (loss, self.evaluated, asked > 0) {
            let _ = write!(text, ", {:+.4} held-out loss per 1000", (loss - before) * 1000.0 / asked as f64);
        }
        self.evaluated = match loss {
            Some(loss) => Some((loss, 0)),
            None => self.evaluated.map(|(before, _)| (before, asked)),
        };
        text
    }

    /// Whether the global model is evaluated after this round.
    fn due(&self, round: u32) -> bool {
        let every = self.trial.file().eval.every_rounds;
        let last = round + 1 == self.trial.file().federation.num_rounds;
        last || every > 0 && (round + 1).is_multiple_of(every)
    }

    fn close(&mut self, closed: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let trial = self.trial;
        let wall = self.begun.elapsed().as_secs_f64();
        // before evaluation, which is not the search's
        let spent = trial.spent().map(|now| since(self.before, now));
        let clients = self.clients(closed);
        let eval_begun = Instant::now();
        let eval = if self.due(closed.round.0) && trial.validates() {
            self.progress.stage("evaluating");
            Some(trial.evaluate(closed.theta, Part::Validation)?)
        } else {
            None
        };
        if trial.file().eval.select == Select::Best {
            let on = eval.as_ref().and_then(|e| figure(trial.file(), &e.global));
            self.best = Chosen::better(self.best.take(), closed.round, on, closed.theta);
        }
        let eval_seconds = eval.is_some().then(|| eval_begun.elapsed().as_secs_f64());
        let traffic = Traffic {
            up: closed.traffic.up.total(),
            down: closed.traffic.down.total(),
            payload_up: closed.traffic.up.payload,
            payload_down: closed.traffic.down.payload,
        };
        let alignment = trial.between(closed.round, closed.theta, self.progress)?;
        let norms: Vec<(f64, f64)> =
            clients.iter().filter_map(|c| Some((c.examples? as f64, c.update_norm?))).collect();
        let tokens: u64 = clients.iter().filter_map(|c| c.tokens).sum();
        let record = RoundRecord {
            round: closed.round,
            cohort: self.cohort.clone(),
            train_loss: weighted(&clients),
            eval,
            traffic: Some(traffic),
            spread: UpdateSpread::from_norms(&norms, norm(closed.delta)),
            factor_error: closed.factor_error(trial.workers()).map(|e| e.overall),
            step_norm: Some(step_norm(closed)),
            wall_seconds: Some(wall),
            eval_seconds,
            forwards: closed.contributions.iter().map(|c| trial.forwards(c.client, &c.metrics)).sum(),
            tokens_per_second: (tokens > 0).then(|| tokens as f64 / wall),
            spent,
            gauge: trial.gauge(closed.theta),
            alignment,
            emulator_down: (self.emulator_down > 0).then_some(self.emulator_down),
            clients,
        };
        self.crew.forget_others(&closed.contributions.iter().map(|c| c.client).collect(), closed.round);
        let mut dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        for contribution in closed.contributions {
            let state = self.crew.state(contribution.client);
            if !state.is_empty() {
                dir.set_client_state(contribution.client, &state.encode())?;
            }
        }
        let server = closed.server.state();
        let mut slots = trial.slots()?;
        let losses = Losses::of(closed.contributions.iter().map(|c| &c.metrics));
        slots.extend(losses.map(|l| (LOSSES, losses_to_bytes(l))));
        slots.extend(self.best.as_ref().map(|best| (Chosen::SLOT, best.encode())));
        let checkpoint = Checkpoint {
            theta: closed.theta,
            server: server.iter().map(|(name, v)| (name.as_str(), v.as_slice())).collect(),
            slots: slots.iter().map(|(name, v)| (*name, v.as_slice())).collect(),
        };
        if trial.audited() {
            let kept = Kept::of(closed.attempt, closed.contributions)
                .ok_or("an update is not kept as it was sent, and the run could not be audited")?;
            dir.keep_deliveries(&kept.encode())?;
        }
        dir.close_round(unix_ms(), closed.round, &checkpoint, &record)?;
        drop(dir);
        let rounds = u64::from(trial.file().federation.num_rounds);
        let line = [line(&record, rounds), self.queries(&record)].concat();
        self.progress.round_closed(u64::from(closed.round.0) + 1, rounds, &line);
        Ok(())
    }
}

impl Observer for Recorder<'_> {
    fn round_started(&mut self, round: &RoundStarted<'_>) {
        self.begun = Instant::now();
        self.before = self.trial.spent().unwrap_or(Usage::ZERO);
        self.cohort = round.cohort.to_vec();
        self.outcomes.clear();
        let sent = self.trial.deliver(round.cohort);
        // another attempt at a round adds to what the first has sent
        self.emulator_down = if round.attempt == 0 { sent } else { self.emulator_down + sent };
    }

    fn client_done(&mut self, done: &ClientDone<'_>) {
        self.outcomes.insert(done.client, done.outcome.clone());
    }

    fn round_closed(&mut self, round: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.close(round)
    }

    fn round_failed(&mut self, failed: &RoundFailed) {
        self.reasons = self
            .outcomes
            .iter()
            .filter_map(|(id, o)| match o {
                Outcome::GaveUp { reason } | Outcome::Unreachable { reason } => {
                    Some(format!("  {id}: {reason}"))
                }
                _ => None,
            })
            .collect();
        self.progress.note(&format!(
            "round {} failed at attempt {}: too few answers\n{}",
            failed.round.0 + 1,
            failed.attempt + 1,
            self.reasons.join("\n")
        ));
    }
}

/// What was asked between two states of a ledger.
fn since(before: Usage, now: Usage) -> Spent {
    let tokens = |u: Usage| u.prompt_tokens + u.completion_tokens;
    Spent {
        examples: now.examples - before.examples,
        calls: now.calls - before.calls,
        tokens: tokens(now) - tokens(before),
        cache_hits: now.cache_hits - before.cache_hits,
        cost_micros: now.micros - before.micros,
    }
}

/// ‖x‖₂ in binary64.
pub(crate) fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// ‖θ after − θ before‖₂.
fn step_norm(closed: &RoundClosed<'_>) -> f64 {
    let mut scratch = Vec::new();
    let before = closed.start.reals(&mut scratch);
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    closed.theta.iter().zip(before).map(square).sum::<f64>().sqrt()
}

/// Mean training loss of the counted clients by examples.
fn weighted(clients: &[ClientRecord]) -> Option<f64> {
    let pairs: Vec<(f64, f64)> =
        clients.iter().filter_map(|c| Some((c.examples? as f64, c.train_loss?))).collect();
    let total: f64 = pairs.iter().map(|p| p.0).sum();
    (total > 0.0).then(|| pairs.iter().map(|(n, l)| n * l).sum::<f64>() / total)
}

/// One round in one line.
fn line(r: &RoundRecord, rounds: u64) -> String {
    let counted = r.clients.iter().filter(|c| c.status.counted()).count();
    let mut parts =
        vec![format!("round {:>3}/{rounds}  clients {counted}/{}", r.round.0 + 1, r.cohort.len())];
    if let Some(loss) = r.train_loss {
        parts.push(format!("train loss {loss:.4}"));
    }
    if let Some(eval) = &r.eval {
        if let Some(loss) = eval.global.loss {
            parts.push(format!("validation loss {loss:.4}"));
        }
        if let Some(accuracy) = eval.global.accuracy {
            parts.push(format!("accuracy {:.1} %", 100.0 * accuracy));
        }
    }
    if let Some(rate) = r.tokens_per_second {
        parts.push(format!("{rate:.0} tokens/s"));
    }
    if let Some(t) = r.traffic {
        parts.push(format!("up {} down {}", bytes(t.up), bytes(t.down)));
    }
    if let Some(seconds) = r.wall_seconds {
        parts.push(format!("{seconds:.1} s"));
    }
    if let Some(a) = &r.alignment {
        parts.push(format!("emulator to model: {}", a.after));
    }
    parts.join("  ")
}

/// Identifies a trainable vector.
pub(crate) fn digest(theta: &[f32]) -> Digest {
    let bytes: Vec<u8> = theta.iter().flat_map(|v| v.to_le_bytes()).collect();
    Digest::of(&bytes)
}
