//! The loop nest for large products, in two plans that compute the same tiles:
//!
//! - **Own panels**: a task takes a column block of `C` with all its rows; for each block of `k` it packs the block of `B`
//!   into its own buffer, which then lies in the core's cache, and runs down the rows. Nothing is shared and no thread
//!   waits, but there must be enough column blocks to go round.
//! - **Shared panels**: all threads pack `B`, or as much of it as the shared buffer takes, then all run over a grid of row
//!   and column blocks.
//!
//! Rows of `A` along `k` are multiplied where they lie. Others are packed eight at a time, right before they are
//! multiplied with every panel of the block.

use super::KC;
use super::buffer::{self, Slot};
use super::drive::{A_PANEL, Product, Span, block};
use super::kernel::{Kernel, Rows};
use crate::pool::Pool;

/// Elements of a block of `B`, about half of a megabyte of second-level cache.
const B_BLOCK: usize = 384 * KC;
/// Elements of the shared buffer (8 MB), which should stay in the last-level cache.
const SHARED: usize = 2 << 20;
/// Panels of `B` that let a task keep them for itself: it reads all of `A` for them.
const OWN_PANELS: usize = 3;
/// Elements of `B` that the caller packs alone, sooner than the others would come to help.
const ALONE: usize = 1 << 14;
/// Multiply-adds that make a task worth while.
const TASK: usize = 1 << 17;
/// Rows below which a block of `B` is not worth sharing.
const FEW_ROWS: usize = 64;

impl Product {
    /// # Safety
    /// As [`Product::run`].
    pub(super) unsafe fn blocked<K: Kernel>(&self, pool: &Pool) {
        let widest = B_BLOCK / self.k.min(KC) / K::NR * K::NR;
        // Several tasks for each thread, so that a slow one holds up little.
        let share = self.n.div_ceil(4 * pool.threads()).next_multiple_of(K::NR);
        // SAFETY: the caller's promise.
        unsafe {
            if pool.threads() == 1 {
                self.own_panels::<K>(pool, widest);
            } else if share >= OWN_PANELS * K::NR || self.m <= FEW_ROWS {
                self.own_panels::<K>(pool, widest.min(share));
            } else {
                self.shared_panels::<K>(pool, widest);
            }
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
    unsafe fn shared_panels<K: Kernel>(&self, pool: &Pool, nc: usize) {
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

        let wide = (SHARED / self.k.min(KC) / nc).max(1) * nc;
        for columns in (0..self.n.div_ceil(wide)).map(|i| block(i, wide, self.n)) {
            let padded = columns.len().next_multiple_of(K::LANES);
            let deep = (SHARED / padded / KC).max(1) * KC;
            for depth in (0..self.k.div_ceil(deep)).map(|i| block(i, deep, self.k)) {
                let (blocks, panels) = (depth.len().div_ceil(KC), columns.len().div_ceil(K::NR));
                // Block `kb` of `k` lies at `kb · KC · padded`; in it, the panel of column `j` at `j · steps`.
                let steps = |kb| {
                    let span = block(kb, KC, depth.len());
                    depth.start + span.start..depth.start + span.end
                };
                let cols = |span: &Span| columns.start + span.start..columns.start + span.end;
                buffer::with(Slot::Shared, padded * depth.len(), |packed| {
                    let packed = Part(packed);
                    let pack = |task| {
                        let (kb, panel) = (task / panels, task % panels);
                        let span = block(panel, K::NR, columns.len());
                        let at = packed.at(kb * KC * padded + span.start * steps(kb).len());
                        // SAFETY: each task packs its own panel of the buffer.
                        unsafe { self.pack_b::<K>(&cols(&span), &steps(kb), at) };
                    };
                    if padded * depth.len() <= ALONE {
                        (0..blocks * panels).for_each(pack);
                    } else {
                        pool.run(blocks * panels, &pack);
                    }
                    let mc = self.row_block::<K>(pool, columns.len(), depth.len());
                    let (down, across) = (self.m.div_ceil(mc), columns.len().div_ceil(nc));
                    pool.run(down * across, &|task| {
                        let (rows, span) =
                            (block(task % down, mc, self.m), block(task / down, nc, columns.len()));
                        buffer::with(Slot::Private, A_PANEL, |scratch| {
                            for kb in 0..blocks {
                                let at = packed.at(kb * KC * padded + span.start * steps(kb).len());
                                // SAFETY: the panels were packed above; this task alone writes this block of `C`.
                                unsafe { self.multiply::<K>(&rows, &cols(&span), &steps(kb), at, scratch) };
                            }
                        });
                    });
                });
            }
        }
    }

    /// Rows of a task over shared panels: few when these stay in the second-level cache anyway, more when each task
    /// fetches them again, but enough to be worth while.
    fn row_block<K: Kernel>(&self, pool: &Pool, cols: usize, steps: usize) -> usize {
        let panels = if cols * steps <= B_BLOCK { 2 } else { 12 };
        let share = self.m.div_ceil(4 * pool.threads());
        (panels * K::MR).min(share).max(TASK / (cols * steps)).next_multiple_of(K::MR)
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
            let rows = i..rows.end.min(i + K::MR);
            for j in cols.clone().step_by(K::NR) {
                let wide = K::NR.min(cols.end - j);
                let b = Rows {
                    at: packed.wrapping_add((j - cols.start) * steps.len()),
                    step: wide.next_multiple_of(K::LANES),
                    padded: true,
                };
                // SAFETY: the caller's promise.
                unsafe {
                    let tile = self.tile::<K>(&rows, &(j..j + wide), steps, scratch, j == cols.start);
                    K::tile(&tile, &b);
                }
            }
        }
    }
}
