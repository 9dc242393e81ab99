//! Search over prompts made of tokens: what an API that takes text and gives log-probabilities allows.
//!
//! A prompt has `n` positions, each filled from `N` candidate tokens. What travels is one matrix `[n, N]` a client, whose rows
//! are distributions; the ordinary weighted mean of rows of the simplex is one again, so aggregation is that of federated
//! averaging, and FedOne (Wang et al. 2025, PMLR 267:62857) is a cohort of one client: an update per client's worth of queries
//! instead of one per cohort's.
//!
//! - [`bdpl`]: score-function gradients with a baseline, unbiased, and its Gumbel variant.
//! - [`edit`]: greedy token edits, in the spirit of FedDTPT; rows are votes.
//!
//! Deliberately missing: the choice of candidates by mutual information with n-grams (they are given), and FedDTPT's clustering
//! of tokens at the server, which needs embeddings that a text API does not give.

pub mod bdpl;
pub mod edit;
mod rows;

pub use rows::{Rows, RowsError};
