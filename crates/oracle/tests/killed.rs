//! A budget survives `kill -9` at any moment: what the endpoint has seen never exceeds what the ledger says, nor the limit.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use antiphon_core::{Purpose, Stream};
use antiphon_oracle::Usage;
use antiphon_oracle::ledger::{Ledger, LedgerError, Limits, Terms};

const LIMIT: u64 = 600;

fn terms() -> Terms {
    Terms { limits: Limits { examples: Some(LIMIT), ..Limits::NONE }, ..Terms::FREE }
}

fn examples(n: u64) -> Usage {
    Usage { examples: n, ..Usage::ZERO }
}

/// Not a test of its own: the process that is killed. It is this executable with `LEDGER_DIR` set; in an ordinary run it does
/// nothing. The endpoint is a file with one byte for each example it has seen.
#[test]
fn child() {
    let Some(dir) = std::env::var_os("LEDGER_DIR").map(PathBuf::from) else { return };
    let ledger = Ledger::open(&dir.join("ledger.sqlite"), terms()).unwrap();
    let mut endpoint = OpenOptions::new().append(true).create(true).open(dir.join("endpoint")).unwrap();
    while let Ok(reservation) = ledger.reserve(examples(3)) {
        endpoint.write_all(b"xx").unwrap();
        // sometimes fewer are needed than were reserved
        std::thread::sleep(Duration::from_micros(300));
        reservation.settle(examples(2)).unwrap();
    }
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env("LEDGER_DIR", dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn seen(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("endpoint")).map_or(0, |m| m.len())
}

#[test]
fn killed_again_and_again_it_never_overspends() {
    let dir = tempfile::tempdir().unwrap();
    let mut waits = Stream::new(1, Purpose::Test);
    let mut kills = 0;
    let mut lost = 0;
    for _ in 0..40 {
        let mut child = start(dir.path());
        std::thread::sleep(Duration::from_millis(15 + waits.below(25)));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        kills += u32::from(!ended.success());
        let ledger = Ledger::open(&dir.path().join("ledger.sqlite"), terms()).unwrap();
        let (spent, asked) = (ledger.spent().examples, seen(dir.path()));
        assert!(asked <= spent && spent <= LIMIT, "{asked} asked, {spent} booked, {LIMIT} allowed");
        // a kill loses at most the one reservation that was open
        assert!(spent - asked <= 3 * u64::from(kills), "{asked} asked, {spent} booked");
        lost = spent - asked;
        if LIMIT - spent < 3 {
            break;
        }
    }
    assert!(kills >= 3, "only {kills} kills met a process at work");
    // uninterrupted it ends by itself, with the budget used up and nothing passed
    assert!(start(dir.path()).wait().unwrap().success());
    let ledger = Ledger::open(&dir.path().join("ledger.sqlite"), terms()).unwrap();
    assert!(LIMIT - ledger.spent().examples < 3);
    assert_eq!(ledger.spent().examples - seen(dir.path()), lost);
}

#[test]
fn two_processes_cannot_spend_one_budget() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.sqlite");
    let held = Ledger::open(&path, terms()).unwrap();
    // the child finds it locked and dies of its unwrap without asking anything
    assert!(!start(dir.path()).wait().unwrap().success());
    assert_eq!(seen(dir.path()), 0);
    drop(held);
    assert!(start(dir.path()).wait().unwrap().success());
    assert!(seen(dir.path()) > 0);
    // and the other way round
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.sqlite");
    let mut child = start(dir.path());
    while seen(dir.path()) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    match Ledger::open(&path, terms()) {
        Err(LedgerError::InUse { pid, .. }) => assert_eq!(pid, Some(child.id())),
        other => panic!("{other:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
