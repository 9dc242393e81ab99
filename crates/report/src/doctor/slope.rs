//! Loss against queries: a straight line and how sure it is.

use std::collections::BTreeMap;

use antiphon_core::ClientId;

use super::Run;
use crate::record::RoundRecord;

/// Points below which nothing is said of a slope.
const FEWEST: usize = 6;

/// A slope in nats per thousand queries, with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slope {
    pub(super) per_thousand: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) points: usize,
    /// Of held-out data; else of what clients tried.
    pub(super) held_out: bool,
}

impl Slope {
    /// The loss may as well not be falling.
    pub(super) fn may_be_flat(&self) -> bool {
        self.high >= 0.0
    }
}

/// Examples that a search has used by the end of each round, cached ones included; `None` for training by gradients.
pub(super) fn asked(rounds: &[RoundRecord]) -> Option<Vec<f64>> {
    let mut sum = 0;
    rounds
        .iter()
        .map(|r| {
            sum += r.spent?.queries();
            Some(sum as f64)
        })
        .collect()
}

/// The slope of the held-out loss where it was evaluated often enough, else of what each client tried against its own mean:
/// clients differ by more than a round gains.
pub(super) fn slope(run: &Run<'_>) -> Option<Slope> {
    let asked = asked(run.rounds)?;
    let rounds = || run.rounds.iter().zip(&asked);
    let finite = |v: Option<f64>| v.filter(|v| v.is_finite());
    let held: Vec<(f64, f64)> =
        rounds().filter_map(|(r, x)| Some((*x, finite(r.eval.as_ref()?.global.loss)?))).collect();
    if held.len() >= FEWEST {
        return line(&[held], true);
    }
    let mut own: BTreeMap<ClientId, Vec<(f64, f64)>> = BTreeMap::new();
    for (r, x) in rounds() {
        for c in &r.clients {
            if let Some(loss) = finite(c.train_loss) {
                own.entry(c.client).or_default().push((*x, loss));
            }
        }
    }
    line(&own.into_values().collect::<Vec<_>>(), false)
}

/// Least squares with one slope and an own level for each group.
fn line(groups: &[Vec<(f64, f64)>], held_out: bool) -> Option<Slope> {
    let mut centred = Vec::new();
    for group in groups.iter().filter(|g| g.len() > 1) {
        let n = group.len() as f64;
        let (mx, my) =
            (group.iter().map(|p| p.0).sum::<f64>() / n, group.iter().map(|p| p.1).sum::<f64>() / n);
        centred.extend(group.iter().map(|(x, y)| ((x - mx) / 1000.0, y - my)));
    }
    let levels = groups.iter().filter(|g| g.len() > 1).count();
    let freedom = centred.len().checked_sub(levels + 1).filter(|f| *f + 2 >= FEWEST)? as f64;
    let sxx: f64 = centred.iter().map(|p| p.0 * p.0).sum();
    if sxx <= 0.0 {
        return None;
    }
    let b = centred.iter().map(|p| p.0 * p.1).sum::<f64>() / sxx;
    let rest: f64 = centred.iter().map(|p| (p.1 - b * p.0).powi(2)).sum();
    // Student's t at 97.5 %, within 0.02 for 4 degrees of freedom and more
    let t = 1.96 + 2.5 / freedom + 3.0 / (freedom * freedom);
    let half = t * (rest / freedom / sxx).sqrt();
    Some(Slope { per_thousand: b, low: b - half, high: b + half, points: centred.len(), held_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_points_and_its_interval() {
        let at = |f: fn(f64) -> f64| -> Vec<(f64, f64)> {
            (0..8).map(|i| (f64::from(i) * 500.0, f(f64::from(i)))).collect()
        };
        let exact = line(&[at(|i| 3.0 - 0.25 * i)], true).unwrap();
        assert!(
            (exact.per_thousand + 0.5).abs() < 1e-12 && exact.high - exact.low < 1e-9 && !exact.may_be_flat()
        );
        let flat = line(&[at(|i| if (i as u32).is_multiple_of(2) { 1.0 } else { 1.1 })], true).unwrap();
        assert!(flat.may_be_flat() && flat.low < 0.0, "{flat:?}");
        // by hand: Sxx = 10.5, Sxy = 0.1, residuals 0.02 - 0.1²/10.5 over 6 degrees of freedom, t = 2.447
        assert!((flat.per_thousand - 0.1 / 10.5).abs() < 1e-12, "{flat:?}");
        let half = 2.447 * ((0.02 - 0.01 / 10.5) / 6.0 / 10.5_f64).sqrt();
        assert!((flat.high - flat.per_thousand - half).abs() < 1e-2 * half, "{flat:?} {half}");
        // two clients of other difficulty, each falling
        let two = line(&[at(|i| 9.0 - 0.1 * i), at(|i| 1.0 - 0.1 * i)], false).unwrap();
        assert!((two.per_thousand + 0.2).abs() < 1e-12 && !two.may_be_flat());
        assert_eq!(line(&[at(|i| i)[..4].to_vec()], true), None);
    }
}
