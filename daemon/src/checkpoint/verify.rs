//! Comparing a packed file with the checkpoint it was made of, weight by weight.

use tern_runtime::gguf::{Gguf, TensorInfo};
use tern_runtime::model::Rows;

use super::Checkpoint;
use super::matrix::Matrix;
use super::pack::{copy, head_of, little_endian, widened};
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
                        compare_matrix(&self.tensors, matrix, &part.name, (found, &info), &mut buffer)?;
                    verified.matrices += 1;
                }
                // Compared with their matrix.
                Content::Scales(_) => {}
                Content::Made(values) => {
                    if !has_shape(part, &info) || data != little_endian(values) {
                        return Err(differs());
                    }
                    verified.tensors += 1;
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
        Content::Made(values) => info.dims() == [values.len() as u64],
        Content::Scales(matrix) => info.dims() == [matrix.shape().0 as u64, matrix.scales() as u64],
        Content::Matrix(matrix) => {
            let (rows, cols) = matrix.shape();
            info.dims() == [cols as u64, rows as u64]
        }
    }
}

/// Takes the weights of a tensor of `gguf` out of their layout row by row and compares them and their scales with the
/// checkpoint's; their number.
fn compare_matrix(
    tensors: &Tensors,
    matrix: &Matrix<'_>,
    name: &str,
    (gguf, info): (&Gguf<'_>, &TensorInfo<'_>),
    buffer: &mut Vec<u8>,
) -> Result<u64, Difference> {
    let (rows, cols) = matrix.shape();
    let unreadable = |error: PackError| Difference::Unreadable(error);
    if info.ty().layout().is_none() || info.dims() != [cols as u64, rows as u64] {
        return Err(Difference::Tensor(name.to_owned()));
    }
    let weights = matrix.read(tensors, buffer).map_err(|error| unreadable(error.into()))?;
    let packed = Rows::new(gguf, info, matrix.group()).map_err(|error| unreadable(error.into()))?;
    let scale_differs = || Difference::Scale(name.to_owned());
    let one = packed.one_scale().map_err(|_| scale_differs())?;
    if one.is_some_and(|scale| scale.to_bits() != weights.scale.to_bits()) {
        return Err(scale_differs());
    }
    let (mut trits, mut found) = (vec![0i8; cols], vec![0i8; cols]);
    let (mut scales, mut found_scales) = (vec![0f32; matrix.scales()], vec![0f32; matrix.scales()]);
    for row in 0..rows {
        weights.row(row, &mut trits, &mut scales).map_err(|error| unreadable(error.into()))?;
        packed.read(row, &mut found, &mut found_scales).map_err(|error| unreadable(error.into()))?;
        if let Some(col) = trits.iter().zip(&found).position(|(a, b)| a != b) {
            return Err(Difference::Weight { tensor: name.to_owned(), row, col });
        }
        // In groups; the one scale of a matrix is compared above.
        if one.is_none() && scales.iter().zip(&found_scales).any(|(a, b)| a.to_bits() != b.to_bits()) {
            return Err(scale_differs());
        }
    }
    Ok((rows * cols) as u64)
}
