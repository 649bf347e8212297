//! Tensor types: what an id means, how many bytes it takes, and which ones this build reads.
//!
//! Ids 36 to 39 mean different things in BitNet files and in llama.cpp, and 42 has three meanings. Here 36 is I2_S, as in
//! every published file; the size of a tensor must agree (see `tensor.rs`), 39 and 42 are told apart by it (see
//! `reading.rs`), and `general.file_type`, which collides too, is not used.
//!
//! Matrices that `tern pack` wrote have ids of their own, far above anybody else's: 0x54524e00 ("TRN") plus the number of
//! the layout. `docs/packed.md` describes such a file.

use core::fmt;

use tern_kernels::Layout;
use tern_kernels::coding::{TernaryBlock, tl2_code_bytes};

/// The type of a tensor's elements. [`TensorType::Other`] is known at most by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// Blocks of 32: `f16 d; u8 q[16]`, element j is `d * ((q[j] & 15) - 8)`, 16+j the high nibble.
    Q4_0,
    /// Blocks of 32: `f16 d; i8 q[32]`.
    Q8_0,
    /// Blocks of 256: `u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d`.
    Q6K,
    /// Blocks of 256: `f16 d; f16 dmin; u8 scales[12]; u8 q[128]`.
    Q4K,
    /// The upper half of an F32.
    Bf16,
    /// BitNet's 2-bit codes in blocks of 128 weights, then one f32 scale at byte n/4 and 28 bytes without meaning.
    I2S,
    /// The same in blocks of 64 weights; the file does not tell, see [`super::Reading`].
    I2s64,
    /// bitnet.cpp's indices of pairs in tiles, then its scale as I2_S has it; needs [`super::Tiles`].
    Tl1,
    /// bitnet.cpp's indices of triples in tiles, padded to 32 bytes, then its scale; needs [`super::Tiles`].
    Tl2,
    /// Ternary blocks with a scale each.
    Ternary(TernaryBlock),
    /// Signed bytes without a scale: planes of the LM head in a packed file.
    I8,
    /// A ternary matrix in a layout of ours, then one f32 scale in [`PACKED_TAIL_BYTES`].
    Packed(Layout),
    /// Any other id.
    Other(u32),
}

/// Ids this build does not read: id, name, elements of a block, bytes of a block (0: not a fixed block).
const OTHERS: &[(u32, &str, u64, u64)] = &[
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (13, "Q5_K", 256, 176),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (31, "Q4_0_4_4", 32, 18),
    (32, "Q4_0_4_8", 32, 18),
    (33, "Q4_0_8_8", 32, 18),
    (37, "I8_S", 1, 0),
    // Where it is not TL2.
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 1, 0),
    // In a file it is one of three, see `reading.rs`.
    (42, "Q2_0 or STQ1_0", 1, 0),
];

/// Ids and names of ternary blocks. [`TernaryBlock::Q2_0`], [`TernaryBlock::Pq2_0`] and [`TernaryBlock::Stq1_0`] share the
/// id 42 in published files; only the first keeps it here.
const TERNARY: [(u32, TernaryBlock, &str); TernaryBlock::ALL.len()] = [
    (34, TernaryBlock::Tq1_0, "TQ1_0"),
    (35, TernaryBlock::Tq2_0, "TQ2_0"),
    (41, TernaryBlock::Q1_0, "Q1_0"),
    (42, TernaryBlock::Q2_0, "Q2_0"),
    (43, TernaryBlock::Stq1_0, "STQ1_0"),
    (142, TernaryBlock::Pq2_0, "PQ2_0"),
    (143, TernaryBlock::Ptq1_0, "PTQ1_0"),
];

/// Bytes behind the codes of I2_S, TL1 and TL2: the scale as a little-endian f32, then 28 without meaning. In TL1 and TL2
/// they are a tensor of their own that the header does not list.
pub const BITNET_TAIL_BYTES: usize = 32;

/// Bytes behind the codes of a packed matrix: the scale as a little-endian f32, then zeros.
pub const PACKED_TAIL_BYTES: usize = 64;

