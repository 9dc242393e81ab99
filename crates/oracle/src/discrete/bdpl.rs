//! Black-box discrete prompt learning (Diao et al. 2023, arXiv:2201.08531): gradients of the expected loss from the losses of
//! sampled prompts.
//!
//! With `I` prompts, `j_i^k` the token of prompt `k` at position `i`, and `L_k` its loss on one batch that all share:
//!
//! ```text
//! ∂/∂p_i ≈ 1/(I−1) Σ_k (L_k − L̄) s_i^k,      score s_i^k = e_{j_i^k} / p_{i, j_i^k}
//! ```
//!
//! Its mean is `∂E[L]/∂p_ij − E[L]`; what a row has in common leaves with the projection onto the simplex. BDPL's code puts
//! `−1/p` into the other entries of the score, which points elsewhere and is ruled by the least likely tokens (shown in the
//! tests); it is not offered.
//!
//! Gumbel variant (FedOne's): `p = softmax((log α + g)/τ)` with `g` drawn for each prompt, and the score with respect to `α`,
//! `(1 − p_j)/(α_j τ)` for the token drawn and `−p_j/(α_j τ)` for the others. FedOne draws `g` once a batch, which at
//! `τ = 0.1` makes the `I` prompts of a batch nearly one.

use std::collections::BTreeMap;

use antiphon_core::Stream;

use super::rows::{Rows, RowsError, draw};

/// How a client learns in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Prompts a step, `I >= 2`.
    pub samples: usize,
    /// Of AdamW.
    pub learning_rate: f64,
    /// Decoupled.
    pub weight_decay: f64,
    /// Largest norm of a gradient.
    pub max_norm: f64,
    /// The Gumbel variant's temperature; `None` is BDPL itself.
    pub temperature: Option<f64>,
}

/// Below this a probability counts as this in a score, whose variance is its inverse.
const LEAST: f64 = 1e-6;

/// What a client's round found.
#[derive(Clone, Debug, PartialEq)]
pub struct Learnt {
    /// Where it ended.
    pub rows: Rows,
    /// Mean loss of the prompts sampled, nats; `NaN` if none was evaluated.
    pub loss: f64,
    /// Steps in which fewer than two prompts had a loss, and nothing was learnt.
    pub idle: u32,
}

/// A search that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BdplError<E> {
    /// The distribution is none any more.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// Of whoever evaluates.
    #[error(transparent)]
    Evaluate(E),
}

/// `steps` steps from `start`. `loss(step, prompt)` is that of a prompt, as indices of candidates, on the batch of the step,
/// the same for every prompt; `NaN` is missing. Prompts that coincide are evaluated once and count as often as they were
/// drawn.
pub fn learn<E>(
    start: &Rows,
    settings: &Settings,
    steps: u32,
    stream: &mut Stream,
    mut loss: impl FnMut(u32, &[usize]) -> Result<f64, E>,
) -> Result<Learnt, BdplError<E>> {
    let mut rows = start.clone();
    let mut adam = AdamW::new(rows.values().len());
    let (mut sum, mut known, mut idle) = (0.0, 0_u64, 0);
    for step in 0..steps {
        let draws: Vec<Draw> =
            (0..settings.samples).map(|_| Draw::new(&rows, settings.temperature, stream)).collect();
        let mut seen: BTreeMap<Vec<usize>, f64> = BTreeMap::new();
        let mut samples = Vec::with_capacity(draws.len());
        for d in draws {
            let value = match seen.get(&d.prompt) {
                Some(&value) => value,
                None => {
                    let value = loss(step, &d.prompt).map_err(BdplError::Evaluate)?;
                    seen.insert(d.prompt.clone(), value);
                    value
                }
            };
            if !value.is_nan() {
                samples.push((d, value));
                sum += value;
                known += 1;
            }
        }
        let Some(mut gradient) = estimate(&rows, settings.temperature, &samples) else {
            idle += 1;
            continue;
        };
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        if norm > settings.max_norm {
            gradient.iter_mut().for_each(|g| *g *= settings.max_norm / norm);
        }
        let mut p = rows.values().to_vec();
        adam.step(&mut p, &gradient, settings);
        rows = Rows::new(rows.positions(), rows.candidates(), p)?;
    }
    Ok(Learnt { rows, loss: if known > 0 { sum / known as f64 } else { f64::NAN }, idle })
}

/// A sampled prompt, and in the Gumbel variant the distribution that it was drawn from.
#[derive(Clone, Debug)]
struct Draw {
    prompt: Vec<usize>,
    soft: Option<Vec<f64>>,
}

