//! The five numbers of off-site tuning, and the federation on the whole model that the last of them needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_algo::{LocalWork, WorkError};
use antiphon_core::{ClientId, Millis};
use antiphon_kernels::Cpu;
use antiphon_protocol::Record;
use antiphon_report::{Evaluation, OffSite as Numbers};
use antiphon_sim::{Config, Silent, Simulation, Start as Begin, WallClock, Workforce};
use antiphon_tune::method::{self, Start};
use antiphon_tune::{Client, Tuning};

use super::beside;
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::progress::Progress;
use crate::session::{Blame, Outcome, Person, Session, execute};

/// Every client of the fully tuned federation.
struct Everyone(BTreeMap<ClientId, Client<Cpu>>);

impl Workforce for Everyone {
    fn hire(&self, client: ClientId, _worker: usize) -> Result<Box<dyn LocalWork + '_>, WorkError> {
        self.0.get(&client).map(|c| Box::new(c) as Box<dyn LocalWork + '_>).ok_or(WorkError::NoData)
    }
}

/// The five numbers of a finished run; `None` where there is no emulator. `plugged_in` was measured already.
pub(crate) fn numbers(
    session: &Session,
    outcome: &Outcome,
    plugged_in: &Evaluation,
    progress: &Progress,
) -> Result<Option<Numbers>, Failure> {
    let (Some(offsite), Some(settings)) = (&session.offsite, &session.file().emulator) else {
        return Ok(None);
    };
    let emulator = &offsite.emulator;
    progress.stage("testing the emulator");
    let on = |tuning: &Tuning<Cpu>, theta: &[f32]| session.evaluate_on(tuning, theta, Part::Test);
    let zero_shot = on(&offsite.owner, &session.theta)?;
    // an emulator that was trained since is no longer what clients began with
    let emulator_zero_shot = match &offsite.aligner {
        Some(aligner) => aligner.zero_shot(),
        None => on(&session.tuning, &session.theta)?.global,
    };
    let emulator_tuned = on(&session.tuning, &outcome.theta)?;
    progress.stage("tuning the whole model for comparison");
    let full = full(session, &offsite.owner)?;
    let indices = |list: &[usize]| list.iter().map(|&l| l as u64).collect();
    let disclosed = session.disclosed();
    Ok(Some(Numbers {
        rule: settings.rule.get("id").and_then(toml::Value::as_str).unwrap_or_default().to_owned(),
        drop_rate: settings.drop_rate,
        layers: session.base.spec().layers as u64,
        adapter: indices(emulator.adapter()),
        kept: indices(emulator.kept()),
        held: disclosed.held,
        whole: disclosed.whole,
        sent_once: disclosed.sent_once,
        sent_changes: offsite.aligner.as_ref().map_or(0, |a| a.sent()),
        aligned: session.aligned(&outcome.theta)?,
        zero_shot: zero_shot.global,
        emulator_zero_shot,
        emulator_tuned: emulator_tuned.global,
        plugged_in: plugged_in.global.clone(),
        full: full.global,
    }))
}

/// The same federation with every client holding the whole model and the method on all of its layers: what off-site tuning
/// gives up. In memory; nothing of it is kept but its score.
fn full(session: &Session, owner: &Tuning<Cpu>) -> Result<Evaluation, Failure> {
    let (file, base) = (session.file(), &session.base);
    let method = method::build(&file.method).blame(&session.loaded, "method")?;
    let wiring = Arc::new(method.wire(base.spec(), session.task).blame(&session.loaded, "method")?);
    let encode = |text: &str| session.tokens.plain(text);
    let start =
        Start { spec: base.spec(), base: base.source(), tokenize: Some(&encode), seed: file.run.seed };
    let theta = method.init(&wiring, &start).blame(&session.loaded, "method")?;
    let aggregation = file.aggregation.plan().blame(&session.loaded, "aggregation")?;
    let plan = aggregation.check(&wiring.schema).blame(&session.loaded, "aggregation")?;
    let longest = session.tuning.net().limits().max_len;
    // the owner's model is in memory already; nothing of it is written
    let whole = (Arc::new(Cpu::serial()), Arc::clone(owner.net().weights()));
    let tuning = Arc::new(beside(&session.loaded, whole, &session.tuning, wiring, longest)?);
    let client = |p: &Person| {
        Client::new(Arc::clone(&tuning), p.id, Arc::clone(&p.train.sequences), p.train.examples)
            .fail_at(Kind::Data, format_args!("`{}`", p.name))
            .map(|c| (p.id, c))
    };
    let everyone = Everyone(session.people.iter().map(client).collect::<Result<_, _>>()?);
    let clock = WallClock::starting_at(Millis(0));
    let mut simulation = Simulation {
        config: Config {
            plan,
            policy: session.policy.clone(),
            roster: session.people.iter().map(|p| p.id).collect(),
            seed: file.run.seed,
            workers: session.workers,
            call_attempts: 1,
            restarts: 0,
            keep_updates: false,
        },
        server: antiphon_algo::server_step(&file.server).fail(Kind::Settings)?,
        noise: None,
        clock: &clock,
        faults: None,
    };
    let mut log: Vec<Record> = Vec::new();
    let end = simulation
        .run(Begin::fresh(theta), &everyone, &mut Silent, &mut log, &session.stop)
        .map_err(|e| execute::failure(&e))?;
    if end.next.0 < session.policy.num_rounds {
        return Err(if end.ending.is_none() {
            Failure::new(Kind::Interrupted, "stopped")
        } else {
            Failure::new(Kind::Federation, "the fully tuned model for comparison lost too many clients")
        });
    }
    session.evaluate_on(&tuning, &end.theta, Part::Test)
}
