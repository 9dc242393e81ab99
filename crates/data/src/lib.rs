//! Text data of many owners, from files to sequences of token ids.
//!
//! ```text
//! files ─ format ─> Example ─ partition ─> clients ─ split ─> train/validation/test ─ encode ─> Sequence
//! ```
//!
//! Every arrow is deterministic by seed and independent of threads and of the order of any hash map.
//! Deliberately missing: tensors and batches, tokenizers (behind [`tokenize::Tokenize`]), the order of training (the training
//! crate's), downloading, preference pairs.

pub mod encode;
pub mod example;
pub mod federation;
pub mod format;
pub mod heterogeneity;
mod kept_back;
pub mod partition;
pub mod sequence;
pub mod settings;
pub mod split;
pub mod template;
pub mod tokenize;

pub use encode::{EncodeError, EncodeReport, Encoded, LabelSet, Policy, Task};
pub use example::{Example, Kind, Message, Role};
pub use federation::{ClientExamples, ClientSequences, DataError, EncodedFederation, Federation};
pub use heterogeneity::Heterogeneity;
pub use kept_back::{KeptBack, TooFew};
pub use partition::PARTITIONERS;
pub use sequence::Sequence;
pub use settings::{Settings, SettingsError};
pub use tokenize::{Encoding, Tokenize, TokenizeError};
