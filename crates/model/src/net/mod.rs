//! The transformer: explicit forward and backward over a [`Backend`].
//!
//! A [`Net`] is immutable and shared: frozen weights, the places of everything, rotary tables. A client brings its
//! trainable vector, a [`Batch`] and a [`Workspace`]. A step is
//!
//! ```text
//! net.forward(…)?;                                  residual stream up to the last norm
//! let loss = net.lm_loss(…, Some(&mut grads))?;     head on the labelled rows; starts the gradient
//! net.backward(…, &mut grads)?;                     down to the lowest trainable tensor
//! ```
//!
//! Gradients accumulate into `grads`, which has the layout of the wiring's schema; the caller zeroes it. After the first
//! step nothing here allocates. The chain of stages and the reason why pre-norm and post-norm are one path are in
//! `plan.rs`.
//!
//! Deliberately missing: dropout anywhere but on low-rank paths, token types other than 0, encoder-decoder models.

mod attention;
mod bottleneck;
mod cache;
mod divergence;
mod embed;
mod influence;
mod maps;
mod mlp;
mod norm;
mod out;
pub(crate) mod plan;
mod resolve;
mod rope;
mod taps;

use std::sync::Arc;

use antiphon_kernels::{AttnShape, Backend, Dst};

pub use cache::Cache;
pub(crate) use cache::Past;
pub use divergence::Teacher;
pub(crate) use embed::Given;
pub use influence::Influence;
pub use maps::DropoutSeed;
pub use resolve::NetError;
pub use taps::Taps;

use crate::batch::{Batch, Limits};
use crate::spec::{Placement, Positions, Spec};
use crate::weights::Weights;
use crate::wiring::{Task, Wiring};
use crate::workspace::{Acts, Dims, Mode, Shape, Workspace};
use maps::Ctx;
use resolve::Resolved;

/// A model with a task and a wiring, shared by every client.
#[derive(Debug)]
pub struct Net<B: Backend> {
    weights: Arc<Weights<B>>,
    wiring: Arc<Wiring>,
    task: Task,
    max_len: usize,
    parts: Resolved,
    /// `[max_len, head_dim]`, where positions rotate.
    rope: Option<B::Buf>,
}

impl<B: Backend> Net<B> {
    /// The model of `weights` that computes `task`, trained as `wiring` says, on sequences of up to `max_len` rows with
    /// the soft prompt.
    ///
    /// # Errors
    /// A wiring or a task that does not fit the model, or more positions than it has.
    pub fn new(
        backend: &B,
        weights: Arc<Weights<B>>,
        task: Task,
        wiring: Arc<Wiring>,
        max_len: usize,
    ) -> Result<Self, NetError> {
        let spec = weights.spec();
        if max_len > spec.max_positions {
            return Err(NetError::Positions { found: max_len, max: spec.max_positions });
        }
        let parts = Resolved::new(&weights, task, &wiring)?;
        let rope = match spec.positions {
            Positions::Learned => None,
            Positions::Rope { theta, scaling } => {
                let table = rope::table(max_len, spec.head_dim, theta, scaling);
                let mut buf = backend.alloc(table.len())?;
                let len = table.len();
                backend.upload(&table, Dst::new(&mut buf, 0, len))?;
                Some(buf)
            }
        };
        Ok(Self { weights, wiring, task, max_len, parts, rope })
    }

    /// The same model with other values in its frozen tensors.
    ///
    /// # Errors
    /// Tensors of another model.
    pub fn with_weights(&self, backend: &B, weights: Arc<Weights<B>>) -> Result<Self, NetError> {
        Self::new(backend, weights, self.task, Arc::clone(&self.wiring), self.max_len)
    }

