//! `[oracle]`: whom a search asks, what it is granted, and what that may cost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use antiphon_oracle::Access;
use antiphon_oracle::http::{AllowList, Dialect, HttpError, HttpSettings, Key, Retry};
use antiphon_oracle::ledger::{Limits, Prices, Terms};
use serde::{Deserialize, Serialize};

/// As an endpoint: a server of `model.base_model` that the run starts for itself and asks over HTTP.
pub const EMBEDDED: &str = "embedded";

/// Requests a second: one in some three hours.
const LEAST_RATE: f64 = 1e-4;

/// `[oracle]`. Without an endpoint, the base model inside this process.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OracleSettings {
    /// What a search is granted at most: `text`, `logprobs` or `embeddings`. It cannot reach further, whatever an endpoint gives.
    pub access: Access,
    /// The address before `/completions`, such as `http://127.0.0.1:8000/v1`, or `embedded`: a server that the run starts for
    /// itself. With an endpoint nothing but the tokenizer of `model.base_model` is read by clients.
    pub endpoint: Option<String>,
    /// How the endpoint is asked: `antiphon`, `vllm`, `completions`, `chat`, `llama-cpp` or `chat-text`.
    pub dialect: Option<Dialect>,
    /// The model's name at the endpoint.
    pub model: Option<String>,
    /// A file whose first line is the key.
    pub api_key_file: Option<PathBuf>,
    /// An open descriptor to read the key from, such as 3 after `3< <(pass show api)`.
    pub api_key_fd: Option<u32>,
    /// Certificates (PEM) to trust in place of the usual authorities.
    pub ca_file: Option<PathBuf>,
    /// Origins (`https://host:port`) that requests may go to. Empty: the endpoint's own.
    pub allow_hosts: Vec<String>,
    /// Seconds for one answer, at most a day.
    pub timeout_s: u64,
    /// Requests a second at most, of all clients together; 50 where nothing is said.
    pub requests_per_second: f64,
    /// Times that a request is sent again after 408, 409, 429, 5xx or silence.
    pub retries: u32,
    /// Requests in flight for one client.
    pub concurrency: usize,
    /// Prompts in one request, where the server takes several. Default: 16 for `antiphon` and `vllm`, else 1.
    pub prompts_per_request: Option<usize>,
    /// Remember answers, so that nothing is paid for twice, not even by a resumed run. Default: at an endpoint.
    pub cache: Option<bool>,
    /// The ledger's file, for runs that share one budget. Default: in the run directory.
    pub ledger: Option<PathBuf>,
    /// The most that a whole run may ask, evaluations included. Nothing set is no limit.
    pub budget: Budget,
    /// What things cost, in the currency of `budget.money`.
    pub prices: PriceList,
}

impl Default for OracleSettings {
    fn default() -> Self {
        Self {
            access: Access::Embeddings,
            endpoint: None,
            dialect: None,
            model: None,
            api_key_file: None,
            api_key_fd: None,
            ca_file: None,
            allow_hosts: Vec::new(),
            timeout_s: 60,
            requests_per_second: 50.0,
            retries: 3,
            concurrency: 4,
            prompts_per_request: None,
            cache: None,
            ledger: None,
            budget: Budget::default(),
            prices: PriceList::default(),
        }
    }
}

/// `[oracle.budget]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Examples evaluated under one candidate: what papers count as queries.
    pub examples: Option<u64>,
    /// Requests, those sent again included.
    pub calls: Option<u64>,
    /// Tokens sent.
    pub prompt_tokens: Option<u64>,
    /// Tokens generated.
    pub completion_tokens: Option<u64>,
    /// Money, by `[oracle.prices]`.
    pub money: Option<f64>,
}

impl Budget {
    /// As the ledger counts: money in millionths.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            calls: self.calls,
            examples: self.examples,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            micros: self.money.map(micros),
        }
    }
}

/// `[oracle.prices]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceList {
    /// Of one request.
    pub per_call: f64,
    /// Of a million tokens sent.
    pub per_million_prompt_tokens: f64,
    /// Of a million tokens generated.
    pub per_million_completion_tokens: f64,
}

impl PriceList {
    /// In millionths.
    #[must_use]
    pub fn prices(&self) -> Prices {
        Prices {
            call: micros(self.per_call),
            prompt_million: micros(self.per_million_prompt_tokens),
            completion_million: micros(self.per_million_completion_tokens),
        }
    }
}

/// Rounded up; what is no amount was refused before.
fn micros(money: f64) -> u64 {
    (money * 1e6).ceil() as u64
}

