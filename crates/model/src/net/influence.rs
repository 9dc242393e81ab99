//! What each block does to the stream (Men et al. 2024, "ShortGPT", arXiv:2403.03853, equation 1):
//!
//! ```text
//! BI_l = 1 - mean over tokens of <x_l, x_{l+1}> / (|x_l| |x_{l+1}|)
//! ```
//!
//! with `x_l` what enters block `l` and `x_{l+1}` what leaves it, as transformers' layers are given and give it: in post-norm
//! models after the last norm of the block before, and never after the norm before the head.

use antiphon_kernels::Backend;

use super::maps::src;
use super::{Net, NetError};
use crate::batch::Batch;
use crate::workspace::Workspace;

/// Sums over tokens, in the order in which they are seen.
#[derive(Clone, Debug, Default)]
pub struct Influence {
    /// Of each block, `1 - cosine`.
    sums: Vec<f64>,
    tokens: u64,
    /// The stream at one place, `[n, d]`, before and after a block.
    before: Vec<f32>,
    after: Vec<f32>,
}

impl Influence {
    /// The influence of each block, in `[0, 2]`, the first block first; empty before any token was seen.
    #[must_use]
    pub fn scores(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.tokens as f64).collect()
    }

    /// Adds what block `layer` makes of the rows of `batch`.
    fn add(&mut self, layer: usize, batch: &Batch, width: usize) {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        for row in batch.segments().iter().flat_map(|s| s.q_at..s.q_at + s.q_len) {
            let at = row * width..(row + 1) * width;
            let (x, y) = (&self.before[at.clone()], &self.after[at]);
            let sizes = dot(x, x) * dot(y, y);
            // a stream of zeros has no direction to keep
            let cosine = if sizes == 0.0 { 0.0 } else { dot(x, y) / sizes.sqrt() };
            self.sums[layer] += 1.0 - cosine;
        }
    }
}

impl<B: Backend> Net<B> {
    /// Runs `batch`, of sequences without labels ([`Batch::push_tokens`]), and adds every token of it to `to`.
    ///
    /// # Errors
    /// As [`Net::forward`]; a batch of which the last block would run on some rows alone.
    pub fn influence(
        &self,
        backend: &B,
        params: &B::Buf,
        batch: &Batch,
        ws: &mut Workspace<B>,
        to: &mut Influence,
    ) -> Result<(), NetError> {
        self.check_step(backend, params, batch, ws)?;
        let layers = self.spec().layers;
        if self.compact_rows(batch).is_some() {
            return Err(NetError::Rows);
        }
        let (cx, width) = (self.ctx(backend, params, None, ws), self.spec().hidden);
        to.sums.resize(layers, 0.0);
        to.before.resize(batch.rows() * width, 0.0);
        to.after.resize(batch.rows() * width, 0.0);
        self.embed(&cx, batch, None, &mut ws.acts);
        let rows = batch.rows();
        let look = |site: usize, ws: &mut Workspace<B>, host: &mut [f32]| -> Result<(), NetError> {
            let (at, _) = self.sites(&ws.acts, site);
            let stream = if self.post_norm() {
                self.norm(&cx, site, rows, &ws.acts.res[at], &mut ws.acts.n, &mut ws.acts.stats[at]);
                &ws.acts.n
            } else {
                &ws.acts.res[at]
            };
            Ok(backend.download(src(stream, rows * width), host)?)
        };
        look(0, ws, &mut to.before)?;
        for layer in 0..layers {
            self.attention(&cx, batch, None, &mut ws.acts, layer, None);
            self.mlp(&cx, rows, &mut ws.acts, layer);
            look(2 * (layer + 1), ws, &mut to.after)?;
            to.add(layer, batch, width);
            std::mem::swap(&mut to.before, &mut to.after);
        }
        to.tokens += batch.segments().iter().map(|s| s.q_len as u64).sum::<u64>();
        Ok(())
    }
}
