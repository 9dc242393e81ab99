//! Passes over vectors, written so that the compiler vectorises them on any target, and divided among threads
//! by columns, so that no number depends on how many there are.

use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_core::Payload;

use crate::LayerError;

/// Independent partial sums: hides the latency of an addition, and keeps the rounding error of a long sum
/// small. Part of the result's definition, so never a property of the machine.
const LANES: usize = 16;

/// Columns are divided among threads in whole multiples of this, so that no two share a cache line.
pub const COLUMNS: usize = 2048;

/// Gives each of up to `threads` threads a run of columns of `y` and says where it starts.
pub fn by_columns(threads: usize, y: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    let share = y.len().div_ceil(threads.max(1)).next_multiple_of(COLUMNS).max(COLUMNS);
    std::thread::scope(|s| {
        let mut parts = y.chunks_mut(share).enumerate();
        let first = parts.next();
        for (i, part) in parts {
            let f = &f;
            s.spawn(move || f(i * share, part));
        }
        if let Some((_, part)) = first {
            f(0, part);
        }
    });
}

/// `Err` with the first number of `x` that is NaN or infinite.
pub fn finite_reals(x: &[f32]) -> Result<(), LayerError> {
    for (block, chunk) in x.chunks(COLUMNS).enumerate() {
        // no early exit inside the block: the loop stays branch-free
        let ok = chunk.iter().fold(true, |ok, v| ok & v.is_finite());
        if !ok && let Some(i) = chunk.iter().position(|v| !v.is_finite()) {
            return Err(LayerError::NotFinite { index: block * COLUMNS + i, value: chunk[i] });
        }
    }
    Ok(())
}

/// [`finite_reals`] by `threads >= 1` threads; the error is the same.
pub fn finite_reals_on(threads: usize, x: &[f32]) -> Result<(), LayerError> {
    let share = x.len().div_ceil(threads.max(1)).next_multiple_of(COLUMNS).max(COLUMNS);
    let bad = AtomicBool::new(false);
    std::thread::scope(|s| {
        for part in x.chunks(share) {
            let bad = &bad;
            s.spawn(move || bad.fetch_or(finite_reals(part).is_err(), Ordering::Relaxed));
        }
    });
    if bad.into_inner() { finite_reals(x) } else { Ok(()) }
}

/// `||x||_2`, squares and sums in f64. NaN or infinite if and only if a coordinate is.
#[must_use]
pub fn l2_norm(x: &[f32]) -> f64 {
    let mut scan = Scan::new(true);
    scan.values(x, |&v| v);
    scan.norm().unwrap_or(0.0)
}

/// One pass over a vector that may come in pieces: whether it is finite and, if asked for, how long it is. Made for
/// readers that have the bytes in cache for another reason, such as hashing them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// Sums of squares of every sixteenth coordinate, if the norm is wanted.
    squares: Option<[f64; LANES]>,
    finite: bool,
}

impl Scan {
    /// A scan that has seen nothing.
    #[must_use]
    pub fn new(norm: bool) -> Self {
        Self { squares: norm.then_some([0.0; LANES]), finite: true }
    }

    /// The next piece, little-endian binary32. All pieces but the last are a multiple of 64 bytes long.
    pub fn bytes(&mut self, piece: &[u8]) {
        self.values(piece.as_chunks::<4>().0, |&c| f32::from_le_bytes(c));
    }

    /// The next piece. All pieces but the last have a multiple of 16 coordinates.
    pub fn reals(&mut self, piece: &[f32]) {
        self.values(piece, |&v| v);
    }

    fn values<T>(&mut self, x: &[T], value: impl Fn(&T) -> f32) {
        match &mut self.squares {
            None => self.finite &= x.iter().fold(true, |ok, v| ok & value(v).is_finite()),
            Some(lanes) => {
                let (chunks, rest) = x.as_chunks::<LANES>();
                for chunk in chunks.iter().map(|c| &c[..]).chain([rest]) {
                    for (lane, v) in lanes.iter_mut().zip(chunk) {
                        let v = f64::from(value(v));
                        *lane += v * v;
                    }
                }
            }
        }
    }

    /// `||x||_2` of all pieces, if it was asked for.
    #[must_use]
    pub fn norm(&self) -> Option<f64> {
        self.squares.map(|lanes| lanes.iter().sum::<f64>().sqrt())
    }

    /// Whether every coordinate was finite: the square of a binary32 never overflows f64.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.norm().map_or(self.finite, f64::is_finite)
    }
}

/// [`finite_reals`] of a payload; ring coordinates always pass.
pub(crate) fn finite(x: &Payload) -> Result<(), LayerError> {
    match x {
        Payload::Real(v) => finite_reals(v),
        Payload::RealBytes(b) => {
            let mut values = b.as_chunks::<4>().0.iter().map(|&c| f32::from_le_bytes(c)).enumerate();
            match values.find(|(_, v)| !v.is_finite()) {
                Some((index, value)) => Err(LayerError::NotFinite { index, value }),
                None => Ok(()),
            }
        }
        Payload::Ring(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_agree_with_hand_and_with_bytes_in_pieces() {
        let x: Vec<f32> = (0..137).map(|i| i as f32 - 18.0).collect();
        let want = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(l2_norm(&x), want);
        let mut scan = Scan::new(true);
        bytes.chunks(64).for_each(|piece| scan.bytes(piece));
        assert_eq!(scan.norm(), Some(want));
        assert!(l2_norm(&[f32::MAX; 40]).is_finite());
        assert!(!l2_norm(&[0.0, f32::INFINITY]).is_finite());
    }

    #[test]
    fn a_bad_coordinate_is_seen_by_every_scan_and_named() {
        let mut v = vec![0.0; 9000];
        assert_eq!(finite_reals(&v), Ok(()));
        v[5000] = f32::NEG_INFINITY;
        v[6000] = f32::NAN;
        for threads in [1, 3] {
            assert_eq!(finite_reals_on(threads, &v), finite_reals(&v));
        }
        assert!(finite_reals(&v).is_err());
        for norm in [false, true] {
            let mut scan = Scan::new(norm);
            scan.reals(&v[..4096]);
            assert!(scan.is_finite());
            scan.reals(&v[4096..]);
            assert!(!scan.is_finite());
        }
        assert_eq!(
            finite(&Payload::Real(v)),
            Err(LayerError::NotFinite { index: 5000, value: f32::NEG_INFINITY })
        );
        assert_eq!(finite(&Payload::Real(vec![f32::MAX, f32::MIN_POSITIVE, -0.0])), Ok(()));
    }

    #[test]
    fn columns_are_covered_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            for len in [0, 1, COLUMNS, 5 * COLUMNS + 7] {
                let mut y = vec![0.0; len];
                by_columns(threads, &mut y, |at, part| {
                    part.iter_mut().enumerate().for_each(|(i, v)| *v += (at + i) as f32);
                });
                assert!(y.iter().enumerate().all(|(i, v)| *v == i as f32), "{threads} {len}");
            }
        }
    }
}
