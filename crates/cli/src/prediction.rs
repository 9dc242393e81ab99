//! What a run will cost, before anything runs; and, after it, how that compared.

use std::time::Instant;

use antiphon_algo::Local;
use antiphon_kernels::Cpu;
use antiphon_model::{Mode, Shape, planned_bytes};
use antiphon_oracle::search::Seeker;
use antiphon_protocol::size;
use antiphon_report::{Comparison, RoundRecord};
use antiphon_tune::HeldOut;
use antiphon_tune::scalars::Replica;
use serde::Serialize;

use crate::machine;
use crate::session::Session;

/// A prediction for a whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Prediction {
    /// Scalars trained.
    pub(crate) trainable: u64,
    /// Of them, scalars that never travel.
    pub(crate) personal: u64,
    /// Scalars of the base.
    pub(crate) parameters: u64,
    /// Clients in a round.
    pub(crate) cohort: u64,
    /// Bytes of a round from all its clients, if every client reports the usual metrics and none fails: exactly, or at most
    /// where only what changed travels.
    pub(crate) bytes_up_per_round: u64,
    /// Bytes of a round to all its clients.
    pub(crate) bytes_down_per_round: u64,
    /// Of both, what is coordinates.
    pub(crate) payload_per_round: u64,
    /// Of one client in a round, where only what changed travels, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) told: Option<Told>,
    /// Activations of one client at work.
    pub(crate) activation_bytes: u64,
    /// Peak resident set, estimated: program, weights touched, workers, clients' state, messages.
    pub(crate) memory_bytes: u64,
    /// Examples that an oracle evaluates in all rounds, at most; for a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queries: Option<u64>,
    /// Floating point operations of local training, all rounds.
    pub(crate) flop: f64,
    /// Operations per second of all workers together, measured now on this model.
    pub(crate) flops_per_second: f64,
    /// Local training, all rounds, estimated.
    pub(crate) seconds: f64,
}

/// Bytes of one client in a round, at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Told {
    /// Scalars that it sends.
    pub(crate) payload_up: u64,
    /// Around them: index, header, its question.
    pub(crate) envelope_up: u64,
    /// Scalars that it is sent, once it has a first state.
    pub(crate) payload_down: u64,
    /// Around them.
    pub(crate) envelope_down: u64,
}

/// Metrics that a client reports beside its update.
const METRICS: [&str; 8] = [
    "grad_norm",
    "train_accuracy",
    "train_loss",
    "train_loss_first",
    "train_loss_last",
    "train_rows",
    "train_steps",
    "train_units",
];

/// Operations per second of one worker: the forward pass over real sequences for a fraction of a second. Backward runs the
/// same kinds of products at about the same speed, so the ratio of operations carries over.
fn calibrate(session: &Session) -> f64 {
    let Some(person) = session.people.iter().find(|p| !p.train.sequences.is_empty()) else { return f64::NAN };
    let few = &person.train.sequences[..person.train.sequences.len().min(32)];
    let tokens: usize = few.iter().map(antiphon_data::Sequence::len).sum();
    let labelled = few.iter().map(|s| s.label_tokens().max(usize::from(s.class.is_some()))).sum();
    let shape = Shape { tokens, segments: few.len(), labelled };
    let set = HeldOut { sequences: few, bytes: None, label_words: None };
    let flop = machine::step_flop(session.spec(), &session.wiring, shape, Mode::Infer, tokens / few.len());
    // the first pass fills caches and plans buffers
    let mut best = 0.0_f64;
    let begun = Instant::now();
    for pass in 0.. {
        let start = Instant::now();
        if session.tuning.evaluate(&session.theta, set).is_err() {
            return f64::NAN;
        }
        if pass > 0 {
            best = best.max(flop / start.elapsed().as_secs_f64());
        }
        if pass > 0 && begun.elapsed().as_secs_f64() > 0.3 {
            break;
        }
    }
    best
}

