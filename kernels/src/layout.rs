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
    /// Two bits a weight, a byte holding one column of four rows, in panels of 16 rows. For each 16 columns a panel
    /// holds 64 bytes: byte `16 g + l` is column `l` of rows `4g` to `4g + 3`, the first in the lowest bits. The first
    /// three are codes (weight plus one), the fourth is two's complement, so that `b & 3`, `b & 15`, `b & 63` and `b`
    /// itself, a signed byte, can be multiplied as they are. Rows past the end are zeros.
    T2R4,
    /// Five weights a byte (see [`crate::five`]), a byte holding one column of five rows, in panels of 10 rows. For
    /// each 16 columns a panel holds 32 bytes: byte `16 g + l` is column `l` of rows `5g` to `5g + 4`. Rows past the
    /// end are zeros.
    T5R,
    /// Five weights a byte (see [`crate::five`]), a byte holding five columns of one row, in panels of 16 rows. For
    /// each block of 80 columns a panel holds 256 bytes, 16 a row: byte `l` is columns `80b + l`, `+16`, `+32`, `+48`
    /// and `+64`. Rows and columns past the end are zeros.
    T5C,
}

/// The most columns of a matrix: 256 times the largest sum, 65,280 x 128 x 256, stays inside an `i32`, which the products of
/// [`crate::five`] need; plain sums have eight bits to spare.
pub const MAX_COLS: usize = (1 << 16) - 256;

impl Layout {
    /// Every layout this crate knows.
    pub const ALL: [Layout; 5] = [Layout::T2B128, Layout::Tl1P32, Layout::T2R4, Layout::T5R, Layout::T5C];

    /// The name used in files, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::T2B128 => "t2b128",
            Layout::Tl1P32 => "tl1p32",
            Layout::T2R4 => "t2r4",
            Layout::T5R => "t5r",
            Layout::T5C => "t5c",
        }
    }

    /// The layout called `name`, if there is one.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }

    /// Columns come in multiples of this many.
    pub const fn col_multiple(self) -> usize {
        match self {
            Layout::T2B128 => 128,
            Layout::Tl1P32 => 4,
            Layout::T2R4 | Layout::T5R | Layout::T5C => 16,
        }
    }

    /// Rows are stored in panels of this many; a matrix may only be cut between panels.
    pub const fn panel_rows(self) -> usize {
        match self {
            Layout::T2B128 => 1,
            Layout::Tl1P32 => 32,
            Layout::T2R4 | Layout::T5C => 16,
            Layout::T5R => 10,
        }
    }

    /// Bytes of one panel with `cols` columns.
    pub const fn panel_bytes(self, cols: usize) -> usize {
        match self {
            Layout::T2B128 => cols / 4,
            Layout::Tl1P32 => 8 * cols,
            Layout::T2R4 => 4 * cols,
            Layout::T5R => 2 * cols,
            Layout::T5C => 256 * cols.div_ceil(80),
        }
    }

    /// Bytes of a whole matrix, or `None` if `cols` does not fit the layout or the size overflows.
    pub const fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.col_multiple()) || cols > MAX_COLS {
            return None;
        }
        rows.div_ceil(self.panel_rows()).checked_mul(self.panel_bytes(cols))
    }

    /// Whether a matrix whose rows have a scale for every `cols` columns can lie in this layout as one matrix for each such
    /// group, one after another (`docs/layouts.md`), in no more bytes than without groups.
    pub const fn takes_groups(self, cols: usize) -> bool {
        let is_whole = cols > 0 && cols <= MAX_COLS && cols.is_multiple_of(self.col_multiple());
        // Five groups are whole blocks of every layout, so a block that a group leaves half empty shows.
        is_whole && self.panel_bytes(5 * cols) == 5 * self.panel_bytes(cols)
    }

    /// Bytes of a matrix in groups of `group` columns, see [`takes_groups`](Self::takes_groups); `None` if `cols` are not
    /// whole groups, the layout does not take them or the size overflows.
    pub const fn grouped_bytes(self, rows: usize, cols: usize, group: usize) -> Option<usize> {
        if !self.takes_groups(group) || !cols.is_multiple_of(group) || cols > MAX_COLS {
            return None;
        }
        match self.bytes(rows, group) {
            Some(bytes) => bytes.checked_mul(cols / group),
            None => None,
        }
    }

    /// Index of the first byte of `packed` that no packer writes, if there is one; `docs/layouts.md` says which those are.
    pub fn first_invalid(self, packed: &[u8]) -> Option<usize> {
        match self {
            Layout::T2B128 => crate::trit::first_invalid(packed),
            Layout::Tl1P32 => packed.iter().position(|byte| byte & 15 > 8 || byte >> 4 > 8),
            // Codes of 3 in the lower three fields; -2 in the top one.
            Layout::T2R4 => packed.iter().position(|b| b & (b >> 1) & 0x15 != 0 || b >> 6 == 2),
            Layout::T5R | Layout::T5C => crate::five::first_invalid(packed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_panels_and_blocks() {
        assert_eq!(Layout::T2B128.bytes(3, 256), Some(3 * 64));
        assert_eq!(Layout::Tl1P32.bytes(33, 256), Some(2 * 32 * 64));
        assert_eq!(Layout::T2R4.bytes(17, 256), Some(2 * 16 * 64));
        assert_eq!(Layout::T5R.bytes(2560, 2560), Some(2560 * 2560 / 5));
        assert_eq!(Layout::T5R.bytes(6912, 2560), Some(6920 * 2560 / 5));
        assert_eq!(Layout::T5C.bytes(2560, 2560), Some(2560 * 2560 / 5));
        assert_eq!(Layout::T5C.bytes(16, 96), Some(16 * 2 * 16));
        assert_eq!(Layout::T2B128.bytes(0, 128), Some(0));
    }

    #[test]
    fn columns_that_do_not_fit_have_no_size() {
        assert_eq!(Layout::T2B128.bytes(1, 8640), None);
        assert_eq!(Layout::Tl1P32.bytes(1, 6), None);
        assert_eq!(Layout::T5R.bytes(1, 8), None);
        assert_eq!(Layout::T2B128.bytes(1, MAX_COLS + 128), None);
        assert_eq!(Layout::T2B128.bytes(usize::MAX, 256), None);
    }

    #[test]
    fn groups_are_matrices_of_their_own_where_they_fill_blocks() {
        for (layout, takes) in
            Layout::ALL.into_iter().zip([[false, true], [true; 2], [true; 2], [true; 2], [false; 2]])
        {
            assert_eq!([64, 128].map(|group| layout.takes_groups(group)), takes, "{}", layout.name());
            for (group, takes) in [64, 128].into_iter().zip(takes) {
                let bytes = layout.grouped_bytes(33, 640, group);
                assert_eq!(bytes, if takes { layout.bytes(33, 640) } else { None });
            }
        }
        assert!(!Layout::T5R.takes_groups(0) && !Layout::T5R.takes_groups(24));
        assert_eq!(Layout::T5R.grouped_bytes(10, 192, 128), None);
    }

    #[test]
    fn names_lead_back() {
        for layout in Layout::ALL {
            assert_eq!(Layout::by_name(layout.name()), Some(layout));
        }
        assert_eq!(Layout::by_name("t7"), None);
    }
}
