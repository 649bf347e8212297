//! Ternary matrices of a checkpoint, given back row by row as weights -1, 0 and +1.
//!
//! Packed, as `pack_weights` of transformers writes them: U8 `[rows / 4, cols]`; bits `2 i` and `2 i + 1` of byte `(r, k)`
//! are the weight of row `i * rows / 4 + r`, plus one. Codes of 3 are none.
//!
//! Float masters, quantised as `WeightQuant` of transformers and the code of 1bitLLM do it:
//! ```text
//! w     = the master, rounded to the type the model computes in (`dtype` of config.json) if it is stored in another
//! m     = max(mean |w| over the whole matrix, 1e-5)                f32
//! s     = 1 / m                                                    f32
//! trit  = clamp(round_half_even(w * s), -1, 1)                     f32
//! scale = (1 / s) rounded to the type the model computes in
//! ```
//! The mean is a sum in binary64 by rows, then over the rows in their order, divided and rounded to f32 once. Torch sums in
//! f32 in an order that depends on its vectors and threads, so its mean is a few units in the last place away, in either
//! direction. A trit can only differ where `|w| * s` lies that close to one half; `tests/oracles/checkpoints.py` counts such
//! weights and compares all trits.
//!
//! Floats that are ternary already are taken as they are, with a scale for the matrix or for each row and group of columns
//! ([`ternary`]).
//!
//! GGUF files of `llama` have the rows of queries and keys in another order, so that the values which turn together are
//! neighbours (`runtime/src/model/graph.rs`); row `2 j + p` of a head there is row `p * head_dim / 2 + j` here.

use super::CheckpointError;
use super::config::Convention;
use super::dtype::Dtype;
use super::shard::Tensor;
use super::tensors::Tensors;
use super::ternary::{self, is_half, scale_of};

/// Where a ternary matrix is and how it is written down.
#[derive(Clone, Debug)]
pub struct Matrix<'a> {
    tensor: &'a Tensor,
    form: Form,
    rows: usize,
    cols: usize,
    /// Values of a head, where the rows of heads are to be in the order of GGUF's llama.
    permuted: Option<usize>,
    /// Columns that share a scale, where the matrix has several.
    group: Option<usize>,
}

/// How the weights are written down.
#[derive(Clone, Debug)]
enum Form {
    /// Trits; the scale is known.
    Packed { scale: f32 },
    /// Floats to be quantised, of a model that computes in this type.
    Masters { computes: Dtype },
    /// Floats that are ternary, of a model that computes in this type.
    Ternary { computes: Dtype },
}

impl<'a> Matrix<'a> {
    /// The matrix `[rows, cols]` called `name` (without `.weight`).
    pub(super) fn find(
        tensors: &'a Tensors,
        name: &str,
        (rows, cols): (usize, usize),
        convention: Convention,
        computes: Option<&Dtype>,
    ) -> Result<Self, CheckpointError> {
        let weight = format!("{name}.weight");
        let tensor = tensors.get(&weight).ok_or_else(|| CheckpointError::tensor(&weight, "it is missing"))?;
        let refuse = |expected: String| {
            let problem =
                format!("it is {} {:?}; {convention} would be {expected}", tensor.dtype, tensor.shape);
            Err(CheckpointError::tensor(&weight, problem))
        };
        let form = match convention {
            Convention::Online | Convention::Ternary => {
                if tensor.dtype.gguf().is_none() || tensor.shape != [rows as u64, cols as u64] {
                    return refuse(format!("BF16, F16 or F32 [{rows}, {cols}]"));
                }
                let computes = computes.unwrap_or(&tensor.dtype).clone();
                match convention {
                    Convention::Ternary => Form::Ternary { computes },
                    _ => Form::Masters { computes },
                }
            }
            Convention::Packed | Convention::PackedInverse => {
                let expected = [rows as u64 / 4, cols as u64];
                if tensor.dtype != Dtype::U8 || tensor.shape != expected || !rows.is_multiple_of(4) {
                    return refuse(format!("U8 {expected:?}"));
                }
                let stored = scale(tensors, name)?;
                let scale = if convention == Convention::Packed { stored } else { 1.0 / stored };
                if !scale.is_finite() {
                    let problem = format!("it is {stored}, which gives weights that are not finite");
                    return Err(CheckpointError::tensor(&format!("{name}.weight_scale"), problem));
                }
                Form::Packed { scale }
            }
        };
        Ok(Matrix { tensor, form, rows, cols, permuted: None, group: None })
    }

