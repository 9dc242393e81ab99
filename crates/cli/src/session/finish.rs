//! After the last round: test, baselines, the model that others load, summary and report.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use antiphon_model::adapter;
use antiphon_model::export::{Precision, copy_companions, write_model};
use antiphon_oracle::Usage;
use antiphon_report::doctor::{self, Finding};
use antiphon_report::html::{self, Report};
use antiphon_report::{
    Baselines, Calibrated, Queries, RoundRecord, RunFacts, SUMMARY_SCHEMA, Summary, Traffic,
};
use antiphon_store::{Event, Layout, RunDir, StoreError, read_rounds};

use super::calibration::calibrated;
use super::{Course, Outcome, Session, baselines, clients, digest, offsite, unix_ms};
use crate::args::Part;
use crate::error::{Fail, Failure, Kind, store};
use crate::machine;
use crate::prediction::Prediction;
use crate::progress::Progress;

/// What is shown when a run has ended.
pub(crate) struct Finished {
    pub(crate) summary: Summary,
    pub(crate) findings: Vec<Finding>,
}

/// Writes everything a finished run leaves.
pub(super) fn finish(
    session: &Session,
    dir: &mut RunDir,
    outcome: &Outcome,
    course: Course<'_>,
    progress: &Progress,
) -> Result<Finished, Failure> {
    progress.stage("testing the federated model");
    let federated = session.evaluate(&outcome.theta, Part::Test)?;
    let off_site = offsite::numbers(session, dir, outcome, &federated, progress)?;
    let past = Past::of(dir, course)?;
    let baselines = baselines::run(session, &past.rounds, outcome.rounds_done, progress)?;

    progress.stage("writing the model and the report");
    publish(session, dir, &outcome.theta)?;
    let file = session.file();
    let summary = Summary {
        federated: (federated.global.examples > 0).then_some(federated),
        baselines,
        off_site,
        queries: session.searching.as_ref().map(|s| Queries {
            oracle: s.provider(),
            access: file.oracle.access.id().to_owned(),
            budget: file.oracle.budget.examples,
            noise_floor: Some(0.0),
            searched: Some(session.plan.schema().dim() as u64),
            ..asked(s.spent())
        }),
        calibrated: calibrate(session, &outcome.theta)?,
        predicted: session.predicted.get_or_init(|| Prediction::of(session)).compare(session, &past.rounds),
        data: Some(session.data.clone()),
        truncation: Some(session.truncation),
        digest: Some(digest(&outcome.theta)),
        weights: session.scalars.as_ref().map(|s| s.whole(&outcome.theta)).transpose()?.map(|w| digest(&w)),
        output: Some("latest".to_owned()),
        ..past.summary(facts(session, outcome, course.resumed_at))
    };
    conclude(dir, summary, &past.rounds)
}

/// Label scores as each client calibrates them, if asked for. Evaluation in this process is nobody's query.
fn calibrate(session: &Session, state: &[f32]) -> Result<Option<Calibrated>, Failure> {
    let (Some(penalty), Some(search)) = (session.file().eval.calibrate, &session.searching) else {
        return Ok(None);
    };
    let validation = search.heard(session, state, Part::Validation)?;
    Ok(calibrated(penalty, &validation, &search.heard(session, state, Part::Test)?))
}

/// What a ledger says, in the summary's words.
pub(crate) fn asked(u: Usage) -> Queries {
    Queries {
        examples: u.examples,
        calls: u.calls,
        prompt_tokens: u.prompt_tokens,
        completion_tokens: u.completion_tokens,
        cache_hits: u.cache_hits,
        retries: u.retries,
        cost_micros: u.micros,
        ..Queries::default()
    }
}

/// The rounds of a run as they were recorded, and how long it has taken.
pub(crate) struct Past {
    pub(crate) rounds: Vec<RoundRecord>,
    /// Seconds of the processes before this one, which began then.
    earlier: f64,
    begun: Instant,
}

impl Past {
    pub(crate) fn of(dir: &RunDir, course: Course<'_>) -> Result<Self, Failure> {
        let rounds: Vec<RoundRecord> =
            read_rounds(&dir.layout().metrics(), dir.next_round()).map_err(|e| store(&e))?;
        // rounds done before a resume were timed by the process that did them
        let before = course.resumed_at.last().map_or(0, |r| *r as usize);
        let earlier = rounds
            .iter()
            .take(before)
            .map(|r| r.wall_seconds.unwrap_or(0.0) + r.eval_seconds.unwrap_or(0.0))
            .sum();
        Ok(Self { rounds, earlier, begun: course.begun })
    }

    /// A summary of what every run has.
    pub(crate) fn summary(&self, run: RunFacts) -> Summary {
        let mut traffic = Traffic::default();
        self.rounds.iter().filter_map(|r| r.traffic).for_each(|t| traffic += t);
        Summary {
            schema: SUMMARY_SCHEMA,
            run,
            federated: None,
            baselines: Baselines::default(),
            off_site: None,
            queries: None,
            calibrated: None,
            traffic,
            wall_seconds: self.earlier + self.begun.elapsed().as_secs_f64(),
            peak_rss_bytes: Some(machine::peak_rss_bytes()).filter(|&b| b > 0),
            predicted: Vec::new(),
            data: None,
            truncation: None,
            digest: None,
            weights: None,
            output: None,
        }
    }
}

