//! Kills and full disks at every point and at random moments: each time the run is resumed it ends with
//! the bits of an uninterrupted one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests are tests"
)]

mod toy;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use antiphon_core::{Purpose, Stream};
use antiphon_store::{Failpoint, StoreError};
use toy::{check_finished, run_to_end};

/// Counts the points passed and calls `at` at the `n`-th, from 1.
fn failpoint(
    n: usize,
    at: impl Fn(&Path, &'static str) -> io::Result<()> + Send + Sync + 'static,
) -> Failpoint {
    let passed = AtomicUsize::new(0);
    Arc::new(
        move |path, operation| {
            if passed.fetch_add(1, Ordering::SeqCst) + 1 == n { at(path, operation) } else { Ok(()) }
        },
    )
}

/// The points that an uninterrupted run passes.
fn count_points(durable: bool) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let counting: Failpoint = Arc::new(move |_, _| {
        seen.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    run_to_end(&dir.path().join("run"), durable, Some(counting)).unwrap();
    count.load(Ordering::SeqCst)
}

/// Not a test of its own: the process that the others kill. They start this very executable with
/// `TOY_RUN` set; in an ordinary test run it does nothing.
#[test]
fn child() {
    let Some(path) = std::env::var_os("TOY_RUN").map(PathBuf::from) else { return };
    let durable = std::env::var_os("TOY_DURABLE").is_some();
    let die_at = std::env::var("TOY_DIE_AT").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    // abort runs no destructor and flushes nothing: for the disk it is a kill
    let die = failpoint(die_at, |_, _| std::process::abort());
    if let Err(e) = run_to_end(&path, durable, Some(die)) {
        eprintln!("{e}");
        std::process::exit(3);
    }
}

fn child_command(path: &Path, durable: bool) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env("TOY_RUN", path);
    if durable {
        command.env("TOY_DURABLE", "1");
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// `STORE_CRASH_POINTS=all` dies at every point; by default every few, a different phase in each mode.
fn points(durable: bool) -> Vec<usize> {
    let all = count_points(durable);
    assert!(all > 200, "only {all} points: where did they go?");
    let step = if std::env::var("STORE_CRASH_POINTS").is_ok_and(|v| v == "all") {
        1
    } else if durable {
        // every point costs two runs of fsyncs
        37
    } else {
        11
    };
    (1..=all).skip(usize::from(durable)).step_by(step).collect()
}

fn killed_at_points(durable: bool) {
    let expected = run_to_end(&tempfile::tempdir().unwrap().path().join("run"), durable, None).unwrap();
    for point in points(durable) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let status = child_command(&path, durable).env("TOY_DIE_AT", point.to_string()).status().unwrap();
        assert!(!status.success(), "point {point} was not reached");
        assert_eq!(run_to_end(&path, durable, None).unwrap(), expected, "killed at point {point}");
        check_finished(&path, &expected);
    }
}

#[test]
fn killed_at_points_between_writes() {
    killed_at_points(false);
}

#[test]
fn killed_at_points_between_writes_in_durable_mode() {
    killed_at_points(true);
}

/// `kill -9` at random moments, again and again, until the run is done.
#[test]
fn killed_at_random_moments() {
    let expected = run_to_end(&tempfile::tempdir().unwrap().path().join("run"), false, None).unwrap();
    let mut random = Stream::new(7, Purpose::Test);
    let mut kills = 0;
    for _ in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        loop {
            let mut child = child_command(&path, false).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(2_000 + random.below(25_000)));
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                break;
            }
            kills += 1;
            if kills % 25 == 0 {
                // a slow machine: let this one come through
                assert!(child_command(&path, false).status().unwrap().success());
                break;
            }
        }
        check_finished(&path, &expected);
    }
    assert!(kills > 0, "no kill fell into a run");
}

/// Every write that can fail for want of space does, once: the error says so and the run goes on after.
#[test]
fn a_full_disk_at_points_between_writes() {
    for durable in [false, true] {
        let expected = run_to_end(&tempfile::tempdir().unwrap().path().join("run"), durable, None).unwrap();
        let mut full = 0;
        for point in points(durable) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("run");
            let no_space = failpoint(point, |_, _| Err(io::Error::from(io::ErrorKind::StorageFull)));
            match run_to_end(&path, durable, Some(no_space)) {
                Err(StoreError::DiskFull { path: file, .. }) => {
                    assert!(file.starts_with(dir.path()), "{}", file.display());
                    full += 1;
                }
                other => panic!("point {point}: {other:?}"),
            }
            assert_eq!(run_to_end(&path, durable, None).unwrap(), expected, "full at point {point}");
            check_finished(&path, &expected);
        }
        assert!(full >= 10, "only {full} points");
    }
}

/// A real file system of 2 MiB, in a mount namespace of its own.
#[test]
fn a_disk_that_is_really_full() {
    let dir = tempfile::tempdir().unwrap();
    let (small, log) = (dir.path().join("small"), dir.path().join("log"));
    std::fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=2m tmpfs \"$SMALL\" || exit 77
        \"$EXE\" --exact child --nocapture >/dev/null 2>\"$LOG\"; first=$?
        [ $first = 3 ] || exit 78
        mount -o remount,size=64m \"$SMALL\" || exit 77
        \"$EXE\" --exact child --nocapture >/dev/null 2>>\"$LOG\" || exit 79
        cp -r \"$SMALL/run\" \"$COPY\"";
    let copy = dir.path().join("copy");
    let status = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .env("EXE", std::env::current_exe().unwrap())
        .env("SMALL", &small)
        .env("LOG", &log)
        .env("COPY", &copy)
        .env("TOY_RUN", small.join("run"))
        .stderr(Stdio::null())
        .status();
    match status.ok().and_then(|s| s.code()) {
        None | Some(1 | 77 | 127) => {
            println!("skipped: this machine lets nobody mount a file system in a namespace");
            return;
        }
        Some(code) => assert_eq!(code, 0, "{}", std::fs::read_to_string(&log).unwrap_or_default()),
    }
    let message = std::fs::read_to_string(&log).unwrap();
    assert!(message.contains("the disk is full") && message.contains("more bytes"), "{message}");
    let expected = run_to_end(&dir.path().join("run"), false, None).unwrap();
    check_finished(&copy, &expected);
}
