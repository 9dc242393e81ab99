//! From names to places: every tensor that a step reads is found once, and a wiring that does not fit is refused here.

use std::collections::BTreeMap;
use std::ops::Range;

use antiphon_kernels::{Backend, BackendError, Gelu, Layout};

use super::bottleneck::{Bottleneck, WayBack};
use super::maps::{Low, Map, Param};
use super::plan::{self, Plan};
use crate::batch::BatchError;
use crate::names::{self, Part, Role, TensorInfo};
use crate::spec::{Activation, Family, NormKind, Positions, Proj, Spec};
use crate::weights::{Weights, WeightsError};
use crate::wiring::{Branch, Pooling, Task, Wiring};

/// A model that cannot run as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The wiring trains a tensor that the model lacks.
    #[error("the wiring trains `{name}`, and this model has no such tensor for {task:?}")]
    Live {
        /// Its name.
        name: String,
        /// What is asked.
        task: Task,
    },
    /// A low-rank pair on a map that the model lacks.
    #[error("the wiring adapts {proj:?} of layer {layer}, and this model has {layers} layers with {maps:?}")]
    Lora {
        /// Its layer.
        layer: usize,
        /// Its map.
        proj: Proj,
        /// Layers of the model.
        layers: usize,
        /// Maps of a layer.
        maps: Vec<Proj>,
    },
    /// A bottleneck in a layer that the model lacks.
    #[error(
        "the wiring has a bottleneck behind the {branch:?} of layer {layer}, and this model has {layers} layers"
    )]
    Bottleneck {
        /// Its layer.
        layer: usize,
        /// Its branch.
        branch: Branch,
        /// Layers of the model.
        layers: usize,
    },
    /// A range of the trainable vector has the wrong length or lies outside.
    #[error("`{what}` lies at {found:?} of a trainable vector of {dim}, and {expected} elements are needed")]
    Range {
        /// Which tensor.
        what: String,
        /// The range found.
        found: Range<usize>,
        /// Elements needed.
        expected: usize,
        /// Length of the vector.
        dim: usize,
    },
    /// A dropout probability outside `[0, 1)`.
    #[error("a dropout of {found} on {proj:?} of layer {layer}: expected at least 0 and below 1")]
    Dropout {
        /// Its layer.
        layer: usize,
        /// Its map.
        proj: Proj,
        /// The probability found.
        found: f32,
    },
    /// A classification without a head, or a head without a classification.
    #[error("{task:?} and a wiring {} a classification head", if *.head { "with" } else { "without" })]
    Head {
        /// What is asked.
        task: Task,
        /// Whether the wiring has a head.
        head: bool,
    },
    /// A task that the model's class does not have.
    #[error("{task:?} is not a task of a {family:?} model{}", if *.pooler { "" } else { " without a pooler" })]
    Task {
        /// What is asked.
        task: Task,
        /// The family.
        family: Family,
        /// Whether the checkpoint has a pooler.
        pooler: bool,
    },
    /// More positions than the model has.
    #[error("sequences of {found} positions, and the model has {max}")]
    Positions {
        /// Asked for.
        found: usize,
        /// Rows of the position table, or the length of its training.
        max: usize,
    },
    /// A trainable vector of another length than the wiring's schema.
    #[error("the trainable vector has {found} elements, and the wiring describes {expected}")]
    Params {
        /// Elements found.
        found: usize,
        /// Elements of the schema.
        expected: usize,
    },
    /// A step larger than the workspace.
    #[error("{found} {what} in a step, and the workspace was planned for {planned}")]
    Capacity {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: usize,
        /// How much was planned.
        planned: usize,
    },
    /// A backward, or dropout, with a workspace planned for inference.
    #[error("the workspace was planned for inference: plan it for training to take gradients")]
    Inference,
    /// A perturbation over a workspace planned for training.
    #[error("the workspace was planned for training: plan it for inference to perturb weights")]
    Training,
    /// Logits or hidden states of rows that the step left out.
    #[error("only the rows that the head reads were computed: leave labels out of the batch to read others")]
    Rows,
    /// Distributions over two vocabularies.
    #[error(
        "a teacher of {found} tokens, and this model has {expected}: their distributions cannot be compared"
    )]
    Vocabulary {
        /// The teacher's.
        found: usize,
        /// This model's.
        expected: usize,
    },
    /// A step without any label.
    #[error("no row of the step carries a label")]
    NoLabels,
    /// A sequence that the model cannot read.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The checkpoint does not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Allocation or transfer failed.
    #[error(transparent)]
    Device(#[from] BackendError),
}

