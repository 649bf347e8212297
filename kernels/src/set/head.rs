//! What LM heads need beside float products: the product with one plane of an int8 matrix, which is all that layout
//! `h8n2` asks for, and widening rows that files store in blocks.

use super::KernelSet;
use crate::blocks::{self, Blocks};
use crate::planes::{nibble_at, padded_cols, row_bytes};

/// Rows of one plane and the tokens they meet; lengths were checked by [`KernelSet::nibble_dots`].
#[derive(Clone, Copy, Debug)]
pub struct Nibbles<'a> {
    /// `rows` rows of a plane of layout `h8n2`.
    pub plane: &'a [u8],
    /// Rows.
    pub rows: usize,
    /// Columns, whole blocks of 128.
    pub cols: usize,
    /// Int8 activations: token `t` is `x[t * stride..][..cols]`.
    pub x: &'a [i8],
    /// Tokens.
    pub tokens: usize,
    /// From one token to the next, at least `cols`.
    pub stride: usize,
}

impl<'a> Nibbles<'a> {
    /// The plane's bytes of row `row`.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = row_bytes(self.cols);
        &self.plane[row * bytes..(row + 1) * bytes]
    }

    /// The activations of token `token`.
    #[inline(always)]
    pub fn token(&self, token: usize) -> &'a [i8] {
        &self.x[token * self.stride..][..self.cols]
    }
}

/// The head's functions of a set. Sums are exact and widened values rounded in one order, so every set returns the same.
#[derive(Clone, Copy, Debug)]
pub struct HeadOps {
    /// `sums[t * rows + r] = sum_c nibble[r][c] * x[t][c]`.
    pub nibble_dots: fn(nibbles: Nibbles<'_>, sums: &mut [i32]),
    /// See [`crate::blocks::widen`].
    pub widen: fn(blocks: Blocks, bytes: &[u8], out: &mut [f32]),
}

/// [`HeadOps`] by the definition.
pub const PLAIN_HEAD: HeadOps =
    HeadOps { nibble_dots, widen: |blocks, bytes, out| blocks::widen(blocks, bytes, out) };

fn nibble_dots(nibbles: Nibbles<'_>, sums: &mut [i32]) {
    for row in 0..nibbles.rows {
        let plane = nibbles.row(row);
        for token in 0..nibbles.tokens {
            let x = nibbles.token(token).iter().enumerate();
            let products = x.map(|(c, x)| i32::from(nibble_at(plane, c)) * i32::from(*x));
            sums[token * nibbles.rows + row] = products.sum();
        }
    }
}

impl KernelSet {
    /// `sums[t * rows + r] = sum_c nibble[r][c] * x[t * stride + c]`, exact: `plane: [rows, cols]` of layout `h8n2`
    /// ([`crate::planes`]), any int8 `x`, `sums: [tokens, rows]`. The plane is read once for up to eight tokens.
    ///
    /// # Panics
    /// If a length does not belong to the shape, or `cols` is not whole blocks.
    pub fn nibble_dots(&self, nibbles: Nibbles<'_>, sums: &mut [i32]) {
        let Nibbles { plane, rows, cols, x, tokens, stride } = nibbles;
        assert!(cols == padded_cols(cols) && cols <= crate::layout::MAX_COLS, "{cols} columns of a plane");
        assert_eq!(plane.len(), rows * row_bytes(cols), "a plane of {rows} x {cols}");
        assert_eq!(sums.len(), tokens * rows, "sums of {tokens} x {rows}");
        if tokens == 0 || rows == 0 {
            return;
        }
        assert!(stride >= cols && x.len() >= (tokens - 1) * stride + cols, "{tokens} tokens of a plane");
        (self.vector.head.nibble_dots)(nibbles, sums);
    }

    /// Widens the values in `bytes`, whole blocks of one type, into `out`.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn widen(&self, blocks: Blocks, bytes: &[u8], out: &mut [f32]) {
        let count = out.len() / blocks.values();
        let whole = out.len().is_multiple_of(blocks.values()) && bytes.len() == count * blocks.bytes();
        assert!(whole, "{} bytes of {blocks:?} for {} values", bytes.len(), out.len());
        (self.vector.head.widen)(blocks, bytes, out);
    }
}
