//! `antiphon run` and `antiphon resume`.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use antiphon_core::Round;
use antiphon_report::terminal;
use antiphon_sim::Start;
use antiphon_store::{Resume, RunDir, Settings, diff, verify_latest};
use serde_json::json;

use crate::args::{self, Run};
use crate::error::{Fail, Failure, Kind, store};
use crate::progress::Progress;
use crate::remote::Draft;
use crate::runfile::{self, Loaded};
use crate::secret;
use crate::session::{self, Chosen, Course, Hand, Pin, Session, Trial, execute, unix_ms};

/// A fresh run.
pub(super) fn run(a: &Run, quiet: bool, json: bool) -> Result<(), Failure> {
    let begun = Instant::now();
    let loaded = runfile::load(&a.run.file, &a.run.overrides)?;
    let progress = Progress::new(u64::from(loaded.settings.federation.num_rounds), quiet);
    let out = a.out.clone().map_or_else(|| free_name(Path::new("runs"), &loaded.settings.run.name), Ok)?;
    if out.join("run.toml").exists() {
        return Err(Failure::new(
            Kind::RunDir,
            format_args!(
                "{} holds a run already; `antiphon resume {0}` continues it, another --out starts anew",
                out.display()
            ),
        ));
    }
    if out.exists() && !out.is_dir() {
        return Err(Failure::new(
            Kind::RunDir,
            format_args!("{} is a file; --out names the folder to make", out.display()),
        ));
    }
    let trial = open(loaded, None, &progress, stop_on_interrupt()?)?;
    for note in trial.notes() {
        progress.note(note);
    }
    let settings = Settings {
        durable: trial.file().run.durable,
        keep_last: NonZeroU32::MIN.saturating_add(trial.file().run.keep_checkpoints),
        keep_every: None,
    };
    let mut meta = json!({ "directory": absolute(trial.loaded())?, "antiphon": env!("CARGO_PKG_VERSION") });
    for pin in trial.pins() {
        meta[pin.key] = pin.value.into();
    }
    let resolved = trial.loaded().resolved()?;
    let start = Start::fresh(trial.start());
    let crew = trial.crew()?;
    // from here on something is written: whatever can be refused has been
    let fresh = !out.exists();
    let dir = RunDir::create(&out, &resolved, &meta, settings, unix_ms()).map_err(|e| {
        let failure = store(&e);
        if fresh && failure.kind == Kind::Storage {
            // nothing half-written; the failure that matters is the first
            let _ = std::fs::remove_dir_all(&out);
        }
        failure
    })?;
    trial.prepare(None, &progress).map_err(|mut f| {
        if f.kind == Kind::Interrupted {
            f.message =
                format!("stopped before the first round; nothing is lost: antiphon resume {}", out.display());
        }
        f
    })?;
    rounds(
        &Job {
            trial: &*trial,
            progress: &progress,
            course: Course { begun, resumed_at: &[] },
            out: &out,
            json,
        },
        crew,
        (start, None),
        dir,
    )
}

/// What a run and its resumption share.
struct Job<'a> {
    trial: &'a dyn Trial,
    progress: &'a Progress,
    course: Course<'a>,
    out: &'a Path,
    json: bool,
}

/// The run that a run file describes. `dir`: where it lies, if it goes on.
fn open(
    loaded: Loaded,
    dir: Option<&Path>,
    progress: &Progress,
    stop: Arc<AtomicBool>,
) -> Result<Box<dyn Trial>, Failure> {
    if loaded.settings.oracle.endpoint.is_some() {
        return Ok(Box::new(Draft::open(loaded, progress, stop)?.connect(dir, progress)?));
    }
    Ok(Box::new(Session::open(loaded, progress, stop)?))
}

