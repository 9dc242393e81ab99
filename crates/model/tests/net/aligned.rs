//! What aligns one model with another: hidden states at taps and the divergence of next tokens. Every gradient against
//! difference quotients in binary64, and the laws of a model that follows itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_core::{Noise, Purpose, Stream};
use antiphon_kernels::{Backend, Coef, Cpu, FrozenData, Reference};
use antiphon_model::emulator::{EmulatorSettings, live_tensors, plugged};
use antiphon_model::names::Role;
use antiphon_model::{
    Batch, Emulator, Mode, Net, Proj, Spec, Taps, Task, Teacher, Weights, WeightsError, Wiring, Workspace,
};

use crate::common::{Random, Wire, download, families, fill, relative, task_of, theta, upload};
use crate::laws::SHAPE;

/// Weights of the terms: next tokens, hidden states, divergence.
type Terms = [f64; 3];

fn emulator(rate: f64) -> Emulator {
    let rule = toml::Table::from_iter([("id".to_owned(), "offsite_tuning".into())]);
    let settings = EmulatorSettings { adapter_bottom: 1, adapter_top: 1, drop_rate: rate, rule };
    Emulator::new(6, &settings, &[]).unwrap()
}

/// A student with its middle in a vector, and the model that it follows.
struct Both<B: Backend> {
    student: Net<B>,
    teacher: Net<B>,
    own: Workspace<B>,
    theirs: Workspace<B>,
    taps: [Taps<B>; 2],
    nothing: B::Buf,
    batch: Batch,
}

impl<B: Backend> Both<B> {
    fn new(b: &B, spec: &Spec, task: Task, rate: f64) -> Self {
        Self::from(b, spec, task, rate, &Random { spec: spec.clone(), task })
    }

    fn from(b: &B, spec: &Spec, task: Task, rate: f64, source: &dyn antiphon_model::TensorSource) -> Self {
        let emulator = emulator(rate);
        let short = emulator.spec(spec).unwrap();
        let load = |spec| Weights::load(b, spec, task, source).unwrap();
        let wiring = Arc::new(emulator.wire_middle(&short, task).unwrap());
        let student = Net::new(b, load(&short), task, wiring, spec.max_positions).unwrap();
        let plain = Wire::default().done(spec, task);
        let nothing = upload(b, &vec![0.0; plain.schema.dim()]);
        let teacher = Net::new(b, load(spec), task, Arc::new(plain), spec.max_positions).unwrap();
        let joints = emulator.joints();
        let mine: Vec<usize> = joints.iter().map(|j| j.emulator).collect();
        let theirs: Vec<usize> = joints.iter().map(|j| j.whole).collect();
        let taps = [
            student.taps(b, &mine, SHAPE, Mode::Train).unwrap(),
            teacher.taps(b, &theirs, SHAPE, Mode::Infer).unwrap(),
        ];
        let mut batch = student.batch();
        fill(&mut batch);
        Self {
            own: student.workspace(b, SHAPE, Mode::Train).unwrap(),
            theirs: teacher.workspace(b, SHAPE, Mode::Infer).unwrap(),
            student,
            teacher,
            taps,
            nothing,
            batch,
        }
    }

    /// The loss, and its gradient into `grads`.
    fn loss(&mut self, b: &B, params: &B::Buf, terms: Terms, mut grads: Option<&mut B::Buf>) -> f64 {
        let Self { student, teacher, own, theirs, taps: [s, t], nothing, batch } = self;
        teacher.forward_tapped(b, nothing, batch, theirs, None, t).unwrap();
        student.forward_tapped(b, params, batch, own, None, s).unwrap();
        let rows = batch.labels().len() as f64;
        let [lm, hidden, kl] = terms;
        let mut loss = 0.0;
        if lm > 0.0 {
            let coef = Coef::Uniform((lm / rows) as f32);
            loss += lm / rows
                * student.lm_loss(b, params, batch, own, coef, grads.as_deref_mut(), None).unwrap().nll;
        }
        if kl > 0.0 {
            let of = Teacher { net: teacher, params: nothing, workspace: theirs };
            let to = (grads.as_deref_mut(), lm > 0.0);
            loss += kl / rows * student.kl_loss(b, params, batch, own, of, (kl / rows) as f32, to).unwrap();
        }
        let count = s.count() as f64;
        for tap in 0..s.count() {
            let (apart, size) = s.pull(b, tap, t, (hidden / count) as f32);
            loss += hidden / count * apart / size;
        }
        if let Some(grads) = grads {
            student.backward_tapped(b, params, batch, own, None, grads, (lm + kl > 0.0, s)).unwrap();
        }
        loss
    }
}

