//! What is trainable in a model and where it attaches.
//!
//! A tuning method is a function from a [`crate::Spec`] to a [`Wiring`]; the transformer knows the points of
//! attachment and nothing of methods. Every range is a range of the client's flat trainable vector, which is in
//! schema order.

use std::collections::BTreeMap;
use std::ops::Range;

use antiphon_core::Schema;

use crate::spec::Proj;

/// How one vector is made of a sequence for classification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// First token.
    Cls,
    /// First token through the checkpoint's tanh pooler (BERT).
    Pooler,
    /// Mean over tokens.
    Mean,
    /// Last token (decoders).
    Last,
}

/// What the model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Next token.
    CausalLm,
    /// One of `classes`.
    Classify {
        /// Number of classes.
        classes: usize,
        /// How a sequence becomes a vector.
        pooling: Pooling,
    },
}

/// A low-rank pair on one linear map: `y += scale · x A^T B^T`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// `A: [rank, d_in]`.
    pub a: Range<usize>,
    /// `B: [d_out, rank]`.
    pub b: Range<usize>,
    /// Inner width.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt r` for rsLoRA.
    pub scale: f32,
    /// Probability of dropping an element of `x` on the low-rank path only.
    pub dropout: f32,
}

/// Where a bottleneck stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Branch {
    /// Behind the attention's output map.
    Attention,
    /// Behind the MLP's last map.
    Mlp,
}

/// A bottleneck behind a branch (Houlsby et al. 2019, arXiv:1902.00751): `y ← y + W_up gelu(W_down y + b_down) + b_up`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bottleneck {
    /// `W_down: [width, hidden]`.
    pub down: Range<usize>,
    /// `b_down: [width]`.
    pub down_bias: Range<usize>,
    /// `W_up: [hidden, width]`.
    pub up: Range<usize>,
    /// `b_up: [hidden]`.
    pub up_bias: Range<usize>,
    /// Inner width.
    pub width: usize,
}

/// A soft prompt: `tokens` rows of `hidden` before each sequence (arXiv:2104.08691).
#[derive(Clone, Debug, PartialEq)]
pub struct PromptWiring {
    /// `[tokens, hidden]`.
    pub range: Range<usize>,
    /// Number of virtual tokens.
    pub tokens: usize,
}

/// A classification head, always trainable.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadWiring {
    /// `[classes, hidden]`.
    pub weight: Range<usize>,
    /// `[classes]`; decoders have none.
    pub bias: Option<Range<usize>>,
}

/// The trainable part of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wiring {
    /// Names and shapes of the flat trainable vector.
    pub schema: Schema,
    /// Checkpoint tensors that are themselves trained (full tuning, bias tuning), by their name in the checkpoint.
    pub live: BTreeMap<String, Range<usize>>,
    /// Low-rank pairs, by layer and map.
    pub lora: BTreeMap<(usize, Proj), LoraPair>,
    /// Bottlenecks, by layer and branch.
    pub bottlenecks: BTreeMap<(usize, Branch), Bottleneck>,
    /// Soft prompt.
    pub prompt: Option<PromptWiring>,
    /// Classification head.
    pub head: Option<HeadWiring>,
}
