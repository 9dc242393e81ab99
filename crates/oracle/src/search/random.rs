//! Random search: the best of states drawn as a search begins. The line that every search must beat at as many queries.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use antiphon_core::Stream;

use super::{Search, SearchError};
use crate::access::Grant;
use crate::task::Question;

/// A state that was better than all before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lucky {
    /// Examples evaluated up to it.
    pub asked: u64,
    /// Its mean loss, nats.
    pub loss: f64,
    /// The state.
    pub state: Vec<f32>,
}

/// Evaluates `candidates` states, the search's own first one and then random ones, each on all `questions`, on `workers`
/// threads; the result does not depend on their number. Each state that is better than all before it, the best last; candidates that
/// cannot be evaluated are passed over.
///
/// # Errors
/// Of the oracle, and [`SearchError::NothingKnown`] if no candidate could be evaluated.
pub fn random_search(
    search: &dyn Search,
    oracle: &Grant,
    questions: &[Question],
    candidates: u64,
    stream: &mut Stream,
    workers: usize,
) -> Result<Vec<Lucky>, SearchError> {
    let draw = |i| if i == 0 { search.start() } else { search.random(stream) };
    let states: Vec<Vec<f32>> = (0..candidates.max(1)).map(draw).collect();
    let next = AtomicUsize::new(0);
    let losses = Mutex::new(vec![f64::NAN; states.len()]);
    let worker = || -> Result<(), SearchError> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(state) = states.get(i) else { return Ok(()) };
            let fitness = search.prompt(state)?.fitness(oracle, questions, search.loss())?;
            losses.lock().unwrap_or_else(PoisonError::into_inner)[i] = fitness.loss;
        }
    };
    let ended: Result<(), SearchError> = std::thread::scope(|s| {
        let others: Vec<_> = (1..workers.max(1)).map(|_| s.spawn(worker)).collect();
        let mine = worker();
        // a panic in one of them is one here
        let joined = |o: ScopedJoinHandle<'_, _>| o.join().unwrap_or_else(|panic| resume_unwind(panic));
        others.into_iter().map(joined).fold(mine, Result::and)
    });
    ended?;
    let losses = losses.into_inner().unwrap_or_else(PoisonError::into_inner);
    let asked = |i: usize| (i + 1) as u64 * questions.len() as u64;
    let better: Vec<Lucky> = improvements(&losses)
        .into_iter()
        .map(|i| Lucky { asked: asked(i), loss: losses[i], state: states[i].clone() })
        .collect();
    if better.is_empty() { Err(SearchError::NothingKnown) } else { Ok(better) }
}

/// Indices of the losses that are below all before them; what could not be evaluated is passed over.
fn improvements(losses: &[f64]) -> Vec<usize> {
    let mut best = f64::INFINITY;
    let better = losses.iter().enumerate().filter(|(_, loss)| {
        let falls = **loss < best;
        best = best.min(**loss);
        falls
    });
    better.map(|(i, _)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::improvements;

    #[test]
    fn only_what_is_better_than_everything_before_counts() {
        assert_eq!(improvements(&[f64::NAN, 3.0, 3.0, 4.0, 2.0, f64::INFINITY, 1.0]), [1, 4, 6]);
        assert!(improvements(&[f64::NAN]).is_empty());
    }
}
