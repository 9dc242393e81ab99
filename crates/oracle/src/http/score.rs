//! Numbers out of answers, none of them believed before it was checked.
//!
//! A reason says what was expected and what kind of thing came, never the thing itself: a server may repeat anything that it
//! was sent, and reasons are printed.

use serde_json::Value;

use crate::answer::{LabelScore, Missing};
use crate::query::{Label, Prompt};

/// A log-probability above 0 by no more is rounding.
const SLACK: f64 = 1e-3;

/// No model gives less. Servers write -9999 for a token that was left out.
const LEAST: f64 = -1e4;

/// Labels are scored one by one, by servers that compute in 16 bits: their probabilities may add up to so much.
const MOST_OF_LABELS: f64 = 1.1;

/// Prompt and label as one, with the border between them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Joined {
    Text { text: String, label: String },
    Ids { ids: Vec<u32>, label: usize },
}

impl Joined {
    /// `None` where one is text and the other ids.
    pub(super) fn new(prompt: &Prompt, label: &Label) -> Option<Self> {
        match (prompt, label) {
            (Prompt::Text(p), Label::Text(l)) => {
                Some(Self::Text { text: format!("{p}{l}"), label: l.clone() })
            }
            (Prompt::Tokens(p), Label::Tokens(l)) => {
                Some(Self::Ids { ids: [&p[..], l].concat(), label: l.len() })
            }
            _ => None,
        }
    }
}

/// Tokens that `prompt` can have at most: a token is a byte or more, and a model may add some at the beginning.
pub(super) fn most_tokens(prompt: &Prompt) -> u64 {
    match prompt {
        Prompt::Text(t) => t.len() as u64 + 8,
        Prompt::Tokens(ids) => ids.len() as u64,
    }
}

/// As [`most_tokens`], of a label.
pub(super) fn most_label_tokens(label: &Label) -> u64 {
    match label {
        Label::Text(t) => t.len() as u64,
        Label::Tokens(ids) => ids.len() as u64,
    }
}

/// A log-probability that can be one.
pub(super) fn logprob(v: &Value) -> Result<f64, String> {
    let p = v.as_f64().ok_or_else(|| format!("expected a log-probability, found {}", kind(v)))?;
    match p {
        p if !p.is_finite() || p < LEAST => Err(format!("a log-probability below {LEAST}")),
        p if p > SLACK => Err(format!("a log-probability of {p:.3e}, above 0")),
        p => Ok(p.min(0.0)),
    }
}

/// What kind of value it is.
fn kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "none",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Refuses scores of a question's labels that exclude each other and have more than the whole probability together. A label
/// that begins with another is no other outcome than that one.
pub(super) fn check_labels(labels: &[Label], scores: &[LabelScore]) -> Result<(), String> {
    let begins = |label: &Label, with: &Label| match (label, with) {
        (Label::Text(label), Label::Text(with)) => label.starts_with(with.as_str()),
        (Label::Tokens(label), Label::Tokens(with)) => label.starts_with(with),
        _ => false,
    };
    let first = |i: usize| {
        let same_or_longer = |(j, other): (usize, &Label)| {
            j != i && begins(&labels[i], other) && (labels[i] != *other || j < i)
        };
        !labels.iter().enumerate().any(same_or_longer)
    };
    let mass: f64 = scores
        .iter()
        .take(labels.len())
        .enumerate()
        .filter(|(i, _)| first(*i))
        .map(|(_, s)| s.logprob.exp())
        .sum();
    if mass <= MOST_OF_LABELS {
        Ok(())
    } else {
        Err(format!("the probabilities of a question's labels add up to {mass:.3}"))
    }
}

/// Refuses tokens whose probabilities add up to more than 1.
pub(super) fn check_mass(logprobs: impl Iterator<Item = f64>) -> Result<(), String> {
    let mass: f64 = logprobs.map(f64::exp).sum();
    if mass <= 1.0 + SLACK {
        Ok(())
    } else {
        Err(format!("probabilities of one position add up to {mass:.3}"))
    }
}

/// `field` of an object.
pub(super) fn field<'v>(v: &'v Value, name: &str) -> Result<&'v Value, String> {
    v.get(name).filter(|v| !v.is_null()).ok_or_else(|| format!("no `{name}`"))
}

/// A list of an object.
pub(super) fn list<'v>(v: &'v Value, name: &str) -> Result<&'v [Value], String> {
    let list = field(v, name)?.as_array().ok_or_else(|| format!("`{name}` is no list"))?;
    Ok(list)
}

