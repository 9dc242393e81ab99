//! Which modules a name means, by the rules of peft (0.21, `check_target_module_exists` and `get_pattern_key`).
//!
//! - `target_modules` as a list: a module whose path is the name or ends in `.name`.
//! - `target_modules` as a string: `all-linear`, or a regular expression that matches the whole path.
//! - keys of `rank_pattern` and `alpha_pattern`: `(.*\.)?(key)$`, the first key that matches wins.

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

use super::MethodError;

/// `target_modules` of the run file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Targets {
    /// Names or path suffixes.
    Names(Vec<String>),
    /// `all-linear`, or a regular expression over whole paths.
    Text(String),
}

/// peft's word for every linear map of the blocks.
const ALL_LINEAR: &str = "all-linear";

impl Targets {
    /// The matcher of each part, so that a part that matches nothing can be named.
    pub(super) fn matchers(&self) -> Result<Vec<Matcher>, MethodError> {
        match self {
            Self::Names(list) => Ok(list.iter().cloned().map(Matcher::Suffix).collect()),
            Self::Text(text) if text.eq_ignore_ascii_case(ALL_LINEAR) => Ok(vec![Matcher::All]),
            Self::Text(text) => Ok(vec![Matcher::Whole(Pattern::whole("target_modules", text)?)]),
        }
    }
}

/// One part of `target_modules`.
#[derive(Debug)]
pub(super) enum Matcher {
    All,
    Suffix(String),
    Whole(Pattern),
}

impl Matcher {
    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Suffix(name) => {
                path.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Whole(pattern) => pattern.matches(path),
        }
    }

    /// As the run file has it.
    pub(super) fn source(&self) -> &str {
        match self {
            Self::All => ALL_LINEAR,
            Self::Suffix(name) => name,
            Self::Whole(pattern) => pattern.source(),
        }
    }
}

/// A regular expression with the text it was made from.
#[derive(Debug)]
pub(super) struct Pattern {
    source: String,
    regex: Regex,
}

impl Pattern {
    /// Python's `re.match`: from the start, not to the end.
    pub(super) fn prefix(key: &'static str, source: &str) -> Result<Self, MethodError> {
        Self::new(key, source, format!("^(?:{source})"))
    }

    /// Python's `re.fullmatch`.
    pub(super) fn whole(key: &'static str, source: &str) -> Result<Self, MethodError> {
        Self::new(key, source, format!("^(?:{source})$"))
    }

    /// A key of `rank_pattern` or `alpha_pattern`.
    pub(super) fn suffix(key: &'static str, source: &str) -> Result<Self, MethodError> {
        Self::new(key, source, format!(r"^(.*\.)?({source})$"))
    }

    fn new(key: &'static str, source: &str, full: String) -> Result<Self, MethodError> {
        let regex = Regex::new(&full).map_err(|e| MethodError::Pattern {
            key,
            pattern: source.to_owned(),
            source: Box::new(e),
        })?;
        Ok(Self { source: source.to_owned(), regex })
    }

    /// A pattern that backtracks beyond the engine's limit does not match.
    pub(super) fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text).unwrap_or(false)
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }
}
