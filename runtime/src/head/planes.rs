//! An int8 head in two planes (layout `h8n2`, [`tern_kernels::planes`]): making one, and its exact logits.
//!
//! Beside its scale a row has four numbers that say how well its high nibbles alone stand for it. With `u` the high
//! nibble of a column and `q` the weight in -127..=127, `slope u + offset` is the straight line that fits the row best,
//! by least squares over its columns; `spread` measures what the line leaves of `q`, `size` the line itself. All four are
//! multiplied by the row's scale. [`super::screen`] uses them.

use tern_kernels::planes::{self, Split, padded_cols, plane_bytes, row_bytes};
use tern_kernels::{KernelSet, Nibbles};

use crate::arena::{Arena, slice_bytes};
use crate::error::LoadError;
use crate::forward::Machine;
use crate::gguf::{Gguf, TensorInfo, TensorType};
use crate::model::{Dense, DenseData};
use crate::parallel::{self, Cut};

/// Rows of the head that one task computes.
pub(super) const TILE_ROWS: usize = 256;
/// Rows whose sums a task holds at a time.
pub(super) const STEP_ROWS: usize = 64;
/// Parts of states that one reading of a plane serves.
pub(super) const STEP_PARTS: usize = 8;
/// Names of the tensors of a head in a packed file: high plane, low plane, factors.
pub const NAMES: [&str; 3] = ["output.planes.high", "output.planes.low", "output.planes.scale"];
/// Numbers that a row has beside its nibbles.
pub const FACTORS: usize = 5;

/// A head in layout `h8n2`.
#[derive(Clone, Copy, Debug)]
pub struct Planes<'a> {
    /// Tokens of the vocabulary.
    pub rows: usize,
    /// Values of a hidden state.
    pub cols: usize,
    /// Upper nibbles, `[rows, cols]`.
    pub high: &'a [u8],
    /// Lower nibbles, `[rows, cols]`.
    pub low: &'a [u8],
    /// `[rows]`: value of one step of `q`.
    pub scale: &'a [f32],
    /// `[rows]`: see the head of this file, like the three that follow.
    pub slope: &'a [f32],
    /// `[rows]`.
    pub offset: &'a [f32],
    /// `[rows]`.
    pub spread: &'a [f32],
    /// `[rows]`.
    pub size: &'a [f32],
}

/// A state to be asked about.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Its parts' sums and scale.
    pub split: Split,
    /// Euclidean length of the state in units of its last bit.
    pub length: f32,
    /// The same of its low part.
    pub low_length: f32,
}

impl Query {
    /// What is asked of a split state.
    pub fn new(split: Split) -> Self {
        let root = |squares: i64| libm::sqrt(squares as f64) as f32;
        Query { split, length: root(split.squares), low_length: root(split.low_squares) }
    }
}

impl<'a> Planes<'a> {
    /// A head of `rows x cols` over two planes and `factors: [5, rows]`: scales, slopes, offsets, spreads, sizes.
    ///
    /// # Errors
    /// If a length does not belong to the shape, or a factor is not finite, or a scale, spread or size is negative.
    pub fn new(
        (rows, cols): (usize, usize),
        high: &'a [u8],
        low: &'a [u8],
        factors: &'a [f32],
    ) -> Result<Self, LoadError> {
        let bytes = plane_bytes(rows, cols).ok_or(LoadError::PlanOverflow)?;
        let lengths = [
            ("bytes of the head's high plane", high.len(), bytes),
            ("bytes of the head's low plane", low.len(), bytes),
            ("factors of the head's rows", factors.len(), FACTORS * rows),
        ];
        if let Some((rule, found, against)) = lengths.into_iter().find(|(_, found, against)| found != against)
        {
            return Err(LoadError::Inconsistent { rule, found, against });
        }
        let part = |i: usize| &factors[i * rows..(i + 1) * rows];
        let [scale, slope, offset, spread, size] = [0, 1, 2, 3, 4].map(part);
        let positive = scale.iter().chain(spread).chain(size).all(|v| *v >= 0.0);
        if !positive || !factors.iter().all(|v| v.is_finite()) {
            return Err(LoadError::NotFinite { what: "factors of the head's rows".into() });
        }
        Ok(Planes { rows, cols, high, low, scale, slope, offset, spread, size })
    }

    /// Whether a file holds a head in planes.
    pub fn are_in(gguf: &Gguf<'_>) -> bool {
        gguf.tensor(NAMES[0]).is_some()
    }

