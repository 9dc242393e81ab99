//! Every model and method against transformers, peft (`tests/golden/net/make.py`) and adapters (`houlsby.py`): logits, loss, every gradient, and
//! the parameters after ten steps of AdamW.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use antiphon_core::{Schema, TensorSpec};
use antiphon_kernels::{AdamW, Backend, Coef, Cpu, Dst, Reference, Src};
use antiphon_model::names::{self, Role};
use antiphon_model::{
    Bottleneck, Branch, Checkpoint, HeadWiring, LoraPair, Mode, Net, Pooling, PromptWiring, Shape, Spec,
    Task, TensorSource, Weights, Wiring,
};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::common::{ALL, download, relative, upload};

/// Relative L2 error per tensor.
const TOLERANCE: f64 = 1e-4;
/// Absolute error where a gradient is zero in exact arithmetic.
const ZERO: f32 = 1e-6;

#[derive(Deserialize)]
struct Case {
    task: String,
    classes: usize,
    sequences: Vec<Sequence>,
    lr: f32,
    weight_decay: f32,
    losses: Vec<f64>,
    #[serde(default)]
    lora: BTreeMap<String, Pair>,
    prompt: Option<usize>,
    /// Width of the bottlenecks.
    houlsby: Option<usize>,
}

#[derive(Deserialize)]
struct Sequence {
    ids: Vec<u32>,
    /// Tokens that are to be predicted.
    #[serde(default)]
    labelled: Vec<usize>,
    label: Option<u32>,
}

#[derive(Deserialize)]
struct Pair {
    rank: usize,
    scale: f32,
}

struct Tensors(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Tensors {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let float = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        let one = |(name, t): (String, safetensors::tensor::TensorView<'_>)| {
            (name, (t.shape().to_vec(), t.data().chunks_exact(4).map(float).collect()))
        };
        Self(file.tensors().into_iter().map(one).collect())
    }

    fn get(&self, name: &str) -> &[f32] {
        &self.0.get(name).unwrap_or_else(|| panic!("the golden file has no `{name}`")).1
    }

    /// Names and shapes of what trains, in the order of the names.
    fn trained(&self) -> Vec<TensorSpec> {
        let strip = |(name, (shape, _)): (&String, &(Vec<usize>, _))| {
            let name = name.strip_prefix("grad.")?.to_owned();
            Some(TensorSpec { name, shape: shape.clone() })
        };
        self.0.iter().filter_map(strip).collect()
    }
}

fn wire(spec: &Spec, task: Task, case: &Case, golden: &Tensors) -> Wiring {
    let schema = Schema::new(golden.trained()).unwrap();
    let range = |name: &str| schema.find(name).map(|i| schema.range(i));
    let mut wiring = Wiring::default();
    for t in names::tensors(spec, task) {
        if let (Some(r), false) = (range(&t.name), matches!(t.role, Role::ClassHead(_))) {
            wiring.live.insert(t.name, r);
        }
    }
    for layer in 0..spec.layers {
        for proj in ALL {
            let Some(path) = names::module_path(spec, layer, proj) else { continue };
            let Some(pair) = case.lora.get(&path) else { continue };
            let part = |p: &str| range(&format!("{path}.{p}.weight")).unwrap();
            let (rank, scale) = (pair.rank, pair.scale);
            let pair = LoraPair { a: part("lora_A"), b: part("lora_B"), rank, scale, dropout: 0.0 };
            wiring.lora.insert((layer, proj), pair);
        }
    }
    assert_eq!(wiring.lora.len(), case.lora.len(), "a pair of the golden file was not placed");
    for (layer, branch) in (0..spec.layers).flat_map(|l| [(l, Branch::Attention), (l, Branch::Mlp)]) {
        let Some(width) = case.houlsby else { break };
        let [down, down_bias, up, up_bias] =
            names::bottleneck_tensors(spec, layer, branch).map(|name| range(&name).unwrap());
        wiring.bottlenecks.insert((layer, branch), Bottleneck { down, down_bias, up, up_bias, width });
    }
    wiring.prompt =
        case.prompt.map(|tokens| PromptWiring { range: range("prompt_embeddings").unwrap(), tokens });
    let module = names::class_head_module(spec);
    wiring.head = range(&format!("{module}.weight"))
        .map(|weight| HeadWiring { weight, bias: range(&format!("{module}.bias")) });
    wiring.schema = schema;
    let placed = wiring.live.len()
        + 2 * wiring.lora.len()
        + 4 * wiring.bottlenecks.len()
        + usize::from(wiring.prompt.is_some())
        + wiring.head.as_ref().map_or(0, |h| 1 + usize::from(h.bias.is_some()));
    assert_eq!(placed, wiring.schema.tensors().len(), "a tensor of the golden file was not placed");
    wiring
}

