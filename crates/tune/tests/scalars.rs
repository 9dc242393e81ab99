//! Methods of scalars: laws over the registry, closed forms on a quadratic against numpy, one client that lies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use antiphon_algo::{AggregationSettings, LocalWork, ServerCx};
use antiphon_core::{ClientId, Noise, Payload, Purpose, Round, Schema, Stream, TensorSpec, Weight};
use antiphon_data::Sequence;
use antiphon_kernels::{Backend, Cpu, Law, Loss, Src};
use antiphon_model::Perturbation;
use antiphon_tune::estimator::{self, Probe, Seen, Step};
use antiphon_tune::scalars::{self, METHODS, Replica, ScalarClient, Scalars, ScalarsError};
use antiphon_tune::{Recipe, TrainSettings, TuneError, Tuning, objective, optim};
use common::world::{ADAMW, FULL, LORA, PROMPT, SFT, SGD, Setup, client, sequences};
use proptest::prelude::*;
use serde::Deserialize;

const FORWARD: &str = "id='zeroth_order'\nepsilon=1e-3";
const TWO: &str = "id='zeroth_order'\nepsilon=1e-3\ndirections=2\ndistribution='rademacher'";
const STEPS: &str = "learning_rate=0.02\nmicro_batch_size=2\nlocal_steps=3\nmax_grad_norm=0";

/// A method with steps that it can tell.
#[derive(Clone, Copy, Debug)]
struct Case {
    scalars: &'static str,
    estimator: &'static str,
    method: &'static str,
}

/// Every registry entry, some twice.
fn cases() -> Vec<Case> {
    let case = |scalars, estimator, method| Case { scalars, estimator, method };
    let all = vec![
        case("id='fedkseed'\nseeds=16", FORWARD, LORA),
        case("id='fedkseed'\nseeds=5", TWO, FULL),
        case("id='fedkseed_pro'\nseeds=16", FORWARD, LORA),
        case("id='decomfl'", TWO, LORA),
        case("id='decomfl'", FORWARD, PROMPT),
        case("id='ferret'\ncoordinates=100", "id='backprop'", LORA),
    ];
    let covered = |id: &str| all.iter().any(|c| c.scalars.starts_with(&format!("id='{id}'")));
    assert!(METHODS.iter().all(|e| covered(e.id)), "a method without a case");
    all
}

struct World {
    tuning: Arc<Tuning<Cpu>>,
    theta: Vec<f32>,
    scalars: Arc<dyn Scalars>,
}

impl Case {
    fn world(self, sets: &[Arc<[Sequence]>]) -> World {
        let setup = Setup { estimator: self.estimator, ..Setup::lm(self.method, SGD, STEPS) };
        let (tuning, theta) = setup.build(Cpu::serial(), sets);
        let method = scalars::build(&self.scalars.parse().unwrap()).unwrap();
        let scalars = method.prepare(&tuning.net().wiring().schema, tuning.recipe()).unwrap();
        World { tuning, theta, scalars }
    }
}

impl World {
    fn replica(&self, threads: usize) -> Arc<Replica<Cpu>> {
        let (backend, scalars) = (Arc::new(Cpu::serial()), Arc::clone(&self.scalars));
        let net = self.tuning.net();
        let schema = &net.wiring().schema;
        Arc::new(Replica::new(backend, scalars, schema, self.theta.clone(), threads))
    }

    fn dim(&self) -> usize {
        self.scalars.schema().dim()
    }

    /// A state whose coordinates are drawn, a share of them zero.
    fn state(&self, seed: u64, zero: f64) -> Vec<f32> {
        let mut s = Stream::new(seed, Purpose::Test);
        (0..self.dim())
            .map(|_| if s.uniform() < zero { 0.0 } else { (3.0 * s.standard_normal()) as f32 })
            .collect()
    }

