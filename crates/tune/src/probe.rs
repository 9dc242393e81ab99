//! A linear head on frozen features, fitted once: multinomial logistic regression.
//!
//! Of `n` examples with features `f_i` (`[d]`) and classes `y_i`, the head is the one minimum of
//!
//! ```text
//! L(W, b) = 1/n Σ_i −log softmax(W f_i + b)_{y_i} + λ/2 ‖W‖²,     λ = 1/n
//! ```
//!
//! (Hastie, Tibshirani and Friedman 2009, *The Elements of Statistical Learning*, section 4.4.4; `λ = 1/n` is scikit-learn's
//! `C = 1`). The bias is not penalised. A penalty there must be: of a few examples in many dimensions the classes are nearly
//! always separable, and then without one `‖W‖` grows without end.
//!
//! Found by L-BFGS (Liu and Nocedal 1989, *On the limited memory BFGS method for large scale optimization*) with halved steps, in
//! binary64 and one thread, from zero: a function of the examples and their order. Deliberately missing: a choice of `λ` by
//! validation, and weights of classes (the shots are as many of each).

use std::collections::VecDeque;

/// Features and classes to fit a head to.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// `[n, width]`.
    pub features: &'a [f32],
    /// Numbers in a row.
    pub width: usize,
    /// The class of each row.
    pub classes: &'a [u32],
    /// Number of classes.
    pub count: usize,
    /// Whether the head has a bias.
    pub bias: bool,
}

/// Features that no head can be fitted to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Not one row for each class label.
    #[error("{features} features for {examples} examples of {width}")]
    Shape {
        /// Numbers given.
        features: usize,
        /// Rows expected.
        examples: usize,
        /// Numbers expected in each.
        width: usize,
    },
    /// A class that the head does not have.
    #[error("example {index} is of class {class}, and there are {count}")]
    Class {
        /// Which example.
        index: usize,
        /// Its class.
        class: u32,
        /// Number of classes.
        count: usize,
    },
    /// A class without an example.
    #[error("class {class} of {count} has no example to fit the head to")]
    Absent {
        /// Which class.
        class: usize,
        /// Number of classes.
        count: usize,
    },
    /// A feature that is no number.
    #[error("the features of example {index} are not finite")]
    NotFinite {
        /// The first such example.
        index: usize,
    },
}

/// Differences of gradients that the inverse of the Hessian is made of.
const MEMORY: usize = 10;
/// Steps at most; a few dozen do.
const STEPS: usize = 1000;
/// The search ends where the gradient is this small beside the first one.
const TOLERANCE: f64 = 1e-8;
/// Armijo's constant: the share of the promised descent that a step must bring.
const DESCENT: f64 = 1e-4;

