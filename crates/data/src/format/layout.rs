//! What the columns of a row mean. One line of [`SPECS`] a layout; told by the columns, in the order of that list.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::error::{FormatError, Problem};
use super::table::Table;

/// The meaning of rows; the key `format` of the run file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// `messages: [{role, content}]`.
    Messages,
    /// `conversations: [{from, value}]`.
    Sharegpt,
    /// `instruction`, `input`, `output`, and optionally `system` and `history`.
    Alpaca,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `text` and `label`.
    Labelled,
    /// `text`.
    Text,
}

/// The part that a column plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// As `columns` of the run file spells it.
    pub name: &'static str,
    /// Column names that are taken for it when the run file names none, best first.
    pub aliases: &'static [&'static str],
    /// Whether every row must have it.
    pub required: bool,
}

const fn needs(name: &'static str, aliases: &'static [&'static str]) -> Part {
    Part { name, aliases, required: true }
}

const fn may(name: &'static str, aliases: &'static [&'static str]) -> Part {
    Part { name, aliases, required: false }
}

/// One layout.
#[derive(Debug)]
pub struct Spec {
    /// Which.
    pub layout: Layout,
    /// As the run file spells it.
    pub id: &'static str,
    /// Its columns.
    pub parts: &'static [Part],
    /// What `template` may be.
    pub templates: &'static [&'static str],
}

/// Every layout, the most telling columns first.
pub const SPECS: [Spec; 6] = [
    Spec {
        layout: Layout::Messages,
        id: "messages",
        parts: &[needs("messages", &["messages"])],
        templates: &["chat"],
    },
    Spec {
        layout: Layout::Sharegpt,
        id: "sharegpt",
        parts: &[needs("conversations", &["conversations"]), may("system", &["system"])],
        templates: &["chat"],
    },
    Spec {
        layout: Layout::Alpaca,
        id: "alpaca",
        parts: &[
            needs("instruction", &["instruction"]),
            may("input", &["input", "context"]),
            needs("output", &["output", "response"]),
            may("system", &["system"]),
            may("history", &["history"]),
        ],
        templates: &["alpaca (the default)", "chat", "your own text with placeholders"],
    },
    Spec {
        layout: Layout::PromptCompletion,
        id: "prompt_completion",
        parts: &[
            needs("prompt", &["prompt", "question"]),
            needs("completion", &["completion", "response", "answer"]),
        ],
        templates: &["chat", "alpaca", "your own text with placeholders"],
    },
    Spec {
        layout: Layout::Labelled,
        id: "labelled",
        parts: &[needs("text", &["text", "sentence", "content"]), needs("label", &["label"])],
        templates: &["your own text with placeholders"],
    },
    Spec {
        layout: Layout::Text,
        id: "text",
        parts: &[needs("text", &["text", "content"])],
        templates: &["your own text with placeholders"],
    },
];

impl Layout {
    /// Its line of [`SPECS`].
    #[must_use]
    pub fn spec(self) -> &'static Spec {
        &SPECS[match self {
            Self::Messages => 0,
            Self::Sharegpt => 1,
            Self::Alpaca => 2,
            Self::PromptCompletion => 3,
            Self::Labelled => 4,
            Self::Text => 5,
        }]
    }
}

/// A column, by name or by position from zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Column {
    /// Position, for tables and list rows.
    Index(usize),
    /// Name.
    Name(String),
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct NameOrNumber;
        impl Visitor<'_> for NameOrNumber {
            type Value = Column;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name or the number of a column")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Column, E> {
                Ok(Column::Name(name.to_owned()))
            }
            fn visit_i64<E: Error>(self, n: i64) -> Result<Column, E> {
                usize::try_from(n)
                    .map(Column::Index)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(n), &self))
            }
            fn visit_u64<E: Error>(self, n: u64) -> Result<Column, E> {
                usize::try_from(n)
                    .map(Column::Index)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(n), &self))
            }
        }
        d.deserialize_any(NameOrNumber)
    }
}

/// Which column plays which part, as far as the run file says.
pub type Named = BTreeMap<&'static str, Column>;

/// A layout with its columns found in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The layout.
    pub layout: Layout,
    /// Column name by part, `field` included where there is one.
    pub columns: BTreeMap<&'static str, String>,
}

/// Signatures of data that no objective reads yet: required columns, what they are, a layout that reads part of them.
const UNSUPPORTED: [(&[&str], &str, &str); 3] = [
    (&["chosen", "rejected"], "preference pairs (DPO)", "sharegpt"),
    (&["messages", "label"], "single preferences (KTO)", "messages"),
    (&["prompt", "completion", "label"], "single preferences (KTO)", "prompt_completion"),
];

/// The layout of `table`: `forced`, or the first whose required columns are all there. Layouts without a part that
/// the run file names are not considered.
pub fn detect(table: &Table, named: &Named, forced: Option<Layout>) -> Result<Resolved, FormatError> {
    if let Some(layout) = forced {
        return resolve(table, named, layout);
    }
    let has = |c: &&str| table.columns.iter().any(|t| t == c);
    let parts = || named.keys().filter(|p| **p != "field");
    if parts().next().is_none()
        && let Some((_, what, instead)) = UNSUPPORTED.iter().find(|(signature, ..)| signature.iter().all(has))
    {
        let columns = table.columns.clone();
        return Err(FormatError::new(&table.file, Problem::Unsupported { columns, what, instead }));
    }
    for spec in &SPECS {
        if parts().all(|part| spec.parts.iter().any(|p| p.name == *part)) {
            match resolve(table, named, spec.layout) {
                // A column that the run file names and the file lacks is the user's slip, whatever the layout.
                Err(e) if matches!(&*e.problem, Problem::NoColumn { role, .. } if !named.contains_key(role)) =>
                    {}
                result => return result,
            }
        }
    }
    let nested = table.rows.iter().take(16).any(|r| r.cells.values().any(|v| v.is_array() || v.is_object()));
    Err(FormatError::new(
        &table.file,
        Problem::UnknownLayout {
            columns: table.columns.clone(),
            nested,
            known: SPECS.iter().map(describe).collect::<Vec<_>>().join("; "),
        },
    ))
}

