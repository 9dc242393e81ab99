//! The rate at which this machine multiplies and adds, for a sense of proportion.

use std::hint::black_box;
use std::time::Instant;

use super::Isa;
use crate::pool::Pool;

/// Multiply-adds of each sum in one repetition.
const STEPS: usize = 200_000;
/// Repetitions, of which the fastest counts.
const REPEATS: usize = 12;

/// Floating-point operations per second of `pool`'s threads together, two to a multiply-add, in a loop of nothing else.
#[must_use]
pub fn measure_peak(pool: &Pool) -> f64 {
    let isa = Isa::detect();
    let mut best = 0f64;
    for _ in 0..REPEATS {
        let start = Instant::now();
        // One task for each thread; each is long enough for every thread to claim one.
        pool.run(pool.threads(), &|_| {
            black_box(spin(isa));
        });
        let flops = 2 * STEPS * SUMS * lanes(isa) * pool.threads();
        best = best.max(flops as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Independent sums: more than the latency of a multiply-add times the units that compute it. They begin behind a
/// [`black_box`]: sums that are seen to begin alike are one sum, which an optimiser may compute once and call twelve.
const SUMS: usize = 12;

fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Portable => 4,
        Isa::Avx2 => 8,
        Isa::Avx512 => 16,
    }
}

fn spin(isa: Isa) -> f32 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` was detected.
        Isa::Avx512 => unsafe { avx512() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` was detected.
        Isa::Avx2 => unsafe { avx2() },
        _ => portable(),
    }
}

fn portable() -> f32 {
    let (x, y) = (black_box(0.999), black_box(1e-3));
    let mut sums = black_box([[1f32; 4]; SUMS]);
    for _ in 0..STEPS {
        for sum in sums.as_flattened_mut() {
            *sum = sum.mul_add(x, y);
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512() -> f32 {
    use std::arch::x86_64::*;
    let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
    let mut sums = black_box([_mm512_set1_ps(1.0); SUMS]);
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, x, y);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2() -> f32 {
    use std::arch::x86_64::*;
    let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
    let mut sums = black_box([_mm256_set1_ps(1.0); SUMS]);
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, x, y);
        }
    }
    sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
}
