//! The oracle inside this process: our engine behind the traits of black-box access, so that a search runs offline and
//! exactly repeatably. What it hands out is what the traits say; weights and embeddings stay here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_core::{Digest, Purpose, Stream};
use antiphon_kernels::{Backend, Cpu};
use antiphon_model::generate::{Generation, Generator, Room, Sampling};
use antiphon_model::pool::{Feed, Input, Pool, PoolRoom};
use antiphon_model::{Net, NetError};
use antiphon_oracle::{
    Access, Answers, EmbedOracle, Facts, Identity, Label, LabelScore, LogprobOracle, Missing, OracleError,
    Prompt, Query, ScoreQuery, Soft, TextOracle, TextQuery, Usage,
};

use super::Tokens;

/// Sequences that share a forward.
const TOGETHER: usize = 16;

/// See the module.
pub(crate) struct Embedded {
    net: Net<Cpu>,
    backend: Arc<Cpu>,
    tokens: Tokens,
    facts: Facts,
    context: usize,
    embedding_std: f64,
    /// As many as ever answered at once.
    idle: Mutex<Vec<Pool<Cpu>>>,
    stop: Arc<AtomicBool>,
}

impl Embedded {
    /// An oracle on `net`, which has nothing trainable. `base` identifies the weights.
    pub(crate) fn new(
        (backend, net): (Arc<Cpu>, Net<Cpu>),
        tokens: Tokens,
        (name, base): (String, Digest),
        embedding_std: f64,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let context = net.limits().max_len;
        let identity = Identity { provider: "embedded".to_owned(), model: name, fingerprint: base };
        let facts = Facts {
            identity,
            access: Access::Embeddings,
            context: Some(context),
            // same bits on every call: see `pool.rs` of the model crate
            noise_floor: Some(0.0),
        };
        Self { net, backend, tokens, facts, context, embedding_std, idle: Mutex::default(), stop }
    }

    fn label(&self, label: &Label) -> Result<Vec<u32>, Missing> {
        let ids = match label {
            Label::Tokens(ids) => ids.clone(),
            Label::Text(text) => {
                self.tokens.plain(text).map_err(|e| Missing::Malformed { reason: e.to_string() })?
            }
        };
        let vocab = self.net.spec().vocab;
        match ids.iter().find(|i| **i as usize >= vocab) {
            _ if ids.is_empty() => Err(Missing::Malformed { reason: "a label without tokens".to_owned() }),
            Some(id) => Err(Missing::Malformed {
                reason: format!("label token {id}, but the vocabulary has {vocab}"),
            }),
            None => Ok(ids),
        }
    }

    /// The question in ids; each of its labels with all but its last token is one sequence to read, and labels of one token
    /// share one.
    fn reading(&self, query: &ScoreQuery, soft: usize) -> Result<Reading, Missing> {
        let prompt = prompt_ids(&self.tokens, &query.prompt)?;
        let labels = query.labels.iter().map(|l| self.label(l)).collect::<Result<Vec<_>, _>>()?;
        let longest = labels.iter().map(Vec::len).max().unwrap_or(1);
        let found = soft + prompt.len() + longest - 1;
        if found > self.context || soft + prompt.len() == 0 {
            return Err(Missing::Context { context: self.context, found });
        }
        let vocab = self.net.spec().vocab;
        if prompt.iter().any(|id| *id as usize >= vocab) {
            return Err(Missing::Malformed { reason: format!("a token beyond the vocabulary of {vocab}") });
        }
        Ok(Reading { prompt, labels })
    }