fn cases() -> Vec<(&'static str, Spec, Task, Terms)> {
    let terms = [[0.0, 3.0, 0.0], [0.0, 0.0, 1.5], [1.0, 0.0, 0.0], [0.5, 3.0, 0.9]];
    let mut all = Vec::new();
    for (family, spec) in families() {
        let (spec, task) = (Spec { layers: 6, ..spec.clone() }, task_of(&spec));
        // an encoder has hidden states and no next tokens
        let of = |t: &&Terms| spec.causal || t[0] + t[2] == 0.0;
        all.extend(terms.iter().filter(of).map(|&t| (family, spec.clone(), task, t)));
    }
    assert!(all.len() > 20);
    all
}

#[test]
fn gradients_of_alignment_are_finite_differences() {
    let b = Reference;
    for (family, spec, task, terms) in cases() {
        let mut both = Both::new(&b, &spec, task, 0.5);
        let wiring = Arc::clone(both.student.wiring());
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let mut params = upload(&b, &start);
        let mut grads = b.alloc(start.len()).unwrap();
        assert!(both.loss(&b, &params, terms, Some(&mut grads)) > 0.0);
        for (tensor, range) in wiring.schema.iter().filter(|(t, _)| wiring.live.contains_key(&t.name)) {
            let mut stream = Stream::keyed(4, Purpose::Test, None, None, &tensor.name);
            let direction: Vec<f64> = range.clone().map(|_| stream.standard_normal()).collect();
            let exact: f64 = direction.iter().zip(&grads.values()[range.clone()]).map(|(v, g)| v * g).sum();
            let eps = 1e-6;
            let mut at = |sign: f64| {
                for (i, v) in range.clone().zip(&direction) {
                    params.values_mut()[i] = f64::from(start[i]) + sign * eps * v;
                }
                both.loss(&b, &params, terms, None)
            };
            let estimate = (at(1.0) - at(-1.0)) / (2.0 * eps);
            at(0.0);
            let scale = exact.abs().max(estimate.abs()).max(1e-2);
            // coefficients pass the seam as binary32
            assert!(
                (exact - estimate).abs() / scale < 1e-5,
                "{family} {terms:?}: {}: gradient {exact}, difference quotient {estimate}",
                tensor.name
            );
        }
    }
}

#[test]
fn the_cpu_aligns_as_the_reference_does() {
    for (family, spec, task, terms) in cases() {
        fn step<B: Backend>(b: &B, spec: &Spec, task: Task, terms: Terms) -> (f64, Vec<f32>) {
            let mut both = Both::new(b, spec, task, 0.5);
            let start = theta(&Random { spec: spec.clone(), task }, both.student.wiring());
            let mut grads = b.alloc(start.len()).unwrap();
            let loss = both.loss(b, &upload(b, &start), terms, Some(&mut grads));
            (loss, download(b, &grads))
        }
        let (slow, fast) = (step(&Reference, &spec, task, terms), step(&Cpu::threads(2), &spec, task, terms));
        assert!((slow.0 - fast.0).abs() < 1e-4 * slow.0, "{family} {terms:?}: {} {}", slow.0, fast.0);
        assert!(relative(&fast.1, &slow.1) < 1e-4, "{family} {terms:?}");
        assert_eq!(step(&Cpu::serial(), &spec, task, terms), fast, "threads change no bits");
    }
}