    fn update(&self, replica: &Arc<Replica<Cpu>>, id: u64, set: &Arc<[Sequence]>, state: &[f32]) -> Vec<f32> {
        let client = ScalarClient::new(client(&self.tuning, id, set), Arc::clone(replica));
        (&client).run(state, Round(1)).unwrap().delta
    }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_first_state_is_where_the_weights_began() {
    for case in cases() {
        let w = case.world(&[sequences(4, 1, 0)]);
        let replica = w.replica(1);
        assert_eq!(bits(&replica.at(&replica.start()).unwrap()), bits(&w.theta), "{case:?}");
        // and coming back is exact
        replica.at(&w.state(3, 0.2)).unwrap();
        assert_eq!(bits(&replica.at(&replica.start()).unwrap()), bits(&w.theta), "{case:?}");
    }
}

/// Catching up costs what changed and gives the bits of a replay from the start, on any number of threads.
#[test]
fn a_replica_that_saw_other_states_has_the_bits_of_one_that_did_not() {
    for case in cases() {
        let w = case.world(&[sequences(4, 1, 0)]);
        let used = w.replica(3);
        for (seed, zero) in [(1, 0.9), (2, 0.5), (3, 0.0), (4, 0.97), (1, 0.9)] {
            let state = w.state(seed, zero);
            let fresh = w.replica(1).at(&state).unwrap();
            assert_eq!(bits(&used.at(&state).unwrap()), bits(&fresh), "{case:?}");
            assert!(zero > 0.5 || bits(&fresh) != bits(&w.theta), "{case:?}: nothing moved");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Any walk through states, one coordinate or many at a time, ends at the bits of its last state.
    #[test]
    fn replay_of_differences_is_replay(
        which in 0..6_usize,
        walk in prop::collection::vec(prop::collection::vec((0..400_usize, -2000.0..2000.0_f32), 0..12), 1..6),
    ) {
        let w = cases()[which].world(&[sequences(4, 1, 0)]);
        let mut state = vec![0.0; w.dim()];
        let replica = w.replica(1);
        for changes in walk {
            for (at, value) in changes {
                let at = at % state.len();
                state[at] = value;
            }
            replica.at(&state).unwrap();
        }
        prop_assert_eq!(bits(&replica.at(&state).unwrap()), bits(&w.replica(1).at(&state).unwrap()));
    }
}

/// A client's update depends on the state, never on what its replica saw before.
#[test]
fn updates_are_those_of_the_state() {
    let sets = [sequences(6, 1, 0), sequences(5, 2, 0)];
    for case in cases() {
        let w = case.world(&sets);
        let state = w.state(7, 0.6);
        let (fresh, used) = (w.replica(1), w.replica(2));
        used.at(&w.state(8, 0.1)).unwrap();
        let first = w.update(&fresh, 0, &sets[0], &state);
        w.update(&used, 1, &sets[1], &w.state(9, 0.5));
        assert_eq!(bits(&first), bits(&w.update(&used, 0, &sets[0], &state)), "{case:?}");
        let sent = first.iter().filter(|v| v.to_bits() != 0).count();
        assert!(sent > 0 && sent <= w.scalars.most_sent(3), "{case:?}: {sent} scalars");
    }
}

/// Forward-only: the replica of the new state is where the client's own steps ended, up to the rounding of its path.
#[test]
fn the_replica_arrives_where_the_client_did() {
    let set = sequences(6, 1, 0);
    for case in cases().into_iter().filter(|c| c.estimator != "id='backprop'") {
        let w = case.world(std::slice::from_ref(&set));
        let replica = w.replica(1);
        let client = ScalarClient::new(client(&w.tuning, 3, &set), Arc::clone(&replica));
        let local = (&client).run(&replica.start(), Round(2)).unwrap();
        let state: Vec<f32> = local.delta.iter().map(|d| -d).collect();
        let arrived = replica.at(&state).unwrap();
        // the same directions by hand, in binary64
        let net = w.tuning.net();
        let schema = &net.wiring().schema;
        let noise = Perturbation::new(schema, w.scalars.frame().law);
        let mut by_hand: Vec<f64> = w.theta.iter().map(|v| f64::from(*v)).collect();
        let mut notebook = w.scalars.begin(&replica.start(), Round(2), ClientId(3)).unwrap();
        let mut seeds = Vec::new();
        let cpu = Cpu::serial();
        let slope = |seed: u64| -> f64 {
            // of a seed drawn more than once, the part of one draw
            let mut one = antiphon_tune::scalars::Terms::default();
            one.add(0, seed, 1.0).unwrap();
            let all = w.scalars.terms(&state).unwrap();
            all.coefficient(0, seed) / one.coefficient(0, seed)
        };
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..3 {
            notebook.draw(step, &mut seeds);
            for &seed in seeds.iter().filter(|s| seen.insert(**s)) {
                let mut z = cpu.alloc(by_hand.len()).unwrap();
                noise.at(seed, 1.0).apply(&cpu, &mut z);
                let mut host = vec![0.0; by_hand.len()];
                cpu.download(Src::new(&z, 0, host.len()), &mut host).unwrap();
                let moved = w.scalars.frame().unit * slope(seed);
                by_hand.iter_mut().zip(&host).for_each(|(w, z)| *w += moved * f64::from(*z));
            }
        }
        for ((a, b), start) in arrived.iter().zip(&by_hand).zip(&w.theta) {
            assert!((f64::from(*a) - b).abs() < 2e-6, "{case:?}: {a} for {b} from {start}");
        }
        assert_ne!(bits(&arrived), bits(&w.theta));
    }
}

/// A seed drawn again adds to what it found before.
#[test]
fn slopes_along_one_seed_add_up() {
    let set = sequences(6, 1, 0);
    let case = Case { scalars: "id='fedkseed'\nseeds=1", estimator: FORWARD, method: LORA };
    let w = case.world(std::slice::from_ref(&set));
    let replica = w.replica(1);
    let mut notebook = w.scalars.begin(&replica.start(), Round(0), ClientId(1)).unwrap();
    let mut seeds = Vec::new();
    for (step, slope) in [(0, 0.5), (1, -2.0), (2, 4.25)] {
        notebook.draw(step, &mut seeds);
        assert_eq!(seeds.len(), 1);
        notebook.note(step, &[slope]);
    }
    assert_eq!(notebook.close(&[], &*replica).unwrap(), [-2.75]);
    assert_eq!(w.scalars.most_sent(3), 1);
}

#[test]
fn decomfl_sends_the_row_of_its_round() {
    let set = sequences(6, 1, 0);
    let w = Case { scalars: "id='decomfl'", estimator: TWO, method: LORA }.world(std::slice::from_ref(&set));
    assert_eq!(w.scalars.schema().tensors()[0].shape, [10, 6]);
    let update = w.update(&w.replica(1), 0, &set, &vec![0.0; 60]);
    let (inside, outside): (Vec<_>, Vec<_>) = (0..60).partition(|i| (6..12).contains(i));
    assert!(inside.iter().all(|i| update[*i] != 0.0), "{update:?}");
    assert!(outside.iter().all(|i| update[*i].to_bits() == 0), "{update:?}");
    // every client of the round has the same directions
    let seeds = |client: u64, round: u32| {
        let mut out = Vec::new();
        let start = vec![0.0; 60];
        w.scalars.begin(&start, Round(round), ClientId(client)).unwrap().draw(1, &mut out);
        out
    };
    assert_eq!(seeds(1, 4), seeds(2, 4));
    assert_ne!(seeds(1, 4), seeds(1, 5));
    let late = w.scalars.begin(&vec![0.0; 60], Round(10), ClientId(0)).err().unwrap();
    assert!(matches!(late, ScalarsError::Round { rounds: 10, .. }), "{late}");
}

/// The estimate is the update plus noise of its known size: exact in the mean, `√(d / n)` off.
#[test]
fn ferret_gives_back_what_moved() {
    let set = sequences(6, 1, 0);
    let case = Case { scalars: "id='ferret'\ncoordinates=6000", estimator: "id='backprop'", method: PROMPT };
    let w = case.world(std::slice::from_ref(&set));
    let moved = client(&w.tuning, 0, &set).run(&w.theta, Round(0)).unwrap().delta;
    let replica = w.replica(1);
    let one = ScalarClient::new(client(&w.tuning, 0, &set), Arc::clone(&replica));
    let update = (&one).run(&replica.start(), Round(0)).unwrap().delta;
    let state: Vec<f32> = update.iter().map(|d| 0.0 - d).collect();
    let arrived = replica.at(&state).unwrap();
    let found: Vec<f64> = w.theta.iter().zip(&*arrived).map(|(a, b)| f64::from(a - b)).collect();
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let size = norm(&mut moved.iter().map(|m| f64::from(*m)));
    let off = norm(&mut found.iter().zip(&moved).map(|(f, m)| f - f64::from(*m)));
    let expected = (moved.len() as f64 / 6000.0).sqrt();
    assert!(off / size < 2.0 * expected, "{} off, {expected} expected", off / size);
}

/// Scalars go through the ordinary reducers: one client that lies moves a mean and not a median.
#[test]
fn one_liar_does_not_move_a_median() {
    let sets: Vec<_> = (0..5).map(|i| sequences(6, i, 0)).collect();
    let w = Case { scalars: "id='decomfl'", estimator: FORWARD, method: LORA }.world(&sets);
    let replica = w.replica(1);
    let start = replica.start();
    let honest: Vec<Vec<f32>> = (0..5).map(|i| w.update(&replica, i as u64, &sets[i], &start)).collect();
    let aggregate = |reducer: &str, updates: &[Vec<f32>]| {
        let settings = AggregationSettings { layers: Vec::new(), reducer: reducer.parse().unwrap() };
        let plan = settings.plan().unwrap().check(w.scalars.schema()).unwrap();
        let ids: Vec<ClientId> = (0..updates.len() as u64).map(ClientId).collect();
        let mut tally = plan.open(&ids);
        for (id, update) in ids.iter().zip(updates) {
            tally.accept(*id, plan.admit(Payload::Real(update.clone()), Weight::ONE).unwrap()).unwrap();
        }
        let mut noise = Stream::new(0, Purpose::Test);
        let mut cx = ServerCx { round: Round(0), accepted: 5, noise: &mut noise, threads: 1 };
        tally.close(&mut cx, &mut plan.slots()).unwrap()
    };
    let mut lied = honest.clone();
    lied[2].iter_mut().for_each(|v| *v *= -1e4);
    let row = 3..6;
    for robust in ["id='median'", "id='trimmed_mean'\ntrim=0.2"] {
        for (i, v) in aggregate(robust, &lied).iter().enumerate() {
            let own = honest.iter().map(|u| u[i]);
            let (low, high) = own.fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(v), h.max(v)));
            assert!((low..=high).contains(v), "{robust} {i}: {v} outside {low} to {high}");
        }
    }
    let mean = aggregate("id='trimmed_mean'\ntrim=0.0", &lied);
    assert!(row.clone().any(|i| mean[i].abs() > honest.iter().map(|u| u[i].abs()).fold(0.0, f32::max)));
}

#[test]
fn states_that_cannot_be_applied_are_refused() {
    let w = cases()[0].world(&[sequences(4, 1, 0)]);
    let replica = w.replica(1);
    let mut state = replica.start();
    assert!(matches!(replica.at(&state[1..]), Err(ScalarsError::State { expected: 16, found: 15 })));
    state[3] = f32::NAN;
    assert!(matches!(replica.at(&state), Err(ScalarsError::Coefficient { .. })));
    state.fill(1e6);
    let e = replica.at(&state).unwrap_err();
    assert!(matches!(e, ScalarsError::Range { .. }), "{e}");
    // and nothing of it stays
    assert_eq!(bits(&replica.at(&replica.start()).unwrap()), bits(&w.theta));
}

fn recipe(estimator: &str, optimizer: &str, train: &str) -> Recipe {
    let train: TrainSettings = toml::from_str(train).unwrap();
    Recipe {
        objective: objective::build(&SFT.parse().unwrap()).unwrap(),
        estimator: estimator::build(&estimator.parse().unwrap()).unwrap(),
        optimizer: optim::build(&optimizer.parse().unwrap()).unwrap(),
        train: train.check().unwrap(),
        rounds: 4,
        seed: 1,
    }
}

#[test]
fn what_a_scalar_cannot_tell_is_refused() {
    let spec = TensorSpec { name: "w".into(), shape: vec![6] };
    let schema = Schema::new(vec![spec]).unwrap();
    let plain = "learning_rate=1e-3\nmicro_batch_size=1\nlocal_steps=2\nmax_grad_norm=0";
    let epochs = plain.replace("local_steps", "local_epochs");
    let keep = format!("{plain}\noptimizer_state='keep'");
    let linear = format!("{plain}\nlr_scheduler={{id='linear', over='rounds'}}");
    let backprop = "id='backprop'";
    for (method, estimator, optimizer, train, word) in [
        ("id='fedkseed'", backprop, SGD, plain, "zeroth_order"),
        ("id='fedkseed'", FORWARD, "id='sgd'\nweight_decay=0.1", plain, "weight decay"),
        ("id='fedkseed'", FORWARD, "id='sgd'\nmomentum=0.9", plain, "momentum"),
        ("id='fedkseed_pro'", FORWARD, ADAMW, plain, "sgd"),
        ("id='fedkseed_pro'", FORWARD, SGD, &linear, "lr_scheduler"),
        ("id='decomfl'", FORWARD, SGD, &keep, "reset"),
        ("id='decomfl'", FORWARD, SGD, &epochs, "local_steps"),
        ("id='ferret'\ncoordinates=50", FORWARD, SGD, plain, "backprop"),
        ("id='ferret'\ncoordinates=50", backprop, ADAMW, &keep, "reset"),
    ] {
        let built = scalars::build(&method.parse().unwrap()).unwrap();
        let e = built.prepare(&schema, &recipe(estimator, optimizer, train)).unwrap_err().to_string();
        assert!(e.contains(word), "{method}: {e}");
    }
    for (text, word) in [
        ("id='fedkseed'\nseeds=0", "seeds"),
        ("id='fedkseed'\nseed=4", "seed"),
        ("id='fedkseed_pro'\nmax_magnitude=0", "max_magnitude"),
        ("id='ferret'", "coordinates"),
        ("id='decomfl'\nrounds=3", "rounds"),
        ("id='fedkseeds'", "did you mean `fedkseed`"),
    ] {
        let e = scalars::build(&text.parse().unwrap()).unwrap_err().to_string();
        assert!(e.contains(word), "{text}: {e}");
    }
}

/// Settings written out build the same method again.
#[test]
fn settings_are_complete() {
    for case in cases() {
        let built = scalars::build(&case.scalars.parse().unwrap()).unwrap();
        let table = built.settings().unwrap();
        assert_eq!(scalars::build(&table).unwrap().settings().unwrap(), table);
        assert_eq!(table["id"].as_str(), Some(built.id()));
    }
}

/// `f(w) = ½ Σ a_i (w_i - 1)²`, walked by the estimator in binary64 along directions that are given.
struct Quadratic<'a> {
    a: &'a [f64],
    w: Vec<f64>,
    z: &'a dyn Fn(u64) -> Vec<f64>,
    seeds: Vec<u64>,
    slopes: Vec<f64>,
    learning_rate: f32,
}

