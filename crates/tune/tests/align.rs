//! Alignment of an emulator: nearer on data that it never saw, the same bits on any number of threads, and nothing to do
//! without a drop.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_core::{ClientId, Round};
use antiphon_data::Sequence;
use antiphon_kernels::Cpu;
use antiphon_model::emulator::{EmulatorSettings, Tensors};
use antiphon_model::{Emulator, Pooling, Spec, Task, TensorSource, Weights, Wiring};
use antiphon_tune::align::{HiddenAt, influence};
use antiphon_tune::{Adapter, Align, AlignSettings, Alignment, Distance, Sides, TuneError, method};
use common::Checkpoint;
use common::world::sequences;

const HOW: &str = "steps = 120\nlearning_rate = 3e-3\nmicro_batch_size = 8\n";

fn how(terms: &str) -> Align {
    toml::from_str::<AlignSettings>(&format!("{HOW}{terms}")).unwrap().check("emulator.distill").unwrap()
}

struct World {
    emulator: Emulator,
    student: Arc<Weights<Cpu>>,
    teacher: Arc<Weights<Cpu>>,
    task: Task,
    phi: Vec<f32>,
}

impl World {
    fn new(spec: Spec, task: Task, rate: f64) -> Self {
        let rule = toml::Table::from_iter([("id".to_owned(), "offsite_tuning".into())]);
        let settings = EmulatorSettings { adapter_bottom: 1, adapter_top: 1, drop_rate: rate, rule };
        let emulator = Emulator::new(spec.layers, &settings, &[]).unwrap();
        let short = emulator.spec(&spec).unwrap();
        let source = Checkpoint { spec: spec.clone(), task };
        let b = Cpu::serial();
        let [student, teacher] = [&short, &spec].map(|s| Weights::load(&b, s, task, &source).unwrap());
        let wiring = emulator.wire_middle(&short, task).unwrap();
        let mut phi = Vec::new();
        for t in wiring.schema.tensors() {
            match source.get(&t.name).filter(|_| wiring.live.contains_key(&t.name)) {
                Some(_) => phi.extend(source.tensor(&t.name).unwrap()),
                None => phi.extend(vec![0.0; t.len()]),
            }
        }
        Self { emulator, student, teacher, task, phi }
    }

    fn alignment(&self, sets: &[&[Sequence]], threads: usize, places: HiddenAt) -> Alignment<Cpu> {
        let none = Wiring::default();
        let adapter = Adapter { tensors: &Tensors::new(), wirings: [&none, &none], theta: &[] };
        self.alignment_with(&adapter, sets, threads, places)
    }

    fn alignment_with(
        &self,
        adapter: &Adapter<'_>,
        sets: &[&[Sequence]],
        threads: usize,
        places: HiddenAt,
    ) -> Alignment<Cpu> {
        let sides = Sides {
            backend: Arc::new(Cpu::threads(threads)),
            emulator: &self.emulator,
            student: &self.student,
            teacher: &self.teacher,
            task: self.task,
        };
        Alignment::new(&sides, adapter, sets, (8, 2), places).unwrap()
    }
}

/// Distances on held-out data before and after, and the middle.
fn aligned(world: &World, terms: &str, threads: usize) -> (Distance, Distance, Vec<f32>) {
    let classes = if matches!(world.task, Task::CausalLm) { 0 } else { 3 };
    let (public, held) = (sequences(64, 1, classes), sequences(32, 2, classes));
    let how = how(terms);
    let mut a = world.alignment(&[&public, &held], threads, how.hidden_at);
    let (go, mut phi) = (AtomicBool::new(false), world.phi.clone());
    let before = a.distance(&phi, &held, &go).unwrap();
    let loss = a.train(&mut phi, &how, &public, (7, Round(0), ClientId(9)), &go).unwrap();
    assert!(loss.is_finite() && loss > 0.0);
    (before, a.distance(&phi, &held, &go).unwrap(), phi)
}

fn llama() -> Spec {
    Spec { layers: 6, ..common::llama() }
}

#[test]
fn alignment_brings_hidden_states_nearer_on_data_that_it_never_saw() {
    for terms in ["hidden = 3", "hidden = 3\nhidden_at = 'layers'", "language_model = 1\nhidden = 30"] {
        let (before, after, _) = aligned(&World::new(llama(), Task::CausalLm, 0.5), terms, 2);
        assert!(after.hidden < 0.9 * before.hidden, "{terms}: {before:?} {after:?}");
    }
    let (before, after, _) = aligned(&World::new(llama(), Task::CausalLm, 0.5), "kl = 1", 2);
    assert!(after.kl.unwrap() < 0.9 * before.kl.unwrap(), "{before:?} {after:?}");
    // an encoder has hidden states alone
    let world = World::new(Spec { layers: 6, ..common::bert() }, common::CLASSIFY, 0.5);
    let (before, after, phi) = aligned(&world, "hidden = 3", 1);
    assert!(after.hidden < 0.9 * before.hidden && after.kl.is_none(), "{before:?} {after:?}");
    // and its unread head stays as it was
    assert_eq!(phi[phi.len() - 3..], world.phi[phi.len() - 3..]);
}

#[test]
fn threads_change_no_bits_and_another_round_another_order() {
    let world = World::new(llama(), Task::CausalLm, 0.5);
    let terms = "language_model = 1\nhidden = 3\nkl = 0.5";
    let one = aligned(&world, terms, 1).2;
    assert_eq!(one, aligned(&world, terms, 3).2);
    let public = sequences(64, 1, 0);
    let mut a = world.alignment(&[&public], 1, HiddenAt::End);
    let mut other = world.phi.clone();
    let go = AtomicBool::new(false);
    a.train(&mut other, &how(terms), &public, (7, Round(1), ClientId(9)), &go).unwrap();
    assert_ne!(one, other);
}

