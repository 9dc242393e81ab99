//! The loops around the register tile, and how they are shared among threads.
//!
//! Two plans, which compute the same tiles:
//! - **Own panels**: a task takes a column block of `C` with all its rows; for each block of `k` it packs the block of `B`
//!   into its own buffer, which then lies in the core's cache, and runs down the rows. Nothing is shared and no thread
//!   waits, but there must be enough column blocks to go round.
//! - **Shared panels**: all threads pack `B`, or as much of it as the shared buffer takes, then all run over a grid of row
//!   and column blocks.
//!
//! Either way, `A` is packed eight rows at a time, right before these are multiplied with every panel of the block.

use half::{bf16, f16};

use super::buffer::{self, Slot};
use super::element::{Element, Kind};
use super::kernel::{A_WIDTH, Kernel, Panel, Tile};
use super::portable::Portable;
use super::{Elems, Isa, KC, Operand};
use crate::pool::Pool;

/// Columns of a block of `B`: with [`KC`] rows it fills about half of a megabyte of second-level cache.
const NC: usize = 384;
/// Elements of the shared buffer (8 MB), which should stay in the last-level cache.
const SHARED: usize = 2 << 20;
/// Elements of the buffer in which a thread packs its rows of `A`.
const A_PANEL: usize = A_WIDTH * KC;

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
struct Raw {
    at: *const u8,
    kind: Kind,
    rs: usize,
    cs: usize,
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
    fn at(&self, i: usize, j: usize) -> *const u8 {
        let size = if self.kind == Kind::F32 { f32::SIZE } else { f16::SIZE };
        self.at.wrapping_add((i * self.rs + j * self.cs) * size)
    }
}

/// A product whose shapes have been checked.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Raw,
    b: Raw,
    /// See [`Tile::from`], for the first block of `k`.
    from: *const f32,
    from_row: usize,
    c: *mut f32,
    ldc: usize,
}

// SAFETY: the operands are only read, and the tasks of a product write disjoint blocks of `C`.
unsafe impl Sync for Product {}

