//! Runs cells, each in a process of its own, some at a time.
//!
//! Children are in process groups of their own, so that a Ctrl+C of the terminal reaches them once, through here.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use super::cells::{State, Work};
use crate::error::{Fail, Failure, Kind};

/// Lines of a failed run that are kept.
const LINES: usize = 12;

/// What a cell tells while it runs.
#[derive(Debug)]
pub(crate) enum Notice<'a> {
    /// It begins.
    Begins,
    /// A line of its progress.
    Says(&'a str),
    /// It has ended with a result.
    Ends,
    /// It has ended without one; why.
    Fails(String),
}

/// Starts processes, and stops them all.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    program: PathBuf,
    running: Arc<Mutex<Running>>,
}

#[derive(Debug, Default)]
struct Running {
    stopped: bool,
    children: Vec<Pid>,
}

impl Launcher {
    /// For this program itself.
    pub(crate) fn new() -> Result<Self, Failure> {
        let program = std::env::current_exe().fail_at(Kind::Internal, "where is this program")?;
        Ok(Self { program, running: Arc::default() })
    }

    /// Asks every child to stop after a checkpoint, and lets no other begin. Asked again, they stop at once. Returns whether
    /// it was the first time.
    pub(crate) fn stop(&self) -> bool {
        let mut running = self.running();
        for child in &running.children {
            // one that has just ended has nothing to stop
            let _ = kill_process(*child, Signal::INT);
        }
        !std::mem::replace(&mut running.stopped, true)
    }

    /// Whether it was stopped.
    pub(crate) fn stopped(&self) -> bool {
        self.running().stopped
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs every cell that has not ended, `jobs` at a time, in order. `each` hears of all of them.
    pub(crate) fn run(&self, cells: &[Work], jobs: usize, each: &(dyn Fn(usize, Notice<'_>) + Sync)) {
        let next = AtomicUsize::new(0);
        let worker = || {
            while let Some((i, work)) = {
                let i = next.fetch_add(1, Ordering::Relaxed);
                cells.get(i).map(|w| (i, w))
            } {
                if work.state == State::Finished {
                    continue;
                }
                if self.stopped() {
                    break;
                }
                match self.cell(work, &|notice| each(i, notice)) {
                    Ok(()) => each(i, Notice::Ends),
                    Err(_) if self.stopped() => break,
                    Err(why) => each(i, Notice::Fails(why)),
                }
            }
        };
        std::thread::scope(|s| {
            for _ in 1..jobs.min(cells.len()) {
                s.spawn(worker);
            }
            worker();
        });
    }

    /// One cell, to its end; the last lines it wrote where that is no good one.
    fn cell(&self, work: &Work, each: &dyn Fn(Notice<'_>)) -> Result<(), String> {
        let mut child = self.begin(work)?;
        each(Notice::Begins);
        let pid = Pid::from_child(&child);
        let mut last = VecDeque::new();
        if let Some(pipe) = child.stderr.take() {
            // a line that is no UTF-8 is nobody's progress
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                each(Notice::Says(&line));
                if last.len() == LINES {
                    last.pop_front();
                }
                last.push_back(line);
            }
        }
        let ended = child.wait();
        self.running().children.retain(|c| *c != pid);
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let how = match (status.code(), status.signal()) {
                    (Some(code), _) => format!("ended with code {code}"),
                    (None, Some(signal)) => format!("was ended by signal {signal}"),
                    (None, None) => "ended".to_owned(),
                };
                // a message may have several lines, and is the last thing said
                let begin = last.iter().rposition(|l| l.starts_with("antiphon: "));
                let lines: Vec<String> = last.into_iter().skip(begin.unwrap_or(LINES)).collect();
                Err(match lines.join("\n").strip_prefix("antiphon: ") {
                    Some(message) => message.to_owned(),
                    None => format!("the run {how}"),
                })
            }
            Err(e) => Err(format!("cannot wait for the run: {e}")),
        }
    }

    fn begin(&self, work: &Work) -> Result<Child, String> {
        let mut command = Command::new(&self.program);
        match work.state {
            State::Absent => {
                command.arg("run").arg(&work.file).arg("--out").arg(&work.dir).args(&work.overrides);
            }
            State::Begun | State::Finished => {
                command.arg("resume").arg(&work.dir);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        // under the lock: nothing begins after a stop
        let mut running = self.running();
        if running.stopped {
            return Err("stopped".to_owned());
        }
        let child = command.spawn().map_err(|e| format!("cannot start {}: {e}", self.program.display()))?;
        running.children.push(Pid::from_child(&child));
        Ok(child)
    }
}
