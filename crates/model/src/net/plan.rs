//! What a wiring asks of a step: how deep the backward goes and what it must find there.
//!
//! The transformer is one chain of stages. A *site* is a point of the residual stream with its norm; there are `2L + 1`
//! of them for `L` blocks. Pre-norm and post-norm models are the same chain, in which a branch starts from the norm `n_k`
//! of the stream `r_k` and the residual is the stream itself or its norm:
//!
//! ```text
//! n_k = norm_k(r_k)      r_{k+1} = outer_k(act(inner_k(n_k))) + { r_k  pre-norm | n_k  post-norm }
//! ```
//!
//! Even `k` is attention (inner q, k, v; outer o), odd `k` the MLP (inner gate, up; outer down); site `2L` stands before
//! the head. The backward walks the stages down to the lowest that trains and stops.

use crate::names::{Part, Role};
use crate::spec::{Placement, Proj, Spec};
use crate::wiring::{Branch, Task, Wiring};

/// A place in the chain, ascending from the embeddings to the head.
pub(crate) type Stage = usize;

/// The embeddings and the soft prompt.
pub(crate) const EMBEDDING: Stage = 0;

/// The norm of site `k`.
pub(crate) fn norm(k: usize) -> Stage {
    1 + 3 * k
}
/// The maps out of the norm of site `k`.
pub(crate) fn inner(k: usize) -> Stage {
    2 + 3 * k
}
/// The map back into the stream after site `k`.
pub(crate) fn outer(k: usize) -> Stage {
    3 + 3 * k
}
/// Everything after the last norm.
pub(crate) fn head(spec: &Spec) -> Stage {
    2 + 6 * spec.layers
}

/// The role of the norm at a site.
pub(crate) fn site_role(spec: &Spec, k: usize, part: Part) -> Role {
    let (layer, second) = (k / 2, k % 2 == 1);
    match (spec.placement, second) {
        (Placement::Pre, _) if layer == spec.layers => Role::FinalNorm(part),
        (Placement::Pre, false) => Role::AttentionNorm(layer, part),
        (Placement::Pre, true) => Role::MlpNorm(layer, part),
        (Placement::Post, true) => Role::AttentionNorm(layer, part),
        (Placement::Post, false) if layer == 0 => Role::EmbeddingNorm(part),
        (Placement::Post, false) => Role::MlpNorm(layer - 1, part),
    }
}

fn proj_stage(layer: usize, proj: Proj) -> Stage {
    match proj {
        Proj::Q | Proj::K | Proj::V | Proj::Qkv => inner(2 * layer),
        Proj::O => outer(2 * layer),
        Proj::Gate | Proj::Up => inner(2 * layer + 1),
        Proj::Down => outer(2 * layer + 1),
    }
}

fn way_back(layer: usize, branch: Branch) -> Stage {
    match branch {
        Branch::Attention => outer(2 * layer),
        Branch::Mlp => outer(2 * layer + 1),
    }
}

/// The stage of a tensor.
fn stage(spec: &Spec, role: Role) -> Stage {
    let post = usize::from(spec.placement == Placement::Post);
    match role {
        Role::TokenEmbedding | Role::PositionEmbedding | Role::TokenTypeEmbedding => EMBEDDING,
        Role::EmbeddingNorm(_) => norm(0),
        Role::Proj { layer, proj, .. } => proj_stage(layer, proj),
        Role::QueryNorm(layer) | Role::KeyNorm(layer) => inner(2 * layer),
        Role::AttentionNorm(layer, _) => norm(2 * layer + post),
        Role::MlpNorm(layer, _) => norm(2 * layer + 1 + post),
        Role::FinalNorm(_) => norm(2 * spec.layers),
        Role::LmHead | Role::Pooler(_) | Role::ClassHead(_) => head(spec),
    }
}

/// The consequences of a wiring for memory and for the backward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Lowest stage that trains; `usize::MAX` when nothing does.
    pub(crate) lowest: Stage,
    /// Ranks of the low-rank pairs, in the order of the wiring's map.
    pub(crate) ranks: Vec<usize>,
    /// Widths of the bottlenecks, in the order of the wiring's map.
    pub(crate) widths: Vec<usize>,
    /// Widest input of a pair with dropout; 0 when there is none.
    pub(crate) dropout_width: usize,
    /// Elements of the largest `A` of a pair or soft prompt, and of the largest `B`.
    pub(crate) overlay: [usize; 2],
}

impl Plan {
    /// The plan of a wiring whose live names are `roles`.
    pub(crate) fn of(spec: &Spec, wiring: &Wiring, roles: impl Iterator<Item = Role>) -> Self {
        let lowest = roles
            .map(|r| stage(spec, r))
            .chain(wiring.lora.keys().map(|&(layer, proj)| proj_stage(layer, proj)))
            .chain(wiring.bottlenecks.keys().map(|&(layer, branch)| way_back(layer, branch)))
            .chain(wiring.prompt.as_ref().map(|_| EMBEDDING))
            .chain(wiring.head.as_ref().map(|_| head(spec)))
            .min()
            .unwrap_or(usize::MAX);
        let width = |proj| spec.proj_shape(proj).map_or(0, |(_, d_in)| d_in);
        let dropout_width = wiring
            .lora
            .iter()
            .filter(|(_, pair)| pair.dropout > 0.0)
            .map(|(&(_, proj), _)| width(proj))
            .max()
            .unwrap_or(0);
        let largest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let prompt = wiring.prompt.iter().map(|p| p.range.len());
        let overlay = [
            largest(&mut wiring.lora.values().map(|p| p.a.len()).chain(prompt)),
            largest(&mut wiring.lora.values().map(|p| p.b.len())),
        ];
        let ranks = wiring.lora.values().map(|p| p.rank).collect();
        let widths = wiring.bottlenecks.values().map(|b| b.width).collect();
        Self { lowest, ranks, widths, dropout_width, overlay }
    }

    /// The same model without a backward.
    pub(crate) fn inference(self) -> Self {
        Self {
            lowest: usize::MAX,
            dropout_width: 0,
            ranks: self.ranks.iter().copied().max().into_iter().collect(),
            widths: self.widths.iter().copied().max().into_iter().collect(),
            overlay: self.overlay,
        }
    }

    /// First site whose activations the backward reads; `2L` when it reads none.
    pub(crate) fn first_kept_site(&self, spec: &Spec) -> usize {
        (0..2 * spec.layers).find(|&k| self.lowest <= outer(k)).unwrap_or(2 * spec.layers)
    }

    /// Whether some block takes part in the backward.
    pub(crate) fn reaches_blocks(&self, spec: &Spec) -> bool {
        self.first_kept_site(spec) < 2 * spec.layers
    }
}

/// The classes of a task; 0 for next tokens.
pub(crate) fn classes(task: Task) -> usize {
    match task {
        Task::CausalLm => 0,
        Task::Classify { classes, .. } => classes,
    }
}
