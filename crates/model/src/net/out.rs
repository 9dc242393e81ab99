//! The end of the model: the last norm, the head, and the losses.
//!
//! Only rows that somebody asked about pass the last norm: labelled rows for next tokens, one row a sequence for
//! classification (all rows for mean pooling).

use antiphon_kernels::{Backend, Coef, Dst, Layout, Linear, Loss, Src};

use super::maps::{Ctx, dst, src};
use super::norm::{gather, scatter};
use super::resolve::Out;
use super::{Net, NetError, capacity, plan};
use crate::batch::Batch;
use crate::wiring::Pooling;
use crate::workspace::{Acts, Mode, OutActs, Workspace};

impl<B: Backend> Net<B> {
    /// Cross-entropy at the labelled rows after [`Net::forward`]. With `grads` the gradient starts: that of a live head
    /// accumulates there and [`Net::backward`] finds the rest in the workspace. `nll`, if given, takes each row's loss
    /// in nats and must be as long as the labels.
    ///
    /// # Errors
    /// No labels, more labels than planned, or `grads` with a workspace planned for inference.
    #[expect(clippy::too_many_arguments, reason = "the step's state is owned by the caller")]
    pub fn lm_loss(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        coef: Coef<'_>,
        grads: Option<&mut B::Buf>,
        nll: Option<&mut [f32]>,
    ) -> Result<Loss, NetError> {
        let Out::Lm { head } = &self.parts.out else { return Err(self.wrong_task(batch)) };
        self.check_step(backend, params, batch, ws)?;
        self.check_grads(backend, ws, grads.as_deref())?;
        let m = batch.label_rows.len();
        if m == 0 {
            return Err(NetError::NoLabels);
        }
        let cx = self.ctx(backend, params, None, ws);
        self.select(&cx, batch, &batch.label_rows, ws)?;
        let d = self.spec().hidden;
        let OutActs { h, dh, chunk, .. } = &mut ws.acts.out;
        let want_dh = grads.is_some() && self.reaches_stream();
        let scratch = backend.linear_cross_entropy_scratch(m, self.spec().vocab);
        let map =
            Linear { w: head.mat(&cx), bias: None, d_in: d, d_out: self.spec().vocab, layout: Layout::OutIn };
        Ok(backend.linear_cross_entropy(
            src(h, m * d),
            map,
            &batch.labels,
            coef,
            dst(chunk, scratch),
            want_dh.then(|| dst(dh, m * d)),
            grads.and_then(|g| head.grad(g)),
            nll,
        ))
    }

    /// Cross-entropy of the classes after [`Net::forward`]; as [`Net::lm_loss`] otherwise. The class logits stay
    /// readable by [`Net::class_logits`] unless a gradient was asked for, which overwrites them.
    ///
    /// # Errors
    /// As [`Net::lm_loss`].
    #[expect(clippy::too_many_arguments, reason = "the step's state is owned by the caller")]
    pub fn class_loss(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        coef: Coef<'_>,
        grads: Option<&mut B::Buf>,
        nll: Option<&mut [f32]>,
    ) -> Result<Loss, NetError> {
        let Out::Class { head, pooling, pooler } = &self.parts.out else {
            return Err(self.wrong_task(batch));
        };
        self.check_grads(backend, ws, grads.as_deref())?;
        if batch.classes.len() != batch.segments.len() || batch.classes.is_empty() {
            return Err(NetError::NoLabels);
        }
        self.classify(backend, params, batch, ws)?;
        let (s, d) = (batch.segments.len(), self.spec().hidden);
        let cx = self.ctx(backend, params, None, ws);
        let Acts { out, low, .. } = &mut ws.acts;
        let OutActs { h, dh, pooled: [pooled, dpooled], classes, .. } = out;
        let logits = dst(classes, s * head.d_out);
        let loss = backend.cross_entropy(logits, head.d_out, &batch.classes, coef, grads.is_some(), nll);
        let Some(grads) = grads else { return Ok(loss) };
        let below = self.reaches_stream();
        match pooler {
            None => head.backward(&cx, s, h, classes, below.then_some((dh, false)), grads, low),
            Some(pooler) => {
                debug_assert_eq!(*pooling, Pooling::Pooler);
                head.backward(&cx, s, pooled, classes, Some((&mut *dpooled, false)), grads, low);
                // dh is free until the pooler's own gradient fills it: it holds the gradient before the tanh
                backend.tanh_grad(src(pooled, s * d), src(dpooled, s * d), dst(dh, s * d), false);
                pooler.backward(&cx, s, h, dh, below.then_some((&mut *dpooled, false)), grads, low);
                if below {
                    backend.axpy(1.0, src(dpooled, s * d), dst(dh, s * d), false);
                }
            }
        }
        Ok(loss)
    }

