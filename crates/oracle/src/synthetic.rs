//! An oracle in closed form, of every tier: federated search is tested against algebra, and its queries are counted.
//!
//! A bag of tokens and a log-linear read-out. With token embeddings `E`: `[vocabulary, width]`, a read-out `U` of the same
//! shape and soft rows `S`:
//!
//! ```text
//! h = Σ_rows S + Σ_t E[t] / √tokens,     log p(· | prompt) = log_softmax(U h)
//! ```
//!
//! A label of several tokens has the sum of their log-probabilities. At the weight tier `θ` (`[width]`) is added to `h`. As
//! text, a prompt is written `w3 w17`, and what is generated is the likeliest token.
//!
//! Nothing of it is a language model; what it has in common with one is that some prompts are better than others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use antiphon_core::{Digest, Noise, Purpose, Schema, SchemaError, Stream, TensorSpec};

use crate::access::Access;
use crate::answer::{Answers, LabelScore, Missing, Usage};
use crate::error::OracleError;
use crate::oracle::{EmbedOracle, Facts, Identity, LogprobOracle, TextOracle, WeightOracle};
use crate::query::{Label, Prompt, Query, ScoreQuery, Soft, TextQuery};

/// See the module.
#[derive(Debug)]
pub struct Synthetic {
    facts: Facts,
    vocabulary: usize,
    width: usize,
    embeddings: Vec<f32>,
    readout: Vec<f32>,
    schema: Schema,
    /// Every so many questions one has no answer.
    gap_every: Option<u64>,
    asked: AtomicU64,
}

impl Synthetic {
    /// `vocabulary` tokens in `width` dimensions, everything normal and drawn from `seed`.
    pub fn new(vocabulary: usize, width: usize, seed: u64) -> Result<Self, SchemaError> {
        let mut stream = Stream::new(seed, Purpose::Synthesis);
        let mut normals =
            |scale: f64| (0..vocabulary * width).map(|_| (scale * stream.standard_normal()) as f32).collect();
        let spec = TensorSpec { name: "shift".to_owned(), shape: vec![width] };
        Ok(Self {
            facts: Facts {
                identity: Identity {
                    provider: "synthetic".to_owned(),
                    model: format!("bag-{vocabulary}x{width}"),
                    fingerprint: Digest::of(&seed.to_le_bytes()),
                },
                access: Access::Weights,
                context: Some(64),
                noise_floor: Some(0.0),
            },
            vocabulary,
            width,
            embeddings: normals(1.0),
            readout: normals(1.0 / (width as f64).sqrt()),
            schema: Schema::new(vec![spec])?,
            gap_every: None,
            asked: AtomicU64::new(0),
        })
    }

    /// The same, where every `n`-th question has no answer.
    #[must_use]
    pub fn with_gaps(mut self, n: u64) -> Self {
        self.gap_every = Some(n);
        self
    }