/// Tables added at the bottom.
#[derive(Debug)]
pub(crate) struct Embeddings {
    pub(crate) token: Param,
    pub(crate) position: Option<Param>,
    pub(crate) token_type: Option<Param>,
}

/// A norm of the residual stream.
#[derive(Debug)]
pub(crate) struct NormParams {
    pub(crate) w: Param,
    /// Of a LayerNorm.
    pub(crate) b: Option<Param>,
}

/// The maps into the attention.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a layer")]
pub(crate) enum Qkv {
    Fused(Map),
    Split { q: Map, k: Map, v: Map },
}

/// A block's maps.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) qkv: Qkv,
    /// Gains on the heads of q and k.
    pub(crate) qk_norm: Option<[Param; 2]>,
    pub(crate) o: WayBack,
    pub(crate) mlp: Mlp,
    pub(crate) down: WayBack,
}

/// The maps into the MLP and what joins them.
#[derive(Debug)]
pub(crate) enum Mlp {
    SwiGlu { gate: Map, up: Map },
    Gelu { kind: Gelu, up: Map },
}

/// What stands after the last norm.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a model")]
pub(crate) enum Out {
    /// `[vocab, d]`, the embedding's own table when tied.
    Lm {
        head: Param,
    },
    Class {
        head: Map,
        pooling: Pooling,
        pooler: Option<Map>,
    },
}

/// Every tensor of the model in its place.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) plan: Plan,
    pub(crate) embeddings: Embeddings,
    pub(crate) norms: Vec<NormParams>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) out: Out,
}

impl Resolved {
    pub(crate) fn new<B: Backend>(
        weights: &Weights<B>,
        task: Task,
        wiring: &Wiring,
    ) -> Result<Self, NetError> {
        let spec = weights.spec();
        fits(spec, task, wiring)?;
        let infos = names::tensors(spec, task);
        let live = live_roles(&infos, task, wiring)?;
        let plan = Plan::of(spec, wiring, live.keys().copied());
        let find = Find { spec, weights, wiring, live };
        let norms = (0..=2 * spec.layers).map(|k| find.norm(k)).collect::<Result<_, _>>()?;
        let blocks = (0..spec.layers).map(|l| find.block(l)).collect::<Result<_, _>>()?;
        let embeddings = Embeddings {
            token: find.param(Role::TokenEmbedding)?,
            position: match spec.positions {
                Positions::Learned => Some(find.param(Role::PositionEmbedding)?),
                Positions::Rope { .. } => None,
            },
            token_type: match spec.token_types {
                Some(_) => Some(find.param(Role::TokenTypeEmbedding)?),
                None => None,
            },
        };
        Ok(Self { plan, embeddings, norms, blocks, out: find.out(task)? })
    }
}