/// Writes the summary and the report.
pub(crate) fn conclude(
    dir: &mut RunDir,
    summary: Summary,
    rounds: &[RoundRecord],
) -> Result<Finished, Failure> {
    let findings = doctor::examine(&doctor::Run { summary: Some(&summary), rounds });
    dir.write_summary(&summary).fail(Kind::Storage)?;
    let page =
        html::page(&Report { summary: &summary, rounds, findings: &findings, run_toml: dir.run_toml() });
    dir.write_report(&page).fail(Kind::Storage)?;
    dir.commit().fail(Kind::Storage)?;
    Ok(Finished { summary, findings })
}

/// The summary that [`conclude`] wrote.
pub(crate) fn summary(layout: &Layout) -> Result<Summary, Failure> {
    let path = layout.summary();
    let text = std::fs::read_to_string(&path).fail_at(Kind::Storage, path.display())?;
    serde_json::from_str(&text).fail_at(Kind::RunDir, path.display())
}

/// A failure inside [`RunDir::publish`].
struct Publish(Failure);

impl From<StoreError> for Publish {
    fn from(e: StoreError) -> Self {
        Self(Err::<(), _>(e).fail(Kind::Storage).err().unwrap_or_else(|| Failure::new(Kind::Storage, "")))
    }
}

/// Replaces `latest/` by the model that `theta` makes.
pub(crate) fn publish(session: &Session, dir: &mut RunDir, theta: &[f32]) -> Result<(), Failure> {
    publish_with(dir, |path| write_latest(session, path, theta))
}

/// Replaces `latest/` by what `write` puts into the folder that it is given.
pub(crate) fn publish_with(
    dir: &mut RunDir,
    write: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    dir.publish(unix_ms(), |path| write(path).map_err(Publish)).map_err(|p| p.0)
}

/// The adapter, or the whole model of full tuning, into `path`.
pub(crate) fn write_latest(session: &Session, path: &Path, theta: &[f32]) -> Result<(), Failure> {
    // a personal head is nobody's to publish: the first values stand there
    let meant = session.meant(theta)?;
    let theta = &*meant;
    let whole = match &session.personal {
        Some(p) => [theta, &session.theta[p.shared().dim()..]].concat(),
        None => theta.to_vec(),
    };
    // off-site, the adapter as it stands in the whole model
    let net = session.owner().net();
    let wiring = net.wiring();
    if wiring.live.is_empty() {
        adapter::write(path, session.base.spec(), wiring, &whole, &session.about(), None)
            .fail(Kind::Storage)?;
        copy_companions(session.base.dir(), path, session.tokens.0.template()).fail(Kind::Storage)
    } else {
        write_model(path, &session.base, wiring, &whole, &session.about(), Precision::F32).fail(Kind::Storage)
    }
}

fn facts(session: &Session, outcome: &Outcome, resumed_at: &[u64]) -> RunFacts {
    let file = session.file();
    let id = |t: &toml::Table| t.get("id").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    RunFacts {
        name: file.run.name.clone(),
        base_model: file.model.base_model.clone(),
        data: clients::shown(file),
        method: match (&session.searching, &session.scalars) {
            (Some(s), _) => format!("{} by {}", session.method.id(), s.id),
            (None, Some(s)) => format!("{}, scalars of {}", session.method.id(), s.id),
            (None, None) => session.method.id().to_owned(),
        },
        objective: id(&file.objective),
        federation: format!(
            "{}, server {}",
            session.plan.describe().trim().replace('\n', " → "),
            match session.searching {
                Some(_) => session.server_step().map(|s| s.describe()).unwrap_or_default(),
                None => clients::inline(&file.server),
            }
        ),
        clients: session.people.len() as u64,
        cohort: session.policy.cohort_size(session.people.len()) as u64,
        rounds: u64::from(session.policy.num_rounds),
        rounds_done: u64::from(outcome.rounds_done),
        chosen: outcome.chosen,
        local_steps: match session.searching {
            Some(_) => None,
            None => session.people.iter().map(|p| u64::from(session.local_steps(p))).max(),
        },
        trainable: session.changed(),
        parameters: Some(machine::parameters(session.base.spec(), session.task)),
        seed: file.run.seed,
        threads: session.workers as u64,
        kernel_profile: session.profile(),
        versions: BTreeMap::from([("antiphon".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        resumed_at: resumed_at.to_vec(),
    }
}

/// Rounds at which a run was taken up again, from its event log.
pub(crate) fn resumed_at(events: &[Event]) -> Vec<u64> {
    let resumed = events.iter().filter(|e| matches!(e.kind.as_str(), "resumed" | "rewound"));
    resumed.filter_map(|e| e.round).map(|r| u64::from(r.0)).collect()
}