    /// Questions asked so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn ids(&self, prompt: &Prompt) -> Result<Vec<usize>, Missing> {
        let ids: Vec<usize> = match prompt {
            Prompt::Tokens(ids) => ids.iter().map(|&i| i as usize).collect(),
            Prompt::Text(text) => text.split_whitespace().map(word).collect::<Result<_, _>>()?,
        };
        self.known(ids)
    }

    fn label(&self, label: &Label) -> Result<Vec<usize>, Missing> {
        match label {
            Label::Tokens(ids) => self.known(ids.iter().map(|&i| i as usize).collect()),
            Label::Text(text) => self.known(text.split_whitespace().map(word).collect::<Result<_, _>>()?),
        }
    }

    fn known(&self, ids: Vec<usize>) -> Result<Vec<usize>, Missing> {
        match ids.iter().find(|i| **i >= self.vocabulary) {
            Some(i) => Err(Missing::Malformed { reason: format!("no token {i}") }),
            None => Ok(ids),
        }
    }

    /// Log-probabilities of every token after `ids`.
    fn predict(&self, ids: &[usize], soft: Option<&Soft>, shift: Option<&[f32]>) -> Vec<f64> {
        let mut h = vec![0.0_f64; self.width];
        let share = 1.0 / (ids.len().max(1) as f64).sqrt();
        for &i in ids {
            let row = &self.embeddings[i * self.width..(i + 1) * self.width];
            h.iter_mut().zip(row).for_each(|(h, e)| *h += share * f64::from(*e));
        }
        for row in soft.iter().flat_map(|s| s.values().chunks_exact(self.width)).chain(shift) {
            h.iter_mut().zip(row).for_each(|(h, e)| *h += f64::from(*e));
        }
        let dot = |u: &[f32]| u.iter().zip(&h).map(|(u, h)| f64::from(*u) * h).sum();
        let logits: Vec<f64> = self.readout.chunks_exact(self.width).map(dot).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = logits.iter().map(|l| (l - top).exp()).sum::<f64>().ln() + top;
        logits.into_iter().map(|l| l - total).collect()
    }

    fn one(
        &self,
        query: &ScoreQuery,
        soft: Option<&Soft>,
        shift: Option<&[f32]>,
    ) -> Result<Vec<LabelScore>, Missing> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        if self.gap_every.is_some_and(|n| number.is_multiple_of(n)) {
            return Err(Missing::Unreachable { reason: "a gap was asked for".to_owned() });
        }
        let ids = self.ids(&query.prompt)?;
        let labels = query.labels.iter().map(|l| self.label(l)).collect::<Result<Vec<_>, _>>()?;
        let found = ids.len() + soft.map_or(0, Soft::rows) + labels.iter().map(Vec::len).max().unwrap_or(0);
        if let Some(context) = self.facts.context.filter(|c| found > *c) {
            return Err(Missing::Context { context, found });
        }
        let logprobs = self.predict(&ids, soft, shift);
        Ok(labels
            .iter()
            .map(|l| LabelScore {
                logprob: l.iter().map(|&i| logprobs[i]).sum(),
                censored: false,
                tokens: l.len() as u32,
            })
            .collect())
    }

    fn all(
        &self,
        batch: &[ScoreQuery],
        soft: Option<&Soft>,
        shift: Option<&[f32]>,
    ) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        if let Some(index) = batch.iter().position(|q| q.labels.is_empty()) {
            return Err(OracleError::Question { index, reason: "it asks for no label" });
        }
        let items: Vec<_> = batch.iter().map(|q| self.one(q, soft, shift)).collect();
        let usage = batch.iter().map(|q| self.at_most(Query::Score(q))).sum();
        Ok(Answers { items, usage })
    }
}

fn word(w: &str) -> Result<usize, Missing> {
    let id = w.strip_prefix('w').and_then(|n| n.parse().ok());
    id.ok_or_else(|| Missing::Malformed { reason: format!("`{w}` is no word of this vocabulary") })
}

fn length(prompt: &Prompt) -> u64 {
    match prompt {
        Prompt::Text(t) => t.split_whitespace().count() as u64,
        Prompt::Tokens(ids) => ids.len() as u64,
    }
}

impl TextOracle for Synthetic {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn at_most(&self, query: Query<'_>) -> Usage {
        let (prompt, completion) = match query {
            Query::Text(q) => (&q.prompt, 1),
            Query::Score(q) | Query::Soft(_, q) | Query::At(_, q) => (&q.prompt, 0),
        };
        Usage {
            calls: 1,
            examples: 1,
            prompt_tokens: length(prompt),
            completion_tokens: completion,
            ..Usage::ZERO
        }
    }

    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError> {
        let best = |q: &TextQuery| {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let logprobs = self.predict(&self.ids(&q.prompt)?, None, None);
            let (best, _) = logprobs
                .iter()
                .enumerate()
                .fold((0, f64::NEG_INFINITY), |best, (i, &l)| if l > best.1 { (i, l) } else { best });
            Ok(format!("w{best}"))
        };
        let usage = batch.iter().map(|q| self.at_most(Query::Text(q))).sum();
        Ok(Answers { items: batch.iter().map(best).collect(), usage })
    }
}

impl LogprobOracle for Synthetic {
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.all(batch, None, None)
    }
}

impl EmbedOracle for Synthetic {
    fn width(&self) -> usize {
        self.width
    }

    fn embedding_std(&self) -> f64 {
        1.0
    }

    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        if soft.width() != self.width {
            return Err(OracleError::Width { expected: self.width, found: soft.width() });
        }
        self.all(batch, Some(soft), None)
    }
}

impl WeightOracle for Synthetic {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn score_at(&self, theta: &[f32], batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        if theta.len() != self.width {
            return Err(OracleError::Length { expected: self.width, found: theta.len() });
        }
        self.all(batch, None, Some(theta))
    }
}

/// The labels `w0 … w(n-1)`, shared by all examples of a task.
#[must_use]
pub fn labels(n: u32) -> Arc<[Label]> {
    (0..n).map(|i| Label::Tokens(vec![i])).collect()
}
