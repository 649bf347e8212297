//! Taking a packed model apart again and comparing it with its source, weight by weight.

use std::fmt;

use tern_kernels::{Layout, pack};
use tern_runtime::gguf::{Gguf, TensorInfo};

use super::{LAYOUT_KEY, PackError, SOURCE_KEY, VERSION_KEY, codes_and_scale, packed};

/// What was compared and found equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Ternary matrices, each with its scale.
    pub matrices: usize,
    /// Their weights.
    pub weights: u64,
    /// Other tensors, byte by byte.
    pub tensors: usize,
    /// Keys and their values.
    pub keys: usize,
}

/// The first difference between a packed file and its source.
#[derive(Debug)]
pub enum Difference {
    /// One of the two cannot be read.
    Unreadable(PackError),
    /// The file is not packed.
    NotPacked,
    /// A key is missing or has another value.
    Key(String),
    /// A tensor is missing, or has another type, shape or bytes.
    Tensor(String),
    /// A weight differs.
    Weight {
        /// The tensor.
        tensor: String,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
    },
    /// A scale differs.
    Scale(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Unreadable(error) => write!(f, "{error}"),
            Difference::NotPacked => f.write_str("it is not a packed file"),
            Difference::Key(key) => write!(f, "key '{key}' is not as in the source"),
            Difference::Tensor(tensor) => write!(f, "tensor '{tensor}' is not as in the source"),
            Difference::Weight { tensor, row, col } => {
                write!(f, "the weight in row {row}, column {col} of '{tensor}' is not that of the source")
            }
            Difference::Scale(tensor) => write!(f, "the scale of '{tensor}' is not that of the source"),
        }
    }
}

impl std::error::Error for Difference {}

/// Compares every weight, every other tensor and every key of `copy` with `source`; tells `read` the bytes of each
/// tensor when it is done.
///
/// # Errors
/// The first [`Difference`].
pub fn verify(source: &Gguf<'_>, copy: &Gguf<'_>, mut read: impl FnMut(u64)) -> Result<Verified, Difference> {
    packed(copy).map_err(Difference::Unreadable)?.ok_or(Difference::NotPacked)?;
    let mut verified = Verified::default();
    let ours = ["general.alignment", VERSION_KEY, LAYOUT_KEY, SOURCE_KEY];
    for (key, value) in source.entries().filter(|(key, _)| !ours.contains(key)) {
        // Bit patterns, so that a NaN equals itself.
        if copy.value(key).is_none_or(|found| format!("{found:?}") != format!("{value:?}")) {
            return Err(Difference::Key(key.to_owned()));
        }
        verified.keys += 1;
    }
    if source.tensor_count() != copy.tensor_count() {
        return Err(Difference::Tensor("(one of them)".to_owned()));
    }
    let mut buffer = Vec::new();
    for (original, found) in source.tensors().zip(copy.tensors()) {
        let name = || original.name().to_owned();
        if original.name() != found.name() || original.dims() != found.dims() {
            return Err(Difference::Tensor(name()));
        }
        match (original.ty().layout(), found.ty().layout()) {
            (Some(layout), Some(packed)) => {
                compare_matrix(layout, &original, packed, &found, &mut buffer)?;
                verified.matrices += 1;
                verified.weights += original.elements();
            }
            _ => {
                let same_bytes = matches!((original.data(), found.data()), (Ok(a), Ok(b)) if a == b);
                if original.ty() != found.ty() || !same_bytes {
                    return Err(Difference::Tensor(name()));
                }
                verified.tensors += 1;
            }
        }
        read(found.nbytes().unwrap_or(0));
    }
    Ok(verified)
}

/// Moves `found` back into the layout of `original` and compares codes and scale.
fn compare_matrix(
    layout: Layout,
    original: &TensorInfo<'_>,
    packed: Layout,
    found: &TensorInfo<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), Difference> {
    let (codes, scale) = codes_and_scale(original).map_err(Difference::Unreadable)?;
    let (found_codes, found_scale) = codes_and_scale(found).map_err(Difference::Unreadable)?;
    let (rows, cols) = (original.rows() as usize, original.row_len() as usize);
    buffer.clear();
    buffer.resize(codes.len(), 0);
    pack::repack(packed, found_codes, layout, rows, cols, buffer);
    if buffer != codes {
        let place = (0..rows * cols)
            .map(|i| (i / cols, i % cols))
            .find(|(row, col)| {
                pack::weight_at(layout, codes, cols, *row, *col)
                    != pack::weight_at(packed, found_codes, cols, *row, *col)
            })
            .unwrap_or_default();
        return Err(Difference::Weight { tensor: original.name().to_owned(), row: place.0, col: place.1 });
    }
    if scale != found_scale {
        return Err(Difference::Scale(original.name().to_owned()));
    }
    Ok(())
}
