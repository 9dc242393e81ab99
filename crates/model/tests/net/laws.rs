//! Laws that every family and method obeys, on models made here.

use antiphon_core::{Noise, Purpose, Stream};
use antiphon_kernels::{Backend, Coef, Cpu, Loss, Reference};
use antiphon_model::{
    Batch, DropoutSeed, Mode, Net, Proj, Shape, Spec, Task, Wiring, Workspace, planned_bytes,
};

use crate::common::{
    Random, Wire, download, families, fill, llama, methods, net, relative, task_of, theta, upload,
};

pub(crate) const SHAPE: Shape = Shape { tokens: 64, segments: 4, labelled: 48 };
const SEED: Option<DropoutSeed> = Some(DropoutSeed { key: [7, 11], step: 3 });

fn seed_of(wiring: &Wiring) -> Option<DropoutSeed> {
    SEED.filter(|_| wiring.lora.values().any(|p| p.dropout > 0.0))
}

pub(crate) fn loss<B: Backend>(
    b: &B,
    net: &Net<B>,
    params: &B::Buf,
    batch: &Batch,
    ws: &mut Workspace<B>,
    grads: Option<&mut B::Buf>,
) -> Loss {
    let seed = seed_of(net.wiring()).filter(|_| ws.mode() == Mode::Train);
    net.forward(b, params, batch, ws, seed).unwrap();
    let rows = match net.task() {
        Task::CausalLm => batch.labels().len(),
        Task::Classify { .. } => batch.classes().len(),
    };
    let coef = Coef::Uniform(1.0 / rows as f32);
    let Some(grads) = grads else {
        return match net.task() {
            Task::CausalLm => net.lm_loss(b, params, batch, ws, coef, None, None).unwrap(),
            Task::Classify { .. } => net.class_loss(b, params, batch, ws, coef, None, None).unwrap(),
        };
    };
    let loss = match net.task() {
        Task::CausalLm => net.lm_loss(b, params, batch, ws, coef, Some(grads), None).unwrap(),
        Task::Classify { .. } => net.class_loss(b, params, batch, ws, coef, Some(grads), None).unwrap(),
    };
    net.backward(b, params, batch, ws, seed, grads).unwrap();
    loss
}

/// Runs `check` for every family, task and method; returns how many there were.
pub(crate) fn each(mut check: impl FnMut(&str, &Spec, Task, Wiring)) -> usize {
    let mut count = 0;
    for (family, spec) in families() {
        let mut tasks = vec![task_of(&spec)];
        use antiphon_model::Pooling::{Cls, Last, Mean};
        for pooling in [Cls, Last, Mean] {
            tasks.push(Task::Classify { classes: 3, pooling });
        }
        for task in tasks {
            for (method, wiring) in methods(&spec, task) {
                if wiring.schema.dim() == 0 {
                    continue;
                }
                check(&format!("{family} {task:?} {method}"), &spec, task, wiring);
                count += 1;
            }
        }
    }
    assert!(count > 250, "only {count} cases ran");
    count
}

/// The derivative along a random direction of each tensor in turn, in binary64.
#[test]
fn gradients_are_finite_differences() {
    each(|name, spec, task, wiring| {
        let source = Random { spec: spec.clone(), task };
        let start = theta(&source, &wiring);
        let b = Reference;
        let net = net(&b, spec, task, wiring.clone());
        let mut batch = net.batch();
        fill(&mut batch);
        let mut ws = net.workspace(&b, SHAPE, Mode::Train).unwrap();
        let mut params = upload(&b, &start);
        let mut grads = b.alloc(start.len()).unwrap();
        let l = loss(&b, &net, &params, &batch, &mut ws, Some(&mut grads));
        assert!(l.rows > 0 && l.nll.is_finite());
        for (tensor, range) in wiring.schema.iter() {
            let mut stream = Stream::keyed(4, Purpose::Test, None, None, &tensor.name);
            let direction: Vec<f64> = range.clone().map(|_| stream.standard_normal()).collect();
            let exact: f64 = direction.iter().zip(&grads.values()[range.clone()]).map(|(v, g)| v * g).sum();
            let eps = 1e-6;
            let mut at = |sign: f64| {
                for (i, v) in range.clone().zip(&direction) {
                    params.values_mut()[i] = f64::from(start[i]) + sign * eps * v;
                }
                let l = loss(&b, &net, &params, &batch, &mut ws, None);
                l.nll / l.rows as f64
            };
            let estimate = (at(1.0) - at(-1.0)) / (2.0 * eps);
            at(0.0);
            let scale = exact.abs().max(estimate.abs()).max(1e-3);
            assert!(
                (exact - estimate).abs() / scale < 2e-6,
                "{name}: {}: gradient {exact}, difference quotient {estimate}",
                tensor.name
            );
        }
    });
}

