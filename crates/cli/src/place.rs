//! Points at the line of a run file that an error is about, in words that do not presuppose Rust.
//!
//! Sections such as `[method]` are read by the registry that owns their keys, from a table that has forgotten its lines;
//! [`Source::blame`] finds the line again by the key or the value that the message names.

use std::fmt::Write as _;

use antiphon_core::nearest;
use toml::de::{DeTable, DeValue};

use crate::error::{Failure, Kind};

/// The text of a run file and what it was overridden with.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    overrides: Vec<String>,
}

impl Source {
    /// `name` is how messages call it.
    pub fn new(name: &str, text: &str, overrides: &[String]) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), overrides: overrides.to_vec() }
    }

    /// An error of the TOML reader.
    pub fn explain(&self, error: &toml::de::Error) -> Failure {
        self.point(error.span().map(|s| s.start), &plain(error.message()))
    }

    /// An error about `section`, a dotted path such as `data.partition`: at the key or the value there that `message`
    /// names in backquotes, else at the section.
    pub fn blame(&self, section: &str, message: &str) -> Failure {
        let message = format!("[{section}]: {}", plain(message));
        // serde puts strings into double quotes and everything else into backquotes
        let words: Vec<&str> =
            quoted(&message).into_iter().chain(message.split('"').skip(1).step_by(2)).collect();
        let own = |item: &&String| {
            let key = item.split('=').next().unwrap_or_default();
            key.strip_prefix(section).and_then(|k| k.strip_prefix('.')).is_some_and(|k| {
                words.contains(&k) || k == "id" && item.split('=').nth(1).is_some_and(|v| words.contains(&v))
            })
        };
        if let Some(item) = self.overrides.iter().find(own) {
            return Failure::new(Kind::Settings, format_args!("override `{item}`: {message}"));
        }
        self.point(self.find(section, &words), &message)
    }

    /// Where `section` holds one of `words` as a key or a value, or begins.
    fn find(&self, section: &str, words: &[&str]) -> Option<usize> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut table = root.get_ref();
        let mut start = None;
        for part in section.split('.') {
            let (key, value) = table.get_key_value(part)?;
            start = Some(key.span().start);
            table = value.get_ref().as_table()?;
        }
        let named = |word: &&str| {
            let is = |value: &DeValue<'_>| match value {
                DeValue::Integer(n) => n.as_str() == *word,
                DeValue::Float(x) => x.as_str() == *word,
                DeValue::Boolean(b) => b.to_string() == *word,
                other => other.as_str() == Some(*word),
            };
            let (key, _) = table.iter().find(|(k, v)| k.get_ref() == *word || is(v.get_ref()))?;
            Some(key.span().start)
        };
        words.iter().find_map(named).or(start)
    }

    fn point(&self, at: Option<usize>, message: &str) -> Failure {
        let Some(before) = at.and_then(|at| self.text.get(..at)).filter(|_| !self.text.is_empty()) else {
            return Failure::new(Kind::Settings, format_args!("{}: {message}", self.name));
        };
        let line = before.matches('\n').count();
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let mut text = format!("{}:{}:{column}: {message}", self.name, line + 1);
        if let Some(source) = self.text.lines().nth(line) {
            let _ = write!(text, "\n  {} | {source}", line + 1);
        }
        Failure::new(Kind::Settings, text)
    }
}

/// What stands in backquotes, in order.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// Serde's message with the nearest known name, and types in the words of TOML.
pub fn plain(message: &str) -> String {
    let words = quoted(message);
    let unknown = message.contains("unknown field") || message.contains("unknown variant");
    let near = match words.split_first() {
        Some((word, known)) if unknown => nearest(word, known.iter().copied()),
        _ => None,
    };
    let mut text = message.replace("unknown field", "unknown key").replace("missing field", "missing key");
    for (rust, toml) in TYPES {
        if let Some(head) = text.strip_suffix(&format!("expected {rust}")) {
            text = format!("{head}expected {toml}");
        }
    }
    if let Some(near) = near {
        let _ = write!(text, " (did you mean `{near}`?)");
    }
    text
}

/// Types as serde calls them and as a user does.
const TYPES: [(&str, &str); 8] = [
    ("f64", "a number"),
    ("f32", "a number"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number, 0 or more"),
    ("usize", "a whole number, 0 or more"),
    ("a map", "a section or `{ key = value }`"),
    ("a sequence", "a list"),
    ("a boolean", "true or false"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "[run]\nseed = 1\n\n[method]\nid = \"lora\"\nlora_alfa = 4\n[data.partition]\nid = \"iid\"\n";

    fn blame(overrides: &[&str], section: &str, message: &str) -> String {
        let overrides: Vec<String> = overrides.iter().map(|&s| s.to_owned()).collect();
        Source::new("run.toml", TEXT, &overrides).blame(section, message).message
    }

    #[test]
    fn a_section_read_later_still_has_its_lines() {
        assert_eq!(
            blame(&[], "method", "lora: unknown field `lora_alfa`, expected `lora_r` or `lora_alpha`"),
            "run.toml:6:1: [method]: lora: unknown key `lora_alfa`, expected `lora_r` or `lora_alpha` \
             (did you mean `lora_alpha`?)\n  6 | lora_alfa = 4"
        );
        assert!(blame(&[], "method", "unknown method `lora`").starts_with("run.toml:5:1: "));
        assert!(blame(&[], "method", "rank 3").starts_with("run.toml:4:2: "));
        assert!(blame(&[], "data.partition", "unknown `iid`").starts_with("run.toml:8:1: "));
        assert_eq!(blame(&[], "server", "what"), "run.toml: [server]: what");
    }

    #[test]
    fn an_override_is_named_when_it_is_to_blame() {
        let found = blame(&["run.seed=2", "method.lora_alfa=4"], "method", "unknown field `lora_alfa`");
        assert!(found.starts_with("override `method.lora_alfa=4`: [method]: unknown key"), "{found}");
        let found = blame(&["method.id=lorra"], "method", "unknown method `lorra`");
        assert!(found.starts_with("override `method.id=lorra`"), "{found}");
    }

    #[test]
    fn types_are_those_of_the_file() {
        assert_eq!(
            plain("invalid type: string \"x\", expected f64"),
            "invalid type: string \"x\", expected a number"
        );
    }
}
