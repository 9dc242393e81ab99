//! The embedded base model and its instruction set, made from nothing but this repository.
//!
//! `cargo xtask assets` makes, in order: the instruction set (`tasks.jsonl`), the tokenizer, the pretraining corpus
//! (not committed), and the base model through `antiphon run assets/recipes/pretrain.toml` and `antiphon export`.
//! Everything is a function of the seeds here, so remaking gives the same bytes on one kernel profile.

mod corpus;
mod lexicon;
mod tasks;

use std::fs;
use std::path::Path;

/// Seed of the corpus and of the tasks.
const SEED: u64 = 20_260;
/// Rows of every task.
const ROWS_PER_TASK: usize = 300;

/// Runs the steps named in `steps`, or all of them.
pub(crate) fn run(root: &Path, steps: &[&str]) -> Result<(), String> {
    let all = steps.is_empty();
    let dir = root.join("assets");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if all || steps.contains(&"tasks") {
        let rows: Vec<String> = tasks::rows(SEED, ROWS_PER_TASK).iter().map(ToString::to_string).collect();
        write(&dir.join("tasks.jsonl"), &(rows.join("\n") + "\n"))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    println!("{} ({} bytes)", path.display(), text.len());
    Ok(())
}
