//! Encoding, on a toy tokenizer that merges across every seam it can.

use super::*;
use crate::example::{Message, Role};
use crate::tokenize::Encoding;

const BOS: u32 = 1000;
const EOS: u32 = 1001;
const CLS: u32 = 1002;
const SEP: u32 = 1003;

/// One token a byte, except that the given pieces, longest first, become one token each.
struct Toy {
    pieces: &'static [&'static str],
    template: fn(&[Message], bool) -> String,
}

impl Toy {
    fn new(pieces: &'static [&'static str]) -> Self {
        Self { pieces, template: chatml }
    }
}

/// `<user|text>\n` a turn, the assistant opened by `<assistant|`.
fn chatml(messages: &[Message], generate: bool) -> String {
    let turns: String = messages.iter().map(|m| format!("<{}|{}>\n", m.role, m.content)).collect();
    turns + if generate { "<assistant|" } else { "" }
}

impl Tokenize for Toy {
    fn encode(&self, text: &str, special: bool) -> Result<Encoding, TokenizeError> {
        let mut out = Encoding::default();
        let mut put = |id, start, end| {
            out.ids.push(id);
            out.offsets.push((start, end));
        };
        if special {
            put(CLS, 0, 0);
        }
        let mut at = 0;
        while at < text.len() {
            let piece = self.pieces.iter().enumerate().find(|(_, p)| text[at..].starts_with(**p));
            let (id, len) = match piece {
                Some((i, p)) => (300 + i as u32, p.len()),
                None => (u32::from(text.as_bytes()[at]), 1),
            };
            put(id, at, at + len);
            at += len;
        }
        if special {
            put(SEP, 0, 0);
        }
        Ok(out)
    }

    fn bos(&self) -> Option<u32> {
        Some(BOS)
    }

    fn eos(&self) -> Option<u32> {
        Some(EOS)
    }

    fn render_chat(&self, messages: &[Message], add: bool) -> Result<String, TokenizeError> {
        Ok((self.template)(messages, add))
    }
}

fn policy(limit: usize) -> Policy {
    Policy {
        task: Task::Tokens { verbalizer: None },
        sequence_len: limit,
        truncation: Truncation::PromptLeft,
        train_on_prompt: false,
        bos: None,
        eos: None,
    }
}

fn example(kind: Kind) -> Example {
    Example::new(kind, None, 0)
}

fn completion(prompt: &str, completion: &str) -> Example {
    example(Kind::Completion { prompt: prompt.into(), completion: completion.into() })
}

fn labelled(text: &str, label: &str) -> Example {
    example(Kind::Labelled { text: text.into(), label: label.into() })
}

fn run(examples: &[Example], policy: &Policy, toy: &Toy) -> Result<Encoded, EncodeError> {
    encode(examples, policy, toy, "client 0, train")
}

/// Tokens of the first sequence as text, targets in brackets.
fn shown(encoded: &Encoded, toy: &Toy) -> String {
    let s = &encoded.sequences[0];
    let piece = |id: u32| match id {
        BOS => "^".to_owned(),
        EOS => "$".to_owned(),
        CLS => "C".to_owned(),
        SEP => "S".to_owned(),
        id if id >= 300 => toy.pieces[id as usize - 300].to_owned(),
        id => char::from(id as u8).to_string(),
    };
    s.ids
        .iter()
        .zip(&s.target)
        .map(|(&id, &t)| if t { format!("[{}]", piece(id)) } else { piece(id) })
        .collect()
}

#[test]
fn a_token_over_the_seam_belongs_to_the_prompt() {
    // prompt "ab: ", completion "cd"
    let pair = [completion("ab: ", "cd")];
    for (pieces, expected, straddling) in [
        (&[][..], "ab: [c][d]", 0),
        (&[" c"][..], "ab: c[d]", 1),
        (&[": c"][..], "ab: c[d]", 1),
        (&[": ", "cd"][..], "ab: [cd]", 0),
    ] {
        let toy = Toy::new(pieces);
        let e = run(&pair, &policy(64), &toy).unwrap();
        assert_eq!((shown(&e, &toy).as_str(), e.report.straddling), (expected, straddling), "{pieces:?}");
    }
    // where tokenising the two apart would give other ids than the model sees: "b", ":" and " c" never meet
    let toy = Toy::new(&["b: c", "b:", " c"]);
    let e = run(&[completion("ab:", " cd")], &policy(64), &toy).unwrap();
    assert_eq!(shown(&e, &toy), "ab: c[d]");
    // the whole completion merged away: only the end marker is left to learn
    let toy = Toy::new(&[": cd"]);
    let e = run(&pair, &Policy { eos: Some(EOS), ..policy(64) }, &toy).unwrap();
    assert_eq!(shown(&e, &toy), "ab: cd[$]");
    let e = run(&pair, &policy(64), &toy).unwrap_err().to_string();
    assert!(
        e.starts_with("client 0, train: none of 1 examples")
            && e.contains("merge with the end of the prompt"),
        "{e}"
    );
}

