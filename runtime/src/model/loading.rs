//! Ternary tensors of a file, checked, as matrices in the kernels' layout.
//!
//! Codes in a layout of ours are used where they are mapped, or moved into the kernels' layout; those of other programs are
//! read row by row ([`Rows`]) and packed some rows at a time, through a few rows of memory that the arena gives once.

use core::ops::Range;

use tern_kernels::half::{f16_to_f32, f32_to_f16};
use tern_kernels::layout::MAX_COLS;
use tern_kernels::{Coding, Layout, pack};

use super::ternary::{Scales, ScalesError, Ternary, grouping, matrices, packed_bytes};
use crate::arena::{Arena, slice_bytes};
use crate::error::LoadError;
use crate::gguf::{Gguf, TensorInfo, TensorType};

/// Fewest columns that share a scale.
pub(super) const MIN_GROUP: usize = 64;

/// The most scales of a row.
pub const MAX_SCALES: usize = MAX_COLS / MIN_GROUP;

/// Takes the ternary tensors of one file.
pub(super) struct Loader<'g, 'a> {
    gguf: &'g Gguf<'a>,
    group: Option<usize>,
    place: Place<'a>,
}

/// Where matrices go.
enum Place<'a> {
    /// Nowhere: they are looked at where they lie, with one row of memory.
    File(&'a mut [i8]),
    /// Into this layout where they lie in another, by way of a few rows of weights.
    Layout(Layout, &'a mut [i8]),
}

/// Bytes of rows that a `Loader` needs, for matrices of `gguf` that lie in a coding of other programs; none without them.
pub fn rows_bytes(gguf: &Gguf<'_>, layout: Option<Layout>) -> Result<usize, LoadError> {
    let (rows, group) = (layout.map_or(1, pack::rows_at_once), grouping(gguf)?);
    let foreign = matrices(gguf).filter(|info| lies_in(info, group).is_none());
    let widest = foreign.map(|info| info.row_len()).max().unwrap_or(0);
    usize::try_from(widest).ok().and_then(|cols| cols.checked_mul(rows)).ok_or(LoadError::PlanOverflow)
}

/// The layout of ours that a matrix of a model in groups of `group` columns, or in none, lies in.
fn lies_in(info: &TensorInfo<'_>, group: Option<usize>) -> Option<Layout> {
    let is_ours = group.is_none() || matches!(info.ty(), TensorType::Packed(_));
    info.ty().layout().filter(|_| is_ours)
}

impl<'g, 'a> Loader<'g, 'a> {
    /// For the matrices of `gguf`, to lie in `layout`, or to be looked at where they lie.
    pub fn new(gguf: &'g Gguf<'a>, layout: Option<Layout>, arena: &mut Arena<'a>) -> Result<Self, LoadError> {
        let rows = arena.take(rows_bytes(gguf, layout)?)?;
        let place = match layout {
            Some(layout) => Place::Layout(layout, rows),
            None => Place::File(rows),
        };
        Ok(Loader { gguf, group: grouping(gguf)?, place })
    }

    /// Columns that share a scale, where they do not all.
    pub fn group(&self) -> Option<usize> {
        self.group
    }

    /// The matrix `info`, which must be `[rows, cols]`. What is looked at where it lies has the codes of the file, whatever
    /// their coding.
    pub fn ternary(
        &mut self,
        info: &TensorInfo<'a>,
        (rows, cols): (usize, usize),
        arena: &mut Arena<'a>,
    ) -> Result<Ternary<'a>, LoadError> {
        info.expect_shape(cols as u64, rows as u64)?;
        // What is wrong with the type is said first.
        info.coding()?;
        match lies_in(info, self.group) {
            Some(found) => self.of_layout(info, found, (rows, cols), arena),
            None => self.of_rows(info, (rows, cols), arena),
        }
    }

    /// A matrix in a layout of ours.
    fn of_layout(
        &mut self,
        info: &TensorInfo<'a>,
        found: Layout,
        (rows, cols): (usize, usize),
        arena: &mut Arena<'a>,
    ) -> Result<Ternary<'a>, LoadError> {
        let data = info.data()?;
        let (codes, tail) = data.split_at(packed_bytes(found, rows, cols, self.group)?.min(data.len()));
        // A byte of five weights is five weights whatever it says; in the other layouts a code may be none.
        let checks_codes = !matches!(found, Layout::T5R | Layout::T5C);
        if checks_codes && let Some(at_bytes) = found.first_invalid(codes) {
            return Err(LoadError::InvalidCode { tensor: info.name().into(), at_bytes });
        }
        let scales = match self.group {
            None => one_scale(info, tail)?,
            Some(group) => {
                Scales::Groups { cols: group, scales: group_scales(self.gguf, info, rows, cols / group)? }
            }
        };
        let packed = match &self.place {
            Place::Layout(layout, _) if *layout != found => {
                let packed = arena.take(packed_bytes(*layout, rows, cols, self.group)?)?;
                move_groups(found, codes, *layout, (rows, cols), self.group, packed);
                packed
            }
            _ => codes,
        };
        Ok(Ternary { packed, rows, cols, scales })
    }

    /// A matrix in a coding of other programs.
    fn of_rows(
        &mut self,
        info: &TensorInfo<'a>,
        (rows, cols): (usize, usize),
        arena: &mut Arena<'a>,
    ) -> Result<Ternary<'a>, LoadError> {
        let source = Rows::new(self.gguf, info, self.group)?;
        let (group, groups) = (self.group.unwrap_or(cols), source.scales());
        let mut row_scales = [0f32; MAX_SCALES];
        let row_scales = &mut row_scales[..groups];
        let (layout, lines) = match &mut self.place {
            Place::File(line) => {
                for row in 0..rows {
                    source.read(row, &mut line[..cols], row_scales)?;
                }
                let scales = Scales::One(row_scales.first().copied().unwrap_or(0.0));
                return Ok(Ternary { packed: info.data()?, rows, cols, scales });
            }
            Place::Layout(layout, lines) => (*layout, lines),
        };
        let packed = arena.take(packed_bytes(layout, rows, cols, self.group)?)?;
        let scales = arena.take::<u16>(if self.group.is_some() { groups * rows } else { 0 })?;
        let height = pack::rows_at_once(layout);
        for first in (0..rows).step_by(height) {
            let some = height.min(rows - first);
            let lines = &mut lines[..some * cols];
            for (line, row) in lines.chunks_exact_mut(cols).zip(first..) {
                source.read(row, line, row_scales)?;
                for (at, scale) in row_scales.iter().enumerate().filter(|_| self.group.is_some()) {
                    scales[at * rows + row] = f32_to_f16(*scale);
                }
            }
            for (at, panels) in group_panels(layout, rows, group, packed, first..first + some).enumerate() {
                pack::pack_rows(layout, lines, cols, at * group..(at + 1) * group, panels);
            }
        }
        let scales = match self.group {
            Some(cols) => Scales::Groups { cols, scales },
            None => Scales::One(source.one.unwrap_or(row_scales[0])),
        };
        Ok(Ternary { packed, rows, cols, scales })
    }
}

