//! Writing a checkpoint as a packed file, one matrix in memory at a time.

use tern_runtime::gguf::{Gguf, Header, TensorType};
use tern_runtime::model::Config;
use tern_runtime::tokenizer::Tokenizer;

use super::keys::with_tensors;
use super::matrix::Matrix;
use super::parts::{Content, Dense, Part};
use super::{Checkpoint, CheckpointError};
use crate::packing::head::{Plane, Source};
use crate::packing::rows::PackedMatrix;
use crate::packing::stream::{Put, identity, stream};
use crate::packing::{Output, PackError, Recipe};
use crate::tune::Load;

/// Bytes of an embedding that are read at a time.
const PIECE_BYTES: usize = 4 << 20;

impl Checkpoint {
    /// The shape as the runtime sees it, which is asked whether it has such a graph and such a tokenizer.
    ///
    /// # Errors
    /// If it has not.
    pub fn runtime_config(&self) -> Result<Config, PackError> {
        let keys = with_tensors(self.keys(), &self.shape.rope).map_err(PackError::Write)?;
        let gguf = Gguf::parse(&keys)?;
        let config = Config::read(&gguf)?;
        let plan = Tokenizer::plan(&gguf)?;
        Tokenizer::build(&gguf, plan, &mut vec![0; plan.table_words()])?;
        Ok(config)
    }

    /// What it asks of the machine.
    ///
    /// # Errors
    /// As [`runtime_config`](Self::runtime_config).
    pub fn load(&self) -> Result<Load, PackError> {
        Ok(Load { group: self.group, ..Load::from(&self.runtime_config()?) })
    }

    /// The header of its packed form.
    ///
    /// # Errors
    /// If a matrix has a shape that the layout has no room for.
    pub fn header(&self, recipe: &Recipe) -> Result<Header, PackError> {
        let parts = self.parts()?;
        self.header_of(recipe, &parts, head_of(recipe, &parts).as_ref())
    }

    fn header_of(
        &self,
        recipe: &Recipe,
        parts: &[Part<'_>],
        head: Option<&Dense<'_>>,
    ) -> Result<Header, PackError> {
        let mut header = self.packed_keys(recipe.layout);
        for part in parts {
            if let Content::Matrix(matrix) = &part.content {
                recipe.check_room(&part.name, matrix.shape(), matrix.group())?;
            }
            part.describe(&mut header, TensorType::Packed(recipe.layout))?;
        }
        if let Some(dense) = head {
            let source = Source::elsewhere(dense, 1);
            for plane in Plane::ALL {
                header.tensor(plane.name(), plane.ty(), &source.dims(plane)).map_err(PackError::Write)?;
            }
        }
        Ok(header)
    }

    /// A text that changes with anything that its packed form consists of but the weights.
    ///
    /// # Errors
    /// As [`header`](Self::header).
    pub fn identity(&self, recipe: &Recipe) -> Result<String, PackError> {
        Ok(identity(&self.header(recipe)?))
    }

    /// Writes its packed form with `workers` threads and tells `wrote` how many bytes each piece had.
    ///
    /// # Errors
    /// If the model could not be run, a weight is none, or those of reading and of `out`.
    pub fn pack<W: Output>(
        &self,
        recipe: &Recipe,
        workers: usize,
        out: W,
        wrote: impl FnMut(u64),
    ) -> Result<W, PackError> {
        self.runtime_config()?;
        let parts = self.parts()?;
        let head = head_of(recipe, &parts);
        let header = self.header_of(recipe, &parts, head.as_ref())?;
        let planes = head.as_ref().map(|dense| Source::elsewhere(dense, workers));
        let count = parts.len() + planes.map_or(0, |_| Plane::ALL.len());
        let (mut buffer, mut packed, mut made) = (Vec::new(), PackedMatrix::default(), Vec::new());
        let pack = |matrix: &Matrix<'_>, packed: &mut PackedMatrix, buffer: &mut Vec<u8>| {
            let weights = matrix.read(&self.tensors, buffer)?;
            let row = |row, trits: &mut [i8], scales: &mut [f32]| weights.row(row, trits, scales);
            packed.pack((recipe.layout, workers), matrix.shape(), matrix.group(), weights.scale, &row)?;
            Ok::<(), CheckpointError>(())
        };
        stream(header, count, out, wrote, |index, put| match parts.get(index).map(|part| &part.content) {
            Some(Content::Same(dense)) => copy(dense, &mut buffer, put),
            Some(Content::Norm(norm)) => {
                widened(norm, &mut buffer, &mut made)?;
                put(&made)
            }
            Some(Content::Made(values)) => put(&little_endian(values)),
            Some(Content::Matrix(matrix)) => {
                pack(matrix, &mut packed, &mut buffer)?;
                put(&packed.bytes)
            }
            Some(Content::Scales(matrix)) => {
                // An attempt that goes on here has not packed the matrix in front.
                if packed.scale_bytes().is_none() {
                    pack(matrix, &mut packed, &mut buffer)?;
                }
                put(&packed.scale_bytes().unwrap_or_default())
            }
            None => {
                // Matrices may have grown these; the planes are made of the file itself.
                (buffer, packed) = (Vec::new(), PackedMatrix::default());
                match planes {
                    Some(source) => source.fill(Plane::ALL[index - parts.len()], put),
                    None => Ok(()),
                }
            }
        })
    }
}

/// The head to be quantised, if one is.
pub(super) fn head_of<'p>(recipe: &Recipe, parts: &[Part<'p>]) -> Option<Dense<'p>> {
    if recipe.int8_head { Checkpoint::head(parts) } else { None }
}

/// Hands over an embedding as it is, piece by piece.
pub(super) fn copy(dense: &Dense<'_>, buffer: &mut Vec<u8>, put: &mut Put<'_>) -> Result<(), PackError> {
    let row_bytes = (dense.tensor.bytes as usize / dense.rows).max(1);
    let rows = (PIECE_BYTES / row_bytes).max(1);
    for first in (0..dense.rows).step_by(rows) {
        dense.read(first..dense.rows.min(first + rows), buffer)?;
        put(buffer)?;
    }
    Ok(())
}

/// A norm as binary32 in `wide`.
pub(super) fn widened(norm: &Dense<'_>, buffer: &mut Vec<u8>, wide: &mut Vec<u8>) -> Result<(), PackError> {
    norm.read(0..norm.rows, buffer)?;
    let mut values = vec![0.0; norm.rows * norm.cols];
    norm.tensor.dtype.widen(buffer, &mut values);
    *wide = little_endian(&values);
    Ok(())
}

/// The bytes of `values`.
pub(super) fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
