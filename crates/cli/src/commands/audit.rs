//! `antiphon audit`: recomputes a run of `[scalars]` from what its clients delivered, and says where it is not what was recorded.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_core::Digest;
use antiphon_model::adapter;
use antiphon_report::Summary;
use antiphon_store::{Layout, read_deliveries};
use serde_json::json;

use super::common;
use crate::args::Audit;
use crate::error::{Fail, Failure, Kind};
use crate::progress::Progress;
use crate::session::{Logged, Session, digest, replay};

pub(super) fn run(a: &Audit, quiet: bool, json: bool) -> Result<(), Failure> {
    if !common::is_run(&a.run) {
        let why = format!("{} is no run directory: it has no run.toml with events.sqlite", a.run.display());
        return Err(Failure::new(Kind::RunDir, why));
    }
    let progress = Progress::new(0, quiet);
    let (snapshot, loaded) = common::look(&a.run)?;
    let session = Session::open(loaded, &progress, Arc::new(AtomicBool::new(false)))?;
    let Some(scalars) = &session.scalars else {
        return Err(Failure::new(
            Kind::Usage,
            format_args!("{}: only runs with [scalars] keep what their clients delivered", a.run.display()),
        ));
    };
    if session.plan.privacy().next().is_some() {
        return Err(Failure::new(Kind::Usage, "a run whose server draws noise cannot be recomputed"));
    }
    let Some(checkpoint) = &snapshot.checkpoint else {
        let why = format!("{}: no round is closed yet", a.run.display());
        return Err(Failure::new(Kind::RunDir, why));
    };
    progress.stage("replaying the run");
    let layout = Layout::new(&a.run);
    let kept = read_deliveries(&layout.deliveries()).fail(Kind::RunDir)?;
    let logged = Logged::read(&snapshot.events);
    let mut server = session.server_step()?;
    let refuse = |why: String| Failure::new(Kind::Audit, format_args!("{}: {why}", a.run.display()));
    let state = replay(&session.plan, &mut *server, scalars.start(), &kept, &logged, session.workers)
        .map_err(|e| refuse(e.to_string()))?;
    if digest(&state) != digest(&checkpoint.theta) {
        return Err(refuse(format!(
            "the checkpoint of {} is not the state that was replayed",
            checkpoint.round
        )));
    }
    let weights = scalars.whole(&state)?;
    let found = digest(&weights);
    let compared = compare(&layout, &session, found, &refuse)?;
    progress.finish();
    let rounds = checkpoint.round.0 + 1;
    if json {
        println!(
            "{}",
            json!({ "rounds": rounds, "state": digest(&state), "weights": found, "agrees": compared })
        );
    } else {
        println!("OK: {rounds} rounds replayed from the clients' scalars give the recorded states");
        println!("weights  {}", found.to_hex());
        println!(
            "compared with {}",
            if compared.is_empty() { "nothing: the run has not ended".into() } else { compared.join(", ") }
        );
    }
    Ok(())
}

/// Compares the weights with what the run left; gives what they were compared with.
fn compare(
    layout: &Layout,
    session: &Session,
    found: Digest,
    refuse: &impl Fn(String) -> Failure,
) -> Result<Vec<&'static str>, Failure> {
    let mut compared = Vec::new();
    let path = layout.summary();
    if path.is_file() {
        let text = std::fs::read_to_string(&path).fail_at(Kind::Storage, path.display())?;
        let summary: Summary = serde_json::from_str(&text).fail_at(Kind::RunDir, path.display())?;
        match summary.weights {
            Some(recorded) if recorded == found => compared.push("summary.json"),
            recorded => {
                let recorded = recorded.map_or_else(|| "none".to_owned(), Digest::to_hex);
                return Err(refuse(format!(
                    "the coordinator recorded final weights {recorded}, the scalars make {}",
                    found.to_hex()
                )));
            }
        }
    }
    let latest = layout.latest();
    if latest.join("adapter_config.json").is_file() {
        let adapter = adapter::read(&latest, session.base.spec()).fail(Kind::Model)?;
        if digest(&adapter.theta) != found {
            return Err(refuse("the adapter in latest/ is not what the scalars make".to_owned()));
        }
        compared.push("latest/");
    }
    Ok(compared)
}
