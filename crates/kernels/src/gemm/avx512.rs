//! AVX-512: tiles of 8 × 48 in 24 of the 32 registers, and transposition of 16 lanes at a time.
//!
//! A step along `k` is three loads of `B`, eight broadcasts of `A` and 24 multiply-adds, which two multiply-add units
//! take 12 cycles for; the loads fit beside them.

// Indices name registers of a tile; iterators over arrays of them obscure it and unroll no better.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::avx2::{self, Avx2, opaque};
use super::element::{Element, Kind};
use super::kernel::{A_WIDTH, Columns, Kernel, Panel, Rows, Tile};
use super::portable;

/// See [`super::Isa::Avx512`].
pub(super) struct Avx512;

/// How far ahead of its use a packed row of `B` is asked for, in rows.
const AHEAD: usize = 8;
/// The same for a row where it lies, likely farther from the core.
const AHEAD_UNPACKED: usize = 16;
/// Steps between the fetches of two rows of `C`.
const FETCH_STEPS: usize = 8;

impl Kernel for Avx512 {
    const ISA: super::Isa = super::Isa::Avx512;
    const MR: usize = 8;
    const NR: usize = 48;
    const LANES: usize = 16;
    const THIN: usize = 8;

    unsafe fn tile(t: &Tile, b: &Rows) {
        let mask = u16::MAX >> (t.cols.next_multiple_of(16) - t.cols);
        // A masked load costs a slot of the multiply-add units, so it is kept to where it is needed.
        let packed = t.a_row == 1 && t.a_k == A_WIDTH;
        let masked = mask != u16::MAX && !b.padded;
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                match (t.rows, t.cols.div_ceil(16), packed, masked) {
                    $(
                        ($rows, 1, true, false) => tile::<$rows, 1, true, false>(t, b, mask),
                        ($rows, 2, true, false) => tile::<$rows, 2, true, false>(t, b, mask),
                        ($rows, 3, true, false) => tile::<$rows, 3, true, false>(t, b, mask),
                        ($rows, 1, false, false) => tile::<$rows, 1, false, false>(t, b, mask),
                        ($rows, 2, false, false) => tile::<$rows, 2, false, false>(t, b, mask),
                        ($rows, 3, false, false) => tile::<$rows, 3, false, false>(t, b, mask),
                        ($rows, 1, _, true) => tile::<$rows, 1, false, true>(t, b, mask),
                        ($rows, 2, _, true) => tile::<$rows, 2, false, true>(t, b, mask),
                        ($rows, 3, _, true) => tile::<$rows, 3, false, true>(t, b, mask),
                    )*
                    (rows, vectors, ..) => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe { dispatch!(1 2 3 4 5 6 7 8) }
    }

    unsafe fn thin<E: Element>(t: &Tile, b: &Columns) {
        // SAFETY: the caller's promise.
        unsafe {
            match t.rows {
                1 => thin::<E, 1>(t, b),
                2 => thin::<E, 2>(t, b),
                3 => thin::<E, 3>(t, b),
                4 => thin::<E, 4>(t, b),
                5 => thin::<E, 5>(t, b),
                6 => thin::<E, 6>(t, b),
                7 => thin::<E, 7>(t, b),
                8 => thin::<E, 8>(t, b),
                rows => unreachable!("{rows} rows are not few"),
            }
        }
    }

    unsafe fn pack<E: Element>(panel: &Panel) {
        // SAFETY: the caller's promise.
        unsafe {
            match panel {
                Panel { step: 1, width: A_WIDTH, .. } => Avx2::pack::<E>(panel),
                Panel { step: 1, .. } => turn::<E>(panel),
                Panel { lane: 1, .. } => copy::<E>(panel),
                _ => portable::pack::<E>(panel),
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with `rows == R`, `cols` in the last of `V` vectors, `A` packed if `PACKED`, and whole vectors of
/// `B` readable unless `MASKED`.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const V: usize, const PACKED: bool, const MASKED: bool>(
    t: &Tile,
    b: &Rows,
    mask: u16,
) {
    // SAFETY: the caller's promise covers every element of the tile, and the masks end the last vector at `cols`.
    // Prefetches may point anywhere.
    unsafe {
        let lanes = |j: usize| if j == V - 1 { mask } else { u16::MAX };
        // Rows of A in bytes, by multiples that an address can hold. Left to itself the compiler walks from row to row, and
        // the sums wait for the chain of additions.
        let (row, a_k) = if PACKED { (4, A_WIDTH) } else { (opaque(4 * t.a_row), t.a_k) };
        let (three, five, seven) = match PACKED {
            true => (3 * row, 5 * row, 7 * row),
            false => (opaque(3 * row), opaque(5 * row), opaque(7 * row)),
        };
        let a_rows = [0, row, 2 * row, three, 4 * row, five, 2 * three, seven];
        let (mut a, mut at) = (t.a.cast::<u8>(), b.at);
        let ahead = if b.padded { AHEAD * b.step } else { AHEAD_UNPACKED * b.step };
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        // A macro, because a closure would keep the sums in memory.
        macro_rules! run {
            ($steps:expr) => {
                for _ in 0..$steps {
                    let mut row = [_mm512_setzero_ps(); V];
                    for j in 0..V {
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(ahead + 16 * j).cast());
                        row[j] = match MASKED {
                            true => _mm512_maskz_loadu_ps(lanes(j), at.add(16 * j)),
                            false => _mm512_loadu_ps(at.add(16 * j)),
                        };
                    }
                    for i in 0..R {
                        let x = _mm512_set1_ps(a.add(a_rows[i]).cast::<f32>().read_unaligned());
                        for j in 0..V {
                            sums[i][j] = _mm512_fmadd_ps(x, row[j], sums[i][j]);
                        }
                    }
                    a = a.wrapping_add(4 * a_k);
                    at = at.wrapping_add(b.step);
                }
            };
        }
        // Fetches are spread over the last steps: all at once they would hold up the loads of B, and much earlier B would
        // have driven the rows of C out of the first-level cache again.
        let between = (t.k / R).min(FETCH_STEPS);
        // a short tile is over before its own fetches arrive: it fetches for the next but one to the right
        let soon = t.c.wrapping_add(if between == FETCH_STEPS { 0 } else { 2 * 16 * V });
        run!(t.k - R * between);
        for i in 0..R {
            for j in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(soon.wrapping_add(i * t.c_row + 16 * j).cast());
            }
            run!(between);
        }
        let alpha = _mm512_set1_ps(t.alpha);
        for i in 0..R {
            for j in 0..V {
                let y = if t.from.is_null() {
                    _mm512_mul_ps(alpha, sums[i][j])
                } else {
                    let from = _mm512_maskz_loadu_ps(lanes(j), t.from.add(i * t.from_row + 16 * j));
                    _mm512_fmadd_ps(alpha, sums[i][j], from)
                };
                _mm512_mask_storeu_ps(t.c.add(i * t.c_row + 16 * j), lanes(j), y);
            }
        }
    }
}

/// Sixteen lanes a fixed number of bytes apart, each with at least 64 bytes.
#[derive(Clone, Copy)]
struct Lanes {
    /// The first four.
    first: [*const u8; 4],
    /// Bytes from lane to lane, and three times that.
    one: usize,
    three: usize,
}

impl Lanes {
    #[inline(always)]
    fn new(at: *const u8, one: usize) -> Self {
        let first = [at, at.wrapping_add(one), at.wrapping_add(2 * one), at.wrapping_add(3 * one)];
        // known to be three times `one`, it would be computed again and again
        Self { first, one, three: opaque(3 * one) }
    }

    #[inline(always)]
    fn advance(&mut self, bytes: usize) {
        for at in &mut self.first {
            *at = at.wrapping_add(bytes);
        }
    }

    /// Lane `i`: in the loops below each of these is one address, from four pointers and two strides.
    #[inline(always)]
    fn at(&self, i: usize) -> *const u8 {
        self.first[i % 4].wrapping_add([0, 4 * self.one, 8 * self.one, 4 * self.three][i / 4])
    }

    /// Asks for what comes [`LANE_AHEAD`] bytes later, of every fourth lane from `first`.
    #[inline(always)]
    fn fetch(&self, first: usize) {
        for i in 0..4 {
            // SAFETY: a prefetch may point anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.at(first + 4 * i).wrapping_add(LANE_AHEAD).cast()) };
        }
    }

    /// Four words (a word is one binary32 or two halves) from byte `byte`, transposed: vector `w` holds word `w` of every
    /// lane.
    ///
    /// # Safety
    /// The processor has AVX-512 F; the bytes are readable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose(&self, byte: usize) -> [__m512; 4] {
        // Lanes i, i+4, i+8, i+12 side by side: inserting from memory spares the shuffles across quarters.
        let load = |i: usize| {
            // SAFETY: the caller's promise.
            let quarter = |lane: usize| unsafe { _mm_loadu_ps(self.at(lane).wrapping_add(byte).cast()) };
            let v = _mm512_castps128_ps512(quarter(i));
            let v = _mm512_insertf32x4::<1>(v, quarter(i + 4));
            let v = _mm512_insertf32x4::<2>(v, quarter(i + 8));
            _mm512_insertf32x4::<3>(v, quarter(i + 12))
        };
        let (v0, v1, v2, v3) = (load(0), load(1), load(2), load(3));
        let (lo01, hi01) = (_mm512_unpacklo_ps(v0, v1), _mm512_unpackhi_ps(v0, v1));
        let (lo23, hi23) = (_mm512_unpacklo_ps(v2, v3), _mm512_unpackhi_ps(v2, v3));
        [
            _mm512_shuffle_ps::<0b01_00_01_00>(lo01, lo23),
            _mm512_shuffle_ps::<0b11_10_11_10>(lo01, lo23),
            _mm512_shuffle_ps::<0b01_00_01_00>(hi01, hi23),
            _mm512_shuffle_ps::<0b11_10_11_10>(hi01, hi23),
        ]
    }
}

/// The first element of each word, and the second where a word has two.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen<E: Element>(word: __m512) -> [__m512; 2] {
    let bits = _mm512_castps_si512(word);
    match E::KIND {
        Kind::F32 => [word, word],
        Kind::Bf16 => {
            let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            let (first, second) = (_mm512_slli_epi32::<16>(bits), _mm512_and_si512(bits, high));
            [_mm512_castsi512_ps(first), _mm512_castsi512_ps(second)]
        }
        Kind::F16 => {
            let (first, second) =
                (_mm512_cvtepi32_epi16(bits), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits)));
            [_mm512_cvtph_ps(first), _mm512_cvtph_ps(second)]
        }
    }
}