impl Step for Quadratic<'_> {
    fn learning_rate(&self) -> f32 {
        self.learning_rate
    }
    fn seed(&self, direction: u32) -> u64 {
        self.seeds[direction as usize]
    }
    fn slopes(&mut self) -> &mut Vec<f64> {
        &mut self.slopes
    }
    fn loss(&mut self, at: Option<Probe>) -> Result<Seen, TuneError> {
        let mut w = self.w.clone();
        if let Some(Probe { seed, scale }) = at {
            w.iter_mut().zip((self.z)(seed)).for_each(|(w, z)| *w += f64::from(scale) * z);
        }
        let mean = w.iter().zip(self.a).map(|(w, a)| 0.5 * a * (w - 1.0).powi(2)).sum();
        Ok(Seen { mean, sums: Loss { nll: mean, correct: 0, rows: 1 } })
    }
    fn backward(&mut self) -> Result<Seen, TuneError> {
        unreachable!("nothing here has a gradient")
    }
    fn descend(&mut self) -> Result<f64, TuneError> {
        unreachable!("nothing here has a gradient")
    }
    fn plain_decay(&self) -> Option<f32> {
        Some(0.0)
    }
    fn scale(&mut self, _: f32) {}
    fn shift(&mut self, Probe { seed, scale }: Probe) {
        let z = (self.z)(seed);
        self.w.iter_mut().zip(z).for_each(|(w, z)| *w += f64::from(scale) * z);
    }
}