/// The binary32 backend computes what the binary64 one does.
#[test]
fn the_cpu_agrees_with_the_reference() {
    each(|name, spec, task, wiring| {
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let (reference, slow) = step(&Reference, spec, task, &wiring, &start, |b| b);
        let (cpu, fast) = step(&Cpu::serial(), spec, task, &wiring, &start, |b| b);
        assert!((cpu.nll - reference.nll).abs() < 1e-4 * reference.nll, "{name}: loss");
        for (tensor, range) in wiring.schema.iter() {
            let error = relative(&fast[range.clone()], &slow[range]);
            assert!(error < 1e-4, "{name}: gradient of {}: {error:e}", tensor.name);
        }
    });
}

fn step<B: Backend>(
    b: &B,
    spec: &Spec,
    task: Task,
    wiring: &Wiring,
    start: &[f32],
    layout: impl Fn(Batch) -> Batch,
) -> (Loss, Vec<f32>) {
    let net = net(b, spec, task, wiring.clone());
    let mut batch = layout(net.batch());
    fill(&mut batch);
    let mut ws = net.workspace(b, SHAPE, Mode::Train).unwrap();
    let params = upload(b, start);
    let mut grads = b.alloc(start.len()).unwrap();
    let loss = loss(b, &net, &params, &batch, &mut ws, Some(&mut grads));
    (loss, download(b, &grads))
}

/// Padding changes nothing beyond the order of sums. Dropout is left out: its masks are indexed by row.
#[test]
fn a_padded_batch_is_the_same_batch() {
    each(|name, spec, task, mut wiring| {
        wiring.lora.values_mut().for_each(|p| p.dropout = 0.0);
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let (packed, a) = step(&Reference, spec, task, &wiring, &start, |b| b);
        let (padded, b) = step(&Reference, spec, task, &wiring, &start, |b| b.padded(13));
        assert!((packed.nll - padded.nll).abs() < 1e-9, "{name}: loss {} {}", packed.nll, padded.nll);
        assert!(relative(&a, &b) < 1e-6, "{name}: gradients {:e}", relative(&a, &b));
    });
}

