//! The random subspace of black-box tuning: a soft prompt `p = A z + p₀` of few coordinates.
//!
//! BBT (Sun et al. 2022, arXiv:2201.03514, section 3.2, with the scale of BBTv2's code): `A_ij ~ N(0, s²)` with
//!
//! ```text
//! s = α std(E) / (√d σ)
//! ```
//!
//! for `d` coordinates drawn with step size `σ`, so that entries of `A z` are spread like those of the embedding table `E`,
//! times `α`. Every client makes the same `A` from the run's seed; nothing of it travels.

use antiphon_core::{Digest, Noise, Purpose, Stream};

use crate::query::{Soft, SoftError};

/// `A` and `p₀`.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    dim: usize,
    width: usize,
    /// `[rows · width, dim]`, row-major.
    matrix: Vec<f32>,
    /// `[rows · width]`.
    origin: Vec<f32>,
}

/// What a projection is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Coordinates, `d`.
    pub dim: usize,
    /// `α`: spread of the prompt over that of the embedding table.
    pub alpha: f64,
    /// The step size that the search begins with.
    pub sigma: f64,
    /// Standard deviation of the embedding table.
    pub embedding_std: f64,
}

impl Scale {
    /// Standard deviation of the matrix's entries.
    #[must_use]
    pub fn std(&self) -> f64 {
        self.alpha * self.embedding_std / ((self.dim as f64).sqrt() * self.sigma)
    }
}

impl Projection {
    /// From `scale.dim` coordinates to rows as those of `origin`, which is the prompt at `z = 0`.
    #[must_use]
    pub fn new(origin: &Soft, scale: &Scale, seed: u64) -> Self {
        let std = scale.std();
        let mut stream = Stream::keyed(seed, Purpose::Init, None, None, "projection");
        let entries = origin.values().len() * scale.dim;
        let matrix = (0..entries).map(|_| (std * stream.standard_normal()) as f32).collect();
        Self { dim: scale.dim, width: origin.width(), matrix, origin: origin.values().to_vec() }
    }

    /// Coordinates, `d`.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// `A z + p₀`; `z`: `[d]`, sums in binary64.
    pub fn prompt(&self, z: &[f64]) -> Result<Soft, SoftError> {
        let row = |(a, o): (&[f32], &f32)| {
            let sum: f64 = a.iter().zip(z).map(|(a, z)| f64::from(*a) * z).sum();
            (sum + f64::from(*o)) as f32
        };
        let values: Vec<f32> = self.matrix.chunks_exact(self.dim).zip(&self.origin).map(row).collect();
        Soft::new(self.width, values)
    }

    /// Identifies matrix and origin: clients that search in different subspaces would average noise.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let all = self.matrix.iter().chain(&self.origin);
        let mut bytes: Vec<u8> = all.flat_map(|v| v.to_le_bytes()).collect();
        bytes.extend((self.dim as u64).to_le_bytes());
        Digest::of(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn std(values: &[f32]) -> f64 {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt()
    }

    #[test]
    fn samples_are_spread_like_the_embeddings_times_alpha() {
        let origin = Soft::new(64, vec![0.0; 64 * 20]).unwrap();
        for (alpha, sigma) in [(1.0, 1.0), (2.0, 0.5)] {
            let scale = Scale { dim: 100, alpha, sigma, embedding_std: 0.05 };
            let p = Projection::new(&origin, &scale, 3);
            let mut s = Stream::new(1, Purpose::Test);
            let z: Vec<f64> = (0..100).map(|_| sigma * s.standard_normal()).collect();
            let found = std(p.prompt(&z).unwrap().values());
            // ‖z‖ itself varies by 7 %
            assert!((found / (0.05 * alpha) - 1.0).abs() < 0.2, "{found}");
        }
    }

    #[test]
    fn zero_is_the_origin_and_the_seed_decides_everything() {
        let origin = Soft::new(2, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let scale = Scale { dim: 3, alpha: 1.0, sigma: 1.0, embedding_std: 1.0 };
        let p = Projection::new(&origin, &scale, 3);
        assert_eq!(p.prompt(&[0.0; 3]).unwrap(), origin);
        assert_eq!(p.digest(), Projection::new(&origin, &scale, 3).digest());
        assert_ne!(p.digest(), Projection::new(&origin, &scale, 4).digest());
    }
}
