//! A fork-join pool for data-parallel loops inside one step.
//!
//! Tasks are claimed one at a time from a shared counter, because the machine is rarely ours alone: a thread that
//! loses its core delays one task and not a quarter of the loop. The caller works too. Nothing is allocated by
//! [`Pool::run`]; idle workers spin for some microseconds, which covers the gap between two loops of a step, and
//! then sleep.
//!
//! Deliberately missing: work stealing, futures, priorities. One loop runs at a time; a loop started while another
//! runs, by a task of that loop or by another thread, is run by its caller alone.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Polls of an idle worker before it sleeps: some 50 µs where a pause takes 100 cycles.
const SPINS: usize = 1500;

/// A loop body without its lifetime; see the safety notes at its two uses.
type Body = *const (dyn Fn(usize) + Sync);

/// Threads that share the tasks of one loop at a time.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; fewer if the system refuses to start them.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads.max(1))
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                let name = format!("antiphon-{i}");
                std::thread::Builder::new().name(name).spawn(move || shared.serve()).ok()
            })
            .collect();
        Self { shared, workers }
    }

    /// The caller alone.
    #[must_use]
    pub fn serial() -> Self {
        Self::new(1)
    }

    /// Number of threads, the caller's included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` once for each `i < tasks`, claimed in order of `i`, on any of the threads; returns when all
    /// are done.
    ///
    /// # Panics
    /// With the first panic of a task, after the others have ended.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || !self.shared.enter() {
            return (0..tasks).for_each(task);
        }
        let panic = self.shared.fork_join(tasks, task);
        self.shared.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake(usize::MAX);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks and has none of its own.
            let _ = worker.join();
        }
    }
}

/// Keeps neighbours off the cache line of a contended atomic (two lines: adjacent-line prefetch).
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// The loop that runs now.
struct Job {
    body: Option<Body>,
    tasks: usize,
}

/// What the threads of a pool share.
struct Shared {
    /// Written by the thread that holds `busy` while `unfinished` is zero; read by a thread that has claimed a task
    /// and not yet reported it.
    job: UnsafeCell<Job>,
    /// Tasks not yet claimed. It falls below zero when threads look in vain.
    unclaimed: Padded<AtomicIsize>,
    /// Tasks not yet reported done.
    unfinished: Padded<AtomicUsize>,
    /// A loop is running.
    busy: AtomicBool,
    stop: AtomicBool,
    /// Workers asleep on `work`.
    asleep: AtomicUsize,
    /// The caller is asleep on `done`.
    waiting: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Guards the sleeping of all threads, no data.
    gate: Mutex<()>,
    work: Condvar,
    done: Condvar,
}

// SAFETY: `job` is the only field that is not `Sync`, and its comment is the protocol that orders its accesses; the
// body it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed while the caller of `fork_join` keeps its target alive.
unsafe impl Send for Shared {}

impl Default for Shared {
    fn default() -> Self {
        Self {
            job: UnsafeCell::new(Job { body: None, tasks: 0 }),
            unclaimed: Padded::default(),
            unfinished: Padded::default(),
            busy: AtomicBool::default(),
            stop: AtomicBool::default(),
            asleep: AtomicUsize::default(),
            waiting: AtomicBool::default(),
            panic: Mutex::default(),
            gate: Mutex::default(),
            work: Condvar::default(),
            done: Condvar::default(),
        }
    }
}

