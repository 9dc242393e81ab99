//! A sealed encoder: a classifier inside this process that answers with the log-probabilities of its classes, after rows of
//! embeddings or words before the text. What it hands out is what the traits say; weights, features and head stay here.
//!
//! The head was fitted once ([`super::head`]) and never changes. Rows come before everything of the text, its first token
//! included, as a trained prompt's do; pooling reads them like any others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_core::Digest;
use antiphon_kernels::{Backend, Cpu, Dst};
use antiphon_model::{Net, NetError, Reader, Wanted};
use antiphon_oracle::task::likeliest;
use antiphon_oracle::{
    Access, Answers, EmbedOracle, Facts, Identity, Label, LabelScore, LogprobOracle, Missing, OracleError,
    Query, ScoreQuery, Soft, TextOracle, TextQuery, Usage,
};

use super::Tokens;
use super::embedded::{log_sum_exp, prompt_ids, usage};

/// Texts that share a forward.
const TOGETHER: usize = 16;

/// See the module.
pub(crate) struct Sealed {
    backend: Arc<Cpu>,
    /// Without rows before the text, and with as many as the run's prompts have.
    doors: [Door; 2],
    /// Weight and bias.
    head: Vec<f32>,
    /// Of the classes, in order.
    names: Vec<String>,
    tokens: Tokens,
    facts: Facts,
    embedding_std: f64,
    stop: Arc<AtomicBool>,
}

/// One way in.
struct Door {
    net: Net<Cpu>,
    /// As many as ever answered at once.
    idle: Mutex<Vec<Reader<Cpu>>>,
}

impl Door {
    fn new(net: Net<Cpu>) -> Self {
        Self { net, idle: Mutex::default() }
    }
}

/// What a sealed encoder is made of.
pub(super) struct Inside {
    /// Trainable: the head alone.
    pub(super) plain: Net<Cpu>,
    /// Trainable: a prompt, then the head.
    pub(super) prompted: Net<Cpu>,
    pub(super) head: Vec<f32>,
    pub(super) names: Vec<String>,
    pub(super) embedding_std: f64,
}

impl Sealed {
    /// Seals it. `base` identifies the weights.
    pub(super) fn new(
        backend: Arc<Cpu>,
        inside: Inside,
        tokens: Tokens,
        (name, base): (String, Digest),
        stop: Arc<AtomicBool>,
    ) -> Self {
        let Inside { plain, prompted, head, names, embedding_std } = inside;
        let bytes: Vec<u8> = head.iter().flat_map(|v| v.to_le_bytes()).collect();
        let fingerprint = Digest::of(&[base.0, Digest::of(&bytes).0].concat());
        let facts = Facts {
            identity: Identity { provider: "sealed encoder".to_owned(), model: name, fingerprint },
            access: Access::Embeddings,
            context: Some(plain.limits().max_len),
            // same bits on every call: see `reader.rs` of the model crate
            noise_floor: Some(0.0),
        };
        let doors = [plain, prompted].map(Door::new);
        Self { backend, doors, head, names, tokens, facts, embedding_std, stop }
    }

    /// Ids of a text that fits behind `rows`, and the classes that are asked.
    fn reading(&self, query: &ScoreQuery, rows: usize) -> Result<(Vec<u32>, Vec<usize>), Missing> {
        let malformed = |reason: String| Err(Missing::Malformed { reason });
        let ids = prompt_ids(&self.tokens, &query.prompt)?;
        let limits = self.doors[0].net.limits();
        let found = rows + ids.len();
        if found > limits.max_len {
            return Err(Missing::Context { context: limits.max_len, found });
        }
        if ids.is_empty() {
            return malformed("a text without tokens".to_owned());
        }
        if ids.iter().any(|id| *id as usize >= limits.vocab) {
            return malformed(format!("a token beyond the vocabulary of {}", limits.vocab));
        }
        let class = |label: &Label| match label {
            Label::Text(name) => self.names.iter().position(|n| n == name),
            Label::Tokens(_) => None,
        };
        match query.labels.iter().map(class).collect() {
            Some(classes) => Ok((ids, classes)),
            None => malformed(format!("a label that is no class; there are {}", self.names.join(", "))),
        }
    }

