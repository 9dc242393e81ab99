//! What a user sees when something cannot be done, and the exit code a script sees.

use std::fmt;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use antiphon_core::nearest;
use antiphon_oracle::OracleError;
use antiphon_store::StoreError;

/// The kinds of failure, each with its exit code. The codes are stable; `docs/cli.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A defect of antiphon, or of the machine.
    Internal,
    /// The command line.
    Usage,
    /// The run file.
    Settings,
    /// The data.
    Data,
    /// The model, its tokenizer or an adapter.
    Model,
    /// The run directory: in use, changed, not a run.
    RunDir,
    /// The federation could not close a round.
    Federation,
    /// Reading or writing failed; a full disk too.
    Storage,
    /// The oracle of a search: its endpoint or its budget.
    Oracle,
    /// What was recorded is not what is recomputed.
    Audit,
    /// Stopped by the user after a checkpoint.
    Interrupted,
}

impl Kind {
    /// Every kind, in order of its code.
    pub const ALL: [Self; 11] = [
        Self::Internal,
        Self::Usage,
        Self::Settings,
        Self::Data,
        Self::Model,
        Self::RunDir,
        Self::Federation,
        Self::Storage,
        Self::Oracle,
        Self::Audit,
        Self::Interrupted,
    ];

    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Settings => 3,
            Self::Data => 4,
            Self::Model => 5,
            Self::RunDir => 6,
            Self::Federation => 7,
            Self::Storage => 8,
            Self::Oracle => 9,
            Self::Audit => 10,
            Self::Interrupted => 130,
        }
    }

    /// One line for the reference.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Internal => "a defect of antiphon or of the machine",
            Self::Usage => "the command line",
            Self::Settings => "the run file or an override",
            Self::Data => "the data",
            Self::Model => "the model, its tokenizer or an adapter",
            Self::RunDir => "the run directory: in use, changed, or not one",
            Self::Federation => "the federation could not close a round",
            Self::Storage => "reading or writing failed, a full disk too",
            Self::Oracle => {
                "the endpoint of a search failed, or its budget is used up; `antiphon resume` continues"
            }
            Self::Audit => "what a run recorded is not what its deliveries make",
            Self::Interrupted => {
                "stopped by the user; a checkpoint is written and `antiphon resume` continues"
            }
        }
    }
}

/// A failure on its way to the user.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// What was found, where, and what would work.
    pub message: String,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// Adds the nearest name beside `path`, where `path` does not exist and some name is near.
    #[must_use]
    pub fn with_near_path(mut self, path: &Path) -> Self {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let (false, Some(name), Ok(entries)) =
            (path.exists(), path.file_name().and_then(|n| n.to_str()), std::fs::read_dir(parent))
        {
            let mut names: Vec<String> =
                entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
            names.sort_unstable();
            if let Some(near) = nearest(name, names.iter().map(String::as_str)) {
                let _ = write!(self.message, " (did you mean `{near}`?)");
            }
        }
        self
    }

    /// The exit code as the process returns it.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Marks the errors of one source with a kind: `load(path).fail(Kind::Model)?`.
pub trait Fail<T> {
    /// The error as a [`Failure`] of `kind`.
    fn fail(self, kind: Kind) -> Result<T, Failure>;
    /// The same, with a place in front.
    fn fail_at(self, kind: Kind, place: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Fail<T> for Result<T, E> {
    fn fail(self, kind: Kind) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(kind, chain(&e)))
    }
    fn fail_at(self, kind: Kind, place: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(kind, format_args!("{place}: {}", chain(&e))))
    }
}

/// `text` without characters that would steer the terminal: messages quote names and templates of files that anybody may
/// have written.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A full disk and a refused write are not the run directory's fault.
pub fn store(error: &StoreError) -> Failure {
    Failure::new(if error.is_io() { Kind::Storage } else { Kind::RunDir }, chain(error))
}

/// What ends an asking: of `kind`, unless a ledger or a cache could not be written.
pub fn oracle(error: &OracleError, kind: Kind) -> Failure {
    Failure::new(if error.is_storage() { Kind::Storage } else { kind }, chain(error))
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let line = cause.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_do_not_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\r\n\tü\u{9b}"), "a\\u{1b}[31mb\\r\n\tü\\u{9b}");
    }

    #[test]
    fn exit_codes_are_distinct() {
        let mut codes: Vec<u8> = Kind::ALL.iter().map(|k| k.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
    }
}
