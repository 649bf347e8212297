//! What a file does not say about itself, and how it is read in spite of that.
//!
//! The blocks of an I2_S matrix and the tiles of TL1 and TL2 stand in no key: whoever opens such a file says them, as a
//! [`Reading`]. Type ids that different makers gave different meanings are told apart by the bytes that a tensor takes,
//! which is `Meanings`' work: a file in which one id could mean two things is refused rather than guessed at.

use core::fmt;

use heapless::Vec;
use tern_kernels::coding::{TernaryBlock, TileShape};

use super::tensor::RawTensor;
use super::types::TensorType;
use crate::error::{LoadError, Name};

/// Most shapes of matrices that a table of tiles tells; a model has four or five.
pub const MAX_TILES: usize = 16;

/// What is known about a file from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The blocks of its I2_S matrices.
    pub i2s: I2sBlocks,
    /// The tiles of its TL1 or TL2 matrices.
    pub tiles: Tiles,
}

/// Weights of a block of I2_S.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum I2sBlocks {
    /// 128, as in every file that was published.
    #[default]
    Of128,
    /// 64, as bitnet.cpp built for ARM writes them since November 2025.
    Of64,
}

/// Tiles of TL1 or TL2, by the shape of the matrix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiles(Vec<([usize; 2], TileShape), MAX_TILES>);

impl Tiles {
    /// Adds the tiles of matrices of `rows` and `cols`; those of an earlier entry for the shape win.
    ///
    /// # Errors
    /// If there are [`MAX_TILES`] already; the tile is handed back.
    pub fn add(&mut self, rows: usize, cols: usize, tile: TileShape) -> Result<(), TileShape> {
        self.0.push(([rows, cols], tile)).map_err(|_| tile)
    }

    /// The tiles of matrices of `rows` and `cols`.
    #[must_use]
    pub fn of(&self, rows: usize, cols: usize) -> Option<TileShape> {
        self.0.iter().find(|entry| entry.0 == [rows, cols]).map(|entry| entry.1)
    }

    /// Whether none are known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a file cannot be read as it is, though it may be sound.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ReadingError {
    /// A type id has several meanings, and the bytes of the tensors fit none of them or more than one.
    Meaning {
        /// A tensor that has it.
        tensor: Name,
        /// The id.
        id: u32,
        /// Bytes up to the next tensor or the end of the file.
        span_bytes: u64,
        /// How many of the meanings fit all tensors that have the id.
        fits: u32,
    },
    /// The tiles of a matrix are not known.
    NoTiles {
        /// The tensor.
        tensor: Name,
        /// Rows.
        rows: u64,
        /// Columns.
        cols: u64,
    },
    /// A matrix cannot have the tiles that are given for its shape.
    Tiles {
        /// The tensor.
        tensor: Name,
        /// Rows and columns of the tiles, and rows of a strip.
        tile: [u32; 3],
    },
    /// The weights were transformed before they were made ternary, and the activations would have to be.
    Transform {
        /// A key that says so.
        key: Name,
    },
}

impl fmt::Display for ReadingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meaning { tensor, id, span_bytes, fits } => write!(
                f,
                "tensor '{tensor}' has type id {id}, which is {} depending on who wrote the file, and its {span_bytes} bytes \
                 fit {}; convert the model to a type of one meaning, such as TQ2_0",
                meanings(*id),
                if *fits == 0 { "none of these" } else { "more than one of these" }
            ),
            Self::NoTiles { tensor, rows, cols } => write!(
                f,
                "tensor '{tensor}' is TL1 or TL2 of {rows} x {cols}, and how its tiles lie is not in the file; put the \
                 kernel_config.ini of the bitnet.cpp build that converted the model beside it, under the model's name with \
                 .tiles.ini in place of .gguf (docs/layouts.md), or convert the model to I2_S"
            ),
            Self::Tiles { tensor, tile } => write!(
                f,
                "tensor '{tensor}' has a shape that cannot lie in tiles of {} x {} in strips of {}; take the kernel_config.ini of \
                 the build that converted this model",
                tile[0], tile[1], tile[2]
            ),
            Self::Transform { key } => write!(
                f,
                "key '{key}': the weights are folded with a Hadamard transform, which this build does not undo; without it \
                 answers would be noise, choose a model without it"
            ),
        }
    }
}

impl core::error::Error for ReadingError {}

impl From<ReadingError> for LoadError {
    fn from(error: ReadingError) -> Self {
        LoadError::Reading(error)
    }
}

