//! A step allocates nothing once every thread has met the largest step. Alone in its binary, because the count is the process's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use antiphon_algo::LocalWork;
use antiphon_core::{ClientId, Round};
use antiphon_kernels::Cpu;
use antiphon_kernels::counting::{Counting, allocations};
use antiphon_tune::{Observer, StepReport};
use common::world::{ADAMW, FULL, LORA, PROMPT, SGD, Setup, client, sequences};
use common::{bert, gpt2, llama};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The count at the end of each step.
#[derive(Default)]
struct Counts {
    at: Mutex<[u64; STEPS]>,
    steps: AtomicU64,
}

const STEPS: usize = 12;

impl Observer for Counts {
    fn step(&self, _: ClientId, _: Round, report: &StepReport) {
        self.at.lock().unwrap()[report.step as usize] = allocations();
        self.steps.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_step_allocates_nothing_after_the_first() {
    let dropout = "id='lora'\nlora_r=2\nlora_alpha=4\ntarget_modules='all-linear'\nlora_dropout=0.25";
    let mean = "id='classification'\npooling='mean'";
    let train = format!(
        "learning_rate=0.01\nmicro_batch_size=2\ngradient_accumulation_steps=2\nlocal_steps={STEPS}\n\
         lr_scheduler={{id='cosine', over='run', warmup_steps=2}}"
    );
    let forward = format!("{train}\nmax_grad_norm=0");
    let zeroth = "id='zeroth_order'\nepsilon=1e-3\ndirections=2";
    let setups = [
        Setup::lm(LORA, ADAMW, &train),
        Setup { estimator: zeroth, ..Setup::lm(LORA, SGD, &forward) },
        Setup { estimator: zeroth, ..Setup::lm(FULL, SGD, &forward) },
        Setup { estimator: zeroth, ..Setup::lm(PROMPT, SGD, &forward) },
        Setup::lm(dropout, ADAMW, &train),
        Setup::lm(FULL, ADAMW, &train),
        Setup::lm(PROMPT, SGD, &train),
        Setup { spec: gpt2(), ..Setup::lm(LORA, SGD, &train) },
        Setup { spec: bert(), objective: mean, classes: 3, ..Setup::lm(LORA, ADAMW, &train) },
        Setup { spec: llama(), objective: mean, classes: 3, ..Setup::lm(FULL, ADAMW, &train) },
    ];
    for (case, setup) in setups.into_iter().enumerate() {
        for threads in [1, 3] {
            let set = sequences(11, 1, setup.classes as u32);
            let (tuning, start) = setup.build(Cpu::threads(threads), std::slice::from_ref(&set));
            let counts = Arc::new(Counts::default());
            let tuning =
                Arc::new(Arc::try_unwrap(tuning).unwrap().observed(Arc::clone(&counts) as Arc<dyn Observer>));
            let mut c = client(&tuning, 1, &set);
            let mut round = || {
                c.run(&start, Round(0)).unwrap();
                let at = *counts.at.lock().unwrap();
                at.windows(2).map(|w| w[1] - w[0]).collect::<Vec<u64>>()
            };
            // the first round grows scratch and packing buffers to the largest step; a pool's threads take tasks as
            // they come, so each meets its largest at its own time
            let warm_up = if threads == 1 { 1 } else { 40 };
            let quiet = (0..warm_up).map(|_| round()).any(|counts| counts == [0; STEPS - 1]);
            assert!(quiet || round() == [0; STEPS - 1], "case {case}, {threads} threads: {:?}", round());
            assert!(counts.steps.load(Ordering::SeqCst) >= STEPS as u64);
        }
    }
}
