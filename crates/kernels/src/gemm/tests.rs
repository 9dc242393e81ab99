//! The product against its definition, bit by bit, on every instruction set and number of threads.

use super::*;
use half::{bf16, f16};

/// Values of mixed sign and magnitude from a counter: nothing cancels by symmetry, so a changed order changes bits.
fn noise(seed: u32, len: usize) -> Vec<f32> {
    (0..len as u32)
        .map(|i| {
            let mut h = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
            h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
            h ^= h >> 16;
            (h as f32 / u32::MAX as f32 - 0.5) * (1 << (h % 5)) as f32
        })
        .collect()
}

/// One element by the definition in the module's head.
fn element(
    alpha: f32,
    a: impl Fn(usize) -> f32,
    b: impl Fn(usize) -> f32,
    k: usize,
    start: Option<f32>,
) -> f32 {
    let mut c = start;
    for block in (0..k).step_by(KC) {
        let sum = (block..k.min(block + KC)).fold(0f32, |sum, p| a(p).mul_add(b(p), sum));
        c = Some(match c {
            Some(c) => alpha.mul_add(sum, c),
            None => alpha * sum,
        });
    }
    c.unwrap_or(0.0)
}

fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
}

/// A matrix in one of several memory layouts.
struct Matrix {
    data: Vec<f32>,
    rs: usize,
    cs: usize,
}

impl Matrix {
    fn new(layout: usize, rows: usize, cols: usize, seed: u32) -> Self {
        let (rs, cs) = match layout {
            0 => (cols, 1),
            1 => (1, rows),
            2 => (cols + 3, 1),
            3 => (1, rows + 5),
            _ => (2 * cols + 1, 2),
        };
        let len = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * rs + (cols - 1) * cs + 1 };
        Self { data: noise(seed, len), rs, cs }
    }

    fn operand(&self) -> Operand<'_> {
        Operand { data: Elems::F32(&self.data), rs: self.rs, cs: self.cs }
    }

    fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.rs + j * self.cs]
    }
}

fn assert_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        assert_eq!(x.to_bits(), y.to_bits(), "{what}: element {i} is {x}, expected {y}");
    }
}

/// Runs one shape on every instruction set and pool, against the definition.
fn check(
    pools: &[Pool],
    m: usize,
    n: usize,
    k: usize,
    layouts: (usize, usize),
    alpha: f32,
    add: bool,
    pad: usize,
) {
    let a = Matrix::new(layouts.0, m, k, 1);
    let b = Matrix::new(layouts.1, k, n, 2);
    let ldc = n + pad;
    let before = noise(3, m * ldc);
    let mut expected = before.clone();
    for i in 0..m {
        for j in 0..n {
            let start = (add || k == 0).then_some(if add { before[i * ldc + j] } else { 0.0 });
            expected[i * ldc + j] = element(alpha, |p| a.at(i, p), |p| b.at(p, j), k, start);
        }
    }
    for isa in isas() {
        for pool in pools {
            let mut c = before.clone();
            gemm_on(isa, pool, m, n, k, alpha, a.operand(), b.operand(), add, &mut c, ldc);
            let threads = pool.threads();
            assert_bits(
                &c,
                &expected,
                &format!("{m}x{n}x{k} {layouts:?} add {add} {isa:?} {threads} threads"),
            );
        }
    }
}

fn pools() -> Vec<Pool> {
    [1, 3].map(Pool::new).into()
}

#[test]
fn small_shapes_have_the_bits_of_the_definition() {
    let pools = pools();
    let sizes = [0, 1, 2, 7, 8, 9, 17, 49];
    let mut case = 0;
    for m in sizes {
        for n in sizes {
            for k in sizes {
                // every pair of layouts comes round many times over the shapes
                check(
                    &pools,
                    m,
                    n,
                    k,
                    (case % 5, case / 5 % 5),
                    [1.0, 0.3][case % 2],
                    case % 3 == 0,
                    case % 4,
                );
                case += 1;
            }
        }
    }
    assert_eq!(case, 512);
}

