//! Attention of a batch's rows over the cells that they may see.
//!
//! A row sees the first `visible` cells of its sequence and then its branch of a label trie. Counted in that order the
//! cells are cut into pages of 32 and into spans of 256. A span is a running softmax over its pages
//! ([`tern_kernels::attention`]) that starts from nothing, and spans are put together in order. The cut depends on what
//! a row sees and on nothing else: one worker may take a row whole or several may take its spans, and the bits are the
//! same. Because a branch counts on where the text ends, a label has the bits of the same text as a prompt.

use bytemuck::cast_slice_mut;
use tern_kernels::KernelSet;
use tern_kernels::exp::exp;

use crate::forward::{Machine, Row};
use crate::kv_cache::{HeadAt, KvCache, PAGE_CELLS, Strip};
use crate::model::Config;
use crate::parallel::{self, Grid, Segment};

/// Cells that are always computed together, a whole number of pages.
const SPAN_CELLS: usize = 8 * PAGE_CELLS;
/// Rows are split into spans where there are fewer tasks than this for each worker: with more, a worker that ends
/// early finds something else to do.
const ENOUGH_TASKS: usize = 4;

/// Sizes of one task: the query heads that share a key/value head.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// Query heads.
    queries: usize,
    head_dim: usize,
}

impl Group {
    fn of(config: &Config) -> Self {
        Group { queries: config.heads / config.kv_heads, head_dim: config.head_dim }
    }

    /// Floats of a running softmax: a mixture, a maximum and a sum of each query.
    const fn state_len(self) -> usize {
        self.queries * (self.head_dim + 2)
    }

    /// Floats of what a task works with: its queries, the scores of two pages, what is carried.
    const fn work_len(self) -> usize {
        self.queries * (self.head_dim + 2 * PAGE_CELLS + 1)
    }
}

/// Words of scratch that attention takes of each worker.
pub(crate) fn scratch_words(config: &Config) -> usize {
    let group = Group::of(config);
    // Two states: the row so far, and a span.
    (2 * group.state_len() + group.work_len()).div_ceil(2)
}

/// Floats for the spans of rows that are split, in batches of up to `rows` rows that see at most `cells` cells.
pub(crate) fn spans_len(config: &Config, rows: usize, cells: usize, workers: usize) -> usize {
    if workers == 1 {
        return 0;
    }
    let tasks = (rows * config.kv_heads).min(ENOUGH_TASKS * workers);
    tasks * cells.div_ceil(SPAN_CELLS) * Group::of(config).state_len()
}

/// A batch, its queries and what they may look at.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub config: &'a Config,
    pub cache: &'a KvCache<'a>,
    pub layer: usize,
    pub rows: &'a [Row],
    /// See [`Row`].
    pub branches: &'a [u32],
    /// Queries before their rotation at the start of each row: `[rows, stride]`.
    pub queries: &'a [f32],
    /// From one row of `queries` to the next.
    pub stride: usize,
    /// Cosines and sines of each position, `[positions, head_dim]`.
    pub rope: &'a [f32],
}

/// A running softmax; borrowed parts of one buffer.
struct State<'a> {
    /// `[queries, head_dim]`, to be divided by `sum`.
    y: &'a mut [f32],
    /// `[queries]`.
    max: &'a mut [f32],
    /// `[queries]`.
    sum: &'a mut [f32],
}

impl<'a> State<'a> {
    fn new(group: Group, floats: &'a mut [f32]) -> Self {
        let (y, rest) = floats.split_at_mut(group.queries * group.head_dim);
        let (max, rest) = rest.split_at_mut(group.queries);
        State { y, max, sum: &mut rest[..group.queries] }
    }
}

