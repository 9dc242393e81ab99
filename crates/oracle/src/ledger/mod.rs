//! The budget ledger: what asking has cost, durable, and never more than was allowed.
//!
//! ```text
//! reserve(most)  ── committed to disk before anything is sent; refused if spent + reserved + most > limit
//! …the oracle asks…
//! settle(used)   ── the reservation becomes what was really used
//! ```
//!
//! A reservation that is never settled, because the process died or an error hides what was sent, counts as spent in full:
//! the budget may be used less than it could, never more. A limit that is raised when the ledger is opened again applies to
//! everything spent before as well.
//!
//! One process at a time: the second is refused with the first one's number. Clients in one process share a ledger.
//!
//! Deliberately missing: sub-accounts of clients, and any rollback. A run that resumes from an earlier checkpoint has spent
//! what it spent; the cache answers what it asks again.

mod book;
mod metered;
mod terms;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use book::Book;
pub use metered::Metered;
pub use terms::{Limits, Prices, Terms};

use crate::answer::Usage;
use crate::error::OracleError;

/// An open ledger. Shared by reference.
#[derive(Debug)]
pub struct Ledger {
    terms: Terms,
    book: Mutex<Book>,
    /// Held until dropped.
    _lock: Option<File>,
}

impl Ledger {
    /// Opens the ledger at `path`, or begins one. Reservations that an earlier process left open are counted as spent.
    pub fn open(path: &Path, terms: Terms) -> Result<Self, LedgerError> {
        let lock = lock(path)?;
        let book = Book::open(path, terms.durable)?;
        Ok(Self { terms, book: Mutex::new(book), _lock: Some(lock) })
    }

    /// A ledger that ends with its process, for searches that cost nothing.
    pub fn in_memory(terms: Terms) -> Result<Self, LedgerError> {
        Ok(Self { terms, book: Mutex::new(Book::in_memory()?), _lock: None })
    }

    /// Sets `most` aside, priced. Refused whole if any limit would be passed: a candidate that is evaluated on part of its
    /// examples is worth nothing.
    pub fn reserve(&self, most: Usage) -> Result<Reservation<'_>, OracleError> {
        let most = self.terms.prices.priced(most);
        let mut book = self.book();
        let before = book.spent + book.reserved;
        self.terms.limits.admit(before, most)?;
        let id = book.reserve(most).map_err(Box::new)?;
        Ok(Reservation { ledger: self, id, most, open: true })
    }

    /// Settled so far, lost reservations included.
    #[must_use]
    pub fn spent(&self) -> Usage {
        self.book().spent
    }

    /// Set aside and not settled.
    #[must_use]
    pub fn reserved(&self) -> Usage {
        self.book().reserved
    }

    /// What holds.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Budget set aside. Dropped without [`Reservation::settle`] or [`Reservation::release`], it counts as spent.
#[derive(Debug)]
#[must_use = "a reservation that is dropped counts as spent"]
pub struct Reservation<'a> {
    ledger: &'a Ledger,
    id: i64,
    most: Usage,
    open: bool,
}

impl Reservation<'_> {
    /// What is set aside, priced.
    #[must_use]
    pub fn most(&self) -> Usage {
        self.most
    }

    /// Books what was used, priced. More than was reserved is booked as well: it has been spent, whatever was promised.
    pub fn settle(mut self, used: Usage) -> Result<Usage, LedgerError> {
        self.open = false;
        let used = self.ledger.terms.prices.priced(used);
        self.ledger.book().settle(self.id, self.most, used)?;
        Ok(used)
    }

    /// Nothing was sent.
    pub fn release(self) -> Result<(), LedgerError> {
        self.settle(Usage::ZERO).map(|_| ())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.open {
            // if this write fails too, the row is still there and counts when the ledger is next opened
            let _ = self.ledger.book().settle(self.id, self.most, self.most);
        }
    }
}

/// Locks through a file beside the database: SQLite's own locks are the process's and go when any handle of the file is
/// closed.
fn lock(path: &Path) -> Result<File, LedgerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let beside = PathBuf::from(name);
    let io = |source| LedgerError::Io { path: beside.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&beside).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // the holder may be writing just now: then the error names nobody
            let _ = file.read_to_string(&mut text);
            return Err(LedgerError::InUse { path: path.to_owned(), pid: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

/// A ledger that cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// Another process spends from it.
    #[error(
        "the budget ledger `{}` is in use by {}; two runs cannot spend one budget at a time, so wait for it or give each \
         its own ledger",
        path.display(), pid.map_or("another process".to_owned(), |p| format!("process {p}"))
    )]
    InUse {
        /// The database.
        path: PathBuf,
        /// Who, if the lock file says so.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error("cannot lock `{}`: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("the budget ledger `{}`: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Not written by this program, or by another version of it.
    #[error("`{}` is no budget ledger of format {expected} (found {found}); choose another path", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What this version writes.
        expected: i64,
        /// What it says.
        found: i64,
    },
}

impl From<Box<LedgerError>> for OracleError {
    fn from(e: Box<LedgerError>) -> Self {
        Self::Other(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(n: u64) -> Usage {
        Usage { calls: 1, examples: n, ..Usage::ZERO }
    }

    fn terms(limit: u64) -> Terms {
        Terms { limits: Limits { examples: Some(limit), ..Limits::NONE }, ..Terms::FREE }
    }

    #[test]
    fn reservations_are_settled_released_or_lost() {
        let ledger = Ledger::in_memory(terms(10)).unwrap();
        let a = ledger.reserve(examples(6)).unwrap();
        let refused = ledger.reserve(examples(5)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "examples: 6 spent and reserved of 10, and this needs up to 5 more; raise the budget or ask less"
        );
        a.settle(examples(2)).unwrap();
        assert_eq!((ledger.spent(), ledger.reserved()), (examples(2), Usage::ZERO));
        ledger.reserve(examples(8)).unwrap().release().unwrap();
        drop(ledger.reserve(examples(5)).unwrap());
        assert_eq!(ledger.spent().examples, 7);
        // what costs nothing of a limit is allowed however little is left
        drop(ledger.reserve(Usage { cache_hits: 9, ..Usage::ZERO }).unwrap());
        assert!(ledger.reserve(examples(4)).is_err());
    }

    #[test]
    fn a_ledger_remembers_and_an_open_reservation_counts_in_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let first = Ledger::open(&path, terms(10)).unwrap();
        first.reserve(examples(3)).unwrap().settle(examples(3)).unwrap();
        // as if the process had died here
        std::mem::forget(first.reserve(examples(4)).unwrap());
        drop(first);
        let again = Ledger::open(&path, terms(10)).unwrap();
        assert_eq!((again.spent().examples, again.reserved()), (7, Usage::ZERO));
        assert!(again.reserve(examples(4)).is_err());
    }

    #[test]
    fn a_second_opening_is_refused_and_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let _first = Ledger::open(&path, terms(1)).unwrap();
        let refused = Ledger::open(&path, terms(1)).unwrap_err();
        assert!(
            refused.to_string().contains(&format!("in use by process {}", std::process::id())),
            "{refused}"
        );
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.sqlite");
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t (x); PRAGMA user_version = 9;")
            .unwrap();
        assert!(matches!(Ledger::open(&path, terms(1)), Err(LedgerError::Format { found: 9, .. })));
        std::fs::write(&path, "not a database at all, by any means; longer than its header ...............")
            .unwrap();
        assert!(matches!(Ledger::open(&path, terms(1)), Err(LedgerError::Sqlite { .. })));
    }
}