/// Ids and names of packed matrices. An id means the same layout for ever; a changed layout gets a new one.
const PACKED: [(u32, Layout, &str); Layout::ALL.len()] = [
    (0x5452_4e01, Layout::T2B128, "TERN_T2B128"),
    (0x5452_4e02, Layout::Tl1P32, "TERN_TL1P32"),
    (0x5452_4e03, Layout::T2R4, "TERN_T2R4"),
    (0x5452_4e04, Layout::T5R, "TERN_T5R"),
    (0x5452_4e05, Layout::T5C, "TERN_T5C"),
];

impl TensorType {
    /// The types this build reads, for messages.
    pub const SUPPORTED_NAMES: &'static str = "I2_S, TL1, TL2, TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, STQ1_0, Q1_0, F32, F16, BF16, Q8_0, Q6_K, Q4_K, Q4_0 and \
         what tern pack writes";

    /// The type behind an id, as far as the id alone tells: 42 has several meanings and 36 and 39 another one, see
    /// [`super::TensorInfo::ty`] for what it is in a file.
    #[must_use]
    pub fn from_id(id: u32) -> Self {
        match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            24 => Self::I8,
            36 => Self::I2S,
            38 => Self::Tl1,
            42 => Self::Other(42),
            other => {
                let packed =
                    PACKED.iter().find(|packed| packed.0 == other).map(|packed| Self::Packed(packed.1));
                let ternary = || TERNARY.iter().find(|t| t.0 == other).map(|t| Self::Ternary(t.1));
                packed.or_else(ternary).unwrap_or(Self::Other(other))
            }
        }
    }

    /// The id in the file.
    #[must_use]
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q6K => 14,
            Self::Bf16 => 30,
            Self::I2S | Self::I2s64 => 36,
            Self::Tl1 => 38,
            Self::Tl2 => 39,
            Self::Ternary(block) => ternary(block).0,
            Self::I8 => 24,
            Self::Packed(layout) => packed(layout).0,
            Self::Other(id) => id,
        }
    }

    /// The customary name; `unknown` for an id without one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Q4_0 => "Q4_0",
            Self::Q8_0 => "Q8_0",
            Self::Q6K => "Q6_K",
            Self::Bf16 => "BF16",
            Self::Q4K => "Q4_K",
            Self::I2S => "I2_S",
            Self::I2s64 => "I2_S in blocks of 64",
            Self::Tl1 => "TL1",
            Self::Tl2 => "TL2",
            Self::Ternary(block) => ternary(block).2,
            Self::I8 => "I8",
            Self::Packed(layout) => packed(layout).2,
            Self::Other(id) => other(id).map_or("unknown", |o| o.1),
        }
    }

    /// Whether this build reads tensors of the type.
    #[must_use]
    pub fn is_supported(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// The layout of a ternary matrix that kernels read as it lies.
    #[must_use]
    pub fn layout(self) -> Option<Layout> {
        match self {
            Self::I2S => Some(Layout::T2B128),
            Self::Packed(layout) => Some(layout),
            _ => None,
        }
    }

    /// Whether it is one of ternary weights: those of a model's layers.
    #[must_use]
    pub fn is_ternary(self) -> bool {
        match self {
            Self::I2S | Self::I2s64 | Self::Tl1 | Self::Tl2 | Self::Ternary(_) | Self::Packed(_) => true,
            Self::F32 | Self::F16 | Self::Bf16 | Self::Q4_0 | Self::Q8_0 | Self::Q4K | Self::Q6K => false,
            Self::I8 | Self::Other(_) => false,
        }
    }

    /// Elements that only come together: the row length must be a multiple.
    #[must_use]
    pub fn block_elements(self) -> u64 {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::I8 => 1,
            Self::Packed(layout) => layout.col_multiple() as u64,
            Self::Q4_0 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q6K => 256,
            Self::Ternary(block) => block.values() as u64,
            Self::I2s64 => 64,
            Self::Tl1 | Self::Tl2 => 4,
            // Blocks run over the flattened tensor; kernels index by row, so a row must be whole blocks.
            Self::I2S => 128,
            Self::Other(id) => other(id).map_or(1, |o| o.2),
        }
    }

    /// Bytes of `rows` rows of `row` elements, which are whole blocks. `None` if the type's size is not known or the
    /// number does not fit.
    #[must_use]
    pub fn nbytes(self, row: u64, rows: u64) -> Option<u64> {
        let elements = row.checked_mul(rows)?;
        let blocks = elements / self.block_elements();
        match self {
            Self::I8 => Some(elements),
            Self::Packed(layout) => {
                let codes = layout.bytes(usize::try_from(rows).ok()?, usize::try_from(row).ok()?)?;
                (codes as u64).checked_add(PACKED_TAIL_BYTES as u64)
            }
            Self::F32 => blocks.checked_mul(4),
            Self::F16 | Self::Bf16 => blocks.checked_mul(2),
            Self::Q4_0 => blocks.checked_mul(18),
            Self::Q8_0 => blocks.checked_mul(34),
            Self::Q6K => blocks.checked_mul(210),
            Self::Q4K => blocks.checked_mul(144),
            Self::Ternary(block) => blocks.checked_mul(block.bytes() as u64),
            Self::I2S | Self::I2s64 | Self::Tl1 => (elements / 4).checked_add(BITNET_TAIL_BYTES as u64),
            Self::Tl2 => {
                let codes = tl2_code_bytes(usize::try_from(rows).ok()?, usize::try_from(row).ok()?)?;
                (codes as u64).checked_add(BITNET_TAIL_BYTES as u64)
            }
            Self::Other(id) => other(id).filter(|o| o.3 > 0).and_then(|o| blocks.checked_mul(o.3)),
        }
    }
}

