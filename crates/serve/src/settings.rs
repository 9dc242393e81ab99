//! What a server allows.

use std::time::Duration;

/// Limits and access of a server. Every one can be set on the command line; the defaults are for one machine and its
/// user.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Sequences that wait or run; a request beyond them is answered by 429.
    pub queue: usize,
    /// Sequences in one forward.
    pub batch: usize,
    /// Rows (tokens) of one forward. At least the context.
    pub batch_tokens: usize,
    /// Positions of the cache of keys and values, over all sequences. At least the context.
    pub cache_tokens: usize,
    /// Likeliest tokens that a request may ask for at each position.
    pub max_logprobs: usize,
    /// From a request's arrival to the end of its answer.
    pub request_timeout: Duration,
    /// For a request's head, and again for its body.
    pub read_timeout: Duration,
    /// Connections at once; more wait.
    pub connections: usize,
    /// Whether requests may bring input vectors (`prompt_embeds`, `soft_prompt`).
    pub prompt_embeds: bool,
    /// From which requests without a seed get theirs, in the order of their arrival.
    pub seed: u64,
    /// Clients must show it, if there is one.
    pub api_key: Option<ApiKey>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_body: 8 << 20,
            queue: 1024,
            batch: 64,
            batch_tokens: 2048,
            cache_tokens: 8192,
            max_logprobs: 20,
            request_timeout: Duration::from_secs(600),
            read_timeout: Duration::from_secs(30),
            connections: 256,
            prompt_embeds: false,
            seed: 0,
            api_key: None,
        }
    }
}

/// The digest of a key: the key itself is forgotten, so nothing can print it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(blake3::Hash);

impl ApiKey {
    /// The key in `text`, white space around it removed; `None` if nothing is left.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let key = text.trim();
        (!key.is_empty()).then(|| Self(blake3::hash(key.as_bytes())))
    }

    /// Whether `found` is this key, in a time that tells nothing of where they differ.
    #[must_use]
    pub fn is(&self, found: &str) -> bool {
        // equality of `Hash` is constant-time
        self.0 == blake3::hash(found.as_bytes())
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_compared_and_never_shown() {
        let key = ApiKey::new("  sk-secret\n").unwrap();
        assert!(key.is("sk-secret") && !key.is("sk-secre") && !key.is(""));
        assert!(!format!("{:?}", Settings { api_key: Some(key), ..Settings::default() }).contains("secret"));
        assert!(ApiKey::new(" \n").is_none());
    }
}
