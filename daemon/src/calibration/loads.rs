//! The loads themselves: threads that do one kind of work until they are told to stop.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::{CpuSet, sched_setaffinity};
use tern_boards::energy::model::Traffic;

use super::plan::Kind;
use crate::bandwidth::sum;

/// Bytes that a thread streams between two looks at whether to stop.
const PIECE_BYTES: usize = 1 << 20;

/// Rounds of work within the core between two such looks: well under a millisecond.
const ROUNDS: usize = 64;

/// Bytes that vectors work on: a quarter of the smallest first-level cache.
const VECTOR_BYTES: usize = 8 << 10;

/// What memory loads stream.
#[derive(Debug)]
pub struct Buffer(Vec<u64>);

impl Buffer {
    /// `bytes` of memory that is really there; `None` where it is not.
    pub fn new(bytes: u64) -> Option<Buffer> {
        let words = usize::try_from(bytes / 8).ok()?.max(PIECE_BYTES / 8);
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(words).ok()?;
        buffer.extend((0..words as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Some(Buffer(buffer))
    }
}

/// Runs `body` beside threads that do work of this `kind`, one on each of `cpus`, and ends them after it.
pub fn beside<R>(
    kind: Kind,
    cpus: &[usize],
    buffer: &Buffer,
    traffic: &Traffic,
    body: impl FnOnce() -> R,
) -> R {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (index, &cpu) in cpus.iter().enumerate() {
            let first = buffer.0.len() / cpus.len() * index;
            let (stop, words) = (&stop, buffer.0.as_slice());
            scope.spawn(move || {
                stay_on(cpu);
                work(kind, words, first, traffic, stop);
            });
        }
        // Also when the body panics: the scope waits for its threads.
        let _stopped = Raise(&stop);
        body()
    })
}

/// Raises a flag when it goes.
struct Raise<'f>(&'f AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Keeps this thread on `cpu`; where that is not allowed it runs where the kernel puts it, and busy time says where.
fn stay_on(cpu: usize) {
    let mut cpus = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        cpus.set(cpu);
    }
    if let Err(error) = sched_setaffinity(None, &cpus) {
        log::debug!("a load may not stay on CPU {cpu}: {error}");
    }
}

fn work(kind: Kind, words: &[u64], first: usize, traffic: &Traffic, stop: &AtomicBool) {
    let [left, right] = [vec![3i8; VECTOR_BYTES], vec![-5i8; VECTOR_BYTES]];
    let pieces: Vec<&[u64]> = words.chunks_exact(PIECE_BYTES / 8).collect();
    let mut piece = first / (PIECE_BYTES / 8);
    let mut stream = || {
        black_box(sum(black_box(pieces[piece % pieces.len()])));
        piece += 1;
        traffic.add(PIECE_BYTES as u64);
    };
    let mut seed = 1;
    while !stop.load(Ordering::Acquire) {
        match kind {
            Kind::Idle => return,
            Kind::Scalars => seed = chain(black_box(seed)),
            Kind::Vectors => vectors(&left, &right),
            Kind::Memory => stream(),
            Kind::Mixed => {
                vectors(&left, &right);
                stream();
            }
        }
    }
}

/// Multiplications and additions each of which needs the one before.
fn chain(seed: u64) -> u64 {
    (0..ROUNDS as u64 * 1024)
        .fold(seed, |state, step| black_box(state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(step | 1)))
}

/// Dot products of bytes in the first cache, which compilers turn into vector instructions.
fn vectors(left: &[i8], right: &[i8]) {
    for _ in 0..ROUNDS {
        let products = black_box(left).iter().zip(black_box(right));
        black_box(products.fold(0i32, |sum, (a, b)| sum + i32::from(*a) * i32::from(*b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn every_kind_works_until_it_is_stopped_and_streams_what_it_says() {
        let buffer = Buffer::new(4 << 20).expect("four megabytes");
        for kind in [Kind::Idle, Kind::Scalars, Kind::Vectors, Kind::Memory, Kind::Mixed] {
            let traffic = Traffic::default();
            let streams = matches!(kind, Kind::Memory | Kind::Mixed);
            let seen = beside(kind, &[0], &buffer, &traffic, || {
                let deadline = Instant::now() + Duration::from_secs(20);
                while streams && traffic.total() == 0 && Instant::now() < deadline {
                    std::thread::yield_now();
                }
                traffic.total()
            });
            assert_eq!(seen > 0, streams, "{kind:?}");
        }
    }
}