/// Without a drop the student is its teacher: hidden states and next tokens agree bit for bit, and nothing pulls.
#[test]
fn a_model_that_follows_itself_is_at_rest() {
    let mut count = 0;
    for (family, spec, task, terms) in cases().into_iter().filter(|(.., t)| t[0] == 0.0) {
        let b = Cpu::serial();
        let mut both = Both::new(&b, &spec, task, 0.0);
        let start = theta(&Random { spec: spec.clone(), task }, both.student.wiring());
        let mut grads = b.alloc(start.len()).unwrap();
        let loss = both.loss(&b, &upload(&b, &start), terms, Some(&mut grads));
        assert_eq!(loss, 0.0, "{family}");
        assert!(download(&b, &grads).iter().all(|g| *g == 0.0), "{family}");
        count += 1;
    }
    assert!(count > 10);
}

/// The loss of a net whose weights are `weights`, with nothing trainable.
fn frozen_loss(spec: &Spec, weights: Arc<Weights<Cpu>>) -> f64 {
    let b = Cpu::serial();
    let net = Net::new(&b, weights, Task::CausalLm, Arc::default(), spec.max_positions).unwrap();
    let (mut batch, nothing) = (net.batch(), b.alloc(0).unwrap());
    fill(&mut batch);
    let mut ws = net.workspace(&b, SHAPE, Mode::Infer).unwrap();
    net.forward(&b, &nothing, &batch, &mut ws, None).unwrap();
    net.lm_loss(&b, &nothing, &batch, &mut ws, Coef::Uniform(1.0), None, None).unwrap().nll
}

#[test]
fn an_adapter_in_the_weights_is_the_adapter_on_them() {
    let task = Task::CausalLm;
    for (family, spec) in families().into_iter().filter(|(_, s)| s.causal) {
        let source = Random { spec: spec.clone(), task };
        let weights = Weights::load(&Cpu::serial(), &spec, task, &source).unwrap();
        let targets = [(1, Proj::Q, 2), (1, Proj::Qkv, 2), (0, Proj::Down, 3)];
        let wirings = [
            Wire::default().live(&spec, task, |r, _| r.layer() == Some(1)).done(&spec, task),
            Wire::default().lora(&spec, &targets, 0.7, 0.0).done(&spec, task),
        ];
        for wiring in wirings {
            let theta: Vec<f32> = theta(&source, &wiring).iter().map(|v| v * 1.1 + 0.01).collect();
            let b = Cpu::serial();
            let merged = weights.with(&b, &plugged(&source, &spec, &wiring, &theta).unwrap()).unwrap();
            let live = !wiring.live.is_empty();
            let net = Net::new(&b, Arc::clone(&weights), task, Arc::new(wiring), spec.max_positions).unwrap();
            let mut batch = net.batch();
            fill(&mut batch);
            let mut ws = net.workspace(&b, SHAPE, Mode::Infer).unwrap();
            let on = crate::laws::loss(&b, &net, &upload(&b, &theta), &batch, &mut ws, None).nll;
            let inside = frozen_loss(&spec, merged);
            let plain = frozen_loss(&spec, Arc::clone(&weights));
            assert!((on - plain).abs() > 1e-3, "{family}: the adapter does nothing");
            // trained tensors stand where they stood; merging rounds
            let bound = if live { 0.0 } else { 1e-4 * on };
            assert!((on - inside).abs() <= bound, "{family}: {on} {inside}");
        }
    }
}

#[test]
fn what_another_model_holds_is_refused() {
    let (_, spec) = families().remove(0);
    let (b, task) = (Cpu::serial(), Task::CausalLm);
    let weights = Weights::load(&b, &spec, task, &Random { spec: spec.clone(), task }).unwrap();
    let put = |name: &str, values: Vec<f32>, shape: Vec<usize>| {
        let one = BTreeMap::from([(name.to_owned(), (FrozenData::Owned(values.into()), shape))]);
        weights.with(&b, &one).unwrap_err()
    };
    let d = spec.hidden;
    let norm = "model.norm.weight";
    assert!(matches!(
        put("model.layers.9.mlp.up_proj.weight", vec![0.0; 4], vec![4]),
        WeightsError::Foreign { .. }
    ));
    assert!(matches!(put(norm, vec![0.0; d + 1], vec![d + 1]), WeightsError::Shape { .. }));
    assert!(matches!(put(norm, vec![f32::NAN; d], vec![d]), WeightsError::NotFinite { .. }));
    // the adapter of a larger model, plugged into a smaller one
    let larger = Spec { layers: 4, ..spec.clone() };
    let wiring = Wire::default()
        .live(&larger, task, |r, _| {
            r == Role::FinalNorm(antiphon_model::Part::Weight) || r.layer() == Some(3)
        })
        .done(&larger, task);
    let foreign = weights.with(&b, &live_tensors(&wiring, &vec![1.0; wiring.schema.dim()]));
    assert!(matches!(foreign, Err(WeightsError::Foreign { .. })));
}