/// Elements of a tensor whose gradient vanishes in exact arithmetic: a bias on all keys adds the same to every score
/// of a query, unless positions rotate the keys.
fn vanishes(spec: &Spec, name: &str) -> Option<std::ops::Range<usize>> {
    let d = spec.heads * spec.head_dim;
    if name.ends_with("attention.self.key.bias") {
        Some(0..d)
    } else if name.ends_with("attn.c_attn.bias") {
        Some(d..2 * d)
    } else {
        None
    }
}

fn compare(what: &str, spec: &Spec, name: &str, found: &[f32], expected: &[f32], zeros: bool) {
    assert_eq!(found.len(), expected.len(), "{what}: length of {name}");
    let skip = vanishes(spec, name).unwrap_or(0..0);
    if zeros {
        let worst = found[skip.clone()].iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(worst < ZERO, "{what}: {name} should vanish: {worst:e}");
    }
    let keep = |v: &[f32]| [&v[..skip.start], &v[skip.end..]].concat();
    let error = relative(&keep(found), &keep(expected));
    assert!(error <= TOLERANCE, "{what}: {name}: relative error {error:e}");
}

fn check<B: Backend>(b: &B, what: &str, checkpoint: &Checkpoint, case: &Case, golden: &Tensors) {
    let spec = checkpoint.spec();
    let task = match case.task.as_str() {
        "causal_lm" => Task::CausalLm,
        "classify" => {
            let pooling = if spec.causal { Pooling::Last } else { Pooling::Pooler };
            Task::Classify { classes: case.classes, pooling }
        }
        other => panic!("{other}"),
    };
    let wiring = wire(spec, task, case, golden);
    let mut theta = Vec::new();
    for t in wiring.schema.tensors() {
        match golden.0.get(&format!("start.{}", t.name)) {
            Some((_, v)) => theta.extend_from_slice(v),
            None => {
                let (data, shape) = TensorSource::get(checkpoint, &t.name).unwrap();
                assert_eq!(shape, t.shape);
                let at = theta.len();
                theta.resize(at + data.len(), 0.0);
                data.widen(0, &mut theta[at..]);
            }
        }
    }

    let weights = Weights::load(b, spec, task, checkpoint).unwrap();
    let net = Net::new(b, weights, task, Arc::new(wiring.clone()), spec.max_positions).unwrap();
    let mut batch = net.batch();
    for s in &case.sequences {
        match s.label {
            Some(class) => batch.push_class(&s.ids, class).unwrap(),
            None => batch.push(&s.ids, s.labelled.iter().map(|&t| (t - 1, s.ids[t]))).unwrap(),
        }
    }
    let rows = batch.rows();
    let shape = Shape { tokens: rows, segments: batch.segments().len(), labelled: rows };
    let mut ws = net.workspace(b, shape, Mode::Train).unwrap();
    let mut params = upload(b, &theta);
    let dim = theta.len();
    let mut grads = b.alloc(dim).unwrap();
    let (mut m, mut v) = (b.alloc(dim).unwrap(), b.alloc(dim).unwrap());

    for (step, &expected) in case.losses.iter().enumerate() {
        b.fill(Dst::new(&mut grads, 0, dim), 0.0);
        if step == 0 {
            let logits = logits(b, &net, &params, case, &mut ws);
            compare(what, spec, "logits", &logits, golden.get("logits"), false);
        }
        net.forward(b, &params, &batch, &mut ws, None).unwrap();
        let loss = match task {
            Task::CausalLm => {
                let coef = Coef::Uniform(1.0 / batch.labels().len() as f32);
                net.lm_loss(b, &params, &batch, &mut ws, coef, Some(&mut grads), None).unwrap()
            }
            Task::Classify { .. } => {
                let coef = Coef::Uniform(1.0 / batch.classes().len() as f32);
                net.class_loss(b, &params, &batch, &mut ws, coef, Some(&mut grads), None).unwrap()
            }
        };
        let mean = loss.nll / loss.rows as f64;
        assert!((mean - expected).abs() < 1e-4 * expected.max(0.1), "{what}: loss {step}: {mean} {expected}");
        if step + 1 == case.losses.len() {
            break;
        }
        net.backward(b, &params, &batch, &mut ws, None, &mut grads).unwrap();
        if step == 0 {
            let host = download(b, &grads);
            for (t, r) in wiring.schema.iter() {
                let name = format!("grad.{}", t.name);
                compare(what, spec, &name, &host[r], golden.get(&name), true);
            }
        }
        let hyper = AdamW {
            lr: case.lr,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: case.weight_decay,
            step: step as u64 + 1,
        };
        let (m, v) = (Dst::new(&mut m, 0, dim), Dst::new(&mut v, 0, dim));
        b.adamw(Dst::new(&mut params, 0, dim), Src::new(&grads, 0, dim), m, v, hyper);
    }
    let host = download(b, &params);
    for (t, r) in wiring.schema.iter() {
        let name = format!("end.{}", t.name);
        compare(what, spec, &name, &host[r], golden.get(&name), false);
    }
}

