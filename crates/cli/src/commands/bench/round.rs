//! `antiphon bench round`: what a round costs beside local work: messages, checks, sum, server step, checkpoint.
//!
//! Clients answer with a vector made beforehand. Everything else is what `antiphon run` does, the run directory included.

use std::error::Error;
use std::io::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use antiphon_algo::{AggregationSettings, Local, LocalWork, WorkError, server_step};
use antiphon_core::schema::TensorSpec;
use antiphon_core::{ClientId, Millis, Purpose, Round, Schema, Stream, Weight};
use antiphon_protocol::Policy;
use antiphon_sim::{Config, Observer, RoundClosed, RoundStarted, Simulation, Start, WallClock};
use antiphon_store::{Checkpoint, RunDir, Settings};
use serde::Serialize;
use serde_json::json;

use crate::args::BenchRound;
use crate::error::{Fail, Failure, Kind};
use crate::machine;
use crate::session::{Events, Shared, unix_ms};

/// Passes over a round's updates to learn the disk's rate; the median counts.
const SYNC_PASSES: usize = 3;

/// What is printed.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    clients: usize,
    scalars: usize,
    workers: usize,
    durable: bool,
    rounds: usize,
    /// From the first question of a round to its committed checkpoint.
    median_ms: f64,
    best_ms: f64,
    worst_ms: f64,
    /// Of the median, what the checkpoint took.
    median_checkpoint_ms: f64,
    /// Both ways, one round, on the wire.
    bytes_per_round: u64,
    /// `bytes_per_round` over the median.
    megabytes_per_s: f64,
    /// With `--durable`: what writing and syncing one round's updates takes by itself, a file each, measured before
    /// the rounds in the same folder. No durable round can cost less.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_floor_ms: Option<f64>,
    rss_mb: f64,
}

/// A client whose update is known.
struct Known(Arc<Vec<f32>>);

impl LocalWork for Known {
    fn run(&mut self, _start: &[f32], _round: Round) -> Result<Local, WorkError> {
        Ok(Local { delta: self.0.to_vec(), weight: Weight::ONE, metrics: Default::default() })
    }
}

/// Closes rounds as a run does, and times them.
struct Timer<'a> {
    dir: &'a Shared,
    begun: Instant,
    rounds: Vec<f64>,
    checkpoints: Vec<f64>,
    bytes: u64,
}

impl Observer for Timer<'_> {
    fn round_started(&mut self, _: &RoundStarted<'_>) {
        self.begun = Instant::now();
    }

    fn round_closed(&mut self, closed: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let begun = Instant::now();
        let server = closed.server.state();
        let checkpoint = Checkpoint {
            theta: closed.theta,
            server: server.iter().map(|(name, v)| (name.as_str(), v.as_slice())).collect(),
            slots: Vec::new(),
        };
        let mut dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        dir.close_round(unix_ms(), closed.round, &checkpoint, &json!({ "round": closed.round }))?;
        self.checkpoints.push(begun.elapsed().as_secs_f64());
        self.rounds.push(self.begun.elapsed().as_secs_f64());
        self.bytes = closed.traffic.up.total() + closed.traffic.down.total();
        Ok(())
    }
}

pub(super) fn run(a: &BenchRound) -> Result<Report, Failure> {
    let scalars = (a.megabytes * 1e6 / 4.0).round();
    if a.clients == 0 || a.rounds == 0 || !(1.0..=1e10).contains(&scalars) {
        return Err(Failure::new(
            Kind::Usage,
            "clients and rounds must be above 0, and megabytes between 0.000004 and 40000",
        ));
    }
    let scalars = scalars as usize;
    let root = a.dir.clone().unwrap_or_else(std::env::temp_dir);
    let path = root.join(format!("antiphon-bench-round-{}", std::process::id()));
    std::fs::create_dir_all(&path).fail_at(Kind::Storage, path.display())?;
    let report = measure(a, scalars, &path);
    std::fs::remove_dir_all(&path).fail_at(Kind::Storage, path.display())?;
    report
}

