//! Repository chores: `cargo xtask tidy | ci | docs | assets`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod assets;
mod ci;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["tidy"] => tidy::run(&root()),
        ["ci"] => ci::run(&root()),
        ["docs", rest @ ..] => ci::docs(&root(), rest.contains(&"--check")),
        ["assets", rest @ ..] => assets::run(&root(), rest),
        _ => Err("usage: cargo xtask tidy | ci | docs [--check] | assets [tasks | tokenizer | corpus | base | check]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