/// The choices of an answer to `count` prompts, in the order of the prompts.
pub(super) fn choices(v: &Value, count: usize) -> Result<Vec<&Value>, String> {
    let found = list(v, "choices")?;
    let mut ordered = vec![None; count];
    for (at, choice) in found.iter().enumerate() {
        let index = choice.get("index").and_then(Value::as_u64).map_or(at, |i| i as usize);
        match ordered.get_mut(index) {
            Some(place @ None) => *place = Some(choice),
            _ => return Err(format!("{} choices with index {index} for {count} prompts", found.len())),
        }
    }
    let all: Option<Vec<&Value>> = ordered.into_iter().collect();
    all.ok_or_else(|| format!("{} choices for {count} prompts", found.len()))
}

/// Tokens of the answer, within what was sent: `(prompt, completion)`.
pub(super) fn usage(v: &Value, most_prompt: u64, most_completion: u64) -> Result<(u64, u64), String> {
    let Some(usage) = v.get("usage").filter(|u| !u.is_null()) else {
        return Ok((most_prompt, most_completion));
    };
    let read = |name: &str| field(usage, name)?.as_u64().ok_or_else(|| format!("`{name}` is no count"));
    let (prompt, completion) = (
        read("prompt_tokens")?,
        usage.get("completion_tokens").map_or(Ok(0), |_| read("completion_tokens"))?,
    );
    if prompt == 0 || prompt > most_prompt {
        return Err(format!("a count of {prompt} prompt tokens, and what was sent has 1 to {most_prompt}"));
    }
    if completion > most_completion {
        return Err(format!(
            "a count of {completion} generated tokens, and {most_completion} were asked for"
        ));
    }
    Ok((prompt, completion))
}

/// The score of a label at the end of an echoed prompt. Tokens that were generated after it, if any, are `generated`.
pub(super) fn echoed(
    logprobs: &Value,
    joined: &Joined,
    generated: usize,
) -> Result<Result<LabelScore, Missing>, String> {
    let (tokens, scores) = (list(logprobs, "tokens")?, list(logprobs, "token_logprobs")?);
    if tokens.len() != scores.len() || tokens.is_empty() {
        return Err(format!("{} tokens with {} log-probabilities", tokens.len(), scores.len()));
    }
    let end = tokens.len().checked_sub(generated).ok_or("fewer tokens than were generated")?;
    let count = match joined {
        Joined::Ids { ids, label } => {
            if end != ids.len() {
                return Err(format!("{end} tokens came back, and {} were sent", ids.len()));
            }
            let named = tokens[0].as_str().is_some_and(|t| t.starts_with("token_id:"));
            let same = |(id, token): (&u32, &Value)| token.as_str() == Some(&format!("token_id:{id}"));
            if named && !ids.iter().zip(tokens).all(same) {
                return Err("other tokens came back than were sent".into());
            }
            *label
        }
        Joined::Text { label, .. } => {
            let mut left = label.as_str();
            let mut count = 0;
            for token in tokens[..end].iter().rev() {
                if left.is_empty() {
                    break;
                }
                let text = token.as_str().ok_or("a token that is no text")?;
                match left.strip_suffix(text) {
                    Some(rest) => left = rest,
                    None => {
                        let reason = "a label is not made of whole tokens after its prompt: a token reaches into the \
                                      prompt; begin it with a space, or give ids";
                        return Ok(Err(Missing::Malformed { reason: reason.to_owned() }));
                    }
                }
                count += 1;
            }
            if !left.is_empty() {
                return Err("the echoed prompt is shorter than the label".into());
            }
            count
        }
    };
    if count == 0 || count >= end {
        return Err(format!(
            "{end} tokens came back, {count} of them the label's: nothing scored comes before it"
        ));
    }
    let sum = scores[end - count..end].iter().map(logprob).sum::<Result<f64, String>>()?;
    Ok(Ok(LabelScore { logprob: sum, censored: false, tokens: count as u32 }))
}

