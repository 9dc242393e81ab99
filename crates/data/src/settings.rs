//! `[data]` of the run file. The doc comments are the reference that users read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::StrDeserializer;
use serde::de::{Error, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::encode::Truncation;
use crate::format::{
    CharEncoding, Column, Container, FormatError, LabelGroups, Layout, Named, ReadOptions, Splitter,
};
use crate::split::Fractions;
use crate::template::Prompt;

/// `[data]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// A file, a folder, or a list of them. Everything in it is divided among the clients.
    pub path: Paths,
    /// Validation data of the whole federation, instead of `split.validation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_path: Option<Paths>,
    /// Test data of the whole federation, instead of `split.test`. Training examples that occur in it are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_path: Option<Paths>,

    /// What rows mean: `auto`, `alpaca`, `sharegpt`, `messages`, `prompt_completion`, `labelled` or `text`.
    #[serde(default, deserialize_with = "auto_or", serialize_with = "or_auto")]
    pub format: Option<Layout>,
    /// How files store rows: `auto`, `json`, `jsonl`, `csv`, `tsv`, `parquet`, `trec` or `text`.
    #[serde(default, deserialize_with = "auto_or", serialize_with = "or_auto")]
    pub container: Option<Container>,
    /// How bytes become text: `utf-8`, `latin-1` or `utf-8-lossy`.
    #[serde(default)]
    pub encoding: CharEncoding,
    /// Whether CSV and TSV begin with the names of the columns. Default: told from the first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// Dotted path to the list of rows inside a JSON file, such as `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
    /// The same for validation data. With it, `validation_path` may be left out if it is the same file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_rows: Option<String>,
    /// The same for test data. With it, `test_path` may be left out if it is the same file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_rows: Option<String>,
    /// How plain text becomes documents: `speaker`, `paragraph`, `line`, `whole`, or `{ marker = "<|endoftext|>" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splitter: Option<Splitter>,
    /// How rows become prompts: `chat` (the model's chat template), `alpaca`, or text around columns, such as
    /// `"Review: {text}\nSentiment:"`. Default: Alpaca rows by `alpaca`, conversations by `chat`, others as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Put before every completion, mostly a space: `" "`. A prompt that ends with a space would merge it with the first
    /// word of the completion into one token, which then belongs to the prompt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub completion_prefix: String,
    /// A JSON file `{group: [labels]}` or `{label: group}`; a label's group becomes the field of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_groups: Option<PathBuf>,
    /// Use only that many examples, drawn by the seed before they are divided. 0: all.
    #[serde(default)]
    pub max_examples: usize,

    /// The classes in order. Default: the labels that occur in training data, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Most tokens of a sequence, at least 2.
    #[serde(default = "default_sequence_len")]
    pub sequence_len: usize,
    /// What happens to longer ones. `prompt_left`: the prompt loses its beginning, text to classify its end, and running
    /// text goes on in further sequences. `tail`: the end is lost. `drop`: the example is left out. `error`: stop.
    #[serde(default)]
    pub truncation: Truncation,
    /// Whether prompts are learnt too, not only completions.
    #[serde(default)]
    pub train_on_prompt: bool,
    /// Begin texts and prompts with the beginning-of-sequence token. Default: as the tokenizer does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_bos: Option<bool>,
    /// End texts and completions with the end-of-sequence token, and learn it. Default: if the tokenizer has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_eos: Option<bool>,

    /// Which columns play which part, by name or, in tables and lists, by number from zero.
    #[serde(default)]
    pub columns: Columns,
    /// The words for labels, so that a classification is learnt as text: `{ neg = " bad", pos = " good" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verbalizer: BTreeMap<String, String>,
    /// How examples are divided among clients: `id` and the partitioner's own keys.
    pub partition: toml::Table,
    /// Fractions of each client's examples held out.
    #[serde(default)]
    pub split: Fractions,
}

fn default_sequence_len() -> usize {
    512
}

