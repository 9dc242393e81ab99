//! What several partitioners share: cutting lists by proportions, and drawing until every client is large enough.

use antiphon_core::Stream;

use super::{Partition, PartitionError, Pool};

/// Draws before a partitioner gives up.
const ATTEMPTS: u64 = 1000;

/// Cuts `items` at the floors of the cumulated `proportions`, as `numpy.split(idx, (cumsum(p) * len).astype(int))`.
/// The last piece takes what rounding leaves.
pub(super) fn cut<'a>(items: &'a [usize], proportions: &[f64]) -> Vec<&'a [usize]> {
    let (mut from, mut cumulated) = (0, 0.0);
    let last = proportions.len().saturating_sub(1);
    proportions
        .iter()
        .enumerate()
        .map(|(i, p)| {
            cumulated += p;
            let end = if i == last { items.len() } else { (cumulated * items.len() as f64) as usize };
            let piece = &items[from..end.clamp(from, items.len())];
            from += piece.len();
            piece
        })
        .collect()
}

/// `n` in whole parts as close to `proportions` as can be: floors, then one more to the largest remainders.
pub(super) fn sizes(n: usize, proportions: &[f64]) -> Vec<usize> {
    let exact: Vec<f64> = proportions.iter().map(|p| p * n as f64).collect();
    let mut sizes: Vec<usize> = exact.iter().map(|x| *x as usize).collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by(|&a, &b| {
        (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())).then(a.cmp(&b))
    });
    let given: usize = sizes.iter().sum();
    for &i in order.iter().cycle().take(if order.is_empty() { 0 } else { n.saturating_sub(given) }) {
        sizes[i] += 1;
    }
    sizes
}

/// Errors unless `clients` of `min` examples each could exist.
pub(super) fn enough(pool: &Pool<'_>, clients: usize, min: usize) -> Result<(), PartitionError> {
    let (min, examples) = (min.max(1), pool.examples.len());
    if clients.saturating_mul(min) > examples {
        return Err(PartitionError::TooFewExamples { clients, min, examples });
    }
    Ok(())
}

/// Repeats `draw`, each time with a fresh substream, until the smallest share has `min` examples (one at least).
pub(super) fn until_large_enough(
    id: &'static str,
    min: usize,
    stream: &Stream,
    mut draw: impl FnMut(&mut Stream) -> Vec<Vec<usize>>,
) -> Result<Partition, PartitionError> {
    let min = min.max(1);
    let mut best = 0;
    for attempt in 0..ATTEMPTS {
        let shares = draw(&mut stream.substream(attempt));
        let smallest = shares.iter().map(Vec::len).min().unwrap_or(0);
        if smallest >= min {
            return Ok(Partition::numbered(shares));
        }
        best = best.max(smallest);
    }
    Err(PartitionError::Unattainable { id, attempts: ATTEMPTS, best, min })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_follows_numpy_and_loses_nothing() {
        let items: Vec<usize> = (0..10).collect();
        // cumsum = [0.25, 0.6, 1.0] -> cuts at 2 and 6
        assert_eq!(cut(&items, &[0.25, 0.35, 0.4]), [&items[..2], &items[2..6], &items[6..]]);
        assert_eq!(cut(&items, &[0.0, 1.0, 0.0]), [&[][..], &items[..], &[]]);
        assert!(cut(&[], &[0.5, 0.5]).iter().all(|piece| piece.is_empty()));
    }

    #[test]
    fn sizes_are_largest_remainders() {
        assert_eq!(sizes(10, &[0.25, 0.35, 0.4]), [3, 3, 4]);
        assert_eq!(sizes(7, &[1.0 / 3.0; 3]), [3, 2, 2]);
        assert_eq!(sizes(2, &[0.0, 1.0]), [0, 2]);
    }
}
