//! What to think of tensors in the files that the trunk does not read.

use std::collections::BTreeSet;

use super::{Checkpoint, CheckpointError};
use crate::names::{self, Part, Role, TensorInfo};
use crate::spec::Family;

/// Why a tensor may be left unread without changing the function, if it may.
fn reason(checkpoint: &Checkpoint, name: &str) -> Option<&'static str> {
    let spec = checkpoint.spec();
    let last = |suffixes: &[&str]| suffixes.iter().any(|s| name == *s || name.ends_with(&format!(".{s}")));
    if last(&["rotary_emb.inv_freq"]) {
        return Some("a table that positions imply");
    }
    if spec.family == Family::Gpt2 && last(&["attn.bias", "attn.masked_bias"]) {
        return Some("the causal mask");
    }
    if spec.family == Family::Bert && last(&["embeddings.position_ids"]) {
        return Some("a list of positions");
    }
    let first = name.split('.').next().unwrap_or_default();
    match first {
        "lm_head" if !spec.causal => Some("a head of another task"),
        "lm_head" if name == names::tensor_name(spec, Role::LmHead) => Some(if spec.tied {
            "the head, which is the embedding"
        } else {
            "the head, read where the task needs it"
        }),
        "cls" | "score" | "classifier" | "qa_outputs" | "multiple_choice_head" => {
            Some("a head of another task")
        }
        _ => None,
    }
}

/// Lists what nothing reads, or fails on what the configuration does not account for.
pub(super) fn classify(
    checkpoint: &Checkpoint,
    trunk: &[TensorInfo],
) -> Result<Vec<String>, CheckpointError> {
    let spec = checkpoint.spec();
    // read where the task needs them
    let mut sometimes = vec![Role::Pooler(Part::Weight), Role::Pooler(Part::Bias)];
    if spec.causal && !spec.tied {
        sometimes.push(Role::LmHead);
    }
    let sometimes: Vec<String> = sometimes.into_iter().map(|r| names::tensor_name(spec, r)).collect();
    let wanted = trunk.iter().map(|t| &t.name).chain(&sometimes);
    let read: BTreeSet<&str> = wanted.filter_map(|name| Some(checkpoint.find(name)?.0)).collect();
    let (mut unread, mut unaccounted) = (Vec::new(), Vec::new());
    for name in checkpoint.tensors.keys().filter(|n| !read.contains(n.as_str())) {
        match reason(checkpoint, name) {
            Some(why) => unread.push(format!("{name}: {why}")),
            None => unaccounted.push(name.clone()),
        }
    }
    if unaccounted.is_empty() {
        Ok(unread)
    } else {
        Err(CheckpointError::Unaccounted { dir: checkpoint.dir.clone(), names: unaccounted })
    }
}
