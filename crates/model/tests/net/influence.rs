//! Block influence: against transformers (`tests/golden/influence/make.py`), and what it says of blocks that do nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_kernels::{Backend, Cpu, FrozenData, Gelu, Reference};
use antiphon_model::{
    Activation, Checkpoint, Influence, Mode, Net, NetError, Pooling, Shape, Spec, Task, TensorSource, Weights,
};
use serde::Deserialize;

use crate::common::{Random, Wire, families, upload};
use crate::shared::model;

#[derive(Deserialize)]
struct Golden {
    stories260k: Case,
    bert: Case,
}

#[derive(Deserialize)]
struct Case {
    sequences: Vec<Vec<u32>>,
    #[serde(default)]
    tensors: BTreeMap<String, Vec<f32>>,
    influence: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/influence/influence.json")).unwrap()
}

/// The tensors of a file, whose names lack the prefix of the whole model's.
struct File<'a>(&'a BTreeMap<String, Vec<f32>>, &'a Spec, Task);

impl TensorSource for File<'_> {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let info = antiphon_model::tensors(self.1, self.2).into_iter().find(|t| t.name == name)?;
        let values = self.0.get(name.strip_prefix("bert.").unwrap_or(name))?;
        Some((FrozenData::Owned(values.as_slice().into()), info.shape))
    }
}

const MEAN: Task = Task::Classify { classes: 2, pooling: Pooling::Mean };

/// What blocks do to `sequences`, `each` of them at a time.
fn scores<B: Backend>(
    b: &B,
    (spec, task): (&Spec, Task),
    source: &dyn TensorSource,
    sequences: &[Vec<u32>],
    each: usize,
) -> Vec<f64> {
    let weights = Weights::load(b, spec, task, source).unwrap();
    let wiring = Wire::default().done(spec, task);
    let params = upload(b, &vec![0.0; wiring.schema.dim()]);
    let net = Net::new(b, weights, task, Arc::new(wiring), 16).unwrap();
    let shape = Shape { tokens: 16 * each, segments: each, labelled: 1 };
    let mut ws = net.workspace(b, shape, Mode::Infer).unwrap();
    let mut found = Influence::default();
    for some in sequences.chunks(each) {
        let mut batch = net.batch();
        some.iter().for_each(|ids| batch.push_tokens(ids).unwrap());
        net.influence(b, &params, &batch, &mut ws, &mut found).unwrap();
    }
    found.scores()
}

#[track_caller]
fn near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).fold(0.0_f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst < tolerance, "{worst:e}: {found:?} {expected:?}");
}

#[test]
fn a_post_norm_models_influence_is_that_of_transformers() {
    let Case { sequences, tensors, influence } = golden().bert;
    let spec = Spec {
        layers: 3,
        vocab: 23,
        hidden: 8,
        heads: 2,
        kv_heads: 2,
        head_dim: 4,
        ffn: 12,
        max_positions: 16,
        norm: antiphon_model::Norm { kind: antiphon_model::NormKind::Layer, eps: 1e-12 },
        activation: Activation::Gelu(Gelu::Erf),
        pooler: false,
        ..families().into_iter().find(|(name, _)| *name == "bert").unwrap().1
    };
    let file = File(&tensors, &spec, MEAN);
    near(&scores(&Reference, (&spec, MEAN), &file, &sequences, 1), &influence, 1e-6);
    for each in [1, 2, 3] {
        near(&scores(&Cpu::serial(), (&spec, MEAN), &file, &sequences, each), &influence, 1e-5);
    }
}

#[test]
fn a_real_models_influence_is_that_of_transformers() {
    let Some(dir) = model("stories260k-hf") else { return };
    let Case { sequences, influence, .. } = golden().stories260k;
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let of = (checkpoint.spec(), Task::CausalLm);
    let found = scores(&Cpu::serial(), of, &checkpoint, &sequences, 2);
    near(&found, &influence, 1e-5);
    assert_eq!(found, scores(&Cpu::threads(3), of, &checkpoint, &sequences, 2), "threads change no bits");
}

/// A checkpoint whose block 1 writes nothing back into the stream.
struct Idle(Random);

impl TensorSource for Idle {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let (values, shape) = self.0.values(name)?;
        let idle = name.contains("layers.1.") && (name.contains("o_proj") || name.contains("down_proj"));
        let values = if idle { vec![0.0; values.len()] } else { values };
        Some((FrozenData::Owned(values.into()), shape))
    }
}

#[test]
fn a_block_that_does_nothing_has_no_influence() {
    let (_, spec) = families().remove(0);
    let spec = Spec { layers: 3, ..spec };
    let source = Idle(Random { spec: spec.clone(), task: Task::CausalLm });
    let sequences = [vec![3, 1, 4, 1, 5], vec![9, 2, 6]];
    let found = scores(&Cpu::serial(), (&spec, Task::CausalLm), &source, &sequences, 2);
    assert!(found[1].abs() < 1e-12 && found[0] > 1e-3 && found[2] > 1e-3, "{found:?}");
}

#[test]
fn a_batch_of_which_the_last_block_sees_some_rows_is_refused() {
    let (_, spec) = families().remove(0);
    let (b, task) = (Cpu::serial(), Task::CausalLm);
    let weights = Weights::load(&b, &spec, task, &Random { spec: spec.clone(), task }).unwrap();
    let net = Net::new(&b, weights, task, Arc::default(), 16).unwrap();
    let shape = Shape { tokens: 16, segments: 1, labelled: 1 };
    let mut ws = net.workspace(&b, shape, Mode::Infer).unwrap();
    let mut batch = net.batch();
    batch.push(&[1, 2, 3], [(1, 4)]).unwrap();
    let refused = net.influence(&b, &b.alloc(0).unwrap(), &batch, &mut ws, &mut Influence::default());
    assert!(matches!(refused, Err(NetError::Rows)), "{refused:?}");
}
