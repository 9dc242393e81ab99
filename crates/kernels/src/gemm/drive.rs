//! From a call to a plan: checks shapes, settles the empty ones, and picks the instruction set and the loop nest.

use half::{bf16, f16};

use super::element::{Element, Kind};
use super::kernel::{A_WIDTH, Kernel, Panel, Tile};
use super::portable::Portable;
use super::{Elems, Isa, KC, Operand};
use crate::backend::Noise;
use crate::cpu::noise::{self, PanelNoise};
use crate::pool::Pool;

/// What the sums over blocks start from.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// Nothing: `C = alpha · A B`.
    Zero,
    /// `C` itself.
    Add,
    /// A row, for each row of `C`.
    Bias(&'a [f32]),
}

/// An operand without its lifetime.
#[derive(Clone, Copy)]
pub(super) struct Raw {
    at: *const u8,
    pub(super) kind: Kind,
    pub(super) rs: usize,
    pub(super) cs: usize,
}

impl Raw {
    fn new(operand: Operand<'_>) -> Self {
        let (at, kind) = match operand.data {
            Elems::F32(x) => (x.as_ptr().cast(), Kind::F32),
            Elems::F32Bytes(x) => (x.as_ptr(), Kind::F32),
            Elems::Bf16(x) => (x.as_ptr(), Kind::Bf16),
            Elems::F16(x) => (x.as_ptr(), Kind::F16),
        };
        Self { at, kind, rs: operand.rs, cs: operand.cs }
    }

    /// Where element `(i, j)` lies.
    pub(super) fn at(&self, i: usize, j: usize) -> *const u8 {
        let size = if self.kind == Kind::F32 { f32::SIZE } else { f16::SIZE };
        self.at.wrapping_add((i * self.rs + j * self.cs) * size)
    }

    /// The operand without its first `cols` columns.
    pub(super) fn shifted(self, cols: usize) -> Self {
        Self { at: self.at(0, cols), ..self }
    }

    /// The transpose.
    pub(super) fn t(self) -> Self {
        Self { rs: self.cs, cs: self.rs, ..self }
    }
}

/// A product whose shapes have been checked.
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) alpha: f32,
    pub(super) a: Raw,
    pub(super) b: Raw,
    /// Added to `B` where it is packed.
    pub(super) noise: Option<Noise>,
    /// See [`Tile::from`], for the first block of `k`.
    pub(super) from: *const f32,
    pub(super) from_row: usize,
    pub(super) c: *mut f32,
    pub(super) ldc: usize,
}

// SAFETY: the operands are only read, and the tasks of a product write disjoint blocks of `C`.
unsafe impl Sync for Product {}

/// A half-open range of rows, columns or steps.
pub(super) type Span = std::ops::Range<usize>;

/// Block `i` of `0..total` in blocks of `size`.
pub(super) fn block(i: usize, size: usize, total: usize) -> Span {
    i * size..((i + 1) * size).min(total)
}

/// See [`super::gemm`].
pub(super) fn product(
    isa: Isa,
    pool: &Pool,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Operand<'_>,
    b: Operand<'_>,
    noise: Option<Noise>,
    start: Start<'_>,
    c: &mut [f32],
    ldc: usize,
) {
    a.check("A", m, k);
    b.check("B", k, n);
    if m == 0 || n == 0 {
        return;
    }
    assert!(ldc >= n, "rows of C are {ldc} apart and {n} wide");
    let needed = (m - 1) * ldc + n;
    assert!(c.len() >= needed, "C has {} elements; {m} x {n} at row stride {ldc} needs {needed}", c.len());
    if let Start::Bias(bias) = start {
        assert!(bias.len() == n, "a bias of {} elements for {n} columns", bias.len());
    }
    if k == 0 {
        for row in c.chunks_mut(ldc).take(m) {
            match start {
                Start::Zero => row[..n].fill(0.0),
                Start::Add => {}
                Start::Bias(bias) => row[..n].copy_from_slice(bias),
            }
        }
        return;
    }
    let (from, from_row) = match start {
        Start::Zero => (std::ptr::null(), 0),
        Start::Add => (c.as_ptr(), ldc),
        Start::Bias(bias) => (bias.as_ptr(), 0),
    };
    let (a, b, c) = (Raw::new(a), Raw::new(b), c.as_mut_ptr());
    let product = Product { m, n, k, alpha, a, b, noise, from, from_row, c, ldc };
    // SAFETY: the bounds are checked above, and the processor has `isa`: it was detected, or asserted by the caller.
    unsafe {
        match isa {
            Isa::Portable => product.run::<Portable>(pool),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => product.run::<super::avx2::Avx2>(pool),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => product.run::<super::avx512::Avx512>(pool),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => unreachable!("{isa:?} on another architecture"),
        }
    }
}

