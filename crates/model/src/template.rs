//! Chat templates: the Jinja programs by which a checkpoint turns a conversation into one text.
//!
//! They are rendered by minijinja with what transformers gives them: Python's string methods, `raise_exception`,
//! `tojson` in Python's spacing, block tags that take their line, and truth values and nothing written as in Python.
//! `{% generation %}` marks what is trained on elsewhere and is transparent here.
//!
//! Deliberately missing: tools and documents (both are `none`), and the clock: a template that asks for the date by
//! `strftime_now` fails, unless it asks first whether that exists, because a training set must not depend on the day.

mod json;

use std::path::Path;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};

/// One turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatMessage<'a> {
    /// `system`, `user` or `assistant`, or what else the template knows.
    pub role: &'a str,
    /// What was said.
    pub content: &'a str,
}

/// Texts of the special tokens that a template may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTexts {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Fills a batch.
    pub pad: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
}

/// A compiled template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: Arc<str>,
    place: Arc<str>,
    environment: Arc<Environment<'static>>,
}

/// A template that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The checkpoint has none.
    #[error(
        "the model has no chat template (no `chat_template` in tokenizer_config.json, no chat_template.jinja); choose one by name: {}",
        names()
    )]
    None,
    /// A name that nobody knows.
    #[error("no chat template is named `{name}`; known: {}", names())]
    UnknownName {
        /// The name.
        name: String,
    },
    /// A file cannot be read.
    #[error("{place}: {source}")]
    Io {
        /// The file.
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// A list of templates without the one that is used.
    #[error("{place}: `chat_template` is a list without a template named `default`; it has: {}", found.join(", "))]
    NoDefault {
        /// The file.
        place: String,
        /// Names in the list.
        found: Vec<String>,
    },
    /// It does not compile.
    #[error("{place}, line {line}: the chat template does not compile: {reason}")]
    Syntax {
        /// Where it stands.
        place: String,
        /// Its line, from 1.
        line: usize,
        /// What the compiler said.
        reason: String,
    },
    /// It refused this conversation, or failed.
    #[error("{place}, line {line}: the chat template failed: {reason}")]
    Render {
        /// Where it stands.
        place: String,
        /// Its line, from 1.
        line: usize,
        /// What it said.
        reason: String,
    },
}

/// Templates that can be asked for by name. They are never chosen silently.
const NAMED: [(&str, &str); 1] = [(
    "chatml",
    "{%- for message in messages -%}\
     {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}\
     {%- endfor -%}\
     {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}",
)];

fn names() -> String {
    NAMED.map(|(name, _)| name).join(", ")
}