impl Draw {
    fn new(rows: &Rows, temperature: Option<f64>, stream: &mut Stream) -> Self {
        let Some(tau) = temperature else { return Self { prompt: rows.sample(stream), soft: None } };
        let gumbel = |stream: &mut Stream| -(-(1.0 - stream.uniform()).ln()).ln();
        let noise: Vec<f64> = rows.values().iter().map(|_| gumbel(stream)).collect();
        let soft = soften(rows, &noise, tau);
        let prompt = soft.chunks_exact(rows.candidates()).map(|row| draw(row, stream)).collect();
        Self { prompt, soft: Some(soft) }
    }
}

/// `softmax((log α + g)/τ)` by rows.
fn soften(rows: &Rows, noise: &[f64], tau: f64) -> Vec<f64> {
    let mut out: Vec<f64> =
        rows.values().iter().zip(noise).map(|(a, g)| (a.max(LEAST).ln() + g) / tau).collect();
    for row in out.chunks_exact_mut(rows.candidates()) {
        let total = crate::task::log_sum_exp(row);
        row.iter_mut().for_each(|v| *v = (*v - total).exp());
    }
    out
}

/// Adds `weight` times the score of a draw.
fn add_score(rows: &Rows, temperature: Option<f64>, draw: &Draw, weight: f64, out: &mut [f64]) {
    let n = rows.candidates();
    for (i, &j) in draw.prompt.iter().enumerate() {
        let (p, out) = (&rows.values()[i * n..(i + 1) * n], &mut out[i * n..(i + 1) * n]);
        match (&draw.soft, temperature) {
            (Some(soft), Some(tau)) => {
                let soft = &soft[i * n..(i + 1) * n];
                for (k, o) in out.iter_mut().enumerate() {
                    let hit = f64::from(u8::from(k == j));
                    *o += weight * (hit - soft[k]) / (p[k].max(LEAST) * tau);
                }
            }
            _ => out[j] += weight / p[j].max(LEAST),
        }
    }
}

/// The estimate of the module's head; `None` from fewer than two prompts.
fn estimate(rows: &Rows, temperature: Option<f64>, samples: &[(Draw, f64)]) -> Option<Vec<f64>> {
    if samples.len() < 2 {
        return None;
    }
    let mean = samples.iter().map(|(_, l)| l).sum::<f64>() / samples.len() as f64;
    let mut out = vec![0.0; rows.values().len()];
    for (draw, loss) in samples {
        let weight = (loss - mean) / (samples.len() - 1) as f64;
        add_score(rows, temperature, draw, weight, &mut out);
    }
    Some(out)
}

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with PyTorch's constants, from zero state.
struct AdamW {
    m: Vec<f64>,
    v: Vec<f64>,
    t: i32,
}

impl AdamW {
    fn new(n: usize) -> Self {
        Self { m: vec![0.0; n], v: vec![0.0; n], t: 0 }
    }

