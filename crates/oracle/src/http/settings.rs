//! Which endpoint, by what rules.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use ureq::http::Uri;

use super::error::HttpError;
use super::rows::Table;
use crate::access::Access;

/// Bytes of a file with a key.
const MAX_KEY: u64 = 16 << 10;

/// How a kind of server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// `antiphon serve`: OpenAI's completions with ids, echo and soft prompts.
    Antiphon,
    /// vLLM: the same; soft prompts need the model's table of embeddings at the client.
    Vllm,
    /// Any server with `/completions`; echo is probed.
    Completions,
    /// `/chat/completions` with `top_logprobs`, if the server gives them.
    Chat,
    /// llama.cpp's own `/completion`.
    LlamaCpp,
    /// `/chat/completions` without asking for log-probabilities.
    ChatText,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 6] =
        [Self::Antiphon, Self::Vllm, Self::Completions, Self::Chat, Self::LlamaCpp, Self::ChatText];

    /// The most that a server of this kind can give; what it does give is probed.
    #[must_use]
    pub fn at_most(self) -> Access {
        match self {
            Self::Antiphon | Self::Vllm => Access::Embeddings,
            Self::Completions | Self::Chat | Self::LlamaCpp => Access::Logprobs,
            Self::ChatText => Access::Text,
        }
    }

    /// Whether prompts and labels go as ids of the model's vocabulary; as text otherwise.
    #[must_use]
    pub fn takes_ids(self) -> bool {
        matches!(self, Self::Antiphon | Self::Vllm | Self::LlamaCpp)
    }

    /// As written in run files.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Antiphon => "antiphon",
            Self::Vllm => "vllm",
            Self::Completions => "completions",
            Self::Chat => "chat",
            Self::LlamaCpp => "llama-cpp",
            Self::ChatText => "chat-text",
        }
    }
}

/// When and how often a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Times that one request is sent at most, `>= 1`.
    pub attempts: u32,
    /// The longest pause before the second time; doubles each time.
    pub base: Duration,
    /// The longest pause of all. A server that asks for more is not asked again within the call.
    pub most: Duration,
}

/// An endpoint and the rules for asking it. Printing it shows no key, in whatever part of the address somebody has put one.
#[derive(Clone)]
pub struct HttpSettings {
    /// Scheme, host, port and path before `/completions`, such as `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// How it is asked.
    pub dialect: Dialect,
    /// The model's name there.
    pub model: String,
    /// The key, if it wants one.
    pub key: Option<Key>,
    /// Where requests may go.
    pub allowed: AllowList,
    /// Certificates (PEM) that are trusted in place of the usual authorities: a site's own.
    pub certificates: Option<PathBuf>,
    /// For one answer, from the request to its last byte.
    pub timeout: Duration,
    /// Bytes of an answer.
    pub max_answer: usize,
    /// Sending again.
    pub retry: Retry,
    /// Requests a second, and how many at once after a pause.
    pub rate: (f64, u32),
    /// Requests in flight at once.
    pub in_flight: usize,
    /// Prompts in one request, where the server takes several.
    pub per_request: usize,
    /// Failed requests in a row after which the endpoint is left alone, and for how long.
    pub breaker: (u32, Duration),
    /// End the run when the server's `system_fingerprint` changes.
    pub pin_fingerprint: bool,
    /// Seed of the jitter in pauses.
    pub seed: u64,
    /// The model's table of embeddings, where soft prompts go as rows of input vectors.
    pub table: Option<Arc<dyn Table>>,
    /// Raised from outside to stop.
    pub stop: Arc<AtomicBool>,
}

impl HttpSettings {
    /// `model` at `base_url`, allowed there alone, with limits for one user of a shared server.
    #[must_use]
    pub fn new(base_url: &str, dialect: Dialect, model: &str) -> Self {
        Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            dialect,
            model: model.to_owned(),
            key: None,
            allowed: AllowList::default(),
            certificates: None,
            timeout: Duration::from_secs(60),
            max_answer: 64 << 20,
            retry: Retry { attempts: 4, base: Duration::from_millis(500), most: Duration::from_secs(30) },
            rate: (50.0, 50),
            in_flight: 4,
            per_request: if matches!(dialect, Dialect::Antiphon | Dialect::Vllm) { 16 } else { 1 },
            breaker: (5, Duration::from_secs(30)),
            pin_fingerprint: true,
            seed: 0,
            table: None,
            stop: Arc::default(),
        }
    }

    /// Scheme, host and port, if the settings may be used at all.
    ///
    /// # Errors
    /// An address that is none or is not allowed, and a key that would travel unprotected.
    pub fn origin(&self) -> Result<String, HttpError> {
        let wrong = |reason| HttpError::Url { url: shown(&self.base_url).to_owned(), reason };
        let (origin, _) = read(&self.base_url).map_err(wrong)?;
        self.allowed.admit(&origin)?;
        let safe = ["https://", "http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
        if self.key.is_some() && !safe.iter().any(|s| origin.starts_with(s)) {
            return Err(HttpError::Exposed { origin });
        }
        Ok(origin)
    }
}

/// Scheme, host and port of an address, and its path.
fn read(url: &str) -> Result<(String, String), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "it cannot be read")?;
    let scheme = uri.scheme_str().filter(|s| ["http", "https"].contains(s));
    let scheme = scheme.ok_or("it begins with neither http:// nor https://")?;
    let authority = uri.authority().ok_or("it names no host")?;
    if authority.as_str().contains('@') {
        return Err("it holds a user name; a key is read from a file");
    }
    if uri.query().is_some() {
        return Err("it holds a query");
    }
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host) {
        Some("") if scheme == "https" => Some(443),
        Some("") => Some(80),
        _ => authority.port_u16().filter(|port| *port > 0),
    };
    let port = port.ok_or("its port is none: 1 to 65535")?;
    Ok((format!("{scheme}://{}:{port}", host.to_ascii_lowercase()), uri.path().to_owned()))
}

