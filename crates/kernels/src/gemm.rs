//! Matrix products, `C (+)= alpha · A · B`, in binary32 with fused multiply-adds.
//!
//! The loop nest is Goto's (Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication", section
//! 4; the outer loops of BLIS, Van Zee and van de Geijn 2015): panels of `B` are packed into the second-level cache,
//! panels of `A` into the first, and a register tile of `C` runs down `k`.
//!
//! **Bits.** `k` is cut into blocks of [`KC`], a constant of the code and not of the machine. Within a block an element
//! of `C` is one chain, `s ← fma(a[i,p], b[p,j], s)` for `p` in order, from `s = 0`; blocks are added in order,
//! `c ← fma(alpha, s, c)`, and without `add` the first one is stored as `alpha · s`. Nothing else is allowed to touch the
//! order, so a product has the same bits on any number of threads, for any instruction set below, and for any tile
//! an element falls into: row 0 of a product does not depend on how many rows follow.
//!
//! Deliberately missing: other element types for `C`, Strassen, prepacked operands, detection of cache sizes.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocked;
mod buffer;
pub(crate) mod direct;
mod drive;
mod element;
mod isa;
mod kernel;
mod narrow;
mod peak;
mod portable;

#[cfg(test)]
mod tests;

pub use buffer::packing_bytes;
pub use isa::Isa;
pub use peak::measure_peak;

use crate::backend::Noise;
use crate::pool::Pool;
use drive::Start;

/// Length of a block of `k`: the length of the longest chain of multiply-adds. Part of [`profile`].
pub const KC: usize = 384;

/// Elements of an operand as they are stored.
#[derive(Clone, Copy, Debug)]
pub enum Elems<'a> {
    /// binary32 in memory.
    F32(&'a [f32]),
    /// Little-endian bfloat16 bytes, aligned or not.
    Bf16(&'a [u8]),
    /// Little-endian binary16 bytes, aligned or not.
    F16(&'a [u8]),
    /// Little-endian binary32 bytes, aligned or not.
    F32Bytes(&'a [u8]),
}

impl Elems<'_> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) | Self::F16(x) => x.len() / 2,
            Self::F32Bytes(x) => x.len() / 4,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A matrix operand: element `(i, j)` is `data[i · rs + j · cs]`.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The elements.
    pub data: Elems<'a>,
    /// Row stride in elements.
    pub rs: usize,
    /// Column stride in elements.
    pub cs: usize,
}

impl<'a> Operand<'a> {
    /// A row-major matrix of rows of `cols` elements.
    #[must_use]
    pub fn rows(data: &'a [f32], cols: usize) -> Self {
        Self { data: Elems::F32(data), rs: cols, cs: 1 }
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        Self { data: self.data, rs: self.cs, cs: self.rs }
    }

    /// Panics unless the operand holds `rows × cols` elements.
    fn check(&self, name: &str, rows: usize, cols: usize) {
        if rows == 0 || cols == 0 {
            return;
        }
        let (len, last) = (self.data.len(), (rows - 1) * self.rs + (cols - 1) * self.cs);
        assert!(
            last < len,
            "operand {name} has {len} elements; {rows} x {cols} at strides {} and {} needs {}",
            self.rs,
            self.cs,
            last + 1
        );
    }
}

/// `C (+)= alpha · A · B` with `A: m × k`, `B: k × n` and row-major `C: m × n`, rows `ldc` apart.
///
/// # Panics
/// If a slice is too short for its shape, or `ldc < n`.
pub fn gemm(
    pool: &Pool,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Operand<'_>,
    b: Operand<'_>,
    add: bool,
    c: &mut [f32],
    ldc: usize,
) {
    let start = if add { Start::Add } else { Start::Zero };
    drive::product(Isa::detect(), pool, m, n, k, alpha, a, b, None, start, c, ldc);
}

/// [`gemm`] without `add`, plus `bias: [n]` on every row: `C = bias + alpha · A · B`, where the bias starts each sum
/// over blocks.
pub(crate) fn gemm_bias(
    pool: &Pool,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Operand<'_>,
    b: Operand<'_>,
    bias: &[f32],
    c: &mut [f32],
    ldc: usize,
) {
    drive::product(Isa::detect(), pool, m, n, k, alpha, a, b, None, Start::Bias(bias), c, ldc);
}

/// `C (+)= A · (B + scale · z) + bias`, where element `i` of `B` as it lies in memory is perturbed by element `i` of `noise`
/// while it is packed. A bias needs `add` to be off.
pub(crate) fn gemm_noisy(
    pool: &Pool,
    m: usize,
    n: usize,
    k: usize,
    a: Operand<'_>,
    (b, noise): (Operand<'_>, Noise),
    bias: Option<&[f32]>,
    add: bool,
    c: &mut [f32],
    ldc: usize,
) {
    let start = match bias {
        Some(bias) => Start::Bias(bias),
        None if add => Start::Add,
        None => Start::Zero,
    };
    drive::product(Isa::detect(), pool, m, n, k, 1.0, a, b, Some(noise), start, c, ldc);
}

/// [`gemm`] on a given instruction set, for tests and benchmarks.
///
/// # Panics
/// As [`gemm`], and if this processor lacks `isa`.
pub fn gemm_on(
    isa: Isa,
    pool: &Pool,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Operand<'_>,
    b: Operand<'_>,
    add: bool,
    c: &mut [f32],
    ldc: usize,
) {
    assert!(isa.available(), "this processor has no {isa:?}");
    let start = if add { Start::Add } else { Start::Zero };
    drive::product(isa, pool, m, n, k, alpha, a, b, None, start, c, ldc);
}

/// What fixes the bits of a product, such as `fma-kc384`.
#[must_use]
pub fn profile() -> String {
    format!("fma-kc{KC}")
}
