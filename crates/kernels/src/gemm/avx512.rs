//! AVX-512: tiles of 8 × 48 in 24 of the 32 registers, and transposition of 16 lanes at a time.
//!
//! A step along `k` is three loads of `B`, eight broadcasts of `A` and 24 multiply-adds, which two multiply-add units
//! take 12 cycles for; the loads fit beside them.

// Indices name registers of a tile; iterators over arrays of them obscure it and unroll no better.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::avx2::{self, Avx2};
use super::element::{Element, Kind};
use super::kernel::{A_WIDTH, Kernel, Panel, Tile};
use super::portable;

/// See [`super::Isa::Avx512`].
pub(super) struct Avx512;

/// How far ahead of its use a packed row of `B` is asked for, in rows.
const AHEAD: usize = 8;

impl Kernel for Avx512 {
    const MR: usize = 8;
    const NR: usize = 48;
    const LANES: usize = 16;

    unsafe fn tile(t: &Tile) {
        let mask = u16::MAX >> (t.cols.next_multiple_of(16) - t.cols);
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                match (t.rows, t.cols.div_ceil(16), t.a_row == 1 && t.a_k == A_WIDTH) {
                    $(
                        ($rows, 1, true) => tile::<$rows, 1, true>(t, mask),
                        ($rows, 2, true) => tile::<$rows, 2, true>(t, mask),
                        ($rows, 3, true) => tile::<$rows, 3, true>(t, mask),
                        ($rows, 1, false) => tile::<$rows, 1, false>(t, mask),
                        ($rows, 2, false) => tile::<$rows, 2, false>(t, mask),
                        ($rows, 3, false) => tile::<$rows, 3, false>(t, mask),
                    )*
                    (rows, vectors, _) => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe { dispatch!(1 2 3 4 5 6 7 8) }
    }

    unsafe fn pack<E: Element>(panel: &Panel) {
        // SAFETY: the caller's promise.
        unsafe {
            match panel {
                Panel { step: 1, width: A_WIDTH, .. } => Avx2::pack::<E>(panel),
                Panel { step: 1, .. } => avx2::by_lanes::<E, 16>(panel, transpose::<E>),
                Panel { lane: 1, .. } => copy::<E>(panel),
                _ => portable::pack::<E>(panel),
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with `rows == R`, `cols` in the last of `V` vectors, and `A` packed if `PACKED`.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const V: usize, const PACKED: bool>(t: &Tile, mask: u16) {
    // SAFETY: the caller's promise covers every element of the tile, and the masks end the last vector at `cols`.
    // Prefetches may point anywhere.
    unsafe {
        let lanes = |j: usize| if j == V - 1 { mask } else { u16::MAX };
        let (a_row, a_k) = if PACKED { (1, A_WIDTH) } else { (t.a_row, t.a_k) };
        let (mut a, mut b) = (t.a, t.b);
        for i in 0..R {
            for j in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(i * t.c_row + 16 * j).cast());
            }
        }
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        for _ in 0..t.k {
            let mut row = [_mm512_setzero_ps(); V];
            for j in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * t.b_k + 16 * j).cast());
                row[j] = _mm512_maskz_loadu_ps(lanes(j), b.add(16 * j));
            }
            for i in 0..R {
                let x = _mm512_set1_ps(a.add(i * a_row).read_unaligned());
                for j in 0..V {
                    sums[i][j] = _mm512_fmadd_ps(x, row[j], sums[i][j]);
                }
            }
            a = a.wrapping_add(a_k);
            b = b.wrapping_add(t.b_k);
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

/// Transposes 16 lanes of 16 words (a word is one binary32 or two halves) to `16 · 4 / SIZE` rows of 16 lanes.
///
/// # Safety
/// The processor has AVX-512 F; 64 bytes at each lane are readable, the rows at `dst` writable.
#[target_feature(enable = "avx512f")]
unsafe fn transpose<E: Element>(lanes: &[*const u8; 16], dst: *mut f32, width: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for quad in 0..4 {
            // Four words of lanes i, i+4, i+8, i+12: inserting from memory spares the shuffles across quarters.
            let load = |i: usize| {
                let at = |lane: usize| _mm_loadu_ps(lanes[lane].add(16 * quad).cast());
                let v = _mm512_castps128_ps512(at(i));
                let v = _mm512_insertf32x4::<1>(v, at(i + 4));
                let v = _mm512_insertf32x4::<2>(v, at(i + 8));
                _mm512_insertf32x4::<3>(v, at(i + 12))
            };
            let (v0, v1, v2, v3) = (load(0), load(1), load(2), load(3));
            let (lo01, hi01) = (_mm512_unpacklo_ps(v0, v1), _mm512_unpackhi_ps(v0, v1));
            let (lo23, hi23) = (_mm512_unpacklo_ps(v2, v3), _mm512_unpackhi_ps(v2, v3));
            let words = [
                _mm512_shuffle_ps::<0b01_00_01_00>(lo01, lo23),
                _mm512_shuffle_ps::<0b11_10_11_10>(lo01, lo23),
                _mm512_shuffle_ps::<0b01_00_01_00>(hi01, hi23),
                _mm512_shuffle_ps::<0b11_10_11_10>(hi01, hi23),
            ];
            for (i, word) in words.into_iter().enumerate() {
                let bits = _mm512_castps_si512(word);
                let at = |row: usize| dst.add(row * width);
                match E::KIND {
                    Kind::F32 => _mm512_storeu_ps(at(4 * quad + i), word),
                    Kind::Bf16 => {
                        let row = 2 * (4 * quad + i);
                        _mm512_storeu_si512(at(row).cast(), _mm512_slli_epi32::<16>(bits));
                        let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
                        _mm512_storeu_si512(at(row + 1).cast(), _mm512_and_si512(bits, high));
                    }
                    Kind::F16 => {
                        let row = 2 * (4 * quad + i);
                        let widen = |bits| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
                        _mm512_storeu_ps(at(row), widen(bits));
                        _mm512_storeu_ps(at(row + 1), widen(_mm512_srli_epi32::<16>(bits)));
                    }
                }
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
                let row = _mm512_maskz_loadu_ps(mask, src.cast::<f32>().wrapping_add(lane));
                _mm512_storeu_ps(dst.add(lane), row);
            }
        }
    }
}
