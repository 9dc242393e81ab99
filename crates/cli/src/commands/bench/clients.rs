//! `antiphon bench clients`: many clients on one base. Peak memory beside what the design promises, and the speed-up from
//! one worker to many beside that of matrix products which share nothing.
//!
//! Memory is the base once, plus workers × (activations + (2 + state vectors) × trainable), plus one update a sampled
//! client, plus the clients' tokens. Speed-up is measured in turn with the products, so that a disturbance of the machine
//! falls on both.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use antiphon_algo::{Local, LocalWork, WorkError};
use antiphon_core::{ClientId, Purpose, Round, Stream};
use antiphon_data::Sequence;
use antiphon_kernels::{Cpu, Pool, gemm};
use antiphon_model::{Base, Net, Shape, Task, Weights};
use antiphon_tune::method::{self, Start};
use antiphon_tune::{Client, Recipe, TrainSettings, Tuning, estimator, objective, optim, worker_bytes};
use serde::Serialize;

use super::gemm::Product;
use crate::args::BenchClients;
use crate::error::{Fail, Failure, Kind};
use crate::machine;

/// Rounds of each measurement.
const TURNS: usize = 3;
/// Products of each independent loop in one turn.
const PRODUCTS: usize = 200;

/// What is printed.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    model: String,
    clients: usize,
    sampled: usize,
    workers: usize,
    trainable: usize,
    /// Seconds of local work of all sampled clients, medians.
    one_worker_s: f64,
    many_workers_s: f64,
    tokens_per_s: f64,
    speed_up: f64,
    /// Of as many independent one-thread loops of matrix products.
    gemm_speed_up: f64,
    /// The first over the second: 1 is all that this machine gives.
    efficiency: f64,
    rss_mb: f64,
    /// What the formula says.
    predicted_mb: f64,
    /// Its parts.
    start_mb: f64,
    weights_mb: f64,
    worker_mb: f64,
    updates_mb: f64,
    tokens_mb: f64,
}

pub(super) fn run(a: &BenchClients) -> Result<Report, Failure> {
    let counts = [a.clients, a.sampled, a.local_steps, a.batch, a.rank, a.workers];
    if counts.contains(&0) || a.sampled > a.clients || a.seq < 2 {
        return Err(Failure::new(
            Kind::Usage,
            "every count must be above 0, sampled at most clients, and seq at least 2",
        ));
    }
    let start_bytes = machine::rss_bytes();
    let base = Base::open(&a.model.display().to_string(), 0).fail(Kind::Model)?;
    let Shared { tuning, theta, worker } = tuning(a, &base)?;
    let clients = clients(a, &tuning, base.spec().vocab)?;
    let tokens = clients.len() * 2 * a.batch * a.seq * (size_of::<u32>() + size_of::<bool>());
    let cohort = Stream::new(0, Purpose::Sampling).choose(a.clients, a.sampled);
    let cohort: Vec<&Client<Cpu>> = cohort.into_iter().map(|i| &clients[i]).collect();

    // memory first, before anything else of this process has touched any
    round(&cohort, &theta, a.workers)?;
    let rss = machine::peak_rss_bytes() as f64;
    let (mut one, mut many, mut alone, mut together) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        one.push(round(&cohort, &theta, 1)?);
        alone.push(loops(1));
        many.push(round(&cohort, &theta, a.workers)?);
        together.push(loops(a.workers));
    }
    let [one, many, alone, together] = [one, many, alone, together].map(median);
    let (speed_up, gemm_speed_up) = (one / many, a.workers as f64 * alone / together);
    let parts = [
        start_bytes as f64,
        machine::weight_bytes(&base) as f64,
        (a.workers.min(a.sampled) * worker) as f64,
        (a.sampled * 4 * theta.len()) as f64,
        tokens as f64,
    ]
    .map(|b| b / (1 << 20) as f64);
    Ok(Report {
        model: a.model.display().to_string(),
        clients: a.clients,
        sampled: a.sampled,
        workers: a.workers,
        trainable: theta.len(),
        one_worker_s: one,
        many_workers_s: many,
        tokens_per_s: (a.sampled * a.local_steps * a.batch * a.seq) as f64 / many,
        speed_up,
        gemm_speed_up,
        efficiency: speed_up / gemm_speed_up,
        rss_mb: rss / (1 << 20) as f64,
        predicted_mb: parts.iter().sum(),
        start_mb: parts[0],
        weights_mb: parts[1],
        worker_mb: parts[2],
        updates_mb: parts[3],
        tokens_mb: parts[4],
    })
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// What all clients share.
struct Shared {
    tuning: Arc<Tuning<Cpu>>,
    /// First values.
    theta: Vec<f32>,
    /// Bytes of one worker.
    worker: usize,
}