impl Product {
    /// Picks the loop nest; all of them compute the same bits.
    ///
    /// # Safety
    /// The processor has the instruction set of `K`, and the operands cover the shapes.
    unsafe fn run<K: Kernel>(&self, pool: &Pool) {
        // SAFETY: the caller's promise, and each plan's condition.
        unsafe {
            // only the blocked nest packs all of `B`, and every element of it once
            if self.noise.is_some() {
                self.blocked::<K>(pool);
            } else if self.is_turned() {
                self.turned::<K>(pool);
            } else if self.is_thin::<K>() {
                self.thin::<K>(pool);
            } else if self.is_unpacked::<K>() {
                self.unpacked::<K>(pool);
            } else {
                self.blocked::<K>(pool);
            }
        }
    }

    /// Whether `A` is read where it lies: binary32, and neighbours along `k` are near. Elsewhere each step along `k` would
    /// touch another page.
    pub(super) fn a_lies_well(&self) -> bool {
        self.a.kind == Kind::F32 && self.a.cs <= 64
    }

    /// The tile of `rows` and `cols` for `steps`, and its `A`: as it lies, or packed to `scratch` if `first` says that
    /// these rows meet these steps for the first time.
    ///
    /// # Safety
    /// The processor has the instruction set of `K`; `scratch` has room for [`A_PANEL`] elements and, unless `first`, holds
    /// what an earlier call with the same rows and steps left there.
    pub(super) unsafe fn tile<K: Kernel>(
        &self,
        rows: &Span,
        cols: &Span,
        steps: &Span,
        scratch: *mut f32,
        first: bool,
    ) -> Tile {
        let c = self.c.wrapping_add(rows.start * self.ldc + cols.start);
        let (from, from_row) = match steps.start {
            0 if self.from.is_null() => (self.from, 0),
            0 => (self.from.wrapping_add(rows.start * self.from_row + cols.start), self.from_row),
            _ => (c.cast_const(), self.ldc),
        };
        let mut tile = Tile {
            rows: rows.len(),
            cols: cols.len(),
            k: steps.len(),
            a: self.a.at(rows.start, steps.start).cast(),
            a_row: self.a.rs,
            a_k: self.a.cs,
            alpha: self.alpha,
            from,
            from_row,
            c,
            c_row: self.ldc,
        };
        if !self.a_lies_well() {
            (tile.a, tile.a_row, tile.a_k) = (scratch, 1, A_WIDTH);
            if first {
                let panel = Panel {
                    src: self.a.at(rows.start, steps.start),
                    lane: self.a.rs,
                    step: self.a.cs,
                    lanes: rows.len(),
                    k: steps.len(),
                    dst: scratch,
                    width: A_WIDTH,
                };
                // SAFETY: the caller's promise.
                unsafe { pack::<K>(self.a.kind, &panel) };
            }
        }
        tile
    }

    /// Packs a block of `B`: panels of [`Kernel::NR`] columns, one after the other, each rounded up to whole vectors.
    ///
    /// # Safety
    /// The processor has the instruction set of `K`; `dst` has room for `steps` by the rounded columns.
    pub(super) unsafe fn pack_b<K: Kernel>(&self, cols: &Span, steps: &Span, dst: *mut f32) {
        // Rows along the columns are packed a few at a time, across all panels: memory is then read nearly in order.
        let height = if self.b.cs == 1 { PACK_ROWS } else { steps.len() };
        for (at, part) in
            (0..steps.len().div_ceil(height)).map(|i| (i * height, block(i, height, steps.len())))
        {
            for first in cols.clone().step_by(K::NR) {
                let lanes = K::NR.min(cols.end - first);
                let width = lanes.next_multiple_of(K::LANES);
                let panel = Panel {
                    src: self.b.at(steps.start + at, first),
                    lane: self.b.cs,
                    step: self.b.rs,
                    lanes,
                    k: part.len(),
                    dst: dst.wrapping_add((first - cols.start) * steps.len() + at * width),
                    width,
                };
                // SAFETY: the caller's promise.
                unsafe { pack::<K>(self.b.kind, &panel) };
                let Some(noise) = self.noise else { continue };
                let from = (steps.start + at) * self.b.rs + first * self.b.cs;
                let (lane, step) = (self.b.cs, self.b.rs);
                let of_panel = PanelNoise { noise: noise.skip(from), lane, step, lanes, width };
                // SAFETY: `pack` has just written these elements, which are this call's alone.
                let packed = unsafe { std::slice::from_raw_parts_mut(panel.dst, part.len() * width) };
                noise::add_to_panel(K::ISA, of_panel, packed);
            }
        }
    }
}

/// Rows of `B` that are packed together where they run along the columns.
const PACK_ROWS: usize = 8;

/// Elements of the buffer in which a thread packs its rows of `A`.
pub(super) const A_PANEL: usize = A_WIDTH * KC;

/// [`Kernel::pack`] for an element type known at run time.
///
/// # Safety
/// As [`Kernel::pack`].
unsafe fn pack<K: Kernel>(kind: Kind, panel: &Panel) {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            Kind::F32 => K::pack::<f32>(panel),
            Kind::Bf16 => K::pack::<bf16>(panel),
            Kind::F16 => K::pack::<f16>(panel),
        }
    }
}