/// Checks shapes, settles the empty ones and dispatches on the instruction set.
pub(super) fn product(
    isa: Isa,
    pool: &Pool,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Operand<'_>,
    b: Operand<'_>,
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
        for row in c.chunks_mut(ldc) {
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
    let product =
        Product { m, n, k, alpha, a: Raw::new(a), b: Raw::new(b), from, from_row, c: c.as_mut_ptr(), ldc };
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

/// A half-open range of rows, columns or steps.
type Span = std::ops::Range<usize>;

/// Block `i` of `0..total` in blocks of `size`.
fn block(i: usize, size: usize, total: usize) -> Span {
    i * size..((i + 1) * size).min(total)
}

impl Product {
    /// # Safety
    /// The processor has the instruction set of `K`, and the operands cover the shapes.
    unsafe fn run<K: Kernel>(&self, pool: &Pool) {
        // Blocks of whole tiles, several for each thread where the columns suffice, so that a slow thread holds up little.
        let share = self.n.div_ceil(4 * pool.threads()).next_multiple_of(K::NR);
        let widest = NC / K::NR * K::NR;
        let few_rows = self.m <= 64;
        if pool.threads() == 1 || few_rows || share >= widest {
            let nc = if pool.threads() == 1 { widest } else { share.min(widest) };
            // SAFETY: the caller's promise.
            unsafe { self.own_panels::<K>(pool, nc) }
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.shared_panels::<K>(pool) }
        }
    }

    /// # Safety
    /// As [`Product::run`].
    unsafe fn own_panels<K: Kernel>(&self, pool: &Pool, nc: usize) {
        pool.run(self.n.div_ceil(nc), &|task| {
            let cols = block(task, nc, self.n);
            let width = cols.len().next_multiple_of(K::LANES);
            buffer::with(Slot::Private, A_PANEL + KC.min(self.k) * width, |scratch| {
                let packed = scratch.wrapping_add(A_PANEL);
                for kb in 0..self.k.div_ceil(KC) {
                    let steps = block(kb, KC, self.k);
                    // SAFETY: the buffer holds a block of `steps` by `width` behind the panel of `A`; this task alone
                    // writes these columns of `C`.
                    unsafe {
                        self.pack_b::<K>(&cols, &steps, packed);
                        self.multiply::<K>(&(0..self.m), &cols, &steps, packed, scratch);
                    }
                }
            });
        });
    }

    /// # Safety
    /// As [`Product::run`].
    unsafe fn shared_panels<K: Kernel>(&self, pool: &Pool) {
        /// A pointer that tasks write through, each to its own part.
        #[derive(Clone, Copy)]
        struct Part(*mut f32);
        // SAFETY: see the uses.
        unsafe impl Sync for Part {}
        impl Part {
            fn at(&self, i: usize) -> *mut f32 {
                self.0.wrapping_add(i)
            }
        }

        let nc = NC / K::NR * K::NR;
        let wide = SHARED / KC / nc * nc;
        for columns in (0..self.n.div_ceil(wide)).map(|i| block(i, wide, self.n)) {
            let padded = columns.len().next_multiple_of(K::LANES);
            let deep = (SHARED / padded / KC).max(1) * KC;
            for depth in (0..self.k.div_ceil(deep)).map(|i| block(i, deep, self.k)) {
                let (blocks, panels) = (depth.len().div_ceil(KC), columns.len().div_ceil(K::NR));
                buffer::with(Slot::Shared, padded * depth.len(), |packed| {
                    let packed = Part(packed);
                    // Block `kb` of `k` lies at `kb · KC · padded`; in it, the panel of column `j` at `j · steps`.
                    let steps = |kb| {
                        let span = block(kb, KC, depth.len());
                        depth.start + span.start..depth.start + span.end
                    };
                    let cols = |span: Span| columns.start + span.start..columns.start + span.end;
                    pool.run(blocks * panels, &|task| {
                        let (kb, panel) = (task / panels, task % panels);
                        let span = block(panel, K::NR, columns.len());
                        let at = packed.at(kb * KC * padded + span.start * steps(kb).len());
                        // SAFETY: each task packs its own panel of the buffer.
                        unsafe { self.pack_b::<K>(&cols(span), &steps(kb), at) };
                    });
                    let mc = self.row_block::<K>(pool, blocks * KC * padded);
                    let (down, across) = (self.m.div_ceil(mc), columns.len().div_ceil(nc));
                    pool.run(down * across, &|task| {
                        let (rows, span) =
                            (block(task % down, mc, self.m), block(task / down, nc, columns.len()));
                        buffer::with(Slot::Private, A_PANEL, |scratch| {
                            for kb in 0..blocks {
                                let at = packed.at(kb * KC * padded + span.start * steps(kb).len());
                                // SAFETY: the panels were packed above; this task alone writes this block of `C`.
                                unsafe {
                                    self.multiply::<K>(&rows, &cols(span.clone()), &steps(kb), at, scratch)
                                };
                            }
                        });
                    });
                });
            }
        }
    }

    /// Rows of a task over shared panels of `packed` elements: few when these stay in the second-level cache anyway, more
    /// when each task fetches them again.
    fn row_block<K: Kernel>(&self, pool: &Pool, packed: usize) -> usize {
        let panels = if packed <= 160 << 10 { 2 } else { 12 };
        let share = self.m.div_ceil(4 * pool.threads()).next_multiple_of(K::MR);
        (panels * K::MR).min(share)
    }

    /// Packs a block of `B`: panels of [`Kernel::NR`] columns, one after the other, each rounded up to whole vectors.
    ///
    /// # Safety
    /// The processor has the instruction set of `K`; `dst` has room for `steps` by the rounded columns.
    unsafe fn pack_b<K: Kernel>(&self, cols: &Span, steps: &Span, dst: *mut f32) {
        for first in cols.clone().step_by(K::NR) {
            let lanes = K::NR.min(cols.end - first);
            let panel = Panel {
                src: self.b.at(steps.start, first),
                lane: self.b.cs,
                step: self.b.rs,
                lanes,
                k: steps.len(),
                dst: dst.wrapping_add((first - cols.start) * steps.len()),
                width: lanes.next_multiple_of(K::LANES),
            };
            // SAFETY: the caller's promise.
            unsafe { pack::<K>(self.b.kind, &panel) };
        }
    }

    /// Multiplies a block of rows with a packed block of `B`.
    ///
    /// # Safety
    /// The processor has the instruction set of `K`; `packed` is what [`Product::pack_b`] made of `cols` and `steps`, up
    /// to whole panels; `scratch` has room for [`A_PANEL`] elements; no other thread touches this block of `C`.
    unsafe fn multiply<K: Kernel>(
        &self,
        rows: &Span,
        cols: &Span,
        steps: &Span,
        packed: *const f32,
        scratch: *mut f32,
    ) {
        for i in rows.clone().step_by(K::MR) {
            let tall = K::MR.min(rows.end - i);
            let panel = Panel {
                src: self.a.at(i, steps.start),
                lane: self.a.rs,
                step: self.a.cs,
                lanes: tall,
                k: steps.len(),
                dst: scratch,
                width: A_WIDTH,
            };
            // SAFETY: the caller's promise.
            unsafe { pack::<K>(self.a.kind, &panel) };
            for j in cols.clone().step_by(K::NR) {
                let wide = K::NR.min(cols.end - j);
                let c = self.c.wrapping_add(i * self.ldc + j);
                let (from, from_row) = match steps.start {
                    0 if self.from.is_null() => (self.from, 0),
                    0 => (self.from.wrapping_add(i * self.from_row + j), self.from_row),
                    _ => (c.cast_const(), self.ldc),
                };
                let tile = Tile {
                    rows: tall,
                    cols: wide,
                    k: steps.len(),
                    a: scratch,
                    a_row: 1,
                    a_k: A_WIDTH,
                    b: packed.wrapping_add((j - cols.start) * steps.len()),
                    b_k: wide.next_multiple_of(K::LANES),
                    alpha: self.alpha,
                    from,
                    from_row,
                    c,
                    c_row: self.ldc,
                };
                // SAFETY: the caller's promise.
                unsafe { K::tile(&tile) };
            }
        }
    }
}

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
