//! Every gradient of the reference against central differences of its forward pass, in binary64.
//!
//! For a block `y(x₁, x₂, …)` and a random cotangent `c`, each element of each gradient must be
//! `(Σ c y(x + h) - Σ c y(x - h)) / 2h` to 1e-6 of the gradient's norm.

#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

mod suite;

use antiphon_kernels::reference::RefBuf;
use antiphon_kernels::{Backend, Coef, Dropout, Dst, Gelu, Layout, Linear, Mat, Reference, Segment, Src};
use suite::attention::Problem;
use suite::{below, normal, relative};

const R: Reference = Reference;
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

fn zeros(len: usize) -> RefBuf {
    R.alloc(len).unwrap()
}

fn random(name: &str, len: usize) -> RefBuf {
    let mut b = zeros(len);
    b.values_mut().iter_mut().zip(normal(name, len)).for_each(|(v, x)| *v = f64::from(x));
    b
}

fn r(b: &RefBuf) -> Src<'_, RefBuf> {
    Src::new(b, 0, b.values().len())
}

fn w(b: &mut RefBuf) -> Dst<'_, RefBuf> {
    let len = b.values().len();
    Dst::new(b, 0, len)
}

fn live(b: &RefBuf) -> Mat<'_, Reference> {
    Mat::Live(r(b))
}

/// Compares `backward(inputs, cotangent)`, one gradient an input, with differences of `forward`.
fn check(
    name: &str,
    mut inputs: Vec<RefBuf>,
    forward: impl Fn(&[RefBuf]) -> RefBuf,
    backward: impl Fn(&[RefBuf], &RefBuf) -> Vec<RefBuf>,
) {
    let y = forward(&inputs);
    let cotangent = random("cotangent", y.values().len());
    let gradients = backward(&inputs, &cotangent);
    assert_eq!(gradients.len(), inputs.len(), "{name}: one gradient an input");
    let objective = |inputs: &[RefBuf]| {
        forward(inputs).values().iter().zip(cotangent.values()).map(|(y, c)| y * c).sum::<f64>()
    };
    for (which, gradient) in gradients.iter().enumerate() {
        let len = inputs[which].values().len();
        assert_eq!(gradient.values().len(), len);
        let mut differences = vec![0.0; len];
        for (i, difference) in differences.iter_mut().enumerate() {
            let x = inputs[which].values()[i];
            let mut at = |v: f64| {
                inputs[which].values_mut()[i] = v;
                objective(&inputs)
            };
            *difference = (at(x + STEP) - at(x - STEP)) / (2.0 * STEP);
            inputs[which].values_mut()[i] = x;
        }
        let error = relative(gradient.values(), &differences);
        assert!(error <= TOLERANCE, "{name}, input {which}: {error:e}");
    }
}

#[test]
fn pointwise() {
    let n = 37;
    let x = || vec![random("x", n)];
    check(
        "tanh",
        x(),
        |x| {
            let mut y = zeros(n);
            R.tanh(r(&x[0]), w(&mut y));
            y
        },
        |x, dy| {
            let (mut y, mut dx) = (zeros(n), zeros(n));
            R.tanh(r(&x[0]), w(&mut y));
            R.tanh_grad(r(&y), r(dy), w(&mut dx), false);
            vec![dx]
        },
    );
    for kind in [Gelu::Erf, Gelu::Tanh] {
        check(
            &format!("gelu {kind:?}"),
            x(),
            |x| {
                let mut y = zeros(n);
                R.gelu(kind, r(&x[0]), w(&mut y));
                y
            },
            |x, dy| {
                let mut dx = zeros(n);
                R.gelu_grad(kind, r(&x[0]), r(dy), w(&mut dx));
                vec![dx]
            },
        );
    }
    check(
        "swiglu",
        vec![random("gate", n), random("up", n)],
        |x| {
            let mut y = zeros(n);
            R.swiglu(r(&x[0]), r(&x[1]), w(&mut y));
            y
        },
        |x, dy| {
            let (mut dgate, mut dup) = (zeros(n), zeros(n));
            R.swiglu_grad(r(&x[0]), r(&x[1]), r(dy), w(&mut dgate), w(&mut dup));
            vec![dgate, dup]
        },
    );
    let mask = Dropout { key: [3, 4], high: 5, p: 0.4 };
    let drop = |x: &RefBuf| {
        let mut y = zeros(n);
        R.dropout(r(x), mask, w(&mut y), false);
        y
    };
    check("dropout", x(), |x| drop(&x[0]), |_, dy| vec![drop(dy)]);
}

