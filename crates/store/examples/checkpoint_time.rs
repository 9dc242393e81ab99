//! How long a round's bookkeeping takes: `checkpoint_time DIR [MEGABYTES] [durable]`.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

use antiphon_store::{Checkpoint, RunDir, Settings, StoreError};

fn main() -> Result<(), StoreError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().map_or("checkpoint-time", String::as_str);
    let megabytes: usize = arguments.get(1).and_then(|n| n.parse().ok()).unwrap_or(20);
    let durable = arguments.get(2).is_some_and(|d| d == "durable");
    let settings = Settings { durable, keep_last: NonZeroU32::MIN.saturating_add(1), keep_every: None };
    let mut run = RunDir::create(Path::new(path), "", &serde_json::Value::Null, settings, 0)?;
    let mut theta = vec![0.25_f32; megabytes * 250_000];
    let mut times = Vec::new();
    for i in 0..12 {
        theta.iter_mut().for_each(|x| *x += 0.5);
        let round = run.next_round();
        let start = Instant::now();
        run.close_round(
            0,
            round,
            &Checkpoint { theta: &theta, ..Checkpoint::default() },
            &serde_json::json!({ "round": round }),
        )?;
        // the first rounds prune nothing and find cold caches
        if i >= 3 {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    println!("{megabytes} MB, durable {durable}: median {:?}, best {:?}", times[times.len() / 2], times[0]);
    Ok(())
}
