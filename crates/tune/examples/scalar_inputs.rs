//! The inputs of `tests/golden/scalars.py`, on standard output: for FedKSeed and DeComFL on a quadratic, the seeds that each client
//! draws in each round and step, and the directions of those seeds.
//!
//!     cargo run -p antiphon-tune --example scalar_inputs | python crates/tune/tests/golden/scalars.py > scalars.json

use std::collections::BTreeMap;
use std::error::Error;

use antiphon_core::{ClientId, Purpose, Round, Schema, Stream, TensorSpec};
use antiphon_kernels::{Backend, Cpu, Law, Src};
use antiphon_model::Perturbation;
use antiphon_tune::{Recipe, TrainSettings, estimator, objective, optim, scalars};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Scalars of the quadratic `½ Σ a_i (w_i - 1)²`.
const DIM: u32 = 6;
const CLIENTS: u64 = 3;
const STEPS: u32 = 4;
const ROUNDS: u32 = 3;
const LEARNING_RATE: f64 = 0.02;
/// As it is written, in the run file and in the arithmetic.
const EPSILON: &str = "1e-3";
/// Candidate seeds of FedKSeed.
const POOL: u32 = 8;
const SEED: u64 = 1;

fn main() -> Result<()> {
    let a: Vec<f64> = (0..DIM).map(|i| 1.0 + f64::from(i)).collect();
    let start: Vec<f64> = (0..DIM).map(|i| 0.25 * f64::from(i) - 0.5).collect();
    let estimator = |rest: &str| format!("id='zeroth_order'\nepsilon={EPSILON}{rest}");
    let fedkseed = format!("id='fedkseed'\nseeds={POOL}");
    let runs = [
        run(&fedkseed, &estimator(""), true)?,
        run("id='decomfl'", &estimator("\ndirections=2\ndifference='forward'"), false)?,
        run("id='decomfl'", &estimator("\ndirections=2"), true)?,
    ];
    let inputs = json!({
        "a": a, "start": start, "learning_rate": LEARNING_RATE, "clients": CLIENTS, "steps": STEPS, "runs": runs,
    });
    #[allow(clippy::print_stdout, reason = "the answer of a command")]
    {
        println!("{inputs}");
    }
    Ok(())
}

/// One method's draws. What a client draws depends on the state for `fedkseed_pro` alone, which is not here.
fn run(method: &str, estimator: &str, two_point: bool) -> Result<Value> {
    let spec = TensorSpec { name: "w".into(), shape: vec![DIM as usize] };
    let schema = Schema::new(vec![spec])?;
    let scalars = scalars::build(&method.parse()?)?.prepare(&schema, &recipe(estimator)?)?;
    let zero = vec![0.0; scalars.schema().dim()];
    let mut z = BTreeMap::new();
    let mut seeds: Vec<Vec<Vec<Vec<String>>>> = Vec::new();
    for round in 0..ROUNDS {
        let mut clients = Vec::new();
        for id in 0..CLIENTS {
            let mut notebook = scalars.begin(&zero, Round(round), ClientId(id))?;
            let (mut steps, mut drawn) = (Vec::new(), Vec::new());
            for step in 0..STEPS {
                notebook.draw(step, &mut drawn);
                for &seed in &drawn {
                    z.insert(seed.to_string(), direction(&schema, seed)?);
                }
                steps.push(drawn.iter().map(u64::to_string).collect());
            }
            clients.push(steps);
        }
        seeds.push(clients);
    }
    let mut stream = Stream::keyed(SEED, Purpose::Perturbation, None, None, "pool");
    let pool: Vec<String> = (0..POOL).map(|_| stream.next_u64().to_string()).collect();
    let epsilon: f64 = EPSILON.parse()?;
    Ok(json!({
        "scalars": method, "estimator": estimator, "epsilon": epsilon, "two_point": two_point,
        "seeds": seeds, "z": z, "pool": pool,
    }))
}

/// `z` of a seed, as the estimator adds it.
fn direction(schema: &Schema, seed: u64) -> Result<Vec<f64>> {
    let cpu = Cpu::serial();
    let mut z = cpu.alloc(DIM as usize)?;
    Perturbation::new(schema, Law::Gaussian).at(seed, 1.0).apply(&cpu, &mut z);
    let mut host = vec![0.0; DIM as usize];
    cpu.download(Src::new(&z, 0, host.len()), &mut host)?;
    Ok(host.into_iter().map(f64::from).collect())
}

fn recipe(estimator: &str) -> Result<Recipe> {
    let train: TrainSettings = toml::from_str(&format!(
        "learning_rate={LEARNING_RATE}\nmicro_batch_size=1\nlocal_steps={STEPS}\nmax_grad_norm=0"
    ))?;
    Ok(Recipe {
        objective: objective::build(&"id='sft'".parse()?)?,
        estimator: estimator::build(&estimator.parse()?)?,
        optimizer: optim::build(&"id='sgd'".parse()?)?,
        train: train.check()?,
        rounds: 4,
        seed: SEED,
    })
}