/// Logits of every token (not of a prompt's rows), or of the classes, of the batch without labels.
fn logits<B: Backend>(
    b: &B,
    net: &Net<B>,
    params: &B::Buf,
    case: &Case,
    ws: &mut antiphon_model::Workspace<B>,
) -> Vec<f32> {
    let mut batch = net.batch();
    case.sequences.iter().for_each(|s| batch.push_tokens(&s.ids).unwrap());
    net.forward(b, params, &batch, ws, None).unwrap();
    if let Task::Classify { .. } = net.task() {
        let s = net.class_logits(b, params, &batch, ws).unwrap();
        let mut host = vec![0.0; s.len];
        b.download(s, &mut host).unwrap();
        return host;
    }
    let prompt = net.limits().prompt;
    let rows: Vec<u32> =
        batch.segments().iter().flat_map(|s| (s.q_at + prompt) as u32..(s.q_at + s.q_len) as u32).collect();
    let mut out = b.alloc(rows.len() * net.spec().vocab).unwrap();
    let len = b.len(&out);
    net.logits(b, params, &batch, &rows, ws, Dst::new(&mut out, 0, len)).unwrap();
    download(b, &out)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/net")
}

fn each_case(mut check: impl FnMut(&str, &Checkpoint, &Case, &Tensors)) {
    let sorted = |dir: &Path| {
        let mut all: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    };
    let mut count = 0;
    for model in sorted(&folder()).into_iter().filter(|p| p.is_dir()) {
        let checkpoint = Checkpoint::open(&model).unwrap();
        for path in sorted(&model) {
            let is_case = path.extension().is_some_and(|e| e == "json")
                && path.file_name().is_some_and(|n| n != "config.json");
            if is_case {
                let case: Case = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                let golden = Tensors::read(&path.with_extension("safetensors"));
                let what = path.strip_prefix(folder()).unwrap().display().to_string();
                check(&what, &checkpoint, &case, &golden);
                count += 1;
            }
        }
    }
    // eight models, five methods, three of them as classifiers for two decoders, and bottlenecks in three models
    assert_eq!(count, 49);
}

#[test]
fn the_cpu_agrees_with_transformers_and_peft() {
    each_case(|what, checkpoint, case, golden| check(&Cpu::serial(), what, checkpoint, case, golden));
}

#[test]
fn the_reference_agrees_with_transformers_and_peft() {
    each_case(|what, checkpoint, case, golden| check(&Reference, what, checkpoint, case, golden));
}
