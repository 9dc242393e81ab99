//! The federation that off-site tuning is compared with: every client holds the whole model, and the method is on all of its
//! layers.
//!
//! It takes as long as the run itself or longer, so it is a run of its own in the folder `full` of the run, with a checkpoint
//! after each round, and goes on where it was stopped. When its score is known the checkpoints go.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use antiphon_algo::{LocalWork, WorkError};
use antiphon_core::{ClientId, Millis};
use antiphon_kernels::Cpu;
use antiphon_protocol::Record;
use antiphon_report::Evaluation;
use antiphon_sim::{Config, Observer, RoundClosed, Simulation, Start as Begin, WallClock, Workforce};
use antiphon_store::{Checkpoint, RunDir, Settings, StoreError};
use antiphon_tune::method::{self, Start};
use antiphon_tune::{Client, Tuning};
use serde_json::json;

use super::beside;
use crate::args::Part;
use crate::error::{Fail, Failure, Kind, store};
use crate::progress::Progress;
use crate::session::{Blame, ClientState, Person, Session, execute, unix_ms};

/// Its folder in the run's.
const FOLDER: &str = "full";

/// Every client of the federation.
struct Everyone(BTreeMap<ClientId, Client<Cpu>>);

impl Workforce for Everyone {
    fn hire(&self, client: ClientId, _worker: usize) -> Result<Box<dyn LocalWork + '_>, WorkError> {
        self.0.get(&client).map(|c| Box::new(c) as Box<dyn LocalWork + '_>).ok_or(WorkError::NoData)
    }
}

/// Writes a checkpoint after each round.
struct Keeper<'a> {
    dir: RunDir,
    everyone: &'a Everyone,
    progress: &'a Progress,
}

impl Observer for Keeper<'_> {
    fn round_closed(&mut self, closed: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let counted: BTreeSet<ClientId> = closed.contributions.iter().map(|c| c.client).collect();
        for (id, client) in &self.everyone.0 {
            if !counted.contains(id) {
                client.forget(closed.round);
            } else if let Some(optimizer) = client.state() {
                let state = ClientState { optimizer: Some(optimizer), ..ClientState::default() };
                self.dir.set_client_state(*id, &state.encode())?;
            }
        }
        let server = closed.server.state();
        let checkpoint = Checkpoint {
            theta: closed.theta,
            server: server.iter().map(|(name, v)| (name.as_str(), v.as_slice())).collect(),
            slots: Vec::new(),
        };
        self.dir.close_round(unix_ms(), closed.round, &checkpoint, &json!({ "round": closed.round }))?;
        self.progress.stage(&format!("tuning the whole model for comparison: round {}", closed.round.0 + 1));
        Ok(())
    }
}

/// The federation's score on test data; measured once for a run.
pub(super) fn full(
    session: &Session,
    owner: &Tuning<Cpu>,
    run: &Path,
    progress: &Progress,
) -> Result<Evaluation, Failure> {
    let place = run.join(FOLDER);
    let layout = antiphon_store::Layout::new(&place);
    if let Ok(text) = std::fs::read(layout.summary()) {
        return serde_json::from_slice(&text).fail_at(Kind::RunDir, layout.summary().display());
    }
    let (file, base) = (session.file(), &session.base);
    let method = method::build(&file.method).blame(&session.loaded, "method")?;
    let wiring = Arc::new(method.wire(base.spec(), session.task).blame(&session.loaded, "method")?);
    let aggregation = file.aggregation.plan().blame(&session.loaded, "aggregation")?;
    let plan = aggregation.check(&wiring.schema).blame(&session.loaded, "aggregation")?;
    let longest = session.tuning.net().limits().max_len;
    // the owner's model is in memory already
    let whole = (Arc::new(Cpu::serial()), Arc::clone(owner.net().weights()));
    let tuning = Arc::new(beside(&session.loaded, whole, &session.tuning, Arc::clone(&wiring), longest)?);
    let client = |p: &Person| {
        Client::new(Arc::clone(&tuning), p.id, Arc::clone(&p.train.sequences), p.train.examples)
            .fail_at(Kind::Data, format_args!("`{}`", p.name))
            .map(|c| (p.id, c))
    };
    let everyone = Everyone(session.people.iter().map(client).collect::<Result<_, _>>()?);
    let encode = |text: &str| session.tokens.plain(text);
    let start =
        Start { spec: base.spec(), base: base.source(), tokenize: Some(&encode), seed: file.run.seed };
    let first = || method.init(&wiring, &start).blame(&session.loaded, "method");
    let (dir, begin) = take_up(session, &place, &everyone, first)?;

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
    let mut keeper = Keeper { dir, everyone: &everyone, progress };
    let end = simulation
        .run(begin, &everyone, &mut keeper, &mut log, &session.stop)
        .map_err(|e| execute::failure(&e))?;
    if end.next.0 < session.policy.num_rounds {
        return Err(if end.ending.is_none() {
            Failure::new(Kind::Interrupted, "stopped")
        } else {
            Failure::new(Kind::Federation, "the fully tuned model for comparison lost too many clients")
        });
    }
    let score = session.evaluate_on(&tuning, &end.theta, Part::Test)?;
    keeper.dir.write_summary(&score).map_err(|e| store(&e))?;
    drop(keeper);
    // nobody asks for the model; a failure to remove it costs space alone
    for spent in ["blobs", "rounds"].map(|name| place.join(name)) {
        let _ = std::fs::remove_dir_all(spent);
    }
    Ok(score)
}

/// Its folder, and where its rounds begin: anew, or after the last one closed.
fn take_up(
    session: &Session,
    place: &Path,
    everyone: &Everyone,
    first: impl FnOnce() -> Result<Vec<f32>, Failure>,
) -> Result<(RunDir, Begin), Failure> {
    let settings =
        Settings { durable: session.file().run.durable, keep_last: NonZeroU32::MIN, keep_every: None };
    match RunDir::resume(place, unix_ms()) {
        Err(StoreError::NoRun { .. }) => {
            let resolved = session.loaded.resolved()?;
            let dir =
                RunDir::create(place, &resolved, &json!({}), settings, unix_ms()).map_err(|e| store(&e))?;
            Ok((dir, Begin::fresh(first()?)))
        }
        Err(e) => Err(store(&e)),
        Ok((mut dir, from)) => {
            dir.commit().map_err(|e| store(&e))?;
            let Some(checkpoint) = from.checkpoint else { return Ok((dir, Begin::fresh(first()?))) };
            for id in checkpoint.clients {
                let bytes = dir.client_state(id).fail(Kind::RunDir)?;
                let state = bytes.and_then(|b| ClientState::decode(&b)).and_then(|s| s.optimizer);
                if let (Some((round, bytes)), Some(client)) = (state, everyone.0.get(&id)) {
                    client.restore(round, &bytes).fail(Kind::RunDir)?;
                }
            }
            let (round, server) = (from.next, checkpoint.server.into_iter().collect());
            Ok((dir, Begin { round, theta: checkpoint.theta, server, ..Begin::fresh(Vec::new()) }))
        }
    }
}
