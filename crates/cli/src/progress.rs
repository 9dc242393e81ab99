//! What a user sees while a run works: a bar with the thing it waits for in a terminal, one plain line a round elsewhere.
//! Everything goes to standard error, so that standard output stays for results.
#![allow(clippy::print_stderr, reason = "the terminal is the binary's")]

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress goes.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    plain: bool,
    /// Clients at work now, ascending: what the run waits for.
    waiting: Mutex<Vec<u64>>,
    start: Instant,
}

impl Progress {
    /// A bar over `rounds` in a terminal, lines elsewhere, nothing when `quiet`.
    pub(crate) fn new(rounds: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::new(rounds);
            let style = ProgressStyle::with_template("{bar:24} round {pos}/{len} [{elapsed}<{eta}] {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, plain: !terminal && !quiet, waiting: Mutex::new(Vec::new()), start: Instant::now() }
    }

    /// Something that is neither a round nor a client.
    pub(crate) fn stage(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        } else if self.plain {
            eprintln!("{text}");
        }
    }

    /// A line that stays.
    pub(crate) fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.suspend(|| eprintln!("{text}"));
        } else if self.plain {
            eprintln!("{text}");
        }
    }

    /// A client began its local work.
    pub(crate) fn client_started(&self, client: u64) {
        self.update(|w| {
            let at = w.partition_point(|c| *c < client);
            w.insert(at, client);
        });
    }

    /// A client ended its local work.
    pub(crate) fn client_done(&self, client: u64) {
        self.update(|w| w.retain(|c| *c != client));
    }

    fn update(&self, change: impl FnOnce(&mut Vec<u64>)) {
        let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut waiting);
        if let Some(bar) = &self.bar {
            bar.set_message(waiting_for(&waiting));
        }
    }

    /// A round is closed; `line` says how it went.
    pub(crate) fn round_closed(&self, done: u64, rounds: u64, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_length(rounds);
            bar.suspend(|| eprintln!("{line}"));
        } else if self.plain {
            let spent = self.start.elapsed().as_secs_f64();
            let left = spent / done.max(1) as f64 * rounds.saturating_sub(done) as f64;
            eprintln!("{line}  eta {}", seconds(left));
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Progress of a study: a bar over its runs with what the newest of them says, lines elsewhere.
#[derive(Debug)]
pub(crate) struct StudyProgress {
    bar: Option<ProgressBar>,
    plain: bool,
    cells: u64,
    ended: AtomicU64,
}

impl StudyProgress {
    /// Over `cells` runs, of which `ended` have; nothing when `quiet`.
    pub(crate) fn new(cells: usize, ended: usize, quiet: bool) -> Self {
        let (cells, ended) = (cells as u64, ended as u64);
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::new(cells).with_position(ended);
            let style = ProgressStyle::with_template("{bar:24} run {pos}/{len} [{elapsed}] {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, plain: !terminal && !quiet, cells, ended: AtomicU64::new(ended) }
    }

    /// A line that stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprint!("{text}")),
            None if self.plain => eprint!("{text}"),
            None => {}
        }
    }

    /// A run begins, or goes on.
    pub(crate) fn begins(&self, name: &str, again: bool) {
        let what = if again { "goes on" } else { "begins" };
        match &self.bar {
            Some(bar) => bar.set_message(format!("{name} {what}")),
            None if self.plain => eprintln!("{name} {what}"),
            None => {}
        }
    }

    /// A run says what it does.
    pub(crate) fn says(&self, name: &str, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{name}: {line}"));
        }
    }

    /// A run has ended; `left` seconds remain for all.
    pub(crate) fn ends(&self, name: &str, line: &str, left: Option<f64>) {
        let n = 1 + self.ended.fetch_add(1, Ordering::Relaxed);
        let eta = left.filter(|s| *s > 0.0).map(|s| format!("; about {} left", seconds(s)));
        let text = format!("{name}: {line}{}", eta.unwrap_or_default());
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                bar.suspend(|| eprintln!("{text}"));
            }
            None if self.plain => eprintln!("[{n}/{}] {text}", self.cells),
            None => {}
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `training clients 3, 7 and 2 more`.
fn waiting_for(clients: &[u64]) -> String {
    match clients {
        [] => "closing the round".to_owned(),
        [one] => format!("waiting for client {one}"),
        many => {
            let shown: Vec<String> = many.iter().take(4).map(u64::to_string).collect();
            let rest = many.len() - shown.len();
            let tail = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            format!("waiting for clients {}{tail}", shown.join(", "))
        }
    }
}

/// `42 s`, `3 min 10 s`, `2 h 5 min`.
pub(crate) fn seconds(s: f64) -> String {
    let whole = s.round() as u64;
    match whole {
        0..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `512 B`, `9.0 kB`, `14.7 MB`: decimal units.
pub(crate) fn bytes(n: u64) -> String {
    let value = n as f64;
    match n {
        0..=999 => format!("{n} B"),
        1_000..=999_999 => format!("{:.1} kB", value / 1e3),
        1_000_000..=999_999_999 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_what_it_waits_for() {
        assert_eq!(waiting_for(&[]), "closing the round");
        assert_eq!(waiting_for(&[3]), "waiting for client 3");
        assert_eq!(waiting_for(&[1, 2, 3, 4, 5, 6]), "waiting for clients 1, 2, 3, 4 and 2 more");
    }

    #[test]
    fn units_are_read_by_people() {
        assert_eq!(seconds(190.0), "3 min 10 s");
        assert_eq!(bytes(14_720_000), "14.7 MB");
    }
}
