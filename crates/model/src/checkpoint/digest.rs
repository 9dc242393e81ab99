//! The identity of a checkpoint: what it computes, not how its files are cut.

use std::sync::atomic::{AtomicUsize, Ordering};

use antiphon_core::Digest;

use super::Checkpoint;
use crate::gate::Located;

impl Checkpoint {
    /// BLAKE3 over the keys of `config.json` that decide the function and over every tensor's name, type, shape and bytes,
    /// in the order of names. The same for one file or many shards, and on any number of `threads`.
    #[must_use]
    pub fn digest(&self, threads: usize) -> Digest {
        let mut h = blake3::Hasher::new();
        h.update(b"antiphon checkpoint 1");
        let mut field = |bytes: &[u8]| {
            h.update(&(bytes.len() as u64).to_le_bytes());
            h.update(bytes);
        };
        field(&self.config.digest().0);
        let tensors: Vec<(&String, &(usize, Located))> = self.tensors.iter().collect();
        let digests = self.tensor_digests(&tensors, threads);
        for ((name, (_, located)), digest) in tensors.iter().zip(digests) {
            field(name.as_bytes());
            field(format!("{} {:?}", located.dtype, located.shape).as_bytes());
            field(&digest);
        }
        Digest(*h.finalize().as_bytes())
    }

    /// The digest of each tensor's bytes. Threads take the next tensor in turn, large ones first.
    fn tensor_digests(&self, tensors: &[(&String, &(usize, Located))], threads: usize) -> Vec<[u8; 32]> {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(tensors[i].1.1.bytes.len()));
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (file, located) = tensors[i].1;
                let bytes = &self.files[*file].bytes()[located.bytes.clone()];
                done.push((i, *blake3::hash(bytes).as_bytes()));
            }
            done
        };
        let mut digests = vec![[0; 32]; tensors.len()];
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(work)).collect();
            let mut done = work();
            for worker in workers {
                match worker.join() {
                    Ok(part) => done.extend(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            for (i, digest) in done {
                digests[i] = digest;
            }
        });
        digests
    }
}
