//! `antiphon init`: a run file for a model and data, from what they are. It is written only if `plan` accepts it.
//!
//! What is guessed is said beside the value, so that the first reading of the file is a reading of the guesses.
#![allow(clippy::print_stdout, reason = "the result of the command")]

mod look;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use antiphon_data::format::Layout;
use antiphon_model::spec::Family;
use antiphon_model::{Base, Tokenizer};
use serde_json::json;

use super::{common, plan};
use crate::args::Init;
use crate::error::{Fail, Failure, Kind};
use crate::machine;
use crate::prediction::Prediction;
use crate::progress::Progress;
use crate::runfile;
use crate::session::Session;

/// Sequences of a step.
const BATCH: usize = 8;
/// Most clients that are proposed.
const MOST_CLIENTS: usize = 10;
/// Training examples that a client should have at least: a few batches.
const LEAST_EXAMPLES: usize = 4 * BATCH;

pub(super) fn run(a: &Init, quiet: bool, json: bool) -> Result<(), Failure> {
    if a.out.exists() {
        return Err(Failure::new(
            Kind::Usage,
            format_args!("{} is there already; name another file with --out", a.out.display()),
        ));
    }
    if common::is_run(&a.model) {
        return Err(Failure::new(
            Kind::Usage,
            "MODEL is a run directory; name its base model, or an export of it",
        ));
    }
    let base = Base::open(&a.model.display().to_string(), 0).fail(Kind::Model)?;
    let tokenizer = Tokenizer::open(base.dir(), Some(base.config())).fail(Kind::Model)?;
    let text = propose(a, &base, &tokenizer)?;

    let place = a.out.display().to_string();
    let dir = a.out.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let stem = a.out.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let loaded = runfile::parse(&text, &place, &[], dir, &stem)?;
    let session = Session::open(loaded, &Progress::new(0, quiet), Default::default())?;
    let prediction = Prediction::of(&session);
    fs::write(&a.out, &text).fail_at(Kind::Storage, a.out.display())?;
    if json {
        println!("{}", json!({ "out": a.out, "prediction": prediction, "notes": session.notes }));
    } else {
        println!("{place}\n\n{}", plan::text(&session, &prediction));
        println!("next         antiphon run {place}");
    }
    Ok(())
}

/// The text of the run file.
fn propose(a: &Init, base: &Base, tokenizer: &Tokenizer) -> Result<String, Failure> {
    let found = look::look(&a.data)?;
    let (spec, n) = (base.spec(), found.examples.len());
    let encoder = spec.family == Family::Bert;
    let labelled = found.layout == Layout::Labelled;
    if encoder && !labelled {
        return Err(Failure::new(
            Kind::Data,
            format_args!(
                "{}: an encoder classifies texts, and these data have no labels; name a text and a label column as \
                 `text` and `label`, or choose a model that continues texts",
                a.data.display()
            ),
        ));
    }
    let mut out = String::new();
    let mut line = |text: &str| {
        // writing to a String cannot fail
        let _ = writeln!(out, "{text}");
    };
    let value = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    line(
        "# Written by `antiphon init`; every guess is marked. `antiphon plan` says what it costs, `antiphon run` runs it.",
    );
    line("\n[run]\nseed = 1\n\n[model]");
    let parameters = machine::parameters(spec, antiphon_model::Task::CausalLm);
    line(&format!("# {:?}, {} parameters", spec.family, antiphon_report::format::count(parameters)));
    line(&format!("base_model = {}", value(&from(&a.out, &a.model)?)));
    let chat = matches!(found.layout, Layout::Messages | Layout::Sharegpt);
    if chat && tokenizer.template().is_none() {
        line("# the model has no chat template of its own\nchat_template = \"chatml\"");
    }

    line("\n[data]");
    found.says.iter().take(3).for_each(|s| line(&format!("# found: {}", s.replace('\n', " "))));
    line(&format!("path = {}", value(&from(&a.out, &a.data)?)));
    for (key, value) in &found.guesses {
        line(&format!("# guess\n{key} = {value}"));
    }
    let length = spec.max_positions.min(if labelled { 64 } else { 256 });
    line(&format!("# tokens; longer texts are cut, and `plan` says how many\nsequence_len = {length}"));

    line("\n[data.partition]");
    partition(&found, &mut line);
    line("\n[data.split]\n# of each client's examples\nvalidation = 0.1\ntest = 0.2");

    line("\n[method]\nid = \"lora\"\nlora_r = 8\nlora_alpha = 16\ntarget_modules = \"all-linear\"");
    if labelled {
        let pooling = if encoder { "mean" } else { "last" };
        line("\n[objective]\n# guess: the rows have labels, so they are classified");
        line(&format!("id = \"classification\"\n# cls, pooler, mean or last\npooling = \"{pooling}\""));
    }
    let rate = if parameters < 20_000_000 { "3e-3" } else { "3e-4" };
    line("\n[train]\n# guess: small models bear larger rates");
    line(&format!("learning_rate = {rate}\nmicro_batch_size = {}\nlocal_steps = 10", BATCH.min(n.max(1))));
    line("\n[federation]\nnum_rounds = 10\n# share of the clients in each round\nfraction = 1.0");
    line(
        "\n[eval]\nevery_rounds = 2\n# also: local_only, centralised (they take as long as the run itself)\nbaselines = [\"zero_shot\"]",
    );
    Ok(out)
}

/// Who holds what: by the field where the data have one, by differing mixes of labels, or at random.
fn partition(found: &look::Found, line: &mut impl FnMut(&str)) {
    let fields = look::fields(found.examples.iter());
    let large = fields.values().filter(|n| **n >= LEAST_EXAMPLES).count();
    let clients = (found.examples.len() / (2 * LEAST_EXAMPLES)).clamp(1, MOST_CLIENTS);
    if large > 1 {
        line(&format!(
            "# guess: one client for each value of the field; {large} of {} have {LEAST_EXAMPLES} examples or more",
            fields.len()
        ));
        line(&format!("id = \"field\"\nmin_examples = {LEAST_EXAMPLES}\ntop = {}", large.min(MOST_CLIENTS)));
    } else if found.layout == Layout::Labelled && clients > 1 {
        line(
            "# guess: each client's mix of labels is a draw of a Dirichlet distribution: the smaller alpha, the more they differ",
        );
        line(&format!("id = \"dirichlet_client\"\nclients = {clients}\nalpha = 1.0"));
    } else {
        line("# guess: nothing in the data says who owns what, so they are dealt out at random");
        line(&format!("id = \"iid\"\nclients = {clients}"));
    }
}

/// `path` as a run file at `out` should write it: as given where both start from the same place, else absolute.
fn from(out: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let here = out.parent().is_none_or(|p| p.as_os_str().is_empty());
    if here || path.is_absolute() {
        return Ok(path.to_owned());
    }
    std::path::absolute(path).fail(Kind::Storage)
}
