//! Token sequences with their targets, and batches of them without padding.
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

/// Sequences laid end to end: `n` rows in all, none of them padding. Each sequence is its own attention segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Vocabulary ids, `[n]`.
    pub ids: Vec<u32>,
    /// Length of each sequence; they sum to `n`.
    pub lengths: Vec<usize>,
    /// Rows that carry a label, ascending, `[m]`.
    pub label_rows: Vec<u32>,
    /// The token to predict at each of `label_rows`, `[m]`.
    pub label_ids: Vec<u32>,
    /// Class of each sequence, when every sequence has one; otherwise empty.
    pub classes: Vec<u32>,
}

impl Batch {
    /// Refills the batch, keeping its memory.
    pub fn fill<'a>(&mut self, sequences: impl IntoIterator<Item = &'a Sequence>) {
        self.ids.clear();
        self.lengths.clear();
        self.label_rows.clear();
        self.label_ids.clear();
        self.classes.clear();
        for s in sequences {
            let at = self.ids.len();
            self.ids.extend_from_slice(&s.ids);
            self.lengths.push(s.len());
            for (row, id) in s.labels() {
                self.label_rows.push((at + row) as u32);
                self.label_ids.push(id);
            }
            self.classes.extend(s.class);
        }
        if self.classes.len() != self.lengths.len() {
            self.classes.clear();
        }
    }

    /// A batch of `sequences`.
    pub fn of<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut batch = Self::default();
        batch.fill(sequences);
        batch
    }

    /// Rows in all, `n`.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ids.len()
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
        let b = sequence(&[9, 1], &[0, 1], None);
        let batch = Batch::of([&a, &b]);
        assert_eq!(batch.ids, [5, 6, 7, 8, 9, 1]);
        assert_eq!(batch.lengths, [4, 2]);
        assert_eq!(batch.label_rows, [1, 2, 4], "no row predicts across a seam between sequences");
        assert_eq!(batch.label_ids, [7, 8, 1]);
    }

    #[test]
    fn classes_are_all_or_nothing() {
        let one = sequence(&[1], &[0], Some(3));
        assert_eq!(Batch::of([&one, &one]).classes, [3, 3]);
        assert!(Batch::of([&one, &sequence(&[1], &[0], None)]).classes.is_empty());
    }
}
