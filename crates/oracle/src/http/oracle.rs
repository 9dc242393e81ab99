//! The oracle: questions into requests, several in flight, answers in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_core::Digest;
use serde_json::Value;

use super::completions::{Read, echo_body, generated, next_body, read_echo, read_next, read_text, text_body};
use super::error::HttpError;
use super::probe::{CANARY_TOKENS, Found, Way, at_most, canary, probe};
use super::rows::Table;
use super::score::{Joined, check_labels, most_label_tokens, most_tokens};
use super::sender::Sender;
use super::settings::{Dialect, HttpSettings};
use super::{chat, forced, llama, rows, torch};
use crate::access::{Access, Grant};
use crate::answer::{Answers, LabelScore, Missing, Usage};
use crate::error::OracleError;
use crate::oracle::{EmbedOracle, Facts, Identity, LogprobOracle, TextOracle};
use crate::query::{Label, Prompt, Query, ScoreQuery, Soft, TextQuery};

/// A repeated canary may differ by so many times the noise that was seen, and by so much where none was seen.
const SAME: (f64, f64) = (10.0, 1e-3);

/// A model behind HTTP. See [`super`].
#[derive(Debug)]
pub struct HttpOracle {
    settings: HttpSettings,
    sender: Sender,
    facts: Facts,
    found: Found,
    /// Ids of texts, where the server was asked for them.
    ids: Mutex<BTreeMap<(String, bool), Vec<u32>>>,
}

/// Results in order, and what they cost.
type Spent<T> = (Vec<Result<T, Missing>>, Usage);

/// A question without an answer, or the end of asking.
enum Fault {
    Missing(Missing),
    Ends(OracleError),
}

impl From<Missing> for Fault {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl HttpOracle {
    /// Connects and probes. Print [`Self::found`]: it is what the user has.
    ///
    /// # Errors
    /// An address that is not allowed, an endpoint that does not answer, a model that it lacks.
    pub fn connect(settings: HttpSettings) -> Result<Self, HttpError> {
        let origin = settings.origin()?;
        let sender = Sender::new(&settings)?;
        let found = probe(&settings, &origin, &sender)?;
        // breaks during the probe were followed by its own questions
        sender.broke();
        sender.become_discreet();
        let about = format!("{}|{:?}|{:?}", settings.dialect.id(), found.way, found.fingerprint);
        let identity = Identity {
            provider: origin,
            model: found.answers_as.clone(),
            fingerprint: Digest::of(about.as_bytes()),
        };
        let (access, context, noise_floor) = (found.access(), found.context, found.noise_floor);
        let facts = Facts { identity, access, context, noise_floor };
        Ok(Self { settings, sender, facts, found, ids: Mutex::default() })
    }

    /// The most that [`Self::connect`] spends on its probe: to be set aside before. `by_rows`: with a table of embeddings;
    /// `attempts`: times that a request is sent.
    #[must_use]
    pub fn probe_at_most(dialect: Dialect, by_rows: bool, attempts: u32) -> Usage {
        at_most(dialect, by_rows, attempts)
    }

    /// What the probe found.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// The oracle under the tier that it has.
    #[must_use]
    pub fn grant(self) -> Grant {
        match self.facts.access {
            Access::Text => Grant::Text(Arc::new(self)),
            Access::Logprobs => Grant::Logprobs(Arc::new(self)),
            Access::Embeddings | Access::Weights => Grant::Embeddings(Arc::new(self)),
        }
    }

    /// One request, whose answer must come from the model that was probed. `tokens` is the most that its prompts can hold.
    fn ask<T>(
        &self,
        path: &str,
        body: &Value,
        tokens: u64,
        usage: &mut Usage,
        read: impl Fn(&Value) -> Result<Read<T>, String>,
    ) -> Result<Vec<T>, Fault> {
        let answer = self.sender.call(path, Some(body), tokens, usage, |v| match self.other(v) {
            Some(other) => Ok(Err(other)),
            None => read(v).map(Ok),
        })?;
        let read = match answer {
            Err(found) => return Err(Fault::Ends(self.changed(found))),
            Ok(read) => read,
        };
        usage.prompt_tokens += read.prompt_tokens;
        usage.completion_tokens += read.completion_tokens;
        if self.sender.broke() && self.watches() {
            self.same_as_before(usage)?;
        }
        Ok(read.items)
    }

