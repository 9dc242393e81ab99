//! The names of tensors, as transformers writes them in the class that a task asks for.
//!
//! The class fixes the paths that peft writes too: `LlamaForCausalLM` and `LlamaForSequenceClassification` hold their
//! trunk under `model.`, GPT-2 under `transformer.`, BERT under `bert.`. Everything here is a function of a
//! [`Spec`], a [`Task`] and a [`Role`]; the order of [`tensors`] is that of the class's `state_dict`.
//!
//! Deliberately missing: the masked-language head of BERT, and buffers (masks, rotary tables) that old checkpoints
//! carry and no computation here reads.

use crate::spec::{Family, NormKind, Positions, Proj, Spec};
use crate::wiring::{Branch, Pooling, Task};

/// What AdapterHub's `adapters` shall call an adapter of bottlenecks.
pub const BOTTLENECK: &str = "antiphon";

/// Which tensor of a map or a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The matrix, or the gain of a norm.
    Weight,
    /// The vector added.
    Bias,
}

/// What a tensor does in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `[vocab, hidden]`.
    TokenEmbedding,
    /// `[max_positions, hidden]`.
    PositionEmbedding,
    /// `[token_types, hidden]`.
    TokenTypeEmbedding,
    /// Norm on the sum of the embeddings (post-norm models).
    EmbeddingNorm(Part),
    /// A linear map of a block; its weight lies in the spec's layout.
    Proj {
        /// Block.
        layer: usize,
        /// Which map.
        proj: Proj,
        /// Weight or bias.
        part: Part,
    },
    /// Gain on each head of the queries, `[head_dim]`.
    QueryNorm(usize),
    /// Gain on each head of the keys, `[head_dim]`.
    KeyNorm(usize),
    /// The norm before the attention (pre-norm) or after its residual (post-norm).
    AttentionNorm(usize, Part),
    /// The norm before the MLP (pre-norm) or after its residual (post-norm).
    MlpNorm(usize, Part),
    /// The norm before the head.
    FinalNorm(Part),
    /// `[vocab, hidden]`, where it is not the embedding.
    LmHead,
    /// `[hidden, hidden]` and `[hidden]`: BERT's tanh pooler.
    Pooler(Part),
    /// `[classes, hidden]` and, for encoders, `[classes]`. In no base checkpoint; always trained.
    ClassHead(Part),
}

impl Role {
    /// The block that the tensor is part of.
    #[must_use]
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Proj { layer, .. }
            | Self::QueryNorm(layer)
            | Self::KeyNorm(layer)
            | Self::AttentionNorm(layer, _)
            | Self::MlpNorm(layer, _) => Some(layer),
            Self::TokenEmbedding
            | Self::PositionEmbedding
            | Self::TokenTypeEmbedding
            | Self::EmbeddingNorm(_)
            | Self::FinalNorm(_)
            | Self::LmHead
            | Self::Pooler(_)
            | Self::ClassHead(_) => None,
        }
    }
}

/// A tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the `state_dict`.
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    /// What it does.
    pub role: Role,
}

/// Prefix of the trunk, with its dot.
#[must_use]
pub fn trunk(spec: &Spec) -> &'static str {
    match spec.family {
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => "model.",
        Family::Gpt2 => "transformer.",
        Family::Bert => "bert.",
    }
}

/// Path of a linear map as `named_modules` has it, which is what peft matches and writes, such as
/// `model.layers.3.self_attn.q_proj`. `None` where this model has no such map.
#[must_use]
pub fn module_path(spec: &Spec, layer: usize, proj: Proj) -> Option<String> {
    spec.proj_shape(proj)?;
    Some(format!("{}{}", block(spec, layer), proj_leaf(spec.family, proj)))
}

/// Tensors of the bottleneck behind a branch, in `state_dict` order: `W_down`, `b_down`, `W_up`, `b_up`, as AdapterHub's
/// `adapters` calls those of an adapter named `antiphon`.
#[must_use]
pub fn bottleneck_tensors(spec: &Spec, layer: usize, branch: Branch) -> [String; 4] {
    let place = match (spec.family, branch) {
        (Family::Bert, Branch::Attention) => "attention.output.adapters",
        (Family::Bert, Branch::Mlp) => "output.adapters",
        (_, Branch::Attention) => "attention_adapters.adapters",
        (_, Branch::Mlp) => "output_adapters.adapters",
    };
    let of = |leaf| format!("{}{place}.{BOTTLENECK}.{leaf}", block(spec, layer));
    [of("adapter_down.0.weight"), of("adapter_down.0.bias"), of("adapter_up.weight"), of("adapter_up.bias")]
}