    /// The head that a packed file holds, if it holds one: `output.planes.high` and `.low` of type I8, each
    /// `[vocab, row bytes]`, and `output.planes.scale` of type F32, `[5, vocab]`.
    ///
    /// # Errors
    /// If one of the three is missing, of another shape or type, or holds what no row has.
    pub fn load(gguf: &Gguf<'a>, cols: usize, rows: usize) -> Result<Option<Self>, LoadError> {
        let Some(high) = gguf.tensor(NAMES[0]) else { return Ok(None) };
        let plane = |info: TensorInfo<'a>| {
            info.expect_shape(row_bytes(cols) as u64, rows as u64)?;
            match info.ty() {
                TensorType::I8 => info.data(),
                found => Err(LoadError::TensorType { tensor: info.name().into(), found }),
            }
        };
        let (high, low) = (plane(high)?, plane(gguf.require(NAMES[1])?)?);
        let DenseData::F32(factors) = Dense::load(&gguf.require(NAMES[2])?, rows, FACTORS)?.data else {
            let found = gguf.require(NAMES[2])?.ty();
            return Err(LoadError::TensorType { tensor: NAMES[2].into(), found });
        };
        Planes::new((rows, cols), high, low, factors).map(Some)
    }

    /// Bytes of arena that [`build`](Self::build) takes.
    pub fn arena_bytes(rows: usize, cols: usize) -> Option<usize> {
        let plane = slice_bytes::<u8>(plane_bytes(rows, cols)?)?;
        let factors = slice_bytes::<f32>(rows.checked_mul(FACTORS)?)?;
        plane.checked_mul(2)?.checked_add(factors)?.checked_add(slice_bytes::<f32>(cols)?)
    }

    /// Quantises `head` into the arena.
    ///
    /// # Errors
    /// If the arena is too small or a weight is not finite.
    pub fn build(set: &KernelSet, head: &Dense<'_>, arena: &mut Arena<'a>) -> Result<Self, LoadError> {
        let (rows, cols) = (head.rows, head.cols);
        let bytes = plane_bytes(rows, cols).ok_or(LoadError::PlanOverflow)?;
        let (high, low) = (arena.take(bytes)?, arena.take(bytes)?);
        let factors: &mut [f32] = arena.take(FACTORS * rows)?;
        quantize(set, head, arena.take(cols)?, (high, low), factors)?;
        Planes::new((rows, cols), high, low, factors)
    }

    /// Bytes of the whole head.
    pub fn bytes(&self) -> usize {
        self.high.len() + self.low.len() + FACTORS * size_of_val(self.scale)
    }

    /// Bytes that [`super::bounds`] reads.
    pub fn screened_bytes(&self) -> usize {
        self.high.len() + (FACTORS - 1) * size_of_val(self.scale)
    }

    /// The plane's bytes of `rows`.
    pub(super) fn rows_of<'p>(&self, plane: &'p [u8], rows: core::ops::Range<usize>) -> &'p [u8] {
        let bytes = row_bytes(self.cols);
        &plane[rows.start * bytes..rows.end * bytes]
    }

    /// Every logit of every state, exact: `parts: [n, 2, padded cols]`, `queries: [n]`, `logits: [n, rows]`.
    pub(super) fn logits(
        &self,
        machine: Machine<'_>,
        scratch: &mut [u64],
        parts: &[i8],
        queries: &[Query],
        logits: &mut [f32],
    ) {
        let cut = Cut { segments: &[self.rows], most: TILE_ROWS };
        let cols = padded_cols(self.cols);
        parallel::stripes(machine.exec, scratch, (logits, self.rows), cut, |_, piece, mut stripe| {
            for first in piece.range.clone().step_by(STEP_ROWS) {
                let rows = first..piece.range.end.min(first + STEP_ROWS);
                for (group, queries) in queries.chunks(STEP_PARTS / 2).enumerate() {
                    let parts = &parts[group * STEP_PARTS * cols..][..queries.len() * 2 * cols];
                    let (mut hi, mut lo) = ([0; STEP_PARTS * STEP_ROWS], [0; STEP_PARTS * STEP_ROWS]);
                    let sums = queries.len() * 2 * rows.len();
                    self.sums(machine.set, self.high, rows.clone(), parts, &mut hi[..sums]);
                    self.sums(machine.set, self.low, rows.clone(), parts, &mut lo[..sums]);
                    for (i, query) in queries.iter().enumerate() {
                        let out = stripe.row(group * (STEP_PARTS / 2) + i);
                        let out = &mut out[rows.start - piece.range.start..rows.end - piece.range.start];
                        for (r, out) in out.iter_mut().enumerate() {
                            let (high, low) = (2 * i * rows.len() + r, (2 * i + 1) * rows.len() + r);
                            let sums = [hi[high], lo[high], hi[low], lo[low]];
                            *out = self.value(query, rows.start + r, sums);
                        }
                    }
                }
            }
        });
    }

    /// The logit of row `row` for a state of `parts: [2, padded cols]`: the same bits as among all of them.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn logit(&self, set: &KernelSet, parts: &[i8], query: &Query, row: usize) -> f32 {
        let (mut hi, mut lo) = ([0; 2], [0; 2]);
        self.sums(set, self.high, row..row + 1, parts, &mut hi);
        self.sums(set, self.low, row..row + 1, parts, &mut lo);
        self.value(query, row, [hi[0], lo[0], hi[1], lo[1]])
    }

    /// Nibbles of `rows` times every part in `parts`.
    fn sums(
        &self,
        set: &KernelSet,
        plane: &[u8],
        rows: core::ops::Range<usize>,
        parts: &[i8],
        sums: &mut [i32],
    ) {
        let (cols, plane) = (padded_cols(self.cols), self.rows_of(plane, rows.clone()));
        let tokens = parts.len() / cols;
        set.nibble_dots(Nibbles { plane, rows: rows.len(), cols, x: parts, tokens, stride: cols }, sums);
    }

    fn value(&self, query: &Query, row: usize, sums: [i32; 4]) -> f32 {
        planes::product(&query.split, self.scale[row], planes::total(&query.split, sums))
    }
}

