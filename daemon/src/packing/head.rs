//! The LM head of a packed model: int8 in two planes of nibbles beside the head of the source (`docs/head.md`).
//!
//! The planes are made piece by piece, once for each of the three tensors they fill: quantising a row is cheap, and holding
//! all of them would take as much memory as the model.

use std::ops::Range;
use std::thread;

use tern_boards::kernel_sets;
use tern_kernels::planes::row_bytes;
use tern_runtime::gguf::{Gguf, TensorType};
use tern_runtime::head::planes::{FACTORS, NAMES, quantize};
use tern_runtime::model::{Config, Dense, DenseData};

use super::PackError;
use super::stream::Put;

/// Rows that a thread quantises at a time.
const PIECE_ROWS: usize = 2048;

/// Which of the three tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// The high nibbles.
    High,
    /// The low nibbles.
    Low,
    /// What rows are multiplied with and bounded by.
    Factors,
}

impl Plane {
    /// All three, in the order of the file.
    pub const ALL: [Plane; 3] = [Plane::High, Plane::Low, Plane::Factors];

    /// The name of the tensor.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Its type.
    pub fn ty(self) -> TensorType {
        if self == Plane::Factors { TensorType::F32 } else { TensorType::I8 }
    }
}

/// Rows of a head that are read when they are needed.
pub trait HeadRows: Sync {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize);

    /// Widens `rows` into `wide: [rows, cols]`.
    ///
    /// # Errors
    /// If they cannot be read.
    fn widen(&self, rows: Range<usize>, wide: &mut [f32]) -> Result<(), PackError>;
}

/// A head to be quantised.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    head: Held<'a>,
    workers: usize,
}

/// Where a head lies.
#[derive(Clone, Copy)]
enum Held<'a> {
    Mapped(Dense<'a>),
    Elsewhere(&'a dyn HeadRows),
}

impl<'a> Source<'a> {
    /// The head of `gguf`: its own, or the embedding where that serves as one.
    ///
    /// # Errors
    /// If it is not there or has another shape.
    pub fn new(gguf: &Gguf<'a>, workers: usize) -> Result<Self, PackError> {
        let Config { hidden, vocab, .. } = Config::read(gguf)?;
        let info = match gguf.tensor("output.weight") {
            Some(info) => info,
            None => gguf.require("token_embd.weight")?,
        };
        Ok(Source { head: Held::Mapped(Dense::load(&info, hidden, vocab)?), workers: workers.max(1) })
    }

    /// A head that is read as it is needed.
    pub fn elsewhere(rows: &'a dyn HeadRows, workers: usize) -> Self {
        Source { head: Held::Elsewhere(rows), workers: workers.max(1) }
    }

    fn shape(&self) -> (usize, usize) {
        match self.head {
            Held::Mapped(dense) => (dense.rows, dense.cols),
            Held::Elsewhere(rows) => rows.shape(),
        }
    }

    /// Tokens of the vocabulary.
    pub fn rows(&self) -> u64 {
        self.shape().0 as u64
    }

    /// Dimensions of the tensor of `plane`, the contiguous one first.
    pub fn dims(&self, plane: Plane) -> [u64; 2] {
        let (rows, cols) = self.shape();
        match plane {
            Plane::High | Plane::Low => [row_bytes(cols) as u64, rows as u64],
            Plane::Factors => [rows as u64, FACTORS as u64],
        }
    }

    /// Makes the bytes of `plane` in their order and hands them to `take`.
    ///
    /// # Errors
    /// Those of reading the head and of `take`.
    pub fn fill(&self, plane: Plane, take: &mut Put<'_>) -> Result<(), PackError> {
        let rows = self.shape().0;
        // Five factors a row, each of all rows: they only come in order once the last row is done.
        let mut factors = vec![0f32; if plane == Plane::Factors { FACTORS * rows } else { 0 }];
        let mut first = 0;
        while first < rows {
            let last = rows.min(first + self.workers * PIECE_ROWS);
            for piece in self.pieces(first..last)? {
                match plane {
                    Plane::High => take(&piece.high)?,
                    Plane::Low => take(&piece.low)?,
                    Plane::Factors => {
                        let count = piece.factors.len() / FACTORS;
                        for (kind, values) in piece.factors.chunks_exact(count).enumerate() {
                            factors[kind * rows + piece.first..][..count].copy_from_slice(values);
                        }
                    }
                }
            }
            first = last;
        }
        if plane == Plane::Factors {
            let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
            take(&bytes)?;
        }
        Ok(())
    }

    /// Quantises `rows`, a piece a thread.
    fn pieces(&self, rows: Range<usize>) -> Result<Vec<Piece>, PackError> {
        let starts: Vec<usize> = rows.clone().step_by(PIECE_ROWS).collect();
        thread::scope(|scope| {
            let threads: Vec<_> = starts
                .into_iter()
                .map(|first| scope.spawn(move || self.piece(first..rows.end.min(first + PIECE_ROWS))))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("quantising does not panic")).collect()
        })
    }

    fn piece(&self, rows: Range<usize>) -> Result<Piece, PackError> {
        let cols = self.shape().1;
        let bytes = rows.len() * row_bytes(cols);
        let mut piece = Piece {
            first: rows.start,
            high: vec![0; bytes],
            low: vec![0; bytes],
            factors: vec![0.0; FACTORS * rows.len()],
        };
        let mut values = Vec::new();
        let dense = match self.head {
            Held::Mapped(dense) => dense.part(rows),
            Held::Elsewhere(head) => {
                values.resize(rows.len() * cols, 0.0);
                head.widen(rows.clone(), &mut values)?;
                Dense { cols, rows: rows.len(), ty: TensorType::F32, data: DenseData::F32(&values) }
            }
        };
        let mut wide = vec![0.0; cols];
        let planes = (&mut piece.high[..], &mut piece.low[..]);
        // Every set gives the same bits.
        let set = kernel_sets().next().expect("the scalar sets are always there");
        quantize(set, &dense, &mut wide, planes, &mut piece.factors)?;
        Ok(piece)
    }
}

/// Some rows of all three tensors.
struct Piece {
    first: usize,
    high: Vec<u8>,
    low: Vec<u8>,
    factors: Vec<f32>,
}
