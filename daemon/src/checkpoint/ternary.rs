//! Floats that are ternary already: every weight of a group of columns is -s, 0 or s.
//!
//! Makers of weight-only models publish them so (TriLM, BitCPM4, Ternary-Bonsai): any program for floats runs them, and nothing
//! in config.json says that they are ternary. Nothing needs to: the weights are used as they stand, and trits with their
//! scales are another way of writing the same numbers. What is found here is only how many columns share a scale,
//!
//! ```text
//! one scale for each matrix                where every matrix has one, else
//! one for each row and 256, 128 or 64 columns    the most that fit all matrices
//! ```
//!
//! from [`SAMPLED_ROWS`] rows of every matrix; blocks of 256 are the widest that GGUF files have, so a model in wider shards
//! is multiplied as from such a file. When the model is packed every weight of every row is held against it, and one that
//! is something else ends it with an error: no weight is ever rounded.

use tern_kernels::half::{f16_to_f32, f32_to_f16};

use super::CheckpointError;
use super::matrix::Matrix;
use super::tensors::Tensors;

/// Columns that may share a scale, the most first.
const GROUPS: [usize; 3] = [256, 128, 64];

/// Rows of every matrix that are looked at to find how many do, the first and the last among them.
const SAMPLED_ROWS: usize = 16;

/// Two weights that no common scale gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mixed {
    /// Column of the second.
    pub col: usize,
    /// Their absolute values.
    pub values: [f32; 2],
}

/// The `s` of which all of `weights` are -s, 0 or s; 0 where all are 0.
pub(super) fn scale_of(weights: &[f32]) -> Result<f32, Mixed> {
    let scale = weights.iter().map(|w| w.abs()).find(|w| *w != 0.0).unwrap_or(0.0);
    check(weights, scale).map(|()| scale)
}

/// Whether all of `weights` are -scale, 0 or scale, and that is finite.
pub(super) fn check(weights: &[f32], scale: f32) -> Result<(), Mixed> {
    let is_one = |w: &f32| *w == 0.0 || w.abs() == scale && scale.is_finite();
    match weights.iter().position(|w| !is_one(w)) {
        None => Ok(()),
        Some(col) => Err(Mixed { col, values: [scale, weights[col].abs()] }),
    }
}

/// -1, 0 or +1 for each of `weights`.
pub(super) fn signs(weights: &[f32], trits: &mut [i8]) {
    for (trit, w) in trits.iter_mut().zip(weights) {
        *trit = i8::from(*w > 0.0) - i8::from(*w < 0.0);
    }
}

/// Whether binary16, as which the scales of groups are kept, holds `scale`.
pub(super) fn is_half(scale: f32) -> bool {
    f16_to_f32(f32_to_f16(scale)) == scale
}

/// Columns of `matrices` that share a scale, or `None` where each matrix has one.
///
/// # Errors
/// If they cannot be read or are not ternary.
pub(super) fn grouping(tensors: &Tensors, matrices: &[Matrix<'_>]) -> Result<Option<usize>, CheckpointError> {
    let fits = |group: &usize| matrices.iter().all(|matrix| matrix.shape().1.is_multiple_of(*group));
    let mut groups: Vec<usize> = GROUPS.into_iter().filter(fits).collect();
    let (mut is_one, mut wide) = (true, Vec::new());
    for matrix in matrices {
        let (rows, cols) = matrix.shape();
        let mut scale = 0.0;
        for sample in 0..SAMPLED_ROWS.min(rows) {
            let row = sample * (rows - 1) / (SAMPLED_ROWS.min(rows) - 1).max(1);
            matrix.read_row(tensors, row, &mut wide)?;
            is_one = is_one
                && scale_of(&wide).is_ok_and(|found| {
                    scale = if scale == 0.0 { found } else { scale };
                    found == 0.0 || found == scale
                });
            groups.retain(|group| wide.chunks_exact(*group).all(|weights| scale_of(weights).is_ok()));
            if groups.is_empty() && !is_one {
                return Err(matrix.not_ternary(row, &wide, cols.min(GROUPS[GROUPS.len() - 1])));
            }
        }
    }
    Ok(groups.first().copied().filter(|_| !is_one))
}

impl Matrix<'_> {
    /// That a row of it, `wide`, is not ternary in groups of `group` columns.
    pub(super) fn not_ternary(&self, row: usize, wide: &[f32], group: usize) -> CheckpointError {
        let found = wide
            .chunks(group.max(1))
            .enumerate()
            .find_map(|(at, weights)| scale_of(weights).err().map(|mixed| (at * group, mixed)));
        let (first, Mixed { col, values: [a, b] }) =
            found.unwrap_or((0, Mixed { col: 0, values: [f32::NAN; 2] }));
        let problem = format!(
            "row {row} has weights of {a:e} and {b:e} in columns {first} to {}; config.json has no quantization_config, so \
             weights are taken as they stand, and each {group} of a row must be -s, 0 or s. Masters of training are not: take \
             the directory in which their maker has quantised them, or a GGUF file",
            first + col
        );
        CheckpointError::tensor(self.name(), problem)
    }

    /// That a row of it, `wide`, has other weights than `scale`, which rows that were looked at have.
    pub(super) fn not_one_scale(&self, row: usize, wide: &[f32], scale: f32) -> CheckpointError {
        let found = check(wide, scale).err().map_or(f32::NAN, |mixed| mixed.values[1]);
        let problem = format!(
            "row {row} has a weight of {found:e} where {SAMPLED_ROWS} rows have -s, 0 or s with s = {scale:e}; a matrix whose \
             rows differ so rarely is none that a model was trained with: fetch the file again, or take a GGUF file"
        );
        CheckpointError::tensor(self.name(), problem)
    }

    /// That a scale of it cannot be kept.
    pub(super) fn not_half(&self, row: usize, scale: f32) -> CheckpointError {
        let problem = format!(
            "row {row} has weights of {scale:e}, and binary16, as which scales of groups are kept, does not hold that number; \
             take a GGUF file of the model"
        );
        CheckpointError::tensor(self.name(), problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_found_and_what_has_none_is_refused() {
        assert_eq!(scale_of(&[]), Ok(0.0));
        assert_eq!(scale_of(&[0.0, -0.0]), Ok(0.0));
        assert_eq!(scale_of(&[0.0, -0.25, 0.25]), Ok(0.25));
        assert_eq!(scale_of(&[-0.25, 0.5]), Err(Mixed { col: 1, values: [0.25, 0.5] }));
        for odd in [f32::NAN, f32::INFINITY] {
            assert!(scale_of(&[0.5, odd]).is_err() && scale_of(&[odd, odd]).is_err(), "{odd}");
        }
        let mut trits = [9; 4];
        signs(&[-0.5, 0.0, -0.0, 0.5], &mut trits);
        assert_eq!(trits, [-1, 0, 0, 1]);
        assert!(is_half(0.099_975_586) && !is_half(0.1) && !is_half(1e-8));
    }
}