fn packed(layout: Layout) -> &'static (u32, Layout, &'static str) {
    PACKED.iter().find(|packed| packed.1 == layout).expect("every layout has an id")
}

fn ternary(block: TernaryBlock) -> &'static (u32, TernaryBlock, &'static str) {
    TERNARY.iter().find(|ternary| ternary.1 == block).expect("every block has an id")
}

fn other(id: u32) -> Option<&'static (u32, &'static str, u64, u64)> {
    OTHERS.iter().find(|o| o.0 == id)
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_real_tensors() {
        // Shapes of the published 2B-4T file.
        assert_eq!(TensorType::I2S.nbytes(2560, 6912), Some(4_423_680 + 32));
        assert_eq!(TensorType::F16.nbytes(2560, 128_256), Some(656_670_720));
        assert_eq!(TensorType::Q6K.nbytes(2560, 128_256), Some(2560 * 128_256 / 256 * 210));
        assert_eq!(TensorType::Q8_0.nbytes(64, 1), Some(68));
        assert_eq!(TensorType::from_id(35).nbytes(256, 2), Some(132));
        assert_eq!(TensorType::Tl2.nbytes(320, 32), Some(2496 + 32));
        // Rows are padded to a multiple of ten.
        assert_eq!(TensorType::Packed(Layout::T5R).nbytes(2560, 6912), Some(6920 * 512 + 64));
        assert_eq!(TensorType::Packed(Layout::T5R).nbytes(1 << 17, 1), None);
        assert_eq!(TensorType::Other(42).nbytes(512, 1), None);
        assert_eq!(TensorType::F32.nbytes(u64::MAX, 1), None);
    }

    #[test]
    fn ids_and_names_agree_both_ways() {
        for id in (0..200).chain(0x5452_4e00..0x5452_4e10) {
            assert_eq!(TensorType::from_id(id).id(), id);
        }
        for layout in Layout::ALL {
            let ty = TensorType::Packed(layout);
            assert_eq!((TensorType::from_id(ty.id()), ty.layout()), (ty, Some(layout)));
            assert!(ty.is_supported() && ty.name().to_lowercase().ends_with(layout.name()));
        }
        assert!(OTHERS.iter().all(|o| !TensorType::from_id(o.0).is_supported()));
        assert_eq!(TensorType::from_id(35).name(), "TQ2_0");
        assert_eq!(TensorType::from_id(99).name(), "unknown");
    }
}
