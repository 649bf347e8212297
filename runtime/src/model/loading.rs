//! Ternary tensors of a file, checked, as matrices in the kernels' layout.

use tern_kernels::{Layout, pack};

use super::ternary::{GROUP_KEY, Scales, Ternary, grouping, packed_bytes};
use crate::arena::Arena;
use crate::error::{LoadError, Name};
use crate::gguf::{Gguf, PACKED_TAIL_BYTES, TensorInfo, TensorType};

/// Bytes behind the codes of an I2_S tensor, the scale first.
const I2S_TAIL_BYTES: usize = 32;

/// Takes the ternary tensors of one file.
pub(super) struct Loader<'g, 'a> {
    gguf: &'g Gguf<'a>,
    layout: Layout,
    group: Option<usize>,
}

impl<'g, 'a> Loader<'g, 'a> {
    /// For the matrices of `gguf`, to lie in `layout`.
    pub fn new(gguf: &'g Gguf<'a>, layout: Layout) -> Result<Self, LoadError> {
        Ok(Loader { gguf, layout, group: grouping(gguf)? })
    }

    /// Columns that share a scale, where they do not all.
    pub fn group(&self) -> Option<usize> {
        self.group
    }

    /// The matrix `info`, which must be `[rows, cols]`.
    pub fn ternary(
        &mut self,
        info: &TensorInfo<'a>,
        rows: usize,
        cols: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Ternary<'a>, LoadError> {
        info.expect_shape(cols as u64, rows as u64)?;
        let not_ternary = LoadError::NotTernary { tensor: info.name().into(), found: info.ty() };
        let found = info.ty().layout().ok_or(not_ternary)?;
        let (codes, tail) = codes_and_tail(info)?;
        // A byte of five weights is five weights whatever it says; in the other layouts a code may be none.
        let checks_codes = !matches!(found, Layout::T5R | Layout::T5C);
        if checks_codes && let Some(at_bytes) = found.first_invalid(codes) {
            return Err(LoadError::InvalidCode { tensor: info.name().into(), at_bytes });
        }
        let scales = match self.group {
            None => one_scale(info, tail)?,
            Some(group) => {
                packed_bytes(found, rows, cols, Some(group))?;
                Scales::Groups { cols: group, scales: group_scales(self.gguf, info, rows, cols / group)? }
            }
        };
        let packed = if self.layout == found {
            codes
        } else {
            let packed = arena.take(packed_bytes(self.layout, rows, cols, self.group)?)?;
            move_groups(found, codes, self.layout, (rows, cols), self.group, packed);
            packed
        };
        Ok(Ternary { packed, rows, cols, scales })
    }
}

/// The bytes of a tensor in a layout of ours: codes, and what stands behind them, the scale of a whole matrix first.
pub fn codes_and_tail<'a>(info: &TensorInfo<'a>) -> Result<(&'a [u8], &'a [u8]), LoadError> {
    let tail_bytes = if info.ty() == TensorType::I2S { I2S_TAIL_BYTES } else { PACKED_TAIL_BYTES };
    let data = info.data()?;
    Ok(data.split_at(data.len().saturating_sub(tail_bytes)))
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
    let groups = cols / group;
    let (source_bytes, packed_bytes) = (source.len() / groups, packed.len() / groups);
    let pieces = source.chunks_exact(source_bytes.max(1)).zip(packed.chunks_exact_mut(packed_bytes.max(1)));
    for (source, packed) in pieces {
        pack::repack(from, source, to, rows, group, packed);
    }
}

/// The scale of a whole matrix.
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

/// The scales of `matrix`, `[groups, rows]`, from the tensor beside it.
fn group_scales<'a>(
    gguf: &Gguf<'a>,
    matrix: &TensorInfo<'a>,
    rows: usize,
    groups: usize,
) -> Result<&'a [u16], LoadError> {
    let no_name = LoadError::KeyMissing { key: Name::new(GROUP_KEY.as_bytes()) };
    let info = gguf.require(&scales_name(matrix.name()).ok_or(no_name)?)?;
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
