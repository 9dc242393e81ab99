//! `/chat/completions`: a prompt is one user turn, in the server's own template.

use serde_json::{Value, json};

use super::completions::{Read, labelled, sampled};
use super::score::{choices, field, list, logprob, usage};
use crate::answer::LabelScore;
use crate::query::{Label, TextQuery};

/// The likeliest tokens with which an answer to `prompt` begins.
pub(super) fn next_body(model: &str, prompt: &str, top: usize) -> Value {
    json!({
        "model": model,
        "messages": [{ "role": "user", "content": prompt }],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": true,
        "top_logprobs": top,
    })
}

/// The answer to [`next_body`].
pub(super) fn read_next(
    labels: &[Label],
    most: u64,
    answer: &Value,
) -> Result<Read<Vec<LabelScore>>, String> {
    let (prompt_tokens, completion_tokens) = usage(answer, most, 1)?;
    let content = list(field(choices(answer, 1)?[0], "logprobs")?, "content")?;
    let first = content.first().ok_or("no log-probabilities")?;
    let entry = |v: &Value| {
        let token = field(v, "token")?.as_str().ok_or("a token that is no text")?;
        Ok::<_, String>((token.to_owned(), logprob(field(v, "logprob")?)?))
    };
    let top = list(first, "top_logprobs")?.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    Ok(Read { items: vec![labelled(&top, labels)?], prompt_tokens, completion_tokens })
}

/// A text in answer to a prompt.
pub(super) fn text_body(model: &str, prompt: &str, q: &TextQuery) -> Value {
    sampled(json!({ "model": model, "messages": [{ "role": "user", "content": prompt }] }), q)
}

/// The answer to [`text_body`].
pub(super) fn read_text(q: &TextQuery, most: u64, answer: &Value) -> Result<Read<String>, String> {
    let (prompt_tokens, completion_tokens) = usage(answer, most, u64::from(q.max_tokens))?;
    let message = field(choices(answer, 1)?[0], "message")?;
    let text = message.get("content").and_then(Value::as_str).unwrap_or_default();
    Ok(Read { items: vec![text.to_owned()], prompt_tokens, completion_tokens })
}
