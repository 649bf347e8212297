//! Comparing a packed file with the checkpoint it was made of, weight by weight.

use tern_kernels::{Layout, pack};
use tern_runtime::gguf::{Gguf, TensorInfo};

use super::Checkpoint;
use super::matrix::Matrix;
use super::pack::{copy, head_of, widened};
use super::parts::{Content, Part};
use super::tensors::Tensors;
use crate::packing::head::{Plane, Source};
use crate::packing::verify::{Difference, Verified, compare_plane};
use crate::packing::{PackError, Recipe, packed};

impl Checkpoint {
    /// Compares every weight, every other tensor and every key of `copy` with the checkpoint; tells `read` the bytes of each
    /// tensor when it is done.
    ///
    /// # Errors
    /// The first [`Difference`].
    pub fn verify(
        &self,
        recipe: &Recipe,
        found: &Gguf<'_>,
        workers: usize,
        mut read: impl FnMut(u64),
    ) -> Result<Verified, Difference> {
        packed(found).map_err(Difference::Unreadable)?.ok_or(Difference::NotPacked)?;
        let unreadable = |error: PackError| Difference::Unreadable(error);
        let parts = self.parts().map_err(|error| unreadable(error.into()))?;
        let mut verified = Verified { keys: self.compare_keys(recipe, found)?, ..Verified::default() };
        let head = head_of(recipe, &parts);
        let expected = parts.len() + head.map_or(0, |_| Plane::ALL.len());
        if found.tensor_count() != expected {
            return Err(Difference::Tensor(format!("(there are {}, not {expected})", found.tensor_count())));
        }
        let (mut buffer, mut wide) = (Vec::new(), Vec::new());
        for part in &parts {
            let differs = || Difference::Tensor(part.name.clone());
            let info = found.tensor(&part.name).ok_or_else(differs)?;
            let data = info.data().map_err(|error| unreadable(error.into()))?;
            match &part.content {
                Content::Matrix(matrix) => {
                    verified.weights +=
                        compare_matrix(&self.tensors, matrix, &part.name, &info, &mut buffer)?;
                    verified.matrices += 1;
                }
                Content::Norm(norm) => {
                    widened(norm, &mut buffer, &mut wide).map_err(unreadable)?;
                    if !has_shape(part, &info) || data != wide {
                        return Err(differs());
                    }
                    verified.tensors += 1;
                }
                Content::Same(dense) => {
                    let (mut rest, mut same) = (data, has_shape(part, &info) && info.ty() == dense.ty());
                    copy(dense, &mut buffer, &mut |bytes| {
                        let (these, others) = rest.split_at(bytes.len().min(rest.len()));
                        same &= these == bytes;
                        rest = others;
                        Ok(())
                    })
                    .map_err(unreadable)?;
                    if !same || !rest.is_empty() {
                        return Err(differs());
                    }
                    verified.tensors += 1;
                }
            }
            read(info.nbytes().unwrap_or(0));
        }
        let head = head.as_ref().map(|dense| Source::elsewhere(dense, workers));
        for (source, plane) in head.iter().flat_map(|source| Plane::ALL.map(|plane| (source, plane))) {
            let differs = || Difference::Tensor(plane.name().to_owned());
            let info = found.tensor(plane.name()).ok_or_else(differs)?;
            if info.ty() != plane.ty() || info.dims() != source.dims(plane) {
                return Err(differs());
            }
            verified.head_rows = compare_plane(source, plane, &info).map_err(unreadable)?;
            read(info.nbytes().unwrap_or(0));
        }
        Ok(verified)
    }

    /// Compares the keys; their number.
    fn compare_keys(&self, recipe: &Recipe, found: &Gguf<'_>) -> Result<usize, Difference> {
        let keys = self.packed_keys(recipe.layout).begin(Vec::new()).and_then(|data| data.finish());
        let keys = keys.map_err(|error| Difference::Unreadable(PackError::Write(error)))?;
        let expected = Gguf::parse(&keys).map_err(|error| Difference::Unreadable(error.into()))?;
        let mut count = 0;
        for (key, value) in expected.entries() {
            // Bit patterns, so that a NaN equals itself.
            if found.value(key).is_none_or(|found| format!("{found:?}") != format!("{value:?}")) {
                return Err(Difference::Key(key.to_owned()));
            }
            count += 1;
        }
        Ok(count)
    }
}

/// Whether `info` has the dimensions of `part`.
fn has_shape(part: &Part<'_>, info: &TensorInfo<'_>) -> bool {
    match &part.content {
        Content::Same(dense) => info.dims() == [dense.cols as u64, dense.rows as u64],
        Content::Norm(norm) => info.dims() == [norm.cols as u64],
        Content::Matrix(matrix) => {
            let (rows, cols) = matrix.shape();
            info.dims() == [cols as u64, rows as u64]
        }
    }
}

/// Takes the weights of `info` out of their layout one by one and compares them with the checkpoint's; their number.
fn compare_matrix(
    tensors: &Tensors,
    matrix: &Matrix<'_>,
    name: &str,
    info: &TensorInfo<'_>,
    buffer: &mut Vec<u8>,
) -> Result<u64, Difference> {
    let (rows, cols) = matrix.shape();
    let unreadable = |error: PackError| Difference::Unreadable(error);
    let differs = || Difference::Tensor(name.to_owned());
    let layout: Layout = info.ty().layout().ok_or_else(differs)?;
    if info.dims() != [cols as u64, rows as u64] {
        return Err(differs());
    }
    let weights = matrix.read(tensors, buffer).map_err(|error| unreadable(error.into()))?;
    let data = info.data().map_err(|error| unreadable(error.into()))?;
    let (codes, tail) =
        data.split_at_checked(layout.bytes(rows, cols).ok_or_else(differs)?).ok_or_else(differs)?;
    if !tail.starts_with(&weights.scale.to_le_bytes()) {
        return Err(Difference::Scale(name.to_owned()));
    }
    let mut trits = vec![0i8; cols];
    let mut found = vec![0i8; cols];
    for row in 0..rows {
        weights.row(row, &mut trits);
        // A panel at a time: rows of one lie together.
        for (col, trit) in found.iter_mut().enumerate() {
            *trit = pack::weight_at(layout, codes, cols, row, col);
        }
        if let Some(col) = trits.iter().zip(&found).position(|(a, b)| a != b) {
            return Err(Difference::Weight { tensor: name.to_owned(), row, col });
        }
    }
    Ok((rows * cols) as u64)
}
