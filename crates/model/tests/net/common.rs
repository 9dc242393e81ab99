//! Tiny models of every family, random weights for them, and wirings of every method, without any other crate.

use std::sync::Arc;

use antiphon_core::{Noise, Purpose, Schema, Stream, TensorSpec};
use antiphon_kernels::{Backend, Dst, FrozenData, Gelu, Layout, Src};
use antiphon_model::names::{self, Role};
use antiphon_model::{
    Activation, Batch, Biases, Bottleneck, Branch, Family, HeadWiring, LoraPair, Net, Norm, NormKind,
    Placement, Pooling, Positions, Proj, PromptWiring, RopeScaling, Spec, Task, TensorSource, Weights,
    Wiring,
};

/// Sizes that share no value where a transposition could hide: grouped keys, `heads · head_dim != hidden`.
pub(crate) fn llama() -> Spec {
    Spec {
        family: Family::Llama,
        vocab: 29,
        hidden: 12,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        ffn: 20,
        max_positions: 24,
        norm: Norm { kind: NormKind::Rms, eps: 1e-5 },
        placement: Placement::Pre,
        activation: Activation::SwiGlu,
        positions: Positions::Rope { theta: 100.0, scaling: RopeScaling::None },
        biases: Biases { qkv: false, o: false, mlp: false },
        qk_norm: false,
        causal: true,
        window: None,
        fused_qkv: false,
        layout: Layout::OutIn,
        tied: false,
        token_types: None,
        pooler: false,
        kept: None,
        bos: None,
        eos: Vec::new(),
    }
}

/// Every family with what distinguishes it.
pub(crate) fn families() -> Vec<(&'static str, Spec)> {
    let biases = |qkv, o, mlp| Biases { qkv, o, mlp };
    let llama3 = RopeScaling::Llama3 {
        factor: 4.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 16.0,
    };
    let gpt2 = Spec {
        family: Family::Gpt2,
        kv_heads: 4,
        head_dim: 3,
        norm: Norm { kind: NormKind::Layer, eps: 1e-5 },
        activation: Activation::Gelu(Gelu::Tanh),
        positions: Positions::Learned,
        biases: biases(true, true, true),
        fused_qkv: true,
        layout: Layout::InOut,
        tied: true,
        ..llama()
    };
    vec![
        ("llama", llama()),
        (
            "llama-tied",
            Spec { tied: true, positions: Positions::Rope { theta: 100.0, scaling: llama3 }, ..llama() },
        ),
        ("mistral", Spec { family: Family::Mistral, window: Some(3), ..llama() }),
        ("qwen2", Spec { family: Family::Qwen2, biases: biases(true, false, false), ..llama() }),
        ("qwen3", Spec { family: Family::Qwen3, qk_norm: true, ..llama() }),
        ("gpt2", gpt2.clone()),
        (
            "bert",
            Spec {
                family: Family::Bert,
                placement: Placement::Post,
                activation: Activation::Gelu(Gelu::Erf),
                fused_qkv: false,
                layout: Layout::OutIn,
                causal: false,
                token_types: Some(2),
                pooler: true,
                ..gpt2
            },
        ),
    ]
}

/// Weights from a stream; gains around one.
pub(crate) struct Random {
    pub(crate) spec: Spec,
    pub(crate) task: Task,
}

impl Random {
    pub(crate) fn values(&self, name: &str) -> Option<(Vec<f32>, Vec<usize>)> {
        let info = names::tensors(&self.spec, self.task).into_iter().find(|t| t.name == name)?;
        let mut stream = Stream::keyed(1, Purpose::Test, None, None, name);
        let gain = name.contains("norm") || name.contains("ln_") || name.contains("LayerNorm");
        let one = if gain && name.ends_with("weight") { 1.0 } else { 0.0 };
        let n = info.shape.iter().product();
        let values = (0..n).map(|_| one + 0.3 * stream.standard_normal() as f32).collect();
        Some((values, info.shape))
    }
}

impl TensorSource for Random {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        self.values(name).map(|(v, shape)| (FrozenData::Owned(v.into()), shape))
    }
}

/// A wiring in the making: ranges in the order of the calls.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) wiring: Wiring,
    tensors: Vec<TensorSpec>,
    dim: usize,
}

impl Wire {
    fn push(&mut self, name: String, shape: &[usize]) -> std::ops::Range<usize> {
        let at = self.dim;
        self.tensors.push(TensorSpec { name, shape: shape.to_vec() });
        self.dim += shape.iter().product::<usize>();
        at..self.dim
    }

