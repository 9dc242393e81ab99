//! Linear maps and their low-rank overlays as matrix products.
//!
//! A frozen weight is read where it lies, in its stored element type, and widened panel by panel while the product
//! packs it; see [`crate::gemm`]. A quantised one is widened whole, into scratch.

use super::{Cpu, buf, vector};
use crate::backend::{DType, FrozenData, Layout, Linear, Mat};
use crate::check;
use crate::gemm::{Elems, Operand, gemm, gemm_bias, gemm_noisy};
use crate::pool::Pool;

/// Calls `f` with a weight as a `d_out × d_in` operand.
pub(super) fn weight<R>(map: Linear<'_, Cpu>, f: impl FnOnce(Operand<'_>) -> R) -> R {
    let (rs, cs) = match map.layout {
        Layout::OutIn => (map.d_in, 1),
        Layout::InOut => (1, map.d_out),
    };
    let read = |data: Elems<'_>| {
        check::same("linear weight", data.len(), map.d_in * map.d_out);
        f(Operand { data, rs, cs })
    };
    match map.w {
        Mat::Live(values) | Mat::Noisy(values, _) => read(Elems::F32(values.get())),
        Mat::Frozen(FrozenData::Owned(values)) => read(Elems::F32(values)),
        Mat::Frozen(FrozenData::Quantised(q)) => buf::scratch(q.len(), |wide| {
            q.widen(0, wide);
            read(Elems::F32(wide))
        }),
        Mat::Frozen(FrozenData::Mapped { file, at, dtype, len }) => {
            let bytes = &file.bytes()[*at..][..len * dtype.size()];
            read(match dtype {
                DType::F32 => Elems::F32Bytes(bytes),
                DType::Bf16 => Elems::Bf16(bytes),
                DType::F16 => Elems::F16(bytes),
            })
        }
    }
}

/// `y (+)= x W^T + b`.
pub(super) fn linear(pool: &Pool, x: &[f32], map: Linear<'_, Cpu>, y: &mut [f32], add: bool) {
    let (k, o) = (map.d_in, map.d_out);
    let n = check::rows("linear x", x.len(), k);
    check::same("linear y", y.len(), n * o);
    weight(map, |w| times(pool, Operand::rows(x, k), map, w.t(), (n, k, o), y, add));
}

/// `y (+)= x w + b`, with `x: n × k` and `w: k × o`.
fn times(
    pool: &Pool,
    x: Operand<'_>,
    map: Linear<'_, Cpu>,
    w: Operand<'_>,
    (n, k, o): (usize, usize, usize),
    y: &mut [f32],
    add: bool,
) {
    if let Mat::Noisy(_, noise) = map.w {
        let w = (w, noise);
        return match map.bias {
            None => gemm_noisy(pool, n, o, k, x, w, None, add, y, o),
            Some(bias) => vector(bias, |bias| {
                check::same("linear bias", bias.len(), o);
                if add {
                    add_bias(bias, y);
                }
                gemm_noisy(pool, n, o, k, x, w, (!add).then_some(bias), add, y, o);
            }),
        };
    }
    match map.bias {
        None => gemm(pool, n, o, k, 1.0, x, w, add, y, o),
        Some(bias) => vector(bias, |bias| {
            check::same("linear bias", bias.len(), o);
            if add {
                add_bias(bias, y);
                gemm(pool, n, o, k, 1.0, x, w, true, y, o);
            } else {
                gemm_bias(pool, n, o, k, 1.0, x, w, bias, y, o);
            }
        }),
    }
}

/// `bias` on every row.
fn add_bias(bias: &[f32], y: &mut [f32]) {
    for row in y.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
}