    /// The same in groups of `group` columns, if there are groups.
    pub(super) fn grouped(self, group: Option<usize>) -> Self {
        Matrix { group, ..self }
    }

    /// Its name in the checkpoint.
    pub(super) fn name(&self) -> &str {
        &self.tensor.name
    }

    /// Columns that share a scale, where it has several.
    pub(super) fn group(&self) -> Option<usize> {
        self.group
    }

    /// Scales of a row.
    pub(super) fn scales(&self) -> usize {
        self.group.map_or(1, |group| self.cols / group)
    }

    /// Reads row `row` of the tensor as floats into `wide`; nothing where they are none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn read_row(
        &self,
        tensors: &Tensors,
        row: usize,
        wide: &mut Vec<f32>,
    ) -> Result<(), CheckpointError> {
        wide.clear();
        let (Form::Masters { computes } | Form::Ternary { computes }) = &self.form else { return Ok(()) };
        let row_bytes = self.tensor.bytes as usize / self.rows;
        let mut bytes = vec![0; row_bytes];
        tensors.read(self.tensor, (row * row_bytes) as u64, &mut bytes)?;
        wide.resize(self.cols, 0.0);
        self.widen(&bytes, computes, wide);
        Ok(())
    }

    /// The same with the rows of each head of `head_dim` values as GGUF files of llama have them.
    pub(super) fn permuted(self, head_dim: usize) -> Self {
        Matrix { permuted: Some(head_dim), ..self }
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Reads its weights into memory, `buffer`, and checks or quantises them.
    ///
    /// # Errors
    /// If they cannot be read, are not finite, or a code is none.
    pub(super) fn read<'b>(
        &'b self,
        tensors: &Tensors,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Weights<'b>, CheckpointError> {
        tensors.read_all(self.tensor, buffer)?;
        let (factor, scale) = match &self.form {
            Form::Packed { scale } => {
                // Both bits of a field: the code is 3.
                if let Some(at) = buffer.iter().position(|byte| byte & byte >> 1 & 0x55 != 0) {
                    let problem = format!(
                        "byte {at} is {:#04x}, which has a code of 3; a weight is 0, 1 or 2",
                        buffer[at]
                    );
                    return Err(CheckpointError::tensor(&self.tensor.name, problem));
                }
                (1.0, *scale)
            }
            Form::Masters { computes } => {
                let s = 1.0 / self.mean(buffer, computes)?.max(1e-5);
                (s, computes.round(1.0 / s))
            }
            Form::Ternary { .. } if self.group.is_some() => (1.0, 1.0),
            Form::Ternary { computes } => (1.0, self.first_scale(buffer, computes)),
        };
        Ok(Weights { matrix: self, bytes: buffer, factor, scale })
    }

    /// The first absolute value that is not 0; 0 if there is none.
    fn first_scale(&self, bytes: &[u8], computes: &Dtype) -> f32 {
        let row_bytes = bytes.len() / self.rows.max(1);
        let mut wide = vec![0.0; self.cols];
        let mut rows = bytes.chunks_exact(row_bytes.max(1)).map(|row| {
            self.widen(row, computes, &mut wide);
            wide.iter().map(|w: &f32| w.abs()).find(|w| *w != 0.0)
        });
        rows.find_map(|found| found).unwrap_or(0.0)
    }

    /// The mean of the absolute values.
    fn mean(&self, bytes: &[u8], computes: &Dtype) -> Result<f32, CheckpointError> {
        let row_bytes = bytes.len() / self.rows.max(1);
        let mut wide = vec![0.0; self.cols];
        let mut sum = 0f64;
        for row in bytes.chunks_exact(row_bytes.max(1)) {
            self.widen(row, computes, &mut wide);
            sum += wide.iter().map(|w| f64::from(w.abs())).sum::<f64>();
        }
        let mean = (sum / (self.rows * self.cols) as f64) as f32;
        if mean.is_finite() {
            Ok(mean)
        } else {
            Err(CheckpointError::tensor(&self.tensor.name, "not all of its weights are finite"))
        }
    }

    fn widen(&self, row: &[u8], computes: &Dtype, wide: &mut [f32]) {
        self.tensor.dtype.widen(row, wide);
        if *computes != self.tensor.dtype {
            wide.iter_mut().for_each(|w| *w = computes.round(*w));
        }
    }

    /// The row of the tensor that is row `row` of the matrix.
    fn source_row(&self, row: usize) -> usize {
        let Some(head_dim) = self.permuted else { return row };
        let (head, at) = (row / head_dim, row % head_dim);
        head * head_dim + at % 2 * (head_dim / 2) + at / 2
    }
}