impl Probe<'_> {
    /// The head: `W` as `[count, width]`, then `b` as `[count]` where there is one.
    ///
    /// # Errors
    /// Features that are not finite or not as many as they should be, and classes without examples.
    pub fn fit(&self) -> Result<Vec<f32>, ProbeError> {
        self.check()?;
        let mut x = vec![0.0; self.len()];
        let (mut loss, mut gradient) = self.loss(&x);
        let small = TOLERANCE * norm(&gradient);
        let mut pairs: VecDeque<Pair> = VecDeque::new();
        for _ in 0..STEPS {
            if norm(&gradient) <= small {
                break;
            }
            let direction = descent(&gradient, &pairs);
            let slope = dot(&direction, &gradient);
            let mut step = 1.0;
            let (next, value, there) = loop {
                let next: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
                let (value, there) = self.loss(&next);
                // at the end differences are rounding, and the full step is as good as any
                let rounding = 1e-15 * loss.abs();
                if value <= loss + DESCENT * step * slope + rounding || step < 1e-10 {
                    break (next, value, there);
                }
                step /= 2.0;
            };
            let pair = Pair::new(&x, &next, &gradient, &there);
            (x, loss, gradient) = (next, value, there);
            let Some(pair) = pair else { break };
            if pairs.len() == MEMORY {
                pairs.pop_front();
            }
            pairs.push_back(pair);
        }
        Ok(x.into_iter().map(|v| v as f32).collect())
    }

    fn check(&self) -> Result<(), ProbeError> {
        let (examples, width, count) = (self.classes.len(), self.width, self.count);
        if self.features.len() != examples * width || width == 0 {
            return Err(ProbeError::Shape { features: self.features.len(), examples, width });
        }
        if let Some(index) = self.classes.iter().position(|c| *c as usize >= count) {
            return Err(ProbeError::Class { index, class: self.classes[index], count });
        }
        if let Some(class) = (0..count).find(|c| !self.classes.contains(&(*c as u32))) {
            return Err(ProbeError::Absent { class, count });
        }
        match self.features.iter().position(|f| !f.is_finite()) {
            Some(at) => Err(ProbeError::NotFinite { index: at / width }),
            None => Ok(()),
        }
    }

    /// Scalars of the head.
    fn len(&self) -> usize {
        self.count * (self.width + usize::from(self.bias))
    }

    /// `L` and its gradient at `x`.
    fn loss(&self, x: &[f64]) -> (f64, Vec<f64>) {
        let (w, b) = x.split_at(self.count * self.width);
        let n = self.classes.len() as f64;
        let mut gradient: Vec<f64> = w.iter().map(|w| w / n).chain(b.iter().map(|_| 0.0)).collect();
        let mut loss = 0.5 * dot(w, w) / n;
        let (dw, db) = gradient.split_at_mut(self.count * self.width);
        let mut p = vec![0.0; self.count];
        for (f, &y) in self.features.chunks_exact(self.width).zip(self.classes) {
            for (c, (p, w)) in p.iter_mut().zip(w.chunks_exact(self.width)).enumerate() {
                *p = w.iter().zip(f).map(|(w, f)| w * f64::from(*f)).sum::<f64>()
                    + b.get(c).copied().unwrap_or(0.0);
            }
            let top = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total = p.iter().map(|v| (v - top).exp()).sum::<f64>().ln() + top;
            loss += (total - p[y as usize]) / n;
            for (c, (p, dw)) in p.iter().zip(dw.chunks_exact_mut(self.width)).enumerate() {
                let d = ((p - total).exp() - f64::from(u8::from(c == y as usize))) / n;
                dw.iter_mut().zip(f).for_each(|(g, f)| *g += d * f64::from(*f));
                if let Some(g) = db.get_mut(c) {
                    *g += d;
                }
            }
        }
        (loss, gradient)
    }
}

/// A step `s` and what it did to the gradient, `y`, with `1 / sᵀy`.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    rho: f64,
}

impl Pair {
    /// `None` where rounding has eaten the curvature.
    fn new(from: &[f64], to: &[f64], before: &[f64], after: &[f64]) -> Option<Self> {
        let difference = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let (s, y) = (difference(to, from), difference(after, before));
        let curvature = dot(&s, &y);
        (curvature > 1e-300).then(|| Self { s, y, rho: 1.0 / curvature })
    }
}

