//! `antiphon plan`: what a run costs, before it runs.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use std::fmt::Write as _;

use antiphon_algo::Checked;
use antiphon_report::DataReport;
use antiphon_report::format::{bytes, count, seconds, short};
use serde_json::json;

use crate::args::RunFile;
use crate::error::{Fail, Failure, Kind};
use crate::oracle::EMBEDDED;
use crate::prediction::Prediction;
use crate::progress::Progress;
use crate::remote::{Draft, Needs};
use crate::runfile::{self, Loaded};
use crate::session::Session;

/// Clients that are listed one by one.
const LISTED: usize = 12;

pub(super) fn run(a: &RunFile, quiet: bool, json: bool) -> Result<(), Failure> {
    let loaded = runfile::load(&a.file, &a.overrides)?;
    if loaded.settings.oracle.endpoint.is_some() {
        return remote(loaded, quiet, json);
    }
    let session = Session::open(loaded, &Progress::new(0, quiet), Default::default())?;
    let prediction = Prediction::of(&session);
    if json {
        let value = json!({
            "prediction": prediction,
            "clients": session.people.len(),
            "rounds": session.policy.num_rounds,
            "aggregation": session.plan.describe(),
            "data": session.data,
            "truncation": session.truncation,
            "notes": session.notes,
            "off_site": off_site(&session),
        });
        println!("{}", serde_json::to_string(&value).fail(Kind::Internal)?);
        return Ok(());
    }
    print!("{}", text(&session, &prediction));
    Ok(())
}

/// The plan of a run whose model is behind an endpoint. Nothing is sent.
fn remote(loaded: Loaded, quiet: bool, json: bool) -> Result<(), Failure> {
    let draft = Draft::open(loaded, &Progress::new(0, quiet), Default::default())?;
    let (plan, needs) = draft.needs()?;
    if json {
        let value = json!({
            "queries": needs,
            "clients": draft.people.len(),
            "rounds": draft.policy.num_rounds,
            "aggregation": plan.describe(),
            "data": draft.data,
            "truncation": draft.truncation,
            "notes": draft.notes,
        });
        println!("{}", serde_json::to_string(&value).fail(Kind::Internal)?);
        return Ok(());
    }
    print!("{}", remote_text(&draft, &plan, &needs));
    Ok(())
}

fn remote_text(draft: &Draft, plan: &Checked, n: &Needs) -> String {
    let oracle = &draft.file().oracle;
    let rounds = u64::from(draft.policy.num_rounds);
    let endpoint = oracle.endpoint.as_deref().unwrap_or_default();
    let of = |limit: Option<u64>| limit.map_or(String::new(), |l| format!(" of a budget of {}", count(l)));
    let model = match &oracle.model {
        _ if endpoint == EMBEDDED => {
            format!("{}, on a server of the run's own", draft.file().model.base_model)
        }
        Some(model) => format!("{model} at {endpoint}"),
        None => endpoint.to_owned(),
    };
    let dialect = oracle.dialect();
    let spent = |micros: u64| format!("{:.4}", micros as f64 / 1e6);
    let money = match oracle.budget.money {
        Some(limit) => format!("about {} of a budget of {limit}", spent(n.micros)),
        None => format!("about {}", spent(n.micros)),
    };
    let mut rows = vec![
        ("model", format!("{model}, asked as `{}`; nothing has been sent yet", dialect.id())),
        ("search", format!("{} over {} positions", draft.method.need().method, draft.rows)),
        (
            "federation",
            format!("{} clients, {} in each of {rounds} rounds", draft.people.len(), draft.cohort()),
        ),
        ("aggregation", plan.describe().trim().replace('\n', " → ")),
        (
            "queries",
            format!(
                "at most {} examples{}: {} to search, {} to evaluate, {} for random search, {} to probe",
                count(n.examples()),
                of(oracle.budget.examples),
                count(n.search),
                count(n.evaluation),
                count(n.random_search),
                count(n.probe)
            ),
        ),
        ("requests", format!("at most {}{}, failures aside", count(n.calls), of(oracle.budget.calls))),
        (
            "tokens",
            format!(
                "about {} sent{}, {} generated{}",
                count(n.prompt_tokens),
                of(oracle.budget.prompt_tokens),
                count(n.completion_tokens),
                of(oracle.budget.completion_tokens)
            ),
        ),
        ("money", money),
        (
            "time",
            format!(
                "{} at least, by {} requests a second; how fast the endpoint is, is not known before it is asked",
                seconds(n.least_seconds),
                oracle.requests_per_second
            ),
        ),
        ("up", format!("{} a round, exactly", bytes(n.bytes_up_per_round as f64))),
        ("down", format!("{} a round, exactly", bytes(n.bytes_down_per_round as f64))),
    ];
    if oracle.caches() {
        rows.push(("cache", "on: questions that were answered once are not asked again".to_owned()));
    }
    let mut out = String::new();
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<13}{value}");
    }
    out += &partition(&draft.data);
    for note in &draft.notes {
        let _ = writeln!(out, "note         {note}");
    }
    out
}