/// Name of the module of a map inside a block, the part that `target_modules` usually names: the last component
/// of its path, such as `q_proj`, `c_attn` or `query`. GPT-2 calls both output maps `c_proj` and BERT three maps
/// `dense`; peft tells them apart by a longer suffix.
#[must_use]
pub fn module_leaf(spec: &Spec, proj: Proj) -> Option<&'static str> {
    spec.proj_shape(proj)?;
    proj_leaf(spec.family, proj).rsplit('.').next()
}

/// Name of the module that peft keeps whole beside an adapter (`modules_to_save`): `score` or `classifier`.
#[must_use]
pub fn class_head_module(spec: &Spec) -> &'static str {
    match spec.family {
        Family::Bert => "classifier",
        _ => "score",
    }
}

/// Name of the tensor with this role in the `state_dict`.
#[must_use]
pub fn tensor_name(spec: &Spec, role: Role) -> String {
    use Family::{Bert, Gpt2};
    let t = trunk(spec);
    match (role, spec.family) {
        (Role::TokenEmbedding, Gpt2) => format!("{t}wte.weight"),
        (Role::TokenEmbedding, Bert) => format!("{t}embeddings.word_embeddings.weight"),
        (Role::TokenEmbedding, _) => format!("{t}embed_tokens.weight"),
        (Role::PositionEmbedding, Bert) => format!("{t}embeddings.position_embeddings.weight"),
        (Role::PositionEmbedding, _) => format!("{t}wpe.weight"),
        (Role::TokenTypeEmbedding, _) => format!("{t}embeddings.token_type_embeddings.weight"),
        (Role::EmbeddingNorm(part), _) => format!("{t}embeddings.LayerNorm.{}", leaf(part)),
        (Role::Proj { layer, proj, part }, family) => {
            format!("{}{}.{}", block(spec, layer), proj_leaf(family, proj), leaf(part))
        }
        (Role::QueryNorm(layer), _) => format!("{}self_attn.q_norm.weight", block(spec, layer)),
        (Role::KeyNorm(layer), _) => format!("{}self_attn.k_norm.weight", block(spec, layer)),
        (Role::AttentionNorm(layer, part), family) => {
            let module = match family {
                Gpt2 => "ln_1",
                Bert => "attention.output.LayerNorm",
                _ => "input_layernorm",
            };
            format!("{}{module}.{}", block(spec, layer), leaf(part))
        }
        (Role::MlpNorm(layer, part), family) => {
            let module = match family {
                Gpt2 => "ln_2",
                Bert => "output.LayerNorm",
                _ => "post_attention_layernorm",
            };
            format!("{}{module}.{}", block(spec, layer), leaf(part))
        }
        (Role::FinalNorm(part), Gpt2) => format!("{t}ln_f.{}", leaf(part)),
        (Role::FinalNorm(part), _) => format!("{t}norm.{}", leaf(part)),
        (Role::LmHead, _) => "lm_head.weight".to_owned(),
        (Role::Pooler(part), _) => format!("{t}pooler.dense.{}", leaf(part)),
        (Role::ClassHead(part), _) => format!("{}.{}", class_head_module(spec), leaf(part)),
    }
}

/// Every tensor of the model that computes `task`, in the order of the class's `state_dict`. A tied head is listed
/// once, as the embedding; BERT's pooler only where the task reads it.
#[must_use]
pub fn tensors(spec: &Spec, task: Task) -> Vec<TensorInfo> {
    let mut list = List { spec, tensors: Vec::new() };
    let d = spec.hidden;
    list.push(Role::TokenEmbedding, &[spec.vocab, d]);
    if spec.positions == Positions::Learned {
        list.push(Role::PositionEmbedding, &[spec.max_positions, d]);
    }
    if let Some(types) = spec.token_types {
        list.push(Role::TokenTypeEmbedding, &[types, d]);
    }
    if spec.embedding_norm() {
        list.norm(Role::EmbeddingNorm);
    }
    for layer in 0..spec.layers {
        list.block(layer);
    }
    if spec.final_norm() {
        list.norm(Role::FinalNorm);
    }
    match task {
        Task::CausalLm if !spec.tied => list.push(Role::LmHead, &[spec.vocab, d]),
        Task::CausalLm => {}
        Task::Classify { classes, pooling } => {
            if pooling == Pooling::Pooler {
                list.push(Role::Pooler(Part::Weight), &[d, d]);
                list.push(Role::Pooler(Part::Bias), &[d]);
            }
            list.push(Role::ClassHead(Part::Weight), &[classes, d]);
            if class_head_bias(spec) {
                list.push(Role::ClassHead(Part::Bias), &[classes]);
            }
        }
    }
    list.tensors
}

