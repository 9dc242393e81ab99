//! Chat templates against transformers' own rendering (`tests/golden/chat`, made by the script there).

#![allow(clippy::unwrap_used, reason = "test helpers outside of test functions")]

use antiphon_model::template::{SpecialTexts, TemplateError};
use antiphon_model::{ChatMessage, ChatTemplate};
use serde_json::Value;

fn special() -> SpecialTexts {
    let some = |s: &str| Some(s.to_owned());
    SpecialTexts { bos: some("<s>"), eos: some("</s>"), pad: some("<pad>"), unk: some("<unk>") }
}

fn render(source: &str, messages: &[ChatMessage<'_>], prompt: bool) -> Result<String, TemplateError> {
    ChatTemplate::new(source, "chat.jinja")?.render(messages, prompt, &special())
}

const HELLO: [ChatMessage<'_>; 1] = [ChatMessage { role: "user", content: "hello" }];

#[test]
fn renders_are_those_of_transformers() {
    let golden: Value = serde_json::from_str(include_str!("golden/chat/golden.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 64);
    for case in cases {
        let text = |key: &str| case[key].as_str().unwrap();
        let source = golden["templates"][text("template")].as_str().unwrap();
        let messages: Vec<ChatMessage<'_>> = golden["conversations"][text("conversation")]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| ChatMessage {
                role: m["role"].as_str().unwrap(),
                content: m["content"].as_str().unwrap(),
            })
            .collect();
        let found = render(source, &messages, case["prompt"].as_bool().unwrap());
        let place = format!("{} / {} / {}", text("template"), text("conversation"), case["prompt"]);
        match &case["text"] {
            // transformers refused too
            Value::Null => assert!(found.is_err(), "{place}: {found:?}"),
            expected => assert_eq!(found.unwrap(), expected.as_str().unwrap(), "{place}"),
        }
    }
}

#[test]
fn chatml_is_there_only_by_name() {
    let chatml = ChatTemplate::named("chatml").unwrap();
    let text = chatml.render(&HELLO, true, &SpecialTexts::default()).unwrap();
    assert_eq!(text, "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n");
    let unknown = ChatTemplate::named("alpaca").unwrap_err().to_string();
    assert_eq!(unknown, "no chat template is named `alpaca`; known: chatml");
}

#[test]
fn errors_name_the_place_and_the_line() {
    let refused = render("{{ bos_token }}\n{{ raise_exception('only pairs') }}", &HELLO, false);
    assert_eq!(refused.unwrap_err().to_string(), "chat.jinja, line 2: the chat template failed: only pairs");
    let syntax = render("a\n\n{% if %}", &HELLO, false).unwrap_err();
    assert!(matches!(&syntax, TemplateError::Syntax { line: 3, .. }), "{syntax}");
    let date = render("\n{{ strftime_now('%Y') }}", &HELLO, false).unwrap_err();
    assert!(date.to_string().contains("must not depend on the day"), "{date}");
    assert!(matches!(date, TemplateError::Render { line: 2, .. }));
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}\
                 {% endfor %}{% endfor %}";
    for (source, says) in [
        (loops, "fuel"),
        ("{% for a in range(9999) %}{{ '%99999d' | format(1) }}{% endfor %}", "longer than"),
    ] {
        let error = render(source, &HELLO, false).unwrap_err().to_string();
        assert!(error.starts_with("chat.jinja, line 1: the chat template failed"), "{error}");
        assert!(error.contains(says), "{error}");
    }
    // a template that asks first gets its own answer
    assert_eq!(render("{{ strftime_now is defined }}", &HELLO, false).unwrap(), "False");
}
