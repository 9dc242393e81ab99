//! The memory of a step, planned once and reused.
//!
//! What is kept for the backward is the least that is not cheaper to compute again: the residual stream before each
//! norm, q, k, v, the attention's output and its log-sum-exp, and the two inputs of the gate. Norm outputs and the
//! product of the gate are recomputed. Layers below the lowest trainable tensor, and all layers in inference, share one
//! layer's memory. The bytes that `plan` reports come from the function that allocates.

use antiphon_kernels::{Backend, BackendError};

use crate::names::{self, Role};
use crate::net::plan::{self, Plan};
use crate::perturb::Perturbation;
use crate::spec::{Activation, NormKind, Spec};
use crate::wiring::{Pooling, Task, Wiring};

/// The largest step that a workspace serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows, prompts and padding included.
    pub tokens: usize,
    /// Sequences.
    pub segments: usize,
    /// Rows at which the head runs at once: rows with a label, or asked for logits.
    pub labelled: usize,
}

/// What the workspace is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward and backward.
    Train,
    /// Forward only: one layer's activations.
    Infer,
}

/// Buffers of one client: activations, scratch and nothing trainable.
#[derive(Debug)]
pub struct Workspace<B: Backend> {
    pub(crate) shape: Shape,
    pub(crate) mode: Mode,
    pub(crate) acts: Acts<B::Buf>,
    pub(crate) noise: Option<Perturbation>,
    bytes: usize,
}

impl<B: Backend> Workspace<B> {
    pub(crate) fn new(backend: &B, dims: &Dims<'_>) -> Result<Self, BackendError> {
        let mut elements = 0;
        let acts = Acts::build(dims, dims.chunk(backend), &mut |len| {
            elements += len;
            backend.alloc(len)
        })?;
        let bytes = elements * size_of::<f32>();
        Ok(Self { shape: dims.shape, mode: dims.mode, acts, noise: None, bytes })
    }

    /// The largest step it serves.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What it is for.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// From now on forward passes and losses see the trainable vector through `noise`, or as it is. The vector itself is not
    /// written. For workspaces planned for inference.
    pub fn perturb(&mut self, noise: Option<Perturbation>) {
        self.noise = noise;
    }

    /// Bytes of its buffers, at four an element.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes that a workspace would take, counted by the code that allocates it.
#[must_use]
pub fn planned_bytes<B: Backend>(
    backend: &B,
    spec: &Spec,
    task: Task,
    wiring: &Wiring,
    shape: Shape,
    mode: Mode,
) -> usize {
    let roles: Vec<Role> = names::tensors(spec, task)
        .into_iter()
        .filter(|t| wiring.live.contains_key(&t.name))
        .map(|t| t.role)
        .collect();
    let plan = Plan::of(spec, wiring, roles.into_iter());
    let plan = if mode == Mode::Infer { plan.inference() } else { plan };
    let dims = Dims { spec, task, plan: &plan, shape, mode };
    let mut elements = 0;
    let counted: Result<Acts<()>, std::convert::Infallible> =
        Acts::build(&dims, dims.chunk(backend), &mut |len| {
            elements += len;
            Ok(())
        });
    counted.map_or(0, |_| elements * size_of::<f32>())
}

/// Everything that fixes the sizes of the buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dims<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) task: Task,
    pub(crate) plan: &'a Plan,
    pub(crate) shape: Shape,
    pub(crate) mode: Mode,
}

impl Dims<'_> {
    fn chunk<B: Backend>(&self, backend: &B) -> usize {
        match self.task {
            Task::CausalLm => backend.linear_cross_entropy_scratch(self.shape.labelled, self.spec.vocab),
            Task::Classify { .. } => 0,
        }
    }
}

