//! The little that this crate asks of a tokenizer. Crate `model` implements it over the `tokenizers` crate and
//! the checkpoint's chat template; tests use toys.

use crate::example::Message;

/// Tokens and the bytes that each stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Vocabulary ids.
    pub ids: Vec<u32>,
    /// `[start, end)` in bytes of the encoded text, one per id, starts never decreasing. A span covers every byte
    /// that its token stands for, *including* white space that the token carries (in Hugging Face terms,
    /// `trim_offsets = false`): otherwise a token that reaches over the boundary between prompt and completion
    /// looks as if it did not. A token that the tokenizer inserts (`[CLS]`, `<s>`) has an empty span.
    pub offsets: Vec<(usize, usize)>,
}

/// A tokenizer with the special tokens and the chat template of one checkpoint.
pub trait Tokenize: Send + Sync {
    /// Tokens of `text`. With `special`, also the tokens that the checkpoint puts around every text, such as
    /// `[CLS] … [SEP]` or a leading `<s>`.
    fn encode(&self, text: &str, special: bool) -> Result<Encoding, TokenizeError>;

    /// The beginning-of-sequence token, if the checkpoint names one.
    fn bos(&self) -> Option<u32>;

    /// The end-of-sequence token, if the checkpoint names one.
    fn eos(&self) -> Option<u32>;

    /// `messages` as one text by the chat template; `add_generation_prompt` ends it where the assistant would
    /// begin to speak.
    fn render_chat(&self, messages: &[Message], add_generation_prompt: bool)
    -> Result<String, TokenizeError>;
}

/// What a tokenizer could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The checkpoint has no chat template.
    #[error(
        "the model has no chat template, so conversations cannot be rendered; name a chat template for it, or use \
         a prompt template over the columns (`template = \"…\"`)"
    )]
    NoChatTemplate,
    /// The chat template refused the conversation.
    #[error("the chat template failed: {0}")]
    Template(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The tokenizer failed.
    #[error("the tokenizer failed: {0}")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
}