impl Prediction {
    /// Predicts; measures this machine for well under a second.
    pub(crate) fn of(session: &Session) -> Self {
        let shape = session.shape();
        let (spec, wiring) = (session.spec(), &session.wiring);
        let backend = session.tuning.backend();
        let estimator = &session.tuning.recipe().estimator;
        let mode = estimator.mode();
        let activations = planned_bytes(backend, spec, session.task, wiring, shape, mode) as u64;
        let cohort = session.policy.cohort_size(session.people.len()) as u64;
        let trainable = session.changed();
        let shared = session.plan.schema().dim() as u64;
        let workers = (session.workers as u64).min(cohort);
        let state = match session.tuning.recipe().train.optimizer_state {
            antiphon_tune::settings::StatePolicy::Keep => {
                let slots = session.tuning.recipe().optimizer.slots().len() as u64;
                session.people.len() as u64 * slots * trainable * 4 * 2
            }
            antiphon_tune::settings::StatePolicy::Reset => 0,
        };
        let parameters = machine::parameters(session.base.spec(), session.task);
        let weights = machine::weight_bytes(&session.base);
        let memory = (20 << 20)
            + weights
            + workers * (activations + 4 * trainable * 6)
            + state
            + cohort * shared * 4 * 2
            + 4 * shared * 4
            + if session.scalars.is_some() { Replica::<Cpu>::BYTES as u64 * trainable } else { 0 };
        let (up, down) = (Self::up(session) * cohort, Self::down(session, cohort as usize) * cohort);

        let mut flop = 0.0;
        for person in &session.people {
            let tokens: usize = person.train.sequences.iter().map(antiphon_data::Sequence::len).sum();
            let labels: usize = person
                .train
                .sequences
                .iter()
                .map(|s| s.label_tokens().max(usize::from(s.class.is_some())))
                .sum();
            let n = person.train.sequences.len().max(1);
            let steps = f64::from(session.local_steps(person)) * f64::from(session.policy.num_rounds);
            let share = steps * session.tuning.recipe().batch_size() as f64 / n as f64;
            let mean = Shape { tokens, segments: n, labelled: labels };
            let passes = f64::from(estimator.forwards().unwrap_or(1));
            flop += share * passes * machine::step_flop(spec, wiring, mean, mode, tokens / n);
        }
        let queries =
            session.searching.as_ref().map(|s| s.queries(session.policy.num_rounds, cohort as usize));
        if let Some(queries) = queries {
            let all = session.people.iter().flat_map(|p| p.train.sequences.iter());
            let (n, tokens) = all.fold((0_usize, 0), |(n, t), s| (n + 1, t + s.len()));
            let prompt = wiring.prompt.as_ref().map_or(0, |p| p.tokens);
            let each = tokens / n.max(1) + prompt;
            let mean = Shape { tokens: each, segments: 1, labelled: 1 };
            // undone by the share of the cohort below: queries are those of the cohort
            let share = session.people.len().max(1) as f64 / cohort as f64;
            flop = share * queries as f64 * machine::step_flop(spec, wiring, mean, Mode::Infer, each);
        }
        flop *= cohort as f64 / session.people.len().max(1) as f64;
        let flops_per_second = calibrate(session) * workers.min(machine::cores() as u64) as f64;
        Self {
            trainable,
            personal: if session.personal.is_some() { trainable - shared } else { 0 },
            parameters,
            cohort,
            bytes_up_per_round: up.total(),
            bytes_down_per_round: down.total(),
            payload_per_round: up.payload + down.payload,
            told: session.scalars.is_some().then(|| Told {
                payload_up: up.payload / cohort.max(1),
                envelope_up: up.overhead / cohort.max(1),
                payload_down: down.payload / cohort.max(1),
                envelope_down: down.overhead / cohort.max(1),
            }),
            activation_bytes: activations,
            memory_bytes: memory,
            queries,
            flop,
            flops_per_second,
            seconds: flop / flops_per_second,
        }
    }

    /// Bytes that one client sends in a round: its question and its update.
    fn up(session: &Session) -> size::Size {
        let metrics: &[&str] = if session.searching.is_some() { &Seeker::METRICS } else { &METRICS };
        let own_rate: &[&str] =
            if Self::tells(session) { &["learning_rate", Local::SHARED_LOSS] } else { &[] };
        let metrics = metrics.iter().chain(own_rate).copied();
        match Self::sent(session) {
            Some(sent) => {
                // what layers add to a vector is never zero
                let added = session.plan.wire().len - session.plan.schema().dim();
                size::poll() + size::deliver_sparse(&session.plan, sent + added, metrics)
            }
            None => size::poll() + size::deliver(&session.plan, metrics),
        }
    }

    /// Whether clients tell each other their losses.
    fn tells(session: &Session) -> bool {
        session.searching.is_none() && session.tuning.recipe().train.personalized_lr.is_some()
    }

    /// Scalars that are not zero in the largest update; `None` where vectors travel whole.
    fn sent(session: &Session) -> Option<usize> {
        let steps = session.people.iter().map(|p| session.local_steps(p)).max().unwrap_or(0);
        session.scalars.as_ref().map(|s| s.most_sent(steps))
    }

    /// Bytes that one client receives in a round.
    fn down(session: &Session, cohort: usize) -> size::Size {
        let everybody = cohort == session.people.len();
        // a server with momentum moves what no client touched, and who sat out has more to catch up with
        let plain = session.server_step().is_ok_and(|s| s.describe() == "fedavg");
        let work = match Self::sent(session) {
            Some(sent) if everybody && plain => {
                let changed = sent.saturating_mul(cohort).min(session.plan.schema().dim());
                size::work_changed(&session.plan, cohort, changed)
            }
            Some(_) => size::work_changed(&session.plan, cohort, session.plan.schema().dim()),
            None if Self::tells(session) => size::work_telling(&session.plan, cohort),
            None => size::work(&session.plan, cohort),
        };
        work + size::accepted()
    }

    /// Beside what `rounds` measured.
    pub(crate) fn compare(&self, session: &Session, rounds: &[RoundRecord]) -> Vec<Comparison> {
        // the first round also carries everybody's request to join
        let later: Vec<_> = rounds.iter().skip(1).filter_map(|r| r.traffic).collect();
        let mean = |pick: fn(&antiphon_report::Traffic) -> u64| {
            (!later.is_empty()).then(|| later.iter().map(pick).sum::<u64>() as f64 / later.len() as f64)
        };
        let seconds: f64 = rounds.iter().filter_map(|r| r.wall_seconds).sum();
        let done = rounds.len() as f64 / f64::from(session.policy.num_rounds);
        let exact = session.scalars.is_none();
        let row = |quantity: &str, unit: &str, predicted: f64, measured: Option<f64>, exact: bool| {
            Comparison { quantity: quantity.to_owned(), unit: unit.to_owned(), predicted, measured, exact }
        };
        vec![
            row("bytes up per round", "bytes", self.bytes_up_per_round as f64, mean(|t| t.up), exact),
            row("bytes down per round", "bytes", self.bytes_down_per_round as f64, mean(|t| t.down), exact),
            row(
                "peak memory",
                "bytes",
                self.memory_bytes as f64,
                Some(machine::peak_rss_bytes() as f64).filter(|b| *b > 0.0),
                false,
            ),
            row("seconds of rounds", "seconds", self.seconds * done, Some(seconds), false),
        ]
    }
}
