//! `antiphon compare`: a grid of runs on the same data, their table and their page.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use antiphon_report::format::{counted, seconds};
use antiphon_report::html;
use antiphon_report::study::{Status, Study, Table, beside, budgets, csv, markdown, pays, results, terminal};

use crate::args::Compare;
use crate::error::{Fail, Failure, Kind};
use crate::progress::StudyProgress;
use crate::study::{Launcher, Notice, Planned, State, StudyFile, Work, gather, plan};

pub(super) fn run(a: &Compare, quiet: bool, json: bool) -> Result<(), Failure> {
    let file = StudyFile::read(&a.file)?;
    let out = a.out.clone().unwrap_or_else(|| Path::new("runs").join(&file.name));
    let planned = plan(&file, &out)?;
    if a.dry_run {
        return show_plan(&planned, a.jobs, json);
    }
    let progress = StudyProgress::new(planned.cells.len(), planned.study.finished().count(), quiet);
    if !quiet {
        progress.note(&text(&planned, a.jobs));
    }
    let launcher = Launcher::new()?;
    let handler = launcher.clone();
    ctrlc::set_handler(move || {
        if !handler.stop() {
            std::process::exit(i32::from(Kind::Interrupted.code()));
        }
    })
    .fail(Kind::Internal)?;
    std::fs::create_dir_all(&out).fail_at(Kind::Storage, out.display())?;
    let Planned { study, cells } = planned;
    write(&out, &study)?;
    let desk = Mutex::new(Desk { study, broken: None, out: &out });
    launcher.run(&cells, a.jobs, &|i, notice| {
        let work = &cells[i];
        match notice {
            Notice::Begins => progress.begins(&work.name, work.state == State::Begun),
            Notice::Says(line) => progress.says(&work.name, line),
            Notice::Ends | Notice::Fails(_) => {
                let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
                let line = desk.close(work, notice);
                let left = left(&desk.study, &cells, a.jobs);
                progress.ends(&work.name, &line, left);
            }
        }
    });
    progress.finish();
    let Desk { study, broken, .. } = desk.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = broken {
        return Err(failure);
    }
    let again = format!("antiphon compare {} --out {}", a.file.display(), out.display());
    if launcher.stopped() {
        let done = study.finished().count();
        return Err(Failure::new(
            Kind::Interrupted,
            format_args!(
                "stopped after {done} of {}; nothing is lost: {again}",
                counted(study.cells() as u64, "run")
            ),
        ));
    }
    if json {
        println!("{}", serde_json::to_string(&study).fail(Kind::Internal)?);
    } else {
        for table in tables(&study) {
            println!("{}", terminal(&table));
        }
        for name in ["study.html", "study.md", "study.csv", "study.json"] {
            println!("{}", out.join(name).display());
        }
    }
    let failed: Vec<String> =
        study.failed().map(|(v, c, why)| format!("{}, seed {}: {why}", v.name, c.seed)).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let of = counted(study.cells() as u64, "run");
    let list = failed.join("\n");
    Err(Failure::new(
        Kind::Federation,
        format_args!(
            "{} of {of} failed; the others are in the tables\n{list}\nto try them again: {again}",
            failed.len()
        ),
    ))
}

/// What is known so far, and on disk.
struct Desk<'a> {
    study: Study,
    /// The first failure to read a cell or to write the study.
    broken: Option<Failure>,
    out: &'a Path,
}

impl Desk<'_> {
    /// Takes in a cell that has ended, writes the study anew, and says how it went.
    fn close(&mut self, work: &Work, notice: Notice<'_>) -> String {
        if let Notice::Fails(why) = notice {
            let line = format!("failed: {}", why.lines().next().unwrap_or_default());
            self.study.variants[work.variant].cells[work.seed].status = Status::Failed(why);
            self.keep(|desk| write(desk.out, &desk.study));
            return line;
        }
        self.keep(|desk| gather(&mut desk.study, work).and_then(|()| write(desk.out, &desk.study)));
        let measures = self.study.measures();
        let cell = self.study.variants[work.variant].cells[work.seed].measured();
        let Some(cell) = cell else { return "no result".to_owned() };
        let numbers = measures.iter().filter_map(|m| {
            let value = (m.of)(cell.test.as_ref()?)?;
            Some(format!("{} {}", m.name, (m.text)(value)))
        });
        numbers.chain([seconds(cell.wall_seconds)]).collect::<Vec<_>>().join(", ")
    }

    fn keep(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Failure>) {
        if let Err(failure) = work(self) {
            self.broken.get_or_insert(failure);
        }
    }
}

