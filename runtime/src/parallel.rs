//! Sharing one piece of work between workers, with every output element written by exactly one of them.
//!
//! [`Exec`] runs a task for each item of a range; [`Serial`] does so on the calling thread, `pool::Pool` (feature
//! `std`) on threads made once. The functions here give each task its own part of the output and each worker its own
//! scratch, so that the rest of the runtime needs no `unsafe` to use several cores. How items fall to workers never
//! changes a result: an element is always computed whole, by one task, in one order.

use core::marker::PhantomData;
use core::ops::Range;

/// Something that runs a task for every item of `0..items`.
///
/// # Safety
/// An implementation must
/// 1. call `task(worker, item)` exactly once for each item in `0..items`,
/// 2. never run two calls with the same `worker` at the same time, and keep `worker < workers()`,
/// 3. return from `run` only after every call has returned, with their writes visible to the caller.
pub unsafe trait Exec: Sync {
    /// How many workers there are, at least one.
    fn workers(&self) -> usize;

    /// Runs `task(worker, item)` for each item.
    fn run(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync));
}

/// Runs every item on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

// SAFETY: 1. the loop visits each item once. 2. There is one worker and one thread. 3. Calls return before `run`.
unsafe impl Exec for Serial {
    fn workers(&self) -> usize {
        1
    }

    fn run(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        for item in 0..items {
            task(0, item);
        }
    }
}

/// A mutable slice that several threads hold at once, each touching elements no other touches.
struct Shared<'a, T> {
    base: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: threads only ever get disjoint parts (duty of the callers of `part`), and `T: Send` lets each go there.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Shared { base: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The elements in `range`.
    ///
    /// # Safety
    /// No other live reference may cover an element of `range`.
    #[allow(clippy::mut_from_ref, reason = "handing out disjoint parts is what this type is for")]
    unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part of a shared slice");
        // SAFETY: in bounds by the assertion, within one allocation; unaliased by the caller's duty.
        unsafe { core::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) }
    }
}

/// Scratch memory cut into one equal piece a worker.
struct WorkerScratch<'a> {
    words: Shared<'a, u64>,
    each: usize,
}

impl<'a> WorkerScratch<'a> {
    fn new(exec: &dyn Exec, scratch: &'a mut [u64]) -> Self {
        WorkerScratch { each: scratch.len() / exec.workers(), words: Shared::new(scratch) }
    }

    /// The piece of `worker`.
    ///
    /// # Safety
    /// Only to be called from a task that `Exec::run` called with this `worker`, once at a time.
    #[allow(clippy::mut_from_ref, reason = "one worker, one piece")]
    unsafe fn of(&self, worker: usize) -> &mut [u64] {
        // SAFETY: pieces of different workers are disjoint; one worker runs one task at a time (`Exec` duty 2).
        unsafe { self.words.part(worker * self.each..(worker + 1) * self.each) }
    }
}

/// Runs `task(scratch, i, a_i, b_i)` for every `i`, with `a` and `b` cut into `items` equal consecutive parts.
///
/// # Panics
/// If a length is not a multiple of `items`.
pub fn rows<A: Send, B: Send>(
    exec: &dyn Exec,
    scratch: &mut [u64],
    items: usize,
    (a, b): (&mut [A], &mut [B]),
    task: impl Fn(&mut [u64], usize, &mut [A], &mut [B]) + Sync,
) {
    if items == 0 {
        return;
    }
    assert!(a.len().is_multiple_of(items) && b.len().is_multiple_of(items), "equal parts");
    let (a_len, b_len) = (a.len() / items, b.len() / items);
    let (a, b, scratch) = (Shared::new(a), Shared::new(b), WorkerScratch::new(exec, scratch));
    exec.run(items, &|worker, i| {
        // SAFETY: parts of different items are disjoint and each item runs once (`Exec` duty 1); scratch by duty 2.
        let (scratch, a, b) = unsafe {
            (scratch.of(worker), a.part(i * a_len..(i + 1) * a_len), b.part(i * b_len..(i + 1) * b_len))
        };
        task(scratch, i, a, b);
    });
}

/// The columns of a row-major matrix that one task may write.
pub struct Stripe<'a, T> {
    matrix: &'a Shared<'a, T>,
    stride: usize,
    cols: Range<usize>,
}

impl<T> Stripe<'_, T> {
    /// The columns of this stripe.
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// This stripe's part of row `row`.
    ///
    /// # Panics
    /// If the matrix has no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        let start = row * self.stride;
        // SAFETY: `stripes` gave these columns to one task only, and `&mut self` lends one row at a time.
        unsafe { self.matrix.part(start + self.cols.start..start + self.cols.end) }
    }
}

/// Runs `task(scratch, item, stripe)` for every item, the stripe being columns `cols_of(item)` of `matrix: [_, stride]`.
///
/// # Panics
/// If the column ranges are not ascending and disjoint, or one leaves the matrix.
pub fn stripes<T: Send>(
    exec: &dyn Exec,
    scratch: &mut [u64],
    (matrix, stride): (&mut [T], usize),
    items: usize,
    cols_of: impl Fn(usize) -> Range<usize> + Sync,
    task: impl Fn(&mut [u64], usize, Stripe<'_, T>) + Sync,
) {
    let mut end = 0;
    for item in 0..items {
        let cols = cols_of(item);
        assert!(end <= cols.start && cols.start <= cols.end && cols.end <= stride, "disjoint stripes");
        end = cols.end;
    }
    let (matrix, scratch) = (Shared::new(matrix), WorkerScratch::new(exec, scratch));
    exec.run(items, &|worker, item| {
        // SAFETY: called from a task that `Exec::run` called with this worker.
        let scratch = unsafe { scratch.of(worker) };
        task(scratch, item, Stripe { matrix: &matrix, stride, cols: cols_of(item) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_reach_their_task_once() {
        let (mut a, mut b, mut scratch) = ([0u32; 12], [0u8; 4], [0u64; 3]);
        rows(&Serial, &mut scratch, 4, (&mut a, &mut b), |scratch, i, a, b| {
            scratch[0] += 1;
            a.fill(i as u32);
            b[0] = a.len() as u8;
        });
        assert_eq!(a, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        assert_eq!((b, scratch[0]), ([3; 4], 4));
    }

    #[test]
    fn stripes_cover_their_columns_in_every_row() {
        let mut matrix = [9u8; 2 * 7];
        let cols = |i: usize| 3 * i..(3 * i + 3).min(7);
        stripes(&Serial, &mut [], (&mut matrix, 7), 3, cols, |_, i, mut stripe| {
            for row in 0..2 {
                stripe.row(row).fill(i as u8);
            }
        });
        assert_eq!(matrix, [0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 1, 1, 1, 2]);
    }

    #[test]
    #[should_panic(expected = "disjoint stripes")]
    fn overlapping_stripes_are_refused() {
        stripes(&Serial, &mut [], (&mut [0u8; 8], 8), 2, |i| i..i + 2, |_, _, _| {});
    }
}
