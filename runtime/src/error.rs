//! What can be wrong with a model file, as facts a person can act on.
//!
//! The errors live without an allocator, so a name from the file travels in a [`Name`]: a short, sanitised,
//! fixed-size copy. A file is not trusted, and neither is what it would print on an operator's terminal.

use core::fmt;

use crate::gguf::{Lookalike, TensorType, ValueType};
pub use crate::name::Name;

/// Why a model file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum LoadError {
    /// The file is something else.
    NotGguf {
        /// What its first bytes look like.
        looks_like: Lookalike,
    },
    /// A GGUF version this build does not read.
    Version {
        /// The version field.
        found: u32,
    },
    /// The file ends inside something it announces.
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Position of that in the file.
        at_bytes: u64,
        /// Bytes it takes.
        needed_bytes: u64,
        /// Bytes that are left from there.
        left_bytes: u64,
    },
    /// A count is larger than the file can hold or than this build keeps.
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The announced count.
        found: u64,
        /// The largest acceptable one.
        most: u64,
    },
    /// A text is not UTF-8.
    NotUtf8 {
        /// Which text.
        what: &'static str,
        /// Its head, or the key it belongs to.
        name: Name,
    },
    /// A metadata value of a type GGUF does not define, or an array inside an array.
    ValueType {
        /// The key.
        key: Name,
        /// The type id found.
        found: u32,
    },
    /// A metadata key that must be there is not.
    KeyMissing {
        /// The key.
        key: Name,
    },
    /// A metadata key appears twice.
    KeyTwice {
        /// The key.
        key: Name,
    },
    /// A metadata value has the wrong type.
    KeyType {
        /// The key.
        key: Name,
        /// The type found.
        found: ValueType,
        /// The type or types that would do.
        expected: &'static str,
    },
    /// A metadata number is out of range.
    KeyRange {
        /// The key.
        key: Name,
        /// The number found (as close as an i64 comes to it).
        found: i64,
        /// What would do.
        expected: &'static str,
    },
    /// A metadata array has the wrong length.
    KeyLength {
        /// The key.
        key: Name,
        /// Elements found.
        found: u64,
        /// Elements expected.
        expected: u64,
    },
    /// `general.alignment` is not a power of two of at least 8.
    Alignment {
        /// The value found.
        found: u64,
    },
    /// A tensor that must be there is not.
    TensorMissing {
        /// The tensor.
        tensor: Name,
    },
    /// Two tensors have one name.
    TensorTwice {
        /// The tensor.
        tensor: Name,
    },
    /// A tensor has no dimensions or more than four.
    TensorRank {
        /// The tensor.
        tensor: Name,
        /// Dimensions found.
        found: u32,
    },
    /// A dimension is zero, or the number of elements overflows.
    TensorSize {
        /// The tensor.
        tensor: Name,
    },
    /// A row is not a whole number of the type's blocks.
    TensorRow {
        /// The tensor.
        tensor: Name,
        /// Its type.
        ty: TensorType,
        /// Elements of a row.
        row: u64,
        /// Elements of a block.
        block: u64,
    },
    /// A tensor has another shape than the model needs.
    TensorShape {
        /// The tensor.
        tensor: Name,
        /// Row length and rows found.
        found: [u64; 2],
        /// Row length and rows expected.
        expected: [u64; 2],
    },
    /// A tensor starts at an offset that is not a multiple of the alignment.
    TensorOffset {
        /// The tensor.
        tensor: Name,
        /// The offset in the data section.
        offset_bytes: u64,
        /// The alignment.
        alignment_bytes: u64,
    },
    /// A tensor reaches beyond the end of the file.
    TensorOutside {
        /// The tensor.
        tensor: Name,
        /// Where the file would have to end.
        ends_at_bytes: u64,
        /// Where it ends.
        file_bytes: u64,
    },
    /// Two tensors share bytes.
    TensorOverlap {
        /// The tensor that starts first.
        tensor: Name,
        /// Where it ends in the data section.
        ends_at_bytes: u64,
        /// Where the other one starts.
        next_at_bytes: u64,
    },
    /// A tensor takes another number of bytes than its type does: the type id means something else in this file.
    TensorSpan {
        /// The tensor.
        tensor: Name,
        /// Its type, as this build reads the id.
        ty: TensorType,
        /// Bytes up to the next tensor or the end of the file.
        found_bytes: u64,
        /// Bytes the type takes, padded.
        expected_bytes: u64,
    },
    /// A tensor has a type this build does not read.
    TensorType {
        /// The tensor.
        tensor: Name,
        /// The type found.
        found: TensorType,
    },
    /// A tensor that the architecture's graph does not use: a bias, a transform, a second kind of head.
    TensorUnknown {
        /// The tensor.
        tensor: Name,
    },
    /// Rotary angles that are scaled for texts longer than those of the training.
    RopeScaling {
        /// `rope.scaling.type`.
        found: Name,
    },
    /// An architecture this build does not run.
    Architecture {
        /// `general.architecture`.
        found: Name,
    },
    /// A tokenizer this build does not have.
    TokenizerModel {
        /// `tokenizer.ggml.model`.
        found: Name,
    },
    /// A pre-tokenizer this build does not have.
    Pretokenizer {
        /// `tokenizer.ggml.pre`, or `(none)`.
        found: Name,
    },
    /// A byte that occurs in UTF-8 text has no token, so some text could not be encoded.
    ByteWithoutToken {
        /// The byte.
        byte: u8,
    },
    /// A merge rule cannot be applied.
    Merge {
        /// Its index in `tokenizer.ggml.merges`.
        index: u32,
        /// Its text.
        rule: Name,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file needs to be read in a way that it does not tell, or that this build does not have.
    Reading(crate::gguf::ReadingError),
    /// A ternary matrix has a type that is not ternary here.
    NotTernary {
        /// The tensor.
        tensor: Name,
        /// The type found.
        found: TensorType,
    },
    /// A ternary tensor holds a code that stands for no weight.
    InvalidCode {
        /// The tensor.
        tensor: Name,
        /// First byte of the tensor with such a code.
        at_bytes: usize,
    },
    /// Scales of groups of columns cannot be taken.
    Scales(crate::model::ScalesError),
    /// A number, scale or norm weight is NaN, infinite or not positive.
    NotFinite {
        /// The tensor or key.
        what: Name,
    },
    /// A tensor of two- or four-byte values does not start on such a boundary in memory.
    Misaligned {
        /// The tensor.
        tensor: Name,
    },
    /// Two numbers of the metadata contradict each other.
    Inconsistent {
        /// The rule that is broken.
        rule: &'static str,
        /// The number found.
        found: usize,
        /// What it was checked against.
        against: usize,
    },
    /// An engine option is out of range.
    Options(crate::plan::OptionsError),
    /// The planned memory is more than can be addressed.
    PlanOverflow,
    /// The engine is put together from other parts than those that its memory was planned for.
    NotAsPlanned {
        /// What differs.
        what: &'static str,
        /// What the plan was made for.
        planned: usize,
        /// What was handed over.
        found: usize,
    },
    /// The memory block is smaller than planned.
    Arena(crate::arena::ArenaError),
    /// The memory handed over for a table is too small.
    TableMemory {
        /// What the table is for.
        what: &'static str,
        /// Words of 32 bits it takes.
        needed_words: usize,
        /// Words given.
        given_words: usize,
    },
}

