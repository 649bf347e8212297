//! One ternary product as a test case.

use crate::fill::Fill;
use tern_kernels::{KernelSet, pack};

/// Bytes and numbers before and behind a buffer that nobody may change.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;
const GUARD_SUM: i32 = 0x5a5a_5a5a;

/// A buffer that starts a given number of elements past a 64-byte boundary and has guards on both sides.
struct Guarded<T> {
    elements: Vec<T>,
    start: usize,
    length: usize,
    guard: T,
}

impl<T: Copy + PartialEq> Guarded<T> {
    /// `length` elements, `offset` past a boundary.
    fn new(length: usize, offset: usize, guard: T) -> Self {
        let elements = vec![guard; length + offset + 3 * GUARD];
        let start = GUARD + elements[GUARD..].as_ptr().align_offset(64) + offset;
        Guarded { elements, start, length, guard }
    }

    fn contents(&mut self) -> &mut [T] {
        &mut self.elements[self.start..self.start + self.length]
    }

    fn guards_are_whole(&self) -> bool {
        let (before, behind) = (&self.elements[..self.start], &self.elements[self.start + self.length..]);
        before.iter().chain(behind).all(|e| *e == self.guard)
    }
}

/// A product with the sums that are its definition.
pub struct Product {
    fill: Fill,
    rows: usize,
    cols: usize,
    tokens: usize,
    weights: Vec<i8>,
    activations: Vec<i8>,
    expected: Vec<i32>,
}

impl Product {
    /// The product of a filled matrix `[rows, cols]` and `tokens` filled tokens; the expected sums are computed by
    /// the definition, from unpacked numbers.
    pub fn new(fill: Fill, rows: usize, cols: usize, tokens: usize) -> Self {
        let (weights, activations) = (fill.weights(rows, cols), fill.activations(tokens, cols));
        let dot = |row: usize, token: usize| -> i32 {
            let (weights, activations) =
                (&weights[row * cols..][..cols], &activations[token * cols..][..cols]);
            weights.iter().zip(activations).map(|(w, a)| i32::from(*w) * i32::from(*a)).sum()
        };
        let expected = (0..tokens * rows).map(|i| dot(i % rows, i / rows)).collect();
        Product { fill, rows, cols, tokens, weights, activations, expected }
    }

    /// Packs, prepares and multiplies the first `tokens` tokens with `set`, all buffers `offset` elements past a
    /// boundary.
    ///
    /// # Panics
    /// If a sum differs or something outside the buffers was written; the message names set, fill with seed, shape,
    /// offset and the first difference.
    pub fn check(&self, set: &KernelSet, tokens: usize, offset: usize) {
        let Product { fill, rows, cols, .. } = *self;
        assert!(tokens <= self.tokens, "a case of {} tokens cannot check {tokens}", self.tokens);
        let case = format!("{} with {fill:?}, {rows} x {cols}, {tokens} tokens, offset {offset}", set.name);
        let bytes = set.layout.bytes(rows, cols).expect("columns that fit the layout");
        let mut packed = Guarded::new(bytes, offset, GUARD_BYTE);
        pack::pack(set.layout, &self.weights, rows, cols, packed.contents());
        let stride = set.prepared_bytes(cols);
        let mut prepared = Guarded::new(tokens * stride, offset, GUARD_BYTE);
        for token in 0..tokens {
            let place = &mut prepared.contents()[token * stride..(token + 1) * stride];
            set.prepare(&self.activations[token * cols..(token + 1) * cols], place);
        }
        assert!(prepared.guards_are_whole(), "{case}: prepare wrote outside its buffer");
        let mut sums = Guarded::new(tokens * rows, offset % 16, GUARD_SUM);
        let mut scratch = vec![0u64; set.scratch_words(rows, cols, tokens)];
        let (prepared, sums_place) = (prepared.contents(), sums.contents());
        set.multiply(packed.contents(), rows, cols, prepared, tokens, &mut scratch, sums_place);
        assert!(sums.guards_are_whole(), "{case}: multiply wrote outside its sums");
        let differs =
            sums.contents().iter().zip(&self.expected).position(|(found, expected)| found != expected);
        if let Some(at) = differs {
            let (found, expected) = (sums.contents()[at], self.expected[at]);
            panic!("{case}: token {} row {} is {found}, expected {expected}", at / rows, at % rows);
        }
    }
}
