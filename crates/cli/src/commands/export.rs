//! `antiphon export`: what a run has made, for other programs. What was written is read back and asked the same question
//! as the original before the directory gets its name.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use std::fs;
use std::path::{Path, PathBuf};

use antiphon_kernels::Cpu;
use antiphon_model::adapter::{self, About, Adapter, AdapterError};
use antiphon_model::export::{ExportError, Precision, copy_companions, write_model};
use antiphon_model::{Base, Task, Wiring, probe};
use serde_json::json;

use super::common::{self, Named};
use crate::args::{ElementType, Export, Target};
use crate::error::{Fail, Failure, Kind};
use crate::machine;

/// Ids of the question.
const QUESTION: usize = 12;

pub(super) fn run(a: &Export, json: bool) -> Result<(), Failure> {
    if !common::is_run(&a.run) {
        return Err(Failure::new(
            Kind::RunDir,
            format_args!("{} is no run directory: it has no run.toml with events.sqlite", a.run.display()),
        ));
    }
    if a.to == Target::Peft && a.dtype != ElementType::F32 {
        return Err(Failure::new(Kind::Usage, "--dtype is for merged checkpoints; adapters are f32 files"));
    }
    refuse_occupied(&a.out)?;
    let named = common::open(&a.run, None)?;
    let staged = staged(&a.out)?;
    let written = write(a, &named, &staged).and_then(|()| verify(a, &named, &staged));
    let difference = match written {
        Ok(difference) => difference,
        Err(e) => {
            // the error that matters is `e`
            let _ = fs::remove_dir_all(&staged);
            return Err(e);
        }
    };
    fs::rename(&staged, &a.out).fail_at(Kind::Storage, a.out.display())?;
    if json {
        println!("{}", json!({ "out": a.out, "max_logit_difference": difference }));
    } else {
        println!("{}", a.out.display());
        println!("read back: its logits differ from the run's by {difference:.1e} at most");
    }
    Ok(())
}

/// A directory with something in it is somebody's.
fn refuse_occupied(out: &Path) -> Result<(), Failure> {
    let occupied = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(e).fail_at(Kind::Storage, out.display()),
    };
    if occupied {
        return Err(Failure::new(
            Kind::Usage,
            format_args!("--out {}: it is not empty; name a new directory", out.display()),
        ));
    }
    Ok(())
}

/// A directory beside `out`, to be renamed.
fn staged(out: &Path) -> Result<PathBuf, Failure> {
    let out = std::path::absolute(out).fail_at(Kind::Storage, out.display())?;
    let name = out.file_name().ok_or_else(|| Failure::new(Kind::Usage, "--out: a directory needs a name"))?;
    let mut hidden = std::ffi::OsString::from(".tmp-");
    hidden.push(name);
    let path = out.with_file_name(hidden);
    fs::create_dir_all(&path).fail_at(Kind::Storage, path.display())?;
    Ok(path)
}

/// The run's model as a whole: its wiring, its values and what it says of itself.
fn parts(named: &Named) -> (Wiring, Vec<f32>, About) {
    match &named.adapter {
        Some(Adapter { wiring, theta, about, .. }) => (wiring.clone(), theta.clone(), about.clone()),
        None => {
            let base_model = named.base.dir().display().to_string();
            let about = About { base_model, task: Task::CausalLm, labels: Vec::new() };
            (Wiring::default(), Vec::new(), about)
        }
    }
}

fn write(a: &Export, named: &Named, dir: &Path) -> Result<(), Failure> {
    let (wiring, theta, mut about) = parts(named);
    match a.to {
        Target::Merged => {
            let precision = match a.dtype {
                ElementType::F32 => Precision::F32,
                ElementType::Bf16 => Precision::Bf16,
                ElementType::F16 => Precision::F16,
            };
            let written = write_model(dir, &named.base, &wiring, &theta, &about, precision);
            // a full disk is not the model's fault
            let full = |e: &ExportError| {
                matches!(e, ExportError::Io { .. } | ExportError::Adapter(AdapterError::Io { .. }))
            };
            let kind = if written.as_ref().is_err_and(full) { Kind::Storage } else { Kind::Model };
            written.fail(kind)
        }
        Target::Peft => {
            let latest = antiphon_store::Layout::new(&a.run).latest();
            let Some(adapter) =
                named.adapter.as_ref().filter(|_| latest.join("adapter_config.json").is_file())
            else {
                return Err(Failure::new(
                    Kind::Usage,
                    "--to peft: this run tuned the whole model and has no adapter; use --to merged",
                ));
            };
            // the run file's path is relative to that file, and means nothing here
            if !about.base_model.starts_with("init:") {
                about.base_model =
                    std::path::absolute(named.base.dir()).fail(Kind::Storage)?.display().to_string();
            }
            let written =
                adapter::write(dir, named.base.spec(), &wiring, &theta, &about, adapter.lora.as_ref());
            let full = written.as_ref().is_err_and(|e| matches!(e, AdapterError::Io { .. }));
            written.fail(if full { Kind::Storage } else { Kind::Model })?;
            copy_companions(&latest, dir, None).fail(Kind::Storage)
        }
    }
}

/// Reads `dir` back and compares; gives the largest difference of a logit.
fn verify(a: &Export, named: &Named, dir: &Path) -> Result<f32, Failure> {
    let again = match a.to {
        Target::Merged => common::open(dir, None)?,
        Target::Peft => {
            let adapter = adapter::read(dir, named.base.spec()).fail(Kind::Model)?;
            Named { base: reopen(&named.base)?, adapter: Some(adapter), run: None }
        }
    };
    let spec = named.base.spec();
    let count = QUESTION.min(spec.max_positions.saturating_sub(64)).max(1);
    let ids: Vec<u32> =
        (0..count).map(|i| ((7 * i * i + 5 * i + spec.vocab / 3) % spec.vocab) as u32).collect();
    let backend = Cpu::threads(machine::cores());
    let logits =
        |n: &Named| probe::last_logits(&backend, &n.base, n.adapter.as_ref(), &ids).fail(Kind::Model);
    let (wanted, found) = (logits(named)?, logits(&again)?);
    let scale = wanted.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
    let share = tolerance(a);
    let worst = wanted.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // not finite counts as different, which `worst > …` would not
    let same = wanted.len() == found.len() && found.iter().all(|v| v.is_finite()) && worst <= share * scale;
    if !same {
        return Err(Failure::new(
            Kind::Internal,
            format_args!(
                "what was written answers otherwise than the run: logits differ by {worst:e}, {share:e} of {scale:.1} is \
                 expected at this element type; nothing was kept"
            ),
        ));
    }
    Ok(worst)
}

fn reopen(base: &Base) -> Result<Base, Failure> {
    match base {
        Base::Checkpoint(c) => Base::open(&c.dir().display().to_string(), 0).fail(Kind::Model),
        Base::Init { dir, seed, .. } => {
            Base::open(&format!("init:{}", dir.display()), *seed).fail(Kind::Model)
        }
    }
}

/// Largest difference of a logit, as a share of the largest logit. Merging in f32 rounds once; narrow types round every
/// weight, by up to 2^-9 (bf16) and 2^-12 (f16) of it, and errors of layers add up.
fn tolerance(a: &Export) -> f32 {
    match (a.to, a.dtype) {
        (Target::Peft, _) => 0.0,
        (Target::Merged, ElementType::F32) => 1e-4,
        (Target::Merged, ElementType::F16) => 2e-2,
        (Target::Merged, ElementType::Bf16) => 1e-1,
    }
}