/// Whether transformers' classification class of this family has a bias on its head.
#[must_use]
pub fn class_head_bias(spec: &Spec) -> bool {
    spec.family == Family::Bert
}

/// Names under which checkpoints hold the tensor called `name`, best first: as it is, and without the trunk's
/// prefix (saved from the bare `LlamaModel`, `GPT2Model` or `BertModel`). BERT's oldest checkpoints call the gain
/// and bias of a norm `gamma` and `beta`.
pub fn load_candidates(spec: &Spec, name: &str) -> impl Iterator<Item = String> + use<> {
    let bare = name.strip_prefix(trunk(spec)).map(str::to_owned);
    let old = |n: &str| {
        let (stem, new) = n.rsplit_once('.')?;
        let part = match new {
            "weight" => "gamma",
            "bias" => "beta",
            _ => return None,
        };
        (spec.family == Family::Bert && stem.ends_with("LayerNorm")).then(|| format!("{stem}.{part}"))
    };
    let olds = [old(name), bare.as_deref().and_then(old)];
    [Some(name.to_owned()), bare].into_iter().chain(olds).flatten()
}

/// Collects tensors in order.
struct List<'a> {
    spec: &'a Spec,
    tensors: Vec<TensorInfo>,
}

impl List<'_> {
    fn push(&mut self, role: Role, shape: &[usize]) {
        self.tensors.push(TensorInfo { name: tensor_name(self.spec, role), shape: shape.to_vec(), role });
    }

    fn norm(&mut self, role: impl Fn(Part) -> Role) {
        self.push(role(Part::Weight), &[self.spec.hidden]);
        if self.spec.norm.kind == NormKind::Layer {
            self.push(role(Part::Bias), &[self.spec.hidden]);
        }
    }

    fn proj(&mut self, layer: usize, proj: Proj) {
        let Some((d_out, d_in)) = self.spec.proj_shape(proj) else { return };
        let shape = match self.spec.layout {
            antiphon_kernels::Layout::OutIn => [d_out, d_in],
            antiphon_kernels::Layout::InOut => [d_in, d_out],
        };
        self.push(Role::Proj { layer, proj, part: Part::Weight }, &shape);
        if self.spec.has_bias(proj) {
            self.push(Role::Proj { layer, proj, part: Part::Bias }, &[d_out]);
        }
    }

    /// A block's tensors stand in the order in which its class declares them, which differs by family.
    fn block(&mut self, layer: usize) {
        let attention = [Proj::Qkv, Proj::Q, Proj::K, Proj::V, Proj::O];
        let mlp = [Proj::Gate, Proj::Up, Proj::Down];
        let attention_norm = |part| Role::AttentionNorm(layer, part);
        let mlp_norm = |part| Role::MlpNorm(layer, part);
        match self.spec.family {
            Family::Gpt2 => {
                self.norm(attention_norm);
                attention.into_iter().for_each(|p| self.proj(layer, p));
                self.norm(mlp_norm);
                mlp.into_iter().for_each(|p| self.proj(layer, p));
            }
            Family::Bert => {
                attention.into_iter().for_each(|p| self.proj(layer, p));
                self.norm(attention_norm);
                mlp.into_iter().for_each(|p| self.proj(layer, p));
                self.norm(mlp_norm);
            }
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => {
                attention.into_iter().for_each(|p| self.proj(layer, p));
                if self.spec.qk_norm {
                    self.push(Role::QueryNorm(layer), &[self.spec.head_dim]);
                    self.push(Role::KeyNorm(layer), &[self.spec.head_dim]);
                }
                mlp.into_iter().for_each(|p| self.proj(layer, p));
                self.norm(attention_norm);
                self.norm(mlp_norm);
            }
        }
    }
}

fn leaf(part: Part) -> &'static str {
    match part {
        Part::Weight => "weight",
        Part::Bias => "bias",
    }
}

/// Prefix of a block, with its dot.
fn block(spec: &Spec, layer: usize) -> String {
    let list = match spec.family {
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => "layers",
        Family::Gpt2 => "h",
        Family::Bert => "encoder.layer",
    };
    format!("{}{list}.{}.", trunk(spec), spec.checkpoint_layer(layer))
}

