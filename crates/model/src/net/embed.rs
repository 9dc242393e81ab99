//! The bottom of the model: tokens, soft prompt, learned positions, token types.

use antiphon_kernels::{Backend, Dst};

use super::Net;
use super::maps::{Ctx, dst, src};
use crate::batch::Batch;
use crate::workspace::Acts;

/// Input rows that come as vectors instead of ids.
#[derive(Debug)]
pub(crate) struct Given<'a, B: Backend> {
    /// `[to, hidden]`, in the place of what the token table would give.
    pub(crate) rows: &'a B::Buf,
    /// The row of the batch that each takes; its id is [`crate::NO_TOKEN`].
    pub(crate) to: &'a [u32],
}

impl<B: Backend> Net<B> {
    /// Fills the stream with `tokens + positions + types`; rows of the soft prompt take the prompt for a token.
    pub(super) fn embed(
        &self,
        cx: &Ctx<'_, B>,
        batch: &Batch,
        given: Option<&Given<'_, B>>,
        acts: &mut Acts<B::Buf>,
    ) {
        let (e, d, backend) = (&self.parts.embeddings, self.spec().hidden, cx.backend);
        let len = batch.rows() * d;
        let Acts { res, low, .. } = acts;
        let x = &mut res[0];
        backend.embedding(&batch.ids, e.token.mat(cx), d, dst(x, len), false);
        if let Some(p) = &self.wiring.prompt {
            let prompt = cx.overlay(&p.range, &mut low.seen[0]);
            backend.rows(prompt, &batch.prompt_from, dst(x, len), &batch.prompt_to, d, false);
        }
        if let Some(&Given { rows, to }) = given {
            backend.rows(src(rows, to.len() * d), &batch.iota[..to.len()], dst(x, len), to, d, false);
        }
        if let Some(table) = &e.position {
            backend.embedding(&batch.positions, table.mat(cx), d, dst(x, len), true);
        }
        if let Some(table) = &e.token_type {
            backend.embedding(&batch.types, table.mat(cx), d, dst(x, len), true);
        }
    }

    /// Gradients of [`Self::embed`]. Padding rows carry a zero gradient, so their position 0 adds nothing.
    pub(super) fn embed_backward(
        &self,
        cx: &Ctx<'_, B>,
        batch: &Batch,
        acts: &Acts<B::Buf>,
        grads: &mut B::Buf,
    ) {
        let (e, d, backend) = (&self.parts.embeddings, self.spec().hidden, cx.backend);
        let dx = src(&acts.dr, batch.rows() * d);
        if let Some(dtable) = e.token.grad(grads) {
            backend.embedding_grad(&batch.ids, dx, d, dtable);
        }
        if let Some(p) = &self.wiring.prompt {
            let dprompt = Dst::new(&mut *grads, p.range.start, p.range.len());
            backend.rows(dx, &batch.prompt_to, dprompt, &batch.prompt_from, d, true);
        }
        if let Some(dtable) = e.position.as_ref().and_then(|p| p.grad(grads)) {
            backend.embedding_grad(&batch.positions, dx, d, dtable);
        }
        if let Some(dtable) = e.token_type.as_ref().and_then(|p| p.grad(grads)) {
            backend.embedding_grad(&batch.types, dx, d, dtable);
        }
    }
}
