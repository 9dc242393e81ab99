//! Cases of every block but attention.

use antiphon_kernels::{AdamW, Backend, Coef, DType, Dropout, Gelu, Layout, Linear, Mat, Segment, Sgd};

use super::{Bench, Case, Outputs, below, loss_values, normal};

/// `(rows, width)` of the row-wise cases: tails of every vector width, and enough rows for several tasks.
const SHAPES: [(usize, usize); 4] = [(1, 1), (5, 31), (67, 48), (300, 288)];

pub(crate) fn case<B: Backend>(
    name: impl Into<String>,
    run: impl Fn(&Bench<'_, B>) -> Outputs + 'static,
) -> Case<B> {
    Case { name: name.into(), run: Box::new(run) }
}

pub(crate) fn out(values: impl IntoIterator<Item = (&'static str, Vec<f64>)>) -> Outputs {
    values.into_iter().map(|(n, v)| (n.to_owned(), v)).collect()
}

pub(crate) fn pointwise<B: Backend>() -> Vec<Case<B>> {
    let mut all = Vec::new();
    for n in [1, 15, 1000, 70_001] {
        all.push(case(format!("fill axpy scale {n}"), move |t: &Bench<'_, B>| {
            let x = t.random("x", n);
            let (mut a, mut b, mut c, mut d) =
                (t.random("a", n), t.random("b", n), t.random("c", n), t.random("d", n));
            t.b.axpy(0.37, x.src(), a.dst(), true);
            t.b.axpy(-1.7, x.src(), b.dst(), false);
            t.b.fill(c.dst(), 0.3);
            t.b.scale(0.77, d.dst());
            let square = t.b.sum_squares(x.src());
            out([
                ("axpy add", t.read(&a)),
                ("axpy", t.read(&b)),
                ("fill", t.read(&c)),
                ("scale", t.read(&d)),
                ("sum_squares", vec![square]),
            ])
        }));
        all.push(case(format!("dropout {n}"), move |t: &Bench<'_, B>| {
            let mask = Dropout { key: [11, 7], high: 1 << 40 | 3, p: 0.3 };
            let x = t.random("x", n);
            let (mut a, mut b) = (t.random("a", n), t.random("b", n));
            t.b.dropout(x.src(), mask, a.dst(), true);
            t.b.dropout(x.src(), mask, b.dst(), false);
            out([("add", t.read(&a)), ("set", t.read(&b))])
        }));
        all.push(case(format!("activations {n}"), move |t: &Bench<'_, B>| {
            let wide: Vec<f32> = normal("x", n).iter().map(|v| 3.0 * v).collect();
            let (x, dy, up) = (t.put(&wide), t.random("dy", n), t.random("up", n));
            let mut y = t.random("y", n);
            let mut all = Outputs::new();
            t.b.tanh(x.src(), y.dst());
            all.push(("tanh".into(), t.read(&y)));
            for add in [false, true] {
                let mut dx = t.random("dx", n);
                t.b.tanh_grad(y.src(), dy.src(), dx.dst(), add);
                all.push((format!("tanh_grad {add}"), t.read(&dx)));
            }
            for kind in [Gelu::Erf, Gelu::Tanh] {
                t.b.gelu(kind, x.src(), y.dst());
                all.push((format!("gelu {kind:?}"), t.read(&y)));
                t.b.gelu_grad(kind, x.src(), dy.src(), y.dst());
                all.push((format!("gelu_grad {kind:?}"), t.read(&y)));
            }
            t.b.swiglu(x.src(), up.src(), y.dst());
            all.push(("swiglu".into(), t.read(&y)));
            let mut dup = t.random("dup", n);
            t.b.swiglu_grad(x.src(), up.src(), dy.src(), y.dst(), dup.dst());
            all.push(("swiglu_grad gate".into(), t.read(&y)));
            all.push(("swiglu_grad up".into(), t.read(&dup)));
            all
        }));
    }
    all
}