/// The buffers, over any stand-in for a buffer. Sizes are in the comments, with `n` rows, `d` the hidden width,
/// `q` and `kv` the widths of queries and keys, `f` the MLP's, `m` the rows of the head, `s` the sequences.
#[derive(Debug)]
pub(crate) struct Acts<T> {
    /// The residual stream before each kept site, `[n, d]`.
    pub(crate) res: Vec<T>,
    /// Norm statistics of each kept site, `[n, 2]` at most.
    pub(crate) stats: Vec<T>,
    /// Attention of each kept layer.
    pub(crate) attention: Vec<AttentionActs<T>>,
    /// MLP of each kept layer.
    pub(crate) mlp: Vec<MlpActs<T>>,
    /// Low-rank paths.
    pub(crate) low: LowActs<T>,
    /// Bottlenecks.
    pub(crate) bottlenecks: BottleneckActs<T>,
    /// Output of the norm at hand, `[n, d]`.
    pub(crate) n: T,
    /// Gradient of `n`, `[n, d]`.
    pub(crate) dn: T,
    /// Gradient of the residual stream, `[n, d]`.
    pub(crate) dr: T,
    /// Gradient of a LayerNorm's gain and bias, `[2, d]`, where only the gain trains.
    pub(crate) gain: T,
    /// Scratch of the attention and of the MLP in turn: `[n, max(f, q, q + 2 kv if fused)]`, `[n, max(f, q)]`,
    /// `[n, max(f, kv)]`, `[n, kv]`.
    pub(crate) wide: [T; 4],
    /// The end of the model.
    pub(crate) out: OutActs<T>,
}

/// What the attention of a layer keeps.
#[derive(Debug)]
pub(crate) struct AttentionActs<T> {
    /// Queries after norm and rotation, `[n, q]`.
    pub(crate) q: T,
    /// Keys after norm and rotation, `[n, kv]`.
    pub(crate) k: T,
    /// Values, `[n, kv]`.
    pub(crate) v: T,
    /// Output, `[n, q]`.
    pub(crate) y: T,
    /// Log-sum-exp, `[n, heads]`.
    pub(crate) lse: T,
    /// Queries before their norm, `[n, q]`, with its statistics `[n, heads]`; empty without query norm.
    pub(crate) q_raw: [T; 2],
    /// Keys before their norm, `[n, kv]`, with its statistics `[n, kv_heads]`; empty without key norm.
    pub(crate) k_raw: [T; 2],
}

/// What the MLP of a layer keeps.
#[derive(Debug)]
pub(crate) struct MlpActs<T> {
    /// `[n, f]`; empty without a gate.
    pub(crate) gate: T,
    /// `[n, f]`.
    pub(crate) up: T,
}

/// Low-rank paths.
#[derive(Debug)]
pub(crate) struct LowActs<T> {
    /// `x A^T` of each pair, `[n, r]`; one for all in inference.
    pub(crate) xa: Vec<T>,
    /// Gradient of `x A^T`, `[n, r]`.
    pub(crate) dxa: T,
    /// Input after dropout, `[n, d_in]`.
    pub(crate) dropped: T,
    /// Gradient of `dropped`.
    pub(crate) ddropped: T,
    /// `A` (or the soft prompt) and `B` as a perturbation shows them; in inference alone.
    pub(crate) seen: [T; 2],
}

/// Bottlenecks, of width `w`.
#[derive(Debug)]
pub(crate) struct BottleneckActs<T> {
    /// What comes into each, `[n, d]`; one for all in inference.
    pub(crate) y: Vec<T>,
    /// `W_down y + b_down` of each, `[n, w]`; one for all in inference.
    pub(crate) z: Vec<T>,
    /// `gelu(z)`, then the gradient of `z`, `[n, w]`.
    pub(crate) wide: T,
    /// Gradient of `gelu(z)`, `[n, w]`.
    pub(crate) dwide: T,
    /// Gradient of `y`, `[n, d]`.
    pub(crate) dy: T,
}

/// The end of the model.
#[derive(Debug)]
pub(crate) struct OutActs<T> {
    /// Gathered rows of the residual stream, `[m, d]`; unused by mean pooling.
    pub(crate) x: T,
    /// Their norm, or the pooled vectors, `[m, d]`.
    pub(crate) h: T,
    /// Gradient of `h`.
    pub(crate) dh: T,
    /// Statistics of the last norm, `[m, 2]`; `[n, 2]` for mean pooling.
    pub(crate) stats: T,
    /// A chunk of logits of the language head.
    pub(crate) chunk: T,
    /// After the tanh pooler, `[s, d]`, and the same before it, which its gradient replaces.
    pub(crate) pooled: [T; 2],
    /// Class logits, `[s, classes]`.
    pub(crate) classes: T,
}

