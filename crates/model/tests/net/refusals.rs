//! What does not fit is refused with the place, what was found and what was expected.

use std::sync::Arc;

use antiphon_kernels::{Backend, Coef, Cpu, FrozenData};
use antiphon_model::{
    BatchError, DropoutSeed, HeadWiring, LoraPair, Mode, Net, NetError, Pooling, Proj, Shape, Spec, Task,
    TensorSource, Weights, WeightsError, Wiring,
};

use crate::common::{Random, Wire, families, fill, llama, methods, net, theta, upload};

const CLASSIFY: Task = Task::Classify { classes: 3, pooling: Pooling::Last };

/// A source with one tensor changed.
struct Tampered<F: Fn(&str, FrozenData, Vec<usize>) -> Option<(FrozenData, Vec<usize>)>>(Random, F);

impl<F: Fn(&str, FrozenData, Vec<usize>) -> Option<(FrozenData, Vec<usize>)>> TensorSource for Tampered<F> {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let (data, shape) = self.0.get(name)?;
        self.1(name, data, shape)
    }
}

fn load(change: impl Fn(&str, FrozenData, Vec<usize>) -> Option<(FrozenData, Vec<usize>)>) -> WeightsError {
    let source = Tampered(Random { spec: llama(), task: Task::CausalLm }, change);
    Weights::load(&Cpu::serial(), &llama(), Task::CausalLm, &source).unwrap_err()
}

#[test]
fn a_checkpoint_that_does_not_match_names_the_tensor_and_both_shapes() {
    let key = "model.layers.1.self_attn.k_proj.weight";
    let missing = load(|name, data, shape| (name != key).then_some((data, shape)));
    assert_eq!(missing.to_string(), format!("the checkpoint has no tensor `{key}` (expected shape [8, 12])"));
    let turned = load(|name, data, mut shape| {
        if name == key {
            shape.reverse();
        }
        Some((data, shape))
    });
    assert_eq!(
        turned.to_string(),
        format!("tensor `{key}` has shape [12, 8], and the configuration asks for [8, 12]")
    );
    let short = load(|name, data, shape| {
        let data = if name == key { FrozenData::Owned(vec![0.0; 95].into()) } else { data };
        Some((data, shape))
    });
    assert_eq!(short.to_string(), format!("tensor `{key}` of shape [8, 12] holds 95 elements"));
    let none = load(|name, data, shape| {
        let mut values = vec![0.0; 96];
        values[77] = f32::NAN;
        Some((if name == key { FrozenData::Owned(values.into()) } else { data }, shape))
    });
    assert!(none.to_string().starts_with(&format!("tensor `{key}` holds a NaN or an infinity (element 77)")));
}

fn refused(spec: &Spec, task: Task, change: impl FnOnce(&mut Wiring)) -> NetError {
    let b = Cpu::serial();
    let source = Random { spec: spec.clone(), task };
    let weights = Weights::load(&b, spec, task, &source).unwrap();
    let mut wiring = Wire::default().live(spec, task, |_, _| true).done(spec, task);
    change(&mut wiring);
    Net::new(&b, weights, task, Arc::new(wiring), spec.max_positions).unwrap_err()
}

#[test]
fn a_wiring_that_does_not_fit_is_refused() {
    let (llama, lm) = (llama(), Task::CausalLm);
    let bert = families().pop().unwrap().1;
    let pair = |a, b, dropout| LoraPair { a, b, rank: 2, scale: 1.0, dropout };

    let e = refused(&llama, lm, |w| {
        w.live.insert("model.layers.7.x.weight".into(), 0..4);
    });
    assert!(matches!(&e, NetError::Live { name, .. } if name == "model.layers.7.x.weight"), "{e}");
    let e = refused(&llama, lm, |w| {
        w.live.insert("model.norm.weight".into(), 0..4);
    });
    assert!(matches!(e, NetError::Range { expected: 12, .. }), "{e}");
    let e = refused(&llama, lm, |w| {
        w.lora.insert((2, Proj::Q), pair(0..24, 24..56, 0.0));
    });
    assert!(matches!(e, NetError::Lora { layer: 2, layers: 2, .. }), "{e}");
    let e = refused(&llama, lm, |w| {
        w.lora.insert((0, Proj::Qkv), pair(0..24, 24..56, 0.0));
    });
    assert!(matches!(&e, NetError::Lora { maps, .. } if maps.len() == 7), "{e}");
    let e = refused(&llama, lm, |w| {
        w.lora.insert((0, Proj::Q), pair(0..24, 24..57, 0.0));
    });
    assert!(matches!(e, NetError::Range { expected: 32, .. }), "{e}");
    let e = refused(&llama, lm, |w| {
        w.lora.insert((0, Proj::Q), pair(0..24, 24..56, 1.0));
    });
    assert!(matches!(e, NetError::Dropout { .. }), "{e}");
    let e = refused(&llama, CLASSIFY, |w| w.head = None);
    assert!(matches!(e, NetError::Head { head: false, .. }), "{e}");
    let e = refused(&llama, lm, |w| w.head = Some(HeadWiring { weight: 0..36, bias: None }));
    assert!(matches!(e, NetError::Head { head: true, .. }), "{e}");
    let e = refused(&llama, Task::Classify { classes: 3, pooling: Pooling::Pooler }, |_| ());
    assert!(matches!(e, NetError::Task { pooler: false, .. }), "{e}");
    let e = refused(&Spec { tied: true, ..bert }, lm, |_| ());
    assert!(matches!(e, NetError::Task { .. }), "{e}");

    let b = Cpu::serial();
    let weights = Weights::load(&b, &llama, lm, &Random { spec: llama.clone(), task: lm }).unwrap();
    let long = Net::new(&b, weights, lm, Arc::default(), 25).unwrap_err();
    assert_eq!(long.to_string(), "sequences of 25 positions, and the model has 24");
}