pub(crate) fn rows<B: Backend>() -> Vec<Case<B>> {
    let mut all = Vec::new();
    for (n, width) in SHAPES {
        all.push(case(format!("rows columns {n}x{width}"), move |t: &Bench<'_, B>| {
            let x = t.random("x", n * width);
            let (from, to) = (below("from", 2 * n, n as u64), below("to", 2 * n, n as u64 + 2));
            let mut all = Outputs::new();
            for add in [false, true] {
                let mut y = t.random("y", (n + 2) * width);
                t.b.rows(x.src(), &from, y.dst(), &to, width, add);
                all.push((format!("rows {add}"), t.read(&y)));
                let mut y = t.random("y", n * (width + 3));
                t.b.columns(x.src(), width, width / 3, y.dst(), width + 3, 2, width - width / 3, add);
                all.push((format!("columns {add}"), t.read(&y)));
            }
            all
        }));
        all.push(case(format!("mean_pool {n}x{width}"), move |t: &Bench<'_, B>| {
            let a = n / 3;
            // a gap of one row, and an empty segment
            let segments = [Segment::square(0, a), Segment::square((a + 1).min(n), n.saturating_sub(a + 1))];
            let (x, dy) = (t.random("x", n * width), t.random("dy", 2 * width));
            let (mut y, mut dx) = (t.random("y", 2 * width), t.random("dx", n * width));
            t.b.mean_pool(x.src(), &segments, width, y.dst());
            t.b.mean_pool_grad(dy.src(), &segments, width, dx.dst());
            out([("y", t.read(&y)), ("dx", t.read(&dx))])
        }));
        all.push(case(format!("embedding {n}x{width}"), move |t: &Bench<'_, B>| {
            let vocab = 23;
            let mut ids = below("ids", n, vocab as u64);
            ids[n / 2] = u32::MAX;
            let table = normal("table", vocab * width);
            let mut all = Outputs::new();
            for (dtype, shift) in FROZEN {
                let table = t.freeze(&table, dtype, shift);
                let mut y = t.random("y", n * width);
                t.b.embedding(&ids, Mat::Frozen(&table), width, y.dst(), false);
                all.push((format!("{dtype:?} {shift}"), t.read(&y)));
            }
            let (table, mut y) = (t.put(&table), t.random("y", n * width));
            t.b.embedding(&ids, table.live(), width, y.dst(), true);
            all.push(("live add".into(), t.read(&y)));
            let (dy, mut dtable) = (t.random("dy", n * width), t.random("dtable", vocab * width));
            t.b.embedding_grad(&ids, dy.src(), width, dtable.dst());
            all.push(("grad".into(), t.read(&dtable)));
            all
        }));
    }
    all
}

/// Stored types with offsets that are and are not multiples of the element size.
pub(crate) const FROZEN: [(DType, usize); 6] =
    [(DType::F32, 8), (DType::F32, 3), (DType::Bf16, 2), (DType::Bf16, 5), (DType::F16, 4), (DType::F16, 1)];

pub(crate) fn linear<B: Backend>() -> Vec<Case<B>> {
    let mut all = Vec::new();
    for (n, d_in, d_out) in [(1, 1, 1), (1, 70, 33), (7, 5, 19), (65, 48, 130), (130, 288, 96)] {
        for layout in [Layout::OutIn, Layout::InOut] {
            let name = format!("linear {n}x{d_in}x{d_out} {layout:?}");
            all.push(case(name, move |t: &Bench<'_, B>| {
                let (x, dy) = (t.random("x", n * d_in), t.random("dy", n * d_out));
                let (w, b) = (normal("w", d_in * d_out), normal("b", d_out));
                let mut all = Outputs::new();
                let mut both = |kind: String, w: Mat<'_, B>, bias: Option<Mat<'_, B>>, add: bool| {
                    let map = Linear { w, bias, d_in, d_out, layout };
                    let (mut y, mut dx) = (t.random("y", n * d_out), t.random("dx", n * d_in));
                    t.b.linear(x.src(), map, y.dst(), add);
                    t.b.linear_dx(dy.src(), map, dx.dst(), add);
                    all.push((format!("y {kind}"), t.read(&y)));
                    all.push((format!("dx {kind}"), t.read(&dx)));
                };
                for (i, (dtype, shift)) in FROZEN.into_iter().enumerate() {
                    let (w, b) = (t.freeze(&w, dtype, shift), t.freeze(&b, dtype, shift));
                    let bias = (i % 2 == 0).then_some(Mat::Frozen(&b));
                    both(format!("{dtype:?} {shift}"), Mat::Frozen(&w), bias, i % 3 == 0);
                }
                let (w, b) = (t.put(&w), t.put(&b));
                both("live".into(), w.live(), Some(b.live()), false);
                both("live add".into(), w.live(), None, true);
                both("live add bias".into(), w.live(), Some(b.live()), true);
                let (mut dw, mut db) = (t.random("dw", d_in * d_out), t.random("db", d_out));
                t.b.linear_dw(x.src(), dy.src(), d_in, d_out, layout, dw.dst());
                t.b.bias_grad(dy.src(), d_out, db.dst());
                all.push(("dw".into(), t.read(&dw)));
                all.push(("db".into(), t.read(&db)));
                all
            }));
        }
        for rank in [1, 8, 13] {
            all.push(case(format!("lora {n}x{d_in}x{d_out} r{rank}"), move |t: &Bench<'_, B>| {
                let (x, dy) = (t.random("x", n * d_in), t.random("dy", n * d_out));
                let (a, b) = (t.random("a", rank * d_in), t.random("b", d_out * rank));
                let (mut xa, mut y) = (t.random("xa", n * rank), t.random("y", n * d_out));
                t.b.lora(x.src(), a.src(), b.src(), rank, 1.6, xa.dst(), y.dst());
                let (mut dxa, mut dx) = (t.random("dxa", n * rank), t.random("dx", n * d_in));
                let mut all = out([("xa", t.read(&xa)), ("y", t.read(&y))]);
                let len = (d_in + d_out) * rank + 5;
                let (a_at, b_at) = (len - d_in * rank, 2);
                for with_dx in [false, true] {
                    let mut grads = t.random("grads", len);
                    let (buf, at) = grads.buf();
                    let dx = with_dx.then(|| dx.dst());
                    t.b.lora_grad(
                        x.src(),
                        xa.src(),
                        dy.src(),
                        a.src(),
                        b.src(),
                        rank,
                        1.6,
                        dxa.dst(),
                        buf,
                        at + a_at,
                        at + b_at,
                        dx,
                    );
                    all.push((format!("grads {with_dx}"), t.read(&grads)));
                }
                all.extend(out([("dxa", t.read(&dxa)), ("dx", t.read(&dx))]));
                all
            }));
        }
    }
    all
}