/// How far ahead of its use a lane is asked for, in bytes.
const LANE_AHEAD: usize = 256;

/// Packs a panel whose lanes run along `k`: whole groups of 16 lanes here, other lanes as AVX2 does.
///
/// # Safety
/// As [`Kernel::pack`], with `step == 1` and `width` a multiple of 16.
#[target_feature(enable = "avx512f")]
unsafe fn turn<E: Element>(panel: &Panel) {
    let (steps, whole) = (64 / E::SIZE, panel.lanes / 16 * 16);
    for first in (0..whole).step_by(16) {
        let mut lanes =
            Lanes::new(panel.src.wrapping_add(first * panel.lane * E::SIZE), panel.lane * E::SIZE);
        let mut dst = panel.dst.wrapping_add(first);
        // SAFETY: `whole` lanes have `k` elements each and `dst` as many rows of `width`.
        unsafe {
            for _ in 0..panel.k / steps {
                macro_rules! quads {
                    ($($quad:literal)*) => {
                        $(
                            lanes.fetch($quad);
                            for word in lanes.transpose(16 * $quad) {
                                for row in widen::<E>(word).into_iter().take(4 / E::SIZE) {
                                    _mm512_storeu_ps(dst, row);
                                    dst = dst.wrapping_add(panel.width);
                                }
                            }
                        )*
                    };
                }
                quads!(0 1 2 3);
                lanes.advance(64);
            }
            for p in panel.k / steps * steps..panel.k {
                for i in 0..16 {
                    let at = panel.src.add(((first + i) * panel.lane + p) * E::SIZE);
                    *panel.dst.add(p * panel.width + first + i) = E::read(at);
                }
            }
        }
    }
    // SAFETY: the caller's promise, and AVX-512 F implies AVX2.
    unsafe { avx2::turn::<E>(panel, whole) };
}