/// `out[row][head] = softmax(query . keys / sqrt(head_dim)) . values`, `[rows, heads * head_dim]`.
///
/// `spans` is memory for rows that are split, at least [`spans_len`] floats.
pub(crate) fn attend(
    machine: Machine<'_>,
    scratch: &mut [u64],
    spans: &mut [f32],
    batch: Batch<'_>,
    out: &mut [f32],
) {
    let (group, kv_heads, rows) = (Group::of(batch.config), batch.config.kv_heads, batch.rows);
    let (workers, state_len) = (machine.exec.workers(), group.state_len());
    let most_spans = rows.iter().map(Row::spans).max().unwrap_or(0);
    let split = workers > 1 && most_spans > 1 && rows.len() * kv_heads < ENOUGH_TASKS * workers;
    if split {
        let items = rows.len() * kv_heads * most_spans;
        let states = (&mut spans[..items * state_len], &mut [0u8; 0][..]);
        parallel::rows(machine.exec, scratch, items, states, |scratch, item, state, _| {
            let (task, span) = (item / most_spans, item % most_spans);
            let (row, head) = (task / kv_heads, task % kv_heads);
            if span < rows[row].spans() {
                let work = &mut cast_slice_mut::<u64, f32>(scratch)[..group.work_len()];
                let mut work = Work::new(machine.set, group, &batch, (row, head), work);
                work.span(span, &mut State::new(group, state));
            }
        });
    }
    let done: &[f32] = spans;
    let width = group.queries * group.head_dim;
    let segments = [Segment { cols: kv_heads * width, most_cols: width, most_rows: 1 }];
    let grid = Grid { rows: rows.len(), segments: &segments };
    let out = (&mut out[..rows.len() * kv_heads * width], kv_heads * width);
    parallel::tiles(machine.exec, scratch, out, grid, |scratch, tile, mut stripe| {
        let (row, head) = (tile.rows.start, tile.cols.start / width);
        let floats = cast_slice_mut::<u64, f32>(scratch);
        let (total, floats) = floats.split_at_mut(state_len);
        let (part, floats) = floats.split_at_mut(state_len);
        let mut total = State::new(group, total);
        if split {
            let first = (row * kv_heads + head) * most_spans;
            for span in 0..rows[row].spans() {
                part.copy_from_slice(&done[(first + span) * state_len..][..state_len]);
                put_together(machine.set, group, span, &mut total, &State::new(group, part));
            }
        } else {
            let work = &mut floats[..group.work_len()];
            let mut work = Work::new(machine.set, group, &batch, (row, head), work);
            work.span(0, &mut total);
            for span in 1..rows[row].spans() {
                let mut part = State::new(group, part);
                work.span(span, &mut part);
                put_together(machine.set, group, span, &mut total, &part);
            }
        }
        let pairs = stripe.row(0).chunks_exact_mut(group.head_dim).zip(total.y.chunks_exact(group.head_dim));
        for ((out, y), sum) in pairs.zip(&*total.sum) {
            out.iter_mut().zip(y).for_each(|(out, y)| *out = y / sum);
        }
    });
}

/// Takes span `span` of a row into `total`, which holds the spans before it.
fn put_together(set: &KernelSet, group: Group, span: usize, total: &mut State<'_>, part: &State<'_>) {
    if span == 0 {
        total.y.copy_from_slice(part.y);
        total.max.copy_from_slice(part.max);
        total.sum.copy_from_slice(part.sum);
        return;
    }
    for q in 0..group.queries {
        let max = if part.max[q] > total.max[q] { part.max[q] } else { total.max[q] };
        let (kept, added) = (exp(total.max[q] - max), exp(part.max[q] - max));
        let range = q * group.head_dim..(q + 1) * group.head_dim;
        set.blend(&mut total.y[range.clone()], kept, &part.y[range], added);
        total.sum[q] = total.sum[q] * kept + part.sum[q] * added;
        total.max[q] = max;
    }
}

impl Row {
    /// Cells that it sees.
    fn cells(&self) -> usize {
        (self.visible + self.branch_len) as usize
    }

    /// Spans that they are cut into.
    fn spans(&self) -> usize {
        self.cells().div_ceil(SPAN_CELLS)
    }
}

/// One row and one key/value head at work.
struct Work<'a> {
    set: &'a KernelSet,
    cache: &'a KvCache<'a>,
    at: HeadAt,
    /// Cells of the text.
    visible: usize,
    /// Cells of the branch.
    branch: &'a [u32],
    /// Turned and scaled, `[queries, head_dim]`.
    queries: &'a mut [f32],
    /// `[queries, PAGE_CELLS]`.
    scores: &'a mut [f32],
    /// Scores of a page from which a branch takes one.
    others: &'a mut [f32],
    /// `[queries]`.
    carry: &'a mut [f32],
}

