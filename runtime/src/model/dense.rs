//! Matrices that are not ternary: embeddings, the LM head and norm weights.
//!
//! Block types are those of GGUF; `docs/layouts.md` draws them. A row is widened to binary32 when it is used.

use tern_kernels::KernelSet;
use tern_kernels::blocks::{self, Blocks};
use tern_kernels::half::f16_to_f32;

use crate::error::LoadError;
use crate::gguf::{TensorInfo, TensorType};

/// A matrix `[rows, cols]` as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    /// Values of a row.
    pub cols: usize,
    /// Rows.
    pub rows: usize,
    /// The type in the file.
    pub ty: TensorType,
    /// The values.
    pub data: DenseData<'a>,
}

/// Values that kernels read directly, or blocks that are widened row by row.
#[derive(Clone, Copy, Debug)]
pub enum DenseData<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// binary16 bits.
    F16(&'a [u16]),
    /// Any other supported type, as bytes.
    Blocks(&'a [u8]),
}

impl<'a> Dense<'a> {
    /// The matrix `info`, which must be `[rows, cols]`.
    ///
    /// # Errors
    /// If the shape or the type is another one, or the bytes do not lie on a multiple of the value size.
    pub fn load(info: &TensorInfo<'a>, cols: usize, rows: usize) -> Result<Self, LoadError> {
        info.expect_shape(cols as u64, rows as u64)?;
        let bytes = info.data()?;
        let misaligned = |_| LoadError::Misaligned { tensor: info.name().into() };
        let data = match info.ty() {
            TensorType::F32 => DenseData::F32(bytemuck::try_cast_slice(bytes).map_err(misaligned)?),
            TensorType::F16 => DenseData::F16(bytemuck::try_cast_slice(bytes).map_err(misaligned)?),
            ty if blocks_of(ty).is_some() => DenseData::Blocks(bytes),
            found => return Err(LoadError::TensorType { tensor: info.name().into(), found }),
        };
        Ok(Dense { cols, rows, ty: info.ty(), data })
    }

    /// Rows `range` of it, as a matrix of their own.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn part(&self, range: core::ops::Range<usize>) -> Dense<'a> {
        let values = range.start * self.cols..range.end * self.cols;
        let data = match self.data {
            DenseData::F32(data) => DenseData::F32(&data[values]),
            DenseData::F16(data) => DenseData::F16(&data[values]),
            DenseData::Blocks(bytes) => {
                let row_bytes = bytes.len() / self.rows;
                DenseData::Blocks(&bytes[range.start * row_bytes..range.end * row_bytes])
            }
        };
        Dense { rows: range.len(), data, ..*self }
    }

    /// Bytes of the whole matrix.
    pub fn bytes(&self) -> usize {
        match self.data {
            DenseData::F32(values) => size_of_val(values),
            DenseData::F16(values) => size_of_val(values),
            DenseData::Blocks(bytes) => bytes.len(),
        }
    }

    /// Widens row `row` into `out: [cols]`.
    ///
    /// # Panics
    /// If there is no such row or the length differs.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "one value a column");
        let span = row * self.cols..(row + 1) * self.cols;
        match self.data {
            DenseData::F32(values) => out.copy_from_slice(&values[span]),
            DenseData::F16(values) => {
                out.iter_mut().zip(&values[span]).for_each(|(out, v)| *out = f16_to_f32(*v));
            }
            DenseData::Blocks(bytes) => {
                let row_bytes = bytes.len() / self.rows;
                let bytes = &bytes[row * row_bytes..(row + 1) * row_bytes];
                blocks::widen(self.blocks(), bytes, out);
            }
        }
    }

    /// Widens `rows` into `out: [rows, cols]` with the operations of `set`; only for [`DenseData::Blocks`].
    pub(crate) fn widen_rows(&self, set: &KernelSet, rows: core::ops::Range<usize>, out: &mut [f32]) {
        if let DenseData::Blocks(bytes) = self.data {
            let row_bytes = bytes.len() / self.rows;
            set.widen(self.blocks(), &bytes[rows.start * row_bytes..rows.end * row_bytes], out);
        }
    }

    /// How blocks of this type are widened.
    fn blocks(&self) -> Blocks {
        blocks_of(self.ty).unwrap_or_else(|| unreachable!("`load` admits no other type"))
    }
}

/// How values of a type are widened, where they have to be.
fn blocks_of(ty: TensorType) -> Option<Blocks> {
    match ty {
        TensorType::Bf16 => Some(Blocks::Bf16),
        TensorType::Q8_0 => Some(Blocks::Q8_0),
        TensorType::Q4_0 => Some(Blocks::Q4_0),
        TensorType::Q4K => Some(Blocks::Q4K),
        TensorType::Q6K => Some(Blocks::Q6K),
        TensorType::Ternary(block) => Some(Blocks::Ternary(block)),
        _ => None,
    }
}

/// A norm weight: `[len]` values of binary32.
///
/// # Errors
/// If the shape or type is another one, or a value is not finite.
pub fn load_norm<'a>(info: &TensorInfo<'a>, len: usize) -> Result<&'a [f32], LoadError> {
    info.expect_shape(len as u64, 1)?;
    let DenseData::F32(values) = Dense::load(info, len, 1)?.data else {
        return Err(LoadError::TensorType { tensor: info.name().into(), found: info.ty() });
    };
    if values.iter().all(|v| v.is_finite()) {
        Ok(values)
    } else {
        Err(LoadError::NotFinite { what: info.name().into() })
    }
}
