//! The mathematics of a transformer, as far as checkpoints differ in it.

use antiphon_kernels::{Gelu, Layout};

/// Where the names of tensors and the defaults of the configuration come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama, SmolLM, TinyLlama.
    Llama,
    /// Llama with a sliding window.
    Mistral,
    /// Biases on q, k, v.
    Qwen2,
    /// RMSNorm on each head of q and k.
    Qwen3,
    /// Conv1D layout, fused qkv, learned positions, LayerNorm.
    Gpt2,
    /// Bidirectional encoder, post-norm; MiniLM too.
    Bert,
}

/// A linear map inside a block, named after its role. `Qkv` is GPT-2's fused `c_attn`; models without a gate have
/// only `Up` and `Down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proj {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Queries, keys and values in one.
    Qkv,
    /// Attention output.
    O,
    /// Gate of SwiGLU.
    Gate,
    /// First map of the MLP.
    Up,
    /// Second map of the MLP.
    Down,
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, gain only.
    Rms,
    /// Mean and variance, gain and bias.
    Layer,
}

/// A normalisation and its epsilon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// `x + f(norm(x))`, and a norm before the head.
    Pre,
    /// `norm(x + f(x))`, and a norm on the embeddings (BERT).
    Post,
}

/// The MLP's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `down(silu(gate(x)) ⊙ up(x))`.
    SwiGlu,
    /// `down(gelu(up(x)))`.
    Gelu(Gelu),
}

/// Stretching of rotary frequencies beyond the trained length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency divided by the factor.
    Linear {
        /// Divisor of the frequencies.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Positions of the original training.
        original_max_positions: f64,
    },
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// Rotary (arXiv:2104.09864), half-split.
    Rope {
        /// Base of the frequencies.
        theta: f64,
        /// Stretching.
        scaling: RopeScaling,
    },
    /// A learned table added to the embeddings.
    Learned,
}

/// Which linear maps carry a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// q, k, v (or the fused map).
    pub qkv: bool,
    /// Attention output.
    pub o: bool,
    /// Every map of the MLP.
    pub mlp: bool,
}

/// Everything that decides the function a checkpoint computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Names and defaults.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream, `d`.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// The checkpoint's indices of the blocks, ascending, `layers` of them, where the model is some of a checkpoint's
    /// blocks (see [`Spec::with_layers`]). `None`: all of them.
    pub kept: Option<Vec<usize>>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head; `heads · head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Inner width of the MLP.
    pub ffn: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// The norm.
    pub norm: Norm,
    /// Where the norms stand.
    pub placement: Placement,
    /// The MLP.
    pub activation: Activation,
    /// Positions.
    pub positions: Positions,
    /// Biases.
    pub biases: Biases,
    /// RMSNorm on each head of q and k before the rotation (Qwen3).
    pub qk_norm: bool,
    /// Whether a token sees only its past.
    pub causal: bool,
    /// Sliding window of every layer.
    pub window: Option<usize>,
    /// q, k and v in one map (GPT-2).
    pub fused_qkv: bool,
    /// Memory order of the blocks' linear maps.
    pub layout: Layout,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Rows of the token-type table (BERT).
    pub token_types: Option<usize>,
    /// Whether the checkpoint's classification path has a tanh pooler (BERT).
    pub pooler: bool,
    /// Start of a text.
    pub bos: Option<u32>,
    /// Ends of a text.
    pub eos: Vec<u32>,
}

impl Spec {
    /// `(d_out, d_in)` of a linear map; `None` where this model has no such map.
    #[must_use]
    pub fn proj_shape(&self, proj: Proj) -> Option<(usize, usize)> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match proj {
            Proj::Qkv => self.fused_qkv.then_some((q + 2 * kv, self.hidden)),
            Proj::Q => (!self.fused_qkv).then_some((q, self.hidden)),
            Proj::K | Proj::V => (!self.fused_qkv).then_some((kv, self.hidden)),
            Proj::O => Some((self.hidden, q)),
            Proj::Gate => (self.activation == Activation::SwiGlu).then_some((self.ffn, self.hidden)),
            Proj::Up => Some((self.ffn, self.hidden)),
            Proj::Down => Some((self.hidden, self.ffn)),
        }
    }

    /// Whether a linear map carries a bias; false where this model has no such map.
    #[must_use]
    pub fn has_bias(&self, proj: Proj) -> bool {
        self.proj_shape(proj).is_some()
            && match proj {
                Proj::Q | Proj::K | Proj::V | Proj::Qkv => self.biases.qkv,
                Proj::O => self.biases.o,
                Proj::Gate | Proj::Up | Proj::Down => self.biases.mlp,
            }
    }

    /// The checkpoint's index of block `layer`, which names its tensors.
    ///
    /// # Panics
    /// Where this model has no block `layer`.
    #[must_use]
    pub fn checkpoint_layer(&self, layer: usize) -> usize {
        self.kept.as_ref().map_or(layer, |kept| kept[layer])
    }

    /// The block that the checkpoint counts as `index`; `None` where this model does not have it.
    #[must_use]
    pub fn layer_of(&self, index: usize) -> Option<usize> {
        match &self.kept {
            None => (index < self.layers).then_some(index),
            Some(kept) => kept.binary_search(&index).ok(),
        }
    }

    /// The model of these blocks alone, counted as the checkpoint counts them: one after another, as if those between had
    /// never been. Embeddings, last norm and head stay. Tensors keep the names that they have in the checkpoint, so a
    /// trainable vector of the smaller model is one of the larger, and nothing of a block left out is ever looked up.
    ///
    /// # Errors
    /// The first index that is not above the one before it, or not a block of this model.
    pub fn with_layers(&self, kept: &[usize]) -> Result<Self, usize> {
        let ascending = |i: usize| i == 0 || kept[i - 1] < kept[i];
        let wrong = |&(i, &index): &(usize, &usize)| !ascending(i) || self.layer_of(index).is_none();
        if let Some((_, &index)) = kept.iter().enumerate().find(wrong) {
            return Err(index);
        }
        let all = kept.len() == self.layers;
        let names = if all { self.kept.clone() } else { Some(kept.to_vec()) };
        Ok(Self { layers: kept.len(), kept: names, ..self.clone() })
    }

    /// Whether the sum of the embeddings is normalised.
    #[must_use]
    pub fn embedding_norm(&self) -> bool {
        self.placement == Placement::Post
    }

    /// Whether a norm stands before the head.
    #[must_use]
    pub fn final_norm(&self) -> bool {
        self.placement == Placement::Pre
    }
}
