//! AVX2 with FMA: tiles of 6 × 16 in 12 of the 16 registers, and transposition of 8 lanes at a time.

// Indices name registers of a tile; iterators over arrays of them obscure it and unroll no better.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::element::{Element, Kind};
use super::kernel::{A_WIDTH, Columns, Kernel, Panel, Rows, Tile};
use super::portable;

/// See [`super::Isa::Avx2`].
pub(super) struct Avx2;

/// How far ahead of its use a packed row of `B` is asked for, in rows.
const AHEAD: usize = 8;

impl Kernel for Avx2 {
    const ISA: super::Isa = super::Isa::Avx2;
    const MR: usize = 6;
    const NR: usize = 16;
    const LANES: usize = 8;

    const THIN: usize = 0;

    unsafe fn tile(t: &Tile, b: &Rows) {
        let packed = t.a_row == 1 && t.a_k == A_WIDTH;
        let masked = !b.padded && !t.cols.is_multiple_of(8);
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                match (t.rows, t.cols.div_ceil(8), packed, masked) {
                    $(
                        ($rows, 1, true, false) => tile::<$rows, 1, true, false>(t, b),
                        ($rows, 2, true, false) => tile::<$rows, 2, true, false>(t, b),
                        ($rows, 1, false, false) => tile::<$rows, 1, false, false>(t, b),
                        ($rows, 2, false, false) => tile::<$rows, 2, false, false>(t, b),
                        ($rows, 1, _, true) => tile::<$rows, 1, false, true>(t, b),
                        ($rows, 2, _, true) => tile::<$rows, 2, false, true>(t, b),
                    )*
                    (rows, vectors, ..) => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe { dispatch!(1 2 3 4 5 6) }
    }

    unsafe fn thin<E: Element>(_: &Tile, _: &Columns) {
        unreachable!("no rows are few enough");
    }

    unsafe fn pack<E: Element>(panel: &Panel) {
        // SAFETY: the caller's promise.
        unsafe {
            match panel {
                Panel { step: 1, .. } => turn::<E>(panel, 0),
                Panel { lane: 1, .. } => copy::<E>(panel),
                _ => portable::pack::<E>(panel),
            }
        }
    }
}

/// `x`, of which the compiler knows nothing.
#[inline(always)]
pub(super) fn opaque(mut x: usize) -> usize {
    // SAFETY: no instructions.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) x, options(pure, nomem, nostack, preserves_flags)) };
    x
}

/// Lanes of the last vector that lie within `cols`, as a mask of sign bits.
#[target_feature(enable = "avx2")]
fn last_mask(cols: usize) -> __m256i {
    let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(((cols - 1) % 8) as i32 + 1), index)
}