/// Path of a map inside its block. Maps that a family lacks are refused before by [`Spec::proj_shape`].
fn proj_leaf(family: Family, proj: Proj) -> &'static str {
    match (family, proj) {
        (Family::Gpt2, Proj::O) => "attn.c_proj",
        (Family::Gpt2, Proj::Up) => "mlp.c_fc",
        (Family::Gpt2, Proj::Down) => "mlp.c_proj",
        (Family::Bert, Proj::Q) => "attention.self.query",
        (Family::Bert, Proj::K) => "attention.self.key",
        (Family::Bert, Proj::V) => "attention.self.value",
        (Family::Bert, Proj::O) => "attention.output.dense",
        (Family::Bert, Proj::Up) => "intermediate.dense",
        (Family::Bert, Proj::Down) => "output.dense",
        (_, Proj::Q) => "self_attn.q_proj",
        (_, Proj::K) => "self_attn.k_proj",
        (_, Proj::V) => "self_attn.v_proj",
        (_, Proj::Qkv) => "attn.c_attn",
        (_, Proj::O) => "self_attn.o_proj",
        (_, Proj::Gate) => "mlp.gate_proj",
        (_, Proj::Up) => "mlp.up_proj",
        (_, Proj::Down) => "mlp.down_proj",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Activation, Biases, Norm, Placement, RopeScaling};
    use antiphon_kernels::{Gelu, Layout};

    fn llama() -> Spec {
        Spec {
            family: Family::Llama,
            vocab: 20,
            hidden: 8,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            ffn: 12,
            max_positions: 32,
            norm: Norm { kind: NormKind::Rms, eps: 1e-6 },
            placement: Placement::Pre,
            activation: Activation::SwiGlu,
            positions: Positions::Rope { theta: 1e4, scaling: RopeScaling::None },
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

    fn gpt2() -> Spec {
        Spec {
            family: Family::Gpt2,
            kv_heads: 2,
            norm: Norm { kind: NormKind::Layer, eps: 1e-5 },
            activation: Activation::Gelu(Gelu::Tanh),
            positions: Positions::Learned,
            biases: Biases { qkv: true, o: true, mlp: true },
            fused_qkv: true,
            layout: Layout::InOut,
            tied: true,
            ..llama()
        }
    }

    fn bert() -> Spec {
        Spec {
            family: Family::Bert,
            placement: Placement::Post,
            activation: Activation::Gelu(Gelu::Erf),
            fused_qkv: false,
            layout: Layout::OutIn,
            causal: false,
            token_types: Some(2),
            pooler: true,
            ..gpt2()
        }
    }

    fn lines(spec: &Spec, task: Task) -> Vec<String> {
        tensors(spec, task).iter().map(|t| format!("{} {:?}", t.name, t.shape)).collect()
    }

    /// The lists are `state_dict`s printed by transformers 5.23 for configurations of these sizes.
    #[test]
    fn tensors_are_those_of_transformers_in_their_order() {
        let qwen = Spec {
            family: Family::Qwen3,
            qk_norm: true,
            biases: Biases { qkv: true, o: false, mlp: false },
            ..llama()
        };
        assert_eq!(
            lines(&qwen, Task::CausalLm),
            [
                "model.embed_tokens.weight [20, 8]",
                "model.layers.0.self_attn.q_proj.weight [8, 8]",
                "model.layers.0.self_attn.q_proj.bias [8]",
                "model.layers.0.self_attn.k_proj.weight [4, 8]",
                "model.layers.0.self_attn.k_proj.bias [4]",
                "model.layers.0.self_attn.v_proj.weight [4, 8]",
                "model.layers.0.self_attn.v_proj.bias [4]",
                "model.layers.0.self_attn.o_proj.weight [8, 8]",
                "model.layers.0.self_attn.q_norm.weight [4]",
                "model.layers.0.self_attn.k_norm.weight [4]",
                "model.layers.0.mlp.gate_proj.weight [12, 8]",
                "model.layers.0.mlp.up_proj.weight [12, 8]",
                "model.layers.0.mlp.down_proj.weight [8, 12]",
                "model.layers.0.input_layernorm.weight [8]",
                "model.layers.0.post_attention_layernorm.weight [8]",
                "model.norm.weight [8]",
                "lm_head.weight [20, 8]",
            ]
        );
        assert_eq!(
            lines(&gpt2(), Task::Classify { classes: 3, pooling: Pooling::Last }),
            [
                "transformer.wte.weight [20, 8]",
                "transformer.wpe.weight [32, 8]",
                "transformer.h.0.ln_1.weight [8]",
                "transformer.h.0.ln_1.bias [8]",
                "transformer.h.0.attn.c_attn.weight [8, 24]",
                "transformer.h.0.attn.c_attn.bias [24]",
                "transformer.h.0.attn.c_proj.weight [8, 8]",
                "transformer.h.0.attn.c_proj.bias [8]",
                "transformer.h.0.ln_2.weight [8]",
                "transformer.h.0.ln_2.bias [8]",
                "transformer.h.0.mlp.c_fc.weight [8, 12]",
                "transformer.h.0.mlp.c_fc.bias [12]",
                "transformer.h.0.mlp.c_proj.weight [12, 8]",
                "transformer.h.0.mlp.c_proj.bias [8]",
                "transformer.ln_f.weight [8]",
                "transformer.ln_f.bias [8]",
                "score.weight [3, 8]",
            ]
        );
        assert_eq!(
            lines(&bert(), Task::Classify { classes: 3, pooling: Pooling::Pooler }),
            [
                "bert.embeddings.word_embeddings.weight [20, 8]",
                "bert.embeddings.position_embeddings.weight [32, 8]",
                "bert.embeddings.token_type_embeddings.weight [2, 8]",
                "bert.embeddings.LayerNorm.weight [8]",
                "bert.embeddings.LayerNorm.bias [8]",
                "bert.encoder.layer.0.attention.self.query.weight [8, 8]",
                "bert.encoder.layer.0.attention.self.query.bias [8]",
                "bert.encoder.layer.0.attention.self.key.weight [8, 8]",
                "bert.encoder.layer.0.attention.self.key.bias [8]",
                "bert.encoder.layer.0.attention.self.value.weight [8, 8]",
                "bert.encoder.layer.0.attention.self.value.bias [8]",
                "bert.encoder.layer.0.attention.output.dense.weight [8, 8]",
                "bert.encoder.layer.0.attention.output.dense.bias [8]",
                "bert.encoder.layer.0.attention.output.LayerNorm.weight [8]",
                "bert.encoder.layer.0.attention.output.LayerNorm.bias [8]",
                "bert.encoder.layer.0.intermediate.dense.weight [12, 8]",
                "bert.encoder.layer.0.intermediate.dense.bias [12]",
                "bert.encoder.layer.0.output.dense.weight [8, 12]",
                "bert.encoder.layer.0.output.dense.bias [8]",
                "bert.encoder.layer.0.output.LayerNorm.weight [8]",
                "bert.encoder.layer.0.output.LayerNorm.bias [8]",
                "bert.pooler.dense.weight [8, 8]",
                "bert.pooler.dense.bias [8]",
                "classifier.weight [3, 8]",
                "classifier.bias [3]",
            ]
        );
    }

    #[test]
    fn a_tied_head_is_listed_once() {
        assert!(!lines(&gpt2(), Task::CausalLm).iter().any(|l| l.starts_with("lm_head")));
    }

    #[test]
    fn module_paths_are_those_that_peft_writes() {
        assert_eq!(module_path(&llama(), 3, Proj::Q).unwrap(), "model.layers.3.self_attn.q_proj");
        assert_eq!(module_path(&gpt2(), 3, Proj::Qkv).unwrap(), "transformer.h.3.attn.c_attn");
        assert_eq!(module_path(&bert(), 0, Proj::Q).unwrap(), "bert.encoder.layer.0.attention.self.query");
        assert_eq!(module_path(&gpt2(), 0, Proj::Q), None);
        assert_eq!(module_path(&bert(), 0, Proj::Gate), None);
        assert_eq!(module_leaf(&bert(), Proj::Up), Some("dense"));
    }

    #[test]
    fn checkpoints_may_omit_the_prefix() {
        let of = |spec: &Spec, name: &str| load_candidates(spec, name).collect::<Vec<_>>();
        assert_eq!(of(&llama(), "model.norm.weight"), ["model.norm.weight", "norm.weight"]);
        assert_eq!(of(&llama(), "lm_head.weight"), ["lm_head.weight"]);
        assert_eq!(
            of(&bert(), "bert.embeddings.LayerNorm.bias"),
            [
                "bert.embeddings.LayerNorm.bias",
                "embeddings.LayerNorm.bias",
                "bert.embeddings.LayerNorm.beta",
                "embeddings.LayerNorm.beta"
            ]
        );
    }
}
