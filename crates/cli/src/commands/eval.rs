//! `antiphon eval`: a model on the held-out data of a run file, over all clients and at each.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_report::{Evaluation, Metrics, format};
use antiphon_store::Snapshot;
use serde_json::json;

use super::common;
use crate::args::Eval;
use crate::error::{Fail, Failure, Kind};
use crate::progress::Progress;
use crate::runfile;
use crate::session::{Chosen, ClientState, Session};

pub(super) fn run(a: &Eval, quiet: bool, json: bool) -> Result<(), Failure> {
    let progress = Progress::new(0, quiet);
    let stop = Arc::new(AtomicBool::new(false));
    let (snapshot, loaded) = if common::is_run(&a.run) {
        let (snapshot, loaded) = common::look(&a.run)?;
        (Some(snapshot), loaded)
    } else {
        (None, runfile::load(&a.run, &[])?)
    };
    common::here(&loaded)?;
    for (round, why) in snapshot.iter().filter(|_| a.adapter.is_none()).flat_map(|s| &s.skipped) {
        progress.note(&format!("{round} is left out, an older one is evaluated: {why}"));
    }
    let session = Session::open_with(loaded, a.adapter.as_deref(), &progress, stop)?;
    progress.stage("evaluating");
    let (what, eval) = match (&a.adapter, &snapshot) {
        (Some(dir), _) => (dir.display().to_string(), session.evaluate_whole(&session.theta, a.part)?),
        (None, None) => {
            (session.file().model.base_model.clone(), session.evaluate_whole(&session.theta, a.part)?)
        }
        (None, Some(snapshot)) => {
            let (when, theta) = restore(&session, snapshot, a)?;
            (format!("{} after {when}", a.run.display()), session.evaluate(&theta, a.part)?)
        }
    };
    progress.finish();
    if eval.global.examples == 0 {
        return Err(Failure::new(
            Kind::Data,
            format_args!(
                "there is no {:?} data; give data.split.{0:?} a fraction, or data.{0:?}_path",
                a.part
            )
            .to_string()
            .to_lowercase(),
        ));
    }
    if json {
        println!("{}", json!({ "model": what, "evaluation": eval }));
    } else {
        print!("{what}\n{}", table(&session, &eval));
    }
    Ok(())
}

/// What travels and every client's own tensors, as of the newest checkpoint or the best round that it knows; which round that is,
/// in words.
fn restore(session: &Session, snapshot: &Snapshot, a: &Eval) -> Result<(String, Vec<f32>), Failure> {
    let damaged = |what: &dyn std::fmt::Display| {
        Failure::new(Kind::RunDir, format_args!("{}: {what}", a.run.display()))
    };
    let Some(checkpoint) = &snapshot.checkpoint else {
        return Err(damaged(&"no round is closed yet; the run file evaluates the base model"));
    };
    let (found, expected) = (checkpoint.theta.len(), session.plan.schema().dim());
    if found != expected {
        return Err(damaged(&format_args!(
            "the checkpoint holds {found} scalars, the run trains {expected}"
        )));
    }
    if let Some(personal) = &session.personal {
        for &client in &checkpoint.clients {
            let Some(bytes) = snapshot.client_state(client).fail(Kind::RunDir)? else { continue };
            let state = ClientState::decode(&bytes)
                .ok_or_else(|| damaged(&format_args!("the state of {client} is damaged")))?;
            let Some((round, own)) = state.personal else { continue };
            if !personal.restore(client, round, own) {
                return Err(damaged(&format_args!("the head of {client} has another size")));
            }
        }
    }
    // the best round, where the run chooses by validation data
    let best = Chosen::of(&checkpoint.slots, expected).map_err(|why| damaged(&why))?;
    Ok(match best {
        Some(b) => (format!("round {}, the best on validation data", b.round.0 + 1), b.theta),
        None => (format!("round {}", checkpoint.round.0 + 1), checkpoint.theta.clone()),
    })
}

/// One line for all, one a client.
fn table(session: &Session, eval: &Evaluation) -> String {
    let names = session.people.iter().map(|p| (p.id, p.name.as_str()));
    let width = names.clone().map(|(_, n)| n.chars().count()).max().unwrap_or(0).clamp(11, 32);
    let mut out = format!(
        "{:<width$}  {:>9} {:>11} {:>10} {:>9} {:>9}\n",
        "", "loss", "perplexity", "bits/byte", "accuracy", "examples"
    );
    let mut row = |name: &str, m: &Metrics| {
        let number = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.4}"));
        let accuracy = m.accuracy.map_or_else(|| "-".to_owned(), format::percent);
        let name: String = name.chars().take(width).collect();
        let _ = writeln!(
            out,
            "{name:<width$}  {:>9} {:>11} {:>10} {accuracy:>9} {:>9}",
            number(m.loss),
            number(m.perplexity),
            number(m.bits_per_byte),
            m.examples
        );
    };
    row("all clients", &eval.global);
    for (id, name) in names {
        if let Some(m) = eval.per_client.get(&id) {
            row(name, m);
        }
    }
    out
}
