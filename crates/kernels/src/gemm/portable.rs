//! Kernels without intrinsics.

use super::element::Element;
use super::kernel::{Columns, Kernel, Panel, Rows, Tile};

/// See [`super::Isa::Portable`].
pub(super) struct Portable;

impl Kernel for Portable {
    const ISA: super::Isa = super::Isa::Portable;
    const MR: usize = 4;
    const NR: usize = 16;
    const LANES: usize = 8;
    const THIN: usize = 0;

    unsafe fn tile(t: &Tile, b: &Rows) {
        // SAFETY: the caller's promise; `rows` and `cols` are within the tile by the trait's contract.
        unsafe {
            match (t.rows, t.cols) {
                // constant bounds let the compiler keep the sums in registers
                (4, 16) => tile(t, b, 4, 16),
                (rows, cols) => tile(t, b, rows, cols),
            }
        }
    }

    unsafe fn thin<E: Element>(_: &Tile, _: &Columns) {
        unreachable!("no rows are few enough");
    }

    unsafe fn pack<E: Element>(panel: &Panel) {
        // SAFETY: the caller's promise.
        unsafe { pack::<E>(panel) }
    }
}

/// # Safety
/// As [`Kernel::tile`], with `rows <= 4` and `cols <= 16`.
#[inline(always)]
unsafe fn tile(t: &Tile, b: &Rows, rows: usize, cols: usize) {
    let mut sums = [[0f32; Portable::NR]; Portable::MR];
    // SAFETY: the caller's promise covers every element of the tile.
    unsafe {
        for p in 0..t.k {
            for (i, sums) in sums.iter_mut().enumerate().take(rows) {
                let a = t.a.add(i * t.a_row + p * t.a_k).read_unaligned();
                for (j, sum) in sums.iter_mut().enumerate().take(cols) {
                    *sum = a.mul_add(b.at.add(p * b.step + j).read_unaligned(), *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate().take(rows) {
            for (j, &sum) in sums.iter().enumerate().take(cols) {
                let y = match t.from.is_null() {
                    true => t.alpha * sum,
                    false => t.alpha.mul_add(sum, *t.from.add(i * t.from_row + j)),
                };
                *t.c.add(i * t.c_row + j) = y;
            }
        }
    }
}

/// Packs element by element; also the edges of the vector kernels.
///
/// # Safety
/// As [`Kernel::pack`].
pub(super) unsafe fn pack<E: Element>(panel: &Panel) {
    // SAFETY: the caller's promise.
    unsafe {
        if panel.step == 1 {
            for lane in 0..panel.lanes {
                let src = panel.src.add(lane * panel.lane * E::SIZE);
                for p in 0..panel.k {
                    *panel.dst.add(p * panel.width + lane) = E::read(src.add(p * E::SIZE));
                }
            }
        } else {
            for p in 0..panel.k {
                let src = panel.src.add(p * panel.step * E::SIZE);
                for lane in 0..panel.lanes {
                    *panel.dst.add(p * panel.width + lane) = E::read(src.add(lane * panel.lane * E::SIZE));
                }
            }
        }
        for p in 0..panel.k {
            for lane in panel.lanes..panel.width {
                *panel.dst.add(p * panel.width + lane) = 0.0;
            }
        }
    }
}
