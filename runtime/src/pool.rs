//! Worker threads, made once, that share the items of one task after another.
//!
//! A step of a small model is some dozens of tasks of a few microseconds, so waking must be cheap: workers spin for a
//! moment after a task and only then park. Items are claimed one at a time from a counter, which balances cores of
//! different speed. The caller works too and waits only for workers that have joined: one whose core is busy with
//! something else misses the task and costs nothing. Running a task takes no lock and allocates nothing.
//!
//! One word says it all: `Shared::state` holds the number of the task, whether it may still be joined, and how many
//! workers are in it.
//!
//! ```text
//! caller:  write task; state = (number, open, 0); work; close; wait until nobody is in; return
//! worker:  state is open with a new number? join (in += 1, unless it changed): work; leave (in -= 1)
//! ```

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::parallel::Exec;

/// Turns of an idle worker's loop before it parks, long enough for what the caller does alone between two tasks of a
/// step. Measured on a Zen 5 at 0.11 microseconds a turn (`pause`): 220 in all.
const SPINS: usize = 2000;

/// Low bits of the state: workers that have joined.
const JOINED: u64 = (1 << 16) - 1;
/// Set while the task may not be joined: before the first one, and once its items are all claimed.
const CLOSED: u64 = 1 << 16;
/// Set for good when the threads are to end.
const STOP: u64 = 1 << 17;
/// One task further.
const NEXT: u64 = 1 << 18;

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What the caller and the workers share.
struct Shared {
    /// Number of the task in units of [`NEXT`], [`STOP`], [`CLOSED`], and the workers in it.
    state: AtomicU64,
    /// The task, its lifetime erased: valid while the state is open or somebody is in.
    task: UnsafeCell<Option<&'static Task<'static>>>,
    items: AtomicUsize,
    next: AtomicUsize,
    panicked: AtomicBool,
    /// Threads that run; what a thread allocates for itself it has allocated by then.
    started: AtomicUsize,
}

// SAFETY: `task` is written only by the caller while the state is closed and nobody is in; a worker reads it only
// between joining, which an open state of the same task allows (Acquire, after the caller's Release), and leaving.
// Everything else is atomic.
unsafe impl Sync for Shared {}

impl Shared {
    /// Claims items until none are left.
    fn work(&self, worker: usize, task: &Task<'_>) {
        let items = self.items.load(Ordering::Relaxed);
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                return;
            }
            task(worker, item);
        }
    }

    /// Joins the task of `state` if it is still open and unchanged.
    fn join(&self, state: u64) -> bool {
        self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

/// A fixed set of worker threads; the calling thread is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held while a task runs, so that two callers cannot mix theirs; never contended in the engine.
    running: AtomicBool,
    /// Tasks begun.
    pulse: Arc<AtomicU64>,
}

impl Pool {
    /// A pool of `workers` (at least 1), of which `workers - 1` are new threads, all running when this returns.
    ///
    /// # Errors
    /// If the system refuses a thread.
    ///
    /// # Panics
    /// If there are more than 65,535.
    pub fn new(workers: usize) -> std::io::Result<Self> {
        assert!((workers as u64) <= JOINED, "workers are counted in sixteen bits");
        let shared = Arc::new(Shared {
            state: AtomicU64::new(CLOSED),
            task: UnsafeCell::new(None),
            items: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            started: AtomicUsize::new(0),
        });
        let (running, pulse) = (AtomicBool::new(false), Arc::default());
        let mut pool = Pool { shared, threads: Vec::new(), running, pulse };
        for worker in 1..workers.max(1) {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("tern-worker-{worker}"));
            pool.threads.push(thread.spawn(move || worker_loop(&shared, worker))?);
        }
        while pool.shared.started.load(Ordering::Acquire) < pool.threads.len() {
            std::thread::yield_now();
        }
        Ok(pool)
    }

    /// A count that goes up with every task, for whoever watches from another thread that a long step advances.
    pub fn pulse(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.pulse)
    }
}