#[test]
fn the_bits_do_not_depend_on_threads() {
    each(|name, spec, task, wiring| {
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let (one, g1) = step(&Cpu::serial(), spec, task, &wiring, &start, |b| b);
        for threads in [2, 4] {
            let (many, gn) = step(&Cpu::threads(threads), spec, task, &wiring, &start, |b| b);
            assert_eq!(one.nll.to_bits(), many.nll.to_bits(), "{name}: loss on {threads} threads");
            assert!(g1.iter().zip(&gn).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: {threads} threads");
        }
    });
}

/// A workspace is refilled, not cleared: a second step on it must not see the first.
#[test]
fn a_used_workspace_gives_the_bits_of_a_fresh_one() {
    each(|name, spec, task, wiring| {
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let b = Cpu::serial();
        let net = net(&b, spec, task, wiring);
        let params = upload(&b, &start);
        let mut ws = net.workspace(&b, SHAPE, Mode::Train).unwrap();
        let run = |ws: &mut Workspace<Cpu>| {
            let mut batch = net.batch();
            fill(&mut batch);
            let mut grads = b.alloc(start.len()).unwrap();
            loss(&b, &net, &params, &batch, ws, Some(&mut grads));
            download(&b, &grads)
        };
        let first = run(&mut ws);
        assert_eq!(first, run(&mut ws), "{name}");
    });
}

#[test]
fn inference_computes_the_loss_of_training_in_less_memory() {
    each(|name, spec, task, mut wiring| {
        wiring.lora.values_mut().for_each(|p| p.dropout = 0.0);
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let b = Cpu::serial();
        let net = net(&b, spec, task, wiring.clone());
        let params = upload(&b, &start);
        let mut batch = net.batch();
        fill(&mut batch);
        let mut train = net.workspace(&b, SHAPE, Mode::Train).unwrap();
        let mut infer = net.workspace(&b, SHAPE, Mode::Infer).unwrap();
        let a = loss(&b, &net, &params, &batch, &mut train, None);
        let c = loss(&b, &net, &params, &batch, &mut infer, None);
        assert_eq!(a, c, "{name}");
        for (ws, mode) in [(&train, Mode::Train), (&infer, Mode::Infer)] {
            assert_eq!(ws.bytes(), planned_bytes(&b, spec, task, &wiring, SHAPE, mode), "{name}");
        }
        assert!(infer.bytes() < train.bytes(), "{name}");
    });
}

/// The budget of 100 clients: rank 8 on q, k, v and o of a Llama of 6 layers, 8 sequences of 128 tokens.
#[test]
fn the_plan_of_the_small_benchmark_stays_below_140_megabytes() {
    let spec = Spec {
        vocab: 32000,
        hidden: 288,
        layers: 6,
        heads: 6,
        kv_heads: 6,
        head_dim: 48,
        ffn: 768,
        max_positions: 2048,
        tied: true,
        ..llama()
    };
    let targets: Vec<_> =
        (0..6).flat_map(|l| [Proj::Q, Proj::K, Proj::V, Proj::O].map(|p| (l, p, 8))).collect();
    let wiring = Wire::default().lora(&spec, &targets, 2.0, 0.0).done(&spec, Task::CausalLm);
    let shape = Shape { tokens: 1024, segments: 8, labelled: 1024 };
    let bytes = |mode| planned_bytes(&Cpu::serial(), &spec, Task::CausalLm, &wiring, shape, mode);
    let (train, infer) = (bytes(Mode::Train), bytes(Mode::Infer));
    println!("train {} kB, inference {} kB", train / 1000, infer / 1000);
    assert!(train <= 140_000_000, "{train}");
    assert!(infer <= 60_000_000, "{infer}");
}

/// Masks are keyed by step, layer and map: another step is another function, and no dropout is a third.
#[test]
fn dropout_masks_belong_to_their_step() {
    let spec = llama();
    let (_, wiring) =
        methods(&spec, Task::CausalLm).into_iter().find(|(name, _)| *name == "lora-dropout").unwrap();
    let start = theta(&Random { spec: spec.clone(), task: Task::CausalLm }, &wiring);
    let b = Cpu::serial();
    let net = net(&b, &spec, Task::CausalLm, wiring);
    let params = upload(&b, &start);
    let mut batch = net.batch();
    fill(&mut batch);
    let mut ws = net.workspace(&b, SHAPE, Mode::Train).unwrap();
    let mut nll = |seed| {
        net.forward(&b, &params, &batch, &mut ws, seed).unwrap();
        net.lm_loss(&b, &params, &batch, &mut ws, Coef::Uniform(1.0), None, None).unwrap().nll
    };
    let of = |key, step| Some(DropoutSeed { key, step });
    let all = [None, of([1, 2], 0), of([1, 2], 1), of([1, 3], 0)].map(&mut nll);
    assert_eq!(all, [None, of([1, 2], 0), of([1, 2], 1), of([1, 3], 0)].map(nll));
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| a != b), "{all:?}");
    }
}

