//! LoRA of a real checkpoint on real text: the held-out loss falls, by every method.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

use std::path::PathBuf;
use std::sync::Arc;

use antiphon_algo::LocalWork;
use antiphon_core::{ClientId, Round};
use antiphon_data::Sequence;
use antiphon_kernels::Cpu;
use antiphon_model::tokenizer::Tokenizer;
use antiphon_model::{Checkpoint, Net, Task, Weights};
use antiphon_tune::method::{self, Start};
use antiphon_tune::{
    Client, HeldOut, Recipe, TrainSettings, Tuning, estimator, objective, optim, step_shape,
};

/// The shared folder of test material; `None`, said aloud, where it is absent.
fn shared(part: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ANTIPHON_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let path = root.join("data").join(part);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {} (ANTIPHON_SHARED names the shared folder)", path.display());
    None
}

/// The speeches of one speaker as sequences of at most 64 tokens, every token a target.
fn speeches(tokenizer: &Tokenizer, text: &str, speaker: &str) -> Vec<Sequence> {
    text.split("\n\n")
        .filter_map(|s| s.strip_prefix(speaker)?.strip_prefix(":\n"))
        .map(|speech| tokenizer.encode(speech, true).unwrap().ids)
        .filter(|ids| (2..=64).contains(&ids.len()))
        .map(|ids| Sequence { target: (0..ids.len()).map(|t| t > 0).collect(), ids, class: None })
        .collect()
}

#[test]
fn tuning_a_real_model_on_a_speaker_lowers_the_held_out_loss() {
    let (Some(dir), Some(text)) =
        (shared("models/stories260k-hf"), shared("datasets/tinyshakespeare/input.txt"))
    else {
        return;
    };
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let tokenizer = Tokenizer::open(&dir, Some(checkpoint.config())).unwrap();
    let text = std::fs::read_to_string(text).unwrap();
    let all = speeches(&tokenizer, &text, "GLOUCESTER");
    let (held_out, train) = all.split_at(all.len() / 5);
    assert!(train.len() > 60, "{} speeches", train.len());
    let spec = checkpoint.spec();
    let cases = [
        ("id='lora'\nlora_r=8\nlora_alpha=16\ntarget_modules='all-linear'", 5e-3),
        ("id='full'", 1e-3),
        ("id='prompt'\nnum_virtual_tokens=8\nprompt_tuning_init='sample_vocab'", 3e-2),
    ];
    for (text, lr) in cases {
        let method = method::build(&text.parse().unwrap()).unwrap();
        let wiring = Arc::new(method.wire(spec, Task::CausalLm).unwrap());
        let tokenize = |t: &str| Ok(tokenizer.encode(t, false)?.ids);
        let start = Start { spec, base: &checkpoint, tokenize: Some(&tokenize), seed: 1 };
        let theta = method.init(&wiring, &start).unwrap();
        let backend = Cpu::threads(2);
        let weights = Weights::load(&backend, spec, Task::CausalLm, &checkpoint).unwrap();
        let net = Net::new(&backend, weights, Task::CausalLm, wiring, 96).unwrap();
        let train_settings: TrainSettings = toml::from_str(&format!(
            "learning_rate={lr}\nmicro_batch_size=8\nlocal_steps=30\n\
             lr_scheduler={{id='cosine', over='round', warmup_steps=3}}"
        ))
        .unwrap();
        let recipe = Recipe {
            objective: objective::build(&"id='sft'".parse().unwrap()).unwrap(),
            estimator: estimator::build(&"id = 'backprop'".parse().unwrap()).unwrap(),
            optimizer: optim::build(&"id='adamw'".parse().unwrap()).unwrap(),
            train: train_settings.check().unwrap(),
            rounds: 1,
            seed: 1,
        };
        let shape = step_shape([train, held_out], 8, net.limits().prompt);
        let tuning = Arc::new(Tuning::new(Arc::new(backend), Arc::new(net), recipe, shape, Arc::default()));
        let score = |theta: &[f32]| {
            let set = HeldOut { sequences: held_out, bytes: None, label_words: None };
            tuning.evaluate(theta, set).unwrap().loss().unwrap()
        };
        let mut client =
            Client::new(Arc::clone(&tuning), ClientId(0), train.into(), train.len() as u64).unwrap();
        let local = client.run(&theta, Round(0)).unwrap();
        let end: Vec<f32> = theta.iter().zip(&local.delta).map(|(t, d)| t - d).collect();
        let (before, after) = (score(&theta), score(&end));
        println!("{}: {before:.3} -> {after:.3} nats/token, {:?}", method.id(), local.metrics);
        assert!(after < 0.97 * before, "{}: {before} -> {after}", method.id());
    }
}