fn rounds(
    job: &Job<'_>,
    crew: Vec<Hand>,
    start: (Start, Option<Chosen>),
    dir: RunDir,
) -> Result<(), Failure> {
    let (trial, progress) = (job.trial, job.progress);
    let again = format!("antiphon resume {}", job.out.display());
    trial.begin(job.out)?;
    let done = execute(trial, crew, start, dir, progress);
    let (outcome, mut dir) = done.map_err(|f| {
        let mut f = ended(trial, f, &again);
        if f.kind == Kind::Interrupted {
            f.message =
                format!("stopped before the round was closed, which is done again; nothing is lost: {again}");
        }
        f
    })?;
    if !outcome.completed {
        progress.finish();
        if let Some(why) = trial.ended() {
            return Err(ended(trial, why, &again));
        }
        let rounds = trial.policy().num_rounds;
        return Err(Failure::new(
            Kind::Interrupted,
            format_args!(
                "stopped after {} of {rounds} rounds; nothing is lost: {again}",
                outcome.rounds_done
            ),
        ));
    }
    let done = trial.finish(&mut dir, &outcome, job.course, progress);
    progress.finish();
    let done = done.map_err(|f| {
        let mut f = ended(trial, f, &again);
        if f.kind == Kind::Interrupted {
            f.message = format!(
                "stopped after the last round, before its results were written; nothing is lost: {again}"
            );
        }
        f
    })?;
    if job.json {
        println!("{}", serde_json::to_string(&done.summary).fail(Kind::Internal)?);
    } else {
        println!("\n{}", terminal::summary(&done.summary, &done.findings));
        println!("report   {}", job.out.join("report.html").display());
        println!("model    {}", job.out.join("latest").display());
    }
    Ok(())
}

/// The failure that ended the run: what stopped it where it was not the user, else `failure`.
fn ended(trial: &dyn Trial, failure: Failure, again: &str) -> Failure {
    let lasting = matches!(failure.kind, Kind::Federation | Kind::Oracle);
    match (trial.ended(), trial.hint()) {
        (Some(why), _) => Failure::new(why.kind, format_args!("{why}\nnothing is lost: {again}")),
        (None, Some(hint)) if lasting => {
            Failure::new(failure.kind, format_args!("{failure}\n{hint}\nnothing is lost: {again}"))
        }
        (None, _) => failure,
    }
}

/// Continues a run.
pub(super) fn resume(a: &args::Resume, quiet: bool, json: bool) -> Result<(), Failure> {
    let begun = Instant::now();
    let (mut dir, from) = RunDir::resume(&a.dir, unix_ms()).map_err(|e| store(&e))?;
    let place = a.dir.join("run.toml").display().to_string();
    let recorded = dir.meta().clone();
    let meta = |key: &str| recorded.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    let base = PathBuf::from(meta("directory"));
    if let Some(file) = &a.file {
        refuse_changes(dir.run_toml(), file)?;
    }
    refuse_results(&a.overrides)?;
    let loaded = runfile::parse(dir.run_toml(), &place, &a.overrides, base, "run")?;
    let rounds_wanted = loaded.settings.federation.num_rounds;
    let progress = Progress::new(u64::from(rounds_wanted), quiet);
    if finished(&dir, &from, rounds_wanted, &progress)? {
        progress.finish();
        return show_finished(&dir, rounds_wanted, quiet, json);
    }
    dir.commit().map_err(|e| store(&e))?;
    for (round, error) in &from.skipped {
        progress.note(&format!("{round} is done again: {error}"));
    }
    let trial = open(loaded, Some(&a.dir), &progress, stop_on_interrupt()?)?;
    for Pin { key, value: now, why } in trial.pins() {
        if meta(key) != now {
            return Err(Failure::new(
                Kind::RunDir,
                format_args!("{}: {key} was {}, now it is {now}; {why}", a.dir.display(), meta(key)),
            ));
        }
    }
    let mut resumed_at = session::resumed_at(&from.events);
    resumed_at.push(u64::from(from.next.0));
    let crew = trial.crew()?;
    let start = session::resume(&*trial, &crew, &dir, from, &progress)?;
    progress.note(&format!("continuing at round {} of {}", start.0.round.0 + 1, trial.policy().num_rounds));
    let course = Course { begun, resumed_at: &resumed_at };
    let job = Job { trial: &*trial, progress: &progress, course, out: &a.dir, json };
    rounds(&job, crew, start, dir)
}

/// What a resumed run may do otherwise: nothing that changes a result.
const RESUMABLE: [&str; 8] = [
    "oracle.budget.",
    "oracle.timeout_s",
    "oracle.retries",
    "oracle.requests_per_second",
    "oracle.concurrency",
    "oracle.api_key_file",
    "oracle.api_key_fd",
    "run.workers",
];

fn refuse_results(overrides: &[String]) -> Result<(), Failure> {
    let may = |key: &str| RESUMABLE.iter().any(|r| key == *r || (r.ends_with('.') && key.starts_with(r)));
    match overrides.iter().find(|item| !may(item.split('=').next().unwrap_or_default())) {
        None => Ok(()),
        Some(item) => Err(Failure::new(
            Kind::Usage,
            format_args!(
                "override `{}`: a resumed run goes on as it was begun; what may change is {}…",
                secret::shown(item),
                RESUMABLE.join(", ")
            ),
        )),
    }
}

