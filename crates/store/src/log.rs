//! The event log: an append-only SQLite table whose rows are chained by BLAKE3.
//!
//! ```text
//! digest_i = BLAKE3("antiphon event 1" ‖ digest_{i-1} ‖ seq ‖ unix_ms ‖ round ‖ len(kind) ‖ kind ‖ json)
//! ```
//!
//! The chain shows any change of a row, and any row missing before the last. That the *tail* is whole
//! it cannot show; each checkpoint therefore names the head it was written after, and resume compares.
//!
//! Deliberately missing: signatures. The chain is against accidents and careless editing; who can write
//! the file can write a whole new chain.

use std::path::{Path, PathBuf};

use antiphon_core::{Digest, Round};
use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::StoreError;

/// Layout of the database, in `PRAGMA user_version`.
const FORMAT: i64 = 1;
/// `PRAGMA application_id`: "anti".
const APPLICATION: i64 = 0x616e_7469;

const TABLE: &str = "
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, round INTEGER, kind TEXT NOT NULL,
        json TEXT NOT NULL, digest BLOB NOT NULL
    ) STRICT;
    CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
    CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
";

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Position in the log, from 1.
    pub seq: i64,
    /// When, in milliseconds since 1970. Never read back into a decision.
    pub unix_ms: u64,
    /// The round it belongs to.
    pub round: Option<Round>,
    /// What happened.
    pub kind: String,
    /// Details, one JSON value.
    pub json: String,
}

/// The last row of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Its position; 0 when the log is empty.
    pub seq: i64,
    /// Its digest; zeros when the log is empty.
    pub digest: Digest,
}

impl LogHead {
    const EMPTY: Self = Self { seq: 0, digest: Digest([0; 32]) };

    fn after(self, event: &Event) -> Self {
        let mut h = blake3::Hasher::new();
        h.update(b"antiphon event 1");
        h.update(&self.digest.0);
        h.update(&event.seq.to_le_bytes());
        h.update(&event.unix_ms.to_le_bytes());
        h.update(&event.round.map_or(u64::MAX, |r| u64::from(r.0)).to_le_bytes());
        h.update(&(event.kind.len() as u64).to_le_bytes());
        h.update(event.kind.as_bytes());
        h.update(event.json.as_bytes());
        Self { seq: event.seq, digest: Digest(*h.finalize().as_bytes()) }
    }
}

/// An open log. What is appended becomes part of the log at the next [`EventLog::commit`], all at once.
#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    db: Connection,
    /// Of what is committed.
    head: LogHead,
    pending: Vec<Event>,
    /// A commit failed. Whether it reached the disk is not known, so this log takes no more.
    failed: bool,
    disk: Disk,
}

/// What [`EventLog::open`] found.
pub(crate) struct Verified {
    pub(crate) log: EventLog,
    pub(crate) events: Vec<Event>,
    /// `digests[i]` is that of row `i + 1`.
    pub(crate) digests: Vec<Digest>,
}

impl EventLog {
    pub(crate) fn create(path: PathBuf, disk: Disk) -> Result<Self, StoreError> {
        let db = Connection::open(&path).map_err(|e| StoreError::sqlite(&path, 65_536, e))?;
        let log = Self { path, db, head: LogHead::EMPTY, pending: Vec::new(), failed: false, disk };
        log.configure()?;
        let setup = format!(
            "BEGIN; {TABLE} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; COMMIT;"
        );
        log.run(&setup)?;
        Ok(log)
    }

