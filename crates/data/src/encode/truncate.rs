//! Sequences longer than the limit.

use serde::{Deserialize, Serialize};

use super::mark::Marked;

/// What happens to a sequence of more than `sequence_len` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Cut what comes before the last answer, oldest first, `<s>` kept; the answer loses its tail only if it is too long
    /// alone. Text to classify loses its tail. Running text loses nothing: it goes on in further sequences.
    #[default]
    PromptLeft,
    /// Cut the tail. A long prompt may push out the whole answer.
    Tail,
    /// Leave the example out.
    Drop,
    /// Stop with an error.
    Error,
}

/// Cuts `marked` to `limit` tokens by [`Truncation::PromptLeft`].
pub(super) fn prompt_left(marked: &mut Marked, limit: usize) {
    let surplus = marked.ids.len().saturating_sub(limit);
    if surplus == 0 {
        return;
    }
    // At least one token must stand before the answer to predict its first.
    let keep_before = usize::from(marked.prefix == 0);
    let removable = marked.answer.map_or(0, |a| a.saturating_sub(marked.prefix + keep_before));
    marked.cut(marked.prefix..marked.prefix + surplus.min(removable));
    if let Some(first) = marked.target.first_mut() {
        *first = false;
    }
    tail(marked, limit);
}

/// Cuts `marked` to `limit` tokens before its suffix.
pub(super) fn tail(marked: &mut Marked, limit: usize) {
    let n = marked.ids.len();
    if n <= limit {
        return;
    }
    let suffix = marked.suffix.min(limit);
    marked.cut(limit - suffix..n - suffix);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `p` prompt, `a` answer, `<` kept prefix, `>` kept suffix; ids count from 0.
    fn marked(shape: &str) -> Marked {
        Marked {
            ids: (0..shape.len() as u32).collect(),
            target: shape.chars().map(|c| c == 'a').collect(),
            bytes: vec![1; shape.len()],
            prefix: shape.matches('<').count(),
            suffix: shape.matches('>').count(),
            answer: shape.rfind("pa").map(|i| i + 1),
            straddling: 0,
        }
    }

    fn left(shape: &str, limit: usize) -> (Vec<u32>, usize) {
        let mut m = marked(shape);
        prompt_left(&mut m, limit);
        assert_eq!(m.ids.len(), m.target.len());
        (m.ids, m.target.iter().filter(|t| **t).count())
    }

    #[test]
    fn the_answer_survives_a_long_prompt() {
        assert_eq!(left("<ppppaa", 5), (vec![0, 3, 4, 5, 6], 2));
        assert_eq!(left("<ppppaa", 3), (vec![0, 5, 6], 2), "the prefix predicts the answer's first token");
        assert_eq!(left("ppppaa", 3), (vec![3, 4, 5], 2), "without a prefix one prompt token stays");
        assert_eq!(left("ppppaa", 2), (vec![3, 4], 1), "then the answer loses its tail");
        assert_eq!(left("ppaa", 9), (vec![0, 1, 2, 3], 2));
    }

    #[test]
    fn the_last_answer_of_a_conversation_survives() {
        assert_eq!(left("<paappaa", 5), (vec![0, 4, 5, 6, 7], 2));
        // an earlier answer cut in the middle: what is left of it still counts, its first token no longer can
        assert_eq!(left("paaapaa", 5), (vec![2, 3, 4, 5, 6], 3));
    }

    #[test]
    fn classified_text_loses_its_tail_but_not_its_end_marker() {
        assert_eq!(left("<ppppp>", 4), (vec![0, 1, 2, 6], 0), "[CLS] and [SEP] stay");
        let mut m = marked("ppaa");
        tail(&mut m, 2);
        assert_eq!((m.ids, m.target), (vec![0, 1], vec![false, false]));
    }
}