pub(crate) fn norm<B: Backend>() -> Vec<Case<B>> {
    let mut all = Vec::new();
    // no LayerNorm of one or two columns: its gradient is zero but for eps, and a relative error says nothing
    for (n, width) in [(1, 5), (5, 31), (67, 48), (300, 288)] {
        all.push(case(format!("rms_norm {n}x{width}"), move |t: &Bench<'_, B>| {
            let (x, dy, w) = (t.random("x", n * width), t.random("dy", n * width), normal("w", width));
            let mut all = Outputs::new();
            let mut run = |kind: String, w: Mat<'_, B>, add: bool, grad: bool| {
                let (mut y, mut inv) = (t.random("y", n * width), t.random("inv", n));
                t.b.rms_norm(x.src(), w, width, 1e-5, y.dst(), inv.dst());
                let (mut dx, mut dw) = (t.random("dx", n * width), t.random("dw", width));
                let to = grad.then(|| dw.dst());
                t.b.rms_norm_grad(x.src(), w, width, inv.src(), dy.src(), dx.dst(), add, to);
                for (name, view) in [("y", &y), ("inv", &inv), ("dx", &dx), ("dw", &dw)] {
                    all.push((format!("{name} {kind}"), t.read(view)));
                }
            };
            for (dtype, shift) in FROZEN {
                let w = t.freeze(&w, dtype, shift);
                run(format!("{dtype:?} {shift}"), Mat::Frozen(&w), false, false);
            }
            let w = t.put(&w);
            run("live".into(), w.live(), false, true);
            run("live add".into(), w.live(), true, true);
            all
        }));
        all.push(case(format!("layer_norm {n}x{width}"), move |t: &Bench<'_, B>| {
            // an offset of several deviations: the one-pass variance would lose digits
            let shifted: Vec<f32> = normal("x", n * width).iter().map(|v| v + 7.0).collect();
            let (x, dy) = (t.put(&shifted), t.random("dy", n * width));
            let (w, b) = (normal("w", width), normal("b", width));
            let mut all = Outputs::new();
            let mut run = |kind: String, w: Mat<'_, B>, b: Mat<'_, B>, add: bool, grad: bool| {
                let (mut y, mut stats) = (t.random("y", n * width), t.random("stats", 2 * n));
                t.b.layer_norm(x.src(), w, b, width, 1e-5, y.dst(), stats.dst());
                let (mut dx, mut grads) = (t.random("dx", n * width), t.random("g", 2 * width + 4));
                let (buf, at) = grads.buf();
                let to = grad.then_some((buf, at + width + 3, at + 1));
                t.b.layer_norm_grad(x.src(), w, width, stats.src(), dy.src(), dx.dst(), add, to);
                for (name, view) in [("y", &y), ("stats", &stats), ("dx", &dx), ("dwb", &grads)] {
                    all.push((format!("{name} {kind}"), t.read(view)));
                }
            };
            for (dtype, shift) in FROZEN {
                let (w, b) = (t.freeze(&w, dtype, shift), t.freeze(&b, dtype, shift));
                run(format!("{dtype:?} {shift}"), Mat::Frozen(&w), Mat::Frozen(&b), false, false);
            }
            let (w, b) = (t.put(&w), t.put(&b));
            run("live".into(), w.live(), b.live(), false, true);
            run("live add".into(), w.live(), b.live(), true, true);
            all
        }));
    }
    all
}