    /// The mathematics.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        self.weights.spec()
    }

    /// What trains.
    #[must_use]
    pub fn wiring(&self) -> &Arc<Wiring> {
        &self.wiring
    }

    /// What is asked.
    #[must_use]
    pub fn task(&self) -> Task {
        self.task
    }

    /// The frozen tensors.
    #[must_use]
    pub fn weights(&self) -> &Arc<Weights<B>> {
        &self.weights
    }

    /// What a batch for this model may hold.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            vocab: self.spec().vocab,
            max_len: self.max_len,
            prompt: self.wiring.prompt.as_ref().map_or(0, |p| p.tokens),
            task: self.task,
        }
    }

    /// An empty batch for this model.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(self.limits())
    }

    /// The memory of one client.
    ///
    /// # Errors
    /// The device has not enough.
    pub fn workspace(&self, backend: &B, shape: Shape, mode: Mode) -> Result<Workspace<B>, NetError> {
        let inference;
        let plan = match mode {
            Mode::Train => &self.parts.plan,
            Mode::Infer => {
                inference = self.parts.plan.clone().inference();
                &inference
            }
        };
        Ok(Workspace::new(backend, &Dims { spec: self.spec(), task: self.task, plan, shape, mode })?)
    }

    /// Runs the blocks. Losses, logits and [`Net::backward`] read what this leaves in the workspace. Where some rows
    /// carry labels, or one row stands for a sequence, the last block's MLP runs on those rows only.
    ///
    /// # Errors
    /// A step larger than the workspace, or a trainable vector of the wrong length.
    pub fn forward(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        train: Option<DropoutSeed>,
    ) -> Result<(), NetError> {
        self.run(backend, params, batch, ws, train, (None, None))
    }

    /// [`Net::forward`] for sequences with a past.
    pub(crate) fn forward_cached(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        past: Past<'_, B>,
    ) -> Result<(), NetError> {
        self.run(backend, params, batch, ws, None, (Some(past), None))
    }

    fn run(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        seed: Option<DropoutSeed>,
        (mut past, mut taps): (Option<Past<'_, B>>, Option<&mut Taps<B>>),
    ) -> Result<(), NetError> {
        if seed.is_some() && ws.mode == Mode::Infer {
            return Err(NetError::Inference);
        }
        self.check_step(backend, params, batch, ws)?;
        let cx = self.ctx(backend, params, seed, ws);
        self.embed(&cx, batch, past.as_ref().and_then(|p| p.given.as_ref()), &mut ws.acts);
        for layer in 0..self.spec().layers {
            let kept = past.as_mut().map(|p| (p.cache.layer(layer), p.rows));
            let head = self.head_rows(batch, layer);
            self.attention(&cx, batch, head, &mut ws.acts, layer, kept);
            let rows = head.map_or(batch.rows(), <[u32]>::len);
            self.mlp(&cx, rows, &mut ws.acts, layer);
            if let Some(taps) = &mut taps {
                let (_, j) = self.sites(&ws.acts, 2 * layer + 1);
                Self::tap(backend, taps, layer + 1, &ws.acts.res[j], rows);
            }
        }
        Ok(())
    }

    /// Gradients of everything below the head, after a loss that was given the same `grads`.
    ///
    /// # Errors
    /// A workspace planned for inference.
    pub fn backward(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        train: Option<DropoutSeed>,
        grads: &mut B::Buf,
    ) -> Result<(), NetError> {
        self.down(backend, params, batch, ws, train, grads, (true, None))
    }

    #[expect(clippy::too_many_arguments, reason = "the step's state is owned by the caller")]
    fn down(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        train: Option<DropoutSeed>,
        grads: &mut B::Buf,
        (from_head, taps): (bool, Option<&Taps<B>>),
    ) -> Result<(), NetError> {
        if ws.mode == Mode::Infer {
            return Err(NetError::Inference);
        }
        self.check_step(backend, params, batch, ws)?;
        self.check_params(backend, grads)?;
        if !self.reaches_stream() {
            return Ok(());
        }
        let lowest = self.parts.plan.lowest;
        let cx = self.ctx(backend, params, train, ws);
        if from_head {
            self.out_backward(&cx, batch, &mut ws.acts, grads);
        } else {
            let len = batch.rows() * self.spec().hidden;
            backend.fill(Dst::new(&mut ws.acts.dr, 0, len), 0.0);
        }
        for layer in (0..self.top(from_head, taps)).rev() {
            if let Some(taps) = taps {
                Self::untap(backend, taps, layer + 1, &mut ws.acts.dr);
            }
            let head = self.head_rows(batch, layer);
            if lowest <= plan::outer(2 * layer + 1) {
                self.mlp_backward(&cx, head.map_or(batch.rows(), <[u32]>::len), &mut ws.acts, layer, grads);
            }
            if lowest <= plan::outer(2 * layer) {
                self.attention_backward(&cx, batch, head, &mut ws.acts, layer, grads);
            }
        }
        if lowest == plan::EMBEDDING {
            self.embed_backward(&cx, batch, &ws.acts, grads);
        }
        Ok(())
    }

    fn ctx<'a>(
        &'a self,
        backend: &'a B,
        params: &'a B::Buf,
        seed: Option<DropoutSeed>,
        ws: &Workspace<B>,
    ) -> Ctx<'a, B> {
        Ctx { backend, params, weights: &self.weights, seed, noise: ws.noise.clone() }
    }

    fn check_params(&self, backend: &B, params: &B::Buf) -> Result<(), NetError> {
        let (found, expected) = (backend.len(params), self.wiring.schema.dim());
        if found == expected { Ok(()) } else { Err(NetError::Params { found, expected }) }
    }

    fn check_step(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &Workspace<B>,
    ) -> Result<(), NetError> {
        self.check_params(backend, params)?;
        if ws.noise.is_some() && ws.mode == Mode::Train {
            return Err(NetError::Training);
        }
        capacity("rows", batch.rows(), ws.shape.tokens)?;
        let head = batch.head_rows().map_or(0, <[u32]>::len);
        capacity("rows of the head", head, backend.len(&ws.acts.out.x) / self.spec().hidden)?;
        capacity("sequences", batch.segments().len(), ws.shape.segments)
    }

    /// The rows that the head reads, at the layer after whose attention nothing mixes rows any more: from there on only
    /// they are computed, as a matrix of their own.
    fn head_rows<'b>(&self, batch: &'b Batch, layer: usize) -> Option<&'b [u32]> {
        batch.head_rows().filter(|_| layer + 1 == self.spec().layers)
    }

    fn post_norm(&self) -> bool {
        self.spec().placement == Placement::Post
    }

    /// Buffers of the stream before and after the branch of site `k`: the same one below the first site that is kept.
    fn sites(&self, acts: &Acts<B::Buf>, k: usize) -> (usize, usize) {
        let first = 2 * self.spec().layers + 1 - acts.res.len();
        (k.saturating_sub(first), (k + 1).saturating_sub(first))
    }

    /// Activations of `layer`: the first ones are shared by every layer below the first that is kept.
    fn layer_slot(&self, acts: &Acts<B::Buf>, layer: usize) -> usize {
        layer.saturating_sub(self.spec().layers - acts.attention.len())
    }

    fn attention_shape(&self) -> AttnShape {
        let s = self.spec();
        AttnShape {
            heads: s.heads,
            kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            scale: (1.0 / (s.head_dim as f64).sqrt()) as f32,
            causal: s.causal,
            window: s.window,
        }
    }
}

fn capacity(what: &'static str, found: usize, planned: usize) -> Result<(), NetError> {
    if found <= planned { Ok(()) } else { Err(NetError::Capacity { what, found, planned }) }
}
