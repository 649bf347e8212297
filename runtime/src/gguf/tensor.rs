//! Tensor descriptions: parsed one by one, then checked against each other and against the file.

use core::fmt;

use tern_kernels::Coding;
use tern_kernels::Layout;
use tern_kernels::coding::TileShape;

use super::cursor::Cursor;
use super::reading::{Meanings, Reading, ReadingError};
use super::types::TensorType;
use crate::error::{LoadError, Name};

/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 4;

/// A tensor of the file. Its span lies in the file and overlaps no other; its rows are whole blocks.
#[derive(Clone, Copy)]
pub struct TensorInfo<'a> {
    name: &'a str,
    ty: TensorType,
    dims: [u64; MAX_DIMS],
    rank: usize,
    offset: u64,
    bytes: &'a [u8],
    tile: Option<TileShape>,
}

impl<'a> TensorInfo<'a> {
    /// The name, such as `blk.0.attn_q.weight`.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The type of the elements.
    #[must_use]
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// One to four dimensions, the contiguous one first: `[in_features, out_features]` for a weight.
    #[must_use]
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.rank]
    }

    /// Elements of a row: the contiguous dimension.
    #[must_use]
    pub fn row_len(&self) -> u64 {
        self.dims[0]
    }

    /// Number of rows: the product of the other dimensions, 1 for a vector.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product() // checked at parse together with dims[0]
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.dims.iter().product() // checked at parse
    }

    /// Where the data starts, from the start of the data section.
    #[must_use]
    pub fn offset_bytes(&self) -> u64 {
        self.offset
    }

    /// Bytes of the data, if the type's size is known.
    #[must_use]
    pub fn nbytes(&self) -> Option<u64> {
        self.ty.nbytes(self.row_len(), self.rows())
    }

    /// The tensor's bytes, exactly [`TensorType::nbytes`] of them; for I2_S the scale at n/4 is included.
    ///
    /// # Errors
    /// [`LoadError::TensorType`] if this build does not read the type.
    pub fn data(&self) -> Result<&'a [u8], LoadError> {
        if self.ty.is_supported() {
            Ok(self.bytes)
        } else {
            Err(LoadError::TensorType { tensor: self.name.into(), found: self.ty })
        }
    }

    /// How a ternary matrix lies in [`data`](Self::data), which is at least [`Coding::bytes`] long.
    ///
    /// # Errors
    /// [`LoadError::NotTernary`] for another type; [`ReadingError::NoTiles`] or [`ReadingError::Tiles`] for a matrix of
    /// tiles that are not known or cannot be.
    pub fn coding(&self) -> Result<Coding, LoadError> {
        let (tensor, matrix) = (self.name.into(), [self.rows(), self.row_len()]);
        let tile = || {
            let [rows, cols] = matrix;
            self.tile.ok_or(ReadingError::NoTiles { tensor, rows, cols })
        };
        let coding = match self.ty {
            TensorType::I2S => Coding::Layout(Layout::T2B128),
            TensorType::I2s64 => Coding::I2s64,
            TensorType::Packed(layout) => Coding::Layout(layout),
            TensorType::Ternary(block) => Coding::Blocks(block),
            TensorType::Tl1 => Coding::Tl1(tile()?),
            TensorType::Tl2 => Coding::Tl2(tile()?),
            found => return Err(LoadError::NotTernary { tensor, found }),
        };
        let [rows, cols] = matrix.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        match (coding.bytes(rows, cols), self.tile) {
            (Some(bytes), _) if bytes <= self.bytes.len() => Ok(coding),
            (_, Some(TileShape { rows, cols, strip })) => {
                let tile = [rows, cols, strip].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                Err(ReadingError::Tiles { tensor, tile }.into())
            }
            (_, None) => Err(LoadError::TensorSize { tensor }),
        }
    }

    /// Checks the shape: `row_len` elements in each of `rows` rows.
    ///
    /// # Errors
    /// [`LoadError::TensorShape`] with both shapes.
    pub fn expect_shape(&self, row_len: u64, rows: u64) -> Result<(), LoadError> {
        let (found, expected) = ([self.row_len(), self.rows()], [row_len, rows]);
        if found == expected {
            Ok(())
        } else {
            Err(LoadError::TensorShape { tensor: self.name.into(), found, expected })
        }
    }
}

impl fmt::Debug for TensorInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} at {}", self.name, self.ty, self.dims(), self.offset)
    }
}

/// A description as it stands in the file, lengths read but nothing checked against anything else.
#[derive(Clone, Copy)]
pub(super) struct RawTensor<'a> {
    pub(super) name: &'a [u8],
    rank: u32,
    pub(super) dims: [u64; MAX_DIMS],
    pub(super) type_id: u32,
    pub(super) offset: u64,
}

impl<'a> RawTensor<'a> {
    /// Fewest bytes of a description: empty name, one dimension.
    pub const LEAST_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

    /// `string name, u32 rank, u64 dims[rank], u32 type, u64 offset`.
    pub fn read(cursor: &mut Cursor<'a>) -> Result<Self, LoadError> {
        let name = cursor.string("the name of a tensor")?;
        let rank = cursor.u32("the rank of a tensor")?;
        if rank == 0 || rank as usize > MAX_DIMS {
            return Err(LoadError::TensorRank { tensor: Name::new(name), found: rank });
        }
        let mut dims = [1; MAX_DIMS];
        for dim in &mut dims[..rank as usize] {
            *dim = cursor.u64("the dimensions of a tensor")?;
        }
        let type_id = cursor.u32("the type of a tensor")?;
        let offset = cursor.u64("the offset of a tensor")?;
        Ok(Self { name, rank, dims, type_id, offset })
    }