    /// Scores of one reading: log-probabilities of each label.
    fn read(
        &self,
        pool: &mut Pool<Cpu>,
        group: &[&Reading],
        soft: &[f32],
    ) -> Result<Vec<Vec<LabelScore>>, NetError> {
        let mut scores: Vec<Vec<LabelScore>> = group.iter().map(|r| vec![NONE; r.labels.len()]).collect();
        // (reading, label or all of one token, sequence of ids)
        let mut sequences: Vec<(usize, Option<usize>, Vec<u32>)> = Vec::new();
        for (i, r) in group.iter().enumerate() {
            if r.labels.iter().any(|l| l.len() == 1) {
                sequences.push((i, None, r.prompt.clone()));
            }
            for (l, label) in r.labels.iter().enumerate().filter(|(_, l)| l.len() > 1) {
                let ids = r.prompt.iter().chain(&label[..label.len() - 1]).copied().collect();
                sequences.push((i, Some(l), ids));
            }
        }
        let rows = soft.len() / self.net.spec().hidden;
        let params = self.backend.alloc(0)?;
        for chunk in sequences.chunks(TOGETHER) {
            let mut places: Vec<_> =
                chunk.iter().filter_map(|(.., ids)| pool.open(rows + ids.len())).collect();
            let mut feeds: Vec<Feed<'_>> = places
                .iter_mut()
                .zip(chunk)
                .map(|(sequence, (i, _, ids))| Feed {
                    sequence,
                    input: Input { vectors: soft, tokens: ids },
                    logits_from: rows + group[*i].prompt.len() - 1,
                })
                .collect();
            let result =
                pool.step(&*self.backend, &self.net, &params, &mut feeds, &mut |feed, row, logits| {
                    let (i, which, _) = &chunk[feed];
                    let total = log_sum_exp(logits);
                    let at = row - (rows + group[*i].prompt.len() - 1);
                    for (l, label) in group[*i].labels.iter().enumerate() {
                        let mine = match which {
                            Some(only) => *only == l,
                            None => label.len() == 1,
                        };
                        if mine {
                            let score = &mut scores[*i][l];
                            score.logprob += f64::from(logits[label[at] as usize]) - total;
                            score.tokens += 1;
                        }
                    }
                });
            for place in places {
                pool.close(place);
            }
            result?;
        }
        Ok(scores)
    }

    fn answer(
        &self,
        soft: Option<&Soft>,
        batch: &[ScoreQuery],
    ) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        if let Some(index) = batch.iter().position(|q| q.labels.is_empty()) {
            return Err(OracleError::Question { index, reason: "it asks for no label" });
        }
        let width = self.net.spec().hidden;
        if let Some(found) = soft.map(Soft::width).filter(|w| *w != width) {
            return Err(OracleError::Width { expected: width, found });
        }
        let rows = soft.map_or(0, Soft::rows);
        let readings: Vec<_> = batch.iter().map(|q| self.reading(q, rows)).collect();
        let mut pool = self.pool().map_err(failed)?;
        let known: Vec<(usize, &Reading)> =
            readings.iter().enumerate().filter_map(|(i, r)| Some((i, r.as_ref().ok()?))).collect();
        let mut items: Vec<Result<Vec<LabelScore>, Missing>> =
            readings.iter().map(|r| r.as_ref().map(|_| Vec::new()).map_err(Clone::clone)).collect();
        for chunk in known.chunks(TOGETHER) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(OracleError::Interrupted);
            }
            let group: Vec<&Reading> = chunk.iter().map(|(_, r)| *r).collect();
            let scores = self.read(&mut pool, &group, soft.map_or(&[], Soft::values)).map_err(failed)?;
            for ((i, _), scores) in chunk.iter().zip(scores) {
                items[*i] = Ok(scores);
            }
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
        let usage = batch.iter().map(|q| self.at_most(Query::Score(q))).sum();
        Ok(Answers { items, usage })
    }

    fn pool(&self) -> Result<Pool<Cpu>, NetError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let rows = TOGETHER * self.context;
        let room = PoolRoom { step_rows: rows, sequences: TOGETHER, positions: rows, head_rows: TOGETHER };
        idle.map_or_else(|| Pool::new(&*self.backend, &self.net, room), Ok)
    }

    fn write(&self, query: &TextQuery) -> Result<String, Missing> {
        let ids = prompt_ids(&self.tokens, &query.prompt)?;
        let wanted = query.max_tokens as usize;
        let found = ids.len() + wanted;
        if found > self.context {
            return Err(Missing::Context { context: self.context, found });
        }
        let sampling = match query.temperature {
            0.0 => Ok(Sampling::greedy()),
            t => Sampling::nucleus(t, 1.0),
        };
        let malformed = |e: &dyn std::error::Error| Missing::Malformed { reason: e.to_string() };
        let sampling = sampling.map_err(|e| malformed(&e))?;
        let stop = self.tokens.0.special().eos.into_iter().collect();
        let options = Generation { max_new_tokens: wanted, sampling, stop };
        let room = Room { sequences: 1, positions: found };
        let run = || {
            let mut generator = Generator::new(&*self.backend, &self.net, room)?;
            let params = self.backend.alloc(0)?;
            let stream = Stream::new(query.seed, Purpose::Generate);
            generator.generate(&*self.backend, &self.net, &params, &[&ids], &options, &stream, &mut |_, _| ())
        };
        let written = run().map_err(|e| malformed(&e))?;
        let ids: Vec<u32> = written.into_iter().flat_map(|g| g.tokens).collect();
        let text = self.tokens.0.decode(&ids, true).map_err(|e| malformed(&e))?;
        let end = query.stop.iter().filter_map(|s| text.find(s.as_str())).min();
        Ok(end.map_or_else(|| text.clone(), |at| text[..at].to_owned()))
    }
}