/// `−H g`, `H` the inverse of the Hessian as `pairs` know it.
fn descent(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let add = |q: &mut [f64], a: f64, v: &[f64]| q.iter_mut().zip(v).for_each(|(q, v)| *q += a * v);
    let alphas: Vec<f64> = pairs
        .iter()
        .rev()
        .map(|p| {
            let a = p.rho * dot(&p.s, &q);
            add(&mut q, -a, &p.y);
            a
        })
        .collect();
    if let Some(last) = pairs.back() {
        let scale = 1.0 / (last.rho * dot(&last.y, &last.y));
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for (p, a) in pairs.iter().zip(alphas.into_iter().rev()) {
        let b = p.rho * dot(&p.y, &q);
        add(&mut q, a - b, &p.s);
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

#[cfg(test)]
mod tests {
    use antiphon_core::{Noise, Purpose, Stream};

    use super::*;

    /// Normal features around a centre of each class.
    fn examples(each: usize, count: usize, width: usize, seed: u64) -> (Vec<f32>, Vec<u32>) {
        let mut s = Stream::new(seed, Purpose::Test);
        let centres: Vec<f32> = (0..count * width).map(|_| s.standard_normal() as f32).collect();
        let classes: Vec<u32> = (0..each * count).map(|i| (i % count) as u32).collect();
        let row = |c: &u32| centres[*c as usize * width..][..width].to_vec();
        let features = classes.iter().flat_map(row).map(|m| m + s.standard_normal() as f32).collect();
        (features, classes)
    }

    #[test]
    fn the_head_is_where_the_gradient_vanishes() {
        for (count, width, bias) in [(2, 40, true), (5, 7, true), (3, 6, false)] {
            let (features, classes) = examples(8, count, width, 3);
            let probe = Probe { features: &features, width, classes: &classes, count, bias };
            let head = probe.fit().unwrap();
            let x: Vec<f64> = head.iter().map(|v| f64::from(*v)).collect();
            let (loss, gradient) = probe.loss(&x);
            let (at_zero, first) = probe.loss(&vec![0.0; probe.len()]);
            assert!((at_zero - (count as f64).ln()).abs() < 1e-12);
            // what rounding to binary32 leaves
            assert!(norm(&gradient) < 1e-6 * norm(&first), "{} of {}", norm(&gradient), norm(&first));
            // strictly convex: every other head is worse
            let mut s = Stream::new(5, Purpose::Test);
            let off: Vec<f64> = x.iter().map(|v| v + 0.1 * s.standard_normal()).collect();
            assert!(loss < probe.loss(&off).0 && loss < at_zero);
        }
    }

    #[test]
    fn gradients_are_differences() {
        let (features, classes) = examples(4, 3, 5, 1);
        let probe = Probe { features: &features, width: 5, classes: &classes, count: 3, bias: true };
        let mut s = Stream::new(2, Purpose::Test);
        let x: Vec<f64> = (0..probe.len()).map(|_| s.standard_normal()).collect();
        let gradient = probe.loss(&x).1;
        for (i, g) in gradient.iter().enumerate() {
            let at = |h: f64| {
                let mut x = x.clone();
                x[i] += h;
                probe.loss(&x).0
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((difference - g).abs() < 1e-8, "{i}: {difference} and {g}");
        }
    }

    #[test]
    fn one_feature_and_two_classes_have_a_closed_form() {
        // features ±1 for the classes: with z = w₁ − w₀ and L = log(1 + e^−z) + (λ/4) z², zero gradient is
        // λ z / 2 = 1 / (1 + e^z)
        let features = [-1.0, 1.0, -1.0, 1.0];
        let probe = Probe { features: &features, width: 1, classes: &[0, 1, 0, 1], count: 2, bias: true };
        let head = probe.fit().unwrap();
        let z = f64::from(head[1] - head[0]);
        assert!((z / 8.0 - 1.0 / (1.0 + z.exp())).abs() < 1e-6, "{head:?}");
        assert!((head[0] + head[1]).abs() < 1e-6 && head[2].abs() < 1e-6 && head[3].abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let probe = Probe { features: &[1.0, 2.0], width: 1, classes: &[0, 1], count: 2, bias: true };
        let features = Probe { features: &[1.0, f32::NAN], ..probe };
        assert_eq!(features.fit(), Err(ProbeError::NotFinite { index: 1 }));
        let absent = Probe { count: 3, ..probe };
        assert_eq!(absent.fit(), Err(ProbeError::Absent { class: 2, count: 3 }));
        let class = Probe { classes: &[0, 2], ..probe };
        assert_eq!(class.fit(), Err(ProbeError::Class { index: 1, class: 2, count: 2 }));
        let shape = Probe { width: 2, ..probe };
        assert_eq!(shape.fit(), Err(ProbeError::Shape { features: 2, examples: 2, width: 2 }));
    }
}
