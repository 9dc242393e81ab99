//! Generation: greedy or by sampling, with keys and values kept, so that a token costs one row.
//!
//! Prompts are read one after the other and then continued together, one row for each sequence that is not done. Each
//! sequence draws from its own substream, so what it says does not depend on its company.
//!
//! Deliberately missing: beam search, penalties, a cache that forgets what a sliding window no longer sees.

use antiphon_core::Stream;
use antiphon_kernels::{Backend, Dst, Src};

use crate::batch::Batch;
use crate::net::{Cache, Net, NetError, Past};
use crate::workspace::{Mode, Shape, Workspace};

/// How the next token follows from the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling(Kind);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Greedy,
    Nucleus { temperature: f64, top_p: f64 },
}

/// Sampling that is no distribution.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// Zero, negative or not a number.
    #[error("temperature {found}: expected a positive number (greedy decoding is a choice of its own)")]
    Temperature {
        /// The value found.
        found: f64,
    },
    /// Outside `(0, 1]`.
    #[error("top_p {found}: expected more than 0 and at most 1")]
    TopP {
        /// The value found.
        found: f64,
    },
}

impl Sampling {
    /// The most probable token, the first among equals.
    #[must_use]
    pub fn greedy() -> Self {
        Self(Kind::Greedy)
    }

    /// A draw from `softmax(logits / temperature)` restricted to its nucleus: the most probable tokens up to and
    /// including the one that brings their sum to `top_p` (arXiv:1904.09751, section 3.1); 1 restricts nothing.
    ///
    /// # Errors
    /// Values that define no distribution.
    pub fn nucleus(temperature: f64, top_p: f64) -> Result<Self, SamplingError> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(SamplingError::Temperature { found: temperature });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SamplingError::TopP { found: top_p });
        }
        Ok(Self(Kind::Nucleus { temperature, top_p }))
    }

    /// The next token after `logits` over the vocabulary. `scratch` keeps its memory between calls.
    pub fn pick(self, logits: &[f32], stream: &mut Stream, scratch: &mut Vec<(f64, u32)>) -> u32 {
        match self.0 {
            Kind::Greedy => first_greatest(logits),
            Kind::Nucleus { temperature, top_p } => {
                nucleus(logits, temperature, top_p, stream.uniform(), scratch)
            }
        }
    }
}

fn first_greatest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// The token at quantile `u` of the nucleus.
fn nucleus(logits: &[f32], temperature: f64, top_p: f64, u: f64, tokens: &mut Vec<(f64, u32)>) -> u32 {
    let greatest = logits.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    tokens.clear();
    let weight = |v: f32| ((f64::from(v) - f64::from(greatest)) / temperature).exp();
    tokens.extend(logits.iter().zip(0..).map(|(v, i)| (weight(*v), i)));
    // equal weights stand in the order of their ids, so the draw is a function of the logits
    tokens.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let total: f64 = tokens.iter().map(|t| t.0).sum();
    let mut mass = 0.0;
    let kept = tokens
        .iter()
        .position(|t| {
            mass += t.0;
            mass >= top_p * total
        })
        .map_or(tokens.len(), |last| last + 1);
    let mut left = u * mass;
    for &(weight, token) in &tokens[..kept] {
        left -= weight;
        if left < 0.0 {
            return token;
        }
    }
    tokens[kept - 1].1
}

/// When and how to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Most tokens that are added.
    pub max_new_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Tokens that end a sequence; they are not part of it.
    pub stop: Vec<u32>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token.
    Stop(u32),
    /// As many tokens as were asked for.
    Length,
    /// No position is left.
    Positions,
}

/// What was added to a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Without the prompt and without the stop token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// How much a generator serves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Sequences at once.
    pub sequences: usize,
    /// Positions of each: soft prompt, prompt and what is added.
    pub positions: usize,
}

/// Memory for generation: caches, one layer's activations, logits.
#[derive(Debug)]
pub struct Generator<B: Backend> {
    room: Room,
    cache: Cache<B>,
    ws: Workspace<B>,
    batch: Batch,
    /// Row of the cache for each row of the batch.
    rows: Vec<u32>,
    logits: B::Buf,
    host: Vec<f32>,
    scratch: Vec<(f64, u32)>,
}

/// A sequence under way.
struct Going {
    /// Its place among the prompts and in the cache.
    index: usize,
    /// Positions in the cache.
    past: usize,
    last: u32,
    stream: Stream,
}

impl<B: Backend> Generator<B> {
    /// Memory for `room`.
    ///
    /// # Errors
    /// More positions than `net` was made for, or than the device has memory for.
    pub fn new(backend: &B, net: &Net<B>, room: Room) -> Result<Self, NetError> {
        let (spec, limits) = (net.spec(), net.limits());
        if room.positions > limits.max_len {
            return Err(NetError::Positions { found: room.positions, max: limits.max_len });
        }
        let shape = Shape {
            tokens: room.positions.max(room.sequences),
            segments: room.sequences,
            labelled: room.sequences,
        };
        Ok(Self {
            room,
            cache: Cache::new(backend, spec, room.sequences * room.positions)?,
            ws: net.workspace(backend, shape, Mode::Infer)?,
            batch: net.batch(),
            rows: Vec::new(),
            logits: backend.alloc(room.sequences * spec.vocab)?,
            host: vec![0.0; room.sequences * spec.vocab],
            scratch: Vec::new(),
        })
    }

