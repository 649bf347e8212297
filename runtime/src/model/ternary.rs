//! Ternary matrices as kernels multiply with them, and what becomes of those of a file.
//!
//! A matrix has one scale, `weight = trit * scale`, or one for each row and group of columns. In groups it lies as one
//! matrix for each group, one after another, each in the kernels' layout: then any kernels can meet a whole run of rows of a
//! group, and all its scales lie side by side (`docs/layouts.md`).

use core::fmt;
use core::ops::Range;

use tern_kernels::layout::MAX_COLS;
use tern_kernels::{Coding, Layout};

use super::loading::{MIN_GROUP, block_scale};
use crate::error::{LoadError, Name};
use crate::gguf::{Gguf, TensorInfo, optional};

/// Key of the number of columns that share a scale, in a packed file whose matrices lie in groups.
pub const GROUP_KEY: &str = "tern.pack.group";

/// A ternary matrix `[rows, cols]` in the layout of the model's kernel set.
#[derive(Clone, Copy, Debug)]
pub struct Ternary<'a> {
    /// Codes; in groups, those of one group after those of another.
    pub packed: &'a [u8],
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// What weights are multiplied by.
    pub scales: Scales<'a>,
}

/// What the weights of a matrix are multiplied by.
#[derive(Clone, Copy, Debug)]
pub enum Scales<'a> {
    /// All by the same.
    One(f32),
    /// Those of row `r` and group `g` of columns by `scales[g * rows + r]`.
    Groups {
        /// Columns of a group.
        cols: usize,
        /// `[groups, rows]` as binary16 bits.
        scales: &'a [u16],
    },
}

impl<'a> Ternary<'a> {
    /// Columns that share a scale.
    pub fn group_cols(&self) -> usize {
        match self.scales {
            Scales::One(_) => self.cols,
            Scales::Groups { cols, .. } => cols,
        }
    }

    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        let scales = match self.scales {
            Scales::One(_) => 0,
            Scales::Groups { scales, .. } => size_of_val(scales),
        };
        self.packed.len() + scales
    }

    /// Bytes from the panels of a group to those of the next.
    pub(crate) fn group_stride(&self, layout: Layout) -> usize {
        self.rows.div_ceil(layout.panel_rows()) * layout.panel_bytes(self.group_cols())
    }

    /// From the panels of the first of `groups` that hold `rows`, which begin with one, to those of the last.
    pub(crate) fn panels(&self, layout: Layout, groups: Range<usize>, rows: Range<usize>) -> &'a [u8] {
        let panel_bytes = layout.panel_bytes(self.group_cols());
        let panels = rows.start / layout.panel_rows()..rows.end.div_ceil(layout.panel_rows());
        let [first, last] = [groups.start, groups.end - 1].map(|group| group * self.group_stride(layout));
        &self.packed[first + panels.start * panel_bytes..last + panels.end * panel_bytes]
    }
}

/// The ternary matrices of the layers of `gguf`: those that are multiplied with, not those whose rows are looked up.
pub fn matrices<'a>(gguf: &Gguf<'a>) -> impl Iterator<Item = TensorInfo<'a>> {
    gguf.tensors().filter(is_matrix)
}

/// Whether `info` is one of [`matrices`].
pub fn is_matrix(info: &TensorInfo<'_>) -> bool {
    info.name().starts_with("blk.") && info.ty().is_ternary()
}

/// Columns of the matrices of `gguf` that share a scale, or `None` where each matrix has one. Blocks whose scales are all
/// the same are one scale.
///
/// # Errors
/// If the file says something that cannot be.
pub fn grouping(gguf: &Gguf<'_>) -> Result<Option<usize>, LoadError> {
    let rule = "columns of a matrix are not whole groups with a scale of their own";
    if let Some(cols) = optional(gguf.u32(GROUP_KEY))? {
        let against = cols as usize;
        if !(MIN_GROUP..=MAX_COLS).contains(&against) {
            return Err(LoadError::Inconsistent { rule, found: 0, against });
        }
        return match matrices(gguf).find(|info| !info.row_len().is_multiple_of(u64::from(cols))) {
            None => Ok(Some(against)),
            Some(info) => Err(LoadError::Inconsistent { rule, found: info.row_len() as usize, against }),
        };
    }
    let (mut group, mut is_one) = (0, true);
    for info in matrices(gguf) {
        // What is wrong with a coding is said when the matrix is loaded.
        if let Ok(coding @ Coding::Blocks(block)) = info.coding() {
            group = common(group, block.values());
            is_one = is_one && block_scale(coding, info.data()?).is_some();
        }
    }
    Ok((!is_one).then_some(group))
}

/// The greatest common divisor.
const fn common(a: usize, b: usize) -> usize {
    if a == 0 { b } else { common(b % a, a) }
}

/// Bytes of a matrix in `layout`, in groups of `group` columns where there are groups.
///
/// # Errors
/// If the layout has no room for it.
pub fn packed_bytes(
    layout: Layout,
    rows: usize,
    cols: usize,
    group: Option<usize>,
) -> Result<usize, LoadError> {
    match group {
        None => layout.bytes(rows, cols).ok_or(LoadError::Inconsistent {
            rule: "columns do not fit the kernels' layout",
            found: cols,
            against: layout.col_multiple(),
        }),
        Some(group) => {
            layout.grouped_bytes(rows, cols, group).ok_or(ScalesError::Layout { group, layout }.into())
        }
    }
}

/// The layout of the ternary matrices of `gguf`, if all have the same: kernels for it can use the file as it is mapped.
pub fn file_layout(gguf: &Gguf<'_>) -> Option<Layout> {
    let mut layouts = matrices(gguf).map(|info| info.ty().layout());
    let first = layouts.next()??;
    layouts.all(|layout| layout == Some(first)).then_some(first)
}

/// Why scales of groups of columns cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ScalesError {
    /// The kernels' layout does not take matrices in such groups.
    Layout {
        /// Columns that share a scale.
        group: usize,
        /// The layout.
        layout: Layout,
    },
    /// A scale is no number of binary16, as which such scales are kept.
    NotHalf {
        /// The tensor.
        tensor: Name,
        /// The scale.
        found: f32,
    },
}

impl fmt::Display for ScalesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Layout { group, layout } => {
                write!(
                    f,
                    "every {group} columns of its matrices have a scale of their own, which kernels for layout {} do not \
                     take; leave the choice of kernels to Tern or take a set for one of",
                    layout.name()
                )?;
                let others = Layout::ALL.into_iter().filter(|layout| layout.takes_groups(group));
                for (at, other) in others.enumerate() {
                    write!(f, "{} {}", if at == 0 { "" } else { "," }, other.name())?;
                }
                Ok(())
            }
            Self::NotHalf { tensor, found } => write!(
                f,
                "tensor '{tensor}' has the scale {found} for some columns, which binary16 cannot hold; convert the model with \
                 scales that it can"
            ),
        }
    }
}

impl core::error::Error for ScalesError {}

impl From<ScalesError> for LoadError {
    fn from(error: ScalesError) -> Self {
        LoadError::Scales(error)
    }
}