#[test]
fn multi_byte_characters_at_the_seam() {
    let toy = Toy::new(&["é", "ü"]);
    let e = run(&[completion("é", "ü")], &policy(64), &toy).unwrap();
    assert_eq!(shown(&e, &toy), "é[ü]");
}

#[test]
fn begin_and_end_markers_are_explicit() {
    let toy = Toy::new(&[]);
    let both = Policy { bos: Some(BOS), eos: Some(EOS), ..policy(64) };
    let of = |e: &Example, p: &Policy| shown(&run(std::slice::from_ref(e), p, &toy).unwrap(), &toy);
    let text = example(Kind::Lm { text: "ab".into() });
    assert_eq!(of(&text, &both), "^[a][b][$]");
    assert_eq!(of(&text, &policy(64)), "a[b]", "nothing predicts the first token");
    assert_eq!(of(&completion("p", "c"), &both), "^p[c][$]");
    assert_eq!(of(&completion("", "c"), &both), "^[c][$]");
    assert_eq!(of(&completion("p", "c"), &Policy { train_on_prompt: true, ..both }), "^[p][c][$]");
}

fn messages(turns: &[(Role, &str)]) -> Example {
    let messages = turns.iter().map(|(role, c)| Message { role: *role, content: (*c).into() }).collect();
    example(Kind::Chat { messages })
}

