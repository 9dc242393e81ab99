//! A client's own learning rate (FedMeZO, Ling et al. 2024, arXiv:2402.05926, the personalised strategy by losses, in the form of
//! its code):
//!
//! ```text
//! lr_i = lr + s · clamp((l_i − mean_j l_j) / max_j |l_j − mean|, −1, 1)
//! ```
//!
//! with `l_i` the mean training loss of client `i` over its last `n` rounds: `n = 1` is the paper's round-wise rate, `n = 5` its
//! five-round one. Who is behind the others takes longer steps. Mean and greatest deviation are those over the clients of the
//! round before, whom a client that sat out is not among: hence the clamp. A client that has trained in no round yet, or is told
//! nothing, takes `lr`.
//!
//! Deliberately missing: rates by the norm of a client's last update, and random ones, which the paper finds worse.

use antiphon_algo::Losses;
use antiphon_core::{ConfigError, Round};
use serde::{Deserialize, Serialize};

use crate::settings::expect;

/// `[train] personalized_lr`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonalizedLr {
    /// `s`: how far a client's rate may be from `learning_rate`, which is more than this.
    pub spread: f64,
    /// `n`: rounds of its own over which a client's loss is averaged.
    #[serde(default = "one")]
    pub rounds: u32,
}

fn one() -> u32 {
    1
}

/// Most rounds of losses that a client keeps.
const MOST: u32 = 100;

impl PersonalizedLr {
    pub(crate) fn check(self, learning_rate: f64) -> Result<Self, ConfigError> {
        let (id, spread) = ("train.personalized_lr", self.spread);
        let fits = spread > 0.0 && spread < learning_rate;
        expect(id, "spread", spread, "above 0 and below `train.learning_rate`", fits)?;
        expect(id, "rounds", f64::from(self.rounds), "1 to 100", (1..=MOST).contains(&self.rounds))?;
        Ok(self)
    }

    /// `lr_i` of a client whose loss was `own`, where the others' were `told`.
    #[must_use]
    pub fn rate(&self, learning_rate: f64, own: Option<f64>, told: Option<Losses>) -> f64 {
        let share = match (own, told) {
            (Some(own), Some(told)) if told.greatest > 0.0 => (own - told.mean) / told.greatest,
            _ => 0.0,
        };
        learning_rate + self.spread * share.clamp(-1.0, 1.0)
    }
}

/// A client's losses of past rounds, the last ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Past(Vec<(Round, f64)>);

impl Past {
    /// Mean over the last `rounds` before `round`, as they count for work in `round`.
    pub(crate) fn before(&self, round: Round, rounds: u32) -> Option<f64> {
        let mut last = self.0.iter().rev().filter(|(r, _)| *r < round).take(rounds as usize).peekable();
        last.peek()?;
        let (sum, n) = last.fold((0.0, 0.0), |(sum, n), (_, loss)| (sum + loss, n + 1.0));
        Some(sum / n)
    }

    /// Keeps the loss of `round`, and of those before it as many as a repetition of `round` needs.
    pub(crate) fn note(&mut self, round: Round, loss: f64, rounds: u32) {
        self.0.retain(|(r, _)| *r < round);
        self.0.push((round, loss));
        let surplus = self.0.len().saturating_sub(rounds as usize + 1);
        self.0.drain(..surplus);
    }

    /// As if `round` had not been.
    pub(crate) fn forget(&mut self, round: Round) {
        self.0.retain(|(r, _)| *r != round);
    }

    /// The last round and 12 bytes for each: its number and its loss, little-endian.
    pub(crate) fn to_bytes(&self) -> Option<(Round, Vec<u8>)> {
        let (last, _) = self.0.last()?;
        let one = |(round, loss): &(Round, f64)| [&round.0.to_le_bytes()[..], &loss.to_le_bytes()].concat();
        Some((*last, self.0.iter().flat_map(one).collect()))
    }

    /// Undoes [`Self::to_bytes`]; `None` for other bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (each, rest) = bytes.as_chunks::<12>();
        let one = |b: &[u8; 12]| {
            let (round, loss) = b.split_first_chunk::<4>()?;
            let loss = f64::from_le_bytes(*loss.first_chunk()?);
            loss.is_finite().then_some((Round(u32::from_le_bytes(*round)), loss))
        };
        let past = each.iter().map(one).collect::<Option<Vec<_>>>()?;
        (rest.is_empty() && past.is_sorted_by(|a, b| a.0 < b.0)).then_some(Self(past))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_formula() {
        let p = PersonalizedLr { spread: 2e-4, rounds: 1 };
        let losses = [0.5, 0.7, 1.5];
        let mean = 0.9;
        let told = Some(Losses { mean, greatest: 0.6 });
        let rate = |own| p.rate(5e-4, own, told);
        for (loss, expected) in losses.iter().zip([
            5e-4 + 2e-4 * (0.5 - 0.9) / 0.6,
            5e-4 + 2e-4 * (0.7 - 0.9) / 0.6,
            // who is farthest behind takes the whole spread
            7e-4,
        ]) {
            assert!((rate(Some(*loss)) - expected).abs() < 1e-18, "{loss}");
        }
        // the mean over the clients that were told stays the rate
        let sum: f64 = losses.iter().map(|l| rate(Some(*l))).sum();
        assert!((sum / 3.0 - 5e-4).abs() < 1e-18);
        // who sat out is not among them
        for (own, expected) in [(9.0, 7e-4), (-9.0, 3e-4)] {
            assert!((rate(Some(own)) - expected).abs() < 1e-18, "{own}");
        }
        for (own, told) in
            [(None, told), (Some(1.0), None), (Some(1.0), Some(Losses { mean, greatest: 0.0 }))]
        {
            assert_eq!(p.rate(5e-4, own, told), 5e-4);
        }
    }

    #[test]
    fn a_round_can_be_repeated_from_what_was_before_it() {
        let mut past = Past::default();
        assert_eq!(past.before(Round(3), 2), None);
        for (round, loss) in [(0, 1.0), (2, 2.0), (3, 4.0), (7, 8.0)] {
            past.note(Round(round), loss, 2);
        }
        assert_eq!((past.before(Round(8), 2), past.before(Round(8), 1)), (Some(6.0), Some(8.0)));
        assert_eq!(past.before(Round(7), 2), Some(3.0));
        let (last, bytes) = past.to_bytes().unwrap();
        assert_eq!((last, bytes.len()), (Round(7), 36));
        assert_eq!(Past::from_bytes(&bytes), Some(past.clone()));
        assert_eq!((Past::from_bytes(&bytes[1..]), Past::from_bytes(&[0xff; 12])), (None, None));
        let mut again = past.clone();
        again.note(Round(7), 8.0, 2);
        assert_eq!(again, past);
        past.forget(Round(7));
        assert_eq!(past.before(Round(8), 2), Some(3.0));
    }
}