    pub(crate) fn live(mut self, spec: &Spec, task: Task, keep: impl Fn(Role, &str) -> bool) -> Self {
        for t in names::tensors(spec, task) {
            if !matches!(t.role, Role::ClassHead(_)) && keep(t.role, &t.name) {
                let range = self.push(t.name.clone(), &t.shape);
                self.wiring.live.insert(t.name, range);
            }
        }
        self
    }

    pub(crate) fn lora(
        mut self,
        spec: &Spec,
        targets: &[(usize, Proj, usize)],
        scale: f32,
        dropout: f32,
    ) -> Self {
        let mut targets = targets.to_vec();
        targets.sort_unstable();
        for (layer, proj, rank) in targets {
            let (Some(path), Some((d_out, d_in))) =
                (names::module_path(spec, layer, proj), spec.proj_shape(proj))
            else {
                continue;
            };
            let a = self.push(format!("{path}.lora_A.weight"), &[rank, d_in]);
            let b = self.push(format!("{path}.lora_B.weight"), &[d_out, rank]);
            self.wiring.lora.insert((layer, proj), LoraPair { a, b, rank, scale, dropout });
        }
        self
    }

    pub(crate) fn bottlenecks(mut self, spec: &Spec, places: &[(usize, Branch)], width: usize) -> Self {
        for &(layer, branch) in places {
            let [down, down_bias, up, up_bias] = names::bottleneck_tensors(spec, layer, branch);
            let bottleneck = Bottleneck {
                down: self.push(down, &[width, spec.hidden]),
                down_bias: self.push(down_bias, &[width]),
                up: self.push(up, &[spec.hidden, width]),
                up_bias: self.push(up_bias, &[spec.hidden]),
                width,
            };
            self.wiring.bottlenecks.insert((layer, branch), bottleneck);
        }
        self
    }

    pub(crate) fn prompt(mut self, spec: &Spec, tokens: usize) -> Self {
        let range = self.push("prompt_embeddings".into(), &[tokens, spec.hidden]);
        self.wiring.prompt = Some(PromptWiring { range, tokens });
        self
    }

    pub(crate) fn done(mut self, spec: &Spec, task: Task) -> Wiring {
        if let Task::Classify { classes, .. } = task {
            let module = names::class_head_module(spec);
            let weight = self.push(format!("{module}.weight"), &[classes, spec.hidden]);
            let bias = names::class_head_bias(spec).then(|| self.push(format!("{module}.bias"), &[classes]));
            self.wiring.head = Some(HeadWiring { weight, bias });
        }
        self.wiring.schema = Schema::new(self.tensors).unwrap();
        self.wiring
    }
}

pub(crate) const ALL: [Proj; 8] =
    [Proj::Q, Proj::K, Proj::V, Proj::Qkv, Proj::O, Proj::Gate, Proj::Up, Proj::Down];

/// The natural task of a family.
pub(crate) fn task_of(spec: &Spec) -> Task {
    if spec.causal { Task::CausalLm } else { Task::Classify { classes: 3, pooling: Pooling::Pooler } }
}

