//! Eigenvalues and eigenvectors of a symmetric matrix: Householder's reduction to tridiagonal form, then QL with implicit
//! shifts (Wilkinson and Reinsch 1971, Handbook for Automatic Computation II, contributions II/2 and II/4).
//!
//! Written out here, in 100 lines, because its order of operations decides the bits of every search with a full covariance:
//! a linear-algebra library that picks its kernels by the machine gives other bits on another machine. `O(N³)`; half a
//! second at `N = 500`.

/// Most QL steps for one eigenvalue; 30 have always been enough for matrices that are finite.
const STEPS: usize = 60;

/// `a = V diag(d) Vᵀ`. `a`: `[n, n]`, row-major, of which the lower triangle is read. Returns `(d, V)`, `V`: `[n, n]`,
/// row-major, an eigenvector a column. `None` if it does not converge, which takes a NaN or an infinity.
pub(crate) fn symmetric(a: &[f64], n: usize) -> Option<(Vec<f64>, Vec<f64>)> {
    let mut v = a.to_vec();
    let (mut d, mut e) = tridiagonal(&mut v, n);
    // rows of the transpose are columns of V: rotations then run over contiguous memory
    let mut t = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            t[j * n + i] = v[i * n + j];
        }
    }
    implicit_ql(&mut d, &mut e, &mut t, n)?;
    for i in 0..n {
        for j in 0..n {
            v[i * n + j] = t[j * n + i];
        }
    }
    Some((d, v))
}

/// Replaces `z` by the orthogonal matrix of the reduction; returns diagonal and subdiagonal (`e[0] = 0`).
fn tridiagonal(z: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut d, mut e) = (vec![0.0; n], vec![0.0; n]);
    for i in (1..n).rev() {
        let scale: f64 = z[i * n..i * n + i].iter().map(|x| x.abs()).sum();
        if i == 1 || scale == 0.0 {
            e[i] = z[i * n + i - 1];
            continue;
        }
        let mut h = 0.0;
        for x in &mut z[i * n..i * n + i] {
            *x /= scale;
            h += *x * *x;
        }
        let f = z[i * n + i - 1];
        let g = if f > 0.0 { -h.sqrt() } else { h.sqrt() };
        e[i] = scale * g;
        h -= f * g;
        z[i * n + i - 1] = f - g;
        let mut sum = 0.0;
        for j in 0..i {
            z[j * n + i] = z[i * n + j] / h;
            let left: f64 = (0..=j).map(|k| z[j * n + k] * z[i * n + k]).sum();
            let right: f64 = (j + 1..i).map(|k| z[k * n + j] * z[i * n + k]).sum();
            e[j] = (left + right) / h;
            sum += e[j] * z[i * n + j];
        }
        let half = sum / (h + h);
        for j in 0..i {
            let f = z[i * n + j];
            e[j] -= half * f;
            let g = e[j];
            for k in 0..=j {
                z[j * n + k] -= f * e[k] + g * z[i * n + k];
            }
        }
        d[i] = h;
    }
    for i in 0..n {
        if d[i] != 0.0 {
            for j in 0..i {
                let g: f64 = (0..i).map(|k| z[i * n + k] * z[k * n + j]).sum();
                for k in 0..i {
                    z[k * n + j] -= g * z[k * n + i];
                }
            }
        }
        d[i] = z[i * n + i];
        z[i * n + i] = 1.0;
        for j in 0..i {
            z[j * n + i] = 0.0;
            z[i * n + j] = 0.0;
        }
    }
    (d, e)
}

/// Diagonalises; `t` holds eigenvectors in rows and is turned along.
fn implicit_ql(d: &mut [f64], e: &mut [f64], t: &mut [f64], n: usize) -> Option<()> {
    e.rotate_left(1);
    for l in 0..n {
        for step in 0.. {
            // the first negligible subdiagonal entry from l on
            let m = (l..n - 1).find(|&m| {
                let size = d[m].abs() + d[m + 1].abs();
                e[m].abs() <= f64::EPSILON * size
            });
            let m = m.unwrap_or(n - 1);
            if m == l {
                break;
            }
            if step == STEPS {
                return None;
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut early = false;
            for i in (l..m).rev() {
                let f = s * e[i];
                let b = c * e[i];
                r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    early = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                let (upper, lower) = t.split_at_mut((i + 1) * n);
                let rows = upper[i * n..].iter_mut().zip(&mut lower[..n]);
                for (x, y) in rows {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
            if early {
                continue;
            }
            d[l] -= p;
            e[l] = g;
            e[m] = 0.0;
        }
    }
    d.iter().all(|v| v.is_finite()).then_some(())
}

#[cfg(test)]
mod tests {
    use antiphon_core::{Noise, Purpose, Stream};
    use proptest::prelude::*;

    use super::*;

    fn check(a: &[f64], n: usize) {
        let (d, v) = symmetric(a, n).unwrap();
        let size = a.iter().map(|x| x.abs()).fold(1e-300, f64::max) * n as f64;
        for i in 0..n {
            for j in 0..n {
                let dot: f64 = (0..n).map(|k| v[k * n + i] * v[k * n + j]).sum();
                assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12 * n as f64, "V is not orthogonal");
                let back: f64 = (0..n).map(|k| v[i * n + k] * d[k] * v[j * n + k]).sum();
                let at = if j <= i { a[i * n + j] } else { a[j * n + i] };
                assert!((back - at).abs() < 1e-13 * size * n as f64, "{back} {at}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn the_parts_make_the_matrix(n in 1_usize..14, seed in 0_u64..10_000, spread in 0_i32..9) {
            let mut s = Stream::new(seed, Purpose::Test);
            let mut a = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..=i {
                    // rows of very different size, as covariances have
                    let x = s.standard_normal() * 10_f64.powi(-spread * (i as i32 % 3));
                    a[i * n + j] = x;
                    a[j * n + i] = x;
                }
            }
            check(&a, n);
        }
    }

    #[test]
    fn multiples_of_the_identity_and_known_eigenvalues() {
        check(&[0.0; 9], 3);
        check(&[2.0, 0.0, 0.0, 2.0], 2);
        let (mut d, _) = symmetric(&[2.0, 1.0, 1.0, 2.0], 2).unwrap();
        d.sort_by(f64::total_cmp);
        assert!((d[0] - 1.0).abs() < 1e-15 && (d[1] - 3.0).abs() < 1e-15, "{d:?}");
    }

    #[test]
    fn what_is_not_finite_has_no_parts() {
        assert!(symmetric(&[f64::NAN; 9], 3).is_none());
    }
}
