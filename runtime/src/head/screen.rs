//! Choosing a token from the high plane of an int8 head, with the choice of the whole head.
//!
//! ```text
//! for every row r, on all workers:            reads the high plane
//!     estimate = 256 (slope_r [u, high] + offset_r sum high) / s
//!     bound_r  = estimate + K (spread_r |x| + size_r |low|) / s
//! look up exactly the rows with the best bounds             reads both planes of a few rows
//! threshold = what a row must reach to matter, from the best exact logits so far
//! look up exactly every other row whose bound reaches the threshold
//! ```
//!
//! The exact logit is `sum q x / s` with `x = 256 high + low`. The estimate leaves out two sums: what the row's line leaves
//! of `q` times `x`, and the line times `low`. Were the signs of their terms a coin's, they would have deviations of
//! `spread |x|` and `size |low|`, so the bound is [`K`] of both. `docs/head.md` says how far that is from certain, and
//! what was measured; `tests/head.rs` compares choices with the whole head's.

use tern_kernels::planes::padded_cols;
use tern_kernels::{KernelSet, Nibbles};

use super::planes::{Planes, Query, STEP_PARTS, STEP_ROWS, TILE_ROWS};
use crate::forward::Machine;
use crate::parallel::{self, Cut};
use crate::sampler::{Candidate, Need, best, top};

/// Deviations by which an estimate may be wrong.
pub const K: f32 = 8.0;
/// Rows that are looked up before there is a threshold, where one is wanted.
const FIRST: usize = 4;
/// Allowance for the rounding of the estimate itself, relative to its two terms.
const ROUNDING: f32 = 1.0 / (1 << 20) as f32;

/// The most that the logit of each row can be: `parts: [n, 2, padded cols]`, `queries: [n]`, `bounds: [n, rows]`.
pub(super) fn bounds(
    machine: Machine<'_>,
    scratch: &mut [u64],
    planes: &Planes<'_>,
    parts: &[i8],
    queries: &[Query],
    bounds: &mut [f32],
) {
    let cut = Cut { segments: &[planes.rows], most: TILE_ROWS };
    let cols = padded_cols(planes.cols);
    parallel::stripes(machine.exec, scratch, (bounds, planes.rows), cut, |_, piece, mut stripe| {
        for first in piece.range.clone().step_by(STEP_ROWS) {
            let rows = first..piece.range.end.min(first + STEP_ROWS);
            for (group, queries) in queries.chunks(STEP_PARTS).enumerate() {
                let mut sums = [0; STEP_PARTS * STEP_ROWS];
                let sums = &mut sums[..queries.len() * rows.len()];
                let nibbles = Nibbles {
                    plane: planes.rows_of(planes.high, rows.clone()),
                    rows: rows.len(),
                    cols,
                    x: &parts[group * STEP_PARTS * 2 * cols..],
                    tokens: queries.len(),
                    stride: 2 * cols,
                };
                machine.set.nibble_dots(nibbles, sums);
                for (i, (query, sums)) in queries.iter().zip(sums.chunks_exact(rows.len())).enumerate() {
                    let out = stripe.row(group * STEP_PARTS + i);
                    let out = &mut out[rows.start - piece.range.start..rows.end - piece.range.start];
                    bound_rows(planes, query, rows.clone(), sums, out);
                }
            }
        }
    });
}

/// Bounds of `rows` from their sums with the high part.
fn bound_rows(
    planes: &Planes<'_>,
    query: &Query,
    rows: core::ops::Range<usize>,
    sums: &[i32],
    bounds: &mut [f32],
) {
    let unit = 1.0 / query.split.scale;
    let (step, sum) = (256.0 * unit, query.split.high_sum as f32);
    let (spread, size) = (K * query.length * unit, K * query.low_length * unit);
    let (slopes, offsets) = (&planes.slope[rows.clone()], &planes.offset[rows.clone()]);
    let (spreads, sizes) = (&planes.spread[rows.clone()], &planes.size[rows]);
    let factors = slopes.iter().zip(offsets).zip(spreads).zip(sizes);
    for ((bound, dot), (((slope, offset), rest), line)) in bounds.iter_mut().zip(sums).zip(factors) {
        let (tilted, level) = (slope * *dot as f32, offset * sum);
        let estimate = (tilted + level) * step;
        let rounding = (tilted.abs() + level.abs()) * step * ROUNDING;
        *bound = estimate + rest * spread + line * size + rounding;
    }
}

