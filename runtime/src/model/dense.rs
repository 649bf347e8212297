//! Matrices that are not ternary: embeddings, the LM head and norm weights.
//!
//! Block types are those of GGUF; `docs/layouts.md` draws them. A row is widened to binary32 when it is used.

use tern_kernels::half::{bf16_to_f32, f16_to_f32};

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
            TensorType::Bf16 | TensorType::Q8_0 | TensorType::Q6K | TensorType::Q4_0 => {
                DenseData::Blocks(bytes)
            }
            found => return Err(LoadError::TensorType { tensor: info.name().into(), found }),
        };
        Ok(Dense { cols, rows, ty: info.ty(), data })
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
                match self.ty {
                    TensorType::Bf16 => bf16(bytes, out),
                    TensorType::Q8_0 => q8_0(bytes, out),
                    TensorType::Q4_0 => q4_0(bytes, out),
                    TensorType::Q6K => q6_k(bytes, out),
                    _ => unreachable!("`load` admits no other type"),
                }
            }
        }
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

/// A binary16 at the start of `bytes`.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// bfloat16: two bytes a value.
fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, pair) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = bf16_to_f32(u16::from_le_bytes(*pair));
    }
}

/// Q8_0: 34 bytes for 32 values: binary16 scale, 32 int8.
fn q8_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let scale = f16_at(block, 0);
        for (out, q) in out.iter_mut().zip(&block[2..]) {
            *out = scale * f32::from(*q as i8);
        }
    }
}

/// Q4_0: 18 bytes for 32 values: binary16 scale, 16 bytes whose low nibbles are the first 16 values; 8 is zero.
fn q4_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let scale = f16_at(block, 0);
        for (i, byte) in block[2..].iter().enumerate() {
            out[i] = scale * (f32::from(byte & 15) - 8.0);
            out[i + 16] = scale * (f32::from(byte >> 4) - 8.0);
        }
    }
}

/// Q6_K: 210 bytes for 256 values: 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, binary16 scale.
fn q6_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let scale = f16_at(block, 208);
        for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (low, high) = (&block[64 * half..64 * half + 64], &block[128 + 32 * half..160 + 32 * half]);
            let scales = &block[192 + 8 * half..200 + 8 * half];
            for (i, out) in out.iter_mut().enumerate() {
                // Values come in four groups of 32; groups 0 and 1 take low nibbles, 2 and 3 the high ones.
                let (group, l) = (i / 32, i % 32);
                let nibble = low[32 * (group % 2) + l] >> (4 * (group / 2)) & 15;
                let q = nibble | (high[l] >> (2 * group) & 3) << 4;
                *out = scale * f32::from(scales[2 * group + l / 16] as i8) * (f32::from(q) - 32.0);
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use tern_kernels::half::f32_to_f16;

    /// A dense matrix of one row over bytes.
    fn row(ty: TensorType, bytes: &[u8], cols: usize) -> Vec<f32> {
        let mut out = vec![0.0; cols];
        Dense { cols, rows: 1, ty, data: DenseData::Blocks(bytes) }.row_into(0, &mut out);
        out
    }

    #[test]
    fn q8_0_is_scale_times_int8() {
        let mut block = f32_to_f16(0.5).to_le_bytes().to_vec();
        block.extend((0..32).map(|i| (i * 8) as u8));
        let out = row(TensorType::Q8_0, &block, 32);
        assert_eq!((out[0], out[1], out[15], out[16], out[31]), (0.0, 4.0, 60.0, -64.0, -4.0));
    }

    #[test]
    fn q4_0_splits_nibbles_into_halves() {
        let mut block = f32_to_f16(2.0).to_le_bytes().to_vec();
        block.extend((0..16).map(|i| i | (15 - i) << 4));
        let out = row(TensorType::Q4_0, &block, 32);
        assert_eq!((out[0], out[15], out[16], out[31]), (-16.0, 14.0, 14.0, -16.0));
    }

    #[test]
    fn q6_k_follows_the_formula_of_its_definition() {
        let block: Vec<u8> =
            (0..208).map(|i| (i * 73 + 11) as u8).chain(f32_to_f16(0.25).to_le_bytes()).collect();
        let out = row(TensorType::Q6K, &block, 256);
        let (ql, qh, sc) = (&block[..128], &block[128..192], &block[192..208]);
        for half in 0..2 {
            for l in 0..32 {
                let (ql, qh, sc) = (&ql[64 * half..], &qh[32 * half..], &sc[8 * half..]);
                let is = l / 16;
                let q = [
                    (ql[l] & 15) | (qh[l] & 3) << 4,
                    (ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4,
                    (ql[l] >> 4) | (qh[l] >> 4 & 3) << 4,
                    (ql[l + 32] >> 4) | (qh[l] >> 6 & 3) << 4,
                ];
                for (group, q) in q.into_iter().enumerate() {
                    let expected = 0.25 * f32::from(sc[is + 2 * group] as i8) * (f32::from(q) - 32.0);
                    assert_eq!(out[128 * half + 32 * group + l], expected);
                }
            }
        }
    }

    #[test]
    fn bfloat16_is_the_upper_half() {
        assert_eq!(row(TensorType::Bf16, &[0x80, 0x3f, 0x20, 0xc1], 2), [1.0, -10.0]);
    }
}