#[test]
fn without_a_drop_there_is_no_distance() {
    let world = World::new(llama(), Task::CausalLm, 0.0);
    let held = sequences(16, 2, 0);
    let mut a = world.alignment(&[&held], 1, HiddenAt::Layers);
    let found = a.distance(&world.phi, &held, &AtomicBool::new(false)).unwrap();
    assert_eq!((found.hidden, found.kl), (0.0, Some(0.0)));
    let mut phi = world.phi.clone();
    a.train(
        &mut phi,
        &how("hidden = 30\nkl = 1"),
        &held,
        (7, Round(0), ClientId(9)),
        &AtomicBool::new(false),
    )
    .unwrap();
    assert_eq!(phi, world.phi);
}

/// Whichever row the head of the task reads, every row is measured.
#[test]
fn what_blocks_do_depends_neither_on_threads_nor_on_the_head() {
    let bert = Spec { layers: 6, ..common::bert() };
    let tasks = [Pooling::Mean, Pooling::Cls].map(|pooling| Task::Classify { classes: 3, pooling });
    let measured = |spec: &Spec, task, threads| {
        let b = Cpu::threads(threads);
        let weights = Weights::load(&b, spec, task, &Checkpoint { spec: spec.clone(), task }).unwrap();
        influence(&b, weights, task, &sequences(20, 3, 3), &AtomicBool::new(false)).unwrap()
    };
    let found = measured(&bert, tasks[0], 1);
    assert!(found.len() == 6 && found.iter().all(|s| *s > 1e-3 && *s < 2.0), "{found:?}");
    assert_eq!(found, measured(&bert, tasks[1], 3));
    let causal = measured(&llama(), Task::CausalLm, 1);
    assert_eq!(causal, measured(&llama(), Task::CausalLm, 3));
    assert!(causal.windows(2).any(|w| w[0] != w[1]));
}

/// Bottlenecks are no tensors of the checkpoint: they stand in both models beside them, and alignment moves the middle alone.
#[test]
fn bottlenecks_stand_in_both_models() {
    let houlsby = "id = 'houlsby'\nbottleneck_size = 3\nlayers_to_transform = [0, 5]";
    let houlsby = method::build(&toml::from_str(houlsby).unwrap()).unwrap();
    let tasks = [(llama(), Task::CausalLm), (Spec { layers: 6, ..common::bert() }, common::CLASSIFY)];
    for ((spec, task), rate) in tasks.into_iter().flat_map(|t| [(t.clone(), 0.0), (t, 0.5)]) {
        let world = World::new(spec.clone(), task, rate);
        let on = [world.student.spec(), &spec].map(|s| houlsby.wire(s, task).unwrap());
        let wirings = [&on[0], &on[1]];
        let theta: Vec<f32> = (0..on[0].schema.dim()).map(|i| ((i * 7 % 11) as f32 - 5.0) * 0.1).collect();
        let classes = if task == Task::CausalLm { 0 } else { 3 };
        let (public, held) = (sequences(64, 1, classes), sequences(32, 2, classes));
        let how = how(if classes == 0 { "language_model = 1\nhidden = 3\nkl = 1" } else { "hidden = 3" });
        let go = AtomicBool::new(false);
        let with = |theta: &[f32]| {
            let adapter = Adapter { tensors: &Tensors::new(), wirings, theta };
            world.alignment_with(&adapter, &[&public, &held], 2, HiddenAt::Layers)
        };
        let mut both = with(&theta);
        let before = both.distance(&world.phi, &held, &go).unwrap();
        if rate == 0.0 {
            assert_eq!((before.hidden, before.kl.unwrap_or(0.0)), (0.0, 0.0));
            continue;
        }
        // an adapter that does nothing is another one
        let idle = with(&vec![0.0; theta.len()]).distance(&world.phi, &held, &go).unwrap();
        assert!((before.hidden - idle.hidden).abs() > 1e-4 * idle.hidden, "{before:?} {idle:?}");
        let mut phi = world.phi.clone();
        both.train(&mut phi, &how, &public, (7, Round(0), ClientId(9)), &go).unwrap();
        let after = both.distance(&phi, &held, &go).unwrap();
        assert!(after.hidden < 0.9 * before.hidden, "{before:?} {after:?}");
        // the adapter is as it was: a fresh pair of models with it is as far apart
        assert_eq!(with(&theta).distance(&phi, &held, &go).unwrap(), after);
    }
}

#[test]
fn what_cannot_be_aligned_is_refused() {
    let world = World::new(llama(), Task::CausalLm, 0.5);
    let public = sequences(16, 1, 0);
    let mut a = world.alignment(&[&public], 1, HiddenAt::End);
    let stop = AtomicBool::new(true);
    assert!(matches!(a.distance(&world.phi, &public, &stop), Err(TuneError::Interrupted)));
    let mut short = world.phi[1..].to_vec();
    let go = AtomicBool::new(false);
    let refused = a.train(&mut short, &how("kl = 1"), &public, (7, Round(0), ClientId(9)), &go);
    assert!(matches!(refused, Err(TuneError::Length { .. })));
    let hot = Align { learning_rate: 1e30, max_grad_norm: None, ..how("hidden = 1") };
    let mut phi = world.phi.clone();
    let diverged = a.train(&mut phi, &hot, &public, (7, Round(0), ClientId(9)), &go);
    assert!(matches!(diverged, Err(TuneError::NotFinite { .. })), "{diverged:?}");
}
