//! `antiphon generate`: text after a prompt, as it is made.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use std::io::Write;
use std::sync::Arc;

use antiphon_core::{Purpose, Stream};
use antiphon_kernels::{Backend, Cpu, Dst};
use antiphon_model::generate::{Finish, Generated, Generation, Generator, Room, Sampling};
use antiphon_model::template::ChatMessage;
use antiphon_model::{Net, Task, Tokenizer, Weights};
use serde_json::json;

use super::common::{self, Named};
use crate::args::Generate;
use crate::error::{Fail, Failure, Kind};
use crate::machine;

pub(super) fn run(a: &Generate, json: bool) -> Result<(), Failure> {
    let sampling = sampling(a)?;
    let named = common::open(&a.model, a.adapter.as_deref())?;
    let tokenizer = named.tokenizer()?;
    let prompt = prompt(a, &tokenizer)?;
    let mut stop = named.base.spec().eos.clone();
    stop.extend(tokenizer.special().eos);
    let options = Generation { max_new_tokens: a.max_new_tokens, sampling, stop };

    let mut text = String::new();
    let mut stream = tokenizer.stream(true);
    let mut failed = None;
    let mut hear = |piece: String| {
        if !json {
            // a reader that has gone away needs no more text
            print!("{piece}");
            let _ = std::io::stdout().flush();
        }
        text.push_str(&piece);
    };
    let done = answer(&named, &prompt, &options, a.seed, &mut |id| match stream.push(id) {
        Ok(piece) => hear(piece),
        Err(e) => failed = Some(e),
    })?;
    if let Some(e) = failed {
        return Err(e).fail(Kind::Model);
    }
    hear(stream.finish().fail(Kind::Model)?);
    if json {
        let finish = match done.finish {
            Finish::Stop(_) => "stop",
            Finish::Length => "length",
            Finish::Positions => "positions",
        };
        println!(
            "{}",
            json!({ "text": text, "tokens": done.tokens, "prompt_tokens": prompt.len(), "finish": finish })
        );
    } else {
        println!();
    }
    Ok(())
}

fn sampling(a: &Generate) -> Result<Sampling, Failure> {
    if a.temperature == 0.0 {
        return Ok(Sampling::greedy());
    }
    Sampling::nucleus(f64::from(a.temperature), f64::from(a.top_p)).fail(Kind::Usage)
}

/// Ids of the prompt, begun as the model's texts begin.
fn prompt(a: &Generate, tokenizer: &Tokenizer) -> Result<Vec<u32>, Failure> {
    let encode = |text: &str| tokenizer.encode(text, false).map(|t| t.ids).fail(Kind::Model);
    let ids = if a.chat {
        let turn = ChatMessage { role: "user", content: &a.prompt };
        encode(&tokenizer.render_chat(&[turn], true).fail(Kind::Model)?)?
    } else {
        let bos = tokenizer.special().bos.filter(|_| tokenizer.adds_bos());
        bos.into_iter().chain(encode(&a.prompt)?).collect()
    };
    if ids.is_empty() {
        return Err(Failure::new(
            Kind::Usage,
            "--prompt: no tokens, and this tokenizer begins a text with none; give at least one word",
        ));
    }
    Ok(ids)
}

/// Continues one prompt.
fn answer(
    named: &Named,
    prompt: &[u32],
    options: &Generation,
    seed: u64,
    token: &mut dyn FnMut(u32),
) -> Result<Generated, Failure> {
    let (base, adapter) = (&named.base, named.adapter.as_ref());
    if adapter.is_some_and(|a| a.about.task != Task::CausalLm) {
        return Err(Failure::new(
            Kind::Model,
            "this model classifies texts and does not continue them; `antiphon logits` prints its answer to one",
        ));
    }
    base.require(Task::CausalLm).fail(Kind::Model)?;
    let backend = Cpu::threads(machine::cores());
    let (wiring, theta) = adapter.map_or_else(Default::default, |a| (a.wiring.clone(), a.theta.clone()));
    let virtual_tokens = wiring.prompt.as_ref().map_or(0, |p| p.tokens);
    let wanted = (virtual_tokens + prompt.len()).saturating_add(options.max_new_tokens);
    let positions = wanted.min(base.spec().max_positions);
    let weights = Weights::load(&backend, base.spec(), Task::CausalLm, base.source()).fail(Kind::Model)?;
    let net = Net::new(&backend, weights, Task::CausalLm, Arc::new(wiring), positions).fail(Kind::Model)?;
    let mut params = backend.alloc(theta.len()).fail(Kind::Storage)?;
    backend.upload(&theta, Dst::new(&mut params, 0, theta.len())).fail(Kind::Internal)?;
    let mut generator = Generator::new(&backend, &net, Room { sequences: 1, positions }).fail(Kind::Model)?;
    let stream = Stream::new(seed, Purpose::Generate);
    let mut done = generator
        .generate(&backend, &net, &params, &[prompt], options, &stream, &mut |_, id| token(id))
        .fail(Kind::Model)?;
    done.pop().ok_or_else(|| Failure::new(Kind::Internal, "no sequence came back"))
}
