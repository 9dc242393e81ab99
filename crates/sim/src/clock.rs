//! Where the time comes from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use antiphon_core::Millis;

/// Time since the run began.
pub trait Clock: Sync {
    /// Now.
    fn now(&self) -> Millis;
    /// Returns at `then` or later.
    fn wait_until(&self, then: Millis);
}

/// Time that moves only when told to.
#[derive(Debug, Default)]
pub struct VirtualClock(AtomicU64);

impl VirtualClock {
    /// Moves the hand forward.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }

    fn wait_until(&self, then: Millis) {
        self.0.fetch_max(then.0, Ordering::SeqCst);
    }
}

/// The time of the machine.
#[derive(Debug)]
pub struct WallClock(Instant);

impl WallClock {
    /// A clock that shows `elapsed` now: zero for a new run, the last recorded time for a resumed one.
    #[must_use]
    pub fn starting_at(elapsed: Millis) -> Self {
        let now = Instant::now();
        Self(now.checked_sub(Duration::from_millis(elapsed.0)).unwrap_or(now))
    }
}

impl Clock for WallClock {
    fn now(&self) -> Millis {
        Millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn wait_until(&self, then: Millis) {
        std::thread::sleep(Duration::from_millis(then.0.saturating_sub(self.now().0)));
    }
}