    /// Whether only the canary can tell another model behind the endpoint: llama.cpp's answers carry no fingerprint.
    fn watches(&self) -> bool {
        let silent = self.found.fingerprint.is_none() || self.settings.dialect == Dialect::LlamaCpp;
        silent && self.found.canary.is_some()
    }

    /// Repeats the canary after a connection broke: the server may have been started again with another model.
    fn same_as_before(&self, usage: &mut Usage) -> Result<(), Fault> {
        let now = canary(&self.settings, self.found.way, &self.sender, usage)?.logprob;
        let before = self.found.canary.unwrap_or(now);
        let most = (SAME.0 * self.found.noise_floor.unwrap_or(0.0)).max(SAME.1);
        if (now - before).abs() <= most {
            return Ok(());
        }
        Err(Fault::Ends(self.changed(format!("a model that scores {now:.4} where {before:.4} was"))))
    }

    /// The name or fingerprint in an answer, where it is not the one that was probed.
    fn other(&self, answer: &Value) -> Option<String> {
        let said = |name: &str| answer.get(name).and_then(Value::as_str).map(|said| self.sender.name(said));
        // an endpoint that gave no scores was not asked for its name either
        let named = said("model").filter(|_| self.found.canary.is_some());
        if let Some(model) = named.filter(|m| *m != self.found.answers_as && *m != self.settings.model) {
            return Some(Sender::shown(model));
        }
        let expected = self.found.fingerprint.as_deref().filter(|_| self.settings.pin_fingerprint)?;
        said("system_fingerprint").filter(|f| f != expected).map(Sender::shown)
    }

    fn changed(&self, found: String) -> OracleError {
        let expected = match &self.found.fingerprint {
            Some(fingerprint) => format!("{} {fingerprint}", self.found.answers_as),
            None => self.found.answers_as.clone(),
        };
        OracleError::OtherModel { expected, found }
    }

