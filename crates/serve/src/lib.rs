//! `antiphon serve`: an inference server with OpenAI's HTTP API on our own engine.
//!
//! A client that works with OpenAI's completions and chat endpoints works here, and one that knows vLLM's extensions
//! (`prompt_logprobs`, `prompt_embeds`, `logprob_token_ids`, `return_tokens_as_token_ids`, `/tokenize`) too. One thread
//! owns the model and steps all sequences together; requests that only score prompts share its forwards. Every answer
//! carries a fingerprint of weights, adapter, tokenizer and template, and does not depend, to the bit, on what else the
//! server is doing.
//!
//! ```text
//! connection ─▶ routes (key, limits) ─▶ request (checks) ─▶ exchange ─jobs─▶ engine (one thread, one forward a step)
//!                                              answer ◀─ choice (text, stops) ◀─events─┘
//! ```
//!
//! One parameter is our own: `soft_prompt`, rows in the space of input embeddings that are put before each prompt of the
//! request, encoded as `prompt_embeds`.
//!
//! Nothing numerical depends on this crate. Deliberately missing: TLS (a proxy's work), several models, tools and images,
//! penalties, beam search.

mod answer;
mod choice;
mod engine;
mod error;
mod exchange;
mod fields;
mod model;
mod request;
mod routes;
mod scores;
mod server;
mod settings;
mod torch;

pub use model::{ModelError, Served};
pub use server::{Running, ServeError};
pub use settings::{ApiKey, Settings};