/// `dx (+)= dy W`.
pub(super) fn linear_dx(pool: &Pool, dy: &[f32], map: Linear<'_, Cpu>, dx: &mut [f32], add: bool) {
    let (k, o) = (map.d_in, map.d_out);
    assert!(!matches!(map.w, Mat::Noisy(..)), "a gradient through a perturbed weight");
    let n = check::rows("linear dy", dy.len(), o);
    check::same("linear dx", dx.len(), n * k);
    weight(map, |w| gemm(pool, n, k, o, 1.0, Operand::rows(dy, o), w, add, dx, k));
}

/// `dW += dy^T x`.
pub(super) fn linear_dw(
    pool: &Pool,
    x: &[f32],
    dy: &[f32],
    d_in: usize,
    d_out: usize,
    layout: Layout,
    dw: &mut [f32],
) {
    let n = check::rows("linear x", x.len(), d_in);
    check::same("linear dy", dy.len(), n * d_out);
    check::same("linear dw", dw.len(), d_in * d_out);
    let (x, dy) = (Operand::rows(x, d_in), Operand::rows(dy, d_out));
    match layout {
        Layout::OutIn => gemm(pool, d_out, d_in, n, 1.0, dy.t(), x, true, dw, d_in),
        Layout::InOut => gemm(pool, d_in, d_out, n, 1.0, x.t(), dy, true, dw, d_out),
    }
}

/// `db += Σ_rows dy`, rows in order.
pub(super) fn bias_grad(dy: &[f32], width: usize, db: &mut [f32]) {
    check::rows("bias dy", dy.len(), width);
    check::same("bias db", db.len(), width);
    for row in dy.chunks_exact(width) {
        db.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
    }
}

/// `xa = x A^T`, `y += scale · xa B^T`.
pub(super) fn lora(
    pool: &Pool,
    x: &[f32],
    a: &[f32],
    b: &[f32],
    rank: usize,
    scale: f32,
    xa: &mut [f32],
    y: &mut [f32],
) {
    let (k, o) = (check::rows("lora a", a.len(), rank), check::rows("lora b", b.len(), rank));
    let n = check::rows("lora x", x.len(), k);
    check::same("lora xa", xa.len(), n * rank);
    check::same("lora y", y.len(), n * o);
    gemm(pool, n, rank, k, 1.0, Operand::rows(x, k), Operand::rows(a, k).t(), false, xa, rank);
    gemm(pool, n, o, rank, scale, Operand::rows(xa, rank), Operand::rows(b, rank).t(), true, y, o);
}

/// `dxa = scale · dy B`, `dA += dxa^T x`, `dB += scale · dy^T xa`, `dx += dxa A`.
pub(super) fn lora_grad(
    pool: &Pool,
    x: &[f32],
    xa: &[f32],
    dy: &[f32],
    a: &[f32],
    b: &[f32],
    rank: usize,
    scale: f32,
    dxa: &mut [f32],
    grads: &mut [f32],
    a_at: usize,
    b_at: usize,
    dx: Option<&mut [f32]>,
) {
    let (k, o) = (check::rows("lora a", a.len(), rank), check::rows("lora b", b.len(), rank));
    let n = check::rows("lora x", x.len(), k);
    check::same("lora xa", xa.len(), n * rank);
    check::same("lora dxa", dxa.len(), n * rank);
    check::same("lora dy", dy.len(), n * o);
    let (x, dy) = (Operand::rows(x, k), Operand::rows(dy, o));
    gemm(pool, n, rank, o, scale, dy, Operand::rows(b, rank), false, dxa, rank);
    let dxa = Operand::rows(dxa, rank);
    gemm(pool, rank, k, n, 1.0, dxa.t(), x, true, &mut grads[a_at..][..a.len()], k);
    gemm(pool, o, rank, n, scale, dy.t(), Operand::rows(xa, rank), true, &mut grads[b_at..][..b.len()], rank);
    if let Some(dx) = dx {
        check::same("lora dx", dx.len(), n * k);
        gemm(pool, n, k, rank, 1.0, dxa, Operand::rows(a, k), true, dx, k);
    }
}
