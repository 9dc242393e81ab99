//! A matrix whose rows are distributions over candidate tokens.

use antiphon_core::{Schema, SchemaError, Stream, TensorSpec};

/// `[positions, candidates]`, row-major; every row is on the simplex.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    positions: usize,
    candidates: usize,
    p: Vec<f64>,
}

/// Not such a matrix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// Another size.
    #[error("{positions} positions of {candidates} candidates are {} numbers (one or more), got {found}", positions * candidates)]
    Shape {
        /// Positions asked for.
        positions: usize,
        /// Candidates asked for.
        candidates: usize,
        /// Numbers given.
        found: usize,
    },
    /// A NaN or an infinity.
    #[error("probability {index} is {value}; a smaller learning rate may help")]
    NotFinite {
        /// The first such entry.
        index: usize,
        /// What it is.
        value: f64,
    },
}

impl Rows {
    /// Every candidate alike.
    pub fn uniform(positions: usize, candidates: usize) -> Result<Self, RowsError> {
        Self::new(positions, candidates, vec![1.0; positions * candidates])
    }

    /// The nearest distributions to rows of any finite numbers.
    pub fn new(positions: usize, candidates: usize, mut p: Vec<f64>) -> Result<Self, RowsError> {
        if p.is_empty() || p.len() != positions * candidates {
            return Err(RowsError::Shape { positions, candidates, found: p.len() });
        }
        if let Some(index) = p.iter().position(|v| !v.is_finite()) {
            return Err(RowsError::NotFinite { index, value: p[index] });
        }
        p.chunks_exact_mut(candidates).for_each(project);
        Ok(Self { positions, candidates, p })
    }

    /// From what travelled.
    pub fn from_wire(positions: usize, candidates: usize, theta: &[f32]) -> Result<Self, RowsError> {
        Self::new(positions, candidates, theta.iter().map(|v| f64::from(*v)).collect())
    }

    /// One token at each position.
    pub fn one_hot(candidates: usize, prompt: &[usize]) -> Result<Self, RowsError> {
        let mut p = vec![0.0; prompt.len() * candidates];
        for (row, &j) in p.chunks_exact_mut(candidates.max(1)).zip(prompt) {
            if let Some(x) = row.get_mut(j) {
                *x = 1.0;
            }
        }
        Self::new(prompt.len(), candidates, p)
    }

    /// Names and shapes of what travels.
    pub fn schema(positions: usize, candidates: usize) -> Result<Schema, SchemaError> {
        Schema::new(vec![TensorSpec { name: "search.prompt".to_owned(), shape: vec![positions, candidates] }])
    }

    /// For the wire.
    #[must_use]
    pub fn to_wire(&self) -> Vec<f32> {
        self.p.iter().map(|v| *v as f32).collect()
    }

    /// Tokens of a prompt.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Choices at each.
    #[must_use]
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// `[positions, candidates]`.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.p
    }

    /// For derivatives by differences, which leave the simplex.
    #[cfg(test)]
    pub(super) fn p_mut(&mut self) -> &mut [f64] {
        &mut self.p
    }

    /// A prompt, as indices of candidates; none of probability zero.
    pub fn sample(&self, stream: &mut Stream) -> Vec<usize> {
        self.p.chunks_exact(self.candidates).map(|row| draw(row, stream)).collect()
    }

    /// The likeliest prompt; the first among equals.
    #[must_use]
    pub fn best(&self) -> Vec<usize> {
        let best = |row: &[f64]| (0..row.len()).fold(0, |b, j| if row[j] > row[b] { j } else { b });
        self.p.chunks_exact(self.candidates).map(best).collect()
    }

    /// Mean entropy of a position over that of the uniform distribution: 1 at first, 0 once the prompt is decided.
    #[must_use]
    pub fn entropy(&self) -> f64 {
        let h: f64 = self.p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        if self.candidates > 1 { h / self.positions as f64 / (self.candidates as f64).ln() } else { 0.0 }
    }
}

/// An index by its share of `row`.
pub(super) fn draw(row: &[f64], stream: &mut Stream) -> usize {
    let total: f64 = row.iter().sum();
    let mut left = stream.uniform() * total;
    let mut last = 0;
    for (j, &p) in row.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        last = j;
        left -= p;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// The Euclidean projection onto the simplex (Held, Wolfe and Crowder 1974; Duchi et al. 2008, Figure 1), exact, in place of
/// BDPL's bisection.
pub(super) fn project(row: &mut [f64]) {
    let mut sorted = row.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (mut sum, mut shift) = (0.0, 0.0);
    for (i, v) in sorted.iter().enumerate() {
        sum += v;
        let t = (sum - 1.0) / (i + 1) as f64;
        if v - t > 0.0 {
            shift = t;
        }
    }
    row.iter_mut().for_each(|v| *v = (*v - shift).max(0.0));
}

#[cfg(test)]
mod tests {
    use antiphon_core::Purpose;
    use proptest::prelude::*;

    use super::*;

    /// BDPL's way: the `v` with `Σ clamp(p − v, 0, 1) = 1`.
    fn bisection(row: &[f64]) -> Vec<f64> {
        let at = |v: f64| row.iter().map(|p| (p - v).clamp(0.0, 1.0)).sum::<f64>();
        let (mut low, mut high) = (-1e6, 1e6);
        for _ in 0..200 {
            let v = f64::midpoint(low, high);
            if at(v) > 1.0 { low = v } else { high = v }
        }
        row.iter().map(|p| (p - low).clamp(0.0, 1.0)).collect()
    }

    proptest! {
        #[test]
        fn the_projection_is_that_of_bisection(row in prop::collection::vec(-3.0_f64..3.0, 1..30)) {
            let mut p = row.clone();
            project(&mut p);
            prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for (a, b) in p.iter().zip(bisection(&row)) {
                prop_assert!((a - b).abs() < 1e-6, "{} {}", a, b);
            }
            let mut twice = p.clone();
            project(&mut twice);
            for (a, b) in p.iter().zip(twice) {
                prop_assert!((a - b).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn samples_follow_the_rows_and_never_what_is_impossible() {
        let rows = Rows::new(2, 3, vec![0.0, 0.25, 0.75, 1.0, 0.0, 0.0]).unwrap();
        let mut s = Stream::new(1, Purpose::Test);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            let prompt = rows.sample(&mut s);
            counts[prompt[0]] += 1;
            assert_eq!(prompt[1], 0);
        }
        assert!(counts[0] == 0 && (f64::from(counts[1]) / 4000.0 - 0.25).abs() < 0.03, "{counts:?}");
        assert_eq!(rows.best(), [2, 0]);
        assert!((Rows::uniform(2, 5).unwrap().entropy() - 1.0).abs() < 1e-12);
        assert_eq!(Rows::one_hot(5, &[3, 3]).unwrap().entropy(), 0.0);
    }

    #[test]
    fn what_is_no_matrix_is_refused_and_the_wire_is_read_back() {
        assert!(matches!(Rows::uniform(0, 3), Err(RowsError::Shape { .. })));
        assert!(matches!(Rows::from_wire(1, 2, &[0.5]), Err(RowsError::Shape { found: 1, .. })));
        assert!(matches!(
            Rows::from_wire(1, 2, &[f32::NAN, 1.0]),
            Err(RowsError::NotFinite { index: 0, .. })
        ));
        let rows = Rows::new(1, 4, vec![0.1, 0.2, 0.3, 0.4]).unwrap();
        let back = Rows::from_wire(1, 4, &rows.to_wire()).unwrap();
        assert!(rows.values().iter().zip(back.values()).all(|(a, b)| (a - b).abs() < 1e-7));
    }
}
