//! Blocks that see a parameter through a perturbation.

use antiphon_kernels::{Backend, Coef, Law, Layout, Linear, Mat, Noise};

use super::{Bench, Case, Outputs, below, loss_values, normal};

fn noise(law: Law) -> Noise {
    Noise { key: [0xdead_beef, 7], high: 3 << 33 | 5, law, scale: 0.05, first: 0 }
}

const LAWS: [Law; 2] = [Law::Gaussian, Law::Rademacher];

pub(crate) fn cases<B: Backend>() -> Vec<Case<B>> {
    let mut all = vec![updates(), small(), heads()];
    for (n, d_in, d_out) in [(1, 1, 1), (3, 70, 33), (7, 5, 19), (65, 48, 130), (130, 288, 96), (20, 900, 49)]
    {
        for layout in [Layout::OutIn, Layout::InOut] {
            all.push(maps((n, d_in, d_out), layout));
        }
    }
    all
}

fn case<B: Backend>(name: String, run: impl Fn(&Bench<'_, B>) -> Outputs + 'static) -> Case<B> {
    Case { name, run: Box::new(run) }
}

/// Runs of every length and offset, and counters beyond 32 bits.
fn updates<B: Backend>() -> Case<B> {
    case("add_noise".into(), |t: &Bench<'_, B>| {
        let mut all = Outputs::new();
        for law in LAWS {
            for (n, first) in [(1, 0), (5, 3), (64, 0), (200, 61), (20_003, 2), (70, (1 << 34) - 31)] {
                let mut y = t.random("y", n);
                t.b.add_noise(Noise { first, scale: -1.5, ..noise(law) }, y.dst());
                all.push((format!("{law:?} {n} from {first}"), t.read(&y)));
            }
        }
        all
    })
}

fn maps<B: Backend>((n, d_in, d_out): (usize, usize, usize), layout: Layout) -> Case<B> {
    case(format!("noisy linear {n}x{d_in}x{d_out} {layout:?}"), move |t: &Bench<'_, B>| {
        let (x, w, b) = (t.random("x", n * d_in), t.random("w", d_in * d_out), t.random("b", d_out));
        let mut all = Outputs::new();
        for law in LAWS {
            for (bias, add) in [(false, false), (true, false), (false, true), (true, true)] {
                let w = Mat::Noisy(w.src(), noise(law));
                let bias = bias.then(|| Mat::Noisy(b.src(), Noise { high: 9, ..noise(law) }));
                let mut y = t.random("y", n * d_out);
                t.b.linear(x.src(), Linear { w, bias, d_in, d_out, layout }, y.dst(), add);
                all.push((format!("{law:?} {} {add}", bias.is_some()), t.read(&y)));
            }
        }
        all
    })
}

/// Embeddings and norms.
fn small<B: Backend>() -> Case<B> {
    case("noisy tables and norms".into(), |t: &Bench<'_, B>| {
        let (n, width, vocab) = (9, 22, 31);
        let mut ids = below("ids", n, vocab as u64);
        ids[2] = u32::MAX;
        let (table, w, b) = (t.random("table", vocab * width), t.random("w", width), t.random("b", width));
        let x = t.random("x", n * width);
        let mut all = Outputs::new();
        for add in [false, true] {
            let mut y = t.random("y", n * width);
            t.b.embedding(&ids, Mat::Noisy(table.src(), noise(Law::Gaussian)), width, y.dst(), add);
            all.push((format!("embedding {add}"), t.read(&y)));
        }
        let [w, b] = [&w, &b].map(|v| Mat::Noisy(v.src(), noise(Law::Gaussian)));
        let (mut y, mut stats) = (t.random("y", n * width), t.random("stats", 2 * n));
        t.b.rms_norm(x.src(), w, width, 1e-5, y.dst(), stats.dst_of(n));
        all.push(("rms_norm".into(), t.read(&y)));
        t.b.layer_norm(x.src(), w, b, width, 1e-5, y.dst(), stats.dst());
        all.push(("layer_norm".into(), t.read(&y)));
        all
    })
}

/// Vocabularies of one block of columns and of several, with logits that lie far apart.
fn heads<B: Backend>() -> Case<B> {
    case("noisy head".into(), |t: &Bench<'_, B>| {
        let mut all = Outputs::new();
        for (m, d_in, vocab, spread) in
            [(1, 3, 2, 1.0), (70, 16, 1500, 0.3), (11, 8, 9000, 0.3), (5, 8, 9000, 30.0)]
        {
            let labels = below("labels", m, vocab as u64);
            let h = t.random("h", m * d_in);
            let scaled: Vec<f32> = normal("w", d_in * vocab).iter().map(|v| spread * v).collect();
            let (w, b) = (t.put(&scaled), t.random("b", vocab));
            let mut scratch = t.random("scratch", t.b.linear_cross_entropy_scratch(m, vocab));
            for bias in [None, Some(b.live()), Some(Mat::Noisy(b.src(), noise(Law::Gaussian)))] {
                let w = Mat::Noisy(w.src(), noise(Law::Gaussian));
                let head = Linear { w, bias, d_in, d_out: vocab, layout: Layout::OutIn };
                let (mut nll, coef) = (vec![0.0; m], Coef::Uniform(1.0));
                let s = scratch.dst();
                let loss =
                    t.b.linear_cross_entropy(h.src(), head, &labels, coef, s, None, None, Some(&mut nll));
                all.push((format!("loss {vocab} {spread}"), loss_values(loss)));
                all.push((format!("nll {vocab} {spread}"), nll.iter().map(|&v| f64::from(v)).collect()));
            }
        }
        all
    })
}
