//! `/completions`, as OpenAI, vLLM, llama-cpp-python and `antiphon serve` have it.

use serde_json::{Value, json};

use super::score::{Joined, among, choices, echoed, field, list, logprob, usage};
use super::settings::Dialect;
use crate::answer::{LabelScore, Missing};
use crate::query::{Label, Prompt, TextQuery};

/// What came of one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read<T> {
    pub(super) items: Vec<T>,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
}

/// One prompt as such, several as a list: not every server takes a list.
fn one_or_list(mut prompts: Vec<Value>) -> Value {
    if prompts.len() == 1 { prompts.remove(0) } else { Value::Array(prompts) }
}

/// The label's positions of each prompt scored. `soft` is a tensor for the server's `soft_prompt`.
pub(super) fn echo_body(dialect: Dialect, model: &str, prompts: &[&Joined], soft: Option<&str>) -> Value {
    let ids = prompts.iter().all(|p| matches!(p, Joined::Ids { .. }));
    let prompt = prompts.iter().map(|p| match p {
        Joined::Text { text, .. } => json!(text),
        Joined::Ids { ids, .. } => json!(ids),
    });
    let mut body = json!({
        "model": model,
        "prompt": one_or_list(prompt.collect()),
        "max_tokens": generated(dialect),
        "temperature": 0,
        "echo": true,
        "logprobs": if dialect == Dialect::Completions { 1 } else { 0 },
    });
    if ids && matches!(dialect, Dialect::Antiphon | Dialect::Vllm) {
        body["return_tokens_as_token_ids"] = json!(true);
    }
    if let Some(soft) = soft {
        body["soft_prompt"] = json!(soft);
    }
    body
}

/// Tokens that come after an echoed prompt: only our own server is known to stop at none.
pub(super) fn generated(dialect: Dialect) -> u64 {
    u64::from(dialect != Dialect::Antiphon)
}

/// The answer to [`echo_body`]. `most` tokens can have been sent.
pub(super) fn read_echo(
    dialect: Dialect,
    prompts: &[&Joined],
    most: u64,
    answer: &Value,
) -> Result<Read<Result<LabelScore, Missing>>, String> {
    let most_completion = generated(dialect) * prompts.len() as u64;
    let (prompt_tokens, completion_tokens) = usage(answer, most, most_completion)?;
    let mut items = Vec::with_capacity(prompts.len());
    for (choice, joined) in choices(answer, prompts.len())?.into_iter().zip(prompts) {
        let logprobs = field(choice, "logprobs")?;
        // a sequence may have ended by its end-of-text token, which some servers count and none shows
        let all = list(logprobs, "tokens")?.len();
        let shown = match joined {
            Joined::Ids { ids, .. } => all.saturating_sub(ids.len()).min(generated(dialect) as usize),
            Joined::Text { .. } => after(choice, logprobs, joined, generated(dialect) as usize)?,
        };
        items.push(echoed(logprobs, joined, shown)?);
    }
    Ok(Read { items, prompt_tokens, completion_tokens })
}

/// Tokens that stand after the prompt's text: 0, or the one that was generated, known by what the choice's text has more.
fn after(choice: &Value, logprobs: &Value, joined: &Joined, most: usize) -> Result<usize, String> {
    let Joined::Text { text, .. } = joined else { return Ok(0) };
    if most == 0 {
        return Ok(0);
    }
    let all = field(choice, "text")?.as_str().ok_or("`text` is no text")?;
    let more = all.strip_prefix(text.as_str()).or_else(|| all.trim_start().strip_prefix(text.trim_start()));
    let more = more.ok_or("the prompt did not come back before the answer")?;
    let last = list(logprobs, "tokens")?.last().and_then(Value::as_str).unwrap_or_default();
    // a special token that was generated is shown among the tokens and not in the text
    Ok(usize::from(!more.is_empty() || !text.ends_with(last)))
}

/// The likeliest tokens after each prompt.
pub(super) fn next_body(
    dialect: Dialect,
    model: &str,
    prompt: &Prompt,
    labels: &[Label],
    top: usize,
) -> Value {
    let mut body = json!({
        "model": model,
        "prompt": prompt_value(prompt),
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": top,
    });
    let ids: Option<Vec<u32>> = labels.iter().map(one_id).collect();
    if let Some(ids) = ids.filter(|_| matches!(dialect, Dialect::Antiphon | Dialect::Vllm)) {
        body["logprob_token_ids"] = json!(ids);
        body["return_tokens_as_token_ids"] = json!(true);
    }
    body
}

fn one_id(label: &Label) -> Option<u32> {
    if let Label::Tokens(ids) = label { <[u32; 1]>::try_from(&ids[..]).ok().map(|[id]| id) } else { None }
}

pub(super) fn prompt_value(prompt: &Prompt) -> Value {
    match prompt {
        Prompt::Text(text) => json!(text),
        Prompt::Tokens(ids) => json!(ids),
    }
}

/// The answer to [`next_body`].
pub(super) fn read_next(
    labels: &[Label],
    most: u64,
    answer: &Value,
) -> Result<Read<Vec<LabelScore>>, String> {
    let (prompt_tokens, completion_tokens) = usage(answer, most, 1)?;
    let choice = choices(answer, 1)?[0];
    let first = list(field(choice, "logprobs")?, "top_logprobs")?.first();
    let map = first.and_then(Value::as_object).ok_or("no `top_logprobs` of the first token")?;
    let top = map.iter().map(|(k, v)| Ok((k.clone(), logprob(v)?))).collect::<Result<Vec<_>, String>>()?;
    Ok(Read { items: vec![labelled(&top, labels)?], prompt_tokens, completion_tokens })
}

/// Scores of `labels` among the likeliest tokens `top`.
pub(super) fn labelled(top: &[(String, f64)], labels: &[Label]) -> Result<Vec<LabelScore>, String> {
    let names: Vec<String> = labels.iter().map(label_name).collect();
    among(top, &names)
}

/// How a label of one token is named among the likeliest.
fn label_name(label: &Label) -> String {
    match label {
        Label::Text(text) => text.clone(),
        Label::Tokens(ids) => ids.first().map_or_else(String::new, |id| format!("token_id:{id}")),
    }
}

/// A text after a prompt.
pub(super) fn text_body(model: &str, q: &TextQuery) -> Value {
    sampled(json!({ "model": model, "prompt": prompt_value(&q.prompt) }), q)
}

/// `body` with what `q` says of length and sampling, in OpenAI's words.
pub(super) fn sampled(mut body: Value, q: &TextQuery) -> Value {
    body["max_tokens"] = json!(q.max_tokens);
    body["temperature"] = json!(q.temperature);
    body["seed"] = json!(q.seed);
    if !q.stop.is_empty() {
        body["stop"] = json!(q.stop);
    }
    body
}

/// The answer to [`text_body`].
pub(super) fn read_text(q: &TextQuery, most: u64, answer: &Value) -> Result<Read<String>, String> {
    let (prompt_tokens, completion_tokens) = usage(answer, most, u64::from(q.max_tokens))?;
    let text = field(choices(answer, 1)?[0], "text")?.as_str().ok_or("`text` is no text")?;
    Ok(Read { items: vec![text.to_owned()], prompt_tokens, completion_tokens })
}