#[test]
fn long_chains_cross_blocks_in_order() {
    let pools = pools();
    for (case, k) in [KC - 1, KC, KC + 1, 2 * KC, 2 * KC + 37].into_iter().enumerate() {
        for (m, n) in [(1, 50), (13, 100), (100, 33), (130, 8)] {
            check(&pools, m, n, k, (case % 5, (case + m) % 5), 0.7, case % 2 == 0, 1);
        }
    }
}

#[test]
fn grids_of_many_blocks_agree() {
    let pools = [Pool::serial(), Pool::new(4)];
    for (m, n, k, layouts) in [
        (203, 500, 65, (0, 1)),
        (97, 1201, 40, (1, 0)),
        (129, 391, 400, (0, 0)),
        (65, 2000, 9, (0, 1)),
        (8, 600, 500, (1, 0)),
        (307, 8, 450, (0, 1)),
        (333, 16, 40, (2, 0)),
        (90, 13, 40, (1, 1)),
        (300, 8, 450, (1, 0)),
        (700, 13, 450, (3, 1)),
        (300, 600, 8, (0, 1)),
        (1, 500, 420, (0, 1)),
        (3, 167, 420, (2, 3)),
    ] {
        check(&pools, m, n, k, layouts, 1.0, true, 0);
        check(&pools, m, n, k, layouts, 2.5, false, 3);
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (n, k) = (301, 450);
    let (x, w) = (noise(7, 40 * k), noise(8, n * k));
    let pool = Pool::new(2);
    let product = |m: usize| {
        let mut y = vec![0.0; m * n];
        gemm(&pool, m, n, k, 1.0, Operand::rows(&x, k), Operand::rows(&w, k).t(), false, &mut y, n);
        y
    };
    let whole = product(40);
    for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 31] {
        assert_bits(&product(m), &whole[..m * n], &format!("{m} rows of 40"));
    }
}

