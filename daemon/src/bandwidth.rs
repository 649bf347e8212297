//! How fast this machine reads memory: the bound on decoding, measured where the benchmark runs.
//!
//! All threads together sum a buffer that is larger than the last-level cache, several times; the best pass counts,
//! since anything slower was disturbed. Reads only, as decoding does.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;
use tern_boards::Cpu;
use tern_runtime::parallel::Exec;
use tern_runtime::pool::Pool;

/// Passes over the buffer at most, the first of which counts for nothing.
const PASSES: usize = 24;

/// Parts of the buffer a thread, so that a slow core does not hold up a fast one.
const PARTS: usize = 16;

/// No pass begins after this time.
const TIME: Duration = Duration::from_millis(1500);

/// The least buffer, for machines that do not show their caches.
const LEAST_BYTES: u64 = 256 << 20;

/// What was measured and how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Bytes read a second by all threads together, best pass.
    pub bytes_per_second: f64,
    /// Threads.
    pub threads: usize,
    /// Bytes of the buffer.
    pub buffer_bytes: u64,
    /// Bytes of the last-level caches, where the system shows them.
    pub cache_bytes: Option<u64>,
    /// Whether the buffer is at least twice that; where it is not, caches took part.
    pub beyond_cache: bool,
}

/// All caches of the highest level together.
pub fn last_level_cache_bytes(cpu: &Cpu) -> Option<u64> {
    let level = cpu.caches.iter().map(|cache| cache.level).max()?;
    let caches = cpu.caches.iter().filter(|cache| cache.level == level);
    Some(caches.map(|cache| cache.size_bytes * cache.instances as u64).sum())
}

/// Measures with `threads` threads. The buffer has four times the size of the last-level caches, but no more than a
/// quarter of the `available_bytes` of memory; `None` if there is no memory or no thread for it.
pub fn measure(threads: usize, cpu: &Cpu, available_bytes: Option<u64>) -> Option<Bandwidth> {
    let cache_bytes = last_level_cache_bytes(cpu);
    let wanted = LEAST_BYTES.max(cache_bytes.unwrap_or(0).saturating_mul(4));
    let bytes = wanted.min(available_bytes.map_or(wanted, |available| available / 4));
    let words = usize::try_from(bytes / 8).ok()?.next_multiple_of(64 * threads.max(1));
    let mut buffer: Vec<u64> = Vec::new();
    buffer.try_reserve_exact(words).ok()?;
    buffer.extend((0..words as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let seconds = best_pass(&buffer, threads.max(1))?;
    let buffer_bytes = 8 * words as u64;
    Some(Bandwidth {
        bytes_per_second: buffer_bytes as f64 / seconds,
        threads: threads.max(1),
        buffer_bytes,
        cache_bytes,
        beyond_cache: cache_bytes.is_none_or(|cache| buffer_bytes >= 2 * cache),
    })
}

/// Seconds of the fastest pass over `buffer` with the engine's own way of sharing work.
fn best_pass(buffer: &[u64], threads: usize) -> Option<f64> {
    let pool = Pool::new(threads).ok()?;
    let parts: Vec<&[u64]> = buffer.chunks(buffer.len().div_ceil(PARTS * threads).max(1)).collect();
    let began = Instant::now();
    let mut best = f64::INFINITY;
    for pass in 0..PASSES {
        let start = Instant::now();
        pool.run(parts.len(), &|_, part| {
            black_box(sum(black_box(parts[part])));
        });
        // The first pass wakes the threads.
        if pass > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
        if pass > 1 && began.elapsed() > TIME {
            break;
        }
    }
    (best > 0.0 && best.is_finite()).then_some(best)
}

/// The sum of `words`, in enough independent parts that adding never waits for adding.
pub(crate) fn sum(words: &[u64]) -> u64 {
    let (blocks, rest) = words.as_chunks::<32>();
    let mut sums = [0u64; 32];
    for block in blocks {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tern_boards::Root;

    #[test]
    fn sums_are_right_whatever_the_length() {
        for len in [0, 1, 31, 32, 33, 1000] {
            let words: Vec<u64> = (0..len).map(|i| u64::MAX - i).collect();
            let expected = words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
            assert_eq!(sum(&words), expected, "{len} words");
        }
    }

    #[test]
    fn a_measurement_is_of_a_plausible_size() {
        let cpu = Cpu::detect(&Root::new("/"));
        // A little memory only: a test need not be exact.
        let found = measure(2, &cpu, Some(32 << 20)).expect("eight megabytes and a thread");
        assert!(found.buffer_bytes >= 8 << 20 && found.buffer_bytes < 9 << 20, "{found:?}");
        assert!((1e7..1e13).contains(&found.bytes_per_second), "{found:?}");
        assert_eq!(found.threads, 2);
    }
}
