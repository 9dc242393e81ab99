//! How rounds are run: the `[federation]` section of a run file.

use serde::{Deserialize, Serialize};

/// Settings of the round machine. There are no defaults: a run file says what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Rounds in all.
    pub num_rounds: u32,
    /// Part of the joined clients selected for a round, in `(0, 1]`: the `C` of McMahan et al. 2017,
    /// arXiv:1602.05629. Of `n` clients, `max(round(C n), min_clients)` are drawn without replacement.
    pub fraction: f64,
    /// Fewest clients selected, and fewest updates that make a round.
    pub min_clients: usize,
    /// A round closes this long after it opened with the answers it has; absent: it waits for all.
    pub round_deadline_ms: Option<u64>,
    /// The first round opens this long after the start with the clients it has; absent: it waits for all.
    pub join_deadline_ms: Option<u64>,
    /// How often one round may be tried before the run gives up, `>= 1`. Each attempt draws a new cohort.
    pub round_attempts: u32,
    /// For small parameters: those of so many past rounds are kept, so that a client which has them is sent only what changed
    /// since, and updates travel without their zeros. Beyond them, and after a restart, a client is sent the whole. 0: always
    /// the whole.
    pub history: usize,
}

/// A policy that cannot be run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Outside `(0, 1]`.
    #[error("`fraction = {0}` is not in (0, 1]")]
    Fraction(f64),
    /// Zero where at least one is needed.
    #[error("`{0} = 0`, expected at least 1")]
    Zero(&'static str),
    /// More than there are.
    #[error("`min_clients = {min_clients}`, but there are {clients} clients")]
    MinClients {
        /// Asked for.
        min_clients: usize,
        /// On the roster.
        clients: usize,
    },
    /// A client twice on the roster.
    #[error("{0} is on the roster twice")]
    Twice(antiphon_core::ClientId),
    /// Parameters of another length than the schema's.
    #[error("the parameters have {found} bytes, the schema {expected}")]
    Theta {
        /// Of the schema.
        expected: usize,
        /// Given.
        found: usize,
    },
}

impl Policy {
    /// Errors where the settings make no sense with `clients` clients.
    pub fn check(&self, clients: usize) -> Result<(), PolicyError> {
        if !(self.fraction > 0.0 && self.fraction <= 1.0) {
            return Err(PolicyError::Fraction(self.fraction));
        }
        if self.min_clients == 0 {
            return Err(PolicyError::Zero("min_clients"));
        }
        if self.round_attempts == 0 {
            return Err(PolicyError::Zero("round_attempts"));
        }
        if self.min_clients > clients {
            return Err(PolicyError::MinClients { min_clients: self.min_clients, clients });
        }
        Ok(())
    }

    /// How many of `joined` clients are selected. Rounded, because `0.29 * 100` is below 29 in binary.
    #[must_use]
    pub fn cohort_size(&self, joined: usize) -> usize {
        ((self.fraction * joined as f64).round() as usize).max(self.min_clients).min(joined)
    }
}
