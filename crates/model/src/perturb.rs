//! A direction in the space of the trainable vector, made from a seed and never stored: `z(seed, tensor, index)`.
//!
//! Two parties with the same seed and the same schema have the same direction, on any machine and any number of threads,
//! whatever order the tensors are visited in. See [`antiphon_kernels::Noise`] for what lies below.

use std::ops::Range;
use std::sync::Arc;

use antiphon_core::{Purpose, Schema, Stream};
use antiphon_kernels::{Backend, Dst, Law, Noise};

/// `scale · z` for the whole trainable vector. Cheap to clone; another seed or scale costs nothing.
#[derive(Clone, Debug)]
pub struct Perturbation {
    /// Where each tensor begins and ends, and its key.
    tensors: Arc<[(usize, usize, [u32; 2])]>,
    law: Law,
    seed: u64,
    scale: f32,
}

impl Perturbation {
    /// Directions for vectors of this schema; this one has seed 0 and scale 0. A tensor's key is that of
    /// `Stream::keyed(0, Purpose::Perturbation, None, None, its name)`, and the seed is the high half of the counter.
    #[must_use]
    pub fn new(schema: &Schema, law: Law) -> Self {
        let key = |name: &str| Stream::keyed(0, Purpose::Perturbation, None, None, name).key();
        let tensors = schema.iter().map(|(t, range)| (range.start, range.end, key(&t.name))).collect();
        Self { tensors, law, seed: 0, scale: 0.0 }
    }

    /// `scale` times the direction of `seed`.
    #[must_use]
    pub fn at(&self, seed: u64, scale: f32) -> Self {
        Self { seed, scale, ..self.clone() }
    }

    /// `theta ← theta + scale · z`, tensor by tensor.
    ///
    /// # Panics
    /// If `theta` is shorter than the schema.
    pub fn apply<B: Backend>(&self, backend: &B, theta: &mut B::Buf) {
        for &(start, end, key) in self.tensors.iter() {
            backend.add_noise(self.noise(key), Dst::new(theta, start, end - start));
        }
    }

    /// Every tensor's range in the vector, with what it is perturbed by.
    pub fn tensors(&self) -> impl Iterator<Item = (Range<usize>, Noise)> + '_ {
        self.tensors.iter().map(|&(start, end, key)| (start..end, self.noise(key)))
    }

    /// What the tensor that begins at `start` is perturbed by; `None` where no tensor begins.
    pub(crate) fn of(&self, start: usize) -> Option<Noise> {
        let index = self.tensors.binary_search_by_key(&start, |t| t.0).ok()?;
        Some(self.noise(self.tensors[index].2))
    }

    fn noise(&self, key: [u32; 2]) -> Noise {
        Noise { key, high: self.seed, law: self.law, scale: self.scale, first: 0 }
    }
}
