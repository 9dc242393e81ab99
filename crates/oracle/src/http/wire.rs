//! One request, one answer: TLS, time limits, length limits, and what may be repeated of an answer.
//!
//! Everything that a server says comes through [`Wire::send`]: the key is taken out of all of it there, and what an error
//! says is left out once questions are asked that may be quoted in it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{Method, Request, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::error::HttpError;
use super::settings::{HttpSettings, Key};
use crate::answer::Missing;

/// Characters of an error message or a name that are kept.
const SHORT: usize = 200;

/// Codes of errors that are told whatever is asked: words of ours, not of a question.
const CODES: [&str; 8] = [
    "context_length_exceeded",
    "content_policy_violation",
    "content_filter",
    "insufficient_quota",
    "invalid_api_key",
    "invalid_request_error",
    "model_not_found",
    "rate_limit_exceeded",
];

/// A connection pool to one origin.
#[derive(Debug)]
pub(super) struct Wire {
    agent: Agent,
    base: String,
    key: Option<Key>,
    max_answer: u64,
    /// Questions of clients are asked: nothing that a server says is quoted, it may hold their rows.
    discreet: AtomicBool,
}

/// Why an attempt failed, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failed {
    pub(super) missing: Missing,
    /// The same request may succeed later.
    pub(super) again: bool,
    /// The server may have worked on it.
    pub(super) counted: bool,
    /// The connection broke: behind it there may be another server now.
    pub(super) broke: bool,
}

impl Wire {
    pub(super) fn new(settings: &HttpSettings) -> Result<Self, HttpError> {
        let tls = match &settings.certificates {
            Some(path) => TlsConfig::builder().root_certs(certificates(path)?).build(),
            None => TlsConfig::default(),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(settings.timeout))
            .max_redirects(0)
            .proxy(None)
            .user_agent("antiphon")
            .tls_config(tls)
            .build();
        Ok(Self {
            agent: config.into(),
            base: settings.base_url.clone(),
            key: settings.key.clone(),
            max_answer: settings.max_answer as u64,
            discreet: AtomicBool::new(false),
        })
    }

    /// From here on questions of clients are asked.
    pub(super) fn become_discreet(&self) {
        self.discreet.store(true, Ordering::SeqCst);
    }

    /// Sends `body` (nothing: `GET`) to `path` below the base, or below the host where `path` begins with `//`. The answer is
    /// without the key, wherever a server put it.
    pub(super) fn send(&self, path: &str, body: Option<&Value>, idempotency: &str) -> Result<Value, Failed> {
        let url = match path.strip_prefix('/').filter(|p| p.starts_with('/')) {
            Some(path) => format!("{}{path}", self.base.trim_end_matches("/v1")),
            None => format!("{}{path}", self.base),
        };
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(url);
        request = request.header("content-type", "application/json").header("idempotency-key", idempotency);
        if let Some(key) = &self.key {
            request = request.header("authorization", key.header());
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(bytes).map_err(|_| unreachable("the request cannot be written".into()))?;
        let mut response = self.agent.run(request).map_err(|e| unreachable(self.broken(&e)))?;
        let status = response.status();
        let after = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let text = response.body_mut().with_config().limit(self.max_answer).read_to_vec();
        let text = text.map_err(|e| unreachable(self.broken(&e)))?;
        if status.is_success() {
            let answer = serde_json::from_slice(&text).map_err(|e| malformed(format!("no JSON: {e}")))?;
            return Ok(self.without_key(answer));
        }
        Err(self.refused(status, after, &text))
    }

    fn refused(&self, status: StatusCode, after: Option<u64>, text: &[u8]) -> Failed {
        let again = matches!(status.as_u16(), 408 | 409 | 429 | 500..=599);
        let after = after.map(Duration::from_secs);
        let missing = if status.as_u16() == 429 || (again && after.is_some()) {
            Missing::Busy { after }
        } else if again {
            Missing::Unreachable { reason: format!("status {}", status.as_u16()) }
        } else {
            Missing::Refused { status: status.as_u16(), reason: self.said(text) }
        };
        Failed { missing, again, counted: status.is_server_error() || status.as_u16() == 408, broke: false }
    }

    /// What may be repeated of an error.
    fn said(&self, body: &[u8]) -> String {
        if !self.discreet.load(Ordering::SeqCst) {
            return self.shortened(&message(body));
        }
        let body = String::from_utf8_lossy(body);
        let code = CODES.iter().find(|code| body.contains(*code));
        let code = code.map_or_else(String::new, |code| format!("{code}; "));
        format!("{code}its words are not shown, they may repeat the question")
    }

    /// A transport's own words; those that may quote what was received only where everything may be quoted.
    fn broken(&self, e: &ureq::Error) -> String {
        use ureq::Error as E;
        let own = matches!(
            e,
            E::Io(_) | E::Timeout(_) | E::HostNotFound | E::ConnectionFailed | E::BodyExceedsLimit(_)
        );
        if own || !self.discreet.load(Ordering::SeqCst) {
            return self.shortened(&e.to_string());
        }
        "the answer breaks the rules of HTTP".to_owned()
    }

    /// A name that an answer carries, to be kept and compared: short, and if it was cut, with a digest of all of it.
    pub(super) fn name(&self, text: &str) -> String {
        let short = self.shortened(text);
        if text.chars().count() <= SHORT {
            return short;
        }
        format!("{short}… ({})", &blake3::hash(text.as_bytes()).to_hex()[..16])
    }

    /// Without what steers a terminal and without the key, and then cut, so that no key is cut in two.
    fn shortened(&self, text: &str) -> String {
        let plain: String = text.chars().filter(|c| !c.is_control()).collect();
        self.hide(&plain).chars().take(SHORT).collect()
    }

    fn hide(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |k| k.hide(text))
    }

    /// `answer` with every text in it as [`Self::hide`] leaves it.
    fn without_key(&self, answer: Value) -> Value {
        match answer {
            answer if self.key.is_none() => answer,
            Value::String(text) => Value::String(self.hide(&text)),
            Value::Array(items) => items.into_iter().map(|v| self.without_key(v)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(name, v)| (self.hide(&name), self.without_key(v))).collect()
            }
            other => other,
        }
    }
}

/// Every certificate of a PEM file, at least one.
fn certificates(path: &Path) -> Result<RootCerts, HttpError> {
    let fail = |reason: String| HttpError::Certificates { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| fail(e.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(fail("there is none".into()));
    }
    Ok(RootCerts::new_with_certs(&found))
}

fn unreachable(reason: String) -> Failed {
    Failed { missing: Missing::Unreachable { reason }, again: true, counted: true, broke: true }
}

/// An answer that cannot be true. Asking the same again would be asking for it.
pub(super) fn malformed(reason: String) -> Failed {
    Failed { missing: Missing::Malformed { reason }, again: false, counted: true, broke: false }
}

/// What an error's body says.
fn message(text: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(text).ok();
    let said = json.as_ref().and_then(|v| {
        let e = v.get("error").unwrap_or(v);
        e.get("message").or(Some(e))?.as_str().map(str::to_owned)
    });
    said.unwrap_or_else(|| String::from_utf8_lossy(text).into_owned())
}
