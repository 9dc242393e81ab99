//! The client of `antiphon-oracle` against this server: scores are the model's, by every way.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use antiphon_kernels::Cpu;
use antiphon_model::{Role, probe, tensor_name};
use antiphon_oracle::http::{Dialect, HttpOracle, HttpSettings, Way};
use antiphon_oracle::{
    Access, EmbedOracle, Label, LogprobOracle, Prompt, Query, ScoreQuery, Soft, TextOracle, TextQuery, Usage,
};
use common::{WIDTH, base, settings, start};

const PROMPT: [u32; 3] = [40, 77, 312];
const LABELS: [&[u32]; 3] = [&[9], &[9, 55], &[700, 3]];

fn connect(server: &antiphon_serve::Running, dialect: Dialect) -> HttpOracle {
    let url = format!("http://{}/v1", server.address());
    HttpOracle::connect(HttpSettings::new(&url, dialect, "tiny")).unwrap()
}

fn question() -> ScoreQuery {
    let labels: Arc<[Label]> = LABELS.iter().map(|l| Label::Tokens(l.to_vec())).collect();
    ScoreQuery { prompt: Prompt::Tokens(PROMPT.to_vec()), labels }
}

/// Sum of log-probabilities of `label` after `prompt`, from the model itself.
fn expected(prompt: &[u32], label: &[u32]) -> f64 {
    let (_dir, base, _) = base();
    let after = |ids: &[u32], next: u32| {
        let logits = probe::last_logits(&Cpu::serial(), &base, None, ids).unwrap();
        let sum: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
        f64::from(logits[next as usize]) - sum.ln()
    };
    (0..label.len()).map(|at| after(&[prompt, &label[..at]].concat(), label[at])).sum()
}

#[test]
fn scores_of_ids_are_the_models() {
    let server = start(settings());
    let oracle = connect(&server, Dialect::Antiphon);
    assert_eq!((oracle.found().way, oracle.facts().access), (Way::Echo, Access::Embeddings));
    assert_eq!(oracle.facts().noise_floor, Some(0.0), "the same bits every time");
    let batch = vec![question(); 7];
    let answers = oracle.score(&batch).unwrap();
    let most: Usage = batch.iter().map(|q| oracle.at_most(Query::Score(q))).sum();
    assert_eq!((answers.usage.examples, answers.usage.calls), (7, 2), "21 prompts, 16 a request");
    assert!(
        answers.usage.prompt_tokens <= most.prompt_tokens && answers.usage.prompt_tokens == 7 * (4 + 5 + 5)
    );
    for scores in answers.complete().unwrap() {
        for (score, label) in scores.iter().zip(LABELS) {
            assert!((score.logprob - expected(&PROMPT, label)).abs() < 1e-5);
            assert_eq!((score.tokens as usize, score.censored), (label.len(), false));
        }
    }
}

#[test]
fn soft_rows_of_the_table_are_its_tokens() {
    let server = start(settings());
    let oracle = connect(&server, Dialect::Antiphon);
    let (_dir, base, _) = base();
    let (table, _) = base.source().get(&tensor_name(base.spec(), Role::TokenEmbedding)).unwrap();
    let mut values = vec![0.0; table.len()];
    table.widen(0, &mut values);
    assert_eq!(oracle.width(), WIDTH);
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let std = (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
    assert!((oracle.embedding_std() - std).abs() < 1e-9);
    let row = |id: u32| values[id as usize * WIDTH..][..WIDTH].to_vec();
    let soft = Soft::new(WIDTH, [row(500), row(8)].concat()).unwrap();
    let scores = oracle.score_soft(&soft, &[question()]).unwrap().complete().unwrap().remove(0);
    for (score, label) in scores.iter().zip(LABELS) {
        let whole = [&[500, 8], &PROMPT[..]].concat();
        assert!((score.logprob - expected(&whole, label)).abs() < 1e-5);
    }
    assert!(oracle.score_soft(&Soft::new(3, vec![0.0; 3]).unwrap(), &[question()]).is_err());
}

#[test]
fn text_by_completions_and_chat_agrees_with_ids() {
    let server = start(settings());
    let (_dir, _, tokenizer) = base();
    let text = |dialect| {
        let oracle = connect(&server, dialect);
        let labels: Arc<[Label]> = [" good", " terrible"].map(|l| Label::Text(l.into())).into();
        let q = ScoreQuery { prompt: Prompt::Text("the film was".into()), labels };
        oracle.score(&[q]).unwrap().complete().unwrap().remove(0)
    };
    let (ours, any) = (text(Dialect::Antiphon), text(Dialect::Completions));
    let bos = tokenizer.special().bos.filter(|_| tokenizer.adds_bos());
    let ids = |t: &str| tokenizer.encode(t, false).unwrap().ids;
    for (i, label) in [" good", " terrible"].iter().enumerate() {
        let prompt: Vec<u32> = bos.into_iter().chain(ids("the film was")).collect();
        let whole: Vec<u32> = bos.into_iter().chain(ids(&format!("the film was{label}"))).collect();
        assert!((ours[i].logprob - expected(&prompt, &whole[prompt.len()..])).abs() < 1e-5, "{label}");
        assert_eq!(ours[i], any[i], "with and without a token generated after it");
    }
    let chat = connect(&server, Dialect::Chat);
    assert_eq!((chat.found().way, chat.facts().access), (Way::Next(20), Access::Logprobs));
    let q = TextQuery {
        prompt: Prompt::Text("hello".into()),
        max_tokens: 4,
        temperature: 0.0,
        seed: 0,
        stop: vec![],
    };
    let twice = chat.generate(&[q.clone(), q]).unwrap().complete().unwrap();
    assert_eq!(twice[0], twice[1]);
}
