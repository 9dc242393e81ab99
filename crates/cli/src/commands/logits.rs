//! `antiphon logits`: the model's answer to a sequence of ids, for comparison with other programs.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use antiphon_kernels::Cpu;
use antiphon_model::probe;
use serde_json::json;

use super::common;
use crate::args::Logits;
use crate::error::{Fail, Failure, Kind};
use crate::machine;

pub(super) fn run(a: &Logits, json: bool) -> Result<(), Failure> {
    let ids: Vec<u32> = a
        .ids
        .split_whitespace()
        .map(|id| {
            let expected = "expected token ids, whole numbers from 0, such as \"1 5 7\"";
            id.parse().map_err(|_| Failure::new(Kind::Usage, format_args!("--ids: `{id}`: {expected}")))
        })
        .collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Err(Failure::new(Kind::Usage, "--ids: no ids; write them with spaces, such as \"1 5 7\""));
    }
    let named = common::open(&a.model, a.adapter.as_deref())?;
    let backend = Cpu::threads(machine::cores());
    let logits = probe::last_logits(&backend, &named.base, named.adapter.as_ref(), &ids).fail(Kind::Model)?;
    if json {
        println!("{}", json!({ "logits": logits }));
        return Ok(());
    }
    let tokenizer = named.tokenizer().ok();
    let labels = named.adapter.as_ref().map_or(&[][..], |a| &a.about.labels);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    println!("{:>8}  {:>10}  the likeliest of {}", "id", "logit", logits.len());
    for i in order.into_iter().take(10) {
        let vocabulary = || tokenizer.as_ref().filter(|_| labels.is_empty())?.token(i as u32);
        let name = labels.get(i).cloned().or_else(vocabulary).unwrap_or_default();
        println!("{i:>8}  {:>10.4}  {name}", logits[i]);
    }
    Ok(())
}
