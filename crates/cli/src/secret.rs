//! Values that no message shows.
//!
//! An API key comes from a file or a descriptor and from nowhere else. Who writes one into a run file or on the command line gets
//! an error, and errors end up in logs and in reports to others: what is assigned to a key that is called like a secret is left
//! out of them, and so is its line.

/// Words of names that hold secrets.
const WORDS: [&str; 10] = [
    "key",
    "keys",
    "apikey",
    "token",
    "secret",
    "password",
    "passwd",
    "credential",
    "authorization",
    "bearer",
];

/// Shorter values are no secrets, and letters that a message needs anyway.
const SHORTEST: usize = 4;

/// Whether `key`, maybe dotted, is called like a secret.
pub(crate) fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key).to_lowercase();
    name.split(|c: char| !c.is_alphanumeric()).any(|word| WORDS.contains(&word))
}

/// Whether `line` assigns to such a key, or begins with one where it assigns nothing.
pub(crate) fn in_line(line: &str) -> bool {
    assigned(line).next().is_some() || (!line.contains('=') && first_word(line).is_some_and(is_secret))
}

/// An override as messages show it.
pub(crate) fn shown(item: &str) -> String {
    match item.split_once('=') {
        Some((key, _)) if is_secret(key) => format!("{key}=…"),
        // in an inline table
        Some((key, _)) if in_line(item) => format!("{key}=…"),
        None if in_line(item) => "…".to_owned(),
        _ => item.to_owned(),
    }
}

/// `message` without what `text` (a run file, an override) assigns to such keys.
pub(crate) fn conceal(message: String, text: &str) -> String {
    let values = text.lines().flat_map(assigned).filter(|v| v.len() >= SHORTEST);
    values.fold(message, |message, value| message.replace(value, "…"))
}

/// What `line` assigns to keys that are called like secrets.
fn assigned(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices('=').filter_map(|(at, _)| {
        let key = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let from = key.rfind(|c: char| !(c.is_alphanumeric() || "_-.".contains(c)));
        let key = from.map_or(key, |i| key[i..].trim_start_matches(|c: char| !c.is_alphanumeric()));
        is_secret(key).then(|| value(line[at + 1..].trim_start()))
    })
}

/// What stands at the beginning of `text`: a string without its quotes, or all up to what ends another value.
fn value(text: &str) -> &str {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let body = quote.map_or(text, |q| text.trim_start_matches(q));
    let end = match quote {
        Some(q) => body.find(q),
        None => body.find([',', '}', '#']),
    };
    body[..end.unwrap_or(body.len())].trim()
}

fn first_word(line: &str) -> Option<&str> {
    line.split(|c: char| !(c.is_alphanumeric() || "_-.".contains(c))).find(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
        for name in
            ["api_key", "oracle.api_key", "apikey", "api-key", "TOKEN", "hf_token", "secret", "x.password"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in
            ["num_virtual_tokens", "max_tokens", "oracle.budget.tokens", "tokenizer", "monkey", "key.path"]
        {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn no_form_of_an_assignment_is_shown() {
        for line in [
            "api_key = \"sk-12345\"",
            "  'api_key'='sk-12345'",
            "oracle = { endpoint = \"http://x\", api_key = \"sk-12345\" }",
            "oracle.api_key = sk-12345",
            "api_key \"sk-12345\"",
            "api_key: sk-12345",
            "api_key = \"sk-12345",
        ] {
            assert!(in_line(line), "{line}");
            assert!(!shown(line).contains("sk-12345"), "{}", shown(line));
        }
        assert_eq!(shown("oracle.api_key=sk-12345"), "oracle.api_key=…");
        assert_eq!(shown("oracle={api_key='sk-12345'}"), "oracle=…");
        assert_eq!(shown("train.learning_rate=1e-3"), "train.learning_rate=1e-3");
        assert!(!in_line("path = \"key = 1\"") || !shown("path=\"key = 1\"").contains("key = 1"));
        let message =
            conceal("string \"sk-12345\", expected u32".to_owned(), "a = 1\napi_key_fd = \"sk-12345\"");
        assert_eq!(message, "string \"…\", expected u32");
    }
}
