//! What an instruction set supplies: a register tile, the packing of panels, and a product of few rows.

use super::Isa;
use super::element::Element;

/// Rows that a packed panel of `A` holds side by side, for every instruction set.
pub(super) const A_WIDTH: usize = 8;

/// A block of `C` along one block of `k`, without its `B`: `C[rows, cols] = from + alpha · A B`.
///
/// Pointers need no alignment beyond that of `f32` bytes: operands may lie anywhere in a mapped file.
pub(super) struct Tile {
    /// At least 1.
    pub(super) rows: usize,
    /// At least 1.
    pub(super) cols: usize,
    /// Steps along `k`, at least 1.
    pub(super) k: usize,
    /// Element `(i, p)` of `A` is at `a + i · a_row + p · a_k`.
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_k: usize,
    pub(super) alpha: f32,
    /// Row `i` of the start is at `from + i · from_row`; null for no start, that is `C = alpha · A B`.
    pub(super) from: *const f32,
    pub(super) from_row: usize,
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
}

/// `B` by rows: row `p` is the `cols` elements at `at + p · step`.
pub(super) struct Rows {
    pub(super) at: *const f32,
    pub(super) step: usize,
    /// Rows are readable up to a whole number of vectors.
    pub(super) padded: bool,
}

/// `B` by columns: column `j` is the `k` elements at `j · lane` elements after `at`.
pub(super) struct Columns {
    pub(super) at: *const u8,
    pub(super) lane: usize,
}

/// `lanes × k` elements to be laid out as `k` rows of `width`: `dst[p · width + lane]`.
pub(super) struct Panel {
    /// Element `(0, 0)`.
    pub(super) src: *const u8,
    /// Elements from lane to lane.
    pub(super) lane: usize,
    /// Elements from step to step along `k`.
    pub(super) step: usize,
    /// At most `width`, at least 1.
    pub(super) lanes: usize,
    pub(super) k: usize,
    pub(super) dst: *mut f32,
    /// A multiple of 8. Lanes past `lanes` receive finite filling.
    pub(super) width: usize,
}

/// An instruction set.
pub(super) trait Kernel: 'static {
    /// Which one.
    const ISA: Isa;
    /// Most rows of a tile, at most [`A_WIDTH`].
    const MR: usize;
    /// Most columns of a tile.
    const NR: usize;
    /// Columns of a vector: a packed panel of `B` is as wide as its columns rounded up to this.
    const LANES: usize;
    /// Most rows for which [`Kernel::thin`] beats packing `B`; zero if it never does.
    const THIN: usize;

    /// Computes a block of at most [`Kernel::MR`] rows and [`Kernel::NR`] columns.
    ///
    /// # Safety
    /// The processor has the instruction set; all elements named by `tile` and `b` are valid for reading, those of `c` for
    /// writing, and no other thread touches those of `c`.
    unsafe fn tile(tile: &Tile, b: &Rows);

    /// Computes a block of at most [`Kernel::THIN`] rows and whole vectors of columns, `a_k == 1`, transposing `B` in
    /// registers on its way.
    ///
    /// # Safety
    /// As [`Kernel::tile`].
    unsafe fn thin<E: Element>(tile: &Tile, b: &Columns);

    /// Packs a panel of elements of type `E`.
    ///
    /// # Safety
    /// The processor has the instruction set; all elements of the panel are readable and `k · width` elements at
    /// `dst` are writable.
    unsafe fn pack<E: Element>(panel: &Panel);
}