#[test]
fn rows_and_columns() {
    let width = 5;
    let (from, to) = (below("from", 6, 4), below("to", 6, 7));
    let gather = |x: &RefBuf, from: &[u32], to: &[u32], rows: usize| {
        let mut y = zeros(rows * width);
        R.rows(r(x), from, w(&mut y), to, width, true);
        y
    };
    check(
        "rows",
        vec![random("x", 4 * width)],
        |x| gather(&x[0], &from, &to, 7),
        |_, dy| vec![gather(dy, &to, &from, 4)],
    );
    check(
        "columns",
        vec![random("x", 3 * width)],
        |x| {
            let mut y = zeros(3 * 8);
            R.columns(r(&x[0]), width, 2, w(&mut y), 8, 4, 3, false);
            y
        },
        |_, dy| {
            let mut dx = zeros(3 * width);
            R.columns(r(dy), 8, 4, w(&mut dx), width, 2, 3, false);
            vec![dx]
        },
    );
    let segments = [Segment::square(0, 3), Segment::square(4, 2)];
    check(
        "mean_pool",
        vec![random("x", 7 * width)],
        |x| {
            let mut y = zeros(2 * width);
            R.mean_pool(r(&x[0]), &segments, width, w(&mut y));
            y
        },
        |_, dy| {
            let mut dx = zeros(7 * width);
            R.mean_pool_grad(r(dy), &segments, width, w(&mut dx));
            vec![dx]
        },
    );
    let ids = [3, 0, u32::MAX, 3, 5];
    check(
        "embedding",
        vec![random("table", 6 * width)],
        |x| {
            let mut y = zeros(5 * width);
            R.embedding(&ids, live(&x[0]), width, w(&mut y), false);
            y
        },
        |_, dy| {
            let mut dtable = zeros(6 * width);
            R.embedding_grad(&ids, r(dy), width, w(&mut dtable));
            vec![dtable]
        },
    );
}

#[test]
fn linear_maps() {
    let (n, d_in, d_out) = (4, 5, 7);
    for layout in [Layout::OutIn, Layout::InOut] {
        fn map(x: &[RefBuf], [d_in, d_out]: [usize; 2], layout: Layout) -> Linear<'_, Reference> {
            Linear { w: live(&x[1]), bias: Some(live(&x[2])), d_in, d_out, layout }
        }
        check(
            &format!("linear {layout:?}"),
            vec![random("x", n * d_in), random("w", d_in * d_out), random("b", d_out)],
            |x| {
                let mut y = zeros(n * d_out);
                R.linear(r(&x[0]), map(x, [d_in, d_out], layout), w(&mut y), false);
                y
            },
            |x, dy| {
                let (mut dx, mut dw, mut db) = (zeros(n * d_in), zeros(d_in * d_out), zeros(d_out));
                R.linear_dx(r(dy), map(x, [d_in, d_out], layout), w(&mut dx), false);
                R.linear_dw(r(&x[0]), r(dy), d_in, d_out, layout, w(&mut dw));
                R.bias_grad(r(dy), d_out, w(&mut db));
                vec![dx, dw, db]
            },
        );
    }
    let (rank, scale) = (3, 1.75);
    let lora = |x: &[RefBuf]| {
        let (mut xa, mut y) = (zeros(n * rank), zeros(n * d_out));
        R.lora(r(&x[0]), r(&x[1]), r(&x[2]), rank, scale, w(&mut xa), w(&mut y));
        (xa, y)
    };
    check(
        "lora",
        vec![random("x", n * d_in), random("a", rank * d_in), random("b", d_out * rank)],
        |x| lora(x).1,
        |x, dy| {
            let (xa, _) = lora(x);
            let (a_len, b_len) = (rank * d_in, d_out * rank);
            let (mut dxa, mut grads, mut dx) = (zeros(n * rank), zeros(a_len + b_len), zeros(n * d_in));
            let to = Some(w(&mut dx));
            R.lora_grad(
                r(&x[0]),
                r(&xa),
                r(dy),
                r(&x[1]),
                r(&x[2]),
                rank,
                scale,
                w(&mut dxa),
                &mut grads,
                b_len,
                0,
                to,
            );
            let part = |at: usize, len: usize| {
                let mut b = zeros(len);
                b.values_mut().copy_from_slice(&grads.values()[at..][..len]);
                b
            };
            vec![dx, part(b_len, a_len), part(0, b_len)]
        },
    );
}

