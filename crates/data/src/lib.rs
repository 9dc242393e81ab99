//! Text data of many owners, from files to batches of token ids.
//!
//! ```text
//! files ─ format ─> Example ─ partition ─> clients ─ split ─> train/validation/test ─ encode ─> Sequence ─> Batch
//! ```
//!
//! Every arrow is deterministic by seed and independent of threads and of the order of any hash map.
//! Deliberately missing: tensors, tokenizers (behind [`tokenize::Tokenize`]), downloading, preference pairs.

pub mod batch;
pub mod encode;
pub mod example;
pub mod format;
pub mod heterogeneity;
pub mod partition;
pub mod sequence;
pub mod split;
pub mod template;
pub mod tokenize;

pub use batch::{BatchError, Order, SmallClients};
pub use encode::{EncodeError, EncodeReport, Encoded, Policy, Task};
pub use example::{Example, Kind, Message, Role};
pub use sequence::{Batch, Sequence};
pub use tokenize::{Encoding, Tokenize, TokenizeError};