/// LoRA on the attention of `base`.
fn tuning(a: &BenchClients, base: &Base) -> Result<Shared, Failure> {
    let table = |text: &str| text.parse::<toml::Table>().fail(Kind::Internal);
    let method = method::build(&table(&format!(
        "id = 'lora'\nlora_r = {}\nlora_alpha = {}\ntarget_modules = ['q_proj', 'k_proj', 'v_proj', 'o_proj']",
        a.rank,
        2 * a.rank
    ))?)
    .fail(Kind::Usage)?;
    let train: TrainSettings = toml::from_str(&format!(
        "learning_rate = 1e-4\nmicro_batch_size = {}\nlocal_steps = {}",
        a.batch, a.local_steps
    ))
    .fail(Kind::Internal)?;
    let recipe = Recipe {
        objective: objective::build(&table("id = 'sft'")?).fail(Kind::Internal)?,
        estimator: estimator::build(&table("id = 'backprop'")?).fail(Kind::Internal)?,
        optimizer: optim::build(&table("id = 'adamw'")?).fail(Kind::Internal)?,
        train: train.check().fail(Kind::Usage)?,
        rounds: 1,
        seed: 0,
    };
    let backend = Arc::new(Cpu::serial());
    let (spec, task) = (base.spec(), Task::CausalLm);
    base.require(task).fail(Kind::Model)?;
    let weights = Weights::load(&*backend, spec, task, base.source()).fail(Kind::Model)?;
    let wiring = Arc::new(method.wire(spec, task).fail(Kind::Model)?);
    let start = Start { spec, base: base.source(), tokenize: None, seed: 0 };
    let theta = method.init(&wiring, &start).fail(Kind::Model)?;
    let shape = Shape { tokens: a.batch * a.seq, segments: a.batch, labelled: a.batch * (a.seq - 1) };
    let vectors = (recipe.estimator.mode(), recipe.optimizer.slots().len());
    let worker = worker_bytes(&*backend, spec, task, &wiring, shape, vectors) + gemm::packing_bytes();
    let net = Net::new(&*backend, weights, task, wiring, a.seq).fail(Kind::Model)?;
    let tuning = Tuning::new(backend, Arc::new(net), recipe, shape, Arc::default());
    Ok(Shared { tuning: Arc::new(tuning), theta, worker })
}

/// Clients of tokens drawn at random, two batches each.
fn clients(a: &BenchClients, tuning: &Arc<Tuning<Cpu>>, vocab: usize) -> Result<Vec<Client<Cpu>>, Failure> {
    let make = |id: u64| {
        let mut stream = Stream::keyed(0, Purpose::Synthesis, None, Some(ClientId(id)), "");
        let mut sequence = || Sequence {
            ids: (0..a.seq).map(|_| stream.below(vocab as u64) as u32).collect(),
            target: (0..a.seq).map(|t| t > 0).collect(),
            class: None,
        };
        let sequences: Arc<[Sequence]> = (0..2 * a.batch).map(|_| sequence()).collect();
        let n = sequences.len() as u64;
        Client::new(Arc::clone(tuning), ClientId(id), sequences, n)
    };
    (0..a.clients as u64).map(make).collect::<Result<_, _>>().fail(Kind::Usage)
}

/// Local work of everyone in `cohort` on `workers` threads; gives the seconds. Updates are kept until all are there, as the
/// coordinator keeps them.
fn round(cohort: &[&Client<Cpu>], theta: &[f32], workers: usize) -> Result<f64, Failure> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Result<Local, WorkError>>> = Mutex::default();
    let worker = || {
        while let Some(client) = cohort.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut client = *client;
            let local = client.run(theta, Round(0));
            done.lock().unwrap_or_else(PoisonError::into_inner).push(local);
        }
    };
    let begun = Instant::now();
    std::thread::scope(|s| {
        for _ in 0..workers {
            s.spawn(worker);
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_iter().collect::<Result<Vec<_>, _>>().fail(Kind::Internal)?;
    Ok(seconds)
}

/// As many one-thread loops of matrix products as `workers`, none of which shares anything; gives the seconds.
fn loops(workers: usize) -> f64 {
    let mut products: Vec<Product> = (0..workers).map(|_| Product::typical()).collect();
    let begun = Instant::now();
    std::thread::scope(|s| {
        for product in &mut products {
            s.spawn(|| {
                let pool = Pool::serial();
                (0..PRODUCTS).map(|_| product.once(&pool)).sum::<f64>()
            });
        }
    });
    begun.elapsed().as_secs_f64()
}
