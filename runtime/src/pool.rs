//! Worker threads, made once, that share the items of one task after another.
//!
//! A step of a small model is some dozens of tasks of a few microseconds, so waking must be cheap: workers spin for a
//! moment after a task and only then park. Items are claimed one at a time from a counter, which balances cores of
//! different speed. Running a task takes no lock and allocates nothing.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::parallel::Exec;

/// Turns of an idle worker's loop before it parks: about 20 microseconds on the cores we know.
const SPINS: usize = 4000;

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What the caller and the workers share.
struct Shared {
    /// Counts tasks; a worker that sees it change has one to help with. `usize::MAX` means stop.
    epoch: AtomicUsize,
    /// The task of this epoch, its lifetime erased: valid until `busy` is 0 again.
    task: UnsafeCell<Option<&'static Task<'static>>>,
    items: AtomicUsize,
    next: AtomicUsize,
    /// Workers that have not finished this epoch.
    busy: AtomicUsize,
    panicked: AtomicBool,
}

// SAFETY: `task` is written only by the caller while `busy` is 0 and read by workers only between the change of
// `epoch` (released after the write) and their decrement of `busy`; everything else is atomic.
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
}

/// A fixed set of worker threads; the calling thread is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held while a task runs, so that two callers cannot mix theirs; never contended in the engine.
    running: AtomicBool,
}

impl Pool {
    /// A pool of `workers` (at least 1), of which `workers - 1` are new threads.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(workers: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            task: UnsafeCell::new(None),
            items: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, threads: Vec::new(), running: AtomicBool::new(false) };
        for worker in 1..workers.max(1) {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("tern-worker-{worker}"));
            pool.threads.push(thread.spawn(move || worker_loop(&shared, worker))?);
        }
        Ok(pool)
    }
}

/// The life of one thread: wait for a new epoch, help, report, wait again.
fn worker_loop(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        let epoch = loop {
            let epoch = shared.epoch.load(Ordering::Acquire);
            if epoch != seen {
                break epoch;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                // A wake-up between the load and here is not lost: `unpark` leaves a token.
                std::thread::park();
            }
        };
        if epoch == usize::MAX {
            return;
        }
        seen = epoch;
        // SAFETY: written before this epoch was released, and kept until `busy` falls to 0, which waits for us.
        if let Some(task) = unsafe { *shared.task.get() }
            && catch_unwind(AssertUnwindSafe(|| shared.work(worker, task))).is_err()
        {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

// SAFETY: 1. items come from one counter, so each is claimed once. 2. Every thread uses its own worker number, and
// `running` keeps a second caller out. 3. `run` waits until `busy` is 0 with Acquire, after each thread's Release.
unsafe impl Exec for Pool {
    fn workers(&self) -> usize {
        self.threads.len() + 1
    }

    fn run(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if self.threads.is_empty() || items <= 1 {
            (0..items).for_each(|item| task(0, item));
            return;
        }
        assert!(!self.running.swap(true, Ordering::Acquire), "one task at a time, from one thread");
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The reference is used by workers of this epoch alone, and this function
        // does not return, not even by a panic of its own share of the work, before they are done.
        let erased = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        // SAFETY: `busy` is 0, so no worker reads the cell.
        unsafe { *shared.task.get() = Some(erased) };
        shared.items.store(items, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.threads.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        let mine = catch_unwind(AssertUnwindSafe(|| shared.work(0, task)));
        let mut spins = 0;
        while shared.busy.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        // SAFETY: `busy` is 0 again.
        unsafe { *shared.task.get() = None };
        self.running.store(false, Ordering::Release);
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a worker thread panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.epoch.store(usize::MAX, Ordering::Release);
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
}
