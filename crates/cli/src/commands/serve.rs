//! `antiphon serve`: a model behind OpenAI's HTTP API.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "where it listens")]

use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use antiphon_model::ChatTemplate;
use antiphon_serve::{ApiKey, Running, Served, Settings};
use serde_json::json;

use super::common::{self, Named};
use crate::args::Serve;
use crate::error::{Fail, Failure, Kind};
use crate::machine;

/// Tokens of context where nobody asks for more: a cache for the whole context of a long model would take gigabytes.
const CONTEXT: usize = 2048;

pub(super) fn run(a: &Serve, quiet: bool, json: bool) -> Result<(), Failure> {
    let settings = settings(a)?;
    let named = common::open(&a.model, a.adapter.as_deref())?;
    let served = served(a, &named)?;
    let (name, context, fingerprint) =
        (served.name().to_owned(), served.context(), served.fingerprint().to_owned());
    drop(named);
    let (told, interrupted) = mpsc::channel();
    let mut count = 0;
    ctrlc::set_handler(move || {
        count += 1;
        if count > 1 || told.send(()).is_err() {
            std::process::exit(i32::from(Kind::Interrupted.code()));
        }
    })
    .fail(Kind::Internal)?;
    let running = Running::start(served, settings, a.listen).fail(Kind::Usage)?;
    let address = format!("http://{}/v1", running.address());
    if json {
        println!(
            "{}",
            json!({ "url": address, "model": name, "context": context, "system_fingerprint": fingerprint })
        );
    } else {
        println!("{name} at {address}, {context} tokens of context; Ctrl+C to stop");
    }
    // whoever waits for the line reads it through a pipe
    let _ = std::io::stdout().flush();
    // the sender lives in the handler, for as long as the process
    let _ = interrupted.recv();
    if !quiet {
        eprintln!("finishing open requests; Ctrl+C again ends at once");
    }
    running.stop();
    Ok(())
}

fn settings(a: &Serve) -> Result<Settings, Failure> {
    Ok(Settings {
        max_body: a.max_body,
        queue: a.queue.max(1),
        batch: a.batch.max(1),
        batch_tokens: a.batch_tokens,
        cache_tokens: a.cache_tokens,
        max_logprobs: a.max_logprobs,
        request_timeout: Duration::from_secs(a.request_timeout),
        prompt_embeds: a.enable_prompt_embeds,
        seed: a.seed,
        api_key: a.api_key_file.as_deref().map(api_key).transpose()?,
        ..Settings::default()
    })
}

fn api_key(path: &Path) -> Result<ApiKey, Failure> {
    let text = std::fs::read_to_string(path).fail_at(Kind::Usage, path.display());
    let text = text.map_err(|e| e.with_near_path(path))?;
    ApiKey::new(&text)
        .ok_or_else(|| Failure::new(Kind::Usage, format_args!("{}: no key in this file", path.display())))
}

fn served(a: &Serve, named: &Named) -> Result<Served, Failure> {
    let mut tokenizer = named.tokenizer()?;
    if let Some(template) = &a.chat_template {
        tokenizer = tokenizer.with_template(ChatTemplate::named(template).fail(Kind::Usage)?);
    }
    let name = match &a.name {
        Some(name) => name.clone(),
        None => std::path::absolute(&a.model)
            .fail(Kind::Usage)?
            .file_name()
            .map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned()),
    };
    let positions = named.base.spec().max_positions;
    let context = a.context.unwrap_or(positions.min(CONTEXT));
    let threads = a.threads.unwrap_or_else(machine::cores);
    let adapter = named.adapter.as_ref();
    Served::new(&named.base, adapter, tokenizer, name, Some(context), threads).fail(Kind::Model)
}
