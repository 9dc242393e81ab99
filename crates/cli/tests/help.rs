//! What `--help` says, command by command: a changed word here is a change that users see.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use antiphon::args::Cli;
use clap::CommandFactory;

/// `(name, help)` of every command below `command`, itself included.
fn walk(command: &mut clap::Command, name: &str, out: &mut Vec<(String, String)>) {
    out.push((name.to_owned(), command.render_long_help().to_string()));
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for sub in names.iter().filter(|n| *n != "help") {
        walk(command.find_subcommand_mut(sub).unwrap(), &format!("{name}-{sub}"), out);
    }
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_of_every_command() {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut all = Vec::new();
    walk(&mut root, "antiphon", &mut all);
    assert_eq!(all.len(), 1 + 14 + 4, "antiphon, its commands and the benches");
    for (name, help) in all {
        insta::assert_snapshot!(name, help);
    }
}
