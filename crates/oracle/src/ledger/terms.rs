//! What may be spent, and what things cost.

use serde::{Deserialize, Serialize};

use crate::answer::Usage;
use crate::error::OracleError;

/// Under what a ledger is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What may be spent.
    pub limits: Limits,
    /// What things cost.
    pub prices: Prices,
    /// Whether a reservation outlives a loss of power, not only the death of the process. Costs a synchronous write each.
    pub durable: bool,
}

impl Terms {
    /// No limits, no prices, not synchronous: for oracles that cost only time.
    pub const FREE: Self = Self { limits: Limits::NONE, prices: Prices::NONE, durable: false };
}

/// Upper limits; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests.
    pub calls: Option<u64>,
    /// Examples evaluated.
    pub examples: Option<u64>,
    /// Tokens sent.
    pub prompt_tokens: Option<u64>,
    /// Tokens generated.
    pub completion_tokens: Option<u64>,
    /// Money, in millionths.
    pub micros: Option<u64>,
}

impl Limits {
    /// Nothing is limited.
    pub const NONE: Self =
        Self { calls: None, examples: None, prompt_tokens: None, completion_tokens: None, micros: None };

    /// The lower of each: what a run asks for never widens what the site allows.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let lower = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            calls: lower(self.calls, other.calls),
            examples: lower(self.examples, other.examples),
            prompt_tokens: lower(self.prompt_tokens, other.prompt_tokens),
            completion_tokens: lower(self.completion_tokens, other.completion_tokens),
            micros: lower(self.micros, other.micros),
        }
    }

    /// Refuses `more` if, after `before`, it passes a limit that it counts towards.
    pub fn admit(&self, before: Usage, more: Usage) -> Result<(), OracleError> {
        let lines = [
            ("calls", self.calls, before.calls, more.calls),
            ("examples", self.examples, before.examples, more.examples),
            ("prompt tokens", self.prompt_tokens, before.prompt_tokens, more.prompt_tokens),
            ("completion tokens", self.completion_tokens, before.completion_tokens, more.completion_tokens),
            ("millionths of money", self.micros, before.micros, more.micros),
        ];
        for (what, limit, spent, needs) in lines {
            if let Some(limit) = limit
                && needs > 0
                && spent.saturating_add(needs) > limit
            {
                return Err(OracleError::Budget { what, spent, limit, needs });
            }
        }
        Ok(())
    }
}

/// Prices in millionths of the currency: at 0.15 a million tokens, `prompt_million` is 150 000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// Of one request.
    pub call: u64,
    /// Of a million tokens sent.
    pub prompt_million: u64,
    /// Of a million tokens generated.
    pub completion_million: u64,
}

impl Prices {
    /// Everything is free.
    pub const NONE: Self = Self { call: 0, prompt_million: 0, completion_million: 0 };

    /// `usage` with its price added to what it already carries, rounded up.
    #[must_use]
    pub fn priced(&self, usage: Usage) -> Usage {
        let tokens = u128::from(usage.prompt_tokens) * u128::from(self.prompt_million)
            + u128::from(usage.completion_tokens) * u128::from(self.completion_million);
        let cost = u128::from(usage.calls) * u128::from(self.call) + tokens.div_ceil(1_000_000);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        Usage { micros: usage.micros.saturating_add(cost), ..usage }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_site_wins_over_what_is_asked() {
        let site = Limits { examples: Some(100), micros: Some(5), ..Limits::NONE };
        let asked = Limits { examples: Some(1000), calls: Some(7), micros: Some(2), ..Limits::NONE };
        let both = site.tighter(asked);
        assert_eq!(
            (both.examples, both.calls, both.micros, both.prompt_tokens),
            (Some(100), Some(7), Some(2), None)
        );
    }

    #[test]
    fn money_is_rounded_up_and_never_wraps() {
        let prices = Prices { call: 10, prompt_million: 150_000, completion_million: 600_000 };
        let used = Usage { calls: 2, prompt_tokens: 1000, completion_tokens: 1, ..Usage::ZERO };
        // 20 + (150 000 000 + 600 000) / 1 000 000 = 20 + 150.6
        assert_eq!(prices.priced(used).micros, 171);
        let much = Usage { prompt_tokens: u64::MAX, ..Usage::ZERO };
        assert_eq!(Prices { prompt_million: u64::MAX, ..prices }.priced(much).micros, u64::MAX);
    }
}
