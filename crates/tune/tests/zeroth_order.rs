//! The zeroth-order estimator: closed forms on a quadratic, and laws on real models.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use antiphon_algo::LocalWork;
use antiphon_core::{ClientId, Purpose, Round, Schema, Stream, TensorSpec};
use antiphon_kernels::{Backend, Cpu, Law, Loss, Reference, Src};
use antiphon_model::{Perturbation, Wiring};
use antiphon_tune::estimator::{self, Probe, Seen, Step};
use antiphon_tune::{ESTIMATORS, Estimator, EstimatorError, HeldOut, TrainSettings, TuneError, optim};
use common::world::{ADAMW, FULL, LORA, PROMPT, SGD, Setup, client, sequences};
use common::{bert, gpt2};

fn build(text: &str) -> Box<dyn Estimator> {
    estimator::build(&text.parse().unwrap()).unwrap()
}

/// `f(θ) = ½ Σ a_i (θ_i - 1)²` in binary64.
struct Quadratic {
    a: Vec<f64>,
    theta: Vec<f64>,
    noise: Perturbation,
    seeds: Stream,
    slopes: Vec<f64>,
    evaluations: usize,
    decay: f32,
}

impl Quadratic {
    fn new(dim: usize, law: Law, seed: u64) -> Self {
        let spec = TensorSpec { name: "w".into(), shape: vec![dim] };
        Self {
            a: (0..dim).map(|i| 1.0 + i as f64).collect(),
            theta: (0..dim).map(|i| 0.3 * i as f64 - 1.0).collect(),
            noise: Perturbation::new(&Schema::new(vec![spec]).unwrap(), law),
            seeds: Stream::new(seed, Purpose::Perturbation),
            slopes: Vec::new(),
            evaluations: 0,
            decay: 0.0,
        }
    }

    fn z(&self, seed: u64) -> Vec<f64> {
        let mut z = Reference.alloc(self.theta.len()).unwrap();
        self.noise.at(seed, 1.0).apply(&Reference, &mut z);
        z.values().to_vec()
    }

    fn f(&self, theta: &[f64]) -> f64 {
        theta.iter().zip(&self.a).map(|(t, a)| 0.5 * a * (t - 1.0).powi(2)).sum()
    }

    fn gradient(&self) -> Vec<f64> {
        self.theta.iter().zip(&self.a).map(|(t, a)| a * (t - 1.0)).collect()
    }
}

