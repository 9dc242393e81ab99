//! How far averaging the factors of LoRA is from averaging their products.
//!
//! Clients train `W + s B_k A_k` (`A_k: [r, d_in]`, `B_k: [d_out, r]`); the server averages `A` and `B` apart, but the
//! model that the clients agree on is the average of the products. The relative error of a module is
//!
//! ```text
//! || sum_k p_k B_k A_k - B' A' ||_F / || sum_k p_k B_k A_k ||_F     B' = sum_k p_k B_k,  A' = sum_k p_k A_k
//! ```
//!
//! (the interference of Sun et al. 2024, FFA-LoRA, arXiv:2403.12313). The scale `s` cancels.
//!
//! Neither product is formed. The numerator is a covariance, `sum_k p_k (B_k - B') (A_k - A')`, so nothing cancels
//! in it, and a product `U V` of stacked factors has `||U V||_F^2 = <U^T U, V V^T>`: with `K` clients two Gram
//! matrices of size `(K + 1) r`, at a cost of `O(K^2 r^2 (d_in + d_out))` a module instead of
//! `O(K r d_in d_out)` and a dense matrix.
//!
//! Deliberately missing: LoRA on embeddings (`lora_embedding_A`), and the error after the server step.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use antiphon_core::Schema;

use crate::ReduceError;

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// The error of averaging factors in one round.
#[derive(Clone, Debug, PartialEq)]
pub struct FactorError {
    /// Over all modules: the square roots of the sums of squares, numerator over denominator.
    pub overall: f64,
    /// Each module with its own ratio, in schema order. 0 where the products agree exactly, also where all of them
    /// are zero.
    pub modules: Vec<(String, f64)>,
}

/// One adapted module.
struct Pair {
    name: String,
    /// Where `A: [r, d_in]` lies in the flat vector.
    a: std::ops::Range<usize>,
    /// Where `B: [d_out, r]` lies.
    b: std::ops::Range<usize>,
    r: usize,
}

/// Measures a round of clients that began from `start: [d]` and returned `updates`: each what the client counts
/// (`> 0`) and its `delta: [d]`. `None` if the schema has no LoRA module or there are no updates. `threads >= 1` share
/// the modules and never change a bit.
pub fn factor_error(
    schema: &Schema,
    start: &[f32],
    updates: &[(f64, &[f32])],
    threads: usize,
) -> Result<Option<FactorError>, ReduceError> {
    for found in std::iter::once(start.len()).chain(updates.iter().map(|(_, delta)| delta.len())) {
        if found != schema.dim() {
            return Err(ReduceError::Length { expected: schema.dim(), found });
        }
    }
    let pairs = pairs(schema);
    if pairs.is_empty() || updates.is_empty() {
        return Ok(None);
    }
    let total: f64 = updates.iter().map(|(w, _)| w).sum();
    let shares: Vec<f64> = updates.iter().map(|(w, _)| w / total).collect();
    let squares = Mutex::new(vec![(0.0, 0.0); pairs.len()]);
    let claimed = AtomicUsize::new(0);
    let work = || {
        while let Some((i, pair)) =
            Some(claimed.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, pairs.get(i)?)))
        {
            let result = norms(pair, start, updates, &shares);
            squares.lock().unwrap_or_else(PoisonError::into_inner)[i] = result;
        }
    };
    std::thread::scope(|s| {
        for _ in 1..threads.min(pairs.len()) {
            s.spawn(work);
        }
        work();
    });
    let squares = squares.into_inner().unwrap_or_else(PoisonError::into_inner);
    let ratio = |num: f64, den: f64| if num == 0.0 { 0.0 } else { (num / den).sqrt() };
    let (num, den) = squares.iter().fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1));
    Ok(Some(FactorError {
        overall: ratio(num, den),
        modules: pairs.into_iter().zip(squares).map(|(p, (num, den))| (p.name, ratio(num, den))).collect(),
    }))
}

fn pairs(schema: &Schema) -> Vec<Pair> {
    let pair = |(t, a): (&antiphon_core::TensorSpec, _)| {
        let name = t.name.strip_suffix(A)?;
        let partner = schema.find(&format!("{name}{B}"))?;
        let (&[r, _], &[_, r_of_b]) = (&t.shape[..], &schema.tensors()[partner].shape[..]) else {
            return None;
        };
        (r == r_of_b).then(|| Pair { name: name.to_owned(), a, b: schema.range(partner), r })
    };
    schema.iter().filter_map(pair).collect()
}

