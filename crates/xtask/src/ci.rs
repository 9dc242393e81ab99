//! The checks of `.ci/run`, in the order in which they fail fastest.

use std::path::Path;
use std::process::Command;

/// A name, the words after `cargo`, and a variable of the environment.
type Step<'a> = (&'a str, &'a [&'a str], Option<(&'a str, &'a str)>);

/// Runs every check and stops at the first that fails.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    super::tidy::run(root)?;
    let steps: &[Step<'_>] = &[
        ("format", &["fmt", "--all", "--check"], None),
        ("licences and sources", &["deny", "check", "bans", "licenses", "sources"], None),
        ("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], None),
        ("docs", &["doc", "--workspace", "--no-deps"], Some(("RUSTDOCFLAGS", "-D warnings"))),
        ("tests", &["test", "--workspace"], None),
    ];
    for (name, args, env) in steps {
        println!("== {name}: cargo {}", args.join(" "));
        cargo(root, args, *env)?;
    }
    docs(root, true)
}

/// Writes the generated references, or with `check` compares them with what is committed.
pub(crate) fn docs(root: &Path, check: bool) -> Result<(), String> {
    println!("== generated references");
    let mut args = vec!["run", "--quiet", "--package", "antiphon", "--example", "reference", "--"];
    if check {
        args.push("--check");
    }
    cargo(root, &args, None)
}

/// One cargo command in the repository's root.
pub(crate) fn cargo(root: &Path, args: &[&str], env: Option<(&str, &str)>) -> Result<(), String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root).envs(env);
    let status = command.status().map_err(|e| format!("cargo {}: {e}", args.join(" ")))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", args.join(" "))) }
}
