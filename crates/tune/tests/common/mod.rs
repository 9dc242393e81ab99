//! Small models of three families, with shapes in which no two dimensions are equal by accident.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod world;

use antiphon_core::{Noise, Purpose, Stream};
use antiphon_kernels::{FrozenData, Gelu, Layout};
use antiphon_model::names;
use antiphon_model::{
    Activation, Biases, Family, Norm, NormKind, Placement, Pooling, Positions, RopeScaling, Spec, Task,
    TensorSource,
};

pub(crate) const CLASSIFY: Task = Task::Classify { classes: 3, pooling: Pooling::Mean };

pub(crate) fn llama() -> Spec {
    Spec {
        family: Family::Llama,
        vocab: 20,
        hidden: 8,
        layers: 3,
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

pub(crate) fn gpt2() -> Spec {
    Spec {
        family: Family::Gpt2,
        layers: 2,
        kv_heads: 2,
        ffn: 32,
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

pub(crate) fn bert() -> Spec {
    Spec {
        family: Family::Bert,
        ffn: 12,
        norm: Norm { kind: NormKind::Layer, eps: 1e-12 },
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

/// A checkpoint whose values are N(0, 0.5²), a function of the tensor's name.
pub(crate) struct Checkpoint {
    pub(crate) spec: Spec,
    pub(crate) task: Task,
}

impl Checkpoint {
    pub(crate) fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        let info = names::tensors(&self.spec, self.task).into_iter().find(|t| t.name == name)?;
        let mut s = Stream::keyed(1, Purpose::Test, None, None, name);
        Some((0..info.shape.iter().product()).map(|_| (0.5 * s.standard_normal()) as f32).collect())
    }
}

impl TensorSource for Checkpoint {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let info = names::tensors(&self.spec, self.task).into_iter().find(|t| t.name == name)?;
        Some((FrozenData::Owned(self.tensor(name)?.into()), info.shape))
    }
}