/// The panels of `rows`, which begin with one, in each of the groups of `group` columns of a matrix of `all_rows`.
fn group_panels(
    layout: Layout,
    all_rows: usize,
    group: usize,
    packed: &mut [u8],
    rows: Range<usize>,
) -> impl Iterator<Item = &mut [u8]> {
    let (panel, bytes) = (layout.panel_rows(), layout.panel_bytes(group));
    let panels = rows.start / panel * bytes..rows.end.div_ceil(panel) * bytes;
    let each = (all_rows.div_ceil(panel) * bytes).max(1);
    packed.chunks_exact_mut(each).map(move |of_group| &mut of_group[panels.clone()])
}

/// A ternary matrix of a file, to be read row by row, with its scales as a model in groups wants them.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    tensor: &'a str,
    coding: Coding,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
    /// Columns that share a scale in the model.
    group: Option<usize>,
    /// The scale of the whole matrix, where blocks have their own and the model does not.
    one: Option<f32>,
    /// The scales of a packed matrix in groups, `[groups, rows]` as binary16 bits.
    beside: Option<&'a [u16]>,
}

impl<'a> Rows<'a> {
    /// The matrix `info` of `gguf`, a model in groups of `group` columns or one with one scale a matrix
    /// ([`grouping`]).
    ///
    /// # Errors
    /// If it is not ternary, its shape not one of the coding, or its scales are not where they should be.
    pub fn new(gguf: &Gguf<'a>, info: &TensorInfo<'a>, group: Option<usize>) -> Result<Self, LoadError> {
        let (coding, bytes) = (info.coding()?, info.data()?);
        let (rows, cols) = (info.rows() as usize, info.row_len() as usize);
        let too_many = |found: usize| LoadError::TooMany {
            what: "scales of a row",
            found: found as u64,
            most: MAX_SCALES as u64,
        };
        let scales = coding.scales(cols).max(group.map_or(1, |group| cols / group));
        if scales > MAX_SCALES {
            return Err(too_many(scales));
        }
        let one = match (coding, group) {
            (Coding::Blocks(_), None) => Some(block_scale(coding, bytes).unwrap_or(f32::NAN)),
            _ => None,
        };
        let beside = match (group, lies_in(info, group)) {
            (Some(group), Some(layout)) => {
                packed_bytes(layout, rows, cols, Some(group))?;
                Some(group_scales(gguf, info, rows, cols / group)?)
            }
            _ => None,
        };
        Ok(Rows { tensor: info.name(), coding, bytes, rows, cols, group, one, beside })
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Columns that share a scale in the model, where they do not all.
    pub fn group(&self) -> Option<usize> {
        self.group
    }

    /// The scale of the whole matrix, where it has one.
    ///
    /// # Errors
    /// If it is no number that can be used.
    pub fn one_scale(&self) -> Result<Option<f32>, LoadError> {
        if self.group.is_some() {
            return Ok(None);
        }
        let tail = self.coding.code_bytes(self.rows, self.cols).and_then(|codes| self.bytes.get(codes..));
        let behind = || tail?.first_chunk().map(|bytes| f32::from_le_bytes(*bytes));
        match self.one.or_else(behind) {
            Some(scale) if scale.is_finite() => Ok(Some(scale)),
            _ => Err(LoadError::NotFinite { what: self.tensor.into() }),
        }
    }

    /// Scales of a row.
    pub fn scales(&self) -> usize {
        self.group.map_or(1, |group| self.cols / group)
    }

    /// Reads row `row`: `weights: [cols]`, and `scales: [scales()]`, each of which is one of binary16 in a model in groups.
    /// Weights whose scale is 0 are 0.
    ///
    /// # Errors
    /// If a code stands for no weight, or a scale is no number that can be used.
    pub fn read(&self, row: usize, weights: &mut [i8], scales: &mut [f32]) -> Result<(), LoadError> {
        let Self { rows, cols, .. } = *self;
        let tensor = self.tensor.into();
        let invalid = |code: tern_kernels::coding::InvalidCode| LoadError::InvalidCode {
            tensor,
            at_bytes: code.at_bytes,
        };
        if let (Some(beside), Some(group), Coding::Layout(layout)) = (self.beside, self.group, self.coding) {
            let bytes = layout.bytes(rows, group).unwrap_or(0);
            for (at, weights) in weights.chunks_exact_mut(group).enumerate() {
                // What stands behind a group is the next one, and no scale.
                let rest = &self.bytes[at * bytes..];
                self.coding.row_into(rest, rows, group, row, weights, &mut [0.0]).map_err(invalid)?;
                scales[at] = f16_to_f32(beside[at * rows + row]);
            }
            return Ok(());
        }
        let mut found = [0f32; MAX_SCALES];
        let found = &mut found[..self.coding.scales(cols)];
        self.coding.row_into(self.bytes, rows, cols, row, weights, found).map_err(invalid)?;
        if !found.iter().all(|scale| scale.is_finite()) {
            return Err(LoadError::NotFinite { what: tensor });
        }
        let width = cols / found.len();
        for (weights, _) in weights.chunks_exact_mut(width).zip(&*found).filter(|(_, scale)| **scale == 0.0) {
            weights.fill(0);
        }
        match (self.group, self.one) {
            (None, Some(one)) => scales[0] = one,
            (None, None) => scales[0] = found[0],
            (Some(group), _) => {
                for (at, scale) in scales.iter_mut().enumerate() {
                    *scale = found[at * group / width];
                    if f16_to_f32(f32_to_f16(*scale)) != *scale {
                        return Err(ScalesError::NotHalf { tensor, found: *scale }.into());
                    }
                }
            }
        }
        Ok(())
    }
}

/// The one scale of all blocks of `bytes`, apart from those whose scale is 0; `None` if there are several.
pub(super) fn block_scale(coding: Coding, bytes: &[u8]) -> Option<f32> {
    let Coding::Blocks(block) = coding else { return None };
    let mut scales = bytes.chunks_exact(block.bytes()).map(|bytes| block.scale(bytes));
    let first = scales.find(|scale| *scale != 0.0).unwrap_or(0.0);
    scales.all(|scale| scale == first || scale == 0.0).then_some(first)
}

/// Moves a matrix `[rows, cols]`, in groups of columns or whole, from one layout to another.
///
/// # Panics
/// If a length does not belong to the shape.
pub fn move_groups(
    from: Layout,
    source: &[u8],
    to: Layout,
    (rows, cols): (usize, usize),
    group: Option<usize>,
    packed: &mut [u8],
) {
    let group = group.unwrap_or(cols);
    let groups = (cols / group.max(1)).max(1);
    let (source_bytes, packed_bytes) = (source.len() / groups, packed.len() / groups);
    let pieces = source.chunks_exact(source_bytes.max(1)).zip(packed.chunks_exact_mut(packed_bytes.max(1)));
    for (source, packed) in pieces {
        pack::repack(from, source, to, rows, group, packed);
    }
}

/// The scale of a whole matrix, which stands behind its codes.
fn one_scale<'a>(info: &TensorInfo<'_>, tail: &[u8]) -> Result<Scales<'a>, LoadError> {
    let scale = tail.first_chunk().map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes));
    if scale.is_finite() {
        Ok(Scales::One(scale))
    } else {
        Err(LoadError::NotFinite { what: info.name().into() })
    }
}

