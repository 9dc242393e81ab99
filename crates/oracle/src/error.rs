//! Errors that end the asking. What concerns one question alone is a [`crate::Missing`].

use std::error::Error;

use rusqlite::ErrorCode;

use crate::cache::CacheError;
use crate::ledger::LedgerError;

/// A batch that was not asked, or an oracle that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OracleError {
    /// The ledger will not pay for it. Nothing was sent.
    #[error(
        "{what}: {spent} spent and reserved of {limit}, and this needs up to {needs} more; raise the budget or ask less"
    )]
    Budget {
        /// Which limit: `examples`, `calls`, `prompt tokens`, …
        what: &'static str,
        /// Spent and reserved so far.
        spent: u64,
        /// The limit.
        limit: u64,
        /// The most that the batch could cost.
        needs: u64,
    },
    /// Rows of another width than the model's.
    #[error("a soft prompt of width {found}, but this model's embeddings have {expected}")]
    Width {
        /// Of the model.
        expected: usize,
        /// Of the prompt.
        found: usize,
    },
    /// As many rows as this oracle does not put before a text.
    #[error("a soft prompt of {found} rows, but this oracle was made for {expected}")]
    Rows {
        /// That it puts there.
        expected: usize,
        /// Of the prompt.
        found: usize,
    },
    /// A trainable vector of another length than the schema's.
    #[error("a trainable vector of {found} scalars, but this oracle's schema has {expected}")]
    Length {
        /// Of the schema.
        expected: usize,
        /// Of the vector.
        found: usize,
    },
    /// A question that no answer fits.
    #[error("question {index} cannot be asked: {reason}")]
    Question {
        /// Within the batch.
        index: usize,
        /// What is wrong, what would work.
        reason: &'static str,
    },
    /// The model behind the endpoint is no longer the one that was probed.
    #[error(
        "the endpoint answered as `{found}`, but this run began with `{expected}`; answers of two models cannot be mixed, so begin a new run"
    )]
    OtherModel {
        /// At the beginning.
        expected: String,
        /// Now.
        found: String,
    },
    /// Too many failures in a row.
    #[error("{failures} requests failed in a row, the last with: {last}; the endpoint is left alone")]
    Down {
        /// How many.
        failures: u32,
        /// Why.
        last: String,
    },
    /// The run is being stopped.
    #[error("interrupted")]
    Interrupted,
    /// Anything else: keys, addresses, files, models.
    #[error(transparent)]
    Other(#[from] Box<dyn Error + Send + Sync>),
}

impl OracleError {
    /// Whether a ledger or a cache could not be read or written: the machine's fault, not the endpoint's.
    #[must_use]
    pub fn is_storage(&self) -> bool {
        let Self::Other(e) = self else { return false };
        let refused = match e.downcast_ref::<CacheError>() {
            Some(cache) => Some(&cache.source),
            None => match e.downcast_ref::<LedgerError>() {
                Some(LedgerError::Sqlite { source, .. }) => Some(source),
                Some(LedgerError::Io { .. }) => return true,
                _ => None,
            },
        };
        refused.is_some_and(refused_by_the_system)
    }

    /// Whether the batch is known to have cost nothing.
    #[must_use]
    pub fn nothing_sent(&self) -> bool {
        matches!(
            self,
            Self::Budget { .. }
                | Self::Width { .. }
                | Self::Rows { .. }
                | Self::Length { .. }
                | Self::Question { .. }
        )
    }
}

/// Whether SQLite passes on what the operating system said: a full disk, say.
pub(crate) fn refused_by_the_system(e: &rusqlite::Error) -> bool {
    let codes = [
        ErrorCode::DiskFull,
        ErrorCode::SystemIoFailure,
        ErrorCode::ReadOnly,
        ErrorCode::CannotOpen,
        ErrorCode::PermissionDenied,
        ErrorCode::OutOfMemory,
    ];
    e.sqlite_error_code().is_some_and(|code| codes.contains(&code))
}
