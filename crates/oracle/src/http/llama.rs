//! llama.cpp's own `/completion`: the likeliest next tokens with their ids, nothing cached, sampling off. Its `echo` gives no
//! log-probabilities of a prompt, so a label of several tokens is forced, one request a token.

use serde_json::{Value, json};

use super::completions::{Read, prompt_value};
use super::forced::Next;
use super::score::{check_mass, field, list, logprob};
use crate::query::{Prompt, TextQuery};

/// The `top` likeliest tokens after `ids`.
pub(super) fn next_body(ids: &[u32], top: usize) -> Value {
    json!({
        "prompt": ids,
        "n_predict": 1,
        "n_probs": top,
        // below 0: the likeliest token, and probabilities of the logits as they are
        "temperature": -1.0,
        "post_sampling_probs": false,
        "cache_prompt": false,
    })
}

/// The answer to [`next_body`], of a prompt of `sent` tokens.
pub(super) fn read_next(sent: u64, answer: &Value) -> Result<Read<Next>, String> {
    let first = list(answer, "completion_probabilities")?.first().ok_or("no probabilities")?;
    let entry = |v: &Value| {
        let id =
            field(v, "id")?.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or("an id that is none")?;
        Ok::<_, String>((id, logprob(field(v, "logprob")?)?))
    };
    // a probability that is 0 in binary32 has the least binary32 as its logarithm there: a token that is not named
    let some = |v: &&Value| v.get("logprob").and_then(Value::as_f64).is_none_or(|p| p > -1e38);
    let top = list(first, "top_logprobs")?.iter().filter(some).map(entry).collect::<Result<Next, _>>()?;
    if top.is_empty() {
        return Err("no log-probabilities".into());
    }
    check_mass(top.values().copied())?;
    counted(sent, answer, 1, top)
}

/// A text after a prompt.
pub(super) fn text_body(q: &TextQuery) -> Value {
    json!({
        "prompt": prompt_value(&q.prompt),
        "n_predict": q.max_tokens,
        "temperature": if q.temperature == 0.0 { -1.0 } else { q.temperature },
        "seed": q.seed & 0xffff_ffff,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "cache_prompt": false,
        "stop": q.stop,
    })
}

/// The answer to [`text_body`].
pub(super) fn read_text(q: &TextQuery, most: u64, answer: &Value) -> Result<Read<String>, String> {
    let text = field(answer, "content")?.as_str().ok_or("`content` is no text")?;
    counted(most, answer, u64::from(q.max_tokens), text.to_owned())
}

fn counted<T>(most: u64, answer: &Value, most_completion: u64, item: T) -> Result<Read<T>, String> {
    let count = |name: &str, most: u64| match answer.get(name).and_then(Value::as_u64) {
        Some(n) if n > most => Err(format!("`{name}` of {n}, and at most {most} can be")),
        found => Ok(found.unwrap_or(most)),
    };
    Ok(Read {
        items: vec![item],
        prompt_tokens: count("tokens_evaluated", most)?,
        completion_tokens: count("tokens_predicted", most_completion)?,
    })
}

/// Ids of a text.
pub(super) fn tokenize_body(text: &str, special: bool) -> Value {
    json!({ "content": text, "add_special": special })
}

/// The answer to [`tokenize_body`].
pub(super) fn read_tokenize(answer: &Value) -> Result<Vec<u32>, String> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or("a token that is no id");
    Ok(list(answer, "tokens")?.iter().map(id).collect::<Result<_, _>>()?)
}

/// A prompt as text for a tokenizer, if it is not ids.
pub(super) fn text_of(prompt: &Prompt) -> Option<&str> {
    if let Prompt::Text(text) = prompt { Some(text) } else { None }
}