/// `[data.columns]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// Prompt of `prompt_completion` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Column>,
    /// Completion of `prompt_completion` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<Column>,
    /// Text of `text` and `labelled` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Column>,
    /// Label of `labelled` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Column>,
    /// Instruction of `alpaca` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<Column>,
    /// Further input of `alpaca` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Column>,
    /// Answer of `alpaca` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Column>,
    /// System text of `alpaca` and `sharegpt` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Column>,
    /// Earlier turns of `alpaca` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Column>,
    /// Turns of `messages` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Column>,
    /// Turns of `sharegpt` rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversations: Option<Column>,
    /// Category, domain or user, by which examples may be divided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<Column>,
}

impl Columns {
    /// The columns that are named.
    #[must_use]
    pub fn named(&self) -> Named {
        let all = [
            ("prompt", &self.prompt),
            ("completion", &self.completion),
            ("text", &self.text),
            ("label", &self.label),
            ("instruction", &self.instruction),
            ("input", &self.input),
            ("output", &self.output),
            ("system", &self.system),
            ("history", &self.history),
            ("messages", &self.messages),
            ("conversations", &self.conversations),
            ("field", &self.field),
        ];
        all.into_iter().filter_map(|(part, column)| Some((part, column.clone()?))).collect()
    }
}

/// One path or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths(pub Vec<PathBuf>);

impl Paths {
    /// The paths, from where relative ones start.
    #[must_use]
    pub fn resolve(&self, base: &Path) -> Vec<PathBuf> {
        self.0.iter().map(|p| base.join(p)).collect()
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(s),
            many => many.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Paths;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or a list of paths")
            }
            fn visit_str<E: Error>(self, path: &str) -> Result<Paths, E> {
                Ok(Paths(vec![path.into()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Paths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = seq.next_element::<PathBuf>()? {
                    paths.push(path);
                }
                if paths.is_empty() { Err(A::Error::invalid_length(0, &self)) } else { Ok(Paths(paths)) }
            }
        }
        d.deserialize_any(OneOrMany)
    }
}

/// `auto`, or one of the names of `T`.
fn auto_or<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    let name = String::deserialize(d)?;
    if name == "auto" {
        return Ok(None);
    }
    let name: StrDeserializer<'_, D::Error> = name.as_str().into_deserializer();
    T::deserialize(name).map(Some)
}

/// The name, or `auto`. The signature is serde's.
#[allow(clippy::ref_option, reason = "serde passes the field by reference")]
fn or_auto<S: Serializer, T: Serialize>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(s),
        None => s.serialize_str("auto"),
    }
}

