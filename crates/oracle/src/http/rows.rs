//! Prompts as rows of input vectors: vLLM's `prompt_embeds`, which has neither echo nor scores of a prompt. The client
//! looks its tokens up in the model's table of embeddings, puts the soft prompt before them, and asks for the
//! log-probabilities of the tokens that may come next by their ids (`logprob_token_ids`), as `forced.rs` wants them.
//!
//! An older server ignores `logprob_token_ids` and names the likeliest tokens; a token that it does not name is censored.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use super::completions::Read;
use super::forced::Next;
use super::score::{check_mass, choices, field, list, logprob};
use super::torch;
use crate::query::Soft;

/// Likeliest tokens asked for beside those named: vLLM's usual `--max-logprobs`.
const TOP: usize = 20;

/// A model's table of input embeddings `[vocab, width]`.
pub trait Table: fmt::Debug + Send + Sync {
    /// Numbers in a row.
    fn width(&self) -> usize;
    /// Standard deviation of the table's entries.
    fn std(&self) -> f64;
    /// Appends the row of token `id` to `rows`; `false` where the table has none.
    fn push(&self, id: u32, rows: &mut Vec<f32>) -> bool;
}

/// `soft`, then the rows of `ids`, as a tensor; the first id that the table lacks otherwise.
pub(super) fn tensor(table: &dyn Table, soft: Option<&Soft>, ids: &[u32]) -> Result<String, u32> {
    let mut rows = soft.map_or_else(Vec::new, |s| s.values().to_vec());
    if let Some(id) = ids.iter().find(|id| !table.push(**id, &mut rows)) {
        return Err(*id);
    }
    let width = table.width();
    Ok(torch::base64(rows.len() / width.max(1), width, &rows))
}

/// The scores of tokens `next` after the rows of `tensor`.
pub(super) fn body(model: &str, tensor: &str, next: &BTreeSet<u32>) -> Value {
    json!({
        "model": model,
        "prompt_embeds": tensor,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": TOP,
        "logprob_token_ids": next,
        "return_tokens_as_token_ids": true,
    })
}

/// The answer to [`body`], whose prompt had `sent` rows.
pub(super) fn read(sent: u64, answer: &Value) -> Result<Read<Next>, String> {
    let choice = choices(answer, 1)?[0];
    let first = list(field(choice, "logprobs")?, "top_logprobs")?.first();
    let map = first.and_then(Value::as_object).ok_or("no `top_logprobs` of the first token")?;
    let mut named = Next::new();
    for (name, value) in map {
        let id = name.strip_prefix("token_id:").and_then(|id| id.parse().ok());
        let id = id.ok_or("a text among the next tokens, where ids were asked for")?;
        named.insert(id, logprob(value)?);
    }
    if named.is_empty() {
        return Err("no log-probabilities".into());
    }
    check_mass(named.values().copied())?;
    // vectors are no tokens to some versions, and counted as none
    let count = |name: &str, most: u64| match answer.pointer(&format!("/usage/{name}")) {
        None => Ok(most),
        Some(found) => match found.as_u64() {
            Some(n) if n <= most => Ok(if n == 0 { most } else { n }),
            Some(n) => Err(format!("{n} `{name}`, where {most} were sent or asked for")),
            None => Err(format!("`{name}` is no count")),
        },
    };
    let (prompt_tokens, completion_tokens) = (count("prompt_tokens", sent)?, count("completion_tokens", 1)?);
    Ok(Read { items: vec![named], prompt_tokens, completion_tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_cannot_be_true() {
        let answer = |top: Value, prompt_tokens: u64| {
            let usage = json!({ "prompt_tokens": prompt_tokens, "completion_tokens": 1 });
            read(9, &json!({ "choices": [{ "logprobs": { "top_logprobs": [top] } }], "usage": usage }))
        };
        let read = answer(json!({ "token_id:7": -0.5, "token_id:8": -2 }), 0).unwrap();
        assert_eq!((read.prompt_tokens, read.items[0][&8]), (9, -2.0));
        let wrong = |top: Value, count: u64| answer(top, count).unwrap_err();
        assert!(wrong(json!({ " good": -0.5 }), 9).contains("ids were asked"));
        assert!(wrong(json!({}), 9).contains("no log-probabilities"));
        assert!(wrong(json!({ "token_id:7": -0.1, "token_id:8": -0.1 }), 9).contains("add up"));
        assert!(wrong(json!({ "token_id:7": 0.1 }), 9).contains("above 0"));
        assert!(wrong(json!({ "token_id:7": -0.5 }), 10).contains("where 9 were sent"));
    }
}
