//! Types of values in a safetensors file.

use std::fmt;

use tern_kernels::half::{bf16_to_f32, f16_to_f32, f32_to_f16};
use tern_runtime::gguf::TensorType;

/// Type of a tensor's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// binary32.
    F32,
    /// binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// Bytes: packed ternary weights.
    U8,
    /// Anything else, by its name.
    Other(String),
}

impl Dtype {
    /// The type that a header calls `name`.
    pub fn by_name(name: &str) -> Self {
        match name {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            "U8" => Dtype::U8,
            other => Dtype::Other(other.to_owned()),
        }
    }

    /// The type that config.json calls `name`.
    pub fn of_torch(name: &str) -> Option<Self> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" | "float" => Some(Dtype::F32),
            "float16" | "half" => Some(Dtype::F16),
            "bfloat16" => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// Bytes of a value, where they are known.
    pub fn value_bytes(&self) -> Option<u64> {
        match self {
            Dtype::F32 => Some(4),
            Dtype::F16 | Dtype::Bf16 => Some(2),
            Dtype::U8 => Some(1),
            Dtype::Other(_) => None,
        }
    }

    /// The same values in a GGUF, for floats.
    pub fn gguf(&self) -> Option<TensorType> {
        match self {
            Dtype::F32 => Some(TensorType::F32),
            Dtype::F16 => Some(TensorType::F16),
            Dtype::Bf16 => Some(TensorType::Bf16),
            Dtype::U8 | Dtype::Other(_) => None,
        }
    }

    /// Widens little-endian values of this type, one for each of `wide`; nothing for types that are no floats.
    pub fn widen(&self, bytes: &[u8], wide: &mut [f32]) {
        let half = |pair: &[u8; 2]| u16::from_le_bytes(*pair);
        match self {
            Dtype::F32 => {
                let values = bytes.as_chunks::<4>().0;
                wide.iter_mut().zip(values).for_each(|(wide, v)| *wide = f32::from_le_bytes(*v));
            }
            Dtype::F16 => {
                let values = bytes.as_chunks::<2>().0;
                wide.iter_mut().zip(values).for_each(|(wide, v)| *wide = f16_to_f32(half(v)));
            }
            Dtype::Bf16 => {
                let values = bytes.as_chunks::<2>().0;
                wide.iter_mut().zip(values).for_each(|(wide, v)| *wide = bf16_to_f32(half(v)));
            }
            Dtype::U8 | Dtype::Other(_) => {}
        }
    }

    /// `value` rounded to this type, to the nearest and ties to even, as a cast in torch.
    pub fn round(&self, value: f32) -> f32 {
        match self {
            Dtype::F16 => f16_to_f32(f32_to_f16(value)),
            Dtype::Bf16 if value.is_finite() => {
                let bits = value.to_bits();
                f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
            }
            _ => value,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::U8 => "U8",
            Dtype::Other(name) => name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_is_rounded_to_the_nearest_and_ties_to_even() {
        // One is 0x3f80, its neighbour 0x3f81: 2^-7 apart.
        let step = 2f32.powi(-7);
        for (value, expected) in [
            (1.0, 1.0),
            (1.0 + step / 2.0, 1.0),
            (1.0 + step * 1.5, 1.0 + 2.0 * step),
            (1.0 + step * 0.51, 1.0 + step),
            (-1.0 - step * 0.49, -1.0),
        ] {
            assert_eq!(Dtype::Bf16.round(value), expected, "{value}");
        }
        assert_eq!(Dtype::F32.round(0.1), 0.1);
        assert_eq!(Dtype::F16.round(1.0 + 2f32.powi(-11)), 1.0);
    }
}