pub(crate) fn loss<B: Backend>() -> Vec<Case<B>> {
    let mut all = Vec::new();
    for (m, d_in, vocab) in [(1, 3, 2), (6, 20, 33), (70, 48, 1500)] {
        all.push(case(format!("cross_entropy {m}x{vocab}"), move |t: &Bench<'_, B>| {
            let labels = below("labels", m, vocab as u64);
            let weights = normal("coef", m);
            let mut all = Outputs::new();
            for (coef, grad) in
                [(Coef::Uniform(0.3), true), (Coef::PerRow(&weights), true), (Coef::Uniform(1.0), false)]
            {
                let mut z = t.random("z", m * vocab);
                let mut nll = vec![0.0; m];
                let loss = t.b.cross_entropy(z.dst(), vocab, &labels, coef, grad, Some(&mut nll));
                all.push((format!("loss {coef:?}"), loss_values(loss)));
                all.push(("nll".into(), nll.iter().map(|&v| f64::from(v)).collect()));
                all.push((format!("dlogits {grad}"), t.read(&z)));
            }
            all
        }));
        all.push(case(format!("kl_divergence {m}x{vocab}"), move |t: &Bench<'_, B>| {
            let teacher = t.random("teacher", m * vocab);
            let mut all = Outputs::new();
            for coef in [Some(0.3), None] {
                let mut student = t.random("student", m * vocab);
                let kl = t.b.kl_divergence(teacher.src(), student.dst(), vocab, coef);
                all.push((format!("kl {coef:?}"), vec![kl]));
                all.push((format!("dstudent {coef:?}"), t.read(&student)));
            }
            all
        }));
        all.push(case(format!("linear_cross_entropy {m}x{d_in}x{vocab}"), move |t: &Bench<'_, B>| {
            let labels = below("labels", m, vocab as u64);
            let weights = normal("coef", m);
            let h = t.random("h", m * d_in);
            let scaled: Vec<f32> = normal("w", d_in * vocab).iter().map(|v| 0.3 * v).collect();
            let bias = t.random("b", vocab);
            let mut scratch = t.random("scratch", t.b.linear_cross_entropy_scratch(m, vocab));
            let mut all = Outputs::new();
            let mut run = |w: Mat<'_, B>, bias: Option<Mat<'_, B>>, coef: Coef<'_>, gh: bool, gw: bool| {
                let head = Linear { w, bias, d_in, d_out: vocab, layout: Layout::OutIn };
                let (mut dh, mut dw) = (t.random("dh", m * d_in), t.random("dw", d_in * vocab));
                let mut nll = vec![0.0; m];
                let (to_h, to_w) = (gh.then(|| dh.dst()), gw.then(|| dw.dst()));
                let s = scratch.dst();
                let loss =
                    t.b.linear_cross_entropy(h.src(), head, &labels, coef, s, to_h, to_w, Some(&mut nll));
                all.push((format!("loss {coef:?}"), loss_values(loss)));
                all.push(("nll".into(), nll.iter().map(|&v| f64::from(v)).collect()));
                all.push((format!("dh {gh}"), t.read(&dh)));
                all.push((format!("dw {gw}"), t.read(&dw)));
            };
            let frozen = t.freeze(&scaled, DType::Bf16, 2);
            run(Mat::Frozen(&frozen), None, Coef::Uniform(0.25), true, false);
            run(Mat::Frozen(&frozen), None, Coef::PerRow(&weights), false, false);
            let w = t.put(&scaled);
            run(w.live(), Some(bias.live()), Coef::PerRow(&weights), true, true);
            run(w.live(), None, Coef::Uniform(1.0), false, true);
            all
        }));
    }
    all
}

pub(crate) fn optim<B: Backend>() -> Vec<Case<B>> {
    let mut all = Vec::new();
    for n in [1, 19, 40_003] {
        all.push(case(format!("adamw sgd {n}"), move |t: &Bench<'_, B>| {
            let (mut theta, mut m, mut v) =
                (t.random("theta", n), t.put(&vec![0.0; n]), t.put(&vec![0.0; n]));
            let (mut plain, mut heavy, mut b) =
                (t.random("theta", n), t.random("theta", n), t.random("b", n));
            for step in 1..=4 {
                let g = t.random(&format!("g{step}"), n);
                let adamw = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step };
                t.b.adamw(theta.dst(), g.src(), m.dst(), v.dst(), adamw);
                let sgd = Sgd { lr: 0.1, momentum: 0.0, weight_decay: 0.01 };
                t.b.sgd(plain.dst(), g.src(), None, sgd);
                t.b.sgd(heavy.dst(), g.src(), Some((b.dst(), step == 1)), Sgd { momentum: 0.9, ..sgd });
            }
            out([
                ("theta", t.read(&theta)),
                ("m", t.read(&m)),
                ("v", t.read(&v)),
                ("sgd", t.read(&plain)),
                ("momentum", t.read(&heavy)),
                ("b", t.read(&b)),
            ])
        }));
    }
    all
}
