//! Which kernels and how many threads are fastest here, found by trying them: the same products as a model of the given
//! shape makes, on random weights, for about a second.
//!
//! No table can know it. Some boards read memory faster with two threads than with four; on some cores a layout of 1.6 bits
//! decodes faster than one of 2 bits, on others the arithmetic binds; and a small model lives in a cache. What was found is
//! kept in the state directory ([`saved`]) until the program, the CPU or the model's shape changes. Results never depend on
//! it: all kernels give the same bits.

pub mod saved;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;
use tern_boards::is_scalar;
use tern_kernels::{GroupedTile, KernelSet, pack};
use tern_runtime::activations::{Activations, Form};
use tern_runtime::error::LoadError;
use tern_runtime::gguf::Gguf;
use tern_runtime::model::{Config, grouping};
use tern_runtime::parallel::Exec;
use tern_runtime::pool::Pool;

use crate::random::Random;

/// Tokens of a prompt and of an answer that a choice is made for: decisions and summaries read more than they write.
const PROMPT_TOKENS: usize = 64;
const ANSWER_TOKENS: usize = 16;

/// No trial takes much longer than this, once for decoding and once for a prompt.
const TRIAL: Duration = Duration::from_millis(40);

/// Weights of the matrix that is tried, at most.
const MOST_WEIGHTS: usize = 32 << 20;

/// A choice with fewer threads is taken when it is slower by no more than this: it leaves cores to others and costs less.
const MARGIN: f64 = 1.03;

/// What a model asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Columns of most matrices.
    pub hidden: usize,
    /// Rows of the largest ones.
    pub ffn: usize,
    /// Ternary weights of the whole model.
    pub weights: u64,
    /// Columns that share a scale, where a matrix has several.
    pub group: Option<usize>,
}

impl From<&Config> for Load {
    /// What a model of this shape asks whose matrices have one scale each.
    fn from(config: &Config) -> Self {
        let Config { hidden, ffn, .. } = *config;
        Load { hidden, ffn, weights: config.ternary_weights(), group: None }
    }
}

impl Load {
    /// What the model `gguf` of this shape asks.
    ///
    /// # Errors
    /// If the file contradicts itself about its scales.
    pub fn of(gguf: &Gguf<'_>, config: &Config) -> Result<Self, LoadError> {
        Ok(Load { group: grouping(gguf)?, ..Load::from(config) })
    }
}

/// What one set with some threads took, for all ternary products of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Kernel set.
    pub kernels: &'static str,
    /// The layout that it reads.
    pub layout: &'static str,
    /// Threads.
    pub threads: usize,
    /// Milliseconds of a decoded token.
    pub decode_ms: f64,
    /// Milliseconds of a token of a prompt that is read in batches of 64.
    pub prompt_ms: f64,
}

impl Trial {
    /// Milliseconds of the request that the choice is made for.
    pub fn request_ms(&self) -> f64 {
        PROMPT_TOKENS as f64 * self.prompt_ms + ANSWER_TOKENS as f64 * self.decode_ms
    }
}

/// The trial to go by: the fastest, or one with fewer threads that is as fast but for a few percent.
pub fn best(trials: &[Trial]) -> Option<&Trial> {
    let fastest = trials.iter().map(Trial::request_ms).min_by(f64::total_cmp)?;
    let good = trials.iter().filter(|trial| trial.request_ms() <= MARGIN * fastest);
    good.min_by(|a, b| a.threads.cmp(&b.threads).then(a.request_ms().total_cmp(&b.request_ms())))
}

/// Tries every set of `sets` that is not scalar with `threads` threads, then the fastest with each number of
/// `other_threads`; calls `tried` after each. Empty if there is no such set or no memory or thread to try one.
///
/// `cache_bytes` is the size of the last-level caches: a model that exceeds them is tried from memory.
pub fn try_all(
    load: Load,
    sets: &[&'static KernelSet],
    threads: usize,
    other_threads: &[usize],
    cache_bytes: u64,
    mut tried: impl FnMut(&Trial),
) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    let mut add = |trials: &mut Vec<Trial>, set: &'static KernelSet, threads: usize| {
        if let Some(trial) = Bench::new(load, set, cache_bytes).and_then(|bench| bench.run(load, threads)) {
            tried(&trial);
            trials.push(trial);
        }
    };
    for set in sets.iter().filter(|set| !is_scalar(set)) {
        add(&mut trials, set, threads);
    }
    let fastest = best(&trials).and_then(|trial| sets.iter().find(|set| set.name == trial.kernels));
    if let Some(set) = fastest {
        for other in other_threads.iter().filter(|other| **other != threads) {
            add(&mut trials, set, *other);
        }
    }
    trials
}

