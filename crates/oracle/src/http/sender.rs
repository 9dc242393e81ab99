//! Sending with patience: rate, retries with full jitter (Brooker, "Exponential backoff and jitter", AWS Architecture Blog,
//! 2015), breaker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use antiphon_core::{Purpose, Stream};
use serde_json::Value;

use super::error::HttpError;
use super::limits::{Breaker, Bucket};
use super::settings::{HttpSettings, Retry};
use super::wire::{Failed, Wire, malformed};
use crate::answer::{Missing, Usage};
use crate::error::OracleError;

/// Pauses are cut into pieces of this, so that a stop is heard.
const PIECE: Duration = Duration::from_millis(20);

/// What all threads share.
#[derive(Debug)]
pub(super) struct Sender {
    wire: Wire,
    retry: Retry,
    state: Mutex<(Bucket, Breaker)>,
    began: Instant,
    jitter: Stream,
    counter: AtomicU64,
    /// A connection broke since somebody last looked.
    broke: AtomicBool,
    stop: Arc<AtomicBool>,
}

impl Sender {
    pub(super) fn new(settings: &HttpSettings) -> Result<Self, HttpError> {
        Ok(Self {
            wire: Wire::new(settings)?,
            retry: settings.retry,
            state: Mutex::new((Bucket::new(settings.rate), Breaker::new(settings.breaker))),
            began: Instant::now(),
            jitter: Stream::new(settings.seed, Purpose::Backoff),
            counter: AtomicU64::new(0),
            broke: AtomicBool::new(false),
            stop: Arc::clone(&settings.stop),
        })
    }

    /// Times that one request is sent at most.
    pub(super) fn attempts(&self) -> u32 {
        self.retry.attempts.max(1)
    }

    /// The probe is over: questions of clients are asked, and nothing that a server says of them is repeated.
    pub(super) fn become_discreet(&self) {
        self.wire.become_discreet();
    }

    /// A name that an answer carries, as it is kept and compared.
    pub(super) fn name(&self, text: &str) -> String {
        self.wire.name(text)
    }

    /// A name as a message may show it: what could be a row of a client's, repeated by a server in the name's place, is not
    /// shown.
    pub(super) fn shown(name: String) -> String {
        let plain = name.len() <= 100 && name.bytes().all(|b| b.is_ascii_graphic());
        if plain { name } else { format!("another name ({})", &blake3::hash(name.as_bytes()).to_hex()[..16]) }
    }

    /// The end of a batch. An endpoint that refuses everything of one batch after the other, or answers it with what cannot be
    /// true, is of no use, though each single time may be the question's fault.
    pub(super) fn batch_ended<T>(&self, items: &[Result<T, Missing>]) {
        let vain =
            |i: &Result<T, Missing>| matches!(i, Err(Missing::Refused { .. } | Missing::Malformed { .. }));
        match items.last() {
            Some(Err(last)) if items.iter().all(vain) => {
                self.state().1.batch_failed(self.began.elapsed(), last.to_string());
            }
            _ => self.state().1.batch_succeeded(),
        }
    }

    /// Whether a connection broke since the last call.
    pub(super) fn broke(&self) -> bool {
        self.broke.swap(false, Ordering::SeqCst)
    }

    /// Why nothing may be asked now.
    pub(super) fn refusal(&self) -> Option<OracleError> {
        if self.stop.load(Ordering::SeqCst) {
            return Some(OracleError::Interrupted);
        }
        let (failures, last) = self.state().1.down(self.began.elapsed())?;
        Some(OracleError::Down { failures, last })
    }

    /// Sends, reads by `read`, sends again while that may help. `tokens` is the most that the request can hold: it is
    /// counted for attempts that failed after the server may have worked.
    pub(super) fn call<T>(
        &self,
        path: &str,
        body: Option<&Value>,
        tokens: u64,
        usage: &mut Usage,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<T, Missing> {
        let number = self.counter.fetch_add(1, Ordering::SeqCst);
        let mut jitter = self.jitter.substream(number);
        let digest = blake3::hash(body.map(Value::to_string).unwrap_or_default().as_bytes());
        let idempotency = format!("{number}-{}", &digest.to_hex()[..32]);
        let (mut attempt, mut last) = (0, Missing::NotAsked);
        loop {
            if self.refusal().is_some() || !self.state().1.admits(self.began.elapsed()) {
                return Err(last);
            }
            let wait = self.state().0.take(self.began.elapsed());
            self.pause(wait);
            usage.calls += 1;
            usage.retries += u64::from(attempt > 0);
            attempt += 1;
            let answer = self.wire.send(path, body, &idempotency);
            let failed = match answer.and_then(|v| read(&v).map_err(malformed)) {
                Ok(value) => {
                    self.state().1.succeeded();
                    return Ok(value);
                }
                Err(failed) => failed,
            };
            usage.prompt_tokens += if failed.counted { tokens } else { 0 };
            self.broke.fetch_or(failed.broke, Ordering::SeqCst);
            // a question that is refused says nothing about the endpoint, unless it refuses whoever asks
            let theirs = match &failed.missing {
                Missing::Refused { status, .. } => matches!(status, 300..=399 | 401 | 403 | 404),
                _ => true,
            };
            if theirs {
                self.state().1.failed(self.began.elapsed(), failed.missing.to_string());
            }
            match self.delay(&failed, attempt, &mut jitter) {
                Some(delay) => self.pause(delay),
                None => return Err(failed.missing),
            }
            last = failed.missing;
        }
    }

    /// How long to wait before the next attempt; `None` if there is none.
    fn delay(&self, failed: &Failed, attempt: u32, jitter: &mut Stream) -> Option<Duration> {
        if !failed.again || attempt >= self.attempts() {
            return None;
        }
        if let Missing::Busy { after: Some(after) } = failed.missing {
            return (after <= self.retry.most).then_some(after);
        }
        let longest = self.retry.base.saturating_mul(1 << (attempt - 1).min(16)).min(self.retry.most);
        Some(longest.mul_f64(jitter.uniform()))
    }

    fn pause(&self, mut left: Duration) {
        while !left.is_zero() && !self.stop.load(Ordering::SeqCst) {
            let piece = left.min(PIECE);
            std::thread::sleep(piece);
            left -= piece;
        }
    }

    fn state(&self) -> MutexGuard<'_, (Bucket, Breaker)> {
        // both parts are whole after every statement
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
