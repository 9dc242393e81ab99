//! After the last round: the test, the lines beside it, the prompt that was found, summary and report.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use antiphon_core::{Purpose, Stream};
use antiphon_oracle::OracleError;
use antiphon_oracle::TextOracle as _;
use antiphon_oracle::search::{Lucky, PromptOf, SearchError, random_search};
use antiphon_oracle::task::Question;
use antiphon_report::{
    Baseline as Line, Baselines, Comparison, Queries, RoundRecord, RunFacts, Summary, Traffic, Waypoint,
};
use antiphon_store::RunDir;
use serde_json::json;

use super::{Needs, Remote};
use crate::args::Part;
use crate::error::{Fail, Failure, Kind, oracle};
use crate::progress::Progress;
use crate::runfile::{Baseline, Select};
use crate::session::{
    Course, Finished, Outcome, Past, Trial as _, asked, best_waypoint, calibrated, conclude, digest, inline,
    publish_with, shown,
};

/// Kernels of nobody here.
const ELSEWHERE: &str = "none: the model computes at the endpoint";

pub(super) fn finish(
    run: &Remote,
    dir: &mut RunDir,
    outcome: &Outcome,
    course: Course<'_>,
    progress: &Progress,
) -> Result<Finished, Failure> {
    progress.stage("testing the prompt that was found");
    let prompt = run.search.prompt(&outcome.theta).fail(Kind::Federation)?;
    let federated = run.test(&prompt)?;
    let calibrated = match run.draft.file().eval.calibrate {
        Some(penalty) => {
            let validation = run.heard(&prompt, Part::Validation)?;
            calibrated(penalty, &validation, &run.heard(&prompt, Part::Test)?)
        }
        None => None,
    };
    let past = Past::of(dir, course)?;
    let mut baselines = Baselines::default();
    let file = run.draft.file();
    if file.eval.baselines.contains(&Baseline::ZeroShot) {
        progress.stage("baseline: the model without a prompt");
        let begun = Instant::now();
        let eval = run.test(&PromptOf::Tokens(Vec::new()))?;
        let seconds = Some(begun.elapsed().as_secs_f64());
        baselines.zero_shot =
            Some(Line { eval, steps: None, examples_seen: None, seconds, curve: Vec::new() });
    }
    if file.eval.random_search {
        progress.stage("baseline: random search with as many queries");
        baselines.random_search = Some(luck(run, &past.rounds)?);
    }
    progress.stage("writing the prompt and the report");
    publish_with(dir, |path| write(run, path, &prompt))?;
    let summary = Summary {
        federated: (federated.global.examples > 0).then_some(federated),
        baselines,
        calibrated,
        predicted: compare(run, &past.rounds),
        queries: Some(queries(run)),
        data: Some(run.draft.data.clone()),
        truncation: Some(run.draft.truncation),
        digest: Some(digest(&outcome.theta)),
        output: Some("latest".to_owned()),
        ..past.summary(facts(run, outcome, course.resumed_at))
    };
    conclude(dir, summary, &past.rounds)
}

/// What `antiphon plan` says beside what was measured.
fn compare(run: &Remote, rounds: &[RoundRecord]) -> Vec<Comparison> {
    let (needs, spent) = (&run.needs, run.spent().unwrap_or_default());
    // the first round also carries everybody's request to join
    let later: Vec<_> = rounds.iter().skip(1).filter_map(|r| r.traffic).collect();
    let mean = |pick: fn(&Traffic) -> u64| {
        (!later.is_empty()).then(|| later.iter().map(pick).sum::<u64>() as f64 / later.len() as f64)
    };
    let row = |quantity: &str, unit: &str, predicted: u64, measured: Option<f64>, exact: bool| {
        let (quantity, unit) = (quantity.to_owned(), unit.to_owned());
        Comparison { quantity, unit, predicted: predicted as f64, measured, exact }
    };
    let some = |n: u64| Some(n as f64);
    vec![
        row("bytes up per round", "bytes", needs.bytes_up_per_round, mean(|t| t.up), true),
        row("bytes down per round", "bytes", needs.bytes_down_per_round, mean(|t| t.down), true),
        row("examples asked, at most", "", needs.examples(), some(spent.examples), false),
        row("requests, at most", "", needs.calls, some(spent.calls), false),
        row("tokens sent", "", needs.prompt_tokens, some(spent.prompt_tokens), false),
    ]
}

/// What was asked, by the ledger.
fn queries(run: &Remote) -> Queries {
    let id = &run.oracle.facts().identity;
    Queries {
        oracle: format!("{} {}", id.provider, id.model),
        access: run.granted.id().to_owned(),
        budget: run.draft.file().oracle.budget.examples,
        noise_floor: run.found.noise_floor,
        step_effect: run.effect,
        searched: Some(run.plan.schema().dim() as u64),
        ..asked(run.spent().unwrap_or_default())
    }
}

