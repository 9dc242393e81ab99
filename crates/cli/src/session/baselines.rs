//! What the federated model is compared with: the base as it was, each client alone, everybody's data in one place.
//!
//! Equal work: a client alone takes rounds × local steps; the centralised model sees as many examples as the whole
//! federation did. Everything is measured on the same test data.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use antiphon_algo::LocalWork;
use antiphon_core::{ClientId, Round};
use antiphon_data::Sequence;
use antiphon_report::{Baseline as Line, Baselines, LocalOnly, Metrics, RoundRecord, Waypoint};
use antiphon_tune::Client;

use super::Session;
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::progress::Progress;
use crate::runfile::Baseline;

/// Runs the baselines that the run file asks for, with as much work as the rounds in `past` were.
pub(crate) fn run(
    session: &Session,
    past: &[RoundRecord],
    rounds: u32,
    progress: &Progress,
) -> Result<Baselines, Failure> {
    let mut out = Baselines::default();
    if let Some(search) = session.searching.as_ref().filter(|_| session.file().eval.random_search) {
        progress.stage("baseline: random search with as many queries");
        out.random_search = Some(search.luck(session, past)?);
    }
    for baseline in &session.file().eval.baselines {
        match baseline {
            Baseline::ZeroShot => {
                progress.stage("baseline: the base model as it was");
                let begun = Instant::now();
                let eval = session.evaluate_base(Part::Test)?;
                let seconds = Some(begun.elapsed().as_secs_f64());
                let curve = match session.validates() {
                    true => vec![Waypoint { forwards: 0, eval: session.evaluate_base(Part::Validation)? }],
                    false => Vec::new(),
                };
                out.zero_shot = Some(Line { eval, steps: None, examples_seen: None, seconds, curve });
            }
            Baseline::LocalOnly => out.local_only = Some(local_only(session, rounds, progress)?),
            Baseline::Centralised => {
                progress.stage("baseline: everybody's data in one place");
                out.centralised = Some(centralised(session, rounds)?);
            }
        }
    }
    Ok(out)
}

/// Trains alone on `sequences` for `rounds`, from the first values. Optimiser state is kept: one long training.
fn alone(
    session: &Session,
    id: ClientId,
    sequences: Arc<[Sequence]>,
    rounds: u32,
) -> Result<Vec<f32>, Failure> {
    let examples = sequences.len() as u64;
    let mut client = Client::new(Arc::clone(&session.tuning), id, sequences, examples).fail(Kind::Data)?;
    let mut theta = session.theta.clone();
    for round in 0..rounds {
        let local = client.run(&theta, Round(round)).map_err(|e| match e {
            antiphon_algo::WorkError::Interrupted => Failure::new(Kind::Interrupted, "stopped"),
            e => Failure::new(Kind::Federation, format_args!("baseline of {id}: {e}")),
        })?;
        theta.iter_mut().zip(&local.delta).for_each(|(t, d)| *t -= d);
    }
    Ok(theta)
}

fn local_only(session: &Session, rounds: u32, progress: &Progress) -> Result<LocalOnly, Failure> {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let models: Mutex<BTreeMap<ClientId, Result<Vec<f32>, Failure>>> = Mutex::default();
    let worker = || {
        while let Some(person) = session.people.get(next.fetch_add(1, Ordering::Relaxed)) {
            progress.client_started(person.id.0);
            let theta = alone(session, person.id, Arc::clone(&person.train.sequences), rounds);
            progress.client_done(person.id.0);
            models.lock().unwrap_or_else(PoisonError::into_inner).insert(person.id, theta);
        }
    };
    progress.stage("baseline: each client alone");
    std::thread::scope(|s| {
        for _ in 1..session.workers.min(session.people.len()) {
            s.spawn(worker);
        }
        worker();
    });
    let models = models.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (mut on_union, mut on_own) = (BTreeMap::new(), BTreeMap::<ClientId, Metrics>::new());
    for (id, theta) in models {
        let theta = theta?;
        let eval = session.evaluate_whole(&theta, Part::Test)?;
        if let Some(own) = eval.per_client.get(&id) {
            on_own.insert(id, own.clone());
        }
        on_union.insert(id, eval.global);
    }
    let steps =
        session.people.iter().map(|p| session.local_steps(p)).max().map(|s| u64::from(s) * u64::from(rounds));
    Ok(LocalOnly { steps, on_union, on_own, seconds: Some(begun.elapsed().as_secs_f64()) })
}

fn centralised(session: &Session, rounds: u32) -> Result<Line, Failure> {
    let begun = Instant::now();
    let all: Arc<[Sequence]> =
        session.people.iter().flat_map(|p| p.train.sequences.iter().cloned()).collect();
    // a client takes its local steps in each round that samples it: on average, `cohort` of the clients do
    let cohort = session.policy.cohort_size(session.people.len()) as f64;
    let mean_steps = session.people.iter().map(|p| f64::from(session.local_steps(p))).sum::<f64>()
        / session.people.len() as f64;
    let steps_wanted = (f64::from(rounds) * cohort * mean_steps).round() as u64;
    let batch = session.tuning.recipe().batch_size() as u64;
    let per_call = u64::from(session.tuning.recipe().local_steps(all.len())).max(1);
    // whole calls, rounded up: never less work than the federation's
    let calls = u32::try_from(steps_wanted.div_ceil(per_call)).unwrap_or(u32::MAX);
    let theta = alone(session, ClientId(u64::MAX), all, calls)?;
    let steps = u64::from(calls) * per_call;
    Ok(Line {
        eval: session.evaluate_whole(&theta, Part::Test)?,
        steps: Some(steps),
        examples_seen: Some(steps * batch),
        seconds: Some(begun.elapsed().as_secs_f64()),
        curve: Vec::new(),
    })
}