impl Step for Quadratic {
    fn learning_rate(&self) -> f32 {
        0.01
    }
    fn seed(&self, direction: u32) -> u64 {
        self.seeds.word_pair(u64::from(direction))
    }
    fn slopes(&mut self) -> &mut Vec<f64> {
        &mut self.slopes
    }
    fn loss(&mut self, at: Option<Probe>) -> Result<Seen, TuneError> {
        self.evaluations += 1;
        let mut theta = self.theta.clone();
        if let Some(Probe { seed, scale }) = at {
            theta.iter_mut().zip(self.z(seed)).for_each(|(t, z)| *t += f64::from(scale) * z);
        }
        let mean = self.f(&theta);
        Ok(Seen { mean, sums: Loss { nll: mean, correct: 0, rows: 1 } })
    }
    fn backward(&mut self) -> Result<Seen, TuneError> {
        unreachable!("nothing here has a gradient")
    }
    fn descend(&mut self) -> Result<f64, TuneError> {
        unreachable!("nothing here has a gradient")
    }
    fn plain_decay(&self) -> Option<f32> {
        Some(self.decay)
    }
    fn scale(&mut self, factor: f32) {
        self.theta.iter_mut().for_each(|t| *t *= f64::from(factor));
    }
    fn shift(&mut self, Probe { seed, scale }: Probe) {
        let z = self.z(seed);
        self.theta.iter_mut().zip(z).for_each(|(t, z)| *t += f64::from(scale) * z);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Two points give the slope of a quadratic exactly, one side gives it plus `ε/2 z^T A z`.
#[test]
fn slopes_of_a_quadratic_are_its_closed_forms() {
    for (difference, law) in
        [("two_point", Law::Gaussian), ("two_point", Law::Rademacher), ("forward", Law::Gaussian)]
    {
        let distribution = if law == Law::Gaussian { "gaussian" } else { "rademacher" };
        let e = build(&format!(
            "id='zeroth_order'\nepsilon=0.5\ndirections=3\ndistribution='{distribution}'\ndifference='{difference}'"
        ));
        assert_eq!(e.law(), Some(law));
        let mut q = Quadratic { decay: 0.1, ..Quadratic::new(7, law, 1) };
        let (start, gradient) = (q.theta.clone(), q.gradient());
        let mut expected: Vec<f64> = start.iter().map(|t| t * f64::from(1.0 - 0.01 * 0.1_f32)).collect();
        let mut squares = 0.0;
        for direction in 0..3 {
            let z = q.z(q.seed(direction));
            let curved: f64 = z.iter().zip(&q.a).map(|(z, a)| a * z * z).sum();
            let slope = dot(&z, &gradient) + if difference == "forward" { 0.25 * curved } else { 0.0 };
            squares += slope * slope / 3.0;
            expected.iter_mut().zip(&z).for_each(|(t, z)| *t -= f64::from(0.01_f32) * slope * z / 3.0);
        }
        let taken = e.step(&mut q).unwrap();
        assert_eq!(q.evaluations as u32, e.forwards().unwrap(), "{difference}");
        assert!((taken.grad_norm - squares.sqrt()).abs() < 1e-9 * taken.grad_norm);
        for (found, expected) in q.theta.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{difference} {law:?}: {found} for {expected}");
        }
    }
}

#[test]
fn the_mean_over_directions_is_the_gradient() {
    for law in [Law::Gaussian, Law::Rademacher] {
        let q = Quadratic::new(5, law, 0);
        let gradient = q.gradient();
        let n = 40_000_u64;
        let (mut sum, mut squares) = (vec![0.0; 5], vec![0.0; 5]);
        for seed in 0..n {
            let z = q.z(seed);
            let slope = dot(&z, &gradient);
            for i in 0..5 {
                sum[i] += slope * z[i];
                squares[i] += (slope * z[i]).powi(2);
            }
        }
        for i in 0..5 {
            let mean = sum[i] / n as f64;
            let error = ((squares[i] / n as f64 - mean * mean) / n as f64).sqrt();
            assert!((mean - gradient[i]).abs() < 5.0 * error, "{law:?} {i}: {mean} for {}", gradient[i]);
        }
    }
}

#[test]
fn a_slope_is_bounded_where_asked() {
    let e = build("id='zeroth_order'\nepsilon=1e-3\nmax_projected_gradient=0.5");
    let mut q = Quadratic::new(4, Law::Gaussian, 2);
    let (start, z) = (q.theta.clone(), q.z(q.seed(0)));
    assert!(dot(&z, &q.gradient()).abs() > 0.5, "nothing to bound");
    e.step(&mut q).unwrap();
    let moved: f64 = start.iter().zip(&q.theta).map(|(a, b)| (a - b).powi(2)).sum();
    assert!((moved.sqrt() - 0.01 * 0.5 * dot(&z, &z).sqrt()).abs() < 1e-8);
}

const TWO: &str = "id='zeroth_order'\nepsilon=1e-3";
const SEVERAL: &str =
    "id='zeroth_order'\nepsilon=1e-3\ndirections=3\ndistribution='rademacher'\ndifference='forward'";
const STEPS: &str =
    "learning_rate=0.02\nmicro_batch_size=2\ngradient_accumulation_steps=2\nlocal_steps=4\nmax_grad_norm=0";

fn zo(method: &'static str, estimator: &'static str, train: &str) -> Setup {
    Setup { estimator, ..Setup::lm(method, SGD, train) }
}

/// A step moves along `z` by `lr` times the derivative that backpropagation gives: `∇L · Δ = lr g (z · ∇L) = lr g²`.
#[test]
fn a_step_follows_the_directional_derivative() {
    let train = "learning_rate=0.1\nmicro_batch_size=6\nlocal_steps=1\nmax_grad_norm=0";
    let mean = "id='classification'\npooling='mean'";
    let fine = "id='zeroth_order'\nepsilon=1e-5";
    for setup in [
        zo(LORA, fine, train),
        zo(FULL, fine, train),
        zo(PROMPT, fine, train),
        Setup { spec: gpt2(), ..zo(FULL, fine, train) },
        Setup { spec: bert(), objective: mean, classes: 3, ..zo(FULL, fine, train) },
    ] {
        let set = sequences(6, 1, setup.classes as u32);
        let delta = |setup: &Setup| {
            let (tuning, start) = setup.build(Reference, std::slice::from_ref(&set));
            client(&tuning, 1, &set).run(&start, Round(0)).unwrap()
        };
        let exact = delta(&Setup { estimator: "id='backprop'", ..setup.clone() });
        let estimate = delta(&setup);
        let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x) / 0.1).collect::<Vec<_>>();
        let (exact, moved) = (wide(&exact.delta), wide(&estimate.delta));
        let slope = estimate.metrics["grad_norm"];
        let along = dot(&exact, &moved);
        assert!((along - slope * slope).abs() < 2e-3 * slope * slope, "{setup:?}: {along} for {slope}²");
        // and it is along z, whose squared length is about the number of scalars
        let length = dot(&moved, &moved).sqrt() / slope;
        let dim = moved.len() as f64;
        assert!((length / dim.sqrt() - 1.0).abs() < 5.0 / dim.sqrt(), "{setup:?}: |z| {length} in {dim}");
    }
}