impl OracleSettings {
    /// What a search has at most: by the grant, and by how an endpoint is asked.
    #[must_use]
    pub fn most(&self) -> Access {
        match self.endpoint {
            Some(_) => self.access.min(self.dialect().at_most()),
            None => self.access,
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The server is the run's own.
    pub(crate) fn is_embedded(&self) -> bool {
        self.endpoint.as_deref() == Some(EMBEDDED)
    }

    /// How the endpoint is asked.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect.unwrap_or(Dialect::Antiphon)
    }

    pub(crate) fn caches(&self) -> bool {
        self.cache.unwrap_or(self.endpoint.is_some())
    }

    /// Under what the ledger is opened. What others charge for outlives a loss of power.
    pub(crate) fn terms(&self) -> Terms {
        let others = self.endpoint.is_some() && !self.is_embedded();
        Terms { limits: self.budget.limits(), prices: self.prices.prices(), durable: others }
    }

    /// What makes no sense: key, value, what would.
    pub(crate) fn refusal(&self) -> Option<(&'static str, String, &'static str)> {
        let text = |v: &dyn std::fmt::Display| v.to_string();
        if self.access == Access::Weights {
            return Some(("oracle.access", text(&self.access), "`text`, `logprobs` or `embeddings`"));
        }
        let amounts = [
            ("oracle.budget.money", self.budget.money.unwrap_or(0.0)),
            ("oracle.prices.per_call", self.prices.per_call),
            ("oracle.prices.per_million_prompt_tokens", self.prices.per_million_prompt_tokens),
            ("oracle.prices.per_million_completion_tokens", self.prices.per_million_completion_tokens),
        ];
        // a million millions fit the ledger's integers
        if let Some((key, v)) = amounts.into_iter().find(|(_, v)| !(0.0..=1e12).contains(v)) {
            return Some((key, text(&v), "an amount, 0 or more"));
        }
        let Some(endpoint) = &self.endpoint else {
            let own = Self { access: self.access, budget: self.budget, cache: self.cache, ..Self::default() };
            return (*self != own).then(|| {
                (
                    "oracle.endpoint",
                    "(absent)".into(),
                    "an endpoint: the other keys of `[oracle]` say how to ask one",
                )
            });
        };
        let rate = self.requests_per_second;
        if !(LEAST_RATE..=f64::MAX).contains(&rate) {
            return Some(("oracle.requests_per_second", text(&rate), "a number, 0.0001 or more"));
        }
        for (key, value, most, expected) in [
            ("oracle.timeout_s", self.timeout_s, 86_400, "1 to 86400, which is a day"),
            ("oracle.retries", u64::from(self.retries) + 1, 1001, "at most 1000"),
            ("oracle.concurrency", self.concurrency as u64, 1024, "1 to 1024"),
            (
                "oracle.prompts_per_request",
                self.prompts_per_request.unwrap_or(1) as u64,
                u64::MAX,
                "at least 1",
            ),
        ] {
            if !(1..=most).contains(&value) {
                let found = if key == "oracle.retries" { u64::from(self.retries) } else { value };
                return Some((key, text(&found), expected));
            }
        }
        if let Err(HttpError::Origin { found, .. }) = self.allowed() {
            return Some(("oracle.allow_hosts", found, "origins, such as https://api.example"));
        }
        if self.api_key_file.is_some() && self.api_key_fd.is_some() {
            return Some((
                "oracle.api_key_fd",
                text(&self.api_key_fd.unwrap_or(0)),
                "one source of the key, not two",
            ));
        }
        if endpoint == EMBEDDED {
            let key = self.api_key_file.is_some() || self.api_key_fd.is_some() || self.ca_file.is_some();
            return match self.dialect {
                Some(Dialect::LlamaCpp) => Some((
                    "oracle.dialect",
                    self.dialect().id().into(),
                    "`antiphon`, `vllm`, `completions`, `chat` or `chat-text` with endpoint = \"embedded\"",
                )),
                _ if key => {
                    Some(("oracle.api_key_file", "(given)".into(), "none with endpoint = \"embedded\""))
                }
                _ => None,
            };
        }
        if self.dialect.is_none() {
            return Some((
                "oracle.dialect",
                "(absent)".into(),
                "how the endpoint is asked: `antiphon`, `vllm`, `completions`, `chat`, `llama-cpp` or `chat-text`",
            ));
        }
        self.model.is_none().then(|| ("oracle.model", "(absent)".into(), "the model's name at the endpoint"))
    }

    /// Whether the endpoint has an address that may be used, a key aside.
    pub(crate) fn check_address(&self) -> Result<(), HttpError> {
        let Some(url) = self.endpoint.as_deref().filter(|_| !self.is_embedded()) else { return Ok(()) };
        let mut s = HttpSettings::new(url, self.dialect(), "");
        s.allowed = self.allowed()?;
        s.origin().map(|_| ())
    }

    fn allowed(&self) -> Result<AllowList, HttpError> {
        AllowList::new(&self.allow_hosts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The rules for asking `url`, where `model` answers. `dir`: from where paths start.
    pub(crate) fn http(
        &self,
        url: &str,
        model: &str,
        dir: &dyn Fn(&Path) -> PathBuf,
        seed: u64,
        stop: Arc<AtomicBool>,
    ) -> Result<HttpSettings, HttpError> {
        let mut s = HttpSettings::new(url, self.dialect(), model);
        s.key = match (&self.api_key_file, self.api_key_fd) {
            (Some(path), _) => Some(Key::from_file(&dir(path))?),
            (None, Some(number)) => Some(Key::from_descriptor(number)?),
            (None, None) => None,
        };
        s.certificates = self.ca_file.as_deref().map(dir);
        s.allowed = self.allowed()?;
        s.timeout = Duration::from_secs(self.timeout_s);
        s.rate = (self.requests_per_second, self.requests_per_second.ceil().clamp(1.0, 1e6) as u32);
        s.retry = Retry { attempts: self.retries.saturating_add(1), ..s.retry };
        s.in_flight = self.concurrency;
        s.per_request = self.prompts_per_request.unwrap_or(s.per_request);
        s.seed = seed;
        s.stop = stop;
        // an address that is not allowed, or a key that would travel unprotected, before anything else is done
        s.origin()?;
        Ok(s)
    }
}
