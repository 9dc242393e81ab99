//! Products of small operands that their block keeps in the cache itself: one thread, one block of `k`, no packing but
//! what the block asks for. Attention is made of these.

use std::ops::Range;

use super::kernel::{Kernel, Panel, Rows, Tile};
use super::portable::Portable;
use super::{Elems, Isa, Operand};

/// The second operand of a [`product`].
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Row `p` begins at `p · stride`.
    Rows { data: &'a [f32], stride: usize },
    /// What [`pack`] made of a matrix of `n` columns.
    Packed { data: &'a [f32], n: usize },
}

/// Elements that [`pack`] writes, at most.
pub(crate) fn packed_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(16)
}

macro_rules! on {
    ($isa:expr, $kernel:ident => $call:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if Isa::Avx512.available() => {
                type $kernel = super::avx512::Avx512;
                $call
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if Isa::Avx2.available() => {
                type $kernel = super::avx2::Avx2;
                $call
            }
            _ => {
                type $kernel = Portable;
                $call
            }
        }
    };
}

/// Lays out the transpose of `n` rows of `k` numbers, `stride` apart, as panels of columns.
pub(crate) fn pack(isa: Isa, rows: &[f32], stride: usize, k: usize, n: usize, to: &mut [f32]) {
    assert!(n == 0 || (n - 1) * stride + k <= rows.len(), "{n} rows of {k} in {} elements", rows.len());
    assert!(to.len() >= packed_len(k, n), "{} elements for {} packed", to.len(), packed_len(k, n));
    // SAFETY: the bounds are checked above, and the processor has the instruction set.
    unsafe { on!(isa, K => panels::<K>(rows.as_ptr(), stride, k, n, to.as_mut_ptr())) }
}

/// # Safety
/// As [`Kernel::pack`] for every panel.
unsafe fn panels<K: Kernel>(rows: *const f32, stride: usize, k: usize, n: usize, to: *mut f32) {
    for first in (0..n).step_by(K::NR) {
        let lanes = K::NR.min(n - first);
        let panel = Panel {
            src: rows.wrapping_add(first * stride).cast(),
            lane: stride,
            step: 1,
            lanes,
            k,
            dst: to.wrapping_add(first * k),
            width: lanes.next_multiple_of(K::LANES),
        };
        // SAFETY: the caller's promise.
        unsafe { K::pack::<f32>(&panel) };
    }
}

/// `C (+)= alpha · A · B[:, cols]`, where `A: m × k`, and `C: m × cols.len()` has rows `ldc` apart. An element is one chain
/// `s ← fma(a[i,p], b[p,j], s)` and then `alpha · s` or `fma(alpha, s, c)`.
///
/// # Safety
/// The elements of `C` are valid for reading and writing, lie in neither operand, and no other thread uses them.
pub(crate) unsafe fn product(
    isa: Isa,
    m: usize,
    cols: Range<usize>,
    k: usize,
    alpha: f32,
    a: Operand<'_>,
    b: Right<'_>,
    add: bool,
    c: *mut f32,
    ldc: usize,
) {
    if m == 0 || cols.is_empty() {
        return;
    }
    assert!(k > 0, "an inner dimension of zero");
    a.check("A", m, k);
    match b {
        Right::Rows { data, stride } => {
            assert!((k - 1) * stride + cols.end <= data.len(), "operand B has {} elements", data.len());
        }
        Right::Packed { data, n } => {
            assert!(cols.end <= n && data.len() >= packed_len(k, n), "packed B has {} elements", data.len());
        }
    }
    let Elems::F32(data) = a.data else { unreachable!("direct products are of binary32") };
    let job = Job { m, cols, k, alpha, a: data.as_ptr(), a_row: a.rs, a_k: a.cs, b, add, c, ldc };
    // SAFETY: operands are checked above, `C` is the caller's promise, and the processor has the instruction set.
    unsafe { on!(isa, K => job.run::<K>()) }
}

