//! Whole texts through a classifier, a few at a time: what its head reads of each, or the logits of its classes.
//!
//! What a text gives does not depend on its company, to the bit. Deliberately missing: gradients, labels, caches.

use antiphon_kernels::{Backend, Src};

use crate::batch::Batch;
use crate::net::{Net, NetError};
use crate::wiring::Task;
use crate::workspace::{Mode, Shape, Workspace};

/// What is wanted of each text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What the head reads: the pooled vector, `[hidden]`.
    Features,
    /// Logits, `[classes]`.
    Logits,
}

/// Activations for some texts at a time.
#[derive(Debug)]
pub struct Reader<B: Backend> {
    batch: Batch,
    ws: Workspace<B>,
    together: usize,
}

impl<B: Backend> Reader<B> {
    /// Memory for `together` of the longest texts that `net` reads.
    ///
    /// # Errors
    /// The device has not enough.
    pub fn new(backend: &B, net: &Net<B>, together: usize) -> Result<Self, NetError> {
        let together = together.max(1);
        let tokens = together * net.limits().max_len;
        let shape = Shape { tokens, segments: together, labelled: 1 };
        Ok(Self { batch: net.batch(), ws: net.workspace(backend, shape, Mode::Infer)?, together })
    }

    /// `[texts, hidden]` or `[texts, classes]`, in order. `params` is the trainable vector of `net`, the head included; a soft
    /// prompt stands before each text.
    ///
    /// # Errors
    /// A model without classes, or a text that it cannot read.
    pub fn read(
        &mut self,
        backend: &B,
        net: &Net<B>,
        params: &B::Buf,
        texts: &[&[u32]],
        wanted: Wanted,
    ) -> Result<Vec<f32>, NetError> {
        let each = match (wanted, net.task()) {
            (Wanted::Logits, Task::Classify { classes, .. }) => classes,
            _ => net.spec().hidden,
        };
        let mut out = vec![0.0; texts.len() * each];
        for (texts, out) in texts.chunks(self.together).zip(out.chunks_mut(self.together * each)) {
            self.batch.clear();
            for ids in texts {
                self.batch.push_tokens(ids)?;
            }
            net.forward(backend, params, &self.batch, &mut self.ws, None)?;
            let values: Src<'_, B::Buf> = match wanted {
                Wanted::Features => net.pooled(backend, params, &self.batch, &mut self.ws)?,
                Wanted::Logits => net.class_logits(backend, params, &self.batch, &mut self.ws)?,
            };
            backend.download(values, out)?;
        }
        Ok(out)
    }
}
