//! Answers that were paid for once.
//!
//! The key is a digest of everything that changes an answer: the oracle's [`crate::Identity`], the kind of question, the
//! prompt, labels, soft rows or trainable vector, and sampling settings. Scores are always kept; texts only where the
//! temperature is zero. A missing answer is not kept. Equal questions within a batch are asked once: as a prompt
//! distribution sharpens, most of its samples coincide.
//!
//! Where an endpoint is noisy the cache freezes its first answer. That hides the noise from a search, which is why the noise
//! floor is measured before.
//!
//! Deliberately missing: eviction (an entry is some 60 bytes) and age.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use antiphon_core::{Digest, Schema};
use rusqlite::{Connection, OptionalExtension, params};

use crate::answer::{Answers, LabelScore, Missing, Usage};
use crate::error::{OracleError, refused_by_the_system};
use crate::oracle::{EmbedOracle, Facts, Identity, LogprobOracle, TextOracle, WeightOracle};
use crate::query::{Label, Prompt, Query, ScoreQuery, Soft, TextQuery};

/// Remembered answers, in a file or in memory. Shared by the clients of one process.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    db: Mutex<Connection>,
}

/// A cache that cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[error("the answer cache `{}`: {source}{}", path.display(), advice(source))]
pub struct CacheError {
    /// The database.
    pub path: PathBuf,
    /// Why.
    pub source: rusqlite::Error,
}

/// A full disk is not the cache's fault, and deleting it would cost what it has remembered.
fn advice(e: &rusqlite::Error) -> &'static str {
    if refused_by_the_system(e) { "" } else { "; it may be deleted, at the price of asking again" }
}

impl Cache {
    /// Opens the cache at `path`, or begins one. Losing its last entries to a crash costs only their price.
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        let error = |source| CacheError { path: path.to_owned(), source };
        let db = Connection::open(path).map_err(error)?;
        db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(error)?;
        Self::begin(path, db)
    }

    /// A cache that ends with its process.
    pub fn in_memory() -> Result<Self, CacheError> {
        let path = Path::new(":memory:");
        let db =
            Connection::open_in_memory().map_err(|source| CacheError { path: path.to_owned(), source })?;
        Self::begin(path, db)
    }

    fn begin(path: &Path, db: Connection) -> Result<Self, CacheError> {
        let setup = "PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000;
            CREATE TABLE IF NOT EXISTS answer_1 (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;";
        db.execute_batch(setup).map_err(|source| CacheError { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), db: Mutex::new(db) })
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &Digest) -> Result<Option<Vec<u8>>, OracleError> {
        let find = |db: &Connection| {
            db.prepare_cached("SELECT value FROM answer_1 WHERE key = ?1")?
                .query_row(params![key.0], |r| r.get(0))
                .optional()
        };
        find(&self.db()).map_err(|e| self.error(e))
    }

    fn put(&self, entries: &[(Digest, Vec<u8>)]) -> Result<(), OracleError> {
        let write = |db: &mut Connection| {
            let transaction = db.transaction()?;
            for (key, value) in entries {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO answer_1 VALUES (?1, ?2)")?
                    .execute(params![key.0, value])?;
            }
            transaction.commit()
        };
        write(&mut self.db()).map_err(|e| self.error(e))
    }

    fn error(&self, source: rusqlite::Error) -> OracleError {
        OracleError::Other(Box::new(CacheError { path: self.path.clone(), source }))
    }
}