/// A question in ids.
struct Reading {
    prompt: Vec<u32>,
    labels: Vec<Vec<u32>>,
}

const NONE: LabelScore = LabelScore { logprob: 0.0, censored: false, tokens: 0 };

fn failed(e: NetError) -> OracleError {
    OracleError::Other(Box::new(e))
}

/// Ids of a prompt.
pub(super) fn prompt_ids(tokens: &Tokens, prompt: &Prompt) -> Result<Vec<u32>, Missing> {
    match prompt {
        Prompt::Tokens(ids) => Ok(ids.clone()),
        Prompt::Text(text) => {
            let encoded = tokens.0.encode(text, true);
            encoded.map(|e| e.ids).map_err(|e| Missing::Malformed { reason: e.to_string() })
        }
    }
}

/// What an oracle inside this process counts for a question.
pub(super) fn usage(query: Query<'_>) -> Usage {
    let length = |prompt: &Prompt| match prompt {
        Prompt::Tokens(ids) => ids.len() as u64,
        // a token is a byte at least
        Prompt::Text(text) => text.len() as u64 + 1,
    };
    let (rows, prompt, completion) = match query {
        Query::Text(q) => (0, &q.prompt, u64::from(q.max_tokens)),
        Query::Score(q) | Query::At(_, q) => (0, &q.prompt, 0),
        Query::Soft(soft, q) => (soft.rows() as u64, &q.prompt, 0),
    };
    let prompt_tokens = rows + length(prompt);
    Usage { calls: 1, examples: 1, prompt_tokens, completion_tokens: completion, ..Usage::ZERO }
}

/// In binary64.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - f64::from(top)).exp()).sum();
    sum.ln() + f64::from(top)
}

impl TextOracle for Embedded {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn at_most(&self, query: Query<'_>) -> Usage {
        usage(query)
    }

    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError> {
        let items = batch.iter().map(|q| self.write(q)).collect();
        let usage = batch.iter().map(|q| self.at_most(Query::Text(q))).sum();
        Ok(Answers { items, usage })
    }
}

impl LogprobOracle for Embedded {
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.answer(None, batch)
    }
}

impl EmbedOracle for Embedded {
    fn width(&self) -> usize {
        self.net.spec().hidden
    }

    fn embedding_std(&self) -> f64 {
        self.embedding_std
    }

    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.answer(Some(soft), batch)
    }
}