#[test]
fn only_the_assistants_turns_are_learnt() {
    use Role::{Assistant, System, User};
    let chat = messages(&[(System, "s"), (User, "q"), (Assistant, "a"), (User, "r"), (Assistant, "b")]);
    let toy = Toy::new(&["<system|", "<user|", "<assistant|"]);
    let e = run(std::slice::from_ref(&chat), &policy(64), &toy).unwrap();
    // the marker that ends a turn is learnt, the line break after it is not
    assert_eq!(shown(&e, &toy), "<system|s>\n<user|q>\n<assistant|[a][>]\n<user|r>\n<assistant|[b][>]\n");
    // a token that merges the generation prompt with the answer belongs to the prompt
    let merging = Toy::new(&["|a", "|b>"]);
    let e = run(
        &[messages(&[(User, "q"), (Assistant, "a"), (User, "r"), (Assistant, "b")])],
        &policy(64),
        &merging,
    );
    let e = e.unwrap();
    assert_eq!((e.report.straddling, e.report.label_tokens), (2, 1));
    // an opening turn of the assistant is context
    let e = run(&[messages(&[(Assistant, "hi"), (User, "q"), (Assistant, "a")])], &policy(64), &toy).unwrap();
    assert_eq!(shown(&e, &toy), "<assistant|hi>\n<user|q>\n<assistant|[a][>]\n");
    // cut from the left, the last answer stays
    let e = run(std::slice::from_ref(&chat), &policy(4), &toy).unwrap();
    assert_eq!(shown(&e, &toy), "<assistant|[b][>]\n");
    assert_eq!((e.report.truncated, e.report.tokens_lost, e.report.label_tokens_lost), (1, 16, 2));
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused() {
    let toy = Toy { template: |m, g| format!("{} turns{}", m.len(), chatml(m, g)), ..Toy::new(&[]) };
    let e = run(&[messages(&[(Role::User, "q"), (Role::Assistant, "a")])], &policy(64), &toy);
    let e = e.unwrap_err().to_string();
    assert!(e.contains("example 0") && e.contains("turn 1") && e.contains("does not render"), "{e}");
}

#[test]
fn truncation_is_counted() {
    let toy = Toy::new(&[]);
    let pair = [completion("pppp", "cc")];
    let with = |truncation, limit| run(&pair, &Policy { truncation, ..policy(limit) }, &toy);
    let e = with(Truncation::PromptLeft, 4).unwrap();
    assert_eq!(shown(&e, &toy), "pp[c][c]");
    assert_eq!((e.report.truncated, e.report.tokens_lost, e.report.label_tokens_lost), (1, 2, 0));
    let e = with(Truncation::Tail, 5).unwrap();
    assert_eq!((shown(&e, &toy).as_str(), e.report.label_tokens_lost), ("pppp[c]", 1));
    let e = with(Truncation::Tail, 4).unwrap_err().to_string();
    assert!(e.contains("1 had them cut off at sequence_len = 4") && e.contains("prompt_left"), "{e}");
    let e = with(Truncation::Error, 4).unwrap_err().to_string();
    assert!(e.contains("example 0 has 6 tokens, more than sequence_len = 4"), "{e}");
    let two = [completion("pppp", "cc"), completion("p", "c")];
    let e = run(&two, &Policy { truncation: Truncation::Drop, ..policy(4) }, &toy).unwrap();
    let r = e.report;
    assert_eq!(
        (e.sequences.len(), r.examples, r.kept, r.dropped_too_long, r.label_tokens_lost),
        (1, 2, 1, 1, 2)
    );
}

#[test]
fn labelled_rows_as_words() {
    let toy = Toy::new(&[" good", " bad"]);
    let words = Verbalizer([("0", " bad"), ("1", " good")].map(|(a, b)| (a.into(), b.into())).into());
    let p = Policy { task: Task::Tokens { verbalizer: Some(words.clone()) }, ..policy(64) };
    let e = run(&[labelled("ok:", "1")], &p, &toy).unwrap();
    assert_eq!(shown(&e, &toy), "ok:[ good]");
    let e = run(&[labelled("ok:", "2")], &p, &toy).unwrap_err().to_string();
    assert!(e.contains("no word for label `2`") && e.contains("0, 1"), "{e}");
    let e = run(&[labelled("ok:", "2")], &policy(64), &toy).unwrap_err().to_string();
    assert!(e.contains("verbalizer") && e.contains("`classification`"), "{e}");
    // what a model that answers by one word chooses among
    assert_eq!(label_words("ok:", [" good", " bad"], &toy).unwrap(), [300, 301]);
    let e = label_words("ok:", [" good", " fine"], &toy).unwrap_err().to_string();
    assert!(e.contains("\" fine\" is 5 tokens"), "{e}");
    let e = label_words("ok:", [" bad", " bad"], &toy).unwrap_err().to_string();
    assert!(e.contains("the same token"), "{e}");
    assert!(label_words("ok: ", ["good"], &Toy::new(&[" good"])).is_err(), "merged with the prompt");
}

#[test]
fn labelled_rows_as_classes() {
    let toy = Toy::new(&[]);
    let set = LabelSet::of(["neg", "pos"]).unwrap();
    let p = Policy { task: Task::Classes(set), ..policy(5) };
    let e = run(&[labelled("abcdef", "pos")], &p, &toy).unwrap();
    assert_eq!((shown(&e, &toy).as_str(), e.sequences[0].class), ("CabcS", Some(1)));
    assert_eq!((e.report.truncated, e.report.tokens_lost), (1, 3));
    let e = run(&[labelled("a", "poss")], &p, &toy).unwrap_err().to_string();
    assert!(
        e.contains("client 0, train: label `poss` does not occur in training data; labels: neg, pos"),
        "{e}"
    );
    assert!(e.contains("did you mean `pos`"), "{e}");
    let e = run(&[completion("a", "b")], &p, &toy).unwrap_err().to_string();
    assert!(e.contains("has no label"), "{e}");
}

#[test]
fn long_running_text_goes_on_and_loses_nothing() {
    let toy = Toy::new(&["é"]);
    let docs: Vec<Example> = ["abc", "défghi", "j"].map(|t| example(Kind::Lm { text: t.into() })).into();
    let p = Policy { bos: Some(BOS), eos: Some(EOS), ..policy(5) };
    let e = run(&docs, &p, &toy).unwrap();
    assert_eq!(e.sequences.iter().map(Sequence::len).collect::<Vec<_>>(), [5, 5, 4, 3]);
    assert_eq!(e.sequences[2].ids[0], e.sequences[1].ids[4], "a piece begins with the last token before it");
    let r = e.report;
    assert_eq!((r.kept, r.sequences, r.truncated, r.tokens_lost), (3, 4, 0, 0));
    assert_eq!(r.label_tokens, 4 + 7 + 2, "every token and every end, once");
    assert_eq!(r.label_bytes, 3 + 7 + 1, "the bytes of the texts");
    assert_eq!(e.label_bytes(), [3, 5, 2, 1]);
    let e = run(&docs, &Policy { truncation: Truncation::Tail, ..p }, &toy).unwrap();
    assert_eq!((e.report.truncated, e.report.label_tokens_lost), (1, 3));
}

#[test]
fn bytes_of_labels_leave_out_the_prompt_and_count_shared_spans_once() {
    // a tokenizer of single bytes: the two tokens of "é" share its span, as byte-level tokenizers report it
    struct Bytes;
    impl Tokenize for Bytes {
        fn encode(&self, text: &str, _: bool) -> Result<Encoding, TokenizeError> {
            let spans = text.char_indices().flat_map(|(i, c)| vec![(i, i + c.len_utf8()); c.len_utf8()]);
            Ok(Encoding { ids: text.bytes().map(u32::from).collect(), offsets: spans.collect() })
        }
        fn bos(&self) -> Option<u32> {
            None
        }
        fn eos(&self) -> Option<u32> {
            None
        }
        fn render_chat(&self, _: &[Message], _: bool) -> Result<String, TokenizeError> {
            Err(TokenizeError::NoChatTemplate)
        }
    }
    let e = encode(&[completion("pé", "éc")], &policy(64), &Bytes, "x").unwrap();
    assert_eq!((e.report.label_tokens, e.report.label_bytes, e.report.straddling), (3, 3, 0));
    let e = encode(&[messages(&[(Role::User, "a"), (Role::Assistant, "b")])], &policy(64), &Bytes, "x");
    assert!(e.unwrap_err().to_string().contains("no chat template"));
}

#[test]
fn reports_add_up() {
    let toy = Toy::new(&[]);
    let e = run(&[completion("p", "cc")], &policy(9), &toy).unwrap();
    let mut sum = EncodeReport::default();
    sum += e.report;
    sum += e.report;
    assert_eq!((sum.examples, sum.tokens, sum.label_tokens), (2, 6, 4));
}
