//! How far the next-token distributions of two models are apart: `Σ KL(teacher ‖ student)` at the labelled rows, with its
//! gradient (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, at temperature 1).
//!
//! Logits of both models exist a chunk of rows at a time, in the space that the cross-entropy's chunk has.

use antiphon_kernels::{Backend, Dst, Layout, Linear, Src};

use super::maps::{dst, src};
use super::resolve::Out;
use super::{Net, NetError};
use crate::batch::Batch;
use crate::workspace::{OutActs, Workspace};

/// A model that another one follows, after its [`Net::forward`] of the same batch.
#[derive(Debug)]
pub struct Teacher<'a, B: Backend> {
    /// The model.
    pub net: &'a Net<B>,
    /// Its trainable vector.
    pub params: &'a B::Buf,
    /// What its forward pass left.
    pub workspace: &'a mut Workspace<B>,
}

impl<B: Backend> Net<B> {
    /// `Σ KL(teacher ‖ self)` in nats over the labelled rows, after [`Net::forward`] of both models on `batch`. With
    /// `grads` the gradient of `coef` times it starts, or with `add` joins one that [`Net::lm_loss`] started.
    ///
    /// # Errors
    /// Models with other vocabularies or tasks, no labels, or more than planned.
    #[expect(clippy::too_many_arguments, reason = "the step's state is owned by the caller")]
    pub fn kl_loss(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        teacher: Teacher<'_, B>,
        coef: f32,
        (mut grads, add): (Option<&mut B::Buf>, bool),
    ) -> Result<f64, NetError> {
        let Teacher { net: other, params: their_params, workspace: theirs } = teacher;
        let (Out::Lm { head }, Out::Lm { head: their_head }) = (&self.parts.out, &other.parts.out) else {
            return Err(self.wrong_task(batch));
        };
        let (d, vocab, m) = (self.spec().hidden, self.spec().vocab, batch.label_rows.len());
        if other.spec().vocab != vocab {
            return Err(NetError::Vocabulary { found: other.spec().vocab, expected: vocab });
        }
        self.check_step(backend, params, batch, ws)?;
        self.check_grads(backend, ws, grads.as_deref())?;
        if m == 0 {
            return Err(NetError::NoLabels);
        }
        let (cx, their_cx) =
            (self.ctx(backend, params, None, ws), other.ctx(backend, their_params, None, theirs));
        self.select(&cx, batch, &batch.label_rows, ws)?;
        other.select(&their_cx, batch, &batch.label_rows, theirs)?;
        let map = |w, d_in| Linear { w, bias: None, d_in, d_out: vocab, layout: Layout::OutIn };
        let (own_map, their_map) =
            (map(head.mat(&cx), d), map(their_head.mat(&their_cx), other.spec().hidden));
        let OutActs { h, dh, chunk, .. } = &mut ws.acts.out;
        let OutActs { h: their_h, chunk: their_chunk, .. } = &mut theirs.acts.out;
        let step = (backend.len(chunk).min(backend.len(their_chunk)) / vocab).min(m);
        let below = grads.is_some() && self.reaches_stream();
        let mut total = 0.0;
        for first in (0..m).step_by(step) {
            let rows = step.min(m - first);
            let at = |h, d| Src::new(h, first * d, rows * d);
            backend.linear(at(h, d), own_map, dst(chunk, rows * vocab), false);
            backend.linear(at(their_h, their_map.d_in), their_map, dst(their_chunk, rows * vocab), false);
            let logits = (src(their_chunk, rows * vocab), dst(chunk, rows * vocab));
            total += backend.kl_divergence(logits.0, logits.1, vocab, grads.is_some().then_some(coef));
            let Some(grads) = grads.as_deref_mut() else { continue };
            let slope = src(chunk, rows * vocab);
            if below {
                backend.linear_dx(slope, own_map, Dst::new(dh, first * d, rows * d), add);
            }
            if let Some(dw) = head.grad(grads) {
                backend.linear_dw(Src::new(h, first * d, rows * d), slope, d, vocab, Layout::OutIn, dw);
            }
        }
        Ok(total)
    }
}
