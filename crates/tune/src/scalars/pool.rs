//! The seeds that FedKSeed draws from: `K` of them, all different, made from the run's seed and never sent.

use std::collections::BTreeMap;

use antiphon_core::{ClientId, Purpose, Round, Stream};

/// `K` seeds in the order of the state's coordinates.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    seeds: Vec<u64>,
    run: u64,
}

impl Pool {
    /// The pool of a run. A seed that came before is drawn again.
    pub(super) fn new(run: u64, size: usize) -> Self {
        let mut stream = Stream::keyed(run, Purpose::Perturbation, None, None, "pool");
        let mut places = BTreeMap::new();
        let mut seeds = Vec::with_capacity(size);
        while seeds.len() < size {
            let seed = stream.next_u64();
            if places.insert(seed, seeds.len()).is_none() {
                seeds.push(seed);
            }
        }
        Self { seeds, run }
    }

    pub(super) fn len(&self) -> usize {
        self.seeds.len()
    }

    pub(super) fn seed(&self, place: usize) -> u64 {
        self.seeds[place]
    }

    /// The draws of a client in a round; step `t` uses substream `t`.
    pub(super) fn draws(&self, round: Round, client: ClientId) -> Stream {
        Stream::keyed(self.run, Purpose::Perturbation, Some(round), Some(client), "pool")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_all_different_and_those_of_the_run() {
        let pool = Pool::new(3, 4096);
        let mut sorted = pool.seeds.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 4096);
        assert_eq!(pool.seeds, Pool::new(3, 4096).seeds);
        assert_eq!(pool.seeds[..9], Pool::new(3, 9).seeds);
        assert_ne!(pool.seeds[0], Pool::new(4, 1).seeds[0]);
    }
}
