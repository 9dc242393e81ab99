//! What a script sees: the exit code, one message on standard error, nothing on standard output.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Output};

use antiphon::error::Kind;

fn antiphon(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_antiphon")).args(args).output().unwrap()
}

/// The command fails as `kind`, says each of `words`, and prints no result.
fn fails(args: &[&str], kind: Kind, words: &[&str]) {
    let out = antiphon(args);
    let message = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(i32::from(kind.code())), "{args:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{args:?}: no `{word}` in: {message}");
    }
    assert!(out.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn success_is_zero() {
    for args in [&["--help"][..], &["--version"], &["run", "--help"], &["completions", "bash"]] {
        let out = antiphon(args);
        assert_eq!(out.status.code(), Some(0), "{args:?}");
        assert!(!out.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    fails(&["rum"], Kind::Usage, &["rum", "run"]);
    fails(&["run"], Kind::Usage, &["FILE"]);
    fails(&["bench", "round", "--clients", "0"], Kind::Usage, &["clients"]);
    fails(&["bench", "gemm", "--threads", "0"], Kind::Usage, &["--threads"]);
    fails(&["logits", "m", "--ids", "1 x"], Kind::Usage, &["--ids", "`x`"]);
    fails(&["logits", "m", "--ids", " "], Kind::Usage, &["--ids"]);
    fails(&["generate", "m", "-p", "a", "--temperature", "1", "--top-p", "2"], Kind::Usage, &["top_p"]);
}

#[test]
fn what_is_not_there_says_so() {
    fails(&["plan", "no/such.toml"], Kind::Settings, &["no/such.toml"]);
    fails(&["run", "."], Kind::Settings, &["folder"]);
    fails(&["eval", "no/such.toml"], Kind::Settings, &["no/such.toml"]);
    fails(&["logits", "no/such", "--ids", "1"], Kind::Model, &["no/such"]);
    fails(&["generate", "no/such", "-p", "a"], Kind::Model, &["no/such"]);
    for command in [&["resume", "no/run"][..], &["doctor", "no/run"], &["export", "no/run", "--out", "x"]] {
        fails(command, Kind::RunDir, &["no/run"]);
    }
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    std::fs::write(&file, "precious").unwrap();
    fails(&["init", "m", "d", "--out", text(&file)], Kind::Usage, &["there already"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
