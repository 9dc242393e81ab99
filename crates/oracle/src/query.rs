//! What can be asked.

use std::sync::Arc;

use antiphon_core::Digest;

/// What comes before the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Prompt {
    /// As text; the oracle tokenises it and adds what its model wants at the beginning.
    Text(String),
    /// As ids of the model's vocabulary, complete, nothing added.
    Tokens(Vec<u32>),
}

/// One continuation whose probability is asked: a label word, or a whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// As text, a leading space included where the model's tokens have one.
    Text(String),
    /// As ids, at least one.
    Tokens(Vec<u32>),
}

/// A text wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct TextQuery {
    /// Before the text.
    pub prompt: Prompt,
    /// At most so many tokens, `>= 1`.
    pub max_tokens: u32,
    /// `0.0` is greedy; finite and not negative.
    pub temperature: f64,
    /// For sampling where the temperature is positive. An endpoint without seeds ignores it, and says so by a noise floor
    /// that is not zero.
    pub seed: u64,
    /// Generation ends before any of these.
    pub stop: Vec<String>,
}

/// Log-probabilities of continuations wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreQuery {
    /// Before each label.
    pub prompt: Prompt,
    /// At least one; the answer has one score for each, in this order. Shared by the examples of a task.
    pub labels: Arc<[Label]>,
}

/// Rows in the space of input embeddings, put before everything that a query's prompt becomes: `[rows, width]`, row-major,
/// finite.
#[derive(Clone, PartialEq)]
pub struct Soft {
    width: usize,
    values: Arc<[f32]>,
}

impl Soft {
    /// Errors unless `values` is at least one whole row of finite numbers.
    pub fn new(width: usize, values: impl Into<Arc<[f32]>>) -> Result<Self, SoftError> {
        let values = values.into();
        if width == 0 || values.is_empty() || !values.len().is_multiple_of(width) {
            return Err(SoftError::Shape { width, found: values.len() });
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(SoftError::NotFinite { index, value: values[index] }),
            None => Ok(Self { width, values }),
        }
    }

    /// Numbers in a row: the model's hidden size.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows, `>= 1`: so many positions of the context are taken.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// `[rows, width]`, row-major.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Of width and bits.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = (self.width as u64).to_le_bytes().to_vec();
        bytes.extend(self.values.iter().flat_map(|v| v.to_le_bytes()));
        Digest::of(&bytes)
    }
}

/// Prints the shape only.
impl std::fmt::Debug for Soft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Soft[{}, {}]", self.rows(), self.width)
    }
}

/// Rejected by [`Soft::new`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SoftError {
    /// Not whole rows.
    #[error("a soft prompt is one or more rows of {width} numbers, got {found} numbers")]
    Shape {
        /// Numbers in a row.
        width: usize,
        /// Numbers given.
        found: usize,
    },
    /// A NaN or an infinity.
    #[error("number {index} of a soft prompt is {value}; the search has diverged, a smaller step may help")]
    NotFinite {
        /// The first such number.
        index: usize,
        /// What it is.
        value: f32,
    },
}

/// One question of any kind, for those who count or remember questions without asking them.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a> {
    /// Of [`crate::TextOracle::generate`].
    Text(&'a TextQuery),
    /// Of [`crate::LogprobOracle::score`].
    Score(&'a ScoreQuery),
    /// Of [`crate::EmbedOracle::score_soft`].
    Soft(&'a Soft, &'a ScoreQuery),
    /// Of [`crate::WeightOracle::score_at`]; the trainable vector in schema order.
    At(&'a [f32], &'a ScoreQuery),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_prompt_is_whole_finite_rows() {
        let soft = Soft::new(2, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((soft.rows(), soft.width()), (2, 2));
        assert_ne!(soft.digest(), Soft::new(4, vec![1.0, 2.0, 3.0, 4.0]).unwrap().digest());
        for (width, values) in [(0, vec![1.0]), (2, vec![]), (2, vec![1.0; 3])] {
            assert!(matches!(Soft::new(width, values), Err(SoftError::Shape { .. })));
        }
        let diverged = Soft::new(1, vec![0.0, f32::NAN]);
        assert!(matches!(diverged, Err(SoftError::NotFinite { index: 1, .. })));
    }
}