fn describe(spec: &Spec) -> String {
    let part = |p: &Part| if p.required { p.name.to_owned() } else { format!("{}?", p.name) };
    format!("{} ({})", spec.id, spec.parts.iter().map(part).collect::<Vec<_>>().join(", "))
}

/// The columns of `layout` in `table`.
pub fn resolve(table: &Table, named: &Named, layout: Layout) -> Result<Resolved, FormatError> {
    let spec = layout.spec();
    let mut columns = BTreeMap::new();
    let field = may("field", &["speaker"]);
    for part in spec.parts.iter().chain([&field]) {
        let missing = |looked_for: Vec<String>| {
            let wanted = looked_for.first().map_or(part.name, String::as_str);
            FormatError::new(
                &table.file,
                Problem::NoColumn {
                    layout: spec.id,
                    role: part.name,
                    near: antiphon_core::nearest(wanted, table.columns.iter().map(String::as_str))
                        .map(str::to_owned),
                    looked_for,
                    columns: table.columns.clone(),
                },
            )
        };
        let found = match named.get(part.name) {
            Some(Column::Index(index)) => {
                let name = table.columns.get(*index).filter(|_| table.positional);
                Some(name.cloned().ok_or_else(|| {
                    FormatError::new(
                        &table.file,
                        Problem::NoIndex {
                            role: part.name,
                            index: *index,
                            positional: table.positional,
                            columns: table.columns.clone(),
                        },
                    )
                })?)
            }
            Some(Column::Name(name)) if table.columns.contains(name) => Some(name.clone()),
            Some(Column::Name(name)) => return Err(missing(vec![name.clone()])),
            None => {
                part.aliases.iter().find(|a| table.columns.iter().any(|c| c == *a)).map(|a| (*a).to_owned())
            }
        };
        match found {
            Some(name) => {
                columns.insert(part.name, name);
            }
            None if part.required => {
                return Err(missing(part.aliases.iter().map(|a| (*a).to_owned()).collect()));
            }
            None => {}
        }
    }
    Ok(Resolved { layout, columns })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn table(columns: &[&str]) -> Table {
        Table::of_cells(Path::new("f.jsonl"), columns.iter().map(|c| (*c).to_owned()).collect(), [])
    }

    fn auto(columns: &[&str], named: &[(&'static str, Column)]) -> Result<Resolved, FormatError> {
        detect(&table(columns), &named.iter().cloned().collect(), None)
    }

    fn name(n: &str) -> Column {
        Column::Name(n.to_owned())
    }

    #[test]
    fn specs_and_ids_agree() {
        for (i, spec) in SPECS.iter().enumerate() {
            assert_eq!(spec.layout.spec().id, SPECS[i].id);
            assert_eq!(serde_json::to_value(spec.layout).unwrap(), spec.id);
        }
    }

    #[test]
    fn columns_tell_the_layout() {
        let layout = |columns: &[&str]| auto(columns, &[]).unwrap().layout;
        assert_eq!(layout(&["messages"]), Layout::Messages);
        assert_eq!(layout(&["id", "conversations"]), Layout::Sharegpt);
        assert_eq!(layout(&["instruction", "input", "output"]), Layout::Alpaca);
        assert_eq!(layout(&["instruction", "context", "response", "category"]), Layout::Alpaca);
        assert_eq!(layout(&["question", "answer"]), Layout::PromptCompletion);
        assert_eq!(layout(&["label", "sentence"]), Layout::Labelled);
        assert_eq!(layout(&["speaker", "text"]), Layout::Text);
        let dolly = auto(&["instruction", "context", "response"], &[]).unwrap();
        assert_eq!(
            (dolly.columns["input"].as_str(), dolly.columns["output"].as_str()),
            ("context", "response")
        );
        assert_eq!(auto(&["speaker", "text"], &[]).unwrap().columns["field"], "speaker");
    }

    #[test]
    fn the_run_file_wins_over_aliases() {
        let r = auto(&["text", "label", "gold"], &[("label", name("gold"))]).unwrap();
        assert_eq!(r.columns["label"], "gold");
        let r = auto(&["a", "b"], &[("prompt", name("b")), ("completion", Column::Index(0))]).unwrap();
        assert_eq!((r.layout, r.columns["completion"].as_str()), (Layout::PromptCompletion, "a"));
    }

    #[test]
    fn what_does_not_fit_says_what_was_found_and_what_is_known() {
        let e = auto(&["foo", "bar"], &[]).unwrap_err().to_string();
        assert!(e.contains("foo, bar") && e.contains("alpaca (instruction, input?, output"), "{e}");
        let e = auto(&["prompt", "chosen", "rejected"], &[]).unwrap_err().to_string();
        assert!(e.contains("preference pairs"), "{e}");
        let e = auto(&["label", "sentence"], &[("text", name("sentense"))]).unwrap_err().to_string();
        assert!(e.contains("did you mean `text = \"sentence\"`"), "{e}");
        let e = auto(&["a"], &[("text", Column::Index(4))]).unwrap_err().to_string();
        assert!(e.contains("columns.text = 4"), "{e}");
    }
}