/// Refuses what needs no tensor to be refused.
fn fits(spec: &Spec, task: Task, wiring: &Wiring) -> Result<(), NetError> {
    let possible = match task {
        Task::CausalLm => spec.causal,
        Task::Classify { pooling: Pooling::Pooler, .. } => spec.pooler,
        Task::Classify { .. } => true,
    };
    if !possible {
        return Err(NetError::Task { task, family: spec.family, pooler: spec.pooler });
    }
    if matches!(task, Task::Classify { .. }) != wiring.head.is_some() {
        return Err(NetError::Head { task, head: wiring.head.is_some() });
    }
    let range = |what: &dyn Fn() -> String, found: &Range<usize>, expected| {
        let dim = wiring.schema.dim();
        if found.len() == expected && found.end <= dim {
            Ok(())
        } else {
            Err(NetError::Range { what: what(), found: found.clone(), expected, dim })
        }
    };
    for (&(layer, proj), pair) in &wiring.lora {
        let Some((d_out, d_in)) = spec.proj_shape(proj).filter(|_| layer < spec.layers) else {
            let all = [Proj::Q, Proj::K, Proj::V, Proj::Qkv, Proj::O, Proj::Gate, Proj::Up, Proj::Down];
            let maps = all.into_iter().filter(|&p| spec.proj_shape(p).is_some()).collect();
            return Err(NetError::Lora { layer, proj, layers: spec.layers, maps });
        };
        if !(0.0..1.0).contains(&pair.dropout) {
            return Err(NetError::Dropout { layer, proj, found: pair.dropout });
        }
        range(&|| format!("A of {proj:?}, layer {layer}"), &pair.a, pair.rank * d_in)?;
        range(&|| format!("B of {proj:?}, layer {layer}"), &pair.b, d_out * pair.rank)?;
    }
    for (&(layer, branch), b) in &wiring.bottlenecks {
        if layer >= spec.layers {
            return Err(NetError::Bottleneck { layer, branch, layers: spec.layers });
        }
        let what = |part: &str| format!("{part} of the bottleneck behind the {branch:?} of layer {layer}");
        range(&|| what("W_down"), &b.down, b.width * spec.hidden)?;
        range(&|| what("b_down"), &b.down_bias, b.width)?;
        range(&|| what("W_up"), &b.up, spec.hidden * b.width)?;
        range(&|| what("b_up"), &b.up_bias, spec.hidden)?;
    }
    if let Some(p) = &wiring.prompt {
        range(&|| "soft prompt".into(), &p.range, p.tokens * spec.hidden)?;
    }
    if let (Some(h), Task::Classify { classes, .. }) = (&wiring.head, task) {
        range(&|| "weight of the classification head".into(), &h.weight, classes * spec.hidden)?;
        if let Some(b) = &h.bias {
            range(&|| "bias of the classification head".into(), b, classes)?;
        }
    }
    Ok(())
}

/// The live tensors by role.
fn live_roles(
    infos: &[TensorInfo],
    task: Task,
    wiring: &Wiring,
) -> Result<BTreeMap<Role, Range<usize>>, NetError> {
    let mut live = BTreeMap::new();
    for (name, found) in &wiring.live {
        let info = infos
            .iter()
            .find(|t| t.name == *name && !matches!(t.role, Role::ClassHead(_)))
            .ok_or_else(|| NetError::Live { name: name.clone(), task })?;
        let (expected, dim) = (info.shape.iter().product(), wiring.schema.dim());
        if found.len() != expected || found.end > dim {
            return Err(NetError::Range { what: name.clone(), found: found.clone(), expected, dim });
        }
        live.insert(info.role, found.clone());
    }
    Ok(live)
}

struct Find<'a, B: Backend> {
    spec: &'a Spec,
    weights: &'a Weights<B>,
    wiring: &'a Wiring,
    live: BTreeMap<Role, Range<usize>>,
}

