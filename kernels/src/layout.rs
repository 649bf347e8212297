//! How a ternary matrix lies in memory. A layout is named after what it is, never after a model or a machine.
//!
//! A matrix has `rows` output features and `cols` input features, weight `(r, c)` multiplying input `c` into
//! output `r`. Scales live outside: a layout holds codes only. `docs/layouts.md` draws each one byte by byte.

/// A byte layout of a ternary matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// Two bits a weight, row after row, in blocks of 128 columns and 32 bytes. In block `b`, byte `l` holds
    /// columns `128b + l`, `+32`, `+64` and `+96`, the first in the top bits. The payload of GGUF type `I2_S` in its
    /// 128-weight form is exactly this, so such a file is used as it is mapped.
    T2B128,
    /// Four-bit indices of weight pairs for table lookup, in panels of 32 rows. For each group of four columns a
    /// panel holds 32 bytes, one a row: the low nibble indexes columns `4g, 4g + 1`, the high one `4g + 2, 4g + 3`;
    /// an index is `3 (w0 + 1) + (w1 + 1)`. Rows past the end are padded with zeros (index 4). The idea is the TL1 of
    /// bitnet.cpp (arXiv 2502.11880, section 3); the tile order is ours and needs no side table.
    Tl1P32,
}

/// The most columns that an exact 32-bit sum is promised for: 2^22 x 128 x 2 stays inside an `i32`.
pub const MAX_COLS: usize = 1 << 22;

impl Layout {
    /// Every layout this crate knows.
    pub const ALL: [Layout; 2] = [Layout::T2B128, Layout::Tl1P32];

    /// The name used in files, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::T2B128 => "t2b128",
            Layout::Tl1P32 => "tl1p32",
        }
    }

    /// Columns come in multiples of this many.
    pub const fn col_multiple(self) -> usize {
        match self {
            Layout::T2B128 => 128,
            Layout::Tl1P32 => 4,
        }
    }

    /// Rows are stored in panels of this many; a matrix may only be cut between panels.
    pub const fn panel_rows(self) -> usize {
        match self {
            Layout::T2B128 => 1,
            Layout::Tl1P32 => 32,
        }
    }

    /// Bytes of one panel with `cols` columns.
    pub const fn panel_bytes(self, cols: usize) -> usize {
        self.panel_rows() * (cols / 4)
    }

    /// Bytes of a whole matrix, or `None` if `cols` does not fit the layout or the size overflows.
    pub const fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.col_multiple()) || cols > MAX_COLS {
            return None;
        }
        rows.div_ceil(self.panel_rows()).checked_mul(self.panel_bytes(cols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_panels_and_blocks() {
        assert_eq!(Layout::T2B128.bytes(3, 256), Some(3 * 64));
        assert_eq!(Layout::Tl1P32.bytes(33, 256), Some(2 * 32 * 64));
        assert_eq!(Layout::T2B128.bytes(0, 128), Some(0));
    }

    #[test]
    fn columns_that_do_not_fit_have_no_size() {
        assert_eq!(Layout::T2B128.bytes(1, 8640), None);
        assert_eq!(Layout::Tl1P32.bytes(1, 6), None);
        assert_eq!(Layout::T2B128.bytes(1, MAX_COLS + 128), None);
        assert_eq!(Layout::T2B128.bytes(usize::MAX, 256), None);
    }
}