/// Steps that change nothing leave not a bit changed: the vector is perturbed by nobody, so nothing drifts.
#[test]
fn nothing_drifts() {
    let train = STEPS.replace("0.02", "1e-30").replace("local_steps=4", "local_steps=60");
    for (method, estimator) in
        [(LORA, TWO), (FULL, TWO), (PROMPT, SEVERAL), (FULL, SEVERAL), (FULL, "id='backprop'")]
    {
        let set = sequences(7, 3, 0);
        let (tuning, start) = zo(method, estimator, &train).build(Cpu::serial(), std::slice::from_ref(&set));
        let local = client(&tuning, 1, &set).run(&start, Round(2)).unwrap();
        assert!(local.delta.iter().all(|d| *d == 0.0), "{method}");
        assert!(local.metrics["grad_norm"] > 0.0, "{method}: nothing was measured");
    }
}

#[test]
fn bits_do_not_depend_on_what_carries_the_work() {
    for (method, estimator) in [(LORA, TWO), (FULL, TWO), (PROMPT, SEVERAL), (FULL, SEVERAL)] {
        let sets: Vec<_> = (0..3).map(|i| sequences(5 + i, i as u64, 0)).collect();
        let all = |backend: Cpu| -> Vec<Vec<f32>> {
            let (tuning, start) = zo(method, estimator, STEPS).build(backend, &sets);
            let run = |i: usize| client(&tuning, i as u64, &sets[i]).run(&start, Round(3)).unwrap().delta;
            let deltas = (0..3).map(run).collect();
            assert_eq!(tuning.workers(), 1, "one worker serves all in turn");
            deltas
        };
        let one = all(Cpu::serial());
        for threads in [2, 4] {
            assert_eq!(one, all(Cpu::threads(threads)), "{method}: {threads} threads");
        }
        assert_ne!(one[0], one[1]);
        let (tuning, start) = zo(method, estimator, STEPS).build(Cpu::serial(), &sets);
        let alone = client(&tuning, 2, &sets[2]).run(&start, Round(3)).unwrap().delta;
        assert_eq!(alone, one[2], "{method}: a used worker");
        let other = client(&tuning, 2, &sets[2]).run(&start, Round(4)).unwrap().delta;
        assert_ne!(alone, other, "directions of another round");
    }
}

/// What is evaluated after a step is the vector itself.
#[test]
fn a_perturbation_ends_with_its_step() {
    let set = sequences(8, 5, 0);
    let (tuning, start) = zo(FULL, TWO, STEPS).build(Cpu::serial(), std::slice::from_ref(&set));
    let held = HeldOut { sequences: &set, bytes: None, label_words: None };
    let before = tuning.evaluate(&start, held).unwrap();
    client(&tuning, 1, &set).run(&start, Round(0)).unwrap();
    assert_eq!(tuning.evaluate(&start, held).unwrap(), before);
}