/// Off-site, who has what; null otherwise.
fn off_site(session: &Session) -> serde_json::Value {
    session.offsite.as_ref().map_or(serde_json::Value::Null, |o| {
        let disclosed = session.disclosed();
        json!({
            "adapter": o.emulator.adapter(),
            "kept": o.emulator.kept(),
            "withheld": o.emulator.withheld(),
            "held": disclosed.held,
            "whole": disclosed.whole,
            "share": disclosed.share(),
            "sent_once": disclosed.sent_once,
            "influence": session.influence(),
            "alignment": o.aligner.as_ref().map(|a| {
                let (changes, bytes) = a.changes(session.policy.num_rounds);
                let price = session.alignment_price().unwrap_or_default();
                json!({
                    "scalars": a.dim(),
                    "public": a.public.train.len(),
                    "held_out": a.public.held_out.len(),
                    "overlap": a.public.overlap,
                    "distill_steps": a.steps().0,
                    "align_steps": a.steps().1,
                    "changes": changes,
                    "bytes_per_change": bytes,
                    "bytes_per_round": price.bytes_per_round,
                    "forwards": price.forwards,
                    "flop": price.flop,
                    "bytes_at_most": u64::from(changes) * bytes * session.people.len() as u64,
                })
            }),
        })
    })
}

/// The plan for people.
pub(super) fn text(session: &Session, p: &Prediction) -> String {
    let file = session.file();
    let rounds = u64::from(session.policy.num_rounds);
    let share = 100.0 * p.trainable as f64 / p.parameters as f64;
    let total = rounds * (p.bytes_up_per_round + p.bytes_down_per_round);
    let payload = 100.0 * p.payload_per_round as f64 / (p.bytes_up_per_round + p.bytes_down_per_round) as f64;
    let steps: Vec<u32> = session.people.iter().map(|c| session.local_steps(c)).collect();
    let (least, most) = (steps.iter().min().unwrap_or(&0), steps.iter().max().unwrap_or(&0));
    let span = if least == most { most.to_string() } else { format!("{least} to {most}") };
    let personal =
        if p.personal > 0 { format!(", {} of them personal", count(p.personal)) } else { String::new() };
    let exactly = if p.told.is_some() { "at most" } else { "exactly" };
    let rows = [
        ("model", format!("{}, {} parameters", file.model.base_model, count(p.parameters))),
        ("trained", format!("{} ({share:.2} %) by {}{personal}", count(p.trainable), session.method.id())),
        ("federation", format!("{} clients, {} in each of {rounds} rounds", session.people.len(), p.cohort)),
        ("aggregation", session.plan.describe().trim().replace('\n', " → ")),
        (
            "local work",
            match (&session.searching, p.queries) {
                (Some(s), Some(queries)) => {
                    let budget = match file.oracle.budget.examples {
                        Some(limit) => format!(" of a budget of {}", count(limit)),
                        None => String::new(),
                    };
                    let access = file.oracle.access;
                    format!(
                        "{} with {access} access, at most {} queries (examples evaluated){budget}",
                        s.id,
                        count(queries)
                    )
                }
                _ => format!("{span} steps of {} sequences", session.tuning.recipe().batch_size()),
            },
        ),
        (
            "up",
            format!(
                "{} a round, {exactly} ({} bytes)",
                bytes(p.bytes_up_per_round as f64),
                count(p.bytes_up_per_round)
            ),
        ),
        (
            "down",
            format!(
                "{} a round, {exactly} ({} bytes)",
                bytes(p.bytes_down_per_round as f64),
                count(p.bytes_down_per_round)
            ),
        ),
        ("in all", format!("{}; {payload:.2} % of it is coordinates", bytes(total as f64))),
        ("activations", format!("{} for a client at work", bytes(p.activation_bytes as f64))),
        ("memory", format!("about {} with {} workers", bytes(p.memory_bytes as f64), session.workers)),
        (
            "work",
            format!(
                "{}FLOP of local training; its steps run at {}FLOP/s here",
                short(p.flop),
                short(p.flops_per_second)
            ),
        ),
        ("time", format!("about {} without evaluation", seconds(p.seconds))),
    ];
    let mut rows = Vec::from(rows);
    if let (Some(t), Some(s)) = (p.told, &session.scalars) {
        let value = format!(
            "{} instead of the vector: a client sends at most {} bytes in a round and is sent at most {}, in envelopes of {} \
             and {} (the whole state, {} bytes, in its first round)",
            s.id,
            count(t.payload_up),
            count(t.payload_down),
            count(t.envelope_up),
            count(t.envelope_down),
            count(4 * s.schema().dim() as u64)
        );
        rows.insert(3, ("scalars", value));
    }
    if let Some(value) = held(session) {
        rows.insert(2, ("clients hold", value));
    }
    if let Some(value) = influence(session) {
        rows.insert(3, ("influence", value));
    }
    if let Some(value) = aligned(session, p) {
        rows.insert(3, ("alignment", value));
    }
    let mut out = String::new();
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<13}{value}");
    }
    out += &partition(&session.data);
    for note in &session.notes {
        let _ = writeln!(out, "note         {note}");
    }
    out
}