/// The life of one thread: wait for a task it has not seen, join it, help, leave, wait again.
fn worker_loop(shared: &Shared, worker: usize) {
    let number = |state: u64| state & !(NEXT - 1);
    let (mut seen, mut spins) = (0, 0);
    // Parking asks for the thread's own handle, which is made when it is first asked for.
    drop(std::thread::current());
    shared.started.fetch_add(1, Ordering::Release);
    loop {
        let state = shared.state.load(Ordering::Relaxed);
        if state & STOP != 0 {
            return;
        }
        if state & CLOSED != 0 || number(state) == seen {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                // A wake-up between the load and here is not lost: `unpark` leaves a token.
                std::thread::park();
                spins = 0;
            }
            continue;
        }
        if !shared.join(state) {
            continue;
        }
        (seen, spins) = (number(state), 0);
        // SAFETY: this worker has joined, so the cell is not written and the task is valid until it leaves.
        if let Some(task) = unsafe { *shared.task.get() }
            && catch_unwind(AssertUnwindSafe(|| shared.work(worker, task))).is_err()
        {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

// SAFETY: 1. items come from one counter, so each is claimed once. 2. Every thread uses its own worker number, and
// `running` keeps a second caller out. 3. `run` closes the task and waits until nobody is in (Acquire, after each
// thread's Release); later nobody can join.
unsafe impl Exec for Pool {
    fn workers(&self) -> usize {
        self.threads.len() + 1
    }

    fn run(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
        if self.threads.is_empty() || items <= 1 {
            (0..items).for_each(|item| task(0, item));
            return;
        }
        assert!(!self.running.swap(true, Ordering::Acquire), "one task at a time, from one thread");
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The reference is used by workers in this task alone, and this function
        // does not return, not even by a panic of its own share of the work, before it is closed and they have left.
        let erased = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        // SAFETY: the state is closed and nobody is in, so no worker reads the cell.
        unsafe { *shared.task.get() = Some(erased) };
        shared.items.store(items, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        let number = shared.state.load(Ordering::Relaxed) & !(NEXT - 1);
        shared.state.store(number.wrapping_add(NEXT), Ordering::Release);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        let mine = catch_unwind(AssertUnwindSafe(|| shared.work(0, task)));
        shared.state.fetch_or(CLOSED, Ordering::AcqRel);
        let mut spins = 0;
        while shared.state.load(Ordering::Acquire) & JOINED != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        // SAFETY: closed, and nobody is in.
        unsafe { *shared.task.get() = None };
        // Taken whatever became of this thread's share, or a later task would be blamed for it.
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        self.running.store(false, Ordering::Release);
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(!panicked, "a worker thread panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A worker cannot panic outside `catch_unwind`; there is nothing to learn from its result.
            let _ = thread.join();
        }
    }
}

impl core::fmt::Debug for Pool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Pool").field("workers", &self.workers()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel;

    #[test]
    fn every_item_runs_once_whatever_the_number_of_workers() {
        for workers in [1, 2, 3, 5] {
            let pool = Pool::new(workers).expect("threads");
            assert_eq!(pool.workers(), workers);
            for items in [0, 1, 2, 7, 64, 1000] {
                let (mut counts, mut unused) = (vec![0u32; items], vec![0u8; items]);
                for _ in 0..50 {
                    parallel::rows(&pool, &mut [], items, (&mut counts, &mut unused), |_, _, count, _| {
                        count[0] += 1;
                    });
                }
                assert!(counts.iter().all(|count| *count == 50), "{workers} workers, {items} items");
            }
        }
    }

    #[test]
    fn a_parked_pool_wakes_up() {
        let pool = Pool::new(3).expect("threads");
        let total = AtomicUsize::new(0);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            pool.run(10, &|_, item| {
                total.fetch_add(item, Ordering::Relaxed);
            });
        }
        assert_eq!(total.into_inner(), 5 * 45);
    }

    #[test]
    fn a_slow_worker_keeps_what_it_began_and_no_more() {
        let pool = Pool::new(3).expect("threads");
        const ITEMS: usize = 300;
        let (done, other, by_slow) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let slow = AtomicUsize::new(usize::MAX);
        pool.run(ITEMS, &|worker, _| {
            // The first to get an item is the slow one: it ends only when everything else has been done by others.
            let first = slow.compare_exchange(usize::MAX, worker, Ordering::Relaxed, Ordering::Relaxed);
            if first.is_ok() {
                while other.load(Ordering::Acquire) < ITEMS - 1 {
                    std::thread::yield_now();
                }
            }
            let count = if slow.load(Ordering::Relaxed) == worker { &by_slow } else { &other };
            count.fetch_add(1, Ordering::Release);
            done.fetch_add(1, Ordering::Relaxed);
        });
        // Had any item been given to it in advance, nobody would have done it and this would never have ended.
        assert_eq!((done.into_inner(), by_slow.into_inner()), (ITEMS, 1));
    }

    #[test]
    fn a_worker_that_is_held_up_before_it_joins_costs_nothing() {
        let pool = Pool::new(2).expect("threads");
        for round in 0..200 {
            // Parked, spinning or somewhere between: the caller ends the task alone if it has to.
            if round % 50 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            let total = AtomicUsize::new(0);
            pool.run(3, &|_, item| {
                total.fetch_add(item + 1, Ordering::Relaxed);
            });
            assert_eq!(total.into_inner(), 6);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).expect("threads");
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, &|_, item| assert!(item != 57, "item 57"));
        }));
        assert!(result.is_err());
        let total = AtomicUsize::new(0);
        pool.run(100, &|_, _| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 100);
    }

    #[test]
    fn a_panic_on_every_thread_is_not_blamed_on_the_next_task() {
        let pool = Pool::new(2).expect("threads");
        // Two items that wait for each other: one on each thread.
        let both = std::sync::Barrier::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, &|_, item| {
                both.wait();
                panic!("item {item}");
            });
        }));
        assert!(result.is_err());
        let total = AtomicUsize::new(0);
        pool.run(100, &|_, _| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 100);
    }
}
