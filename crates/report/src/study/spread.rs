//! A mean and how far seeds lie apart.

use serde::{Deserialize, Serialize};

/// Of a number over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Seeds.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Sample standard deviation, over `n − 1`; of one seed there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
}

impl Spread {
    /// `None` of no value.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Some(Self { n, mean, deviation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_has_no_deviation() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[2.0]), Some(Spread { n: 1, mean: 2.0, deviation: None }));
        let three = Spread::of(&[1.0, 2.0, 3.0]);
        assert_eq!(three, Some(Spread { n: 3, mean: 2.0, deviation: Some(1.0) }));
        assert_eq!(Spread::of(&[5.0, 5.0]).and_then(|s| s.deviation), Some(0.0));
    }
}