/// Every table of a study, the headline first.
fn tables(study: &Study) -> Vec<Table> {
    let read = study.measures().into_iter().filter_map(|m| budgets(study, &m));
    let own = study.measures().into_iter().filter_map(|m| beside(study, &m));
    std::iter::once(results(study)).chain(own).chain(read).chain(pays(study)).collect()
}

/// Writes everything that a study leaves besides its runs.
fn write(out: &Path, study: &Study) -> Result<(), Failure> {
    let markdown: Vec<String> = tables(study).iter().map(markdown).collect();
    let json = serde_json::to_string_pretty(study).fail(Kind::Internal)?;
    for (name, text) in [
        ("study.json", json),
        ("study.md", format!("# {}\n\n{}", study.name, markdown.join("\n"))),
        ("study.csv", csv(study)),
        ("study.html", html::study(study)),
    ] {
        replace(&out.join(name), &text)?;
    }
    Ok(())
}

/// All of it or what was there before.
fn replace(path: &PathBuf, text: &str) -> Result<(), Failure> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)
        .and_then(|()| std::fs::rename(&next, path))
        .fail_at(Kind::Storage, path.display())
}

/// Seconds that the cells that have not ended will take, from those that have: of the same variant, or else of any.
fn left(study: &Study, cells: &[Work], jobs: usize) -> Option<f64> {
    let mean =
        |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let any = mean(study.finished().map(|c| c.wall_seconds).collect())?;
    let open =
        cells.iter().filter(|w| matches!(study.variants[w.variant].cells[w.seed].status, Status::Waiting));
    let each = open.map(|w| mean(study.variants[w.variant].finished().map(|c| c.wall_seconds).collect()));
    Some(each.map(|own| own.unwrap_or(any)).sum::<f64>() / jobs as f64)
}

fn show_plan(planned: &Planned, jobs: usize, json: bool) -> Result<(), Failure> {
    if json {
        let commands: Vec<_> = planned
            .cells
            .iter()
            .map(|w| {
                let state = match w.state {
                    State::Absent => "absent",
                    State::Begun => "begun",
                    State::Finished => "finished",
                };
                serde_json::json!({
                    "name": w.name, "directory": w.dir, "run_file": w.file, "overrides": w.overrides,
                    "rounds": w.rounds, "state": state,
                })
            })
            .collect();
        let value = serde_json::json!({
            "runs": commands,
            "splits": planned.study.splits,
            "seconds": left(&planned.study, &planned.cells, jobs),
        });
        println!("{value}");
    } else {
        print!("{}", text(planned, jobs));
    }
    Ok(())
}

/// The plan for people.
fn text(planned: &Planned, jobs: usize) -> String {
    let Planned { study, cells } = planned;
    let width = study.variants.iter().map(|v| v.name.chars().count()).max().unwrap_or(0);
    let mut out = format!(
        "{}: {} = {} x {}\n",
        study.name,
        counted(cells.len() as u64, "run"),
        counted(study.variants.len() as u64, "variant"),
        counted(study.seeds.len() as u64, "seed"),
    );
    for (i, v) in study.variants.iter().enumerate() {
        let own = || cells.iter().filter(|w| w.variant == i);
        let (done, begun) = (
            own().filter(|w| w.state == State::Finished).count(),
            own().filter(|w| w.state == State::Begun).count(),
        );
        let rounds = own().map(|w| w.rounds).max().unwrap_or(0);
        let mut line = format!("  {:width$}  {}", v.name, counted(u64::from(rounds), "round"));
        if done + begun > 0 {
            line += &format!(", {done} of {} finished, {begun} begun", v.cells.len());
        }
        out += &line;
        out.push('\n');
    }
    let divisions = study.splits.len() as u64;
    out += &format!(
        "  the data: {}, the same for every variant that is compared on {}\n",
        counted(divisions, "division"),
        if divisions == 1 { "it" } else { "them" }
    );
    out += &match left(study, cells, jobs) {
        Some(0.0) => "  nothing is left to run\n".to_owned(),
        Some(s) => format!("  about {} are left, from the runs that have ended\n", seconds(s)),
        None => "  time: known after the first run; `antiphon plan` estimates one\n".to_owned(),
    };
    out
}
