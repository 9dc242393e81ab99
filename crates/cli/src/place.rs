//! Points at the line of a run file that an error is about, in words that do not presuppose Rust.
//!
//! Sections such as `[method]` are read by the registry that owns their keys, from a table that has forgotten its lines;
//! [`Source::blame`] finds the line again by the key or the value that the message names.

use std::fmt::Write as _;

use antiphon_core::nearest;
use toml::de::{DeTable, DeValue};

use crate::error::{Failure, Kind};
use crate::secret;

/// Characters of a line that are shown.
const LINE: usize = 160;

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
        // what is wrong is named before what would be right
        for word in &words {
            let own = |item: &&String| {
                let (key, value) = item.split_once('=').unwrap_or((item, ""));
                key.strip_prefix(section)
                    .and_then(|k| k.strip_prefix('.'))
                    .is_some_and(|k| k == *word || value.trim_matches('"') == *word)
            };
            if let Some(item) = self.overrides.iter().find(own) {
                return overridden(item, &message);
            }
            if let Some(at) = self.find(section, Some(word)) {
                return self.point(Some(at), &message);
            }
        }
        self.point(self.find(section, None), &message)
    }

    /// Where `section` holds `word` as a key or a value; without a word, where it begins.
    fn find(&self, section: &str, word: Option<&str>) -> Option<usize> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut table = root.get_ref();
        let mut start = None;
        for part in section.split('.') {
            let (key, value) = table.get_key_value(part)?;
            start = Some(key.span().start);
            table = value.get_ref().as_table()?;
        }
        let Some(word) = word else { return start };
        let is = |value: &DeValue<'_>| match value {
            DeValue::Integer(n) => n.as_str() == word,
            DeValue::Float(x) => x.as_str() == word,
            DeValue::Boolean(b) => b.to_string() == word,
            other => other.as_str() == Some(word),
        };
        let (key, _) = table.iter().find(|(k, v)| k.get_ref() == word || is(v.get_ref()))?;
        Some(key.span().start)
    }

    /// An error at the byte `at`; without one, about the file.
    pub fn point(&self, at: Option<usize>, message: &str) -> Failure {
        let message = secret::conceal(message.to_owned(), &self.text);
        let Some(before) = at.and_then(|at| self.text.get(..at)).filter(|_| !self.text.is_empty()) else {
            return Failure::new(Kind::Settings, format_args!("{}: {message}", self.name));
        };
        let line = before.matches('\n').count();
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let mut text = format!("{}:{}:{column}: {message}", self.name, line + 1);
        if let Some(source) = self.text.lines().nth(line).filter(|l| !secret::in_line(l)) {
            let (shown, cut) = match source.char_indices().nth(LINE) {
                Some((end, _)) => (&source[..end], "…"),
                None => (source, ""),
            };
            let _ = write!(text, "\n  {} | {shown}{cut}", line + 1);
        }
        Failure::new(Kind::Settings, text)
    }
}

/// An error that the override `item` is to blame for.
pub fn overridden(item: &str, message: &str) -> Failure {
    let message = secret::conceal(message.to_owned(), item);
    Failure::new(Kind::Settings, format_args!("override `{}`: {message}", secret::shown(item)))
}

/// What stands in backquotes, in order.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// Serde's message with the nearest known name, and types in the words of TOML.
pub fn plain(message: &str) -> String {
    let words = quoted(message);
    let unknown = message.contains("unknown field") || message.contains("unknown variant");
    let from_file = "api_key_file";
    let near = match words.split_first() {
        Some((word, known)) if unknown && secret::is_secret(word) && known.contains(&from_file) => {
            let text = message.replace("unknown field", "unknown key");
            return format!(
                "{text} (no key is written here, where others may read it: put it into a file, and name that as `{from_file}`)"
            );
        }
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
        // `lora` stands in the file, and is what would be right
        let found = blame(&["method.kind=lorra"], "method", "unknown variant `lorra`, expected `lora`");
        assert!(found.starts_with("override `method.kind=lorra`"), "{found}");
        // an override of another key is not to blame for what the file says
        let found = blame(&["method.lora_r=4"], "method", "unknown field `lora_alfa`, expected `lora_r`");
        assert!(found.starts_with("run.toml:6:1: "), "{found}");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let text = "[oracle]\napi_key = \"sk-12345\"\n";
        let unknown = "unknown field `api_key`, expected one of `endpoint`, `api_key_fd`, `api_key_file`";
        let found = Source::new("run.toml", text, &[]).blame("oracle", unknown).message;
        assert!(
            found.starts_with("run.toml:2:1: ") && found.contains("name that as `api_key_file`"),
            "{found}"
        );
        assert!(!found.contains("did you mean") && !found.contains("sk-"), "{found}");
        let typed = "invalid type: string \"sk-12345\", expected u32";
        let found = Source::new("run.toml", text, &[]).blame("oracle", typed).message;
        assert!(!found.contains("sk-"), "{found}");
        let item = "oracle.api_key=sk-12345".to_owned();
        let found = Source::new("run.toml", "", &[item]).blame("oracle", unknown).message;
        assert!(found.starts_with("override `oracle.api_key=…`: ") && !found.contains("sk-"), "{found}");
    }

    #[test]
    fn a_long_line_is_cut() {
        let text = format!("a = \"{}\"", "ü".repeat(9999));
        let found = Source::new("run.toml", &text, &[]).point(Some(0), "what").message;
        assert!(found.ends_with("ü…") && found.chars().count() < 200, "{found}");
    }

    #[test]
    fn types_are_those_of_the_file() {
        assert_eq!(
            plain("invalid type: string \"x\", expected f64"),
            "invalid type: string \"x\", expected a number"
        );
    }
}