/// One run of `tests/golden/scalars.py`: the draws and directions that this crate makes (`examples/scalar_inputs.rs`), and what
/// numpy makes of them.
#[derive(Debug, Deserialize)]
struct Golden {
    scalars: String,
    estimator: String,
    /// `[round][client][step][direction]`.
    seeds: Vec<Vec<Vec<Vec<String>>>>,
    /// By seed: `[d]`.
    z: std::collections::BTreeMap<String, Vec<f64>>,
    /// After the last round.
    state: Vec<f64>,
    /// After each round, `[round][d]`.
    weights: Vec<Vec<f64>>,
}

#[derive(Debug, Deserialize)]
struct File {
    a: Vec<f64>,
    start: Vec<f64>,
    learning_rate: f64,
    clients: u64,
    steps: u32,
    runs: Vec<Golden>,
}

/// The arithmetic of FedKSeed and DeComFL on a quadratic, as numpy does it by the papers: steps from the rebuilt weights,
/// slopes summed or averaged, weights rebuilt.
#[test]
fn updates_are_those_of_numpy() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/scalars.json");
    let file: File = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let d = file.a.len();
    let spec = TensorSpec { name: "w".into(), shape: vec![d] };
    let schema = Schema::new(vec![spec]).unwrap();
    for golden in &file.runs {
        let train = format!(
            "learning_rate={}\nmicro_batch_size=1\nlocal_steps={}\nmax_grad_norm=0",
            file.learning_rate, file.steps
        );
        let recipe = recipe(&golden.estimator, SGD, &train);
        let method = scalars::build(&golden.scalars.parse().unwrap()).unwrap();
        let scalars = method.prepare(&schema, &recipe).unwrap();
        let start: Vec<f32> = file.start.iter().map(|v| *v as f32).collect();
        let replica = Replica::new(Arc::new(Cpu::serial()), Arc::clone(&scalars), &schema, start, 1);
        let noise = Perturbation::new(&schema, Law::Gaussian);
        let cpu = Cpu::serial();
        let z = |seed: u64| -> Vec<f64> {
            let mut z = cpu.alloc(d).unwrap();
            noise.at(seed, 1.0).apply(&cpu, &mut z);
            let mut host = vec![0.0; d];
            cpu.download(Src::new(&z, 0, d), &mut host).unwrap();
            host.into_iter().map(f64::from).collect()
        };
        let mut state = replica.start();
        for round in 0..golden.weights.len() {
            let begin = replica.at(&state).unwrap();
            let mut sum = vec![0.0; state.len()];
            for id in 0..file.clients {
                let mut notebook = scalars.begin(&state, Round(round as u32), ClientId(id)).unwrap();
                let w = begin.iter().map(|v| f64::from(*v)).collect();
                let learning_rate = file.learning_rate as f32;
                let mut q =
                    Quadratic { a: &file.a, w, z: &z, seeds: Vec::new(), slopes: Vec::new(), learning_rate };
                for step in 0..file.steps {
                    notebook.draw(step, &mut q.seeds);
                    let expected = &golden.seeds[round][id as usize][step as usize];
                    let found: Vec<String> = q.seeds.iter().map(u64::to_string).collect();
                    assert_eq!(&found, expected, "{}: seeds of another stream", golden.scalars);
                    recipe.estimator.step(&mut q).unwrap();
                    notebook.note(step, &q.slopes);
                }
                let update = notebook.close(&[], &replica).unwrap();
                sum.iter_mut().zip(update).for_each(|(s, u)| *s += f64::from(u));
            }
            state.iter_mut().zip(&sum).for_each(|(s, u)| *s -= (u / file.clients as f64) as f32);
            let weights = replica.at(&state).unwrap();
            for (found, expected) in weights.iter().zip(&golden.weights[round]) {
                assert!(
                    (f64::from(*found) - expected).abs() < 2e-6,
                    "{}: {found} for {expected}",
                    golden.scalars
                );
            }
        }
        for (seed, expected) in &golden.z {
            let found = z(seed.parse().unwrap());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "direction {seed}");
        }
        for (found, expected) in state.iter().zip(&golden.state) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                "{found} for {expected}"
            );
        }
    }
}