/// The name of the tensor that holds the scales of matrix `name`, if it can have one.
pub fn scales_name(name: &str) -> Option<heapless::String<48>> {
    let mut scales = heapless::String::new();
    scales.push_str(name.strip_suffix("weight")?).ok()?;
    scales.push_str("scales").ok()?;
    Some(scales)
}

/// The scales of `matrix`, `[groups, rows]` as binary16 bits, from the tensor beside it in a packed file.
///
/// # Errors
/// If it is missing, has another shape or type, or holds what is no number.
pub fn group_scales<'a>(
    gguf: &Gguf<'a>,
    matrix: &TensorInfo<'a>,
    rows: usize,
    groups: usize,
) -> Result<&'a [u16], LoadError> {
    let no_scales = LoadError::TensorMissing { tensor: matrix.name().into() };
    let info = gguf.require(&scales_name(matrix.name()).ok_or(no_scales)?)?;
    info.expect_shape(rows as u64, groups as u64)?;
    if info.ty() != TensorType::F16 {
        return Err(LoadError::TensorType { tensor: info.name().into(), found: info.ty() });
    }
    let misaligned = |_| LoadError::Misaligned { tensor: info.name().into() };
    let scales: &[u16] = bytemuck::try_cast_slice(info.data()?).map_err(misaligned)?;
    // The exponent of infinities and NaN.
    match scales.iter().any(|bits| bits & 0x7c00 == 0x7c00) {
        true => Err(LoadError::NotFinite { what: info.name().into() }),
        false => Ok(scales),
    }
}

