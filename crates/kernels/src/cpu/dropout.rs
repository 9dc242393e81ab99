//! Dropout by counter: element `i` looks at word `i` of a Philox stream, whichever thread treats it.

use super::Cpu;
use super::simd::{Kernel, Lanes, Simd, dispatch, vectors};
use super::split::{GRAIN, split};
use crate::backend::Dropout;
use crate::{check, philox};

/// Words made at once: sixteen blocks of four, so that the rounds of Philox fill vectors.
const BATCH: usize = 64;

pub(super) fn dropout(cpu: &Cpu, x: &[f32], mask: Dropout, y: &mut [f32], add: bool) {
    check::same("dropout", y.len(), x.len());
    let tasks = y.len().div_ceil(GRAIN);
    split(&cpu.pool, tasks, [(y, GRAIN)], |i, [y]| {
        let x = &x[i * GRAIN..][..y.len()];
        dispatch(cpu.isa, Masked { x, y, add, mask, first: (i * GRAIN) as u64 });
    });
}

struct Masked<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    add: bool,
    mask: Dropout,
    /// Word of the first element, a multiple of four.
    first: u64,
}

impl Kernel for Masked<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, y, add, mask, first } = self;
        // p · 2^32 is exact, and a word is at least it when it is at least the next integer
        let threshold = (f64::from(mask.p) * 4_294_967_296.0).ceil() as u64;
        let kept = 1.0 / (1.0 - mask.p);
        let mut factors = [0.0; BATCH];
        for (batch, (x, y)) in x.chunks(BATCH).zip(y.chunks_mut(BATCH)).enumerate() {
            let block = first / 4 + (batch * BATCH / 4) as u64;
            for lane in 0..BATCH / 4 {
                let words = philox::at(mask.key, mask.high, block + lane as u64);
                for (j, word) in words.into_iter().enumerate() {
                    factors[4 * lane + j] = if u64::from(word) >= threshold { kept } else { 0.0 };
                }
            }
            for at in vectors(y.len()) {
                let v = s.read(x, at) * s.read(&factors, at);
                let v = if add { s.read(y, at) + v } else { v };
                v.write(y, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use antiphon_core::{Purpose, Stream};

    use super::*;

    /// The masks are promised to come from the stream that the rest of the project draws from.
    #[test]
    fn the_mask_is_the_words_of_a_core_stream() {
        let key = Stream::new(9, Purpose::Dropout).key();
        let mut stream = Stream::new(9, Purpose::Dropout).substream(4);
        let n = 3 * GRAIN / 2 + 5;
        let mut y = vec![0.0; n];
        dropout(&Cpu::threads(2), &vec![1.0; n], Dropout { key, high: 5, p: 0.25 }, &mut y, false);
        for (i, v) in y.into_iter().enumerate() {
            let keep = stream.next_u32() >= 1 << 30;
            assert_eq!(v, if keep { 1.0 / 0.75 } else { 0.0 }, "element {i}");
        }
    }
}