/// Ids of several meanings and these meanings.
const COLLIDING: [(u32, &[TensorType]); 2] = [
    (39, &[TensorType::Tl2, TensorType::Other(39)]),
    (
        42,
        &[
            TensorType::Ternary(TernaryBlock::Q2_0),
            TensorType::Ternary(TernaryBlock::Pq2_0),
            TensorType::Ternary(TernaryBlock::Stq1_0),
        ],
    ),
];

/// The meanings of an id, in words.
fn meanings(id: u32) -> &'static str {
    match id {
        39 => "TL2 or MXFP4",
        _ => "Q2_0 in groups of 64, Q2_0 in groups of 128 or STQ1_0",
    }
}

/// What the ids of one file mean.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meanings {
    i2s: I2sBlocks,
    colliding: [TensorType; COLLIDING.len()],
}

impl Meanings {
    /// Every id as [`TensorType::from_id`] has it.
    pub(super) fn new(i2s: I2sBlocks) -> Self {
        Meanings { i2s, colliding: COLLIDING.map(|(id, _)| TensorType::Other(id)) }
    }

    /// The type behind an id of this file.
    pub(super) fn ty(&self, id: u32) -> TensorType {
        match COLLIDING.iter().position(|colliding| colliding.0 == id) {
            Some(at) => self.colliding[at],
            None => match TensorType::from_id(id) {
                TensorType::I2S if self.i2s == I2sBlocks::Of64 => TensorType::I2s64,
                ty => ty,
            },
        }
    }

    /// Every id as [`TensorType::id`] gives it, each for one type alone.
    pub(super) fn be_ours(&mut self) {
        for (meaning, (id, candidates)) in self.colliding.iter_mut().zip(COLLIDING) {
            *meaning = candidates.iter().copied().find(|ty| ty.id() == id).unwrap_or(TensorType::Other(id));
        }
    }

    /// Finds out what colliding ids mean: whatever gives every tensor that has one the bytes that it takes. Writers leave
    /// no gaps, so that is the distance to the next tensor, or to the end of the data.
    pub(super) fn resolve<'a, T: Iterator<Item = RawTensor<'a>>>(
        &mut self,
        tensors: impl Fn() -> T,
        alignment: u64,
        data_bytes: u64,
    ) -> Result<(), LoadError> {
        for (meaning, (id, candidates)) in self.colliding.iter_mut().zip(COLLIDING) {
            // One bit for each candidate that fits all tensors so far.
            let (mut left, mut seen) = ((1u32 << candidates.len()) - 1, None);
            for raw in tensors().filter(|raw| raw.type_id == id) {
                let next = tensors().map(|other| other.offset).filter(|at| *at > raw.offset).min();
                let Some(span_bytes) = next.unwrap_or(data_bytes).checked_sub(raw.offset) else {
                    continue; // it lies outside, which is reported as such
                };
                let Some(elements) = raw.elements() else { continue };
                let takes = |ty: &TensorType| {
                    let (row, rows) = (raw.dims[0], elements / raw.dims[0]);
                    row.is_multiple_of(ty.block_elements()).then(|| ty.nbytes(row, rows))?
                };
                let padded = |n: u64| n.checked_next_multiple_of(alignment);
                let exactly = |ty: &TensorType| {
                    takes(ty)
                        .is_some_and(|n| padded(n) == Some(span_bytes) || next.is_none() && n == span_bytes)
                };
                // Behind the last tensor there may be anything: where nothing fits exactly, all that leave room do.
                let within = |ty: &TensorType| takes(ty).is_some_and(|n| n <= span_bytes);
                let mut fits = mask(candidates, exactly);
                if fits == 0 && next.is_none() {
                    fits = mask(candidates, within);
                }
                left &= fits;
                let error =
                    |fits| ReadingError::Meaning { tensor: Name::new(raw.name), id, span_bytes, fits };
                if left == 0 {
                    return Err(error(0).into());
                }
                seen.get_or_insert(error(2));
            }
            match (seen, left.count_ones()) {
                (None, _) => {}
                (Some(_), 1) => *meaning = candidates[left.trailing_zeros() as usize],
                (Some(error), _) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// One bit for each of `types` that `fits`.
fn mask(types: &[TensorType], fits: impl Fn(&TensorType) -> bool) -> u32 {
    types.iter().enumerate().map(|(bit, ty)| u32::from(fits(ty)) << bit).sum()
}
