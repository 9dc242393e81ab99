//! Learning-rate schedules: a factor of the peak rate at a position of the federated run.
//!
//! A federated run has two clocks, rounds and the local steps inside a round. A schedule names the one it follows
//! (`over`); restarting a decay every round by accident is the common mistake, so there is no default. With `t` the
//! position and `T` the length on that clock:
//!
//! | `over` | `t` | `T` |
//! |---|---|---|
//! | `rounds` | round | rounds |
//! | `run` | round · steps + step | rounds · steps |
//! | `round` | step | steps |
//!
//! Warm-up lasts `w` positions: `factor = (t + 1) / (w + 1)` for `t < w`, which is transformers' ramp without its first
//! step at rate zero (a whole round at rate zero would send nothing). From `t = w` on the factor is exactly that
//! of transformers' schedule of the same name, with progress `p = (t - w) / max(1, T - w)`.

mod constant;
mod cosine;
mod linear;

use std::fmt;

use antiphon_core::{ConfigError, Entry, registry};
use serde::{Deserialize, Serialize};

/// Every schedule.
pub const SCHEDULES: &[&Entry<dyn Schedule>] = &[&constant::ENTRY, &linear::ENTRY, &cosine::ENTRY];

/// The schedule that `table["id"]` names.
pub fn build(table: &toml::Table) -> Result<Box<dyn Schedule>, ConfigError> {
    registry::build("lr_scheduler", SCHEDULES, table)
}

/// Where in the run a local step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Zero-based round.
    pub round: u32,
    /// Rounds of the run.
    pub rounds: u32,
    /// Zero-based optimiser step of this client in this round.
    pub step: u32,
    /// Optimiser steps of this client in a round.
    pub steps: u32,
}

/// A shape of the learning rate over time. A pure function of the position, so a resumed run needs no state.
pub trait Schedule: fmt::Debug + Send + Sync {
    /// Multiplies the peak learning rate; in `[0, 1]`, also past the end of the run.
    fn factor(&self, at: Position) -> f64;
    /// The complete table that builds this schedule, defaults written out.
    fn settings(&self) -> Result<toml::Table, toml::ser::Error>;
}

/// The clock that a schedule follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// Rounds; constant inside a round.
    Rounds,
    /// Local steps, counted through the whole run.
    Run,
    /// Local steps of one round, from the start again in each.
    Round,
}

/// Warm-up as the run file gives it; at most one is set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct WarmupKeys {
    rounds: Option<u32>,
    steps: Option<u32>,
    ratio: Option<f64>,
}

/// Length of the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Warmup {
    /// Positions on the clock.
    Positions(u32),
    /// A share of the clock's length, rounded up.
    Ratio(f64),
}

/// A clock with a ramp at its start.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Clock {
    over: Over,
    warmup: Warmup,
}

/// Where a position falls on a clock.
enum Phase {
    /// In the ramp, at this factor.
    Ramp(f64),
    /// After it; progress in `[0, 1]`.
    Decay(f64),
}

impl Clock {
    fn new(id: &str, over: Over, keys: WarmupKeys) -> Result<Self, ConfigError> {
        let bad = |reason: String| Err(ConfigError::Invalid { id: id.to_owned(), reason });
        let warmup = match (keys.rounds, keys.steps, keys.ratio) {
            (None, None, None) => Warmup::Positions(0),
            (Some(w), None, None) if over == Over::Rounds => Warmup::Positions(w),
            (Some(_), None, None) => {
                return bad(
                    "`warmup_rounds` goes with `over = \"rounds\"`; here use `warmup_steps`".to_owned()
                );
            }
            (None, Some(w), None) if over != Over::Rounds => Warmup::Positions(w),
            (None, Some(_), None) => {
                return bad(
                    "`warmup_steps` goes with `over = \"run\"` or `\"round\"`; here use `warmup_rounds`"
                        .to_owned(),
                );
            }
            (None, None, Some(r)) if (0.0..1.0).contains(&r) => Warmup::Ratio(r),
            (None, None, Some(r)) => {
                return bad(format!("`warmup_ratio` is {r}; expected 0 or more and below 1"));
            }
            _ => {
                return bad(
                    "give one of `warmup_rounds`, `warmup_steps` and `warmup_ratio`, not several".to_owned()
                );
            }
        };
        Ok(Self { over, warmup })
    }

    fn phase(self, at: Position) -> Phase {
        let (round, rounds) = (f64::from(at.round), f64::from(at.rounds));
        let (step, steps) = (f64::from(at.step), f64::from(at.steps));
        let (t, total) = match self.over {
            Over::Rounds => (round, rounds),
            Over::Run => (round * steps + step, rounds * steps),
            Over::Round => (step, steps),
        };
        let w = match self.warmup {
            Warmup::Positions(w) => f64::from(w),
            Warmup::Ratio(r) => (r * total).ceil(),
        };
        if t < w {
            return Phase::Ramp((t + 1.0) / (w + 1.0));
        }
        Phase::Decay(((t - w) / (total - w).max(1.0)).clamp(0.0, 1.0))
    }
}

