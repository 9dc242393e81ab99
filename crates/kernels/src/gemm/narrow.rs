//! Loop nests for products with one short side, which are bound by memory: what is read once is not packed.
//!
//! - **Unpacked**: few rows of `C`, and `B` lies by rows (`dA = dxa^T x` of a low-rank overlay).
//! - **Thin**: very few rows, and `B` lies by columns (generation: one token times `W^T`).
//! - **Turned**: few columns, and `A` lies along its columns (`dB = dy^T xa`): the transpose, `C^T = B^T A^T`, is an
//!   unpacked product. A multiply-add does not care which factor comes first, so the bits are the same.

use half::{bf16, f16};

use super::KC;
use super::buffer::{self, Slot};
use super::drive::{A_PANEL, Product, Span, block};
use super::element::Kind;
use super::kernel::{Columns, Kernel, Rows};
use crate::pool::Pool;

/// Most rows of an unpacked product: packing costs as much as some rows of arithmetic.
const UNPACKED_ROWS: usize = 32;
/// Most columns of a turned product.
const TURNED_COLS: usize = 16;
/// Multiply-adds that make a task of its own worth while.
const TASK: usize = 1 << 15;

impl Product {
    /// Columns of a task: several tasks for each thread, unless they would be tiny.
    fn task_cols(&self, pool: &Pool, unit: usize) -> usize {
        let share = self.n.div_ceil(4 * pool.threads());
        let least = TASK / (self.m * self.k);
        if pool.threads() == 1 { self.n } else { share.max(least) }.next_multiple_of(unit)
    }

    /// Whether [`Product::unpacked`] applies.
    pub(super) fn is_unpacked<K: Kernel>(&self) -> bool {
        self.m <= UNPACKED_ROWS && self.b.cs == 1 && self.b.kind == Kind::F32
    }

    /// Multiplies with `B` where it lies, by rows.
    ///
    /// # Safety
    /// As [`Product::run`], with [`Product::is_unpacked`].
    pub(super) unsafe fn unpacked<K: Kernel>(&self, pool: &Pool) {
        let nc = self.task_cols(pool, K::NR);
        pool.run(self.n.div_ceil(nc), &|task| {
            buffer::with(Slot::Private, A_PANEL, |scratch| {
                for kb in 0..self.k.div_ceil(KC) {
                    // SAFETY: the caller's promise; this task alone writes these columns of `C`.
                    unsafe {
                        self.unpacked_block::<K>(&block(task, nc, self.n), &block(kb, KC, self.k), scratch)
                    };
                }
            });
        });
    }

    /// # Safety
    /// As [`Product::unpacked`]; `scratch` has room for [`A_PANEL`] elements; no other thread touches these columns of `C`.
    unsafe fn unpacked_block<K: Kernel>(&self, cols: &Span, steps: &Span, scratch: *mut f32) {
        for i in (0..self.m).step_by(K::MR) {
            let rows = i..self.m.min(i + K::MR);
            for j in cols.clone().step_by(K::NR) {
                let b = Rows { at: self.b.at(steps.start, j).cast(), step: self.b.rs, padded: false };
                // SAFETY: the caller's promise.
                unsafe {
                    let cols = j..cols.end.min(j + K::NR);
                    let tile = self.tile::<K>(&rows, &cols, steps, scratch, j == cols.start);
                    K::tile(&tile, &b);
                }
            }
        }
    }

    /// Whether [`Product::thin`] applies.
    pub(super) fn is_thin<K: Kernel>(&self) -> bool {
        self.m <= K::THIN && self.b.rs == 1 && self.a.cs == 1 && self.a.kind == Kind::F32
    }

    /// Multiplies very few rows with `B` where it lies, by columns; columns that fill no vector are packed.
    ///
    /// # Safety
    /// As [`Product::run`], with [`Product::is_thin`].
    pub(super) unsafe fn thin<K: Kernel>(&self, pool: &Pool) {
        let nc = self.task_cols(pool, 2 * K::LANES);
        pool.run(self.n.div_ceil(nc), &|task| {
            let cols = block(task, nc, self.n);
            let whole = cols.start..cols.end - cols.len() % K::LANES;
            let rest = whole.end..cols.end;
            for kb in 0..self.k.div_ceil(KC) {
                let steps = block(kb, KC, self.k);
                // SAFETY: the caller's promise; this task alone writes these columns of `C`. `A` lies well, so a tile needs no
                // scratch for it.
                unsafe {
                    if !whole.is_empty() {
                        let tile = self.tile::<K>(&(0..self.m), &whole, &steps, std::ptr::null_mut(), false);
                        let b = Columns { at: self.b.at(steps.start, whole.start), lane: self.b.cs };
                        match self.b.kind {
                            Kind::F32 => K::thin::<f32>(&tile, &b),
                            Kind::Bf16 => K::thin::<bf16>(&tile, &b),
                            Kind::F16 => K::thin::<f16>(&tile, &b),
                        }
                    }
                    if !rest.is_empty() {
                        buffer::with(Slot::Private, K::LANES * KC, |packed| {
                            self.pack_b::<K>(&rest, &steps, packed);
                            let b = Rows { at: packed, step: K::LANES, padded: true };
                            let tile =
                                self.tile::<K>(&(0..self.m), &rest, &steps, std::ptr::null_mut(), false);
                            K::tile(&tile, &b);
                        });
                    }
                }
            }
        });
    }

    /// Whether [`Product::turned`] applies.
    pub(super) fn is_turned(&self) -> bool {
        self.n <= TURNED_COLS
            && self.m > self.n
            && self.a.rs == 1
            && self.a.cs > 1
            && self.a.kind == Kind::F32
    }

    /// Multiplies the transposes, block of rows by block of rows, and transposes each block of the result.
    ///
    /// # Safety
    /// As [`Product::run`], with [`Product::is_turned`].
    pub(super) unsafe fn turned<K: Kernel>(&self, pool: &Pool) {
        let whole = &Product { m: self.n, n: self.m, a: self.b.t(), b: self.a.t(), ..*self };
        let nc = whole.task_cols(pool, K::NR).min(8 * K::NR);
        pool.run(whole.n.div_ceil(nc), &|task| {
            let span = block(task, nc, whole.n);
            buffer::with(Slot::Private, A_PANEL + TURNED_COLS * nc, |scratch| {
                let turned = scratch.wrapping_add(A_PANEL);
                // SAFETY: the buffer holds `n` rows of `nc`; this task alone touches these rows of `C`.
                unsafe {
                    if !self.from.is_null() {
                        for (i, j) in span.clone().flat_map(|i| (0..self.n).map(move |j| (i, j))) {
                            *turned.add(j * nc + i - span.start) = *self.from.add(i * self.from_row + j);
                        }
                    }
                    let from = if self.from.is_null() { self.from } else { turned.cast_const() };
                    let part = Product { n: span.len(), from, from_row: nc, c: turned, ldc: nc, ..*whole };
                    let part = Product { b: part.b.shifted(span.start), ..part };
                    for kb in 0..part.k.div_ceil(KC) {
                        part.unpacked_block::<K>(&(0..span.len()), &block(kb, KC, part.k), scratch);
                    }
                    for (i, j) in span.clone().flat_map(|i| (0..self.n).map(move |j| (i, j))) {
                        *self.c.add(i * self.ldc + j) = *turned.add(j * nc + i - span.start);
                    }
                }
            });
        });
    }
}