    /// Logits of the classes, `[sequences, classes]`, after [`Net::forward`].
    ///
    /// # Errors
    /// A task without classes, or more sequences than planned.
    pub fn class_logits<'w>(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &'w mut Workspace<B>,
    ) -> Result<Src<'w, B::Buf>, NetError> {
        self.classify(backend, params, batch, ws)?;
        let len = batch.segments.len() * plan::classes(self.task);
        Ok(src(&ws.acts.out.classes, len))
    }

    /// What the head of a classifier reads, `[sequences, hidden]`, after [`Net::forward`].
    ///
    /// # Errors
    /// As [`Net::class_logits`].
    pub fn pooled<'w>(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &'w mut Workspace<B>,
    ) -> Result<Src<'w, B::Buf>, NetError> {
        self.classify(backend, params, batch, ws)?;
        let OutActs { h, pooled: [pooled, _], .. } = &ws.acts.out;
        let through = matches!(&self.parts.out, Out::Class { pooler: Some(_), .. });
        Ok(src(if through { pooled } else { h }, batch.segments.len() * self.spec().hidden))
    }

    /// Logits of the vocabulary at `rows` after [`Net::forward`], `[rows, vocab]`, into `logits`.
    ///
    /// # Errors
    /// A task without a vocabulary, more rows than planned, or a row that is not labelled of a batch with labels.
    pub fn logits(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        rows: &[u32],
        ws: &mut Workspace<B>,
        logits: Dst<'_, B::Buf>,
    ) -> Result<(), NetError> {
        let Out::Lm { head } = &self.parts.out else { return Err(self.wrong_task(batch)) };
        let cx = self.ctx(backend, params, None, ws);
        self.select(&cx, batch, rows, ws)?;
        let (d, vocab) = (self.spec().hidden, self.spec().vocab);
        let map = Linear { w: head.mat(&cx), bias: None, d_in: d, d_out: vocab, layout: Layout::OutIn };
        backend.linear(src(&ws.acts.out.h, rows.len() * d), map, logits, false);
        Ok(())
    }

    /// Hidden states after the last norm at `rows`, `[rows, d]`, after [`Net::forward`].
    ///
    /// # Errors
    /// More rows than planned, or rows that the step did not compute.
    pub fn hidden<'w>(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        rows: &[u32],
        ws: &'w mut Workspace<B>,
    ) -> Result<Src<'w, B::Buf>, NetError> {
        let cx = self.ctx(backend, params, None, ws);
        self.select(&cx, batch, rows, ws)?;
        Ok(src(&ws.acts.out.h, rows.len() * self.spec().hidden))
    }

    /// `out.h = norm(stream[rows])`.
    pub(super) fn select(
        &self,
        cx: &Ctx<'_, B>,
        batch: &Batch,
        rows: &[u32],
        ws: &mut Workspace<B>,
    ) -> Result<(), NetError> {
        let (k, d, m) = (2 * self.spec().layers, self.spec().hidden, rows.len());
        capacity("rows of the head", m, cx.backend.len(&ws.acts.out.h) / d)?;
        let Acts { res, out: OutActs { x, h, stats, .. }, .. } = &mut ws.acts;
        let stream = &res[res.len() - 1];
        match self.compact_rows(batch) {
            Some(computed) if computed == rows => self.norm(cx, k, m, stream, h, stats),
            // some of them, by their places among those that were computed
            Some(computed) => {
                let place = |row: &u32| computed.iter().position(|r| r == row).map(|i| i as u32);
                let places: Vec<u32> = rows.iter().map(place).collect::<Option<_>>().ok_or(NetError::Rows)?;
                gather(cx.backend, batch, stream, computed.len(), &places, x, d);
                self.norm(cx, k, m, x, h, stats);
            }
            None => {
                gather(cx.backend, batch, stream, batch.rows(), rows, x, d);
                self.norm(cx, k, m, x, h, stats);
            }
        }
        Ok(())
    }

    /// The rows of which the last block's MLP made a matrix of their own.
    pub(super) fn compact_rows<'b>(&self, batch: &'b Batch) -> Option<&'b [u32]> {
        self.head_rows(batch, self.spec().layers.checked_sub(1)?)
    }

    /// Pools and applies the head: `out.h` holds the pooled vectors, `out.classes` the logits.
    fn classify(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
    ) -> Result<(), NetError> {
        let Out::Class { head, pooling, pooler } = &self.parts.out else {
            return Err(self.wrong_task(batch));
        };
        self.check_step(backend, params, batch, ws)?;
        let cx = self.ctx(backend, params, None, ws);
        let (s, n, d) = (batch.segments.len(), batch.rows(), self.spec().hidden);
        match pooling {
            Pooling::Cls | Pooling::Pooler => self.select(&cx, batch, &batch.first_rows, ws)?,
            Pooling::Last => self.select(&cx, batch, &batch.last_rows, ws)?,
            Pooling::Mean => {
                let Acts { res, n: normed, out: OutActs { h, stats, .. }, .. } = &mut ws.acts;
                self.norm(&cx, 2 * self.spec().layers, n, &res[res.len() - 1], normed, stats);
                backend.mean_pool(src(normed, n * d), &batch.segments, d, dst(h, s * d));
            }
        }
        let Acts { out: OutActs { h, pooled: [pooled, raw], classes, .. }, low, .. } = &mut ws.acts;
        let Some(pooler) = pooler else {
            head.forward(&cx, s, h, classes, false, low);
            return Ok(());
        };
        pooler.forward(&cx, s, h, raw, false, low);
        backend.tanh(src(raw, s * d), dst(pooled, s * d));
        head.forward(&cx, s, pooled, classes, false, low);
        Ok(())
    }

    /// The gradient of the stream after the last block, from that of the head's input; of the compact rows alone where
    /// only those were computed.
    pub(super) fn out_backward(
        &self,
        cx: &Ctx<'_, B>,
        batch: &Batch,
        acts: &mut Acts<B::Buf>,
        grads: &mut B::Buf,
    ) {
        let (k, n, d) = (2 * self.spec().layers, batch.rows(), self.spec().hidden);
        let Acts { res, dn, dr, gain, out: OutActs { x, h, dh, stats, .. }, .. } = acts;
        let rows = match &self.parts.out {
            Out::Lm { .. } => &batch.label_rows,
            Out::Class { pooling: Pooling::Cls | Pooling::Pooler, .. } => &batch.first_rows,
            Out::Class { pooling: Pooling::Last, .. } => &batch.last_rows,
            Out::Class { pooling: Pooling::Mean, .. } => {
                let s = batch.segments.len();
                cx.backend.mean_pool_grad(src(dh, s * d), &batch.segments, d, dst(dn, n * d));
                self.norm_backward(cx, k, n, &res[res.len() - 1], stats, dn, (dr, false), grads, gain);
                return;
            }
        };
        let m = rows.len();
        if self.compact_rows(batch).is_some() {
            self.norm_backward(cx, k, m, &res[res.len() - 1], stats, dh, (dr, false), grads, gain);
            return;
        }
        // the head's input is no longer needed: its buffer takes the gradient of the gathered rows
        self.norm_backward(cx, k, m, x, stats, dh, (h, false), grads, gain);
        scatter(cx.backend, batch, h, rows, dr, n, d);
    }

    pub(super) fn check_grads(
        &self,
        backend: &B,
        ws: &Workspace<B>,
        grads: Option<&B::Buf>,
    ) -> Result<(), NetError> {
        match grads {
            Some(_) if ws.mode == Mode::Infer => Err(NetError::Inference),
            Some(g) => self.check_params(backend, g),
            None => Ok(()),
        }
    }

    pub(super) fn wrong_task(&self, batch: &Batch) -> NetError {
        NetError::Batch(crate::batch::BatchError::Task { task: batch.limits().task })
    }
}
