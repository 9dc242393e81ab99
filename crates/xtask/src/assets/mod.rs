//! The embedded base model and its instruction set, made from nothing but this repository.
//!
//! `cargo xtask assets` makes, in order: the instruction set, the tokenizer, the pretraining corpus (not committed),
//! and the base model by `antiphon run assets/recipes/pretrain.toml`. Everything is a function of the seeds here and in
//! that recipe, so remaking gives the same bytes on one kernel profile; `cargo xtask assets check` does and compares.

mod base;
mod corpus;
mod lexicon;
mod tasks;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use antiphon_core::Digest;

/// Seed of the corpus and of the tasks.
const SEED: u64 = 20_260;
/// Rows of every task.
const ROWS_PER_TASK: usize = 300;
/// Documents of the corpus.
const DOCUMENTS: u64 = 30_000;

/// The steps in the order in which each needs those before it.
const STEPS: [&str; 4] = ["tasks", "corpus", "tokenizer", "base"];

/// Runs the steps named in `steps`, or all of them; `check` remakes everything elsewhere and compares.
pub(crate) fn run(root: &Path, steps: &[&str]) -> Result<(), String> {
    if steps == ["check"] {
        return check(root);
    }
    if let Some(unknown) = steps.iter().find(|s| !STEPS.contains(s)) {
        return Err(format!(
            "no step `{unknown}` of the assets; there are {}, and `check`",
            STEPS.join(", ")
        ));
    }
    make(root, &root.join("assets"), |step| steps.is_empty() || steps.contains(&step))
}

/// Makes the assets in `out`. What only the pretraining needs lies in `target/assets`, where its recipe looks for it.
fn make(root: &Path, out: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    let scratch = root.join("target/assets");
    if wanted("tasks") {
        let rows: Vec<String> = tasks::rows(SEED, ROWS_PER_TASK).iter().map(ToString::to_string).collect();
        write(&out.join("tasks.jsonl"), &(rows.join("\n") + "\n"))?;
    }
    if wanted("corpus") {
        let held = tasks::texts(SEED, ROWS_PER_TASK);
        let lines: Vec<String> = (0..DOCUMENTS)
            .map(|i| serde_json::json!({ "text": corpus::document(SEED, i, &held) }).to_string())
            .collect();
        write(&scratch.join("corpus.jsonl"), &(lines.join("\n") + "\n"))?;
    }
    if wanted("tokenizer") {
        base::tokenizer(&root.join("assets/recipes/config.json"), &scratch.join("init"))?;
    }
    if wanted("base") {
        base::pretrain(root, &scratch.join("pretrain"), &out.join("base"))?;
    }
    Ok(())
}

/// Remakes the assets in `target/assets/again` and compares every file with the committed one.
fn check(root: &Path) -> Result<(), String> {
    let again = root.join("target/assets/again");
    make(root, &again, |_| true)?;
    let mut made = BTreeMap::new();
    digests(&again, &again, &mut made)?;
    let mut differ = Vec::new();
    for (name, digest) in &made {
        let committed = digest_of(&root.join("assets").join(name))?;
        println!("{} {name}", if committed == *digest { "same  " } else { "DIFFER" });
        if committed != *digest {
            differ.push(name.as_str());
        }
    }
    if differ.is_empty() {
        println!("{} files remade, bit for bit", made.len());
        return Ok(());
    }
    Err(format!("remade files differ from the committed ones: {}", differ.join(", ")))
}

/// The digest of every file below `dir`, by its name from `from`.
fn digests(from: &Path, dir: &Path, out: &mut BTreeMap<String, Digest>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            digests(from, &path, out)?;
        } else {
            let name = path.strip_prefix(from).unwrap_or(&path).display().to_string();
            out.insert(name, digest_of(&path)?);
        }
    }
    Ok(())
}

fn digest_of(path: &Path) -> Result<Digest, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Digest::of(&bytes))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)?;
    println!("{} ({} bytes)", path.display(), text.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use antiphon_model::config::Config;
    use antiphon_model::tokenizer::Tokenizer;

    use super::*;

    fn assets() -> std::path::PathBuf {
        crate::root().join("assets")
    }

    /// Files below `dir`, as `git` would commit them.
    fn bytes(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
        entries.map(|e| if e.path().is_dir() { bytes(&e.path()) } else { e.metadata().unwrap().len() }).sum()
    }

    #[test]
    fn the_committed_instruction_set_is_what_the_code_makes() {
        let text = fs::read_to_string(assets().join("tasks.jsonl")).unwrap();
        let rows = tasks::rows(SEED, ROWS_PER_TASK);
        assert_eq!(text.lines().count(), rows.len());
        for (line, row) in text.lines().zip(&rows) {
            assert_eq!(line, row.to_string(), "run `cargo xtask assets`");
        }
    }

    #[test]
    fn answers_are_one_token_and_prompts_are_short() {
        let tokenizer = Tokenizer::open(&assets().join("base"), None).unwrap();
        for word in lexicon::label_words() {
            assert_eq!(tokenizer.encode(&format!(" {word}"), false).unwrap().ids.len(), 1, "{word}");
        }
        for row in tasks::rows(SEED, ROWS_PER_TASK) {
            let ids = tokenizer.encode(&tasks::text(&row), true).unwrap().ids;
            assert!(ids.len() <= 43, "{row}: {} tokens", ids.len());
            // the answer is one token of its own, also behind the prompt
            let answer = tokenizer.encode(row["output"].as_str().unwrap(), false).unwrap().ids;
            assert_eq!(ids.last(), answer.last(), "{row}");
        }
    }

    #[test]
    fn the_base_has_fourteen_layers_and_everything_fits_four_megabytes() {
        let config = Config::read(&assets().join("base/config.json")).unwrap();
        assert!(config.spec.layers >= 14);
        let size = bytes(&assets());
        assert!(size < 4_000_000, "{size} bytes");
    }
}