/// Whether the last round is closed and everything that a run leaves is written.
fn finished(dir: &RunDir, from: &Resume, num_rounds: u32, progress: &Progress) -> Result<bool, Failure> {
    let last = num_rounds.checked_sub(1).map(Round);
    // the row is written after the report, which is the last file
    let published = from.events.iter().rev().find(|e| e.kind == "published");
    let of_the_last =
        published.is_some_and(|e| serde_json::from_str::<Option<Round>>(&e.json).is_ok_and(|r| r == last));
    let layout = dir.layout();
    let files = [layout.report(), layout.latest(), layout.summary()];
    let ended = from.next.0 >= num_rounds && of_the_last;
    if !(ended && files.iter().all(|f| f.exists())) {
        return Ok(false);
    }
    // what is damaged is written again
    for damaged in
        [session::summary(layout).err(), verify_latest(layout, &from.events).err().map(|e| store(&e))]
    {
        match damaged {
            Some(why) if why.kind == Kind::RunDir => {
                progress.note(&format!("{why}: the results are written again"));
                return Ok(false);
            }
            Some(why) => return Err(why),
            None => {}
        }
    }
    Ok(true)
}

/// Says that there is nothing to do, and where the results are.
#[allow(clippy::print_stderr, reason = "the terminal is the binary's")]
fn show_finished(dir: &RunDir, num_rounds: u32, quiet: bool, json: bool) -> Result<(), Failure> {
    let layout = dir.layout();
    if !quiet {
        eprintln!(
            "{} is finished: all {num_rounds} rounds are done; nothing was changed",
            layout.root().display()
        );
    }
    if json {
        let path = layout.summary();
        let text = std::fs::read_to_string(&path).fail_at(Kind::Storage, path.display())?;
        let summary: serde_json::Value = serde_json::from_str(&text).fail_at(Kind::RunDir, path.display())?;
        println!("{summary}");
    } else {
        println!("report   {}", layout.report().display());
        println!("model    {}", layout.latest().display());
    }
    Ok(())
}

/// Errors with the list of differences between the run's own file and `file`.
fn refuse_changes(own: &str, file: &Path) -> Result<(), Failure> {
    let table = |text: &str| text.parse::<toml::Table>().fail(Kind::RunDir);
    let (own, mut given) = (table(own)?, table(&runfile::load(file, &[])?.resolved()?)?);
    let name = |t: &toml::Table| t.get("run").and_then(|run| run.get("name")).cloned();
    if let (Some(unnamed), Some(run), Some(first)) =
        (file.file_stem(), given.get_mut("run").and_then(toml::Value::as_table_mut), name(&own))
        && run.get("name").and_then(toml::Value::as_str) == unnamed.to_str()
    {
        // named after the file, which may be called otherwise now
        run.insert("name".to_owned(), first);
    }
    let changes = diff(&own, &given);
    if changes.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = changes.iter().map(|c| format!("  {c}")).collect();
    Err(Failure::new(
        Kind::RunDir,
        format_args!(
            "{} differs from the file that the run was started with:\n{}\nresume without --file to continue as it was, or start a new run",
            file.display(),
            list.join("\n")
        ),
    ))
}

/// `runs/NAME-1`, or the next number that is free.
fn free_name(parent: &Path, name: &str) -> Result<PathBuf, Failure> {
    (1..100_000)
        .map(|n| parent.join(format!("{name}-{n}")))
        .find(|p| !p.exists())
        .ok_or_else(|| Failure::new(Kind::RunDir, format_args!("{}: no free name", parent.display())))
}

/// Where relative paths of the run file start, from anywhere.
fn absolute(loaded: &Loaded) -> Result<String, Failure> {
    let dir = if loaded.dir.as_os_str().is_empty() { Path::new(".") } else { &loaded.dir };
    Ok(std::path::absolute(dir).fail(Kind::Storage)?.display().to_string())
}

/// A flag that Ctrl+C and whoever else asks the process to end raise; asked twice, it ends at once, which loses nothing but the
/// open round. Either way it says so: a run that ends without a word was killed.
#[allow(clippy::print_stderr, reason = "the terminal is the binary's")]
fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            eprintln!(
                "asked twice to stop: ended at once, the open round is lost; `antiphon resume` goes on"
            );
            std::process::exit(i32::from(Kind::Interrupted.code()));
        }
    })
    .fail(Kind::Internal)?;
    Ok(stop)
}
