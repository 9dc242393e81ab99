//! How far the clients of a round agree.
//!
//! For updates Δₖ with weights pₖ that sum to 1:
//!
//! ```text
//! agreement  ‖Σ pₖΔₖ‖² / Σ pₖ‖Δₖ‖²                               in 0..=1; 1 when all are equal
//! alignment  Σ_{j≠k} pⱼpₖ⟨Δⱼ,Δₖ⟩ / Σ_{j≠k} pⱼpₖ‖Δⱼ‖‖Δₖ‖          the norm-weighted mean pairwise cosine
//! ```
//!
//! `agreement` is the reciprocal of the gradient diversity of Yin et al. 2018 (arXiv:1706.05699,
//! Definition 1) with weights; it falls with the number of clients even when nothing is wrong
//! (orthogonal updates of `n` equal clients give `1/n`), so diagnosis looks at `alignment`, whose
//! expectation for independent updates is 0 for any `n`. Both follow from norms alone, since
//! `Σ_{j≠k} pⱼpₖ⟨Δⱼ,Δₖ⟩ = ‖Σ pₖΔₖ‖² − Σ pₖ²‖Δₖ‖²`: no second pass over the updates.

use serde::{Deserialize, Serialize};

/// Norms of a round's counted updates, and what follows from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateSpread {
    /// How many updates.
    pub updates: usize,
    /// Smallest ‖Δₖ‖₂.
    pub min_norm: f64,
    /// Unweighted mean of ‖Δₖ‖₂.
    pub mean_norm: f64,
    /// Largest ‖Δₖ‖₂.
    pub max_norm: f64,
    /// ‖Σ pₖΔₖ‖₂.
    pub norm_of_mean: f64,
    /// See the [module](self). Absent when every update is zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// See the [module](self). Absent below two non-zero updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<f64>,
}

impl UpdateSpread {
    /// From `(weight, ‖Δₖ‖₂)` of every counted update and the norm of their weighted mean. Weights need
    /// not be normalised. `None` without updates, or when a number is not finite or a weight not positive.
    #[must_use]
    pub fn from_norms(updates: &[(f64, f64)], norm_of_mean: f64) -> Option<Self> {
        let total: f64 = updates.iter().map(|u| u.0).sum();
        let usable = |&(w, n): &(f64, f64)| w.is_finite() && w > 0.0 && n.is_finite() && n >= 0.0;
        if updates.is_empty() || !updates.iter().all(usable) || !norm_of_mean.is_finite() {
            return None;
        }
        let (mut linear, mut square, mut diagonal) = (0.0, 0.0, 0.0);
        let (mut min, mut max, mut sum) = (f64::INFINITY, 0.0_f64, 0.0);
        for &(weight, norm) in updates {
            let p = weight / total;
            linear += p * norm;
            square += p * norm * norm;
            diagonal += (p * norm).powi(2);
            (min, max, sum) = (min.min(norm), max.max(norm), sum + norm);
        }
        let mean_square = norm_of_mean * norm_of_mean;
        // below this the cross terms are rounding: one update carries all the norm
        let cross = linear * linear - diagonal;
        let nonzero = updates.iter().filter(|u| u.1 > 0.0).count();
        Some(Self {
            updates: updates.len(),
            min_norm: min,
            mean_norm: sum / updates.len() as f64,
            max_norm: max,
            norm_of_mean,
            agreement: (square > 0.0).then(|| mean_square / square),
            alignment: (nonzero >= 2 && cross > 1e-9 * linear * linear)
                .then(|| ((mean_square - diagonal) / cross).clamp(-1.0, 1.0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By definition, from the vectors themselves.
    fn of(updates: &[(f64, Vec<f64>)]) -> UpdateSpread {
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let total: f64 = updates.iter().map(|u| u.0).sum();
        let mut mean = vec![0.0; updates[0].1.len()];
        for (w, v) in updates {
            mean.iter_mut().zip(v).for_each(|(m, x)| *m += w / total * x);
        }
        let norms: Vec<_> = updates.iter().map(|(w, v)| (*w, norm(v))).collect();
        UpdateSpread::from_norms(&norms, norm(&mean)).unwrap()
    }

    #[test]
    fn equal_orthogonal_and_opposite_updates() {
        let equal = of(&[(1.0, vec![3.0, 4.0]), (5.0, vec![3.0, 4.0])]);
        assert!((equal.alignment.unwrap() - 1.0).abs() < 1e-12);
        assert!((equal.agreement.unwrap() - 1.0).abs() < 1e-12);
        let orthogonal = of(&[(1.0, vec![2.0, 0.0]), (1.0, vec![0.0, 7.0])]);
        assert!(orthogonal.alignment.unwrap().abs() < 1e-12);
        let opposite = of(&[(1.0, vec![1.0, 1.0]), (1.0, vec![-1.0, -1.0])]);
        assert!((opposite.alignment.unwrap() + 1.0).abs() < 1e-12);
    }

    /// (1,0), (0.6,0.8), (0,2) with weights 1, 2, 1: cross terms by hand.
    #[test]
    fn alignment_is_the_weighted_mean_cosine() {
        let s = of(&[(1.0, vec![1.0, 0.0]), (2.0, vec![0.6, 0.8]), (1.0, vec![0.0, 2.0])]);
        // pairs (1,2): p=1/8, <>=0.6, norms 1; (1,3): 1/16, 0, 2; (2,3): 1/8, 1.6, 2
        let expected = (0.6 / 8.0 + 1.6 / 8.0) / (1.0 / 8.0 + 2.0 / 16.0 + 2.0 / 8.0);
        assert!((s.alignment.unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn degenerate_rounds_say_so() {
        assert_eq!(UpdateSpread::from_norms(&[], 0.0), None);
        assert_eq!(UpdateSpread::from_norms(&[(1.0, f64::NAN)], 0.0), None);
        let zero = UpdateSpread::from_norms(&[(1.0, 0.0), (1.0, 0.0)], 0.0).unwrap();
        assert_eq!((zero.agreement, zero.alignment), (None, None));
        assert_eq!(UpdateSpread::from_norms(&[(1.0, 2.0)], 2.0).unwrap().alignment, None);
    }
}