/// Settings of a schedule that decays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decay {
    /// The clock: `rounds`, `run` or `round`.
    over: Over,
    /// Rounds of linear warm-up; with `over = "rounds"`.
    warmup_rounds: Option<u32>,
    /// Local steps of linear warm-up; with `over = "run"` or `"round"`.
    warmup_steps: Option<u32>,
    /// Warm-up as a share of the clock's length.
    warmup_ratio: Option<f64>,
    /// Where the decay ends, as a share of the peak rate.
    #[serde(default)]
    min_ratio: f64,
}

impl Decay {
    fn clock(&self, id: &str) -> Result<Clock, ConfigError> {
        if !(0.0..=1.0).contains(&self.min_ratio) {
            let reason = format!("`min_ratio` is {}; expected a share between 0 and 1", self.min_ratio);
            return Err(ConfigError::Invalid { id: id.to_owned(), reason });
        }
        let keys =
            WarmupKeys { rounds: self.warmup_rounds, steps: self.warmup_steps, ratio: self.warmup_ratio };
        Clock::new(id, self.over, keys)
    }

    /// `curve` maps progress to a factor that falls from 1 to 0.
    fn factor(&self, clock: Clock, at: Position, curve: impl Fn(f64) -> f64) -> f64 {
        match clock.phase(at) {
            Phase::Ramp(f) => f,
            Phase::Decay(p) => self.min_ratio + (1.0 - self.min_ratio) * curve(p),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Box<dyn Schedule>, ConfigError> {
        build(&text.parse().unwrap())
    }

    fn curve(text: &str, rounds: u32, steps: u32) -> Vec<f64> {
        let s = parse(text).unwrap();
        (0..rounds)
            .flat_map(|round| (0..steps).map(move |step| Position { round, rounds, step, steps }))
            .map(|at| s.factor(at))
            .collect()
    }

    #[test]
    fn the_clock_decides_what_restarts() {
        assert_eq!(curve("id = 'linear'\nover = 'rounds'", 2, 2), [1.0, 1.0, 0.5, 0.5]);
        assert_eq!(curve("id = 'linear'\nover = 'run'", 2, 2), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(curve("id = 'linear'\nover = 'round'", 2, 2), [1.0, 0.5, 1.0, 0.5]);
    }

    #[test]
    fn warm_up_starts_above_zero_and_decay_ends_at_the_floor() {
        let f = curve("id = 'cosine'\nover = 'round'\nwarmup_steps = 3\nmin_ratio = 0.1", 1, 8);
        assert_eq!(f[..4], [0.25, 0.5, 0.75, 1.0]);
        let past = parse("id = 'cosine'\nover = 'rounds'\nmin_ratio = 0.1").unwrap();
        let end = past.factor(Position { round: 99, rounds: 10, step: 0, steps: 1 });
        assert!((end - 0.1).abs() < 1e-12, "{end}");
    }

    /// Law over the registry: a factor, a pure function of the position, and settings that build the same schedule.
    #[test]
    fn every_schedule_is_a_factor_and_survives_its_settings() {
        for entry in SCHEDULES {
            let table = format!("id = '{}'\nover = 'run'\nwarmup_steps = 2", entry.id).parse().unwrap();
            let a = build(&table).unwrap();
            let b = build(&a.settings().unwrap()).unwrap();
            assert_eq!(b.settings().unwrap(), a.settings().unwrap(), "{}", entry.id);
            for round in 0..4 {
                for step in 0..5 {
                    let at = Position { round, rounds: 3, step, steps: 5 };
                    assert!((0.0..=1.0).contains(&a.factor(at)), "{} at {at:?}", entry.id);
                    assert_eq!(a.factor(at).to_bits(), b.factor(at).to_bits());
                }
            }
        }
    }

    #[test]
    fn the_wrong_unit_of_warm_up_is_refused_with_the_right_one() {
        let e = |t: &str| parse(t).unwrap_err().to_string();
        assert!(e("id='cosine'\nover='rounds'\nwarmup_steps=3").contains("use `warmup_rounds`"));
        assert!(e("id='linear'\nover='run'\nwarmup_rounds=3").contains("use `warmup_steps`"));
        assert!(e("id='linear'\nover='run'\nwarmup_steps=3\nwarmup_ratio=0.1").contains("not several"));
        assert!(e("id='linear'\nover='run'\nwarmup_ratio=1.0").contains("below 1"));
        assert!(e("id='cosine'\nover='run'\nmin_ratio=2").contains("between 0 and 1"));
        assert!(e("id='cosine'").contains("over"));
        assert!(e("id='constant'\nwarmup_steps=3").contains("over"));
        assert!(e("id='cosin'\nover='run'").contains("did you mean `cosine`"));
    }
}