/// Losses by row sum to the loss, and coefficients by row weigh the gradient.
#[test]
fn rows_have_their_own_losses_and_weights() {
    let (spec, task) = (llama(), Task::CausalLm);
    let wiring = methods(&spec, task).swap_remove(0).1;
    let start = theta(&Random { spec: spec.clone(), task }, &wiring);
    let b = Reference;
    let net = net(&b, &spec, task, wiring);
    let params = upload(&b, &start);
    let mut batch = net.batch();
    fill(&mut batch);
    let m = batch.labels().len();
    let mut ws = net.workspace(&b, SHAPE, Mode::Train).unwrap();
    let mut gradient = |coef: Coef<'_>, nll: Option<&mut [f32]>| {
        let mut grads = b.alloc(start.len()).unwrap();
        net.forward(&b, &params, &batch, &mut ws, None).unwrap();
        let loss = net.lm_loss(&b, &params, &batch, &mut ws, coef, Some(&mut grads), nll).unwrap();
        net.backward(&b, &params, &batch, &mut ws, None, &mut grads).unwrap();
        (loss, download(&b, &grads))
    };
    let mut nll = vec![0.0; m];
    let (loss, all) = gradient(Coef::Uniform(0.5), Some(&mut nll));
    assert!((nll.iter().map(|v| f64::from(*v)).sum::<f64>() - loss.nll).abs() < 1e-4);
    let weights =
        |odd: bool| -> Vec<f32> { (0..m).map(|i| if (i % 2 == 1) == odd { 0.5 } else { 0.0 }).collect() };
    let (_, even) = gradient(Coef::PerRow(&weights(false)), None);
    let (_, odd) = gradient(Coef::PerRow(&weights(true)), None);
    let sum: Vec<f32> = even.iter().zip(&odd).map(|(a, b)| a + b).collect();
    assert!(relative(&sum, &all) < 1e-6);
    assert!(relative(&even, &all) > 1e-2);
}

#[test]
fn a_refilled_batch_allocates_nothing() {
    let (spec, task) = (llama(), Task::CausalLm);
    let wiring = Wire::default().prompt(&spec, 2).done(&spec, task);
    let net = net(&Cpu::serial(), &spec, task, wiring);
    let mut batch = net.batch();
    batch.reserve(22, 3);
    let before = batch.reserved();
    for _ in 0..3 {
        fill(&mut batch);
    }
    assert_eq!(batch.rows(), 22);
    assert_eq!(before, batch.reserved());
}

/// The last block's MLP on the labelled rows alone gives what it gives on all rows.
#[test]
fn rows_without_labels_are_left_out_without_a_trace() {
    each(|name, spec, task, mut wiring| {
        if task != Task::CausalLm {
            return;
        }
        wiring.lora.values_mut().for_each(|p| p.dropout = 0.0);
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let b = Reference;
        let net = net(&b, spec, task, wiring);
        let params = upload(&b, &start);
        let mut labelled = net.batch();
        fill(&mut labelled);
        let mut all = net.batch();
        let mut ids = Vec::new();
        // the same tokens again: `fill` draws `len + 1` of which the last is only a label
        for (i, len) in [7usize, 4, 5].into_iter().enumerate() {
            let mut s = Stream::new(9, Purpose::Test).substream(i as u64);
            ids.clear();
            ids.extend((0..len).map(|_| s.below(spec.vocab as u64) as u32));
            all.push_tokens(&ids).unwrap();
        }
        let mut ws = net.workspace(&b, SHAPE, Mode::Train).unwrap();
        let mut hidden = |batch: &Batch| {
            net.forward(&b, &params, batch, &mut ws, None).unwrap();
            let rows = net.hidden(&b, &params, batch, labelled.label_rows(), &mut ws).unwrap();
            rows.buf.values()[..rows.len].to_vec()
        };
        let (some, every) = (hidden(&labelled), hidden(&all));
        assert!(labelled.label_rows().len() < labelled.rows());
        assert!(some.iter().zip(&every).all(|(a, b)| (a - b).abs() < 1e-12), "{name}");
    });
}
