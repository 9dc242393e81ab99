//! Runs whose model is behind an endpoint: `[oracle] endpoint`.
//!
//! ```text
//! Draft ── data, questions, search; nothing is sent ──▶ plan
//!   └── connect ── probe, refusals ──▶ Remote ── rounds, evaluation ──▶ latest/prompt.json
//! ```
//!
//! Nothing of a model is read here but its tokenizer: the clients ask, the server averages what travels, and evaluation asks
//! the same endpoint out of the same budget. With `endpoint = "embedded"` the run starts `antiphon serve`'s server on a
//! loopback port; the weights are that server's alone.
//!
//! A question goes through
//!
//! ```text
//! Watched (ends the run) → Metered (ledger) → Cached → Spelled (ids or text) → HttpOracle
//! ```
//!
//! Deliberately missing: adapters as results. A prompt of tokens needs none, and a soft prompt belongs to the endpoint.

mod connect;
mod draft;
mod evaluate;
mod finish;
mod needs;
mod spelled;
mod table;
mod trial;
mod watched;

pub(crate) use connect::Remote;
pub(crate) use draft::Draft;
pub(crate) use needs::Needs;