/// Copies of one matrix and tokens to multiply it with.
struct Bench {
    set: &'static KernelSet,
    form: Form,
    rows: usize,
    cols: usize,
    packed: Vec<u8>,
    matrix_bytes: usize,
    /// Scales of groups, all one, and what their sums are multiplied by.
    scales: Vec<u16>,
    factors: Vec<f32>,
    prepared: Vec<u8>,
}

/// What one worker writes to.
#[derive(Default)]
struct Place {
    scratch: Vec<u64>,
    sums: Vec<i32>,
    values: Vec<f32>,
}

impl Bench {
    /// As many copies of a matrix as the model has weights, or as many as exceed the caches four times.
    fn new(load: Load, set: &'static KernelSet, cache_bytes: u64) -> Option<Self> {
        // A part of a very large matrix does as well as the whole.
        let (rows, cols) = (load.ffn.min(MOST_WEIGHTS / load.hidden.max(1)).max(1), load.hidden);
        let form = Form { group: load.group, activations: Activations::Int8 };
        let group = load.group.unwrap_or(cols);
        let matrix_bytes = match load.group {
            None => set.layout.bytes(rows, cols)?,
            Some(group) => set.layout.grouped_bytes(rows, cols, group)?,
        };
        let enough = cache_bytes.saturating_mul(4).clamp(32 << 20, 256 << 20);
        let copies = (load.weights / (rows * cols) as u64).min(enough / matrix_bytes as u64).max(1) as usize;
        let mut random = Random::new(1);
        let mut packed = Vec::new();
        packed.try_reserve_exact(copies * matrix_bytes).ok()?;
        packed.resize(matrix_bytes, 0);
        let group_bytes = set.layout.bytes(rows, group)?;
        let panels_bytes =
            |rows: usize| rows.div_ceil(set.layout.panel_rows()) * set.layout.panel_bytes(group);
        for group_of in packed.chunks_exact_mut(group_bytes) {
            for first in (0..rows).step_by(pack::rows_at_once(set.layout)) {
                let some = pack::rows_at_once(set.layout).min(rows - first);
                let weights: Vec<i8> = (0..some * group).map(|_| random.below(3) as i8 - 1).collect();
                let panels = &mut group_of[panels_bytes(first)..panels_bytes(first + some)];
                pack::pack_rows(set.layout, &weights, group, 0..group, panels);
            }
        }
        for _ in 1..copies {
            packed.extend_from_within(..matrix_bytes);
        }
        let token_bytes = set.prepared_bytes(group);
        let mut prepared = vec![0; cols / group * PROMPT_TOKENS * token_bytes];
        for place in prepared.chunks_exact_mut(token_bytes) {
            let q: Vec<i8> = (0..group).map(|_| random.below(255) as i8).collect();
            set.prepare(&q, place);
        }
        let (scales, factors) = (vec![0x3c00; cols / group * rows], vec![1.0; cols / group * PROMPT_TOKENS]);
        Some(Bench { set, form, rows, cols, packed, matrix_bytes, scales, factors, prepared })
    }

    /// Times both kinds of work; `None` if there are no such threads.
    fn run(&self, load: Load, threads: usize) -> Option<Trial> {
        let pool = Pool::new(threads).ok()?;
        let places: Vec<Mutex<Place>> = (0..threads).map(|_| Mutex::default()).collect();
        let copies = self.packed.len() / self.matrix_bytes;
        // Enough copies for a pass to be worth timing; a prompt does 64 times the work on each.
        let prompt_copies = copies.min(PROMPT_TOKENS / 16);
        let of_all = |seconds: f64, copies: usize| {
            1e3 * seconds * load.weights as f64 / (copies * self.rows * self.cols) as f64
        };
        let decode = self.best_pass(&pool, &places, copies, 1);
        let prompt = self.best_pass(&pool, &places, prompt_copies, PROMPT_TOKENS);
        Some(Trial {
            kernels: self.set.name,
            layout: self.set.layout.name(),
            threads,
            decode_ms: of_all(decode, copies),
            prompt_ms: of_all(prompt, prompt_copies) / PROMPT_TOKENS as f64,
        })
    }

    /// Seconds of the fastest pass over `copies` matrices with `tokens` tokens; the first pass counts for nothing.
    fn best_pass(&self, exec: &dyn Exec, places: &[Mutex<Place>], copies: usize, tokens: usize) -> f64 {
        self.pass(exec, places, copies, tokens);
        let (began, mut best) = (Instant::now(), f64::INFINITY);
        while best == f64::INFINITY || began.elapsed() < TRIAL {
            let pass = Instant::now();
            self.pass(exec, places, copies, tokens);
            best = best.min(pass.elapsed().as_secs_f64());
        }
        best
    }

