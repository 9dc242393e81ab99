//! Greedy token edits: a position at a time, a few candidates, the best is kept if it is better.
//!
//! In the spirit of FedDTPT (arXiv:2411.00985), whose clients replace tokens by what a masked-language API proposes and keep
//! what predicts better. Here candidates come from a given list, so a text-only endpoint is enough (with accuracy as the
//! judge), and the server takes at each position the token with most votes, weighted by examples, instead of clustering
//! embeddings.

use antiphon_core::Stream;

use super::rows::{Rows, RowsError};

/// What a client's round found.
#[derive(Clone, Debug, PartialEq)]
pub struct Edited {
    /// Its prompt, as indices of candidates.
    pub prompt: Vec<usize>,
    /// The loss of that prompt; `NaN` if nothing was evaluated.
    pub loss: f64,
    /// Edits kept.
    pub kept: u32,
}

impl Edited {
    /// The client's votes.
    pub fn votes(&self, candidates: usize) -> Result<Rows, RowsError> {
        Rows::one_hot(candidates, &self.prompt)
    }
}

/// `edits` positions from the prompt with most votes in `start`, `fillers` tokens tried at each. `loss` is minimised; `NaN` is
/// missing and never kept. Evaluates `1 + edits · fillers` prompts.
pub fn edit<E>(
    start: &Rows,
    edits: u32,
    fillers: usize,
    stream: &mut Stream,
    mut loss: impl FnMut(&[usize]) -> Result<f64, E>,
) -> Result<Edited, E> {
    let mut prompt = start.best();
    let mut best = loss(&prompt)?;
    let mut kept = 0;
    for _ in 0..edits {
        let at = stream.below(prompt.len() as u64) as usize;
        let mut better = None;
        for j in stream.choose(start.candidates(), fillers) {
            let mut other = prompt.clone();
            other[at] = j;
            let value = loss(&other)?;
            if value < best || (best.is_nan() && !value.is_nan()) {
                (best, better) = (value, Some(other));
            }
        }
        if let Some(other) = better {
            prompt = other;
            kept += 1;
        }
    }
    Ok(Edited { prompt, loss: best, kept })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use antiphon_core::Purpose;

    use super::*;

    #[test]
    fn edits_only_ever_improve_and_cost_what_they_say() {
        let target = [3, 1, 4, 1];
        let mut asked = 0;
        let mut stream = Stream::new(1, Purpose::Test);
        let start = Rows::uniform(4, 6).unwrap();
        let done = edit(&start, 40, 3, &mut stream, |p| {
            asked += 1;
            Ok::<_, Infallible>(p.iter().zip(target).filter(|(a, b)| **a != *b).count() as f64)
        })
        .unwrap();
        assert_eq!((done.prompt.as_slice(), done.loss, asked), (&target[..], 0.0, 1 + 40 * 3));
        assert_eq!(done.votes(6).unwrap().best(), target);
    }

    #[test]
    fn a_gap_is_never_kept() {
        let mut stream = Stream::new(1, Purpose::Test);
        let start = Rows::uniform(2, 4).unwrap();
        let gaps = |p: &[usize]| Ok::<_, Infallible>(if p == [0, 0] { 1.0 } else { f64::NAN });
        let done = edit(&start, 10, 3, &mut stream, gaps).unwrap();
        assert_eq!((done.prompt, done.loss, done.kept), (vec![0, 0], 1.0, 0));
    }
}
