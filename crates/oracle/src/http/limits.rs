//! When a request may leave: a token bucket against too many, a breaker against asking in vain. Time is an argument.

use std::time::Duration;

/// `rate` tokens a second flow in, up to `burst`; a request takes one.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    pub(super) fn new((rate, burst): (f64, u32)) -> Self {
        let burst = f64::from(burst.max(1));
        Self { rate: rate.max(1e-4), burst, tokens: burst, at: Duration::ZERO }
    }

    /// Takes a token, owed if there is none, and says how long to wait for it.
    pub(super) fn take(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.burst) - 1.0;
        Duration::from_secs_f64((-self.tokens).max(0.0) / self.rate)
    }
}

/// Opens after `limit` failures in a row, of requests or of whole batches; after `pause` one request may try, and its fate is
/// everybody's.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    limit: u32,
    pause: Duration,
    failures: u32,
    /// Batches in a row of which nothing was answered.
    batches: u32,
    closed_until: Option<Duration>,
    last: String,
}

impl Breaker {
    pub(super) fn new((limit, pause): (u32, Duration)) -> Self {
        Self { limit: limit.max(1), pause, failures: 0, batches: 0, closed_until: None, last: String::new() }
    }

    /// Whether a request may leave. While the endpoint is left alone, one may after each pause.
    pub(super) fn admits(&mut self, now: Duration) -> bool {
        match self.closed_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.closed_until = Some(now + self.pause);
                true
            }
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.closed_until = None;
    }

    pub(super) fn failed(&mut self, now: Duration, why: String) {
        self.failures = self.failures.saturating_add(1);
        self.last = why;
        if self.failures >= self.limit {
            self.closed_until = Some(now + self.pause);
        }
    }

    pub(super) fn batch_succeeded(&mut self) {
        self.batches = 0;
    }

    /// Its requests may each have been answered, by an answer that was of no use.
    pub(super) fn batch_failed(&mut self, now: Duration, why: String) {
        self.batches = self.batches.saturating_add(1);
        if self.batches >= self.limit {
            self.last = why;
            self.closed_until = Some(now + self.pause);
        }
    }

    /// How many failures and the last one's reason, while the endpoint is left alone.
    pub(super) fn down(&self, now: Duration) -> Option<(u32, String)> {
        self.closed_until
            .filter(|until| now < *until)
            .map(|_| (self.failures.max(self.batches), self.last.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_bucket_lets_through_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new((10.0, 2));
        let waits: Vec<u64> = (0..4).map(|_| bucket.take(MS(0)).as_millis() as u64).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
        assert_eq!(bucket.take(MS(10_000)), MS(0), "a pause fills it");
        let total: Duration = (0..100).map(|_| bucket.take(MS(10_000))).max().unwrap();
        assert!(
            (total.as_secs_f64() - 9.9).abs() < 1e-6,
            "{total:?}: 101 requests at 10 a second after a burst of 2"
        );
    }

    #[test]
    fn a_breaker_opens_when_one_batch_after_the_other_comes_to_nothing() {
        let mut b = Breaker::new((4, MS(100)));
        for at in 0..5 {
            b.batch_failed(MS(at), "refused".into());
            b.succeeded();
            if at == 1 {
                b.batch_succeeded();
            }
            assert!(b.down(MS(at)).is_none());
        }
        b.batch_failed(MS(5), "refused".into());
        assert_eq!(b.down(MS(6)), Some((4, "refused".into())));
    }

    #[test]
    fn a_breaker_opens_tries_once_and_closes() {
        let mut b = Breaker::new((2, MS(100)));
        b.failed(MS(0), "a".into());
        assert!(b.admits(MS(1)));
        b.succeeded();
        b.failed(MS(2), "b".into());
        b.failed(MS(3), "c".into());
        assert_eq!(b.down(MS(4)), Some((2, "c".into())));
        assert!(!b.admits(MS(102)) && b.admits(MS(103)) && !b.admits(MS(104)), "one request tries");
        b.failed(MS(110), "d".into());
        assert!(!b.admits(MS(209)) && b.admits(MS(210)));
        b.succeeded();
        assert!(b.admits(MS(211)) && b.admits(MS(211)) && b.down(MS(211)).is_none());
    }
}