    /// Runs `work` over `jobs` with several in flight; results in order. The first end ends all.
    fn each<J: Sync, T: Send>(
        &self,
        jobs: &[J],
        work: impl Fn(&J, &mut Usage) -> Result<T, Fault> + Sync,
    ) -> Result<Spent<T>, OracleError> {
        if let Some(refusal) = self.sender.refusal() {
            return Err(refusal);
        }
        let next = AtomicUsize::new(0);
        let done = Mutex::new((Vec::new(), Usage::ZERO, None));
        let threads = self.settings.in_flight.clamp(1, jobs.len().max(1));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::SeqCst);
                        let Some(job) = jobs.get(at) else { return };
                        let mut usage = Usage::ZERO;
                        let ended = done.lock().unwrap_or_else(PoisonError::into_inner).2.is_some();
                        let result =
                            if ended { Err(Missing::NotAsked.into()) } else { work(job, &mut usage) };
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.1 += usage;
                        match result {
                            Ok(value) => done.0.push((at, Ok(value))),
                            Err(Fault::Missing(missing)) => done.0.push((at, Err(missing))),
                            Err(Fault::Ends(end)) => done.2 = Some(end),
                        }
                    }
                });
            }
        });
        let (mut results, usage, end) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = end {
            return Err(end);
        }
        results.sort_by_key(|r| r.0);
        Ok((results.into_iter().map(|r| r.1).collect(), usage))
    }

    fn score_all(
        &self,
        soft: Option<&Soft>,
        batch: &[ScoreQuery],
    ) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        for (index, q) in batch.iter().enumerate() {
            self.check(q).map_err(|reason| OracleError::Question { index, reason })?;
        }
        let table = self.settings.table.as_deref();
        let (items, mut usage) = match self.found.way {
            Way::Echo if let (Some(soft), Some(table)) = (soft, table) => {
                self.each(batch, |q, usage| self.by_rows(table, soft, q, usage))?
            }
            Way::Echo => self.by_echo(soft, batch)?,
            Way::Next(top) => self.each(batch, |q, usage| self.by_next(q, top, usage))?,
            Way::Forced(top) => self.each(batch, |q, usage| self.by_force(q, top, usage))?,
            Way::Text => {
                return Err(OracleError::Question {
                    index: 0,
                    reason: "this endpoint gives no log-probabilities",
                });
            }
        };
        usage.examples = items.iter().filter(|i| !matches!(i, Err(Missing::NotAsked))).count() as u64;
        self.sender.batch_ended(&items);
        Ok(Answers { items, usage })
    }

    /// Why a question does not fit this endpoint.
    fn check(&self, q: &ScoreQuery) -> Result<(), &'static str> {
        let chat = matches!(self.settings.dialect, Dialect::Chat | Dialect::ChatText);
        if q.labels.is_empty() {
            return Err("it has no labels");
        }
        if chat && matches!(q.prompt, Prompt::Tokens(_)) {
            return Err("a chat endpoint reads text, not ids");
        }
        let text = |l: &Label| matches!(l, Label::Text(_));
        let echo = self.found.way == Way::Echo;
        for label in q.labels.iter() {
            if most_label_tokens(label) == 0 {
                return Err("a label is empty");
            }
            if echo && text(label) != matches!(q.prompt, Prompt::Text(_)) {
                return Err("prompt and labels must both be text or both be ids here");
            }
            if matches!(self.found.way, Way::Next(_)) {
                if !text(label) {
                    return Err("this endpoint names tokens by their text: give labels as text");
                }
                // one token has one leading space at most
                if matches!(label, Label::Text(t) if t.trim().contains(char::is_whitespace)) {
                    return Err("a label is not one token, and this endpoint names single tokens only");
                }
            }
        }
        Ok(())
    }

    fn by_echo(
        &self,
        soft: Option<&Soft>,
        batch: &[ScoreQuery],
    ) -> Result<Spent<Vec<LabelScore>>, OracleError> {
        let soft = soft.map(|s| (s.rows() as u64, torch::base64(s.rows(), s.width(), s.values())));
        let mut units: Vec<(Joined, u64)> = Vec::new();
        for q in batch {
            for label in q.labels.iter() {
                let most =
                    most_tokens(&q.prompt) + most_label_tokens(label) + soft.as_ref().map_or(0, |s| s.0);
                units.extend(Joined::new(&q.prompt, label).map(|j| (j, most)));
            }
        }
        let dialect = self.settings.dialect;
        // a list holds texts or ids, not both
        let same = |a: &(Joined, u64), b: &(Joined, u64)| {
            std::mem::discriminant(&a.0) == std::mem::discriminant(&b.0)
        };
        let groups: Vec<&[(Joined, u64)]> =
            units.chunk_by(same).flat_map(|run| run.chunks(self.settings.per_request.max(1))).collect();
        let (results, usage) = self.each(&groups, |group, usage| {
            let prompts: Vec<&Joined> = group.iter().map(|u| &u.0).collect();
            let most = group.iter().map(|u| u.1).sum();
            let body =
                echo_body(dialect, &self.settings.model, &prompts, soft.as_ref().map(|s| s.1.as_str()));
            self.ask("/completions", &body, most, usage, |v| read_echo(dialect, &prompts, most, v))
        })?;
        let sizes = groups.iter().map(|g| g.len());
        let mut scores = results.into_iter().zip(sizes).flat_map(|(result, size)| match result {
            Ok(items) => items,
            Err(missing) => vec![Err(missing); size],
        });
        let items = batch.iter().map(|q| {
            let own: Vec<Result<LabelScore, Missing>> = scores.by_ref().take(q.labels.len()).collect();
            let own = own.into_iter().collect::<Result<Vec<LabelScore>, Missing>>()?;
            check_labels(&q.labels, &own).map_err(|reason| Missing::Malformed { reason })?;
            Ok(own)
        });
        Ok((items.collect(), usage))
    }

    fn by_next(&self, q: &ScoreQuery, top: usize, usage: &mut Usage) -> Result<Vec<LabelScore>, Fault> {
        let (dialect, model, most) =
            (self.settings.dialect, self.settings.model.as_str(), most_tokens(&q.prompt) + CHAT);
        let scores = match (&q.prompt, dialect) {
            (Prompt::Text(text), Dialect::Chat) => {
                let body = chat::next_body(model, text, top);
                self.ask("/chat/completions", &body, most, usage, |v| chat::read_next(&q.labels, most, v))?
            }
            _ => {
                let body = next_body(dialect, model, &q.prompt, &q.labels, top);
                self.ask("/completions", &body, most, usage, |v| read_next(&q.labels, most, v))?
            }
        };
        one(scores)
    }

    /// A label's tokens one by one.
    fn by_force(&self, q: &ScoreQuery, top: usize, usage: &mut Usage) -> Result<Vec<LabelScore>, Fault> {
        let prompt = match &q.prompt {
            Prompt::Tokens(ids) => ids.clone(),
            Prompt::Text(text) => self.tokenize(text, true, usage)?,
        };
        let ids = |label: &Label| match label {
            Label::Tokens(ids) => Ok(ids.clone()),
            Label::Text(text) => self.tokenize(text, false, usage),
        };
        let labels = q.labels.iter().map(ids).collect::<Result<Vec<_>, Fault>>()?;
        let labels: Vec<&[u32]> = labels.iter().map(Vec::as_slice).collect();
        forced::scores(&labels, |beginning, _| {
            let sent = [&prompt[..], beginning].concat();
            let most = sent.len() as u64 + 1;
            let body = llama::next_body(&sent, top);
            one(self.ask("//completion", &body, most, usage, |v| llama::read_next(most, v))?)
        })
    }

    /// Soft rows and the rows of the question's tokens as input vectors.
    fn by_rows(
        &self,
        table: &dyn Table,
        soft: &Soft,
        q: &ScoreQuery,
        usage: &mut Usage,
    ) -> Result<Vec<LabelScore>, Fault> {
        let (Prompt::Tokens(prompt), Some(labels)) = (&q.prompt, forced::ids(&q.labels)) else {
            return Err(Missing::Malformed {
                reason: "input vectors are looked up by ids, and this is text".into(),
            }
            .into());
        };
        forced::scores(&labels, |beginning, next| {
            let ids = [&prompt[..], beginning].concat();
            let tensor = rows::tensor(table, Some(soft), &ids).map_err(|id| Missing::Malformed {
                reason: format!("token {id}, which the table of embeddings lacks"),
            })?;
            let most = (soft.rows() + ids.len()) as u64;
            let body = rows::body(&self.settings.model, &tensor, next);
            one(self.ask("/completions", &body, most, usage, |v| rows::read(most, v))?)
        })
    }

    /// Ids of a text, by the server's own tokenizer.
    fn tokenize(&self, text: &str, special: bool, usage: &mut Usage) -> Result<Vec<u32>, Fault> {
        let key = (text.to_owned(), special);
        let known = self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(ids) = known {
            return Ok(ids);
        }
        let body = llama::tokenize_body(text, special);
        let ids = self.sender.call("//tokenize", Some(&body), 0, usage, llama::read_tokenize)?;
        if !special {
            // labels come again, prompts rarely
            self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(key, ids.clone());
        }
        Ok(ids)
    }
}