/// # Safety
/// As [`Kernel::thin`], with `rows == R`.
#[target_feature(enable = "avx512f")]
unsafe fn thin<E: Element, const R: usize>(t: &Tile, b: &Columns) {
    // SAFETY: the caller's promise.
    unsafe {
        let pairs = t.cols / 32 * 32;
        for j in (0..pairs).step_by(32) {
            thin_columns::<E, R, 2>(t, b, j);
        }
        for j in (pairs..t.cols).step_by(16) {
            thin_columns::<E, R, 1>(t, b, j);
        }
    }
}

/// Columns `j .. j + 16 V` of a thin product.
///
/// # Safety
/// As [`Kernel::thin`], with `rows == R`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn thin_columns<E: Element, const R: usize, const V: usize>(t: &Tile, b: &Columns, j: usize) {
    // SAFETY: the caller's promise covers 16 V whole columns of `k` elements. Prefetches may point anywhere.
    unsafe {
        let lane = b.lane * E::SIZE;
        let at = b.at.wrapping_add(j * lane);
        let mut lanes: [Lanes; V] = std::array::from_fn(|v| Lanes::new(at.wrapping_add(16 * v * lane), lane));
        let mut a = t.a;
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        let steps = 64 / E::SIZE;
        for _ in 0..t.k / steps {
            // Vectors take turns, for each has a chain of its own. Written out: as a loop it would stay a loop.
            macro_rules! turns {
                ($($quad:literal)*) => {
                    $(
                        turns!(@ $quad, 0);
                        if V == 2 {
                            turns!(@ $quad, V - 1);
                        }
                    )*
                };
                (@ $quad:literal, $v:expr) => {
                    lanes[$v].fetch($quad);
                    let words = lanes[$v].transpose(16 * $quad);
                    for w in 0..4 {
                        let elements = widen::<E>(words[w]);
                        for e in 0..4 / E::SIZE {
                            for i in 0..R {
                                let x = a.add(i * t.a_row + (4 * $quad + w) * (4 / E::SIZE) + e).read_unaligned();
                                sums[i][$v] = _mm512_fmadd_ps(_mm512_set1_ps(x), elements[e], sums[i][$v]);
                            }
                        }
                    }
                };
            }
            turns!(0 1 2 3);
            for v in 0..V {
                lanes[v].advance(64);
            }
            a = a.wrapping_add(steps);
        }
        for p in t.k / steps * steps..t.k {
            for v in 0..V {
                let row: [f32; 16] =
                    std::array::from_fn(|i| E::read(at.add((16 * v + i) * lane + p * E::SIZE)));
                let row = _mm512_loadu_ps(row.as_ptr());
                for i in 0..R {
                    let x = t.a.add(i * t.a_row + p).read_unaligned();
                    sums[i][v] = _mm512_fmadd_ps(_mm512_set1_ps(x), row, sums[i][v]);
                }
            }
        }
        let alpha = _mm512_set1_ps(t.alpha);
        for i in 0..R {
            for v in 0..V {
                let y = match t.from.is_null() {
                    true => _mm512_mul_ps(alpha, sums[i][v]),
                    false => {
                        let from = _mm512_loadu_ps(t.from.add(i * t.from_row + j + 16 * v));
                        _mm512_fmadd_ps(alpha, sums[i][v], from)
                    }
                };
                _mm512_storeu_ps(t.c.add(i * t.c_row + j + 16 * v), y);
            }
        }
    }
}

/// Packs rows that lie contiguous along the lanes.
///
/// # Safety
/// As [`Kernel::pack`], with `lane == 1` and `width` a multiple of 8.
#[target_feature(enable = "avx512f")]
unsafe fn copy<E: Element>(panel: &Panel) {
    if E::KIND != Kind::F32 || !panel.width.is_multiple_of(16) {
        // SAFETY: the caller's promise, and AVX-512 F implies AVX2.
        return unsafe { Avx2::pack::<E>(panel) };
    }
    // SAFETY: the caller's promise; masks keep loads within the lanes, and the width is a multiple of 16.
    unsafe {
        for p in 0..panel.k {
            let (src, dst) = (panel.src.add(4 * p * panel.step), panel.dst.add(p * panel.width));
            for lane in (0..panel.width).step_by(16) {
                let left = panel.lanes.saturating_sub(lane).min(16);
                let mask = ((1u32 << left) - 1) as u16;
                let at = src.cast::<f32>().wrapping_add(lane);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(avx2::COPY_AHEAD * panel.step).cast());
                let row = _mm512_maskz_loadu_ps(mask, at);
                _mm512_storeu_ps(dst.add(lane), row);
            }
        }
    }
}