/// Off-site, what leaves the owner before the first round; `None` where clients hold the model.
fn held(session: &Session) -> Option<String> {
    let emulator = &session.offsite.as_ref()?.emulator;
    let list = |layers: &[usize]| layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let disclosed = session.disclosed();
    let dtype = session.file().emulator.as_ref().and_then(|e| e.dtype);
    Some(format!(
        "layers {}, embeddings and head: {} scalars, {:.1} % as many as the model has, {} to each client once{} and not \
         below; they train layers {}; layers {} stay with the owner",
        list(emulator.kept()),
        count(disclosed.held),
        100.0 * disclosed.share(),
        bytes(disclosed.sent_once as f64),
        dtype.map_or_else(String::new, |d| format!(" (the frozen layers' maps in {})", d.code())),
        list(emulator.adapter()),
        if emulator.withheld().is_empty() { "none".to_owned() } else { list(&emulator.withheld()) }
    ))
}

/// What each layer does, where that decides which of the middle clients hold.
fn influence(session: &Session) -> Option<String> {
    let (scores, offsite) = (session.influence()?, session.offsite.as_ref()?);
    let emulator = &offsite.emulator;
    let between = |l: &usize| emulator.adapter().binary_search(l).is_err();
    let each = |l: usize| format!("layer {l} {:.3}", scores[l]);
    let list: Vec<String> = (0..scores.len()).filter(between).map(each).collect();
    Some(format!(
        "measured at the start on the public data that the owner trains on: {}; the least of them stay with the owner",
        list.join(", ")
    ))
}

/// How the owner brings the emulator nearer to the model, and what that sends; `None` where it does not.
fn aligned(session: &Session, p: &Prediction) -> Option<String> {
    let price = session.alignment_price()?;
    let aligner = session.offsite.as_ref()?.aligner.as_ref()?;
    let (changes, each) = aligner.changes(session.policy.num_rounds);
    let (distill, align) = aligner.steps();
    let mut parts = Vec::new();
    if distill > 0 {
        parts.push(format!("{distill} steps before the first round"));
    }
    if changes > 0 {
        parts.push(format!(
            "{changes} times {align} steps between rounds, after each {} to each client and at least {} a round, not below",
            bytes(each as f64),
            bytes(price.bytes_per_round as f64)
        ));
    }
    Some(format!(
        "{} scalars of the middle on {} public sequences ({} more to measure on), {}; {} sequences forward through both models, \
         about {} that are not in the time below",
        count(aligner.dim() as u64),
        count(aligner.public.train.len() as u64),
        count(aligner.public.held_out.len() as u64),
        if parts.is_empty() { "never".to_owned() } else { parts.join(", ") },
        count(price.forwards),
        seconds(price.flop / p.flops_per_second)
    ))
}

/// Who holds how much.
fn partition(data: &DataReport) -> String {
    let mut out = format!("partition    {}\n", data.partitioner);
    let largest = data.clients.iter().map(|c| c.train).max().unwrap_or(0);
    let smallest = data.clients.iter().map(|c| c.train).min().unwrap_or(0);
    let _ = writeln!(out, "             {smallest} to {largest} training examples a client");
    for (name, value) in &data.divergence {
        let _ = writeln!(out, "             {name} {value:.3}");
    }
    let width = data.clients.iter().take(LISTED).map(|c| c.name.chars().count()).max().unwrap_or(0);
    for c in data.clients.iter().take(LISTED) {
        let _ = writeln!(
            out,
            "  {:>9}  {:<width$}  train {:>6}  validation {:>5}  test {:>5}",
            c.client.0, c.name, c.train, c.validation, c.test
        );
    }
    if data.clients.len() > LISTED {
        let _ = writeln!(out, "             and {} more", data.clients.len() - LISTED);
    }
    out
}