    fn step(&mut self, x: &mut [f64], g: &[f64], s: &Settings) {
        const BETA: (f64, f64) = (0.9, 0.999);
        self.t += 1;
        let (first, second) = (1.0 - BETA.0.powi(self.t), 1.0 - BETA.1.powi(self.t));
        for (((x, g), m), v) in x.iter_mut().zip(g).zip(&mut self.m).zip(&mut self.v) {
            *m = BETA.0 * *m + (1.0 - BETA.0) * g;
            *v = BETA.1 * *v + (1.0 - BETA.1) * g * g;
            *x -= s.learning_rate * (s.weight_decay * *x + (*m / first) / ((*v / second).sqrt() + 1e-8));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use antiphon_core::Purpose;

    use super::*;

    const N: usize = 3;

    /// A loss in which positions interact.
    fn toy(prompt: &[usize]) -> f64 {
        let table = [[0.2, 1.0, -0.5], [2.0, -1.0, 0.3], [0.7, 0.1, 1.5]];
        table[prompt[0]][prompt[1]]
    }

    fn all() -> Vec<Vec<usize>> {
        (0..N * N).map(|k| vec![k / N, k % N]).collect()
    }

    fn rows() -> Rows {
        Rows::new(2, N, vec![0.2, 0.5, 0.3, 0.6, 0.1, 0.3]).unwrap()
    }

    fn probability(rows: &Rows, prompt: &[usize]) -> f64 {
        rows.values()[prompt[0]] * rows.values()[N + prompt[1]]
    }

    /// `∂E[L]/∂p_ij`, every entry free.
    fn exact(rows: &Rows) -> Vec<f64> {
        let mut out = vec![0.0; 2 * N];
        for prompt in all() {
            let l = toy(&prompt);
            out[prompt[0]] += rows.values()[N + prompt[1]] * l;
            out[N + prompt[1]] += rows.values()[prompt[0]] * l;
        }
        out
    }

    /// The mean of the estimate over every pair of prompts.
    fn mean_estimate(rows: &Rows, score: impl Fn(&[usize], f64, &mut [f64])) -> Vec<f64> {
        let mut mean = vec![0.0; 2 * N];
        for a in all() {
            for b in all() {
                let weight = probability(rows, &a) * probability(rows, &b);
                let half = (toy(&a) - toy(&b)) / 2.0;
                score(&a, weight * half, &mut mean);
                score(&b, -weight * half, &mut mean);
            }
        }
        mean
    }

    /// Without what each row has in common, which the projection removes.
    fn centred(v: &[f64]) -> Vec<f64> {
        v.chunks_exact(N).flat_map(|r| r.iter().map(|x| x - r.iter().sum::<f64>() / N as f64)).collect()
    }

    #[test]
    fn the_estimate_is_unbiased_and_that_of_the_original_code_is_not() {
        let rows = rows();
        let ours = mean_estimate(&rows, |prompt, w, out| {
            add_score(&rows, None, &Draw { prompt: prompt.to_vec(), soft: None }, w, out);
        });
        let want = exact(&rows);
        let expected: f64 = all().iter().map(|p| probability(&rows, p) * toy(p)).sum();
        for (a, b) in ours.iter().zip(&want) {
            assert!((a - (b - expected)).abs() < 1e-12, "{ours:?} {want:?}");
        }
        let original = mean_estimate(&rows, |prompt, w, out| {
            for (i, &j) in prompt.iter().enumerate() {
                for k in 0..N {
                    let sign = if k == j { 1.0 } else { -1.0 };
                    out[i * N + k] += sign * w / rows.values()[i * N + k];
                }
            }
        });
        let far =
            centred(&original).iter().zip(centred(&want)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far > 0.3, "{far}");
    }

    #[test]
    fn the_estimate_from_samples_is_the_one_enumerated() {
        // two prompts: 1/(I−1) Σ (L − L̄) s
        let rows = rows();
        let samples: Vec<(Draw, f64)> =
            [[0, 1], [2, 2]].iter().map(|p| (Draw { prompt: p.to_vec(), soft: None }, toy(p))).collect();
        let g = estimate(&rows, None, &samples).unwrap();
        let half = (toy(&[0, 1]) - toy(&[2, 2])) / 2.0;
        let want = [half / 0.2, 0.0, -half / 0.3, 0.0, half / 0.1, -half / 0.3];
        assert!(g.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{g:?}");
        assert!(estimate(&rows, None, &samples[..1]).is_none());
    }

    #[test]
    fn the_gumbel_score_is_the_derivative_at_given_noise() {
        let (rows, tau) = (rows(), 0.7);
        let noise = [0.3, -0.2, 1.1, 0.0, 0.4, -0.9];
        let mean = |rows: &Rows| -> f64 {
            let soft = soften(rows, &noise, tau);
            all().iter().map(|p| soft[p[0]] * soft[N + p[1]] * toy(p)).sum()
        };
        let soft = soften(&rows, &noise, tau);
        let mut got = vec![0.0; 2 * N];
        for prompt in all() {
            let w = soft[prompt[0]] * soft[N + prompt[1]] * toy(&prompt);
            add_score(&rows, Some(tau), &Draw { prompt, soft: Some(soft.clone()) }, w, &mut got);
        }
        for (k, got) in got.iter().enumerate() {
            let moved = |by: f64| {
                let mut r = rows.clone();
                r.p_mut()[k] += by;
                mean(&r)
            };
            let want = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((got - want).abs() < 1e-6, "{k}: {got} {want}");
        }
    }

    #[test]
    fn both_variants_find_the_best_prompt_and_ask_equal_prompts_once() {
        for temperature in [None, Some(1.0)] {
            let settings =
                Settings { samples: 12, learning_rate: 0.02, weight_decay: 0.0, max_norm: 3.0, temperature };
            let mut stream = Stream::new(4, Purpose::Test);
            let mut asked = 0;
            let learnt = learn(&Rows::uniform(2, N).unwrap(), &settings, 150, &mut stream, |_, p| {
                asked += 1;
                Ok::<_, Infallible>(toy(p))
            })
            .unwrap();
            assert_eq!(learnt.rows.best(), [1, 1], "{temperature:?}: {:?}", learnt.rows);
            // there are nine prompts, of twelve drawn at least three coincide
            assert!(asked <= 150 * 9 && learnt.idle == 0);
        }
    }

    #[test]
    fn gaps_are_left_out_and_nothing_is_learnt_from_one_prompt() {
        let settings =
            Settings { samples: 4, learning_rate: 0.1, weight_decay: 0.0, max_norm: 3.0, temperature: None };
        let start = rows();
        let mut stream = Stream::new(4, Purpose::Test);
        let gap = |_: u32, _: &[usize]| Ok::<_, Infallible>(f64::NAN);
        let learnt = learn(&start, &settings, 5, &mut stream, gap).unwrap();
        assert!(learnt.rows == start && learnt.idle == 5 && learnt.loss.is_nan());
    }
}