/// The key of a question to an oracle; `None` if its answer is not to be kept.
#[must_use]
pub fn key(oracle: &Identity, query: Query<'_>) -> Option<Digest> {
    let mut h = Parts(blake3::Hasher::new());
    h.bytes(b"antiphon answer 1");
    h.bytes(oracle.provider.as_bytes());
    h.bytes(oracle.model.as_bytes());
    h.bytes(&oracle.fingerprint.0);
    let score = match query {
        Query::Text(q) => {
            if q.temperature != 0.0 {
                return None;
            }
            h.bytes(b"text");
            h.prompt(&q.prompt);
            h.bytes(&q.max_tokens.to_le_bytes());
            h.count(q.stop.len());
            q.stop.iter().for_each(|s| h.bytes(s.as_bytes()));
            return Some(h.digest());
        }
        Query::Score(q) => {
            h.bytes(b"score");
            q
        }
        Query::Soft(soft, q) => {
            h.bytes(b"soft");
            h.bytes(&soft.digest().0);
            q
        }
        Query::At(theta, q) => {
            h.bytes(b"at");
            let bytes: Vec<u8> = theta.iter().flat_map(|v| v.to_le_bytes()).collect();
            h.bytes(&bytes);
            q
        }
    };
    h.prompt(&score.prompt);
    h.count(score.labels.len());
    for label in score.labels.iter() {
        match label {
            Label::Text(t) => h.tagged(0, t.as_bytes()),
            Label::Tokens(ids) => h.tagged(1, &ids.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>()),
        }
    }
    Some(h.digest())
}

/// Every part is preceded by its length, so that no two lists of parts read alike.
struct Parts(blake3::Hasher);

