//! What can go wrong with a run directory.

use std::io;
use std::path::{Path, PathBuf};

use antiphon_core::{Digest, Round};

use crate::diff::Change;

/// An operation on a run directory that failed. Nothing half-written is ever named as complete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was being done, such as `write`.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No space left, or over the quota.
    #[error(
        "the disk is full: `{}` needs {needed} more bytes; what was complete before is intact, so free some \
         space and resume the run",
        path.display()
    )]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// How many bytes it takes.
        needed: u64,
    },
    /// Another process works on the run.
    #[error(
        "run directory `{}` is in use by {}; wait for it, stop it, or choose another directory",
        path.display(), holder(*pid, *since_unix_ms)
    )]
    InUse {
        /// The run directory.
        path: PathBuf,
        /// Who holds it, where the lock file says so.
        pid: Option<u32>,
        /// Since when, in milliseconds since 1970.
        since_unix_ms: Option<u64>,
    },
    /// A new run was asked for where there is one.
    #[error(
        "`{}` holds a run already; continue it with `antiphon resume {}`, or choose another directory",
        path.display(), path.display()
    )]
    AlreadyARun {
        /// The directory.
        path: PathBuf,
    },
    /// A new run was asked for in a directory with other things in it.
    #[error(
        "`{}` is not empty (it holds `{found}`) and is no run; choose a new or an empty directory",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One thing in it.
        found: String,
    },
    /// There is no run, or its creation was interrupted.
    #[error(
        "`{}` holds no run: {} is missing; start one with `antiphon run FILE --out {}`",
        path.display(), missing, path.display()
    )]
    NoRun {
        /// The directory.
        path: PathBuf,
        /// What a run would have there.
        missing: &'static str,
    },
    /// Written by another version of this program.
    #[error("`{}` has format {found}, this version reads {known}; use the version that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// `run.toml` is not what the run was started with.
    #[error(
        "`{}` was changed since the run began; undo the changes or start a new run:{}",
        path.display(), crate::diff::lines(changes)
    )]
    RunFileChanged {
        /// The run file.
        path: PathBuf,
        /// What differs.
        changes: Vec<Change>,
    },
    /// A run file that is no TOML.
    #[error("`{}`: {source}", path.display())]
    Toml {
        /// The run file.
        path: PathBuf,
        /// Where it fails.
        source: toml::de::Error,
    },
    /// A row of the log is not what was written.
    #[error(
        "event log `{}` is damaged at row {seq}: its digest is not that of its content and the row before; \
         restore the file from a copy",
        path.display()
    )]
    ChainBroken {
        /// The log.
        path: PathBuf,
        /// The first bad row.
        seq: i64,
    },
    /// The log lacks rows that a durable checkpoint has seen.
    #[error(
        "event log `{}` ends at row {head}, but the checkpoint of {round} was written after row {seen}: rows were \
         lost (was `events.sqlite-wal` left behind in a copy?); restore the log with its -wal file",
        path.display()
    )]
    LogCut {
        /// The log.
        path: PathBuf,
        /// Its last row.
        head: i64,
        /// The checkpoint that knows more.
        round: Round,
        /// The row it knows.
        seen: i64,
    },
    /// Not a database, a truncated one, or a failed statement.
    #[error("event log `{}`: {source}", path.display())]
    Sqlite {
        /// The log.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A write after one that failed.
    #[error("event log `{}` takes no more rows after a failed write; resume the run", path.display())]
    Stopped {
        /// The log.
        path: PathBuf,
    },
    /// A file does not hold what its name or a checkpoint says.
    #[error("`{}` is damaged: its digest is {found}, expected {expected}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// What was written.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// A file whose length cannot be right.
    #[error("`{}` has {found} bytes, expected {expected}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// What was written.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A JSON file or line that cannot be read.
    #[error("`{}`, line {line}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// One-based line.
        line: usize,
        /// Where it fails.
        source: serde_json::Error,
    },
    /// `metrics.jsonl` lacks the record of a closed round, or has another in its place.
    #[error(
        "`{}`, line {line}: {found} where the record of {expected} must be; restore the file from a copy, or remove the \
         folders from {:05} on in `rounds` beside it, and `antiphon resume` does these rounds again",
        path.display(), expected.0
    )]
    Metrics {
        /// The file.
        path: PathBuf,
        /// One-based line.
        line: usize,
        /// What is there.
        found: String,
        /// Whose record must be there.
        expected: Round,
    },
    /// A file of `latest/` that is gone or not what was published.
    #[error("`{}` is {}", path.display(), if *gone { "gone" } else { "not what the run wrote" })]
    Altered {
        /// The file.
        path: PathBuf,
        /// It is not there at all.
        gone: bool,
    },
    /// An update whose bytes are not those announced.
    #[error("the update of client {client} in {round} has digest {found}, announced was {announced}")]
    UpdateDigest {
        /// In which round.
        round: Round,
        /// Whose.
        client: u64,
        /// What came.
        found: Digest,
        /// What was announced.
        announced: Digest,
    },
    /// A round was closed out of order.
    #[error("{found} cannot be closed now: {expected} comes next")]
    RoundOrder {
        /// The round to close.
        found: Round,
        /// The round that is open.
        expected: Round,
    },
}

impl StoreError {
    /// Whether the operating system is to blame, not what the directory holds.
    #[must_use]
    pub fn is_io(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, ReadOnly, SystemIoFailure};
        match self {
            Self::Io { .. } | Self::DiskFull { .. } | Self::Stopped { .. } => true,
            Self::Sqlite { source, .. } => {
                matches!(source.sqlite_error_code(), Some(CannotOpen | ReadOnly | SystemIoFailure))
            }
            _ => false,
        }
    }

    /// Wraps an I/O error; `needed` are the bytes that were to be written, for a full disk.
    pub(crate) fn io(doing: &'static str, path: &Path, needed: u64, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_owned(), needed }
            }
            _ => Self::Io { doing, path: path.to_owned(), source },
        }
    }

    pub(crate) fn sqlite(path: &Path, needed: u64, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull { path: path.to_owned(), needed },
            _ => Self::Sqlite { path: path.to_owned(), source },
        }
    }
}

fn holder(pid: Option<u32>, since: Option<u64>) -> String {
    let who = pid.map_or("another process".to_owned(), |p| format!("process {p}"));
    since.map(|s| format!("{who} since {}", utc(s))).unwrap_or(who)
}

/// `2026-03-01 12:30:05 UTC` (civil date from days: Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_of_known_instants() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_827_696_000), "2000-02-29 12:34:56 UTC");
        assert_eq!(utc(1_767_225_599_999), "2025-12-31 23:59:59 UTC");
    }
}