#[test]
fn normalisation() {
    let (n, width, eps) = (3, 7, 1e-5);
    let rms = |x: &[RefBuf]| {
        let (mut y, mut inv) = (zeros(n * width), zeros(n));
        R.rms_norm(r(&x[0]), live(&x[1]), width, eps, w(&mut y), w(&mut inv));
        (y, inv)
    };
    check(
        "rms_norm",
        vec![random("x", n * width), random("w", width)],
        |x| rms(x).0,
        |x, dy| {
            let (_, inv) = rms(x);
            let (mut dx, mut dw) = (zeros(n * width), zeros(width));
            let to = Some(w(&mut dw));
            R.rms_norm_grad(r(&x[0]), live(&x[1]), width, r(&inv), r(dy), w(&mut dx), false, to);
            vec![dx, dw]
        },
    );
    let layer = |x: &[RefBuf]| {
        let (mut y, mut stats) = (zeros(n * width), zeros(2 * n));
        R.layer_norm(r(&x[0]), live(&x[1]), live(&x[2]), width, eps, w(&mut y), w(&mut stats));
        (y, stats)
    };
    check(
        "layer_norm",
        vec![random("x", n * width), random("w", width), random("b", width)],
        |x| layer(x).0,
        |x, dy| {
            let (_, stats) = layer(x);
            let (mut dx, mut dwb) = (zeros(n * width), zeros(2 * width));
            let to = Some((&mut dwb, 0, width));
            R.layer_norm_grad(r(&x[0]), live(&x[1]), width, r(&stats), r(dy), w(&mut dx), false, to);
            let half = |at: usize| {
                let mut b = zeros(width);
                b.values_mut().copy_from_slice(&dwb.values()[at..][..width]);
                b
            };
            vec![dx, half(0), half(width)]
        },
    );
}

#[test]
fn attention() {
    let problems = [
        Problem::packed([4, 2, 6], true, None, &[5, 3], 2),
        Problem::packed([2, 2, 3], false, None, &[4, 6], 0),
        Problem::packed([3, 1, 4], true, Some(2), &[7], 1),
        Problem::cached([2, 1, 4], None, &[(2, 5), (3, 0)]),
        Problem::cached([2, 2, 4], Some(3), &[(3, 4)]),
    ];
    for p in problems {
        let s = p.shape;
        let (wide, narrow) = (p.n_q * s.heads * s.head_dim, p.n_k * s.kv_heads * s.head_dim);
        let forward = |x: &[RefBuf]| {
            let (mut y, mut lse) = (zeros(wide), zeros(p.n_q * s.heads));
            R.attention(r(&x[0]), r(&x[1]), r(&x[2]), &p.segments, s, w(&mut y), w(&mut lse));
            (y, lse)
        };
        check(
            &format!("attention {p:?}"),
            vec![random("q", wide), random("k", narrow), random("v", narrow)],
            |x| forward(x).0,
            |x, dy| {
                let (y, lse) = forward(x);
                let (mut dq, mut dk, mut dv) = (zeros(wide), zeros(narrow), zeros(narrow));
                let (q, k, v) = (r(&x[0]), r(&x[1]), r(&x[2]));
                let (a, b, c) = (w(&mut dq), w(&mut dk), w(&mut dv));
                R.attention_grad(q, k, v, r(&y), r(&lse), r(dy), &p.segments, s, a, b, c);
                vec![dq, dk, dv]
            },
        );
    }
    let (heads, head_dim, positions) = (2, 6, [3, 0, 7]);
    let table = random("table", 8 * head_dim);
    let rope = |x: &RefBuf, inverse: bool| {
        let mut y = x.clone();
        R.rope(w(&mut y), heads, head_dim, &positions, r(&table), inverse);
        y
    };
    // the inverse is the transpose, which is the gradient even of a table that does not rotate
    check(
        "rope",
        vec![random("x", 3 * heads * head_dim)],
        |x| rope(&x[0], false),
        |_, dy| vec![rope(dy, true)],
    );
}

