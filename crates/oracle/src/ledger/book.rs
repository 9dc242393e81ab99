//! The ledger's pages: one row of what is spent, one row for each open reservation.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, Transaction, params};

use super::LedgerError;
use crate::answer::Usage;

/// Layout of the database, in `PRAGMA user_version`.
const FORMAT: i64 = 1;
/// `PRAGMA application_id`: "antl".
const APPLICATION: i64 = 0x616e_746c;

const COLUMNS: &str = "calls, examples, prompt_tokens, completion_tokens, cache_hits, retries, micros";

/// Numbers in memory and on disk; the disk is written first.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    db: Connection,
    pub(super) spent: Usage,
    pub(super) reserved: Usage,
}

impl Book {
    pub(super) fn open(path: &Path, durable: bool) -> Result<Self, LedgerError> {
        let sqlite = |source| LedgerError::Sqlite { path: path.to_owned(), source };
        let db = Connection::open(path).map_err(sqlite)?;
        let found: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(sqlite)?;
        let tables: i64 =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).map_err(sqlite)?;
        let ours: i64 = db.pragma_query_value(None, "application_id", |r| r.get(0)).map_err(sqlite)?;
        if tables > 0 && (found != FORMAT || ours != APPLICATION) {
            return Err(LedgerError::Format { path: path.to_owned(), expected: FORMAT, found });
        }
        let synchronous = if durable { "FULL" } else { "NORMAL" };
        db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(sqlite)?;
        db.execute_batch(&format!("PRAGMA synchronous = {synchronous};")).map_err(sqlite)?;
        Self::begin(path, db, tables == 0)
    }

    pub(super) fn in_memory() -> Result<Self, LedgerError> {
        let path = Path::new(":memory:");
        let db = Connection::open_in_memory()
            .map_err(|source| LedgerError::Sqlite { path: path.to_owned(), source })?;
        Self::begin(path, db, true)
    }

    fn begin(path: &Path, db: Connection, new: bool) -> Result<Self, LedgerError> {
        let mut book = Self { path: path.to_owned(), db, spent: Usage::ZERO, reserved: Usage::ZERO };
        if new {
            let setup = format!(
                "BEGIN;
                 CREATE TABLE spent (id INTEGER PRIMARY KEY CHECK (id = 1), {columns}) STRICT;
                 CREATE TABLE reservation (id INTEGER PRIMARY KEY, {columns}) STRICT;
                 INSERT INTO spent VALUES (1, 0, 0, 0, 0, 0, 0, 0);
                 PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};
                 COMMIT;",
                columns = COLUMNS.replace(',', " INTEGER NOT NULL,") + " INTEGER NOT NULL"
            );
            book.db.execute_batch(&setup).map_err(|e| book.error(e))?;
        }
        book.spent = book.change(|t| {
            let select = |table: &str| format!("SELECT {COLUMNS} FROM {table}");
            let spent = t.query_row(&select("spent"), [], usage)?;
            let lost =
                t.prepare(&select("reservation"))?.query_map([], usage)?.collect::<Result<Vec<_>, _>>()?;
            let spent = spent + lost.into_iter().sum();
            t.execute("DELETE FROM reservation", [])?;
            write_spent(t, spent)?;
            Ok(spent)
        })?;
        Ok(book)
    }

    /// Writes a reservation down; its number.
    pub(super) fn reserve(&mut self, most: Usage) -> Result<i64, LedgerError> {
        let id = self.change(|t| {
            let sql = format!("INSERT INTO reservation ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
            t.prepare_cached(&sql)?.execute(integers(most))?;
            Ok(t.last_insert_rowid())
        })?;
        self.reserved += most;
        Ok(id)
    }

    /// Turns a reservation of `most` into `used`.
    pub(super) fn settle(&mut self, id: i64, most: Usage, used: Usage) -> Result<(), LedgerError> {
        let spent = self.spent + used;
        self.change(|t| {
            t.prepare_cached("DELETE FROM reservation WHERE id = ?1")?.execute(params![id])?;
            write_spent(t, spent)
        })?;
        self.spent = spent;
        self.reserved = less(self.reserved, most);
        Ok(())
    }

    fn change<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let run = |db: &mut Connection| {
            let transaction = db.transaction()?;
            let out = work(&transaction)?;
            transaction.commit()?;
            Ok(out)
        };
        run(&mut self.db).map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    fn error(&self, source: rusqlite::Error) -> LedgerError {
        LedgerError::Sqlite { path: self.path.clone(), source }
    }
}

fn write_spent(t: &Transaction<'_>, spent: Usage) -> rusqlite::Result<()> {
    let sql = format!("UPDATE spent SET ({COLUMNS}) = (?1, ?2, ?3, ?4, ?5, ?6, ?7) WHERE id = 1");
    t.prepare_cached(&sql)?.execute(integers(spent))?;
    Ok(())
}

/// SQLite's integers end at `i64::MAX`, which no budget reaches.
fn integers(u: Usage) -> [i64; 7] {
    [u.calls, u.examples, u.prompt_tokens, u.completion_tokens, u.cache_hits, u.retries, u.micros]
        .map(|x| i64::try_from(x).unwrap_or(i64::MAX))
}

fn usage(row: &Row<'_>) -> rusqlite::Result<Usage> {
    let at = |i: usize| row.get::<_, i64>(i).map(|x| u64::try_from(x).unwrap_or(0));
    Ok(Usage {
        calls: at(0)?,
        examples: at(1)?,
        prompt_tokens: at(2)?,
        completion_tokens: at(3)?,
        cache_hits: at(4)?,
        retries: at(5)?,
        micros: at(6)?,
    })
}

fn less(a: Usage, b: Usage) -> Usage {
    Usage {
        calls: a.calls.saturating_sub(b.calls),
        examples: a.examples.saturating_sub(b.examples),
        prompt_tokens: a.prompt_tokens.saturating_sub(b.prompt_tokens),
        completion_tokens: a.completion_tokens.saturating_sub(b.completion_tokens),
        cache_hits: a.cache_hits.saturating_sub(b.cache_hits),
        retries: a.retries.saturating_sub(b.retries),
        micros: a.micros.saturating_sub(b.micros),
    }
}
