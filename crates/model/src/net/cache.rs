//! Keys and values of the past, for generation.

use antiphon_kernels::{Backend, BackendError};

use super::embed::Given;
use crate::spec::Spec;

/// Rows of keys and values of every layer.
#[derive(Debug)]
pub struct Cache<B: Backend> {
    layers: Vec<LayerCache<B>>,
    rows: usize,
}

/// Keys (after norm and rotation) and values of a layer, `[rows, kv_heads · head_dim]` each.
#[derive(Debug)]
pub(crate) struct LayerCache<B: Backend> {
    pub(crate) k: B::Buf,
    pub(crate) v: B::Buf,
}

/// What a step of generation has beside its batch.
#[derive(Debug)]
pub(crate) struct Past<'a, B: Backend> {
    /// Where keys and values are kept.
    pub(crate) cache: &'a mut Cache<B>,
    /// Row of the cache for each row of the batch.
    pub(crate) rows: &'a [u32],
    /// Input vectors, where there are some.
    pub(crate) given: Option<Given<'a, B>>,
}

impl<B: Backend> Cache<B> {
    /// Room for `rows` positions in all.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn new(backend: &B, spec: &Spec, rows: usize) -> Result<Self, BackendError> {
        let len = rows * spec.kv_heads * spec.head_dim;
        let layers = (0..spec.layers)
            .map(|_| Ok(LayerCache { k: backend.alloc(len)?, v: backend.alloc(len)? }))
            .collect::<Result<_, BackendError>>()?;
        Ok(Self { layers, rows })
    }

    /// Positions it holds.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn layer(&mut self, layer: usize) -> &mut LayerCache<B> {
        &mut self.layers[layer]
    }
}
