//! The residual stream between blocks, for losses that compare two models there (Xiao, Lin and Han 2023,
//! arXiv:2302.04870, section 3.3).
//!
//! A tap copies the stream on the way up and adds a gradient of it on the way down. What it copies is `r` of
//! `plan.rs`: the stream before the next block's norm, in post-norm models too.

use antiphon_kernels::{Backend, Src};

use super::maps::{dst, src};
use super::{DropoutSeed, Net, NetError, capacity, plan};
use crate::batch::Batch;
use crate::workspace::{Mode, Shape, Workspace};

/// Copies of the stream of one step, with room for their gradients.
#[derive(Debug)]
pub struct Taps<B: Backend> {
    list: Vec<Tap<B>>,
    width: usize,
}

#[derive(Debug)]
struct Tap<B: Backend> {
    /// Blocks below it.
    after: usize,
    /// `[rows, d]`.
    value: B::Buf,
    /// `[rows, d]`; empty where the model is only looked at.
    grad: B::Buf,
    /// Rows of the step at hand.
    rows: usize,
}

impl<B: Backend> Taps<B> {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The stream at tap `index`, `[rows, d]`, as the last forward pass left it.
    #[must_use]
    pub fn value(&self, index: usize) -> Src<'_, B::Buf> {
        let tap = &self.list[index];
        src(&tap.value, tap.rows * self.width)
    }

    /// The loss whose gradient enters at tap `index`: `‖s - t‖² / ‖t‖²`, the mean square of the difference to `teacher` in
    /// units of the teacher's (the normalised error of arXiv:2302.04870's program, where the mean square is over all
    /// rows and columns of the step). Returns `(‖s - t‖², ‖t‖²)`, and sets the gradient to `coef` times that of the loss.
    ///
    /// # Panics
    /// Taps of two different steps.
    pub fn pull(&mut self, backend: &B, index: usize, teacher: &Self, coef: f32) -> (f64, f64) {
        let target = teacher.value(index);
        let Tap { value, grad, rows, .. } = &mut self.list[index];
        let len = *rows * self.width;
        assert_eq!(target.len, len, "taps of two different steps");
        backend.axpy(1.0, src(value, len), dst(grad, len), false);
        backend.axpy(-1.0, target, dst(grad, len), true);
        let (apart, size) = (backend.sum_squares(src(grad, len)), backend.sum_squares(target));
        let slope = if size > 0.0 { 2.0 * f64::from(coef) / size } else { 0.0 };
        backend.scale(slope as f32, dst(grad, len));
        (apart, size)
    }
}

impl<B: Backend> Net<B> {
    /// Taps after the first `after` blocks, for each entry, ascending, each 1 or more; with room for gradients in
    /// [`Mode::Train`].
    ///
    /// # Errors
    /// The device has not enough memory.
    ///
    /// # Panics
    /// A block that the model does not have, or entries that do not ascend.
    pub fn taps(&self, backend: &B, after: &[usize], shape: Shape, mode: Mode) -> Result<Taps<B>, NetError> {
        let (width, layers) = (self.spec().hidden, self.spec().layers);
        assert!(after.iter().all(|a| (1..=layers).contains(a)), "taps {after:?} of {layers} blocks");
        assert!(after.windows(2).all(|w| w[0] < w[1]), "taps {after:?} do not ascend");
        let len = shape.tokens * width;
        let one = |&after: &usize| -> Result<Tap<B>, NetError> {
            let grad = backend.alloc(if mode == Mode::Train { len } else { 0 })?;
            Ok(Tap { after, value: backend.alloc(len)?, grad, rows: 0 })
        };
        Ok(Taps { list: after.iter().map(one).collect::<Result<_, _>>()?, width })
    }

    /// [`Net::forward`] that fills `taps`.
    ///
    /// # Errors
    /// As [`Net::forward`].
    pub fn forward_tapped(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        train: Option<DropoutSeed>,
        taps: &mut Taps<B>,
    ) -> Result<(), NetError> {
        let planned = taps.list.first().map_or(usize::MAX, |t| backend.len(&t.value) / taps.width);
        capacity("rows", batch.rows(), planned)?;
        self.run(backend, params, batch, ws, train, (None, Some(taps)))
    }

    /// Copies the stream after the first `after` blocks, which is `stream`.
    pub(super) fn tap(backend: &B, taps: &mut Taps<B>, after: usize, stream: &B::Buf, rows: usize) {
        let width = taps.width;
        for tap in taps.list.iter_mut().filter(|t| t.after == after) {
            tap.rows = rows;
            backend.axpy(1.0, src(stream, rows * width), dst(&mut tap.value, rows * width), false);
        }
    }

    /// [`Net::backward`] with the gradients of `taps`, whose losses come on top of the head's. Without a loss at the head
    /// (`head` is false) the way down begins at the highest tap.
    ///
    /// # Errors
    /// As [`Net::backward`].
    #[expect(clippy::too_many_arguments, reason = "the step's state is owned by the caller")]
    pub fn backward_tapped(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        train: Option<DropoutSeed>,
        grads: &mut B::Buf,
        (head, taps): (bool, &Taps<B>),
    ) -> Result<(), NetError> {
        self.down(backend, params, batch, ws, train, grads, (head, Some(taps)))
    }

    /// Adds the gradient of the stream after the first `after` blocks to `dr`.
    pub(super) fn untap(backend: &B, taps: &Taps<B>, after: usize, dr: &mut B::Buf) {
        for tap in taps.list.iter().filter(|t| t.after == after) {
            let len = tap.rows * taps.width;
            backend.axpy(1.0, src(&tap.grad, len), dst(dr, len), true);
        }
    }

    /// The highest block of which something is known on the way down: all of them with a loss at the head.
    pub(super) fn top(&self, head: bool, taps: Option<&Taps<B>>) -> usize {
        let highest = taps.and_then(|t| t.list.last()).map_or(0, |t| t.after);
        if head { self.spec().layers } else { highest }
    }

    /// Whether the stream after the last block trains.
    pub(super) fn reaches_stream(&self) -> bool {
        self.parts.plan.lowest <= plan::norm(2 * self.spec().layers)
    }
}