/// Every method for a model, by name.
pub(crate) fn methods(spec: &Spec, task: Task) -> Vec<(&'static str, Wiring)> {
    let of = |layers: std::ops::Range<usize>, projs: &[Proj], rank: usize| -> Vec<(usize, Proj, usize)> {
        layers.flat_map(|l| projs.iter().map(move |&p| (l, p, rank))).collect()
    };
    let mut ranks = of(0..1, &[Proj::Q, Proj::Qkv, Proj::Up], 1);
    ranks.extend(of(1..2, &ALL, 3));
    let wire = Wire::default;
    vec![
        ("full", wire().live(spec, task, |_, _| true).done(spec, task)),
        ("biases", wire().live(spec, task, |_, n| n.ends_with("bias")).done(spec, task)),
        (
            "norms",
            wire()
                .live(spec, task, |r, n| {
                    n.ends_with("weight") && matches!(r, Role::AttentionNorm(..) | Role::FinalNorm(_))
                })
                .done(spec, task),
        ),
        ("lora-all", wire().lora(spec, &of(0..2, &ALL, 2), 0.7, 0.0).done(spec, task)),
        (
            "lora-qv-top",
            wire().lora(spec, &of(1..2, &[Proj::Q, Proj::V, Proj::Qkv], 2), 1.3, 0.0).done(spec, task),
        ),
        ("lora-down-top", wire().lora(spec, &of(1..2, &[Proj::Down, Proj::O], 2), 1.3, 0.0).done(spec, task)),
        ("lora-up-top", wire().lora(spec, &of(1..2, &[Proj::Up], 2), 1.3, 0.0).done(spec, task)),
        ("lora-ranks", wire().lora(spec, &ranks, 0.5, 0.0).done(spec, task)),
        ("lora-dropout", wire().lora(spec, &of(0..2, &ALL, 2), 0.7, 0.3).done(spec, task)),
        ("prompt", wire().prompt(spec, 2).done(spec, task)),
        (
            "bottlenecks",
            wire()
                .bottlenecks(spec, &[0, 1].map(|l| [(l, Branch::Attention), (l, Branch::Mlp)]).concat(), 5)
                .done(spec, task),
        ),
        (
            "bottleneck-mixed",
            wire()
                .lora(spec, &of(1..2, &[Proj::O, Proj::Up], 2), 0.7, 0.0)
                .bottlenecks(spec, &[(1, Branch::Attention)], 3)
                .done(spec, task),
        ),
        ("bottleneck-top", wire().bottlenecks(spec, &[(1, Branch::Mlp)], 3).done(spec, task)),
        (
            "head",
            wire().live(spec, task, |r, _| matches!(r, Role::LmHead | Role::Pooler(_))).done(spec, task),
        ),
        (
            "mixed",
            wire()
                .live(spec, task, |r, _| matches!(r, Role::FinalNorm(_) | Role::EmbeddingNorm(_)))
                .lora(spec, &of(1..2, &[Proj::Q, Proj::Qkv], 2), 0.7, 0.0)
                .prompt(spec, 3)
                .done(spec, task),
        ),
    ]
}

/// Starting values of a trainable vector: the checkpoint's where live, random elsewhere (both LoRA factors non-zero).
pub(crate) fn theta(source: &Random, wiring: &Wiring) -> Vec<f32> {
    let mut theta = Vec::new();
    for t in wiring.schema.tensors() {
        if wiring.live.contains_key(&t.name) {
            theta.extend(source.values(&t.name).unwrap().0);
        } else {
            let mut s = Stream::keyed(2, Purpose::Test, None, None, &t.name);
            theta.extend((0..t.len()).map(|_| 0.4 * s.standard_normal() as f32));
        }
    }
    theta
}

pub(crate) fn net<B: Backend>(backend: &B, spec: &Spec, task: Task, wiring: Wiring) -> Net<B> {
    let source = Random { spec: spec.clone(), task };
    let weights = Weights::load(backend, spec, task, &source).unwrap();
    Net::new(backend, weights, task, Arc::new(wiring), spec.max_positions).unwrap()
}

/// Three sequences of different lengths; some rows without labels.
pub(crate) fn fill(batch: &mut Batch) {
    batch.clear();
    let vocab = batch.limits().vocab as u64;
    for (i, len) in [7usize, 4, 5].into_iter().enumerate() {
        let mut s = Stream::new(9, Purpose::Test).substream(i as u64);
        let ids: Vec<u32> = (0..=len).map(|_| s.below(vocab) as u32).collect();
        match batch.limits().task {
            Task::CausalLm => {
                let labels = (0..len).filter(|r| (r + i) % 3 != 0).map(|r| (r, ids[r + 1]));
                batch.push(&ids[..len], labels).unwrap();
            }
            Task::Classify { classes, .. } => batch.push_class(&ids[..len], (i % classes) as u32).unwrap(),
        }
    }
}

pub(crate) fn upload<B: Backend>(backend: &B, host: &[f32]) -> B::Buf {
    let mut buf = backend.alloc(host.len()).unwrap();
    backend.upload(host, Dst::new(&mut buf, 0, host.len())).unwrap();
    buf
}

pub(crate) fn download<B: Backend>(backend: &B, buf: &B::Buf) -> Vec<f32> {
    let mut host = vec![0.0; backend.len(buf)];
    backend.download(Src::new(buf, 0, host.len()), &mut host).unwrap();
    host
}

/// `‖a - b‖ / ‖b‖`, or the absolute norm where `b` vanishes.
pub(crate) fn relative(a: &[f32], b: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(&x, &y)| f64::from(x) - f64::from(y)));
    let size = norm(&mut b.iter().map(|&y| f64::from(y)));
    if size > 1e-7 { difference / size } else { difference }
}