    fn answer(
        &self,
        soft: Option<&Soft>,
        batch: &[ScoreQuery],
    ) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        if let Some(index) = batch.iter().position(|q| q.labels.is_empty()) {
            return Err(OracleError::Question { index, reason: "it asks for no label" });
        }
        let door = &self.doors[usize::from(soft.is_some())];
        if let Some(soft) = soft {
            let (width, rows) = (self.width(), door.net.limits().prompt);
            if soft.width() != width {
                return Err(OracleError::Width { expected: width, found: soft.width() });
            }
            if soft.rows() != rows {
                return Err(OracleError::Rows { expected: rows, found: soft.rows() });
            }
        }
        let rows = soft.map_or(0, Soft::rows);
        let readings: Vec<_> = batch.iter().map(|q| self.reading(q, rows)).collect();
        let texts: Vec<&[u32]> = readings.iter().flatten().map(|(ids, _)| &ids[..]).collect();
        let mut logits = self.logits(door, soft.map_or(&[], Soft::values), &texts)?.into_iter();
        let items = readings
            .into_iter()
            .map(|reading| {
                let (_, classes) = reading?;
                let own: Vec<f32> = logits.by_ref().take(self.names.len()).collect();
                let total = log_sum_exp(&own);
                let score = |class: usize| LabelScore {
                    logprob: f64::from(own[class]) - total,
                    censored: false,
                    tokens: 1,
                };
                Ok(classes.into_iter().map(score).collect())
            })
            .collect();
        Ok(Answers { items, usage: batch.iter().map(|q| self.at_most(Query::Score(q))).sum() })
    }

    /// `[texts, classes]`.
    fn logits(&self, door: &Door, rows: &[f32], texts: &[&[u32]]) -> Result<Vec<f32>, OracleError> {
        let idle = door.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let new = || Reader::new(&*self.backend, &door.net, TOGETHER).map_err(failed);
        let mut reader = idle.map_or_else(new, Ok)?;
        let values = [rows, &self.head].concat();
        let mut params = self.backend.alloc(values.len()).map_err(|e| failed(e.into()))?;
        let whole = Dst::new(&mut params, 0, values.len());
        self.backend.upload(&values, whole).map_err(|e| failed(e.into()))?;
        let mut out = Vec::with_capacity(texts.len() * self.names.len());
        for texts in texts.chunks(TOGETHER) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(OracleError::Interrupted);
            }
            let read = reader.read(&*self.backend, &door.net, &params, texts, Wanted::Logits);
            out.extend(read.map_err(failed)?);
        }
        door.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        Ok(out)
    }
}

fn failed(e: NetError) -> OracleError {
    OracleError::Other(Box::new(e))
}

impl TextOracle for Sealed {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn at_most(&self, query: Query<'_>) -> Usage {
        usage(query)
    }

    /// The name of the likeliest class: an encoder writes nothing else.
    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError> {
        let labels: Arc<[Label]> = self.names.iter().map(|n| Label::Text(n.clone())).collect();
        let ask = |q: &TextQuery| ScoreQuery { prompt: q.prompt.clone(), labels: Arc::clone(&labels) };
        let scores = self.score(&batch.iter().map(ask).collect::<Vec<_>>())?;
        let name = |scores: Vec<LabelScore>| {
            let logs: Vec<f64> = scores.iter().map(|s| s.logprob).collect();
            self.names.get(likeliest(&logs)).cloned().unwrap_or_default()
        };
        Ok(Answers { items: scores.items.into_iter().map(|s| s.map(name)).collect(), usage: scores.usage })
    }
}

impl LogprobOracle for Sealed {
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.answer(None, batch)
    }
}

impl EmbedOracle for Sealed {
    fn width(&self) -> usize {
        self.doors[0].net.spec().hidden
    }

    fn embedding_std(&self) -> f64 {
        self.embedding_std
    }

    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.answer(Some(soft), batch)
    }
}
