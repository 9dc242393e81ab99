//! The two traits that the outside implements: how messages travel, and where records are kept.

use std::error::Error;

use crate::{Down, Record, Up, Vector, WireError};

/// How one client reaches the coordinator. A message may or may not have arrived when this fails, so
/// every message may be sent again: joining, polling and delivering are idempotent.
pub trait Link {
    /// One request and its answer.
    fn call(&mut self, up: Up) -> Result<Down, LinkError>;
}

/// No answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Neither request nor answer may have arrived; try again.
    #[error("no answer came back")]
    Lost,
    /// The answer was damaged; try again.
    #[error("the answer is damaged: {0}")]
    Damaged(#[from] WireError),
    /// The connection is gone for good.
    #[error("the connection is closed: {0}")]
    Closed(#[source] Box<dyn Error + Send + Sync>),
}

/// Where records are kept, in order. Durable when it returns, if it is durable at all: the coordinator's
/// effects put a record before the reply that depends on it.
pub trait Log {
    /// Appends one record.
    fn append(&mut self, record: &Record) -> Result<(), LogError>;

    /// Appends the record of an accepted update, with the update as it was sent. The update is acknowledged once this
    /// has returned: a log that promises to lose nothing acknowledged keeps the bytes before the record. Others keep the
    /// record, which has their digest.
    fn append_update(&mut self, record: &Record, update: &Vector) -> Result<(), LogError> {
        let _ = update;
        self.append(record)
    }
}

/// A record that could not be kept; the run must stop before it replies.
#[derive(Debug, thiserror::Error)]
#[error("the event log cannot be written: {0}")]
pub struct LogError(#[source] pub Box<dyn Error + Send + Sync>);

/// A log in memory.
impl Log for Vec<Record> {
    fn append(&mut self, record: &Record) -> Result<(), LogError> {
        self.push(record.clone());
        Ok(())
    }
}