/// Random search with as many queries as the rounds have asked, cached ones included.
fn luck(run: &Remote, rounds: &[RoundRecord]) -> Result<Line, Failure> {
    let begun = Instant::now();
    let all: Vec<Question> =
        run.draft.questions(Part::Train).values().flat_map(|q| q.iter().cloned()).collect();
    let asked: u64 = rounds.iter().filter_map(|r| r.spent).map(|s| s.queries()).sum();
    let candidates = (asked / all.len().max(1) as u64).max(1);
    let seed = run.draft.file().run.seed;
    let mut stream = Stream::keyed(seed, Purpose::Search, None, None, "random search");
    let grant = run.purse.get().ok_or_else(|| Failure::new(Kind::Internal, "no ledger"))?;
    let better = random_search(&*run.search, grant, &all, candidates, &mut stream, run.draft.workers);
    let better = better.map_err(|e| match e {
        SearchError::Oracle(OracleError::Interrupted) => Failure::new(Kind::Interrupted, "stopped"),
        SearchError::Oracle(e) => oracle(&e, Kind::Oracle),
        e => Failure::new(Kind::Oracle, e),
    })?;
    let prompt = |l: &Lucky| run.search.prompt(&l.state).fail(Kind::Internal);
    let validates = run.draft.validates();
    let last = better.len().saturating_sub(if validates { Needs::WAYPOINTS } else { 0 });
    let waypoint = |l: &Lucky| {
        Ok(Waypoint { forwards: l.asked, eval: run.evaluate_prompt(&prompt(l)?, Part::Validation)? })
    };
    let seen = if validates { &better[last..] } else { &[] };
    let curve = seen.iter().map(waypoint).collect::<Result<Vec<Waypoint>, Failure>>()?;
    let selects = run.draft.file().eval.select == Select::Best;
    let best = if selects { best_waypoint(run.draft.file(), &curve).map(|i| &seen[i]) } else { None };
    let best = best.or(better.last()).ok_or_else(|| Failure::new(Kind::Internal, "no candidate"))?;
    Ok(Line {
        eval: run.test(&prompt(best)?)?,
        steps: Some(candidates),
        examples_seen: Some(candidates * all.len() as u64),
        seconds: Some(begun.elapsed().as_secs_f64()),
        curve,
    })
}

/// `prompt.json`: what to put before every question.
fn write(run: &Remote, path: &Path, prompt: &PromptOf) -> Result<(), Failure> {
    let found = match prompt {
        PromptOf::Tokens(ids) => json!({
            "kind": "tokens",
            "ids": ids,
            "text": run.draft.tokens.0.decode(ids, true).unwrap_or_default(),
        }),
        PromptOf::Soft(soft) => json!({
            "kind": "soft",
            "rows": soft.rows(),
            "width": soft.width(),
            "values": soft.values(),
        }),
    };
    let whole = json!({ "model": run.found.answers_as, "before": "every question", "prompt": found });
    let text = serde_json::to_string_pretty(&whole).fail(Kind::Internal)?;
    let file = path.join("prompt.json");
    std::fs::create_dir_all(path).fail_at(Kind::Storage, path.display())?;
    std::fs::write(&file, text + "\n").fail_at(Kind::Storage, file.display())
}

fn facts(run: &Remote, outcome: &Outcome, resumed_at: &[u64]) -> RunFacts {
    let draft = &run.draft;
    let file = draft.file();
    RunFacts {
        name: file.run.name.clone(),
        base_model: format!("{} at {}", run.found.answers_as, run.oracle.facts().identity.provider),
        data: shown(file),
        method: format!("prompt by {}", draft.method.need().method),
        objective: "sft".to_owned(),
        federation: format!(
            "{}, server {}",
            run.plan.describe().trim().replace('\n', " → "),
            match run.search.server() {
                Some((_, step)) => step.describe(),
                None => inline(&file.server),
            }
        ),
        clients: draft.people.len() as u64,
        cohort: draft.cohort() as u64,
        rounds: u64::from(draft.policy.num_rounds),
        rounds_done: u64::from(outcome.rounds_done),
        chosen: outcome.chosen,
        local_steps: None,
        trainable: run.plan.schema().dim() as u64,
        parameters: None,
        seed: file.run.seed,
        threads: draft.workers as u64,
        kernel_profile: ELSEWHERE.to_owned(),
        versions: BTreeMap::from([("antiphon".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        resumed_at: resumed_at.to_vec(),
    }
}
