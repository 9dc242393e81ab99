//! Oracles that people have: models behind HTTP.
//!
//! ```text
//! HttpOracle ── units (one prompt each) ──▶ dialect (JSON out and in) ──▶ Sender (rate, retries, breaker) ──▶ Wire (TLS, limits)
//! ```
//!
//! A [`Dialect`] says how a kind of server is asked. What a server really gives is probed at the start ([`Found`]) and
//! decides the tier; every answer is checked before a number of it is believed, and an answer that cannot be true is a gap
//! with its reason. Log-probabilities of labels come in one of two ways:
//!
//! - **echo**: prompt and label are sent together, and the label's positions of the scored prompt are summed;
//! - **next**: the likeliest next tokens are read, and a label of one token is found among them; one that is not named has
//!   the least named log-probability as an upper bound, marked as censored.
//!
//! Soft prompts go beside an echoed prompt (our own server) or as rows of input vectors (`rows.rs`, vLLM).
//!
//! The HTTP client is ureq: it blocks, as the traits do, needs no async runtime, and brings TLS by rustls.
//!
//! Deliberately missing: proxies from the environment and redirects (either could carry a key to another host than the one
//! that was allowed), `Retry-After` as a date.

mod chat;
mod completions;
mod error;
mod forced;
mod limits;
mod llama;
mod oracle;
mod probe;
mod rows;
mod score;
mod sender;
mod settings;
mod torch;
mod wire;

pub use error::HttpError;
pub use oracle::HttpOracle;
pub use probe::{Found, Way};
pub use rows::Table;
pub use settings::{AllowList, Dialect, HttpSettings, Key, Retry};
