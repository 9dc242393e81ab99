//! The order in which a client walks its examples: a pure function of (seed, round, client, position).
//!
//! Each round starts a new pass in a new permutation; a pass that ends within the round is followed by another. So a
//! resumed round sees the same examples, and within a pass none comes twice.

use antiphon_core::{ClientId, Purpose, Round, Stream};

/// A walk through `0..n`. Its memory is reused from round to round and client to client.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    permutation: Vec<u32>,
    stream: Option<Stream>,
    pass: u64,
    at: usize,
}

impl Walk {
    /// Begins at the first example of `client` in `round`; `n > 0`.
    pub(crate) fn start(&mut self, seed: u64, round: Round, client: ClientId, n: usize) {
        self.permutation.clear();
        self.permutation.extend(0..n as u32);
        let stream = Stream::keyed(seed, Purpose::Shuffle, Some(round), Some(client), "");
        stream.substream(0).shuffle(&mut self.permutation);
        (self.stream, self.pass, self.at) = (Some(stream), 0, 0);
    }

    /// The next index; `None` before [`Walk::start`].
    pub(crate) fn next(&mut self) -> Option<usize> {
        if self.at == self.permutation.len() {
            self.pass += 1;
            self.at = 0;
            // each pass permutes the identity, so that it depends on its number alone
            let n = self.permutation.len() as u32;
            self.permutation.clear();
            self.permutation.extend(0..n);
            self.stream.as_ref()?.substream(self.pass).shuffle(&mut self.permutation);
        }
        let index = self.permutation.get(self.at).copied()?;
        self.at += 1;
        Some(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(round: u32, client: u64, n: usize, len: usize) -> Vec<usize> {
        let mut w = Walk::default();
        w.start(3, Round(9), ClientId(9), 17);
        w.next();
        w.start(3, Round(round), ClientId(client), n);
        (0..len).map(|_| w.next().unwrap()).collect()
    }

    #[test]
    fn every_pass_sees_every_example_once() {
        let w = walk(0, 1, 7, 21);
        for pass in w.chunks(7) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert_ne!(w[..7], w[7..14]);
    }

    #[test]
    fn the_order_depends_on_round_and_client_and_on_nothing_before() {
        assert_eq!(walk(2, 5, 11, 30), walk(2, 5, 11, 30));
        assert_ne!(walk(2, 5, 11, 11), walk(3, 5, 11, 11));
        assert_ne!(walk(2, 5, 11, 11), walk(2, 6, 11, 11));
    }
}