/// # Safety
/// As [`Kernel::tile`], with `rows == R`, `cols` in the last of `V` vectors, `A` packed if `PACKED`, and whole vectors of
/// `B` readable unless `MASKED`.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const V: usize, const PACKED: bool, const MASKED: bool>(t: &Tile, b: &Rows) {
    // SAFETY: the caller's promise covers every element of the tile, and the masks end the last vector at `cols`.
    // Prefetches may point anywhere.
    unsafe {
        let mask = last_mask(t.cols);
        // As in AVX-512's tile: addresses of rows that do not wait for each other.
        let (row, a_k) = if PACKED { (4, A_WIDTH) } else { (opaque(4 * t.a_row), t.a_k) };
        let (three, five) = if PACKED { (3 * row, 5 * row) } else { (opaque(3 * row), opaque(5 * row)) };
        let a_rows = [0, row, 2 * row, three, 4 * row, five];
        let (mut a, mut at) = (t.a.cast::<u8>(), b.at);
        for i in 0..R {
            _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(i * t.c_row).cast());
        }
        let mut sums = [[_mm256_setzero_ps(); V]; R];
        for _ in 0..t.k {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD * b.step).cast());
            let mut row = [_mm256_setzero_ps(); V];
            for j in 0..V {
                row[j] = match MASKED && j == V - 1 {
                    true => _mm256_maskload_ps(at.add(8 * j), mask),
                    false => _mm256_loadu_ps(at.add(8 * j)),
                };
            }
            for i in 0..R {
                let x = _mm256_set1_ps(a.add(a_rows[i]).cast::<f32>().read_unaligned());
                for j in 0..V {
                    sums[i][j] = _mm256_fmadd_ps(x, row[j], sums[i][j]);
                }
            }
            a = a.wrapping_add(4 * a_k);
            at = at.wrapping_add(b.step);
        }
        let alpha = _mm256_set1_ps(t.alpha);
        let whole = t.cols.is_multiple_of(8);
        for i in 0..R {
            for j in 0..V {
                let (from, c) = (t.from.wrapping_add(i * t.from_row + 8 * j), t.c.add(i * t.c_row + 8 * j));
                if whole || j < V - 1 {
                    let y = match t.from.is_null() {
                        true => _mm256_mul_ps(alpha, sums[i][j]),
                        false => _mm256_fmadd_ps(alpha, sums[i][j], _mm256_loadu_ps(from)),
                    };
                    _mm256_storeu_ps(c, y);
                } else {
                    let y = match t.from.is_null() {
                        true => _mm256_mul_ps(alpha, sums[i][j]),
                        false => _mm256_fmadd_ps(alpha, sums[i][j], _mm256_maskload_ps(from, mask)),
                    };
                    _mm256_maskstore_ps(c, mask, y);
                }
            }
        }
    }
}

/// Packs the lanes of a panel from `first` on, which run along `k`: eight lanes of 32 bytes at a time, and what is left
/// along `k` element by element. Lanes past the last repeat the first of their eight.
///
/// # Safety
/// As [`Kernel::pack`], with `step == 1`, and `first` and `width` multiples of 8.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn turn<E: Element>(panel: &Panel, first: usize) {
    let steps = 32 / E::SIZE;
    let whole = panel.k / steps * steps;
    for first in (first..panel.width).step_by(8) {
        let mut lanes: [_; 8] = std::array::from_fn(|i| {
            let lane = if first + i < panel.lanes { first + i } else { first.min(panel.lanes - 1) };
            panel.src.wrapping_add(lane * panel.lane * E::SIZE)
        });
        for p in (0..whole).step_by(steps) {
            // SAFETY: `p + steps <= k`, so each lane has `steps` elements left, and `dst` as many rows.
            unsafe { transpose::<E>(&lanes, panel.dst.add(p * panel.width + first), panel.width) };
            lanes.iter_mut().for_each(|lane| *lane = lane.wrapping_add(32));
        }
        for p in whole..panel.k {
            for (i, lane) in lanes.iter_mut().enumerate() {
                // SAFETY: each lane has `k - p` elements left.
                unsafe { *panel.dst.add(p * panel.width + first + i) = E::read(*lane) };
                *lane = lane.wrapping_add(E::SIZE);
            }
        }
    }
}