/// Bytes of arena that a `Loader` takes for the matrices of `gguf` to lie in `layout`, 0 where they do already.
///
/// # Errors
/// If the layout does not take their groups, a shape does not fit it, or the sum overflows.
pub fn repacked_bytes(gguf: &Gguf<'_>, layout: Layout) -> Result<usize, LoadError> {
    let group = grouping(gguf)?;
    let add = |total: usize, bytes: Option<usize>| {
        bytes.and_then(|bytes| total.checked_add(bytes)).ok_or(LoadError::PlanOverflow)
    };
    let mut total = add(0, slice_bytes::<u8>(rows_bytes(gguf, Some(layout))?))?;
    for info in matrices(gguf).filter(|info| lies_in(info, group) != Some(layout)) {
        let (rows, cols) = (usize::try_from(info.rows()), usize::try_from(info.row_len()));
        let (Ok(rows), Ok(cols)) = (rows, cols) else { return Err(LoadError::PlanOverflow) };
        total = add(total, slice_bytes::<u8>(packed_bytes(layout, rows, cols, group)?))?;
        if let (Some(group), None) = (group, lies_in(&info, group)) {
            total = add(total, (cols / group).checked_mul(rows).and_then(slice_bytes::<u16>))?;
        }
    }
    Ok(total)
}