/// The most rows of a head that are worth looking up one by one, on one core, before all logits are sooner had.
pub fn most_rows(planes: &Planes<'_>) -> usize {
    planes.rows / 16
}

/// What a screening came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Screened {
    /// Candidates, with their exact logits.
    pub candidates: usize,
    /// Rows that were looked up for it.
    pub rows: usize,
}

/// Gathers into `candidates` every token that can matter to `need`, with its exact logit, in no particular order; the
/// first `known` are there already: tokens whose logits are not the head's own, such as penalised ones. `None` if that
/// would take looking up more than `most` rows, one by one: all logits are sooner had. Uses up `bounds: [rows]`.
#[allow(
    clippy::too_many_arguments,
    reason = "a state, what is asked of it, and working memory for the answer"
)]
pub fn candidates(
    set: &KernelSet,
    planes: &Planes<'_>,
    (parts, query): (&[i8], &Query),
    need: Need,
    bounds: &mut [f32],
    candidates: &mut [Candidate],
    known: usize,
    most: usize,
) -> Option<Screened> {
    let mut found = Found { candidates, len: known, rows: 0 };
    for at in 0..known {
        bounds[found.candidates[at].id as usize] = f32::NEG_INFINITY;
    }
    let look_up = |found: &mut Found<'_>, bounds: &mut [f32], id: usize| {
        bounds[id] = f32::NEG_INFINITY;
        let score = planes.logit(set, parts, query, id);
        found.push(Candidate { id: id as u32, score });
        score
    };
    // The rows that promise most, to have a threshold.
    let first = match need {
        Need::Top(k) => k.max(FIRST),
        Need::Best | Need::Within(_) => FIRST,
        Need::All => bounds.len(),
    };
    let taken = top(bounds, first, &mut found.candidates[known..]);
    for _ in 0..taken {
        // Each takes the place of its own bound in the list.
        let id = found.candidates[found.len].id as usize;
        look_up(&mut found, bounds, id);
    }
    let mut threshold = found.threshold(need);
    // Free of branches, like the test below, so that compilers make vectors of both.
    let reaching = bounds.iter().fold(0u32, |count, bound| count + u32::from(reaches(*bound, threshold)));
    if taken + reaching as usize > most {
        return None;
    }
    for from in (0..bounds.len()).step_by(16) {
        let to = bounds.len().min(from + 16);
        if !bounds[from..to].iter().fold(false, |any, bound| any | reaches(*bound, threshold)) {
            continue;
        }
        for id in from..to {
            if reaches(bounds[id], threshold) {
                let score = look_up(&mut found, bounds, id);
                threshold = match need {
                    Need::Best => threshold.max(score),
                    Need::Within(below) => threshold.max(score - below),
                    _ => threshold,
                };
            }
        }
    }
    Some(Screened { candidates: found.len, rows: found.rows })
}

/// Whether a row with this bound can reach `threshold`: a bound that is no number bounds nothing.
#[inline(always)]
fn reaches(bound: f32, threshold: f32) -> bool {
    bound >= threshold || bound.is_nan()
}

/// Candidates in the making.
struct Found<'c> {
    candidates: &'c mut [Candidate],
    len: usize,
    rows: usize,
}

impl Found<'_> {
    fn push(&mut self, candidate: Candidate) {
        self.candidates[self.len] = candidate;
        self.len += 1;
        self.rows += 1;
    }

    /// What a row must reach to matter, given these; never as low as a bound that is used up.
    fn threshold(&mut self, need: Need) -> f32 {
        let found = &mut self.candidates[..self.len];
        let threshold = match need {
            Need::Best => best(found).map_or(f32::MIN, |best| best.score),
            Need::Within(below) => best(found).map_or(f32::MIN, |best| best.score - below),
            Need::Top(k) if k <= found.len() => {
                found.select_nth_unstable_by(k - 1, crate::sampler::better).1.score
            }
            _ => f32::MIN,
        };
        // Also if it is no number.
        if threshold > f32::MIN { threshold } else { f32::MIN }
    }
}
