//! Which rows a client trains on at each step.
//!
//! The order of a client in a round is one endless list: permutation after permutation of its rows, the `e`-th drawn from
//! substream `e` of the stream keyed by (seed, round, client). Step `s` takes positions `s·b .. (s + 1)·b`. So a batch
//! is a pure function of its indices, a resumed run needs no cursor, and every batch has exactly `b` rows.

use antiphon_core::{ClientId, Purpose, Round, Stream};
use serde::{Deserialize, Serialize};

/// What happens when a client has fewer rows than a micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmallClients {
    /// Stop before the first round.
    #[default]
    Error,
    /// Go round: rows occur more than once in a batch, and weigh accordingly.
    Wrap,
}

/// A client that cannot fill a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// No rows at all.
    #[error("{client} has nothing to train on")]
    Empty {
        /// Which.
        client: ClientId,
    },
    /// Micro-batches of nothing.
    #[error("micro_batch_size must be at least 1")]
    ZeroBatch,
    /// Fewer rows than a batch.
    #[error(
        "{client} has {rows} training rows, fewer than micro_batch_size = {micro_batch_size}; lower it, ask the \
         partitioner for larger clients (`min_examples`), or set `small_clients = \"wrap\"` to repeat rows"
    )]
    Small {
        /// Which.
        client: ClientId,
        /// Its rows.
        rows: usize,
        /// Rows of a batch.
        micro_batch_size: usize,
    },
}

/// The order of one client's rows in one round.
#[derive(Clone, Debug)]
pub struct Order {
    stream: Stream,
    rows: usize,
    batch: usize,
    /// The permutation drawn last; only a memo.
    memo: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// The order of `client`, which has `rows` training rows, in `round`.
    pub fn new(
        seed: u64,
        round: Round,
        client: ClientId,
        rows: usize,
        micro_batch_size: usize,
        small: SmallClients,
    ) -> Result<Self, BatchError> {
        if micro_batch_size == 0 {
            return Err(BatchError::ZeroBatch);
        }
        if rows == 0 {
            return Err(BatchError::Empty { client });
        }
        if rows < micro_batch_size && small == SmallClients::Error {
            return Err(BatchError::Small { client, rows, micro_batch_size });
        }
        let stream = Stream::keyed(seed, Purpose::Shuffle, Some(round), Some(client), "");
        Ok(Self { stream, rows, batch: micro_batch_size, memo: None })
    }

    /// Puts the rows of `step` into `out`, whose memory is reused. The same whatever was asked before.
    pub fn batch(&mut self, step: u64, out: &mut Vec<usize>) {
        out.clear();
        let from = step * self.batch as u64;
        for position in from..from + self.batch as u64 {
            let (epoch, at) = (position / self.rows as u64, (position % self.rows as u64) as usize);
            out.push(self.permutation(epoch)[at]);
        }
    }

    /// Steps that visit every row `epochs` times, the last of them perhaps beginning another epoch.
    #[must_use]
    pub fn steps(&self, epochs: u32) -> u64 {
        (u64::from(epochs) * self.rows as u64).div_ceil(self.batch as u64)
    }

    fn permutation(&mut self, epoch: u64) -> &[usize] {
        let (rows, stream) = (self.rows, &self.stream);
        let (drawn, order) = self.memo.get_or_insert_with(|| (epoch.wrapping_add(1), (0..rows).collect()));
        if *drawn != epoch {
            *drawn = epoch;
            order.clear();
            order.extend(0..rows);
            stream.substream(epoch).shuffle(order);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(rows: usize, batch: usize, small: SmallClients) -> Result<Order, BatchError> {
        Order::new(5, Round(3), ClientId(7), rows, batch, small)
    }

    fn batch(o: &mut Order, step: u64) -> Vec<usize> {
        let mut out = Vec::new();
        o.batch(step, &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_batch_is_a_pure_function_of_its_step(
            rows in 1_usize..40, size in 1_usize..9, steps in prop::collection::vec(0_u64..30, 1..20)
        ) {
            let mut used = order(rows, size, SmallClients::Wrap).unwrap();
            for step in steps {
                let fresh = batch(&mut order(rows, size, SmallClients::Wrap).unwrap(), step);
                prop_assert_eq!(fresh.len(), size);
                prop_assert_eq!(batch(&mut used, step), fresh);
            }
        }

        #[test]
        fn an_epoch_visits_every_row_once(rows in 1_usize..40, size in 1_usize..9) {
            let mut o = order(rows, size, SmallClients::Wrap).unwrap();
            let mut seen: Vec<usize> = (0..o.steps(2)).flat_map(|s| batch(&mut o, s)).collect();
            seen.truncate(2 * rows);
            for epoch in seen.chunks(rows) {
                let mut epoch = epoch.to_vec();
                epoch.sort_unstable();
                prop_assert_eq!(epoch, (0..rows).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn rounds_clients_and_epochs_differ() {
        let of = |seed, round, client| {
            batch(
                &mut Order::new(seed, Round(round), ClientId(client), 50, 50, SmallClients::Error).unwrap(),
                0,
            )
        };
        let base = of(1, 0, 0);
        assert!([of(2, 0, 0), of(1, 1, 0), of(1, 0, 1)].iter().all(|o| *o != base));
        let mut o = order(50, 50, SmallClients::Error).unwrap();
        assert_ne!(batch(&mut o, 0), batch(&mut o, 1));
    }

    #[test]
    fn a_client_smaller_than_a_batch_is_an_error_unless_it_may_wrap() {
        let e = order(3, 4, SmallClients::Error).unwrap_err().to_string();
        assert!(e.contains("client 7 has 3 training rows") && e.contains("small_clients"), "{e}");
        assert_eq!(batch(&mut order(3, 4, SmallClients::Wrap).unwrap(), 0).len(), 4);
        assert!(matches!(order(0, 4, SmallClients::Wrap), Err(BatchError::Empty { .. })));
        assert!(matches!(order(3, 0, SmallClients::Wrap), Err(BatchError::ZeroBatch)));
    }
}