impl Parts {
    fn count(&mut self, n: usize) {
        self.0.update(&(n as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.0.update(&[tag]);
        self.bytes(bytes);
    }

    fn prompt(&mut self, prompt: &Prompt) {
        match prompt {
            Prompt::Text(t) => self.tagged(0, t.as_bytes()),
            Prompt::Tokens(ids) => {
                self.tagged(1, &ids.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>())
            }
        }
    }

    fn digest(self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// What can be kept.
trait Kept: Clone {
    fn to_bytes(&self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Kept for String {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

/// 13 bytes a label: binary64, a flag, tokens.
impl Kept for Vec<LabelScore> {
    fn to_bytes(&self) -> Vec<u8> {
        let one = |s: &LabelScore| {
            let mut out = s.logprob.to_le_bytes().to_vec();
            out.push(u8::from(s.censored));
            out.extend(s.tokens.to_le_bytes());
            out
        };
        self.iter().flat_map(one).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (labels, rest) = bytes.as_chunks::<13>();
        let one = |b: &[u8; 13]| {
            let (logprob, tail) = b.split_first_chunk::<8>()?;
            let (flag, tokens) = tail.split_first()?;
            Some(LabelScore {
                logprob: f64::from_le_bytes(*logprob),
                censored: *flag != 0,
                tokens: u32::from_le_bytes(tokens.try_into().ok()?),
            })
        };
        rest.is_empty().then(|| labels.iter().map(one).collect()).flatten()
    }
}

/// An oracle that asks each question once. Of the same tier as what it wraps; belongs under
/// [`crate::ledger::Metered`], which then books its hits.
#[derive(Debug)]
pub struct Cached<O: ?Sized> {
    cache: Arc<Cache>,
    inner: Arc<O>,
}

impl<O: ?Sized> Cached<O> {
    /// `inner`, answered from `cache` where it can be.
    pub fn new(inner: Arc<O>, cache: Arc<Cache>) -> Self {
        Self { cache, inner }
    }
}

impl<O: TextOracle + ?Sized> Cached<O> {
    /// Looks up `batch`, asks what is not known through `ask`, and puts both together.
    fn answer<Q: Clone, T: Kept>(
        &self,
        batch: &[Q],
        query: impl for<'q> Fn(&'q Q) -> Query<'q>,
        ask: impl FnOnce(&O, &[Q]) -> Result<Answers<T>, OracleError>,
    ) -> Result<Answers<T>, OracleError> {
        let identity = &self.inner.facts().identity;
        let keys: Vec<Option<Digest>> = batch.iter().map(|q| key(identity, query(q))).collect();
        let mut items: Vec<Option<Result<T, Missing>>> = Vec::with_capacity(batch.len());
        let mut asked: Vec<usize> = Vec::new();
        // of the question that will be asked for this key
        let mut pending: BTreeMap<Digest, usize> = BTreeMap::new();
        let mut same_as: BTreeMap<usize, usize> = BTreeMap::new();
        for (i, key) in keys.iter().enumerate() {
            let known = key.map(|k| self.cache.get(&k)).transpose()?.flatten();
            items.push(known.as_deref().and_then(T::from_bytes).map(Ok));
            if items[i].is_some() {
                continue;
            }
            match key.and_then(|k| pending.get(&k)) {
                Some(&first) => {
                    same_as.insert(i, first);
                }
                None => {
                    if let Some(k) = key {
                        pending.insert(*k, i);
                    }
                    asked.push(i);
                }
            }
        }
        let mut usage = Usage::ZERO;
        if !asked.is_empty() {
            let questions: Vec<Q> = asked.iter().map(|&i| batch[i].clone()).collect();
            let answers = ask(&self.inner, &questions)?;
            usage = answers.usage;
            let mut entries = Vec::new();
            for (&i, item) in asked.iter().zip(answers.items) {
                if let (Some(key), Ok(value)) = (keys[i], &item) {
                    entries.push((key, value.to_bytes()));
                }
                items[i] = Some(item);
            }
            self.cache.put(&entries)?;
            for (i, first) in same_as {
                items[i] = items[first].clone();
            }
        }
        usage.cache_hits += (batch.len() - asked.len()) as u64;
        let items = items.into_iter().map(|i| i.unwrap_or(Err(Missing::NotAsked))).collect();
        Ok(Answers { items, usage })
    }
}

impl<O: TextOracle + ?Sized> TextOracle for Cached<O> {
    fn facts(&self) -> &Facts {
        self.inner.facts()
    }

    fn at_most(&self, query: Query<'_>) -> Usage {
        let known = key(&self.inner.facts().identity, query).and_then(|k| self.cache.get(&k).ok().flatten());
        match known {
            Some(_) => Usage { cache_hits: 1, ..Usage::ZERO },
            // it may turn out to be asked earlier in the same batch
            None => Usage { cache_hits: 1, ..self.inner.at_most(query) },
        }
    }

    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError> {
        self.answer(batch, |q| Query::Text(q), |o, b| o.generate(b))
    }
}

impl<O: LogprobOracle + ?Sized> LogprobOracle for Cached<O> {
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.answer(batch, |q| Query::Score(q), |o, b| o.score(b))
    }
}

impl<O: EmbedOracle + ?Sized> EmbedOracle for Cached<O> {
    fn width(&self) -> usize {
        self.inner.width()
    }

    fn embedding_std(&self) -> f64 {
        self.inner.embedding_std()
    }

    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        // every question carries the same rows
        let asked: Vec<(&Soft, ScoreQuery)> = batch.iter().map(|q| (soft, q.clone())).collect();
        self.answer(
            &asked,
            |(soft, q)| Query::Soft(soft, q),
            |o, b| o.score_soft(soft, &b.iter().map(|(_, q)| q.clone()).collect::<Vec<_>>()),
        )
    }
}

impl<O: WeightOracle + ?Sized> WeightOracle for Cached<O> {
    fn schema(&self) -> &Schema {
        self.inner.schema()
    }

    fn score_at(&self, theta: &[f32], batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        let asked: Vec<(&[f32], ScoreQuery)> = batch.iter().map(|q| (theta, q.clone())).collect();
        self.answer(
            &asked,
            |(theta, q)| Query::At(theta, q),
            |o, b| o.score_at(theta, &b.iter().map(|(_, q)| q.clone()).collect::<Vec<_>>()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_and_nothing_is_to_be_deleted() {
        let cache = Cache::in_memory().unwrap();
        cache.db().pragma_update(None, "max_page_count", 4).unwrap();
        let error = cache.put(&[(Digest([7; 32]), vec![0; 1 << 20])]).unwrap_err();
        assert!(error.is_storage() && error.to_string().contains("full"), "{error}");
        assert!(!error.to_string().contains("deleted"), "{error}");
        // what is damaged may go
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.sqlite");
        std::fs::write(&path, "no database, and longer than the header of one".repeat(9)).unwrap();
        let damaged = Cache::open(&path).unwrap_err();
        assert!(damaged.to_string().contains("may be deleted"), "{damaged}");
        assert!(!OracleError::Other(Box::new(damaged)).is_storage());
    }
}