    /// Number of elements, if there are any and they fit in 64 bits.
    pub(super) fn elements(&self) -> Option<u64> {
        self.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n > 0)
    }

    /// Bytes of the data; 0 where the type's size is not known.
    fn nbytes(&self, meanings: &Meanings) -> Option<u64> {
        let ty = meanings.ty(self.type_id);
        self.elements()?;
        let nbytes = ty.nbytes(self.dims[0], self.dims[1..].iter().product());
        if ty.is_supported() { nbytes } else { Some(nbytes.unwrap_or(0)) }
    }

    /// Checks the description by itself and against the data section, which starts at `data_at` of `file`.
    pub fn check(
        self,
        file: &'a [u8],
        data_at: u64,
        alignment: u64,
        (meanings, reading): (&Meanings, &Reading),
    ) -> Result<TensorInfo<'a>, LoadError> {
        let tensor = Name::new(self.name);
        let name = core::str::from_utf8(self.name)
            .map_err(|_| LoadError::NotUtf8 { what: "the name of a tensor", name: tensor })?;
        let ty = meanings.ty(self.type_id);
        let (row, block) = (self.dims[0], ty.block_elements());
        if self.elements().is_none() {
            return Err(LoadError::TensorSize { tensor });
        }
        if !row.is_multiple_of(block) {
            return Err(LoadError::TensorRow { tensor, ty, row, block });
        }
        if !self.offset.is_multiple_of(alignment) {
            let (offset_bytes, alignment_bytes) = (self.offset, alignment);
            return Err(LoadError::TensorOffset { tensor, offset_bytes, alignment_bytes });
        }
        let nbytes = self.nbytes(meanings).ok_or(LoadError::TensorSize { tensor })?;
        let file_bytes = file.len() as u64;
        let start = data_at.checked_add(self.offset);
        let end = start.and_then(|s| s.checked_add(nbytes));
        let bytes = match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => &file[start as usize..end as usize],
            _ => {
                let ends_at_bytes = end.unwrap_or(u64::MAX);
                return Err(LoadError::TensorOutside { tensor, ends_at_bytes, file_bytes });
            }
        };
        let mut info = TensorInfo {
            name,
            ty,
            dims: self.dims,
            rank: self.rank as usize,
            offset: self.offset,
            bytes,
            tile: None,
        };
        if let (true, Ok(rows), Ok(cols)) = (
            matches!(ty, TensorType::Tl1 | TensorType::Tl2),
            usize::try_from(info.rows()),
            usize::try_from(row),
        ) {
            info.tile = reading.tiles.of(rows, cols);
        }
        Ok(info)
    }
}

/// Compares one tensor with every other: names differ, spans do not meet, and a ternary tensor is followed by the
/// next at the distance its type gives it.
///
/// Quadratic over all tensors, without memory: 332 tensors take about a millisecond, and the count is bounded.
pub(super) fn check_neighbours<'a>(
    this: &TensorInfo<'a>,
    index: usize,
    others: impl Iterator<Item = RawTensor<'a>>,
    meanings: &Meanings,
    alignment: u64,
    data_bytes: u64,
) -> Result<(), LoadError> {
    let tensor = this.name.into();
    let end = this.offset + this.bytes.len() as u64; // inside the file
    let mut next = None;
    for (i, other) in others.enumerate() {
        if i == index {
            continue;
        }
        if other.name == this.name.as_bytes() {
            return Err(LoadError::TensorTwice { tensor });
        }
        // Each pair is met from both sides; the tensor that starts first reports.
        let first = other.offset > this.offset || (other.offset == this.offset && i > index);
        let is_empty = this.bytes.is_empty() || other.nbytes(meanings) == Some(0);
        if first && other.offset < end && !is_empty {
            return Err(LoadError::TensorOverlap { tensor, ends_at_bytes: end, next_at_bytes: other.offset });
        }
        if other.offset > this.offset {
            next = Some(next.map_or(other.offset, |n: u64| n.min(other.offset)));
        }
    }
    // Ids that somebody else has used, or may, for something else; what `Meanings` told apart fits already.
    if this.ty.is_ternary() && !matches!(this.ty, TensorType::Packed(_)) {
        check_span(this, next, alignment, data_bytes)?;
    }
    Ok(())
}

/// Id 36 was a repacked IQ4_NL in older llama.cpp files (18 bytes for 32 weights, more than twice as much). Writers
/// leave no gaps, so the distance to the next tensor tells; the last tensor may be followed by anything.
fn check_span(
    info: &TensorInfo<'_>,
    next: Option<u64>,
    alignment: u64,
    data_bytes: u64,
) -> Result<(), LoadError> {
    let expected_bytes = info.bytes.len() as u64;
    let padded = |n: u64| n.checked_next_multiple_of(alignment).unwrap_or(n);
    let found_bytes = next.unwrap_or(data_bytes) - info.offset;
    let is_as_iq4_nl =
        found_bytes == padded(info.elements() / 32 * 18) || found_bytes == info.elements() / 32 * 18;
    let is_wrong = match next {
        Some(_) => found_bytes != padded(expected_bytes),
        None => info.ty.id() == 36 && is_as_iq4_nl && found_bytes != padded(expected_bytes),
    };
    if is_wrong {
        return Err(LoadError::TensorSpan {
            tensor: info.name.into(),
            ty: info.ty,
            found_bytes,
            expected_bytes,
        });
    }
    Ok(())
}
