//! Token sequences with their targets.
//!
//! A model of next tokens predicts `ids[i + 1]` at row `i`, so the loss of token `t > 0` sits on row `t - 1`; the
//! first token of a sequence is never predicted.

use serde::{Deserialize, Serialize};

/// One sequence as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Vocabulary ids, at least one.
    pub ids: Vec<u32>,
    /// `target[t]`: token `t` is to be predicted from the tokens before it. As long as `ids`; `target[0]` is false.
    pub target: Vec<bool>,
    /// Index of the class in the label set, for classification.
    pub class: Option<u32>,
}

impl Sequence {
    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of tokens that carry loss.
    #[must_use]
    pub fn label_tokens(&self) -> usize {
        self.target.iter().filter(|&&t| t).count()
    }

    /// `(row, token)`: at `row` the model should predict `token`.
    pub fn labels(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let pairs = self.target.iter().zip(&self.ids).enumerate().skip(1);
        pairs.filter(|(_, (target, _))| **target).map(|(t, (_, &id))| (t - 1, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ids: &[u32], target: &[u8], class: Option<u32>) -> Sequence {
        Sequence { ids: ids.into(), target: target.iter().map(|&t| t == 1).collect(), class }
    }

    #[test]
    fn labels_sit_one_row_before_their_token() {
        let a = sequence(&[5, 6, 7, 8], &[0, 0, 1, 1], None);
        assert_eq!(a.labels().collect::<Vec<_>>(), [(1, 7), (2, 8)]);
    }
}