/// Squared Frobenius norms of numerator and denominator.
fn norms(pair: &Pair, start: &[f32], updates: &[(f64, &[f32])], shares: &[f64]) -> (f64, f64) {
    let r = pair.r;
    let (d_in, d_out) = (pair.a.len() / r, pair.b.len() / r);
    // row j of client k: row j of A_k, and column j of B_k
    let rows_of_a = |x: &[f32]| -> Vec<f64> { x[pair.a.clone()].iter().map(|&v| v.into()).collect() };
    let columns_of_b = |x: &[f32]| -> Vec<f64> {
        let b = &x[pair.b.clone()];
        (0..r).flat_map(|j| b[j..].iter().step_by(r).map(|&v| f64::from(v))).collect()
    };
    let v = stack(rows_of_a(start), updates.iter().map(|(_, d)| rows_of_a(d)).collect(), shares);
    let u = stack(columns_of_b(start), updates.iter().map(|(_, d)| columns_of_b(d)).collect(), shares);
    let n = (updates.len() + 1) * r;
    let (gu, gv) = (gram(&u, n, d_out), gram(&v, n, d_in));
    // U = [p_1 (B_1 - B'), ..., B'], so a client's rows enter with its share
    let share = |i: usize| shares.get(i / r).copied().unwrap_or(1.0);
    let centred = updates.len() * r;
    let (mut num, mut den) = (0.0, 0.0);
    for i in 0..n {
        for j in 0..n {
            let term = share(i) * share(j) * gu[i * n + j] * gv[i * n + j];
            den += term;
            if i < centred && j < centred {
                num += term;
            }
        }
    }
    // squares of norms; rounding may leave them a little below zero
    (num.max(0.0), den.max(0.0))
}

/// `[x_1 - x'; ...; x_K - x'; x']` for `x_k = start - delta_k` and `x' = sum_k p_k x_k`.
fn stack(start: Vec<f64>, deltas: Vec<Vec<f64>>, shares: &[f64]) -> Vec<f64> {
    let mut mean = vec![0.0; start.len()];
    for (delta, p) in deltas.iter().zip(shares) {
        mean.iter_mut().zip(delta).for_each(|(m, d)| *m += p * d);
    }
    let mut out = Vec::with_capacity((deltas.len() + 1) * start.len());
    for delta in &deltas {
        out.extend(mean.iter().zip(delta).map(|(m, d)| m - d));
    }
    out.extend(start.iter().zip(&mean).map(|(s, m)| s - m));
    out
}

/// `X X^T` for `X: [n, d]`, row-major, symmetric. Tiles of 4 by 4 rows, so that a row is read once for four.
fn gram(x: &[f64], n: usize, d: usize) -> Vec<f64> {
    const T: usize = 4;
    let row = |i: usize| &x[i * d..(i + 1) * d];
    let mut g = vec![0.0; n * n];
    for i0 in (0..n).step_by(T) {
        for j0 in (i0..n).step_by(T) {
            let (ti, tj) = (T.min(n - i0), T.min(n - j0));
            if ti == T && tj == T {
                let a: [&[f64]; T] = std::array::from_fn(|i| row(i0 + i));
                let b: [&[f64]; T] = std::array::from_fn(|j| row(j0 + j));
                let tile = tile(a, b, d);
                for (i, line) in tile.iter().enumerate() {
                    for (j, &v) in line.iter().enumerate() {
                        g[(i0 + i) * n + j0 + j] = v;
                        g[(j0 + j) * n + i0 + i] = v;
                    }
                }
                continue;
            }
            for i in i0..i0 + ti {
                for j in j0..j0 + tj {
                    let v = row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum();
                    g[i * n + j] = v;
                    g[j * n + i] = v;
                }
            }
        }
    }
    g
}