/// Transposes 8 lanes of 8 words (a word is one binary32 or two halves) to `8 · 4 / SIZE` rows of 8 lanes.
///
/// # Safety
/// The processor has AVX2 and F16C; 32 bytes at each lane are readable, the rows at `dst` writable.
#[target_feature(enable = "avx2,f16c")]
unsafe fn transpose<E: Element>(lanes: &[*const u8; 8], dst: *mut f32, width: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for half in 0..2 {
            // Four words of lanes i and i+4: inserting from memory spares the shuffles across halves.
            let load = |i: usize| {
                let at = |lane: usize| _mm_loadu_ps(lanes[lane].add(16 * half).cast());
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(at(i)), at(i + 4))
            };
            let (v0, v1, v2, v3) = (load(0), load(1), load(2), load(3));
            let (lo01, hi01) = (_mm256_unpacklo_ps(v0, v1), _mm256_unpackhi_ps(v0, v1));
            let (lo23, hi23) = (_mm256_unpacklo_ps(v2, v3), _mm256_unpackhi_ps(v2, v3));
            let words = [
                _mm256_shuffle_ps::<0b01_00_01_00>(lo01, lo23),
                _mm256_shuffle_ps::<0b11_10_11_10>(lo01, lo23),
                _mm256_shuffle_ps::<0b01_00_01_00>(hi01, hi23),
                _mm256_shuffle_ps::<0b11_10_11_10>(hi01, hi23),
            ];
            for (i, word) in words.into_iter().enumerate() {
                let bits = _mm256_castps_si256(word);
                let at = |row: usize| dst.add(row * width);
                match E::KIND {
                    Kind::F32 => _mm256_storeu_ps(at(4 * half + i), word),
                    Kind::Bf16 => {
                        let row = 2 * (4 * half + i);
                        _mm256_storeu_si256(at(row).cast(), _mm256_slli_epi32::<16>(bits));
                        let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
                        _mm256_storeu_si256(at(row + 1).cast(), _mm256_and_si256(bits, high));
                    }
                    Kind::F16 => {
                        let row = 2 * (4 * half + i);
                        let low = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff));
                        _mm256_storeu_ps(at(row), widen(low));
                        _mm256_storeu_ps(at(row + 1), widen(_mm256_srli_epi32::<16>(bits)));
                    }
                }
            }
        }
    }
}

/// Eight binary16, each in the low half of a word.
#[target_feature(enable = "avx2,f16c")]
fn widen(words: __m256i) -> __m256 {
    let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi32(words, words));
    _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
}

/// How far ahead of its use a row to be copied is asked for, in rows.
pub(super) const COPY_AHEAD: usize = 16;

/// Packs rows that lie contiguous along the lanes.
///
/// # Safety
/// As [`Kernel::pack`], with `lane == 1`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn copy<E: Element>(panel: &Panel) {
    if let Panel { lanes: 8, width: 8, .. } = panel {
        // SAFETY: the caller's promise.
        return unsafe { copy_eight::<E>(panel) };
    }
    let whole = panel.lanes / 8 * 8;
    // SAFETY: the caller's promise; vectors cover whole groups of 8 lanes only.
    unsafe {
        for p in 0..panel.k {
            let (src, dst) = (panel.src.add(p * panel.step * E::SIZE), panel.dst.add(p * panel.width));
            for lane in (0..whole).step_by(8) {
                let at = src.add(lane * E::SIZE);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(COPY_AHEAD * panel.step * E::SIZE).cast());
                let row = load::<E>(at);
                _mm256_storeu_ps(dst.add(lane), row);
            }
            for lane in whole..panel.lanes {
                *dst.add(lane) = E::read(src.add(lane * E::SIZE));
            }
            for lane in panel.lanes..panel.width {
                *dst.add(lane) = 0.0;
            }
        }
    }
}

/// Eight lanes, the shape of a packed panel of `A`.
///
/// # Safety
/// As [`Kernel::pack`], with `lane == 1`, and `lanes` and `width` of 8.
#[target_feature(enable = "avx2,f16c")]
unsafe fn copy_eight<E: Element>(panel: &Panel) {
    let step = panel.step * E::SIZE;
    let (mut src, mut dst) = (panel.src, panel.dst);
    for _ in 0..panel.k {
        // SAFETY: the caller's promise. Prefetches may point anywhere.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(src.wrapping_add(COPY_AHEAD * step).cast());
            _mm256_storeu_ps(dst, load::<E>(src));
        }
        src = src.wrapping_add(step);
        dst = dst.wrapping_add(8);
    }
}

/// Eight elements side by side.
///
/// # Safety
/// The processor has AVX2 and F16C; the elements are readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load<E: Element>(at: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        match E::KIND {
            Kind::F32 => _mm256_loadu_ps(at.cast()),
            Kind::Bf16 => {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
            }
            Kind::F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
        }
    }
}