impl<B: Backend> Find<'_, B> {
    fn param(&self, role: Role) -> Result<Param, NetError> {
        if let Some(range) = self.live.get(&role) {
            return Ok(Param::Live(range.clone()));
        }
        self.weights.position(role).map(Param::Frozen).ok_or_else(|| {
            // weights loaded for another task lack the tensors of this one
            let name = names::tensor_name(self.spec, role);
            NetError::Weights(WeightsError::Missing { name, expected: Vec::new() })
        })
    }

    fn norm(&self, k: usize) -> Result<NormParams, NetError> {
        let b = match self.spec.norm.kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(self.param(plan::site_role(self.spec, k, Part::Bias))?),
        };
        Ok(NormParams { w: self.param(plan::site_role(self.spec, k, Part::Weight))?, b })
    }

    fn map(&self, layer: usize, proj: Proj) -> Result<Option<Map>, NetError> {
        let Some((d_out, d_in)) = self.spec.proj_shape(proj) else { return Ok(None) };
        let role = |part| Role::Proj { layer, proj, part };
        let bias = match self.spec.has_bias(proj) {
            true => Some(self.param(role(Part::Bias))?),
            false => None,
        };
        let low = self.wiring.lora.iter().enumerate().find(|(_, (key, _))| **key == (layer, proj));
        let low = low.map(|(slot, (_, pair))| Low {
            pair: pair.clone(),
            slot,
            mask: (layer * 8 + proj as usize) as u16,
        });
        Ok(Some(Map { w: self.param(role(Part::Weight))?, bias, d_in, d_out, layout: self.spec.layout, low }))
    }

    fn need(&self, layer: usize, proj: Proj) -> Result<Map, NetError> {
        self.map(layer, proj)?.ok_or_else(|| NetError::Lora {
            layer,
            proj,
            layers: self.spec.layers,
            maps: Vec::new(),
        })
    }

    fn block(&self, layer: usize) -> Result<Block, NetError> {
        let qkv = match self.map(layer, Proj::Qkv)? {
            Some(map) => Qkv::Fused(map),
            None => Qkv::Split {
                q: self.need(layer, Proj::Q)?,
                k: self.need(layer, Proj::K)?,
                v: self.need(layer, Proj::V)?,
            },
        };
        let qk_norm = match self.spec.qk_norm {
            true => Some([self.param(Role::QueryNorm(layer))?, self.param(Role::KeyNorm(layer))?]),
            false => None,
        };
        Ok(Block {
            qkv,
            qk_norm,
            o: self.way_back(layer, Proj::O, Branch::Attention)?,
            mlp: match self.spec.activation {
                Activation::SwiGlu => {
                    Mlp::SwiGlu { gate: self.need(layer, Proj::Gate)?, up: self.need(layer, Proj::Up)? }
                }
                Activation::Gelu(kind) => Mlp::Gelu { kind, up: self.need(layer, Proj::Up)? },
            },
            down: self.way_back(layer, Proj::Down, Branch::Mlp)?,
        })
    }

    fn way_back(&self, layer: usize, proj: Proj, branch: Branch) -> Result<WayBack, NetError> {
        let all = self.wiring.bottlenecks.iter().enumerate();
        let found = all.into_iter().find(|(_, (key, _))| **key == (layer, branch));
        let behind = found.map(|(slot, (_, b))| Bottleneck::new(b, self.spec.hidden, slot));
        Ok(WayBack { map: self.need(layer, proj)?, behind })
    }

    fn out(&self, task: Task) -> Result<Out, NetError> {
        let (Task::Classify { classes, pooling }, Some(head)) = (task, &self.wiring.head) else {
            let role = if self.spec.tied { Role::TokenEmbedding } else { Role::LmHead };
            return Ok(Out::Lm { head: self.param(role)? });
        };
        let d = self.spec.hidden;
        let dense = |w, bias, d_out| Map { w, bias, d_in: d, d_out, layout: Layout::OutIn, low: None };
        let pooler = match pooling {
            Pooling::Pooler => {
                let b = self.param(Role::Pooler(Part::Bias))?;
                Some(dense(self.param(Role::Pooler(Part::Weight))?, Some(b), d))
            }
            _ => None,
        };
        let head = dense(Param::Live(head.weight.clone()), head.bias.clone().map(Param::Live), classes);
        Ok(Out::Class { head, pooling, pooler })
    }
}