impl ChatTemplate {
    /// Compiles `source`, which stands at `place`.
    pub fn new(source: &str, place: &str) -> Result<Self, TemplateError> {
        let failed = |e: Error| TemplateError::Syntax {
            place: place.to_owned(),
            line: e.line().unwrap_or(1),
            reason: reason(&e),
        };
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?,
        );
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(json::python_formatter);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        // transformers calls it a dict factory; templates use it for loops over pairs
        environment.add_function("dict", |kwargs: Kwargs| -> Value {
            Value::from_pairs(
                kwargs.args().filter_map(|k| Some((k.to_owned(), kwargs.peek::<Value>(k).ok()?))),
            )
        });
        environment.set_fuel(Some(FUEL));
        environment.add_template_owned("chat", transparent_generation(source)).map_err(|e| {
            TemplateError::Syntax { place: place.to_owned(), line: e.line().unwrap_or(1), reason: reason(&e) }
        })?;
        Ok(Self { source: source.into(), place: place.into(), environment: Arc::new(environment) })
    }

    /// A template of our own, by its name.
    pub fn named(name: &str) -> Result<Self, TemplateError> {
        match NAMED.iter().find(|(n, _)| *n == name) {
            Some((_, source)) => Self::new(source, &format!("chat template `{name}`")),
            None => Err(TemplateError::UnknownName { name: name.to_owned() }),
        }
    }

    /// The template of the checkpoint in `dir`: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, a
    /// text or a list of named ones.
    pub(crate) fn find(
        dir: &Path,
        settings: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Option<Self>, TemplateError> {
        let path = dir.join("chat_template.jinja");
        if path.is_file() {
            let place = path.display().to_string();
            let source = std::fs::read_to_string(&path)
                .map_err(|source| TemplateError::Io { place: place.clone(), source })?;
            return Self::new(&source, &place).map(Some);
        }
        let place = dir.join("tokenizer_config.json").display().to_string();
        match settings.get("chat_template") {
            Some(serde_json::Value::String(source)) => Self::new(source, &place).map(Some),
            Some(serde_json::Value::Array(list)) => {
                let field = |entry: &serde_json::Value, key| Some(entry.get(key)?.as_str()?.to_owned());
                let default = list.iter().find(|e| field(e, "name").as_deref() == Some("default"));
                match default.and_then(|e| field(e, "template")) {
                    Some(source) => Self::new(&source, &place).map(Some),
                    None => {
                        let found = list.iter().filter_map(|e| field(e, "name")).collect();
                        Err(TemplateError::NoDefault { place, found })
                    }
                }
            }
            _ => Ok(None),
        }
    }

    /// The template's text, to be copied beside an exported model.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// `messages` as one text.
    pub fn render(
        &self,
        messages: &[ChatMessage<'_>],
        add_generation_prompt: bool,
        special: &SpecialTexts,
    ) -> Result<String, TemplateError> {
        let failed = |e: Error| TemplateError::Render {
            place: self.place.to_string(),
            line: e.line().unwrap_or(1),
            reason: reason(&e),
        };
        let turn = |m: &ChatMessage<'_>| {
            Value::from_pairs([("role", Value::from(m.role)), ("content", m.content.into())])
        };
        let mut context = vec![
            ("messages", messages.iter().map(turn).collect()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let tokens = [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("pad_token", &special.pad),
            ("unk_token", &special.unk),
        ];
        for (name, text) in tokens {
            // a token that does not exist is undefined, as in transformers
            if let Some(text) = text {
                context.push((name, Value::from(text.as_str())));
            }
        }
        let template = self.environment.get_template("chat").map_err(failed)?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(Value::from_pairs(context), &mut out).map_err(failed)?;
        String::from_utf8(out.0).map_err(|e| failed(Error::new(ErrorKind::WriteFailure, e.to_string())))
    }
}

/// Instructions of one rendering: a thousand times what a long conversation takes, and seconds at most.
const FUEL: u64 = 20_000_000;
/// Bytes of one rendered conversation.
const MOST_BYTES: usize = 64 << 20;

/// Text that may not grow without end.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + text.len() > MOST_BYTES {
            return Err(std::io::Error::other(format!("its text is longer than {MOST_BYTES} bytes")));
        }
        self.0.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What an error says, with a word on the one function that is missing on purpose.
fn reason(e: &Error) -> String {
    // what `Bounded` says stands behind the error
    if let Some(written) = std::error::Error::source(e).filter(|_| e.kind() == ErrorKind::WriteFailure) {
        return written.to_string();
    }
    let text = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
    if text.contains("strftime_now") {
        return format!(
            "{text} (the date is not given to templates: a training set must not depend on the day)"
        );
    }
    text
}

/// Writes `{% generation %}` as a block that is always taken, with its white-space control.
fn transparent_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}").map(|n| open + n) else { break };
        let tag = &rest[open + 2..close];
        let bare = tag.trim_matches(['-', '+']).trim();
        out.push_str(&rest[..open]);
        let replaced = match bare {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        out.push_str("{%");
        out.push_str(&replaced);
        out.push_str("%}");
        rest = &rest[close + 2..];
    }
    out.push_str(rest);
    out
}