impl Shared {
    /// Whether the calling thread now owns the pool.
    fn enter(&self) -> bool {
        self.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Runs one loop. The caller holds `busy`.
    fn fork_join(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Option<Box<dyn Any + Send>> {
        // SAFETY: only the lifetime changes. The pointer is followed by threads that hold an unreported task, and this
        // function returns when no task is unreported, so `task` outlives every use.
        let body = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Body>(task) };
        // SAFETY: we hold `busy` and no task is unreported, so no other thread looks at `job`.
        unsafe { *self.job.get() = Job { body: Some(body), tasks } };
        self.unfinished.0.store(tasks, Ordering::Relaxed);
        // Publishes `job` to whoever claims. `SeqCst` pairs with `sleep`: either we see the sleeper, or it sees the tasks.
        self.unclaimed.0.store(isize::try_from(tasks).unwrap_or(isize::MAX), Ordering::SeqCst);
        self.wake(tasks - 1);
        self.work();
        self.wait();
        lock(&self.panic).take()
    }

    /// Claims and runs tasks until none is left.
    fn work(&self) {
        let mut finished = 0;
        loop {
            let left = self.unclaimed.0.fetch_sub(1, Ordering::Acquire);
            if left <= 0 {
                break;
            }
            // SAFETY: we hold a claimed task of the published job, so `job` is not written until we report it, and its
            // body is alive.
            let (body, tasks) = unsafe {
                let job = &*self.job.get();
                (job.body.map(|body| &*body), job.tasks)
            };
            let Some(body) = body else { break };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(tasks - left.unsigned_abs()))) {
                lock(&self.panic).get_or_insert(payload);
            }
            finished += 1;
        }
        // `Release` hands the tasks' writes to the caller. The last report wakes it.
        let last = finished > 0 && self.unfinished.0.fetch_sub(finished, Ordering::SeqCst) == finished;
        if last && self.waiting.load(Ordering::SeqCst) {
            drop(lock(&self.gate));
            self.done.notify_one();
        }
    }

    /// Returns when every task is reported.
    fn wait(&self) {
        let pending = || self.unfinished.0.load(Ordering::SeqCst) != 0;
        if !spin_while(pending) {
            return;
        }
        self.waiting.store(true, Ordering::SeqCst);
        let mut guard = lock(&self.gate);
        while pending() {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// A worker's life.
    fn serve(&self) {
        let idle = || self.unclaimed.0.load(Ordering::Relaxed) <= 0 && !self.stop.load(Ordering::Relaxed);
        loop {
            if spin_while(idle) {
                self.sleep();
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            self.work();
        }
    }

    /// Blocks until there is work, or the end.
    fn sleep(&self) {
        let mut guard = lock(&self.gate);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while self.unclaimed.0.load(Ordering::SeqCst) <= 0 && !self.stop.load(Ordering::SeqCst) {
            guard = self.work.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes up to `workers` sleepers.
    fn wake(&self, workers: usize) {
        let asleep = self.asleep.load(Ordering::SeqCst);
        if asleep == 0 && workers != usize::MAX {
            return;
        }
        // The lock waits for a worker that has announced its sleep and does not wait on `work` yet.
        drop(lock(&self.gate));
        if workers >= asleep {
            self.work.notify_all();
        } else {
            (0..workers).for_each(|_| self.work.notify_one());
        }
    }
}

/// Polls `condition` for a while; whether it still holds.
fn spin_while(condition: impl Fn() -> bool) -> bool {
    for _ in 0..SPINS {
        if !condition() {
            return false;
        }
        std::hint::spin_loop();
    }
    condition()
}

/// Locks a mutex whose data a panic cannot leave half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// Runs `tasks` tasks and checks that each ran once.
    fn each_once(pool: &Pool, tasks: usize) {
        let seen: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
        pool.run(tasks, &|i| {
            seen[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{tasks} tasks");
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [0, 1, 2, 3, 4, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for tasks in [0, 1, 2, 3, 7, 64, 1000] {
                each_once(&pool, tasks);
            }
        }
    }

    #[test]
    fn thousands_of_small_loops_with_pauses() {
        let pool = Pool::new(4);
        let sum = AtomicUsize::new(0);
        for round in 0..20_000 {
            pool.run(1 + round % 9, &|i| {
                sum.fetch_add(i + 1, Ordering::Relaxed);
            });
            // now and then long enough for the workers to sleep
            if round % 1000 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        let expected: usize = (0..20_000).map(|r| 1 + r % 9).map(|n| n * (n + 1) / 2).sum();
        assert_eq!(sum.into_inner(), expected);
    }

    #[test]
    fn nested_and_concurrent_loops_run_inline() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(5, &|_| {
                            pool.run(3, &|_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * 200 * 5 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for threads in [1, 4] {
            let pool = Pool::new(threads);
            for round in 0..50 {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(16, &|i| assert!(i != 5, "task five of round {round}"));
                }));
                let payload = result.expect_err("task 5 panics");
                let message = payload.downcast_ref::<String>().expect("a formatted message");
                assert!(message.contains(&format!("task five of round {round}")), "{message}");
                each_once(&pool, 33);
            }
        }
    }

    #[test]
    fn the_callers_writes_and_the_tasks_writes_are_seen() {
        let pool = Pool::new(4);
        let mut data = vec![0u64; 512];
        for round in 1..200 {
            let cells: Vec<Mutex<&mut u64>> = data.iter_mut().map(Mutex::new).collect();
            pool.run(cells.len(), &|i| **cells[i].lock().unwrap() += round);
        }
        assert!(data.iter().all(|&x| x == 199 * 200 / 2));
    }
}