#[test]
fn stored_types_are_widened_exactly_at_any_alignment() {
    let pools = pools();
    for (m, n, k) in [(5, 70, 33), (37, 17, 100), (3, 9, 450), (70, 49, 64)] {
        for transposed in [false, true] {
            for kind in 0..3 {
                let values = noise(11, n * k);
                let (bytes, wide): (Vec<u8>, Vec<f32>) = match kind {
                    0 => (values.iter().flat_map(|v| v.to_le_bytes()).collect(), values.clone()),
                    1 => {
                        let v: Vec<_> = values.iter().map(|&v| bf16::from_f32(v)).collect();
                        (
                            v.iter().flat_map(|v| v.to_le_bytes()).collect(),
                            v.iter().map(|v| v.to_f32()).collect(),
                        )
                    }
                    _ => {
                        let v: Vec<_> = values.iter().map(|&v| f16::from_f32(v)).collect();
                        (
                            v.iter().flat_map(|v| v.to_le_bytes()).collect(),
                            v.iter().map(|v| v.to_f32()).collect(),
                        )
                    }
                };
                for shift in [0, 1, 3] {
                    let shifted: Vec<u8> =
                        std::iter::repeat_n(0, shift).chain(bytes.iter().copied()).collect();
                    let stored = &shifted[shift..];
                    let data = [Elems::F32Bytes(stored), Elems::Bf16(stored), Elems::F16(stored)][kind];
                    let (rs, cs) = if transposed { (1, k) } else { (n, 1) };
                    let x = noise(12, m * k);
                    let mut expected = vec![0.0; m * n];
                    for i in 0..m {
                        for j in 0..n {
                            let b = |p: usize| wide[p * rs + j * cs];
                            expected[i * n + j] = element(1.0, |p| x[i * k + p], b, k, None);
                        }
                    }
                    for isa in isas() {
                        for pool in &pools {
                            let mut c = vec![f32::NAN; m * n];
                            let b = Operand { data, rs, cs };
                            gemm_on(isa, pool, m, n, k, 1.0, Operand::rows(&x, k), b, false, &mut c, n);
                            assert_bits(
                                &c,
                                &expected,
                                &format!("B {m}x{n}x{k} {kind} {transposed} {shift} {isa:?}"),
                            );
                            // the same matrix as the left operand
                            let mut c = vec![f32::NAN; m * n];
                            let xt = Operand::rows(&x, k).t();
                            gemm_on(isa, pool, n, m, k, 1.0, b.t(), xt, false, &mut c, m);
                            let turned: Vec<f32> = (0..m * n).map(|e| expected[e % m * n + e / m]).collect();
                            assert_bits(
                                &c,
                                &turned,
                                &format!("A {n}x{m}x{k} {kind} {transposed} {shift} {isa:?}"),
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_bias_starts_the_sum() {
    let (m, n, k) = (19, 53, 500);
    let (x, w, bias) = (noise(1, m * k), noise(2, n * k), noise(3, n));
    let pool = Pool::new(2);
    let mut y = vec![f32::NAN; m * n];
    gemm_bias(&pool, m, n, k, 1.0, Operand::rows(&x, k), Operand::rows(&w, k).t(), &bias, &mut y, n);
    for i in 0..m {
        for j in 0..n {
            let expected = element(1.0, |p| x[i * k + p], |p| w[j * k + p], k, Some(bias[j]));
            assert_eq!(y[i * n + j].to_bits(), expected.to_bits());
        }
    }
}

#[test]
fn short_operands_are_refused() {
    let panics = |a: usize, b: usize, c: usize, ldc: usize| {
        let (a, b, mut c) = (vec![0.0; a], vec![0.0; b], vec![0.0; c]);
        std::panic::catch_unwind(move || {
            let pool = Pool::serial();
            gemm(&pool, 3, 4, 5, 1.0, Operand::rows(&a, 5), Operand::rows(&b, 4), false, &mut c, ldc);
        })
        .is_err()
    };
    assert!(!panics(15, 20, 12, 4));
    assert!(panics(14, 20, 12, 4));
    assert!(panics(15, 19, 12, 4));
    assert!(panics(15, 20, 11, 4));
    assert!(panics(15, 20, 12, 3));
}

#[test]
fn the_second_product_of_a_shape_allocates_nothing() {
    let pool = Pool::serial();
    let (x, w) = (noise(1, 70 * 400), noise(2, 300 * 400));
    let mut y = vec![0.0; 70 * 300];
    let mut go = || {
        gemm(
            &pool,
            70,
            300,
            400,
            1.0,
            Operand::rows(&x, 400),
            Operand::rows(&w, 400).t(),
            false,
            &mut y,
            300,
        );
        buffer::with(buffer::Slot::Private, 1, |at| at.addr())
    };
    assert_eq!(go(), go());
    assert!(packing_bytes() > 0);
    assert_eq!(profile(), "fma-kc384");
}

/// A perturbed operand gives the bits of the product with the perturbed matrix, whatever packs it.
#[test]
fn noise_is_added_where_an_operand_is_packed() {
    use crate::backend::{Law, Noise};
    let noise_of = Noise { key: [5, 6], high: 7, law: Law::Gaussian, scale: 0.25, first: 40 };
    for (m, n, k) in [(1, 1, 1), (3, 50, 9), (70, 100, 40), (9, 33, KC + 4), (20, 97, 2 * KC + 3)] {
        let a = noise(1, m * k);
        let w = noise(2, n * k);
        let mut seen = w.clone();
        crate::cpu::noise::add(Isa::Portable, noise_of, &mut seen);
        for by_rows in [false, true] {
            let b = |data| if by_rows { Operand::rows(data, n) } else { Operand::rows(data, k).t() };
            let mut expected = vec![0.0; m * n];
            gemm(&Pool::new(1), m, n, k, 1.0, Operand::rows(&a, k), b(&seen), false, &mut expected, n);
            for (isa, threads) in isas().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                let mut found = vec![0.0; m * n];
                let (pool, a) = (Pool::new(threads), Operand::rows(&a, k));
                let start = drive::Start::Zero;
                drive::product(isa, &pool, m, n, k, 1.0, a, b(&w), Some(noise_of), start, &mut found, n);
                assert_eq!(found, expected, "{m} x {n} x {k} by_rows {by_rows} {isa:?} on {threads}");
            }
        }
    }
}
