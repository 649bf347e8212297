//! Why a model cannot be packed, or a packed one not be used.

use std::fmt;
use std::io;

use tern_kernels::Layout;
use tern_runtime::error::LoadError;

use super::{GROUPED_VERSION, VERSION};
use crate::checkpoint::CheckpointError;

/// Why a model cannot be packed, or a packed one not be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum PackError {
    /// The model could not be run either.
    Load(LoadError),
    /// A matrix has a shape that the layout cannot take.
    Shape {
        /// The tensor.
        tensor: String,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// The layout.
        layout: Layout,
    },
    /// It was packed by a program of another time.
    Version {
        /// The version in the file.
        found: u32,
    },
    /// Its keys name one layout, its tensors have another.
    Layout {
        /// What the key says.
        named: String,
        /// What the tensors have, if they agree.
        found: Option<&'static str>,
    },
    /// A tensor of the int8 head is not what its source gives.
    Head {
        /// The tensor.
        tensor: String,
    },
    /// A checkpoint cannot be taken.
    Checkpoint(CheckpointError),
    /// The output failed.
    Write(io::Error),
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PackError::Load(error) => write!(f, "{error}"),
            PackError::Shape { tensor, rows, cols, layout } => write!(
                f,
                "tensor '{tensor}' has {rows} rows of {cols}; layout {} takes columns in multiples of {}",
                layout.name(),
                layout.col_multiple()
            ),
            PackError::Version { found } => write!(
                f,
                "it was packed as version {found}, this build reads {VERSION}, and {GROUPED_VERSION} where matrices have several scales; pack the original model again"
            ),
            PackError::Layout { named, found } => write!(
                f,
                "it says that its matrices are packed as {named:?}, but they are {}; pack the original model again",
                found.unwrap_or("of several layouts")
            ),
            PackError::Head { tensor } => {
                write!(
                    f,
                    "tensor '{tensor}' is not the int8 head of its source; pack the original model again"
                )
            }
            PackError::Checkpoint(error) => write!(f, "{error}"),
            PackError::Write(error) => write!(f, "the packed file cannot be written: {error}"),
        }
    }
}

impl std::error::Error for PackError {}

impl From<LoadError> for PackError {
    fn from(error: LoadError) -> Self {
        PackError::Load(error)
    }
}

impl From<CheckpointError> for PackError {
    fn from(error: CheckpointError) -> Self {
        PackError::Checkpoint(error)
    }
}