    /// Continues each of `prompts`; sequence `i` draws from substream `i` of `stream`, and `token(i, id)` hears each
    /// token as it is made.
    ///
    /// # Errors
    /// More prompts than room, or a prompt that the model cannot read.
    #[expect(clippy::too_many_arguments, reason = "device, model and parameters are shared with training")]
    pub fn generate(
        &mut self,
        backend: &B,
        net: &Net<B>,
        params: &B::Buf,
        prompts: &[&[u32]],
        options: &Generation,
        stream: &Stream,
        token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Generated>, NetError> {
        if prompts.len() > self.room.sequences {
            let (found, planned) = (prompts.len(), self.room.sequences);
            return Err(NetError::Capacity { what: "prompts", found, planned });
        }
        let mut done: Vec<Generated> =
            prompts.iter().map(|_| Generated { tokens: Vec::new(), finish: Finish::Length }).collect();
        let mut going = Vec::with_capacity(prompts.len());
        if options.max_new_tokens == 0 {
            return Ok(done);
        }
        for (index, prompt) in prompts.iter().enumerate() {
            self.batch.clear();
            self.rows.clear();
            self.add(prompt, index, 0)?;
            self.step(backend, net, params)?;
            let past = self.batch.rows();
            let mut g = Going { index, past, last: 0, stream: stream.substream(index as u64) };
            if self.choose(0, &mut g, options, &mut done[index], token) {
                going.push(g);
            }
        }
        while !going.is_empty() {
            self.batch.clear();
            self.rows.clear();
            for g in &mut going {
                self.add(&[g.last], g.index, g.past)?;
                g.past += 1;
            }
            self.step(backend, net, params)?;
            let mut row = 0;
            going.retain_mut(|g| {
                row += 1;
                self.choose(row - 1, g, options, &mut done[g.index], token)
            });
        }
        Ok(done)
    }

    /// Adds `ids` after `past` positions of sequence `index`.
    fn add(&mut self, ids: &[u32], index: usize, past: usize) -> Result<(), NetError> {
        let at = index * self.room.positions;
        let before = self.batch.rows();
        self.batch.push_decode(ids, past, at)?;
        let added = self.batch.rows() - before;
        if past + added > self.room.positions {
            let (found, planned) = (past + added, self.room.positions);
            return Err(NetError::Capacity { what: "positions of a sequence", found, planned });
        }
        self.rows.extend((at + past) as u32..(at + past + added) as u32);
        Ok(())
    }

    /// Runs the batch; logits of each sequence's last row come to the host.
    fn step(&mut self, backend: &B, net: &Net<B>, params: &B::Buf) -> Result<(), NetError> {
        let past = Past { cache: &mut self.cache, rows: &self.rows, given: None };
        net.forward_cached(backend, params, &self.batch, &mut self.ws, past)?;
        let len = self.batch.last_rows().len() * net.spec().vocab;
        let logits = Dst::new(&mut self.logits, 0, len);
        net.logits(backend, params, &self.batch, self.batch.last_rows(), &mut self.ws, logits)?;
        Ok(backend.download(Src::new(&self.logits, 0, len), &mut self.host[..len])?)
    }

    /// Takes the next token of the sequence at `row` of the logits; false when it has ended.
    fn choose(
        &mut self,
        row: usize,
        g: &mut Going,
        options: &Generation,
        done: &mut Generated,
        token: &mut dyn FnMut(usize, u32),
    ) -> bool {
        let vocab = self.host.len() / self.room.sequences;
        let logits = &self.host[row * vocab..][..vocab];
        let next = options.sampling.pick(logits, &mut g.stream, &mut self.scratch);
        if options.stop.contains(&next) {
            done.finish = Finish::Stop(next);
            return false;
        }
        token(g.index, next);
        done.tokens.push(next);
        g.last = next;
        if done.tokens.len() == options.max_new_tokens {
            return false;
        }
        if g.past == self.room.positions {
            done.finish = Finish::Positions;
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::f32::consts::LN_2;

    use super::*;

    /// Probabilities 1/2, 1/4, 1/8, 1/8 of tokens 2, 0, 1, 3.
    const LOGITS: [f32; 4] = [2.0 * LN_2, LN_2, 3.0 * LN_2, LN_2];

    fn at(top_p: f64, u: f64) -> u32 {
        nucleus(&LOGITS, 1.0, top_p, u, &mut Vec::new())
    }

    #[test]
    fn quantiles_run_through_the_tokens_by_weight() {
        assert_eq!([0.0, 0.49, 0.51, 0.74, 0.76, 0.87, 0.88].map(|u| at(1.0, u)), [2, 2, 0, 0, 1, 1, 3]);
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_reaches_top_p() {
        assert_eq!([0.0, 0.99].map(|u| at(0.4, u)), [2, 2], "one token reaches 0.4");
        // 1/2 and 1/4 reach 0.6: within them, 2 holds two thirds
        assert_eq!([0.66, 0.67, 0.999].map(|u| at(0.6, u)), [2, 0, 0]);
    }

    #[test]
    fn temperature_sharpens() {
        // at half the temperature the weights are squared: 1/4, 1/16, 1/64, 1/64 of their sum 22/64
        let u = 16.0 / 22.0;
        assert_eq!(nucleus(&LOGITS, 0.5, 1.0, u - 1e-6, &mut Vec::new()), 2);
        assert_eq!(nucleus(&LOGITS, 0.5, 1.0, u + 1e-6, &mut Vec::new()), 0);
    }

    #[test]
    fn greedy_takes_the_first_among_equals() {
        assert_eq!(first_greatest(&[0.0, 3.0, 3.0, -1.0]), 1);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        assert_eq!(Sampling::nucleus(0.0, 1.0), Err(SamplingError::Temperature { found: 0.0 }));
        assert!(Sampling::nucleus(f64::NAN, 1.0).is_err());
        assert_eq!(Sampling::nucleus(1.0, 0.0), Err(SamplingError::TopP { found: 0.0 }));
        assert!(Sampling::nucleus(1.0, 1.1).is_err());
    }
}
