//! One training example, whatever file it came from.

use std::fmt;

use antiphon_core::Digest;
use serde::{Deserialize, Serialize};

/// Who speaks in a conversation. Serialised in lower case, as chat templates expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person; `human` in ShareGPT files.
    User,
    /// The model; `gpt` in ShareGPT files. Only its turns carry loss.
    Assistant,
    /// Output of a tool, shown to the model.
    Tool,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        })
    }
}

/// One turn of a conversation; serialises to the dictionary that chat templates index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// What an example teaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Running text: every token is a target.
    Lm {
        /// The document.
        text: String,
    },
    /// A prompt and how it goes on. The two are joined as they are: white space at the seam is theirs.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learnt.
        completion: String,
    },
    /// A conversation, rendered by the model's chat template: the assistant's turns are learnt.
    Chat {
        /// At least one turn, at least one of them the assistant's.
        messages: Vec<Message>,
    },
    /// A text and the class it belongs to.
    Labelled {
        /// The text, with the template of the run file already applied.
        text: String,
        /// The name of the class, as the file spells it.
        label: String,
    },
}

/// One example with what partitioners and the split need to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What it teaches.
    pub kind: Kind,
    /// Category, domain or speaker, where the data name one.
    pub field: Option<String>,
    /// Which of the files of `path` it came from, counted from zero in the order they are read.
    pub file: usize,
    /// Equal for duplicates, see [`content_key`].
    pub key: Digest,
}

impl Example {
    /// An example with its content key computed.
    #[must_use]
    pub fn new(kind: Kind, field: Option<String>, file: usize) -> Self {
        let key = content_key(&kind);
        Self { kind, field, file, key }
    }

    /// The class name of a labelled example.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match &self.kind {
            Kind::Labelled { label, .. } => Some(label),
            _ => None,
        }
    }

    /// Its pieces of text in reading order, labels left out.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (pair, turns): ([&str; 2], &[Message]) = match &self.kind {
            Kind::Lm { text } | Kind::Labelled { text, .. } => ([text, ""], &[]),
            Kind::Completion { prompt, completion } => ([prompt, completion], &[]),
            Kind::Chat { messages } => ([""; 2], messages),
        };
        pair.into_iter().filter(|t| !t.is_empty()).chain(turns.iter().map(|m| m.content.as_str()))
    }

    /// Bytes of text.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.texts().map(str::len).sum()
    }
}

/// Identifies the content of an example up to letter case and white space. The label of a labelled example is
/// left out on purpose: one text under two labels in train and test would still be a leak.
#[must_use]
pub fn content_key(kind: &Kind) -> Digest {
    let mut canon = String::new();
    let mut part = |tag: &str, text: &str| {
        canon.push_str(tag);
        canon.push('\0');
        for word in text.split_whitespace() {
            canon.extend(word.chars().flat_map(char::to_lowercase));
            canon.push(' ');
        }
        canon.push('\0');
    };
    match kind {
        Kind::Lm { text } | Kind::Labelled { text, .. } => part("text", text),
        Kind::Completion { prompt, completion } => {
            part("prompt", prompt);
            part("completion", completion);
        }
        Kind::Chat { messages } => messages.iter().for_each(|m| part(&m.role.to_string(), &m.content)),
    }
    Digest::of(canon.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(p: &str, c: &str) -> Digest {
        content_key(&Kind::Completion { prompt: p.into(), completion: c.into() })
    }

    #[test]
    fn a_key_ignores_case_and_white_space_and_the_label_and_nothing_else() {
        let labelled =
            |text: &str, label: &str| content_key(&Kind::Labelled { text: text.into(), label: label.into() });
        assert_eq!(labelled("The  mic is great.", "1"), labelled("the mic is great.\n", "0"));
        assert_ne!(labelled("the mic", "1"), labelled("themic", "1"));
        assert_ne!(completion("a b", "c"), completion("a", "b c"));
        assert_ne!(completion("a", ""), completion("", "a"));
    }

    #[test]
    fn texts_are_all_the_text_and_nothing_else() {
        let m = |role, content: &str| Message { role, content: content.into() };
        let chat = Kind::Chat { messages: vec![m(Role::User, "hi"), m(Role::Assistant, "hello")] };
        let e = Example::new(chat, None, 0);
        assert_eq!(e.texts().collect::<Vec<_>>(), ["hi", "hello"]);
        assert_eq!(e.bytes(), 7);
        let e = Example::new(Kind::Labelled { text: "abc".into(), label: "no".into() }, None, 0);
        assert_eq!((e.texts().collect::<Vec<_>>(), e.label()), (vec!["abc"], Some("no")));
    }
}