impl std::fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpSettings")
            .field("base_url", &shown(&self.base_url))
            .field("dialect", &self.dialect)
            .field("model", &self.model)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// An address without its user, password and query.
fn shown(url: &str) -> &str {
    let host = url.rsplit_once('@').map_or(url, |(_, host)| host);
    host.split(['?', '#']).next().unwrap_or_default()
}

/// Origins (`https://host:port`) that requests may go to. Empty: the one in the settings, which the site wrote itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Vec<String>);

impl AllowList {
    /// Exactly `origins`; a missing port is the scheme's own.
    ///
    /// # Errors
    /// Where one is none: a list that allows less than was meant is found out late.
    pub fn new(origins: &[&str]) -> Result<Self, HttpError> {
        let whole = |o: &&str| match read(o) {
            Ok((origin, path)) if path.is_empty() || path == "/" => Ok(origin),
            Ok(_) => Err(HttpError::Origin { found: shown(o).to_owned(), reason: "it has a path" }),
            Err(reason) => Err(HttpError::Origin { found: shown(o).to_owned(), reason }),
        };
        Ok(Self(origins.iter().map(whole).collect::<Result<_, _>>()?))
    }

    fn admit(&self, origin: &str) -> Result<(), HttpError> {
        if self.0.is_empty() || self.0.iter().any(|o| o == origin) {
            return Ok(());
        }
        Err(HttpError::NotAllowed { origin: origin.to_owned(), allowed: self.0.clone() })
    }
}

/// A key that nothing prints.
#[derive(Clone, Debug)]
pub struct Key(SecretString);

impl Key {
    /// The first line of a file.
    pub fn from_file(path: &Path) -> Result<Self, HttpError> {
        let fail = |reason: String| HttpError::Key { path: path.to_owned(), reason };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
        std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_KEY), &mut text)
            .map_err(|e| fail(e.to_string()))?;
        let key = text.lines().next().unwrap_or_default().trim();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(fail("its first line is no key: expected printable ASCII without spaces".into()));
        }
        Ok(Self(SecretString::from(key)))
    }

    /// What an open descriptor gives, such as 3 after `3< <(pass show api)`.
    pub fn from_descriptor(number: u32) -> Result<Self, HttpError> {
        Self::from_file(&PathBuf::from(format!("/dev/fd/{number}")))
    }

    /// The header that shows it. For the wire alone.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0.expose_secret())
    }

    /// `text` without the key, should a server repeat it.
    pub(super) fn hide(&self, text: &str) -> String {
        text.replace(self.0.expose_secret(), "…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str, allowed: &[&str], key: bool) -> Result<String, HttpError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "sk-secret\n").unwrap();
        let mut settings = HttpSettings::new(url, Dialect::Chat, "m");
        settings.allowed = AllowList::new(allowed).unwrap();
        settings.key = key.then(|| Key::from_file(&path).unwrap());
        if key {
            assert!(!format!("{settings:?}").contains("secret"));
        }
        settings.origin()
    }

    #[test]
    fn requests_go_where_they_are_allowed() {
        assert_eq!(at("https://api.example/v1", &[], true).unwrap(), "https://api.example:443");
        assert_eq!(
            at("https://API.example/v1", &["https://api.example"], true).unwrap(),
            "https://api.example:443"
        );
        assert!(matches!(
            at("https://api.example.evil/v1", &["https://api.example"], false),
            Err(HttpError::NotAllowed { .. })
        ));
        assert!(matches!(
            at("http://api.example/v1", &["https://api.example"], false),
            Err(HttpError::NotAllowed { .. })
        ));
        assert!(matches!(at("http://api.example/v1", &[], true), Err(HttpError::Exposed { .. })));
        assert!(
            at("http://api.example/v1", &[], false).is_ok()
                && at("http://localhost:8000/v1", &[], true).is_ok()
        );
        for url in
            ["", "api.example", "ftp://a/v1", "https://me:sk-secret@api.example/v1", "http://a/v1?key=1"]
        {
            let message = at(url, &[], false).unwrap_err().to_string();
            let printed = format!("{:?}", HttpSettings::new(url, Dialect::Chat, "m"));
            assert!(message.contains("no address"), "{message}");
            for text in [message, printed] {
                assert!(!text.contains("secret") && !text.contains("key=1"), "{text}");
            }
        }
    }

    #[test]
    fn ports_and_origins_are_read_and_never_guessed() {
        for port in ["99999", "0", "x", "65536", "-1", ""] {
            let found = at(&format!("http://127.0.0.1:{port}/v1"), &[], false);
            assert!(matches!(found, Err(HttpError::Url { .. })), "`{port}`: {found:?}");
        }
        assert_eq!(at("http://[::1]/v1", &[], true).unwrap(), "http://[::1]:80");
        assert_eq!(at("http://[::1]:8000/v1", &["http://[::1]:8000/"], true).unwrap(), "http://[::1]:8000");
        for found in ["garbage", "", "https://", "https://a:99999", "https://a/v1", "https://me:secret@a"] {
            let error = AllowList::new(&[found]).unwrap_err().to_string();
            assert!(error.contains("is no origin") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn keys_come_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for bad in ["", "\n", "two words\n", "sk-\u{e9}\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Key::from_file(&path), Err(HttpError::Key { .. })), "{bad:?}");
        }
        std::fs::write(&path, "  sk-1 \nsecond line").unwrap();
        let key = Key::from_file(&path).unwrap();
        assert_eq!((key.header().as_str(), key.hide("no sk-1 here").as_str()), ("Bearer sk-1", "no … here"));
    }
}