    /// Opens an existing log and verifies every row.
    pub(crate) fn open(path: PathBuf, disk: Disk) -> Result<Verified, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&path, flags).map_err(|e| StoreError::sqlite(&path, 0, e))?;
        let mut log = Self { path, db, head: LogHead::EMPTY, pending: Vec::new(), failed: false, disk };
        let found = log.format()?;
        if found != FORMAT {
            return Err(StoreError::Format { path: log.path, found, known: FORMAT });
        }
        log.configure()?;
        let (events, digests) = log.verify()?;
        Ok(Verified { log, events, digests })
    }

    /// The last committed row.
    pub(crate) fn head(&self) -> LogHead {
        self.head
    }

    /// Changes how writes are made, once the log itself has said how.
    pub(crate) fn set_disk(&mut self, disk: Disk) -> Result<(), StoreError> {
        self.disk = disk;
        self.configure()
    }

    /// Adds a row to the group that the next commit writes.
    pub(crate) fn append(&mut self, unix_ms: u64, round: Option<Round>, kind: &str, json: String) {
        let seq = self.head.seq + 1 + self.pending.len() as i64;
        self.pending.push(Event { seq, unix_ms, round, kind: kind.to_owned(), json });
    }

    /// Writes all that was appended in one transaction. After a failure every further call fails.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Stopped { path: self.path.clone() });
        }
        let result = self.write_pending();
        self.failed = result.is_err();
        result
    }

    fn write_pending(&mut self) -> Result<(), StoreError> {
        let needed = self.pending.iter().map(|e| (e.kind.len() + e.json.len() + 96) as u64).sum();
        let sqlite = |e| StoreError::sqlite(&self.path, needed, e);
        let io = |e| StoreError::io("commit to", &self.path, needed, e);
        if self.pending.is_empty() {
            return Ok(());
        }
        self.disk.pass(&self.path, "begin").map_err(io)?;
        let transaction = self.db.unchecked_transaction().map_err(sqlite)?;
        let mut head = self.head;
        {
            let sql =
                "INSERT INTO event (seq, unix_ms, round, kind, json, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let mut insert = transaction.prepare_cached(sql).map_err(sqlite)?;
            for e in &self.pending {
                head = head.after(e);
                insert
                    .execute(params![
                        e.seq,
                        e.unix_ms as i64,
                        e.round.map(|r| r.0),
                        e.kind,
                        e.json,
                        head.digest.0.as_slice()
                    ])
                    .map_err(sqlite)?;
            }
        }
        self.disk.pass(&self.path, "commit").map_err(io)?;
        transaction.commit().map_err(sqlite)?;
        self.head = head;
        self.pending.clear();
        Ok(())
    }

    fn configure(&self) -> Result<(), StoreError> {
        let synchronous = if self.disk.durable { "FULL" } else { "NORMAL" };
        // a reader of the same file, such as a backup, may hold it for a moment
        self.run(&format!("PRAGMA busy_timeout = 5000; PRAGMA synchronous = {synchronous};"))?;
        self.db
            .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
            .map_err(|e| StoreError::sqlite(&self.path, 65_536, e))
    }

    fn run(&self, sql: &str) -> Result<(), StoreError> {
        self.db.execute_batch(sql).map_err(|e| StoreError::sqlite(&self.path, 65_536, e))
    }

    fn format(&self) -> Result<i64, StoreError> {
        self.db
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|e| StoreError::sqlite(&self.path, 0, e))
    }

    fn verify(&mut self) -> Result<(Vec<Event>, Vec<Digest>), StoreError> {
        let read = |db: &Connection| -> rusqlite::Result<Vec<(Event, Vec<u8>)>> {
            db.prepare("SELECT seq, unix_ms, round, kind, json, digest FROM event ORDER BY seq")?
                .query_map([], |row| {
                    let event = Event {
                        seq: row.get(0)?,
                        unix_ms: row.get::<_, i64>(1)? as u64,
                        round: row.get::<_, Option<u32>>(2)?.map(Round),
                        kind: row.get(3)?,
                        json: row.get(4)?,
                    };
                    Ok((event, row.get(5)?))
                })?
                .collect()
        };
        let rows = read(&self.db).map_err(|e| StoreError::sqlite(&self.path, 0, e))?;
        let (mut events, mut digests) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (event, stored) in rows {
            let expected = self.head.seq + 1;
            let next = self.head.after(&event);
            if event.seq != expected || stored != next.digest.0 {
                return Err(StoreError::ChainBroken { path: self.path.clone(), seq: expected });
            }
            self.head = next;
            digests.push(next.digest);
            events.push(event);
        }
        Ok((events, digests))
    }
}

/// A database and what SQLite may keep beside it.
pub(crate) fn companions(path: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", "-journal"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path) -> Vec<Event> {
        let mut log = EventLog::create(path.to_owned(), Disk::default()).unwrap();
        for i in 0..40_u32 {
            log.append(u64::from(i), (i % 3 > 0).then_some(Round(i)), "kind", format!("{{\"i\":{i}}}"));
            if i % 7 == 0 {
                log.commit().unwrap();
            }
        }
        log.commit().unwrap();
        drop(log);
        EventLog::open(path.to_owned(), Disk::default()).unwrap().events
    }

    #[test]
    fn what_is_committed_is_read_back_and_what_is_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(written(&path).len(), 40);
        let mut log = EventLog::open(path.clone(), Disk::default()).unwrap().log;
        log.append(0, None, "lost", "{}".into());
        drop(log);
        let events = EventLog::open(path, Disk::default()).unwrap().events;
        assert_eq!(events.len(), 40);
        assert_eq!(
            (events[4].seq, events[4].round, events[4].json.as_str()),
            (5, Some(Round(4)), "{\"i\":4}")
        );
    }

    #[test]
    fn rows_cannot_be_changed_through_sql_and_changes_behind_it_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        written(&path);
        let db = Connection::open(&path).unwrap();
        assert!(db.execute("UPDATE event SET json = '{}' WHERE seq = 9", []).is_err());
        assert!(db.execute("DELETE FROM event WHERE seq = 9", []).is_err());
        db.execute_batch("DROP TRIGGER event_no_update; UPDATE event SET json = '{}' WHERE seq = 9").unwrap();
        drop(db);
        let error = EventLog::open(path, Disk::default()).err().unwrap();
        assert!(matches!(error, StoreError::ChainBroken { seq: 9, .. }), "{error}");
    }

    /// Every single flipped bit is either seen or lies where SQLite keeps nothing of ours.
    #[test]
    fn no_flipped_bit_changes_an_event_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let events = written(&path);
        let good = std::fs::read(&path).unwrap();
        let copy = dir.path().join("copy");
        let mut seen = 0;
        for at in (0..good.len()).step_by(17) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            for name in companions(&copy) {
                let _ = std::fs::remove_file(name);
            }
            std::fs::write(&copy, &bad).unwrap();
            match EventLog::open(copy.clone(), Disk::default()) {
                Ok(verified) => assert_eq!(verified.events, events, "byte {at}"),
                Err(_) => seen += 1,
            }
        }
        assert!(seen > 100, "only {seen} flips seen");
    }

    #[test]
    fn a_truncated_or_foreign_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sqlite");
        written(&path);
        let good = std::fs::read(&path).unwrap();
        for bad in [&good[..good.len() / 2], &good[..100], b"this is no database, is it?".as_slice()] {
            std::fs::write(&path, bad).unwrap();
            let error = EventLog::open(path.clone(), Disk::default()).err().unwrap().to_string();
            assert!(error.contains("events.sqlite"), "{error}");
        }
    }
}