impl<'a> Work<'a> {
    /// Takes the row's queries of the head, turned by its position and divided by the root of their length.
    fn new(
        set: &'a KernelSet,
        group: Group,
        batch: &Batch<'a>,
        (row, head): (usize, usize),
        work: &'a mut [f32],
    ) -> Self {
        let Batch { cache, layer, rows, branches, rope, stride, .. } = *batch;
        let Group { queries: heads, head_dim } = group;
        let (queries, rest) = work.split_at_mut(heads * head_dim);
        let (scores, rest) = rest.split_at_mut(heads * PAGE_CELLS);
        let (others, carry) = rest.split_at_mut(heads * PAGE_CELLS);
        let source = &batch.queries[row * stride + head * heads * head_dim..][..heads * head_dim];
        let row = &rows[row];
        let angles = &rope[row.position as usize * head_dim..][..head_dim];
        let scale = 1.0 / libm::sqrtf(head_dim as f32);
        for (from, to) in source.chunks_exact(head_dim).zip(queries.chunks_exact_mut(head_dim)) {
            set.rotate(from, angles, scale, to);
        }
        Work {
            set,
            cache,
            at: HeadAt { slot: row.slot as usize, layer, head },
            visible: row.visible as usize,
            branch: &branches[row.branch_start as usize..(row.branch_start + row.branch_len) as usize],
            queries,
            scores,
            others,
            carry,
        }
    }

    /// The running softmax over span `span`, from nothing.
    fn span(&mut self, span: usize, state: &mut State<'_>) {
        state.y.fill(0.0);
        state.max.fill(f32::NEG_INFINITY);
        state.sum.fill(0.0);
        let cells = self.visible + self.branch.len();
        let end = cells.min((span + 1) * SPAN_CELLS);
        for first in (span * SPAN_CELLS..end).step_by(PAGE_CELLS) {
            self.page(first, end.min(first + PAGE_CELLS) - first, state);
        }
    }

    /// Cells `first..first + count` in the order of the row, `first` a multiple of a page.
    fn page(&mut self, first: usize, count: usize, state: &mut State<'_>) {
        let in_text = self.visible.saturating_sub(first).min(count);
        let text = (in_text > 0).then(|| self.cache.strip(self.at, first));
        if let Some(strip) = &text {
            score(self.set, strip, self.queries, self.scores);
        }
        // A branch is short: where it begins a page of its own or goes on one, its cells are scored one at a time.
        for i in in_text..count {
            let (strip, cell) = self.branch_cell(first + i);
            score(self.set, &strip, self.queries, self.others);
            let pages = self.scores.chunks_exact_mut(PAGE_CELLS).zip(self.others.chunks_exact(PAGE_CELLS));
            pages.for_each(|(scores, others)| scores[i] = others[cell]);
        }
        if count < PAGE_CELLS {
            self.scores.chunks_exact_mut(PAGE_CELLS).for_each(|page| page[count..].fill(f32::NEG_INFINITY));
        }
        self.set.soften(self.scores, state.max, state.sum, self.carry);
        if let Some(strip) = &text {
            if let Some(scales) = strip.value_scales() {
                scale_pages(self.scores, 0, &scales[..in_text]);
            }
            self.set.mix(strip.values(0, in_text), self.scores, self.carry, state.y);
            self.carry.fill(1.0);
        }
        for i in in_text..count {
            let (strip, cell) = self.branch_cell(first + i);
            if let Some(scales) = strip.value_scales() {
                scale_pages(self.scores, i, &scales[cell..=cell]);
            }
            self.set.mix(strip.values(cell, 1), &self.scores[i..], self.carry, state.y);
            self.carry.fill(1.0);
        }
    }

    /// Where cell `at` of the row lies, which is one of its branch: the page's strip and the cell on it.
    fn branch_cell(&self, at: usize) -> (Strip<'a>, usize) {
        let cell = self.branch[at - self.visible] as usize;
        (self.cache.strip(self.at, cell), cell % PAGE_CELLS)
    }
}

/// Scores of all cells of a strip's page.
fn score(set: &KernelSet, strip: &Strip<'_>, queries: &[f32], scores: &mut [f32]) {
    set.scores(strip.keys, queries, scores);
    if let Some(scales) = strip.key_scales() {
        scale_pages(scores, 0, scales);
    }
}

/// `scores[q][first + i] *= scales[i]`.
fn scale_pages(scores: &mut [f32], first: usize, scales: &[f32]) {
    for page in scores.chunks_exact_mut(PAGE_CELLS) {
        page[first..].iter_mut().zip(scales).for_each(|(score, scale)| *score *= scale);
    }
}