#[test]
fn losses() {
    let (m, classes, d_in) = (5, 6, 4);
    let labels = below("labels", m, classes as u64);
    let weights = normal("coef", m);
    for coef in [Coef::Uniform(0.35), Coef::PerRow(&weights)] {
        // the rows' losses, weighted, in binary64: one call a row
        let total = |logits: &RefBuf| -> RefBuf {
            let mut y = zeros(1);
            for (i, label) in labels.iter().enumerate() {
                let mut z = zeros(classes);
                z.values_mut().copy_from_slice(&logits.values()[i * classes..][..classes]);
                let loss = R.cross_entropy(w(&mut z), classes, &[*label], Coef::Uniform(1.0), false, None);
                y.values_mut()[0] += f64::from(coef.at(i)) * loss.nll;
            }
            y
        };
        let scaled = |mut b: RefBuf, by: &RefBuf| {
            b.values_mut().iter_mut().for_each(|v| *v *= by.values()[0]);
            b
        };
        check(
            "cross_entropy",
            vec![random("z", m * classes)],
            |x| total(&x[0]),
            |x, dy| {
                let mut z = x[0].clone();
                R.cross_entropy(w(&mut z), classes, &labels, coef, true, None);
                vec![scaled(z, dy)]
            },
        );
        fn head(x: &[RefBuf], d_in: usize, classes: usize) -> Linear<'_, Reference> {
            Linear { w: live(&x[1]), bias: None, d_in, d_out: classes, layout: Layout::OutIn }
        }
        check(
            "linear_cross_entropy",
            vec![random("h", m * d_in), random("w", classes * d_in)],
            |x| {
                let mut z = zeros(m * classes);
                R.linear(r(&x[0]), head(x, d_in, classes), w(&mut z), false);
                total(&z)
            },
            |x, dy| {
                let (mut dh, mut dw) = (random("overwritten", m * d_in), zeros(classes * d_in));
                let mut scratch = zeros(R.linear_cross_entropy_scratch(m, classes));
                let (to_h, to_w) = (Some(w(&mut dh)), Some(w(&mut dw)));
                R.linear_cross_entropy(
                    r(&x[0]),
                    head(x, d_in, classes),
                    &labels,
                    coef,
                    w(&mut scratch),
                    to_h,
                    to_w,
                    None,
                );
                vec![scaled(dh, dy), scaled(dw, dy)]
            },
        );
    }
}

#[test]
fn divergence() {
    let (m, classes) = (4, 6);
    let teacher = random("teacher", m * classes);
    let kl = |student: &RefBuf, coef| {
        let mut z = student.clone();
        (R.kl_divergence(r(&teacher), w(&mut z), classes, coef), z)
    };
    check(
        "kl_divergence",
        vec![random("student", m * classes)],
        |x| {
            let mut y = zeros(1);
            y.values_mut()[0] = 0.7 * kl(&x[0], None).0;
            y
        },
        |x, dy| {
            let (_, mut z) = kl(&x[0], Some(0.7));
            z.values_mut().iter_mut().for_each(|v| *v *= dy.values()[0]);
            vec![z]
        },
    );
    // never negative, and 0 of equals
    assert!(kl(&random("student", m * classes), None).0 > 0.0);
    assert_eq!(kl(&teacher, Some(1.0)).0, 0.0);
}
