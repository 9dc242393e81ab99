//! The tokenizer of the embedded base model, and its pretraining by the program itself.

use std::fs;
use std::path::Path;

use antiphon_model::tokenizer::{Tokenizer, train_bpe};
use serde_json::Value;

use super::{DOCUMENTS, ROWS_PER_TASK, SEED, corpus, lexicon, tasks};

/// Documents of the corpus that the tokenizer is trained on: merges settle long before the corpus ends.
const TOKENIZER_DOCUMENTS: u64 = 4_000;

/// What a fully tuned run leaves in `latest/` that belongs to the model.
const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Trains the tokenizer and puts it beside a copy of `config` in `dir`, from where pretraining starts.
pub(super) fn tokenizer(config: &Path, dir: &Path) -> Result<(), String> {
    let text = fs::read_to_string(config).map_err(|e| format!("{}: {e}", config.display()))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", config.display()))?;
    let vocab = json.get("vocab_size").and_then(Value::as_u64).unwrap_or_default() as usize;
    let held = tasks::texts(SEED, ROWS_PER_TASK);
    let mut texts: Vec<String> =
        (0..TOKENIZER_DOCUMENTS.min(DOCUMENTS)).map(|i| corpus::document(SEED, i, &held)).collect();
    texts.extend(held);
    // label words again and again, so that each is merged whole before words that are no answer
    let answers: String = lexicon::label_words().iter().map(|w| format!(" {w}")).collect();
    texts.extend(std::iter::repeat_n(answers, 1_000));
    let failed = |e: antiphon_model::tokenizer::TokenizerError| e.to_string();
    let trained = train_bpe(texts.iter().map(String::as_str), vocab, &["<s>", "</s>"]).map_err(failed)?;
    if trained.vocab() != vocab {
        let found = trained.vocab();
        return Err(format!("{}: vocab_size = {vocab}; the texts give {found} tokens", config.display()));
    }
    trained.save(dir, &[("bos_token", "<s>"), ("eos_token", "</s>")], None).map_err(failed)?;
    super::write(&dir.join("config.json"), &text)?;
    let tokenizer = Tokenizer::open(dir, None).map_err(failed)?;
    for word in lexicon::label_words() {
        let ids = tokenizer.encode(&format!(" {word}"), false).map_err(failed)?.ids;
        if ids.len() != 1 {
            return Err(format!(
                "label word `{word}` is {} tokens: a larger vocab_size is needed",
                ids.len()
            ));
        }
    }
    Ok(())
}

/// Runs the pretraining in `dir` and copies the model that it leaves to `out`.
pub(super) fn pretrain(root: &Path, dir: &Path, out: &Path) -> Result<(), String> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let dir_text = dir.display().to_string();
    let recipe = "assets/recipes/pretrain.toml";
    let args =
        ["run", "--release", "--quiet", "--package", "antiphon", "--", "run", recipe, "--out", &dir_text];
    crate::ci::cargo(root, &args, None)?;
    fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    for name in FILES {
        let from = dir.join("latest").join(name);
        let bytes = fs::copy(&from, out.join(name)).map_err(|e| format!("{}: {e}", from.display()))?;
        println!("{} ({bytes} bytes)", out.join(name).display());
    }
    Ok(())
}