fn measure(a: &BenchRound, scalars: usize, path: &Path) -> Result<Report, Failure> {
    let sync_floor_ms = a.durable.then(|| sync_floor(&path.join("sync"), a.clients, scalars)).transpose()?;
    let schema =
        Schema::new(vec![TensorSpec { name: "w".into(), shape: vec![scalars] }]).fail(Kind::Internal)?;
    let plan = AggregationSettings::default().plan().fail(Kind::Internal)?;
    let rounds = u32::try_from(a.rounds).fail(Kind::Usage)?;
    let workers = machine::cores();
    let config = Config {
        plan: plan.check(&schema).fail(Kind::Internal)?,
        policy: Policy {
            num_rounds: rounds + 1,
            fraction: 1.0,
            min_clients: 1,
            round_deadline_ms: None,
            join_deadline_ms: None,
            round_attempts: 1,
            history: 0,
        },
        roster: (0..a.clients as u64).map(ClientId).collect(),
        seed: 0,
        workers,
        call_attempts: 1,
        restarts: 0,
        keep_updates: false,
    };
    let settings = Settings { durable: a.durable, keep_last: NonZeroU32::MIN, keep_every: None };
    let dir: PathBuf = path.join("run");
    let dir = RunDir::create(&dir, "", &json!({}), settings, unix_ms()).fail(Kind::Storage)?;
    let dir: Shared = Mutex::new(dir);

    let mut stream = Stream::new(0, Purpose::Synthesis);
    let delta = Arc::new((0..scalars).map(|_| 1e-3 * (stream.uniform_f32() - 0.5)).collect::<Vec<f32>>());
    let work = move |_: ClientId, _: usize| -> Result<Box<dyn LocalWork>, WorkError> {
        Ok(Box::new(Known(Arc::clone(&delta))))
    };
    let clock = WallClock::starting_at(Millis(0));
    let fedavg = toml::Table::from_iter([("id".to_owned(), "fedavg".into())]);
    let server = server_step(&fedavg).fail(Kind::Internal)?;
    let mut simulation = Simulation { config, server, noise: None, clock: &clock, faults: None };
    let mut timer =
        Timer { dir: &dir, begun: Instant::now(), rounds: Vec::new(), checkpoints: Vec::new(), bytes: 0 };
    let mut events = Events(&dir);
    let start = Start::fresh(vec![0.0; scalars]);
    simulation.run(start, &work, &mut timer, &mut events, &AtomicBool::new(false)).fail(Kind::Federation)?;

    let Timer { mut rounds, mut checkpoints, bytes, .. } = timer;
    // the first round joins everyone and touches every page for the first time
    (rounds, checkpoints) = (rounds.split_off(1), checkpoints.split_off(1));
    rounds.sort_by(f64::total_cmp);
    checkpoints.sort_by(f64::total_cmp);
    let median = rounds[rounds.len() / 2];
    Ok(Report {
        clients: a.clients,
        scalars,
        workers,
        durable: a.durable,
        rounds: rounds.len(),
        median_ms: 1e3 * median,
        best_ms: 1e3 * rounds[0],
        worst_ms: 1e3 * rounds[rounds.len() - 1],
        median_checkpoint_ms: 1e3 * checkpoints[checkpoints.len() / 2],
        bytes_per_round: bytes,
        megabytes_per_s: bytes as f64 / 1e6 / median,
        sync_floor_ms,
        rss_mb: machine::peak_rss_bytes() as f64 / (1 << 20) as f64,
    })
}

/// Milliseconds to write and sync `files` files of `scalars` f32 in a new folder at `path`, one after the other.
fn sync_floor(path: &Path, files: usize, scalars: usize) -> Result<f64, Failure> {
    let bytes: Vec<u8> = (0..4 * scalars).map(|i| (i * 31) as u8).collect();
    let pass = || -> std::io::Result<f64> {
        let begun = Instant::now();
        for i in 0..files {
            let mut file = std::fs::File::create(path.join(i.to_string()))?;
            file.write_all(&bytes)?;
            file.sync_data()?;
        }
        Ok(1e3 * begun.elapsed().as_secs_f64())
    };
    std::fs::create_dir_all(path).fail_at(Kind::Storage, path.display())?;
    let mut passes: Vec<f64> =
        (0..SYNC_PASSES).map(|_| pass()).collect::<Result<_, _>>().fail_at(Kind::Storage, path.display())?;
    passes.sort_by(f64::total_cmp);
    Ok(passes[SYNC_PASSES / 2])
}
