//! The LM head of a packed model: int8 in two planes of nibbles beside the head of the source (`docs/head.md`).
//!
//! The planes are made piece by piece, once for each of the three tensors they fill: quantising a row is cheap, and holding
//! all of them would take as much memory as the model.

use std::thread;

use tern_boards::kernel_sets;
use tern_kernels::planes::row_bytes;
use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, TensorType};
use tern_runtime::head::planes::{FACTORS, NAMES, quantize};
use tern_runtime::model::{Config, Dense};

use super::PackError;

/// Rows that a thread quantises at a time.
const PIECE_ROWS: usize = 2048;

/// Which of the three tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    High,
    Low,
    Factors,
}

impl Plane {
    pub(super) const ALL: [Plane; 3] = [Plane::High, Plane::Low, Plane::Factors];

    /// The name of the tensor.
    pub(super) fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Its type.
    pub(super) fn ty(self) -> TensorType {
        if self == Plane::Factors { TensorType::F32 } else { TensorType::I8 }
    }
}

/// A head to be quantised.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    dense: Dense<'a>,
    workers: usize,
}

impl<'a> Source<'a> {
    /// The head of `gguf`: its own, or the embedding where that serves as one.
    pub(super) fn new(gguf: &Gguf<'a>, workers: usize) -> Result<Self, PackError> {
        let Config { hidden, vocab, .. } = Config::read(gguf)?;
        let info = match gguf.tensor("output.weight") {
            Some(info) => info,
            None => gguf.require("token_embd.weight")?,
        };
        Ok(Source { dense: Dense::load(&info, hidden, vocab)?, workers: workers.max(1) })
    }

    /// Tokens of the vocabulary.
    pub(super) fn rows(&self) -> u64 {
        self.dense.rows as u64
    }

    /// Dimensions of the tensor of `plane`, the contiguous one first.
    pub(super) fn dims(&self, plane: Plane) -> [u64; 2] {
        match plane {
            Plane::High | Plane::Low => [row_bytes(self.dense.cols) as u64, self.dense.rows as u64],
            Plane::Factors => [self.dense.rows as u64, FACTORS as u64],
        }
    }

    /// Makes the bytes of `plane` in their order and hands them to `take`.
    pub(super) fn fill(
        &self,
        plane: Plane,
        mut take: impl FnMut(&[u8]) -> Result<(), PackError>,
    ) -> Result<(), PackError> {
        let rows = self.dense.rows;
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
    fn pieces(&self, rows: std::ops::Range<usize>) -> Result<Vec<Piece>, LoadError> {
        let starts: Vec<usize> = rows.clone().step_by(PIECE_ROWS).collect();
        thread::scope(|scope| {
            let threads: Vec<_> = starts
                .into_iter()
                .map(|first| scope.spawn(move || self.piece(first..rows.end.min(first + PIECE_ROWS))))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("quantising does not panic")).collect()
        })
    }

    fn piece(&self, rows: std::ops::Range<usize>) -> Result<Piece, LoadError> {
        let bytes = rows.len() * row_bytes(self.dense.cols);
        let mut piece = Piece {
            first: rows.start,
            high: vec![0; bytes],
            low: vec![0; bytes],
            factors: vec![0.0; FACTORS * rows.len()],
        };
        let mut wide = vec![0.0; self.dense.cols];
        let planes = (&mut piece.high[..], &mut piece.low[..]);
        // Every set gives the same bits.
        let set = kernel_sets().next().expect("the scalar sets are always there");
        quantize(set, &self.dense.part(rows), &mut wide, planes, &mut piece.factors)?;
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