/// The one value of `name.weight_scale`.
fn scale(tensors: &Tensors, name: &str) -> Result<f32, CheckpointError> {
    let name = format!("{name}.weight_scale");
    let tensor = tensors.get(&name).ok_or_else(|| CheckpointError::tensor(&name, "it is missing"))?;
    if tensor.dtype.gguf().is_none() || tensor.shape.iter().product::<u64>() != 1 {
        let problem = format!("it is {} {:?}; one float is expected", tensor.dtype, tensor.shape);
        return Err(CheckpointError::tensor(&name, problem));
    }
    let (mut bytes, mut wide) = (Vec::new(), [0.0]);
    tensors.read_all(tensor, &mut bytes)?;
    tensor.dtype.widen(&bytes, &mut wide);
    if wide[0].is_finite() {
        Ok(wide[0])
    } else {
        Err(CheckpointError::tensor(&name, format!("it is {}; a finite scale is expected", wide[0])))
    }
}

/// The weights of a matrix in memory.
#[derive(Debug)]
pub(super) struct Weights<'a> {
    matrix: &'a Matrix<'a>,
    bytes: &'a [u8],
    /// Masters are multiplied with this and rounded.
    factor: f32,
    /// Multiplies every trit, where the matrix has one scale; else 1.
    pub scale: f32,
}

impl Weights<'_> {
    /// Row `row` as -1, 0 and +1 in `trits: [cols]`, and what multiplies each group of them in `scales: [groups]`.
    ///
    /// # Errors
    /// If floats that should be ternary are not, or a scale of a group cannot be kept.
    pub fn row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), CheckpointError> {
        let Matrix { rows, cols, .. } = *self.matrix;
        let row = self.matrix.source_row(row);
        scales.fill(self.scale);
        match &self.matrix.form {
            Form::Packed { .. } => {
                let quarter = rows / 4;
                let (line, shift) = (row % quarter, 2 * (row / quarter));
                let bytes = &self.bytes[line * cols..][..cols];
                trits.iter_mut().zip(bytes).for_each(|(trit, byte)| *trit = (byte >> shift & 3) as i8 - 1);
            }
            Form::Masters { computes } => {
                for (trit, w) in trits.iter_mut().zip(self.wide(row, computes)) {
                    *trit = (w * self.factor).round_ties_even().clamp(-1.0, 1.0) as i8;
                }
            }
            Form::Ternary { computes } => {
                let wide = self.wide(row, computes);
                ternary::signs(&wide, trits);
                let Some(group) = self.matrix.group else {
                    return ternary::check(&wide, self.scale)
                        .map_err(|_| self.matrix.not_one_scale(row, &wide, self.scale));
                };
                for (scale, weights) in scales.iter_mut().zip(wide.chunks_exact(group)) {
                    *scale = scale_of(weights).map_err(|_| self.matrix.not_ternary(row, &wide, group))?;
                    if !is_half(*scale) {
                        return Err(self.matrix.not_half(row, *scale));
                    }
                }
            }
        }
        Ok(())
    }

    /// Row `row` of the tensor as floats.
    fn wide(&self, row: usize, computes: &Dtype) -> Vec<f32> {
        let Matrix { rows, cols, .. } = *self.matrix;
        let row_bytes = self.bytes.len() / rows;
        let mut wide = vec![0.0; cols];
        self.matrix.widen(&self.bytes[row * row_bytes..][..row_bytes], computes, &mut wide);
        wide
    }
}