#[test]
fn sequences_that_the_model_cannot_read_are_refused_and_leave_the_batch_as_it_was() {
    let spec = llama();
    let wiring = Wire::default().prompt(&spec, 4).done(&spec, Task::CausalLm);
    let net = net(&Cpu::serial(), &spec, Task::CausalLm, wiring);
    let mut batch = net.batch();
    let none = std::iter::empty;
    batch.push(&[1, 2], none()).unwrap();
    let before = format!("{batch:?}");
    let e = batch.push(&[], none()).unwrap_err();
    assert_eq!(e, BatchError::Empty { sequence: 1 });
    let e = batch.push(&[1; 21], none()).unwrap_err();
    assert_eq!(e, BatchError::TooLong { sequence: 1, tokens: 21, before: 4, max_len: 24 });
    let e = batch.push(&[1, 29], none()).unwrap_err();
    assert_eq!(e, BatchError::Id { sequence: 1, position: 1, id: 29, vocab: 29 });
    let e = batch.push(&[1, 2], [(1, 3), (0, 3)]).unwrap_err();
    assert_eq!(e, BatchError::LabelRow { sequence: 1, row: 0, tokens: 2 });
    let e = batch.push(&[1, 2], [(2, 3)]).unwrap_err();
    assert_eq!(e, BatchError::LabelRow { sequence: 1, row: 2, tokens: 2 });
    let e = batch.push(&[1, 2], [(0, 3), (1, 29)]).unwrap_err();
    assert_eq!(e, BatchError::Label { sequence: 1, label: 29, count: 29 });
    let e = batch.push_class(&[1], 0).unwrap_err();
    assert_eq!(e, BatchError::Task { task: Task::CausalLm });
    assert_eq!(before, format!("{batch:?}"));
}

#[test]
fn a_step_that_was_not_planned_is_refused() {
    let b = Cpu::serial();
    let (spec, task) = (llama(), Task::CausalLm);
    let (_, wiring) = methods(&spec, task).swap_remove(0);
    let start = theta(&Random { spec: spec.clone(), task }, &wiring);
    let net = net(&b, &spec, task, wiring);
    let params = upload(&b, &start);
    let mut grads = b.alloc(start.len()).unwrap();
    let mut batch = net.batch();
    fill(&mut batch);
    let enough = Shape { tokens: 16, segments: 3, labelled: 16 };
    let ws = |shape, mode| net.workspace(&b, shape, mode).unwrap();

    let mut small = ws(Shape { tokens: 15, ..enough }, Mode::Train);
    let e = net.forward(&b, &params, &batch, &mut small, None).unwrap_err();
    assert_eq!(e.to_string(), "16 rows in a step, and the workspace was planned for 15");
    let mut small = ws(Shape { segments: 2, ..enough }, Mode::Train);
    assert!(matches!(net.forward(&b, &params, &batch, &mut small, None), Err(NetError::Capacity { .. })));

    let mut infer = ws(enough, Mode::Infer);
    let seed = Some(DropoutSeed { key: [1, 2], step: 0 });
    assert!(matches!(net.forward(&b, &params, &batch, &mut infer, seed), Err(NetError::Inference)));
    net.forward(&b, &params, &batch, &mut infer, None).unwrap();
    let coef = Coef::Uniform(1.0);
    let e = net.lm_loss(&b, &params, &batch, &mut infer, coef, Some(&mut grads), None).unwrap_err();
    assert!(matches!(e, NetError::Inference));
    let e = net.backward(&b, &params, &batch, &mut infer, None, &mut grads).unwrap_err();
    assert!(matches!(e, NetError::Inference));
    let e = net.class_loss(&b, &params, &batch, &mut infer, coef, None, None).unwrap_err();
    assert!(matches!(e, NetError::Batch(BatchError::Task { .. })));
    let mut few = ws(Shape { labelled: 2, ..enough }, Mode::Train);
    let e = net.forward(&b, &params, &batch, &mut few, None).unwrap_err();
    assert!(matches!(e, NetError::Capacity { what: "rows of the head", planned: 2, .. }), "{e}");

    let e = net.hidden(&b, &params, &batch, &[0, 1], &mut infer).unwrap_err();
    assert!(matches!(e, NetError::Rows));

    let mut unlabelled = net.batch();
    unlabelled.push_tokens(&[1, 2, 3]).unwrap();
    net.forward(&b, &params, &unlabelled, &mut infer, None).unwrap();
    let e = net.lm_loss(&b, &params, &unlabelled, &mut infer, coef, None, None).unwrap_err();
    assert!(matches!(e, NetError::NoLabels));
    let short = b.alloc(3).unwrap();
    let e = net.forward(&b, &short, &batch, &mut infer, None).unwrap_err();
    assert!(matches!(e, NetError::Params { found: 3, .. }));
}