impl<T> Acts<T> {
    pub(crate) fn build<E>(
        dims: &Dims<'_>,
        chunk: usize,
        make: &mut impl FnMut(usize) -> Result<T, E>,
    ) -> Result<Self, E> {
        let Dims { spec, task, plan, shape: Shape { tokens: n, segments, labelled }, mode } = *dims;
        let (d, f) = (spec.hidden, spec.ffn);
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let fused = if spec.fused_qkv { q + 2 * kv } else { 0 };
        let gated = spec.activation == Activation::SwiGlu;
        let stats_width = if spec.norm.kind == NormKind::Layer { 2 } else { 1 };
        let first = plan.first_kept_site(spec);
        let sites = 2 * spec.layers + 1 - first;
        // a model that trains no block, or nothing, still computes one layer at a time
        let layers = (spec.layers - first / 2).max(1);
        let train = mode == Mode::Train;
        let blocks = plan.reaches_blocks(spec);
        let when = |cond: bool, len: usize| if cond { len } else { 0 };

        let mut many =
            |count: usize, len: usize| (0..count).map(|_| make(len)).collect::<Result<Vec<T>, E>>();
        let res = many(sites, n * d)?;
        let stats = many(sites, n * stats_width)?;
        let mut xa = Vec::with_capacity(plan.ranks.len());
        for &rank in &plan.ranks {
            xa.push(make(n * rank)?);
        }
        let mut attention = Vec::with_capacity(layers);
        let mut mlp = Vec::with_capacity(layers);
        let (raw_q, raw_k) = (when(spec.qk_norm, n * q), when(spec.qk_norm, n * kv));
        for _ in 0..layers {
            attention.push(AttentionActs {
                q: make(n * q)?,
                k: make(n * kv)?,
                v: make(n * kv)?,
                y: make(n * q)?,
                lse: make(n * spec.heads)?,
                q_raw: [make(raw_q)?, make(raw_q / spec.head_dim)?],
                k_raw: [make(raw_k)?, make(raw_k / spec.head_dim)?],
            });
            mlp.push(MlpActs { gate: make(when(gated, n * f))?, up: make(n * f)? });
        }
        let rank = plan.ranks.iter().copied().max().unwrap_or(0);
        let low = LowActs {
            xa,
            dxa: make(when(train, n * rank))?,
            dropped: make(when(train, n * plan.dropout_width))?,
            ddropped: make(when(train, n * plan.dropout_width))?,
            seen: [make(when(!train, plan.overlay[0]))?, make(when(!train, plan.overlay[1]))?],
        };
        let widest = plan.widths.iter().copied().max().unwrap_or(0);
        let bottlenecks = BottleneckActs {
            y: plan.widths.iter().map(|_| make(n * d)).collect::<Result<_, E>>()?,
            z: plan.widths.iter().map(|w| make(n * w)).collect::<Result<_, E>>()?,
            wide: make(n * widest)?,
            dwide: make(when(train, n * widest))?,
            dy: make(when(train && widest > 0, n * d))?,
        };
        let wide = [
            make(n * f.max(q).max(fused))?,
            make(when(blocks, n * f.max(q)))?,
            make(when(blocks, n * if gated { f.max(kv) } else { kv }))?,
            make(when(blocks, n * kv))?,
        ];
        let (out_rows, stats_rows) = match task {
            Task::CausalLm => (labelled, labelled),
            Task::Classify { pooling: Pooling::Mean, .. } => (segments, n),
            Task::Classify { .. } => (segments, segments),
        };
        let below_head = plan.lowest <= plan::norm(2 * spec.layers);
        let pooled = when(matches!(task, Task::Classify { pooling: Pooling::Pooler, .. }), segments * d);
        Ok(Self {
            res,
            stats,
            attention,
            mlp,
            low,
            bottlenecks,
            n: make(n * d)?,
            dn: make(when(blocks || below_head, n * d))?,
            dr: make(when(below_head, n * d))?,
            gain: make(when(below_head && stats_width == 2, 2 * d))?,
            wide,
            out: OutActs {
                x: make(out_rows * d)?,
                h: make(out_rows * d)?,
                dh: make(when(train, out_rows * d))?,
                stats: make(stats_rows * stats_width)?,
                chunk: make(chunk)?,
                pooled: [make(pooled)?, make(pooled)?],
                classes: make(segments * plan::classes(task))?,
            },
        })
    }
}