/// The only item of an answer.
fn one<T>(mut items: Vec<T>) -> Result<T, Fault> {
    items.pop().ok_or_else(|| Missing::Malformed { reason: "no scores".into() }.into())
}

/// Tokens that a chat template may put around a prompt.
const CHAT: u64 = 256;

impl TextOracle for HttpOracle {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn at_most(&self, query: Query<'_>) -> Usage {
        let attempts = u64::from(self.sender.attempts());
        // after a connection broke, the canary is asked once more: its ids, and itself
        let watch = if self.watches() { 2 * attempts } else { 0 };
        let bound = |requests: u64, prompt: u64, completion: u64| {
            let calls = requests.saturating_mul(attempts + watch);
            let canaries = requests.saturating_mul(watch * CANARY_TOKENS);
            Usage {
                calls,
                examples: 1,
                prompt_tokens: prompt.saturating_mul(attempts).saturating_add(canaries),
                completion_tokens: completion,
                retries: calls,
                ..Usage::ZERO
            }
        };
        match query {
            Query::Text(q) => bound(1, most_tokens(&q.prompt) + CHAT, u64::from(q.max_tokens)),
            Query::Score(q) => self.most_of(q, 0, bound),
            Query::Soft(soft, q) if self.settings.table.is_some() => {
                let rows = soft.rows() as u64 + most_tokens(&q.prompt);
                let sent = forced::ids(&q.labels).map_or_else(BTreeMap::new, |l| forced::beginnings(&l));
                let (n, labels) = (sent.len() as u64, sent.keys().map(|b| b.len() as u64).sum::<u64>());
                bound(n, n * rows + labels, n)
            }
            Query::Soft(soft, q) => self.most_of(q, soft.rows() as u64, bound),
            Query::At(_, q) => self.most_of(q, 0, bound),
        }
    }

    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError> {
        let (dialect, model) = (self.settings.dialect, self.settings.model.as_str());
        let chat = matches!(dialect, Dialect::Chat | Dialect::ChatText);
        if let Some(index) = batch.iter().position(|q| chat && matches!(q.prompt, Prompt::Tokens(_))) {
            return Err(OracleError::Question { index, reason: "a chat endpoint reads text, not ids" });
        }
        let (items, mut usage) = self.each(batch, |q, usage| {
            let most = most_tokens(&q.prompt) + CHAT;
            let mut texts = match (dialect, llama::text_of(&q.prompt)) {
                (Dialect::LlamaCpp, _) => {
                    self.ask("//completion", &llama::text_body(q), most, usage, |v| {
                        llama::read_text(q, most, v)
                    })?
                }
                (Dialect::Chat | Dialect::ChatText, Some(text)) => {
                    let body = chat::text_body(model, text, q);
                    self.ask("/chat/completions", &body, most, usage, |v| chat::read_text(q, most, v))?
                }
                _ => {
                    self.ask("/completions", &text_body(model, q), most, usage, |v| read_text(q, most, v))?
                }
            };
            texts.pop().ok_or_else(|| Missing::Malformed { reason: "no text".into() }.into())
        })?;
        usage.examples = items.iter().filter(|i| !matches!(i, Err(Missing::NotAsked))).count() as u64;
        self.sender.batch_ended(&items);
        Ok(Answers { items, usage })
    }
}

impl HttpOracle {
    fn most_of(&self, q: &ScoreQuery, rows: u64, bound: impl Fn(u64, u64, u64) -> Usage) -> Usage {
        let prompt = most_tokens(&q.prompt) + rows;
        let labels: Vec<u64> = q.labels.iter().map(most_label_tokens).collect();
        let (count, all) = (labels.len() as u64, labels.iter().sum::<u64>());
        match self.found.way {
            Way::Echo => bound(count, count * prompt + all, count * generated(self.settings.dialect)),
            Way::Next(_) | Way::Text => bound(1, prompt + CHAT, 1),
            // each token of each label, and the tokenizer for each text
            Way::Forced(_) => bound(all + count + 1, all * (prompt + all), all),
        }
    }
}

impl LogprobOracle for HttpOracle {
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.score_all(None, batch)
    }
}

impl EmbedOracle for HttpOracle {
    fn width(&self) -> usize {
        self.found.soft.map_or(0, |s| s.0)
    }

    fn embedding_std(&self) -> f64 {
        self.found.soft.map_or(0.0, |s| s.1)
    }

    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        if soft.width() != self.width() {
            return Err(OracleError::Width { expected: self.width(), found: soft.width() });
        }
        self.score_all(Some(soft), batch)
    }
}