struct Job<'a> {
    m: usize,
    cols: Range<usize>,
    k: usize,
    alpha: f32,
    a: *const f32,
    a_row: usize,
    a_k: usize,
    b: Right<'a>,
    add: bool,
    c: *mut f32,
    ldc: usize,
}

impl Job<'_> {
    /// # Safety
    /// As [`Kernel::tile`] for every tile.
    unsafe fn run<K: Kernel>(&self) {
        // tiles of one width, rather than whole ones and a thin last one
        let width = self.cols.len().div_ceil(self.cols.len().div_ceil(K::NR)).next_multiple_of(K::LANES);
        let mut j = self.cols.start;
        while j < self.cols.end {
            let (at, step, padded, end) = match self.b {
                Right::Rows { data, stride } => (data.as_ptr().wrapping_add(j), stride, false, j + width),
                Right::Packed { data, n } => {
                    let first = j / K::NR * K::NR;
                    let step = K::NR.min(n - first).next_multiple_of(K::LANES);
                    let padded = (j - first).is_multiple_of(K::LANES);
                    (data.as_ptr().wrapping_add(first * self.k + j - first), step, padded, first + K::NR)
                }
            };
            let end = end.min(self.cols.end);
            for i in (0..self.m).step_by(K::MR) {
                let c = self.c.wrapping_add(i * self.ldc + j - self.cols.start);
                let tile = Tile {
                    rows: K::MR.min(self.m - i),
                    cols: end - j,
                    k: self.k,
                    a: self.a.wrapping_add(i * self.a_row),
                    a_row: self.a_row,
                    a_k: self.a_k,
                    alpha: self.alpha,
                    from: if self.add { c } else { std::ptr::null() },
                    from_row: self.ldc,
                    c,
                    c_row: self.ldc,
                };
                // SAFETY: the caller's promise.
                unsafe { K::tile(&tile, &Rows { at, step, padded }) };
            }
            j = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element `(i, j)` of the product, by its definition.
    fn one(k: usize, a: impl Fn(usize) -> f32, b: impl Fn(usize) -> f32) -> f32 {
        (0..k).fold(0.0, |s, p| a(p).mul_add(b(p), s))
    }

    #[test]
    fn rows_and_panels_give_the_chain_on_every_instruction_set() {
        let number = |i: usize| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            for (m, cols, n, k) in
                [(1, 0..1, 1, 1), (9, 5..130, 131, 48), (20, 48..96, 100, 7), (17, 0..64, 64, 33)]
            {
                let a: Vec<f32> = (0..m * (k + 2)).map(number).collect();
                let b: Vec<f32> = (0..n * (k + 5)).map(|i| number(i + 3)).collect();
                let rows = Operand::rows(&a, k + 2);
                // B's columns as rows of `k`, packed; and B as it is, read in place
                let mut packed = vec![f32::NAN; packed_len(k, n)];
                pack(isa, &b, k + 5, k, n, &mut packed);
                let mut flat = vec![0.0; k * n];
                (0..k * n).for_each(|i| flat[i] = b[(i % n) * (k + 5) + i / n]);
                let ldc = cols.len() + 3;
                for (right, add) in [
                    (Right::Packed { data: &packed, n }, false),
                    (Right::Rows { data: &flat, stride: n }, true),
                ] {
                    let mut c = vec![2.0; m * ldc];
                    // SAFETY: `c` holds `m` rows.
                    unsafe { product(isa, m, cols.clone(), k, 0.5, rows, right, add, c.as_mut_ptr(), ldc) };
                    for i in 0..m {
                        for (x, j) in cols.clone().enumerate() {
                            let s = one(k, |p| a[i * (k + 2) + p], |p| b[j * (k + 5) + p]);
                            let expected = if add { 0.5f32.mul_add(s, 2.0) } else { 0.5 * s };
                            assert_eq!(c[i * ldc + x], expected, "{isa:?} {i} {j}");
                        }
                        assert_eq!(c[i * ldc + cols.len()..][..3], [2.0; 3]);
                    }
                }
            }
        }
    }
}