/// Quantises `head: [rows, cols]` into its two planes and `factors: [5, rows]`; `wide: [cols]` is working memory.
///
/// # Errors
/// If a weight is not finite.
///
/// # Panics
/// If a length does not belong to the shape.
pub fn quantize(
    set: &KernelSet,
    head: &Dense<'_>,
    wide: &mut [f32],
    (high, low): (&mut [u8], &mut [u8]),
    factors: &mut [f32],
) -> Result<(), LoadError> {
    let bytes = row_bytes(head.cols);
    assert!(high.len() == head.rows * bytes && low.len() == high.len(), "planes of a head");
    assert_eq!(factors.len(), FACTORS * head.rows, "factors of a head");
    let planes = high.chunks_exact_mut(bytes.max(1)).zip(low.chunks_exact_mut(bytes.max(1)));
    for (row, (high, low)) in planes.enumerate() {
        head.row_into(row, wide);
        if !wide.iter().all(|w| w.is_finite()) {
            return Err(LoadError::NotFinite { what: "a weight of the head".into() });
        }
        let scale = planes::quantize_row(set, wide, high, low);
        for (i, factor) in fit(high, low, head.cols, scale).into_iter().enumerate() {
            factors[i * head.rows + row] = factor;
        }
    }
    Ok(())
}

/// Scale, slope, offset, spread and size of a row of `cols` columns.
///
/// `spread` is the root mean square of what the line leaves, or the largest of it over sqrt 3 where that is more: the
/// two are equal if remainders are spread evenly, and the second one still bounds the deviation if a state points at
/// the very columns where the remainders are.
fn fit(high: &[u8], low: &[u8], cols: usize, scale: f32) -> [f32; FACTORS] {
    // A row has 256 different bytes at most, so everything can be had from how often each occurs.
    let mut counts = [0u32; 256];
    for (high, low) in high.iter().zip(low) {
        counts[usize::from(high << 4 | low & 15)] += 1;
        counts[usize::from(high & 0xf0 | low >> 4)] += 1;
    }
    counts[128] -= (padded_cols(cols) - cols) as u32;
    let bytes = || (0..256).zip(counts).filter(|(_, count)| *count > 0);
    let sum = |term: &dyn Fn(f64, f64) -> f64| {
        let terms = bytes().map(|(byte, n)| f64::from(n) * term(f64::from(byte / 16), f64::from(byte - 128)));
        terms.sum::<f64>()
    };
    let n = cols as f64;
    let (u, q) = (sum(&|u, _| u) / n, sum(&|_, q| q) / n);
    let variance = sum(&|v, _| (v - u) * (v - u));
    let slope = if variance > 0.0 { sum(&|v, w| (v - u) * (w - q)) / variance } else { 0.0 };
    let offset = q - slope * u;
    let rest = |u: f64, q: f64| q - (slope * u + offset);
    let even = libm::sqrt(sum(&|u, q| rest(u, q) * rest(u, q)) / n);
    let most = bytes().map(|(b, _)| rest(f64::from(b / 16), f64::from(b - 128)).abs()).fold(0.0, f64::max);
    let size = libm::sqrt(sum(&|u, _| (slope * u + offset) * (slope * u + offset)) / n);
    let scale64 = f64::from(scale);
    let [slope, offset, size] = [slope, offset, size].map(|v| (v * scale64) as f32);
    [scale, slope, offset, (even.max(most / 1.732_050_807_568_877_2) * scale64) as f32, size]
}
