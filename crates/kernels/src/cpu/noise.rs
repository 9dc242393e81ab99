//! Perturbations by counter: `z` of any element, on any thread, without state.
//!
//! Block `b` of the Philox stream gives elements `4 b .. 4 b + 4` of a tensor. Gaussian: words `2 j` and `2 j + 1` make a
//! pair (Box and Muller 1958), `z = r (cos θ, sin θ)` with `r = sqrt(-2 ln u)`, `u` from 31 bits of the first word and
//! `θ` from the second: half a turn from its value as a signed number, the other half by its lowest bit. Rademacher: the
//! sign bit of each word. All of it is single IEEE-754 operations on lanes, so every instruction set has the same bits.

use super::Cpu;
use super::simd::{Kernel, LANES, Lanes, Simd, Words, dispatch};
use super::split::{GRAIN, split};
use crate::backend::{Law, Noise};
use crate::gemm::Isa;
use crate::philox::{MULTIPLIERS, WEYL};

/// Elements made at once: sixteen blocks of four.
const BATCH: usize = 4 * LANES;

/// Four words each of sixteen blocks: [`crate::philox::block`] in lanes, with `low` and `mid` the low two words of the
/// counters.
#[inline(always)]
fn words<S: Simd>(s: S, noise: &Noise, low: S::U, mid: S::U) -> [S::U; 4] {
    let mut key = noise.key;
    let mut c = [low, mid, s.splat_word(noise.high as u32), s.splat_word((noise.high >> 32) as u32)];
    let [m0, m1] = MULTIPLIERS.map(|m| s.splat_word(m));
    for _ in 0..10 {
        let [high0, low0] = c[0].wide_product(m0);
        let [high1, low1] = c[2].wide_product(m1);
        c = [
            high1.xor(c[1]).xor(s.splat_word(key[0])),
            low1,
            high0.xor(c[3]).xor(s.splat_word(key[1])),
            low0,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

/// `-2 ln u` of numbers in `(0, 1]`, never negative. Error 2e-7.
#[inline(always)]
fn minus_two_ln<S: Simd>(s: S, u: S::F) -> S::F {
    // u = 2^e m with m in [sqrt ½, sqrt 2)
    let shifted = S::U::of_numbers(u).plus(s.splat_word(0x3f80_0000_u32.wrapping_sub(0x3f35_04f3)));
    let e = shifted.right::<23>().plus(s.splat_word(127_u32.wrapping_neg())).to_numbers();
    let m = shifted.and(s.splat_word(0x007f_ffff)).plus(s.splat_word(0x3f35_04f3)).as_numbers();
    let f = m - s.splat(1.0);
    let q = s.horner(
        f,
        [
            -0.499_999_83,
            0.333_339_33,
            -0.250_025_84,
            0.199_634_77,
            -0.165_517_87,
            0.148_836_85,
            -0.144_268_85,
            0.089_795_32,
        ],
    );
    let ln = (f * f).mul_add(q, f);
    e.mul_add(s.splat(std::f32::consts::LN_2), ln) * s.splat(-2.0)
}

/// `cos x` and `sin x` for `|x| <= π/2`. Error 1e-7 of a turn's radius.
#[inline(always)]
fn cos_sin<S: Simd>(s: S, x: S::F) -> [S::F; 2] {
    let t = x * x;
    let sin = s.horner(t, [-0.166_666_57, 8.333_017e-3, -1.980_661_5e-4, 2.600_054_6e-6]);
    let cos = s.horner(t, [-0.5, 0.041_666_656, -1.388_856_9e-3, 2.476_930_4e-5, -2.619_381_4e-7]);
    [t.mul_add(cos, s.splat(1.0)), (x * t).mul_add(sin, x)]
}

/// A pair of words a lane to a pair of N(0, 1).
#[inline(always)]
fn normals<S: Simd>(s: S, radius: S::U, angle: S::U) -> [S::F; 2] {
    // 2^-31, and half of that so that no u is zero
    let u = radius.right::<1>().to_numbers().mul_add(s.splat(4.656_613e-10), s.splat(2.328_306_4e-10));
    let r = minus_two_ln(s, u).sqrt();
    // π/2 · 2^-31
    let [cos, sin] = cos_sin(s, angle.to_numbers() * s.splat(7.314_590_4e-10));
    let turned = S::U::of_numbers(r).xor(angle.left::<31>()).as_numbers();
    [turned * cos, r * sin]
}

/// `scale · z` of sixteen blocks: element `j` of the block in lane `i` is lane `i` of vector `j`.
#[inline(always)]
fn blocks<S: Simd>(s: S, noise: &Noise, low: S::U, mid: S::U) -> [S::F; 4] {
    let w = words(s, noise, low, mid);
    let scale = s.splat(noise.scale);
    match noise.law {
        Law::Gaussian => {
            let ([a, b], [c, d]) = (normals(s, w[0], w[1]), normals(s, w[2], w[3]));
            [a * scale, b * scale, c * scale, d * scale]
        }
        Law::Rademacher => {
            let (bits, sign) = (S::U::of_numbers(scale), s.splat_word(1 << 31));
            w.map(|w| w.and(sign).xor(bits).as_numbers())
        }
    }
}

/// Low and middle words of counters `first + i · stride`, `i < 16`.
#[inline(always)]
fn counters<S: Simd>(s: S, first: u64, stride: u64) -> (S::U, S::U) {
    let all: [u64; LANES] = std::array::from_fn(|i| first + i as u64 * stride);
    (s.load_words(&all.map(|c| c as u32)), s.load_words(&all.map(|c| (c >> 32) as u32)))
}

/// `y[i] = y[i] + scale · z` of element `noise.first + i`, on the calling thread.
pub(crate) fn add(isa: Isa, noise: Noise, y: &mut [f32]) {
    dispatch(isa, Run { noise, y });
}

struct Run<'a> {
    noise: Noise,
    y: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { noise, y } = self;
        let mut made = [0.0; BATCH];
        let mut at = 0;
        while at < y.len() {
            let element = noise.first + at as u64;
            let (first, skip) = (element / 4, (element % 4) as usize);
            let (low, mid) = counters(s, first, 1);
            let z = s.interleave(blocks(s, &noise, low, mid));
            let count = (BATCH - skip).min(y.len() - at);
            let y = &mut y[at..at + count];
            if count == BATCH {
                for (i, z) in z.into_iter().enumerate() {
                    (s.read(y, LANES * i) + z).write(y, LANES * i);
                }
            } else {
                for (z, made) in z.into_iter().zip(made.as_chunks_mut::<LANES>().0) {
                    z.store(made);
                }
                y.iter_mut().zip(&made[skip..]).for_each(|(y, z)| *y += z);
            }
            at += count;
        }
    }
}

/// [`crate::Backend::add_noise`].
pub(super) fn add_noise(cpu: &Cpu, noise: Noise, y: &mut [f32]) {
    let tasks = y.len().div_ceil(GRAIN);
    split(&cpu.pool, tasks, [(y, GRAIN)], |i, [y]| add(cpu.isa, noise.skip(i * GRAIN), y));
}

/// A packed panel of a matrix product: `width` columns, of which `lanes` are there, by `k` steps. The element at step `p` of
/// column `j` has index `noise.first + j · lane + p · step` in its tensor and lies at `p · width + j`.
#[derive(Clone, Copy)]
pub(crate) struct PanelNoise {
    pub(crate) noise: Noise,
    pub(crate) lane: usize,
    pub(crate) step: usize,
    pub(crate) lanes: usize,
    pub(crate) width: usize,
}

/// Adds the perturbation to a packed panel.
pub(crate) fn add_to_panel(isa: Isa, panel: PanelNoise, packed: &mut [f32]) {
    let PanelNoise { noise, lane, step, lanes, width } = panel;
    let k = packed.len() / width;
    // the last counter, which must not carry into its second word
    let last = (noise.first + (width * lane) as u64 + k as u64) / 4;
    if step == 1 && lane.is_multiple_of(4) && noise.first.is_multiple_of(4) && last < 1 << 32 {
        return dispatch(isa, Columns { panel, packed });
    }
    if lane == 1 {
        for (p, row) in packed.chunks_exact_mut(width).enumerate() {
            add(isa, noise.skip(p * step), &mut row[..lanes]);
        }
        return;
    }
    // a weight whose rows are no whole number of blocks
    let mut column = [0.0; BATCH];
    for j in 0..lanes {
        for first in (0..k).step_by(BATCH) {
            let column = &mut column[..BATCH.min(k - first)];
            column.fill(0.0);
            add(isa, noise.skip(j * lane + first * step), column);
            for (p, z) in column.iter().enumerate() {
                packed[(first + p) * width + j] += z;
            }
        }
    }
}

/// A panel whose columns each run along memory: one block is four steps of a column, and a vector is sixteen columns.
struct Columns<'a> {
    panel: PanelNoise,
    packed: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { panel: PanelNoise { noise, lane, lanes, width, .. }, packed } = self;
        for first in (0..lanes).step_by(LANES) {
            let here = LANES.min(width - first);
            let per_lane = (lane / 4) as u64;
            let (mut low, mid) = counters(s, noise.first / 4 + first as u64 * per_lane, per_lane);
            let one = s.splat_word(1);
            for rows in packed.chunks_mut(4 * width) {
                let z = blocks(s, &noise, low, mid);
                low = low.plus(one);
                for (row, z) in rows.chunks_exact_mut(width).zip(z) {
                    let row = &mut row[first..first + here];
                    (s.read(row, 0) + z).write(row, 0);
                }
            }
        }
    }
}