#[test]
fn the_middle_is_wired_by_the_checkpoints_names() {
    let (_, spec) = families().remove(0);
    let whole = Spec { layers: 6, ..spec };
    let e = emulator(0.5);
    let wiring: Wiring = e.wire_middle(&e.spec(&whole).unwrap(), Task::CausalLm).unwrap();
    assert_eq!(e.middle(), [1, 4]);
    assert!(wiring.live.keys().all(|n| n.starts_with("model.layers.1.") || n.starts_with("model.layers.4.")));
    assert_eq!(wiring.live.len(), wiring.schema.tensors().len());
    assert!(wiring.schema.dim() > 0 && wiring.head.is_none());
}

#[derive(serde::Deserialize)]
struct Golden {
    sequences: Vec<Vec<u32>>,
    tensors: BTreeMap<String, Vec<f32>>,
    middle: BTreeMap<String, Vec<f32>>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    terms: Terms,
    taps: usize,
    loss: f64,
    grads: BTreeMap<String, Vec<f32>>,
}

struct File(BTreeMap<String, Vec<f32>>, Spec);

impl antiphon_model::TensorSource for File {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let info = antiphon_model::tensors(&self.1, Task::CausalLm).into_iter().find(|t| t.name == name)?;
        Some((FrozenData::Owned(self.0.get(name)?.as_slice().into()), info.shape))
    }
}

/// Loss and every gradient against PyTorch (`tests/golden/align/make.py`).
#[test]
fn alignment_is_that_of_pytorch() {
    fn check<B: Backend>(b: &B, tolerance: f64) {
        let golden: Golden = serde_json::from_str(include_str!("../golden/align/align.json")).unwrap();
        let spec = Spec {
            layers: 6,
            vocab: 19,
            hidden: 8,
            heads: 2,
            kv_heads: 1,
            ffn: 12,
            max_positions: 32,
            norm: antiphon_model::Norm { kind: antiphon_model::NormKind::Rms, eps: 1e-6 },
            positions: antiphon_model::Positions::Rope {
                theta: 1e4,
                scaling: antiphon_model::RopeScaling::None,
            },
            ..crate::common::llama()
        };
        let task = Task::CausalLm;
        let source = File(golden.tensors.clone(), spec.clone());
        assert_eq!(golden.cases.len(), 3);
        for case in &golden.cases {
            let mut both = Both::from(b, &spec, task, 0.5, &source);
            let joints = emulator(0.5).joints();
            if case.taps == 1 {
                let last = joints.last().unwrap();
                both.taps = [
                    both.student.taps(b, &[last.emulator], SHAPE, Mode::Train).unwrap(),
                    both.teacher.taps(b, &[last.whole], SHAPE, Mode::Infer).unwrap(),
                ];
            }
            both.batch.clear();
            for ids in &golden.sequences {
                let n = ids.len() - 1;
                both.batch.push(&ids[..n], (0..n).map(|i| (i, ids[i + 1]))).unwrap();
            }
            let wiring = Arc::clone(both.student.wiring());
            let phi: Vec<f32> =
                wiring.schema.tensors().iter().flat_map(|t| golden.middle[&t.name].clone()).collect();
            let mut grads = b.alloc(phi.len()).unwrap();
            let loss = both.loss(b, &upload(b, &phi), case.terms, Some(&mut grads));
            assert!((loss - case.loss).abs() < tolerance * case.loss, "{}: {loss} {}", case.name, case.loss);
            let grads = download(b, &grads);
            for (tensor, range) in wiring.schema.iter() {
                let error = relative(&grads[range], &case.grads[&tensor.name]);
                assert!(error < tolerance, "{} {} {}: {error:e}", b.name(), case.name, tensor.name);
            }
        }
    }
    check(&Reference, 1e-5);
    check(&Cpu::serial(), 1e-4);
}