/// The sixteen products of four rows with four rows.
fn tile<const T: usize>(a: [&[f64]; T], b: [&[f64]; T], d: usize) -> [[f64; T]; T] {
    const LANES: usize = 2;
    let mut sums = [[[0.0_f64; LANES]; T]; T];
    let a = a.map(|r| r[..d].as_chunks::<LANES>());
    let b = b.map(|r| r[..d].as_chunks::<LANES>());
    for c in 0..d / LANES {
        for (line, a) in sums.iter_mut().zip(&a) {
            for (sum, b) in line.iter_mut().zip(&b) {
                for (l, s) in sum.iter_mut().enumerate() {
                    *s += a.0[c][l] * b.0[c][l];
                }
            }
        }
    }
    let mut out = [[0.0; T]; T];
    for (i, line) in out.iter_mut().enumerate() {
        for (j, v) in line.iter_mut().enumerate() {
            let rest: f64 = a[i].1.iter().zip(b[j].1).map(|(x, y)| x * y).sum();
            *v = sums[i][j].iter().sum::<f64>() + rest;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use antiphon_core::{Noise, Purpose, Stream, TensorSpec};
    use proptest::prelude::*;

    use super::*;

    fn schema(modules: &[(usize, usize, usize)]) -> Schema {
        let mut tensors = vec![TensorSpec { name: "head.weight".into(), shape: vec![3] }];
        for (i, &(r, d_in, d_out)) in modules.iter().enumerate() {
            tensors.push(TensorSpec { name: format!("m{i}.lora_A.weight"), shape: vec![r, d_in] });
            tensors.push(TensorSpec { name: format!("m{i}.lora_B.weight"), shape: vec![d_out, r] });
        }
        Schema::new(tensors).unwrap()
    }

    fn normals(n: usize, seed: u64) -> Vec<f32> {
        let mut s = Stream::new(seed, Purpose::Test);
        (0..n).map(|_| s.standard_normal() as f32).collect()
    }

    /// `(||sum p B A - B' A'||^2, ||sum p B A||^2)` with every product written out.
    fn dense(schema: &Schema, module: usize, thetas: &[Vec<f64>], shares: &[f64]) -> (f64, f64) {
        let (ia, ib) = (1 + 2 * module, 2 + 2 * module);
        let (r, d_in) = (schema.tensors()[ia].shape[0], schema.tensors()[ia].shape[1]);
        let d_out = schema.tensors()[ib].shape[0];
        let product = |a: &[f64], b: &[f64]| -> Vec<f64> {
            let cell = |o: usize, i: usize| (0..r).map(|k| b[o * r + k] * a[k * d_in + i]).sum();
            (0..d_out).flat_map(|o| (0..d_in).map(move |i| (o, i))).map(|(o, i)| cell(o, i)).collect()
        };
        let mean = |vs: Vec<Vec<f64>>| -> Vec<f64> {
            (0..vs[0].len()).map(|j| vs.iter().zip(shares).map(|(v, p)| p * v[j]).sum()).collect()
        };
        let part = |t: &Vec<f64>, i| t[schema.range(i)].to_vec();
        let of_products = mean(thetas.iter().map(|t| product(&part(t, ia), &part(t, ib))).collect());
        let a = mean(thetas.iter().map(|t| part(t, ia)).collect());
        let b = mean(thetas.iter().map(|t| part(t, ib)).collect());
        let of_means = product(&a, &b);
        let num = of_products.iter().zip(&of_means).map(|(x, y)| (x - y) * (x - y)).sum();
        (num, of_products.iter().map(|x| x * x).sum())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn agrees_with_the_dense_products(
            clients in 1_usize..6,
            modules in prop::collection::vec((1_usize..4, 1_usize..9, 1_usize..9), 1..4),
            seed in 0_u64..1000,
            threads in 1_usize..4,
        ) {
            let schema = schema(&modules);
            let start = normals(schema.dim(), seed);
            let deltas: Vec<Vec<f32>> =
                (0..clients).map(|k| normals(schema.dim(), seed + 1000 + k as u64)).collect();
            let weights: Vec<f64> = (0..clients).map(|k| 1.0 + k as f64 * 0.7).collect();
            let updates: Vec<(f64, &[f32])> =
                weights.iter().copied().zip(deltas.iter().map(|d| &d[..])).collect();
            let got = factor_error(&schema, &start, &updates, threads).unwrap().unwrap();
            let total: f64 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|w| w / total).collect();
            let thetas: Vec<Vec<f64>> = deltas
                .iter()
                .map(|d| start.iter().zip(d).map(|(s, d)| f64::from(*s) - f64::from(*d)).collect())
                .collect();
            let mut sums = (0.0, 0.0);
            for (m, (name, ratio)) in got.modules.iter().enumerate() {
                prop_assert_eq!(name, &format!("m{m}"));
                let (num, den) = dense(&schema, m, &thetas, &shares);
                prop_assert!((ratio - (num / den).sqrt()).abs() < 1e-9 * (1.0 + ratio), "{} {}", ratio, (num / den).sqrt());
                sums = (sums.0 + num, sums.1 + den);
            }
            let overall = (sums.0 / sums.1).sqrt();
            prop_assert!((got.overall - overall).abs() < 1e-9 * (1.0 + overall));
        }
    }

    #[test]
    fn clients_that_agree_have_no_error_and_two_opposed_ones_the_error_of_hand() {
        let schema = schema(&[(1, 2, 3)]);
        let start = vec![0.0; schema.dim()];
        let delta: Vec<f32> = (0..schema.dim()).map(|i| i as f32).collect();
        let same = factor_error(&schema, &start, &[(1.0, &delta), (5.0, &delta)], 1).unwrap().unwrap();
        assert_eq!(same.overall, 0.0);
        // B A = (-b)(-a): the products agree, the mean factors vanish, the error is all of it
        let minus: Vec<f32> = delta.iter().map(|d| -d).collect();
        let opposed = factor_error(&schema, &start, &[(1.0, &delta), (1.0, &minus)], 1).unwrap().unwrap();
        assert!((opposed.overall - 1.0).abs() < 1e-12);
        // untouched adapters: every product is zero
        assert_eq!(factor_error(&schema, &start, &[(1.0, &start)], 1).unwrap().unwrap().overall, 0.0);
    }

    #[test]
    fn what_has_no_modules_has_no_error_and_lengths_must_agree() {
        let plain = Schema::new(vec![TensorSpec { name: "w".into(), shape: vec![4] }]).unwrap();
        assert_eq!(factor_error(&plain, &[0.0; 4], &[(1.0, &[0.0; 4])], 1), Ok(None));
        assert_eq!(
            factor_error(&plain, &[0.0; 4], &[(1.0, &[0.0; 3])], 1),
            Err(ReduceError::Length { expected: 4, found: 3 })
        );
    }
}