    fn pass(&self, exec: &dyn Exec, places: &[Mutex<Place>], copies: usize, tokens: usize) {
        let Bench { set, form, rows, cols, .. } = *self;
        let group = form.group.unwrap_or(cols);
        let grain = form.grain(set, rows, cols, tokens, exec.workers());
        let (row_pieces, token_pieces) = (rows.div_ceil(grain.rows), tokens.div_ceil(grain.tokens));
        let (panel_rows, panel_bytes) = (set.layout.panel_rows(), set.layout.panel_bytes(group));
        let group_bytes = rows.div_ceil(panel_rows) * panel_bytes;
        let token_bytes = set.prepared_bytes(group);
        exec.run(copies * row_pieces * token_pieces, &|worker, item| {
            let (copy, piece) = (item / (row_pieces * token_pieces), item % (row_pieces * token_pieces));
            let (row, token) = (piece / token_pieces * grain.rows, piece % token_pieces * grain.tokens);
            let (height, width) = (grain.rows.min(rows - row), grain.tokens.min(tokens - token));
            // A worker runs one task at a time, so its place is always free.
            let Ok(mut place) = places[worker].lock() else { return };
            let Place { scratch, sums, values } = &mut *place;
            let panels = row / panel_rows..(row + height).div_ceil(panel_rows);
            let first = copy * self.matrix_bytes;
            let codes = &self.packed[first + panels.start * panel_bytes..];
            let codes = &codes[..self.matrix_bytes - group_bytes + panels.len() * panel_bytes];
            let all = width * token_bytes;
            if form.group.is_none() {
                scratch.resize(set.scratch_words(height, cols, width).max(scratch.len()), 0);
                sums.resize((height * width).max(sums.len()), 0);
                let prepared = &self.prepared[token * token_bytes..][..all];
                set.multiply(codes, height, cols, prepared, width, scratch, &mut sums[..height * width]);
                return;
            }
            scratch.resize(set.grouped_scratch_words(height, group, width).max(scratch.len()), 0);
            sums.resize(set.grouped_sums(height, group, width).max(sums.len()), 0);
            values.resize((height * width).max(values.len()), 0.0);
            let groups = cols / group;
            let others = (groups - 1) * PROMPT_TOKENS * token_bytes;
            let tile = GroupedTile {
                weights: codes,
                weights_stride: group_bytes,
                scales: &self.scales[row..][..(groups - 1) * rows + height],
                scales_stride: rows,
                rows: height,
                cols: group,
                groups,
                prepared: &self.prepared[token * token_bytes..][..others + all],
                prepared_stride: PROMPT_TOKENS * token_bytes,
                tokens: width,
                digits: 1,
                factors: &self.factors[..width * groups],
            };
            set.multiply_groups(tile, scratch, sums, &mut values[..height * width]);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(kernels: &'static str, threads: usize, prompt_ms: f64, decode_ms: f64) -> Trial {
        Trial { kernels, layout: "t5r", threads, decode_ms, prompt_ms }
    }

    #[test]
    fn the_fastest_wins_unless_fewer_threads_do_as_well() {
        let trials = [
            trial("a", 4, 1.0, 10.0),
            trial("b", 4, 2.0, 4.0),
            trial("b", 2, 2.02, 4.0),
            trial("b", 1, 4.0, 7.0),
        ];
        assert_eq!(best(&trials).map(|trial| (trial.kernels, trial.threads)), Some(("b", 2)));
        assert_eq!(best(&trials[..2]).map(|trial| trial.kernels), Some("b"));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn every_usable_set_is_tried_on_the_shape_and_gives_times() {
        let load = Load { hidden: 256, ffn: 384, weights: 3 * 256 * 384, group: None };
        let sets: Vec<&'static KernelSet> = tern_boards::kernel_sets().collect();
        let fast = sets.iter().filter(|set| !is_scalar(set)).count();
        let mut seen = 0;
        let trials = try_all(load, &sets, 1, &[1, 2], 1 << 20, |_| seen += 1);
        assert_eq!((trials.len(), seen), if fast == 0 { (0, 0) } else { (fast + 1, fast + 1) });
        for trial in &trials {
            assert!(trial.decode_ms > 0.0 && trial.prompt_ms > 0.0, "{trial:?}");
        }
        // In groups only layouts that take them.
        let trials = try_all(Load { group: Some(64), ..load }, &sets, 1, &[], 1 << 20, |_| ());
        let takes = |set: &&&KernelSet| !is_scalar(set) && set.layout.takes_groups(64);
        assert_eq!(trials.len(), sets.iter().filter(takes).count());
    }
}