/// A setting of the right type that makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value out of range.
    #[error("data.{key} = {found}: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("data.{key} and data.{other} are both given; {instead}")]
    Both {
        /// One key.
        key: &'static str,
        /// The other.
        other: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// The template cannot be parsed.
    #[error("data.template: {0}")]
    Template(#[from] crate::template::TemplateError),
    /// The file of label groups cannot be read.
    #[error("data.label_groups: {0}")]
    Groups(#[from] FormatError),
}

impl Settings {
    /// Errors on values that make no sense together. [`crate::Federation::load`] calls it first.
    pub fn check(&self) -> Result<(), SettingsError> {
        let value = |key, found: String, expected| Err(SettingsError::Value { key, found, expected });
        let both = |key, other, instead| Err(SettingsError::Both { key, other, instead });
        if self.sequence_len < 2 {
            return value(
                "sequence_len",
                self.sequence_len.to_string(),
                "at least 2 tokens, one to predict from the other",
            );
        }
        if self.splitter == Some(Splitter::Marker(String::new())) {
            return value("splitter.marker", "\"\"".to_owned(), "the text between documents");
        }
        let elsewhere = "the held-out data of the federation come from one place: remove one of them";
        if (self.validation_path.is_some() || self.validation_rows.is_some()) && self.split.validation > 0.0 {
            return both("validation_path", "split.validation", elsewhere);
        }
        if (self.test_path.is_some() || self.test_rows.is_some()) && self.split.test > 0.0 {
            return both("test_path", "split.test", elsewhere);
        }
        if !self.verbalizer.is_empty() && !self.labels.is_empty() {
            return both(
                "verbalizer",
                "labels",
                "words for labels make text of a task, a list of labels makes classes of it",
            );
        }
        Ok(())
    }

    /// How the training files are read; `base` is where relative paths start.
    pub fn read_options(&self, base: &Path) -> Result<ReadOptions, SettingsError> {
        Ok(ReadOptions {
            container: self.container,
            layout: self.format,
            encoding: self.encoding,
            header: self.header,
            rows: self.rows.clone(),
            splitter: self.splitter.clone(),
            columns: self.columns.named(),
            completion_prefix: self.completion_prefix.clone(),
            prompt: self.template.as_deref().map(Prompt::parse).transpose()?,
            groups: self.label_groups.as_ref().map(|g| LabelGroups::read(&base.join(g))).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        toml::from_str(&format!("{text}\n[partition]\nid = 'iid'\nclients = 2"))
            .map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_full_section_survives_a_round_trip() {
        let text = r#"
            path = ["a.json", "b.json"]
            test_path = "t.json"
            format = "alpaca"
            container = "json"
            encoding = "latin-1"
            header = false
            rows = "train"
            splitter = { marker = "<|x|>" }
            template = "{instruction} {input} Answer:"
            completion_prefix = " "
            label_groups = "domains.json"
            max_examples = 100
            sequence_len = 64
            truncation = "tail"
            train_on_prompt = true
            add_bos = false
            columns = { text = 0, label = "gold" }
            verbalizer = { 0 = " bad", 1 = " good" }
            split = { validation = 0.1 }
        "#;
        let s = parse(text).unwrap();
        assert_eq!(
            (s.format, s.container, s.columns.text.clone()),
            (Some(Layout::Alpaca), Some(Container::Json), Some(Column::Index(0)))
        );
        let written = toml::to_string(&s).unwrap();
        let again: Settings = toml::from_str(&written).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), written);
        let defaults = toml::to_string(&parse("path = 'a'").unwrap()).unwrap();
        assert!(
            defaults.contains("format = \"auto\"") && defaults.contains("sequence_len = 512"),
            "{defaults}"
        );
        assert!(parse("path = 'a'\nformat = 'auto'").unwrap().format.is_none());
    }

    #[test]
    fn wrong_keys_and_types_name_what_is_known() {
        for (text, expected) in [
            ("path = 'a'\ntruncaton = 'tail'", "unknown field `truncaton`, expected one of"),
            ("path = 'a'\nformat = 'alpacca'", "unknown variant `alpacca`, expected one of `messages`"),
            ("path = 'a'\ntruncation = 'head'", "`prompt_left`, `tail`, `drop`, `error`"),
            ("path = 3", "expected a path or a list of paths"),
            ("path = []", "a path or a list of paths"),
            ("path = 'a'\ncolumns = { txt = 1 }", "unknown field `txt`"),
            ("path = 'a'\ncolumns = { text = -1 }", "the name or the number of a column"),
            ("path = 'a'\nsplitter = 'speakr'", "speaker"),
            ("format = 'text'", "missing field `path`"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.contains(expected), "{text}: {e}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (text, expected) in [
            ("sequence_len = 1", "data.sequence_len = 1: expected at least 2"),
            ("test_path = 't'\nsplit = { test = 0.1 }", "data.test_path and data.split.test"),
            ("validation_rows = 'val'\nsplit = { validation = 0.1 }", "data.split.validation"),
            ("labels = ['a', 'b']\nverbalizer = { a = 'x' }", "data.verbalizer and data.labels"),
            ("splitter = { marker = '' }", "data.splitter.marker"),
        ] {
            let e = parse(&format!("path = 'a'\n{text}")).unwrap().check().unwrap_err().to_string();
            assert!(e.contains(expected), "{text}: {e}");
        }
        let e = parse("path = 'a'\ntemplate = 'hello'").unwrap().read_options(Path::new("")).unwrap_err();
        assert!(e.to_string().contains("data.template") && e.to_string().contains("chat, alpaca"), "{e}");
    }
}
