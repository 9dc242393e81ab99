//! Prompt templates over the columns of a row: `"Review: {text}\nSentiment:"`.
//!
//! `{name}` is the cell of a column, or of the part that a column plays (`text`, `prompt`, `instruction`, …); `{{` and
//! `}}` are braces.

use std::fmt;

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Cell(String),
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A brace without its partner.
    #[error(
        "template `{template}`: lone `{brace}` at byte {at}; write `{brace}{brace}` for the character itself"
    )]
    Brace {
        /// The template.
        template: String,
        /// Which brace.
        brace: char,
        /// Where.
        at: usize,
    },
    /// Neither a known name nor a text with a placeholder.
    #[error(
        "template `{template}` has no placeholder such as `{{text}}`, and is not one of the named templates {}",
        known.join(", ")
    )]
    Constant {
        /// The template.
        template: String,
        /// Named templates.
        known: Vec<&'static str>,
    },
    /// A placeholder that names nothing.
    #[error("template placeholder `{{{name}}}` names no column; there are {}{}", columns.join(", "),
        near.as_ref().map(|n| format!(" (did you mean `{{{n}}}`?)")).unwrap_or_default())]
    NoColumn {
        /// The placeholder.
        name: String,
        /// What could be named.
        columns: Vec<String>,
        /// The closest of them.
        near: Option<String>,
    },
    /// A named template that does not suit the layout.
    #[error("template `{template}` does not apply to format {layout}; it takes {}", takes.join(", "))]
    Misplaced {
        /// The template.
        template: String,
        /// The layout.
        layout: &'static str,
        /// What would apply.
        takes: &'static [&'static str],
    },
}

impl Template {
    /// Parses `text`, which must have at least one placeholder.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let lone = |brace, at| TemplateError::Brace { template: text.to_owned(), brace, at };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '{' | '}' if chars.next_if(|&(_, next)| next == c).is_some() => literal.push(c),
                '}' => return Err(lone('}', at)),
                '{' => {
                    let end = text[at..].find('}').ok_or_else(|| lone('{', at))? + at;
                    let name = text[at + 1..end].trim();
                    if name.is_empty() || name.contains('{') {
                        return Err(lone('{', at));
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Cell(name.to_owned()));
                    while chars.next_if(|&(i, _)| i <= end).is_some() {}
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if parts.iter().any(|p| matches!(p, Part::Cell(_))) {
            Ok(Self { parts })
        } else {
            Err(TemplateError::Constant { template: text.to_owned(), known: Prompt::NAMED.to_vec() })
        }
    }

    /// The names between braces, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|p| match p {
            Part::Cell(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text with each placeholder replaced by `cell(name)`.
    pub fn render<E>(&self, mut cell: impl FnMut(&str) -> Result<String, E>) -> Result<String, E> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(t) => out.push_str(t),
                Part::Cell(name) => out.push_str(&cell(name)?),
            }
        }
        Ok(out)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(t) => f.write_str(&t.replace('{', "{{").replace('}', "}}"))?,
                Part::Cell(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

/// How rows become prompts; the key `template` of the run file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation through the model's chat template.
    Chat,
    /// The prompt that the Alpaca data were made with ([`ALPACA`], [`ALPACA_INPUT`]).
    Alpaca,
    /// The user's own words around the cells.
    Custom(Template),
}

impl Prompt {
    /// Named templates.
    pub const NAMED: [&'static str; 2] = ["chat", "alpaca"];

    /// A named template, or a text with placeholders.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        match text {
            "chat" => Ok(Self::Chat),
            "alpaca" => Ok(Self::Alpaca),
            _ => Template::parse(text).map(Self::Custom),
        }
    }
}

/// The Alpaca prompt for a row without input.
pub const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately \
    completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n";

/// The Alpaca prompt for a row with input.
pub const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides \
    further context. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\
    \n\n### Input:\n{input}\n\n### Response:\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, TemplateError> {
        Template::parse(text)?.render(|name| Ok(format!("<{name}>")))
    }

    #[test]
    fn placeholders_and_braces() {
        assert_eq!(render("a {text}b").unwrap(), "a <text>b");
        assert_eq!(render("{é}{{{ x }}}").unwrap(), "<é>{<x>}");
        assert_eq!(render("{{\"q\": {q}}}").unwrap(), "{\"q\": <q>}");
        for bad in ["a { b", "{a", "a} {b}", "{}", "{a{b}}"] {
            assert!(matches!(render(bad), Err(TemplateError::Brace { .. })), "{bad}");
        }
        let e = render("alpca").unwrap_err().to_string();
        assert!(e.contains("chat, alpaca"), "{e}");
    }

    #[test]
    fn printing_gives_the_same_template_back() {
        for text in ["{{a}} {b}\n", "{text}", "x{a}{b}y}}"] {
            let t = Template::parse(text).unwrap();
            assert_eq!(t.to_string(), text);
        }
        assert!(Template::parse(ALPACA).is_ok() && Template::parse(ALPACA_INPUT).is_ok());
    }
}