impl LoadError {
    /// Shorthand for [`LoadError::KeyMissing`].
    #[must_use]
    pub fn key_missing(key: &str) -> Self {
        Self::KeyMissing { key: key.into() }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotGguf { looks_like } => write!(f, "not a GGUF model file: {looks_like}"),
            Self::Version { found } if found.swap_bytes() <= 3 => {
                write!(f, "big-endian GGUF (version {}); convert it to little-endian", found.swap_bytes())
            }
            Self::Version { found } => write!(
                f,
                "GGUF version {found}; this build reads versions 2 and 3, convert the model again with a newer converter"
            ),
            Self::Truncated { what, at_bytes, needed_bytes, left_bytes } => write!(
                f,
                "file ends inside {what}: {needed_bytes} bytes needed at byte {at_bytes}, {left_bytes} left; the file is \
                 cut short or damaged, fetch it again and compare its checksum"
            ),
            Self::TooMany { what, found, most } => {
                write!(
                    f,
                    "{found} {what} announced, at most {most} possible here; the file is damaged or not meant for this build"
                )
            }
            Self::NotUtf8 { what, name } => write!(f, "{what} '{name}' is not UTF-8; the file is damaged"),
            Self::ValueType { key, found: 9 } => {
                write!(f, "key '{key}' holds an array of arrays, which GGUF readers do not accept")
            }
            Self::ValueType { key, found } => {
                write!(f, "key '{key}' has value type {found}; GGUF defines 0 to 12, the file is damaged")
            }
            Self::KeyMissing { key } => {
                write!(f, "key '{key}' is missing; convert the model again with a converter that writes it")
            }
            Self::KeyTwice { key } => write!(f, "key '{key}' appears twice; the file is damaged"),
            Self::KeyType { key, found, expected } => {
                write!(f, "key '{key}' has type {found}, expected {expected}")
            }
            Self::KeyRange { key, found, expected } => {
                write!(f, "key '{key}' is {found}, expected {expected}")
            }
            Self::KeyLength { key, found, expected } => {
                write!(f, "key '{key}' has {found} elements, expected {expected}")
            }
            Self::Alignment { found } => {
                write!(f, "general.alignment is {found}, expected a power of two of at least 8")
            }
            Self::TensorMissing { tensor } => {
                write!(f, "tensor '{tensor}' is missing; the file is incomplete or of another architecture")
            }
            Self::TensorTwice { tensor } => write!(f, "tensor '{tensor}' appears twice; the file is damaged"),
            Self::TensorRank { tensor, found } => {
                write!(f, "tensor '{tensor}' has {found} dimensions, expected 1 to 4")
            }
            Self::TensorSize { tensor } => {
                write!(f, "tensor '{tensor}' has a zero dimension or more elements than fit in 64 bits")
            }
            Self::TensorRow { tensor, ty, row, block } => write!(
                f,
                "tensor '{tensor}' has rows of {row} weights, {ty} needs a multiple of {block}; convert it to another type"
            ),
            Self::TensorShape { tensor, found, expected } => write!(
                f,
                "tensor '{tensor}' is {} x {} (row length x rows), expected {} x {}",
                found[0], found[1], expected[0], expected[1]
            ),
            Self::TensorOffset { tensor, offset_bytes, alignment_bytes } => write!(
                f,
                "tensor '{tensor}' starts at {offset_bytes}, not a multiple of the alignment {alignment_bytes}"
            ),
            Self::TensorOutside { tensor, ends_at_bytes, file_bytes } => write!(
                f,
                "tensor '{tensor}' would end at byte {ends_at_bytes}, the file has {file_bytes}; it is cut short or \
                 damaged, fetch it again and compare its checksum"
            ),
            Self::TensorOverlap { tensor, ends_at_bytes, next_at_bytes } => write!(
                f,
                "tensor '{tensor}' ends at {ends_at_bytes} of the data but another one starts at {next_at_bytes}; the \
                 file is damaged or its type ids mean something else"
            ),
            Self::TensorSpan { tensor, ty, found_bytes, expected_bytes } => write!(
                f,
                "tensor '{tensor}' takes {found_bytes} bytes where {ty} takes {expected_bytes}: in this file the type id \
                 means something else (older llama.cpp used 36 for a repacked 4-bit type); convert the model to I2_S or TQ2_0"
            ),
            Self::TensorType { tensor, found } => write!(
                f,
                "tensor '{tensor}' has type {found}; this build reads {}; convert the model to one of these",
                TensorType::SUPPORTED_NAMES
            ),
            Self::TensorUnknown { tensor } => write!(
                f,
                "tensor '{tensor}' is none that this build knows of the model's architecture; without it answers would \
                 be wrong, choose a model that has none"
            ),
            Self::RopeScaling { found } => write!(
                f,
                "rotary angles are scaled by '{found}'; this build scales them by linear, yarn and longrope, choose a model \
                 with one of these or none"
            ),
            Self::Architecture { found } => write!(
                f,
                "architecture '{found}'; this build runs bitnet-b1.58, bitnet-25, bitnet, llama, qwen3 and minicpm with \
                 ternary weights, choose such a model"
            ),
            Self::TokenizerModel { found } => write!(
                f,
                "tokenizer model '{found}'; this build has gpt2 (byte-level BPE) and llama (SentencePiece), choose a \
                 model that uses one of them"
            ),
            Self::Pretokenizer { found } => write!(
                f,
                "pre-tokenizer '{found}'; this build has {}; if the model's own tokenizer splits text as one of these \
                 does, set tokenizer.ggml.pre to that name",
                crate::tokenizer::KnownNames
            ),
            Self::ByteWithoutToken { byte } => {
                write!(
                    f,
                    "the vocabulary has no token for byte 0x{byte:02x}, so not every text could be encoded"
                )
            }
            Self::Merge { index, rule, reason } => {
                write!(f, "merge rule {index} '{rule}' {reason}; the tokenizer tables do not belong together")
            }
            Self::NotTernary { tensor, found } => write!(
                f,
                "tensor '{tensor}' has type {found}, which is not ternary; convert the model to I2_S or TQ2_0"
            ),
            Self::Reading(error) => write!(f, "{error}"),
            Self::InvalidCode { tensor, at_bytes } => write!(
                f,
                "tensor '{tensor}' holds a code in byte {at_bytes} that stands for no ternary weight; the file is \
                 damaged, fetch it again and compare its checksum"
            ),
            Self::Scales(error) => write!(f, "{error}"),
            Self::NotFinite { what } => {
                write!(f, "'{what}' holds a value that is not a usable number; the file is damaged")
            }
            Self::Misaligned { tensor } => {
                write!(f, "tensor '{tensor}' is not aligned in memory; map the file from its start")
            }
            Self::Inconsistent { rule, found, against } => {
                write!(
                    f,
                    "{rule} ({found} against {against}); the file is damaged or of another architecture"
                )
            }
            Self::Options(error) => write!(f, "{error}"),
            Self::PlanOverflow => {
                write!(
                    f,
                    "the memory planned for this model is more than can be addressed; lower context or slots"
                )
            }
            Self::NotAsPlanned { what, planned, found } => {
                write!(
                    f,
                    "memory was planned for {planned} {what}, not {found}; make the plan with the same parts"
                )
            }
            Self::Arena(error) => write!(f, "{error}"),
            Self::TableMemory { what, needed_words, given_words } => {
                write!(
                    f,
                    "memory for {what}: {given_words} words given, {needed_words} needed; ask the plan for the size"
                )
            }
        }
    }
}

impl core::error::Error for LoadError {}

impl From<crate::arena::ArenaError> for LoadError {
    fn from(error: crate::arena::ArenaError) -> Self {
        Self::Arena(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_error_stays_small() {
        // It travels in every Result of the loader, and with a path in those of the daemon; clippy's bound on the error
        // side is 128.
        assert!(size_of::<LoadError>() <= 96, "{}", size_of::<LoadError>());
    }
}