#[test]
fn many_steps_descend() {
    let train = "learning_rate=0.01\nmicro_batch_size=8\nlocal_steps=300\nmax_grad_norm=0";
    let set = sequences(8, 5, 0);
    let (tuning, start) = zo(LORA, TWO, train).build(Cpu::serial(), std::slice::from_ref(&set));
    let held = HeldOut { sequences: &set, bytes: None, label_words: None };
    let before = tuning.evaluate(&start, held).unwrap().loss().unwrap();
    let delta = client(&tuning, 1, &set).run(&start, Round(0)).unwrap().delta;
    let end: Vec<f32> = start.iter().zip(&delta).map(|(s, d)| s - d).collect();
    let after = tuning.evaluate(&end, held).unwrap().loss().unwrap();
    assert!(after < 0.97 * before, "{before} to {after}");
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    let train = |text: &str| toml::from_str::<TrainSettings>(text).unwrap().check().unwrap();
    let plain = train("learning_rate=1e-3\nmicro_batch_size=1\nlocal_steps=1\nmax_grad_norm=0");
    let clipped = train("learning_rate=1e-3\nmicro_batch_size=1\nlocal_steps=1");
    let optimizer = |text: &str| optim::build(&text.parse().unwrap()).unwrap();
    let (sgd, wiring) = (optimizer(SGD), Wiring::default());
    let e = build(TWO);
    e.check(&wiring, &*sgd, &plain).unwrap();
    for text in [ADAMW, "id='sgd'\nmomentum=0.9"] {
        let refused = e.check(&wiring, &*optimizer(text), &plain).unwrap_err();
        assert!(matches!(refused, EstimatorError::Optimizer { .. }), "{text}");
    }
    let pulled =
        train("learning_rate=1e-3\nmicro_batch_size=1\nlocal_steps=1\nmax_grad_norm=0\nproximal=0.5");
    let refused = e.check(&wiring, &*sgd, &pulled).unwrap_err();
    assert!(matches!(refused, EstimatorError::Proximal { found: 0.5, .. }), "{refused}");
    let refused = e.check(&wiring, &*sgd, &clipped).unwrap_err();
    assert!(matches!(refused, EstimatorError::Clip { found: 1.0, .. }), "{refused}");
    let setup = Setup {
        method: "id='lora'\nlora_r=2\nlora_alpha=4\ntarget_modules='all-linear'\nlora_dropout=0.25",
        ..zo(LORA, TWO, STEPS)
    };
    let (tuning, _) = setup.build(Cpu::serial(), &[sequences(4, 1, 0)]);
    let refused = e.check(tuning.net().wiring(), &*sgd, &plain).unwrap_err();
    assert!(matches!(refused, EstimatorError::Dropout { found: 0.25, .. }), "{refused}");
    build("id='backprop'").check(tuning.net().wiring(), &*optimizer(ADAMW), &clipped).unwrap();

    for (text, word) in [
        ("id='zeroth_order'", "epsilon"),
        ("id='zeroth_order'\nepsilon=0", "epsilon"),
        ("id='zeroth_order'\nepsilon=1e-9", "epsilon"),
        ("id='zeroth_order'\nepsilon=nan", "epsilon"),
        ("id='zeroth_order'\nepsilon=1e-3\ndirections=0", "directions"),
        ("id='zeroth_order'\nepsilon=1e-3\nmax_projected_gradient=-1", "max_projected_gradient"),
        ("id='zeroth_order'\nepsilon=1e-3\ndistribution='cauchy'", "cauchy"),
        ("id='zeroth_order'\nepsilon=1e-3\neps=1", "eps"),
        ("id='zeroth'", "zeroth_order"),
        ("id='backprop'\nepsilon=1", "epsilon"),
    ] {
        let e = estimator::build(&text.parse().unwrap()).unwrap_err().to_string();
        assert!(e.contains(word), "{text}: {e}");
    }
}

/// Settings written out build the same estimator again.
#[test]
fn settings_are_complete() {
    for (entry, text) in ESTIMATORS.iter().zip(["id='backprop'", TWO]) {
        let built = build(text);
        assert_eq!(built.id(), entry.id);
        let table = built.settings().unwrap();
        assert_eq!(estimator::build(&table).unwrap().settings().unwrap(), table);
        assert!(text.lines().all(|l| table.contains_key(l.split('=').next().unwrap())));
    }
}

/// What peers must agree on: the seeds of a client's directions, and the direction of a seed.
#[test]
fn directions_are_pinned() {
    let stream = Stream::keyed(7, Purpose::Perturbation, Some(Round(3)), Some(ClientId(5)), "");
    assert_eq!(stream.substream(2).word_pair(1), PINNED_SEED);
    let spec = TensorSpec { name: "model.norm.weight".into(), shape: vec![6] };
    let noise = Perturbation::new(&Schema::new(vec![spec]).unwrap(), Law::Gaussian);
    let (b, mut z, mut host) = (Cpu::serial(), Cpu::serial().alloc(6).unwrap(), [0.0; 6]);
    noise.at(PINNED_SEED, 1.0).apply(&b, &mut z);
    b.download(Src::new(&z, 0, 6), &mut host).unwrap();
    assert_eq!(host.map(f32::to_bits), PINNED_BITS);
}

const PINNED_SEED: u64 = 6_667_559_870_872_366_939;
const PINNED_BITS: [u32; 6] =
    [3_204_865_752, 1_062_225_449, 1_064_970_456, 1_055_755_513, 1_063_324_975, 3_199_650_288];

#[test]
fn a_worker_has_the_memory_of_inference() {
    use antiphon_model::{Mode, planned_bytes};
    let set: Arc<[_]> = sequences(8, 5, 0);
    let setup = zo(FULL, TWO, STEPS);
    let (tuning, _) = setup.build(Cpu::serial(), std::slice::from_ref(&set));
    let (b, net) = (Cpu::serial(), tuning.net());
    let wiring = net.wiring();
    let bytes = |mode| {
        let task = common::world::task_of(&tuning);
        (
            planned_bytes(&b, &setup.spec, task, wiring, tuning.shape(), mode),
            antiphon_tune::worker_bytes(&b, &setup.spec, task, wiring, tuning.shape(), (mode, 0)),
        )
    };
    let ((infer, worker), (train, whole)) = (bytes(Mode::Infer), bytes(Mode::Train));
    assert!(infer < train);
    assert_eq!(worker - infer, 4 * wiring.schema.dim());
    assert_eq!(whole - train, 8 * wiring.schema.dim());
}