/// A direction whose losses are too far apart is left out, and one that is no number too.
#[test]
fn wild_directions_are_skipped_where_asked() {
    let a = [1.0, 2.0, 3.0];
    let z = |seed: u64| if seed == 9 { vec![f64::NAN; 3] } else { vec![seed as f64; 3] };
    let take = |text: &str, seeds: Vec<u64>| {
        let e = estimator::build(&text.parse().unwrap()).unwrap();
        let mut q =
            Quadratic { a: &a, w: vec![0.0; 3], z: &z, seeds, slopes: Vec::new(), learning_rate: 0.1 };
        let taken = e.step(&mut q).unwrap();
        (q.slopes, q.w, taken.seen.sums.rows)
    };
    let text = "id='zeroth_order'\nepsilon=0.01\ndirections=2";
    // slopes -6 and -600 make differences of 0.12 and 12
    let (slopes, _, _) = take(text, vec![1, 100]);
    assert!((slopes[0] + 6.0).abs() < 1e-6 && (slopes[1] + 600.0).abs() < 1e-3, "{slopes:?}");
    let careful = format!("{text}\nmax_loss_difference=1.0");
    let (slopes, w, rows) = take(&careful, vec![1, 100]);
    assert!((slopes[0] + 6.0).abs() < 1e-6 && slopes[1] == 0.0, "{slopes:?}");
    assert!((w[0] - 0.1 * 6.0 / 2.0).abs() < 1e-6 && rows == 1, "{w:?}");
    let (slopes, w, rows) = take(&careful, vec![100, 100]);
    assert_eq!((slopes, w, rows), (vec![0.0; 2], vec![0.0; 3], 0));
}