/// The score of each label among the likeliest next tokens `(name, log p)`.
pub(super) fn among(top: &[(String, f64)], names: &[String]) -> Result<Vec<LabelScore>, String> {
    let least = top.iter().map(|t| t.1).fold(f64::INFINITY, f64::min);
    if top.is_empty() {
        return Err("no log-probabilities".into());
    }
    check_mass(top.iter().map(|t| t.1))?;
    let score = |name: &String| {
        let exact = top.iter().find(|t| t.0 == *name);
        // a server may show ` good` as `good`
        let near = || top.iter().find(|t| t.0.trim() == name.trim() && !name.trim().is_empty());
        let found = exact.or_else(near);
        LabelScore { logprob: found.map_or(least, |t| t.1), censored: found.is_none(), tokens: 1 }
    };
    Ok(names.iter().map(score).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(prompt: &str, label: &str) -> Joined {
        Joined::new(&Prompt::Text(prompt.into()), &Label::Text(label.into())).unwrap()
    }

    #[test]
    fn a_label_is_the_whole_tokens_at_the_end() {
        let answer = json!({ "tokens": ["<s>", "It", " was", " ve", "ry", "!"], "token_logprobs": [null, -1, -2, -3, -0.5, -9] });
        let score = echoed(&answer, &text("It was", " very"), 1).unwrap().unwrap();
        assert_eq!(score, LabelScore { logprob: -3.5, censored: false, tokens: 2 });
        let merged = echoed(&answer, &text("It was ve", "ery"), 1);
        assert!(matches!(merged, Ok(Err(Missing::Malformed { .. }))), "{merged:?}");
        let ids = Joined::Ids { ids: vec![5, 6, 7], label: 1 };
        let named = json!({ "tokens": ["token_id:5", "token_id:6", "token_id:7"], "token_logprobs": [null, -1, 5e-4] });
        assert_eq!(echoed(&named, &ids, 0).unwrap().unwrap().logprob, 0.0, "rounding");
    }

    #[test]
    fn answers_that_cannot_be_true() {
        let ids = Joined::Ids { ids: vec![5, 6, 7], label: 1 };
        let wrong = |tokens: Value, scores: Value| {
            echoed(&json!({ "tokens": tokens, "token_logprobs": scores }), &ids, 0).unwrap_err()
        };
        assert!(wrong(json!(["a", "b", "c"]), json!([null, -1, 0.2])).contains("above 0"));
        assert!(
            wrong(json!(["a", "b", "c"]), json!([null, -1, null])).contains("expected a log-probability")
        );
        assert!(wrong(json!(["a", "b"]), json!([null, -1])).contains("2 tokens came back, and 3"));
        assert!(wrong(json!(["a", "b", "c"]), json!([null, -1])).contains("3 tokens with 2"));
        assert!(
            wrong(json!(["token_id:5", "token_id:6", "token_id:8"]), json!([null, -1, -1]))
                .contains("other tokens")
        );
        assert!(wrong(json!([]), json!([])).contains("0 tokens"));
        assert!(
            among(&[("a".into(), -0.1), ("b".into(), -0.2)], &["a".into()]).unwrap_err().contains("add up")
        );
        assert!(usage(&json!({ "usage": { "prompt_tokens": 9 } }), 8, 1).is_err());
        assert!(usage(&json!({ "usage": { "prompt_tokens": 0 } }), 8, 1).is_err());
        assert_eq!(usage(&json!({ "usage": { "prompt_tokens": 7 } }), 8, 1), Ok((7, 0)));
        assert!(choices(&json!({ "choices": [{ "index": 0 }, { "index": 0 }] }), 2).is_err());
        assert!(choices(&json!({ "choices": [{}] }), 2).unwrap_err().contains("1 choices for 2"));
    }

    #[test]
    fn labels_that_exclude_each_other_share_one_probability() {
        let check = |labels: &[&str], logprobs: &[f64]| {
            let labels: Vec<Label> = labels.iter().map(|l| Label::Text((*l).to_owned())).collect();
            let score = |p: &f64| LabelScore { logprob: *p, censored: false, tokens: 1 };
            check_labels(&labels, &logprobs.iter().map(score).collect::<Vec<_>>())
        };
        assert!(check(&[" good", " bad"], &[-0.1, -0.1]).unwrap_err().contains("add up to 1.810"));
        assert!(check(&[" good", " bad"], &[-0.05, -3.0]).is_ok());
        // the longer one is among the outcomes of the shorter
        assert!(check(&[" very good", " very", " bad"], &[-0.1, -0.05, -4.0]).is_ok());
        assert!(check(&[" good", " good"], &[-0.1, -0.1]).is_ok(), "one label, given twice");
        assert!(check(&[" very good", " very", " bad"], &[-0.1, -0.05, -1.0]).is_err());
    }

    #[test]
    fn no_reason_repeats_what_came() {
        let odd = json!("a row of a client");
        assert_eq!(logprob(&odd).unwrap_err(), "expected a log-probability, found a text");
        for p in [-1.1e4, f64::MIN] {
            assert!(logprob(&json!(p)).unwrap_err().contains("below"), "{p}");
        }
        assert_eq!(logprob(&json!(-9999.0)), Ok(-9999.0));
    }

    #[test]
    fn a_label_that_is_not_named_has_an_upper_bound() {
        let top = [(" good".to_owned(), -1.0), (" bad".to_owned(), -2.0)];
        let scores = among(&top, &["good".into(), " awful".into()]).unwrap();
        assert_eq!((scores[0].logprob, scores[0].censored), (-1.0, false));
        assert_eq!((scores[1].logprob, scores[1].censored), (-2.0, true));
    }
}
