//! Rotary angles: how fast each pair of values of a head turns with its position.
//!
//! Pair `j` turns by `theta^(-2 j / head_dim)` a position. Models that were stretched to longer texts turn their slow
//! pairs slower still:
//!
//! | in the file | what becomes of a frequency | models |
//! |---|---|---|
//! | nothing | it stays | BitNet, Falcon3, Falcon-E, TriLM |
//! | `rope.scaling.type` linear | all are divided by one factor | |
//! | `rope.scaling.type` yarn | slow ones are divided, fast ones stay, sines and cosines grow a little | Ternary-Bonsai |
//! | tensor `rope_freqs.weight` | each is divided by a factor of its own | Llama 3.1 and later |
//! | tensor `rope_factors_short.weight` | the same, up to the original context | BitCPM4 |
//!
//! A file with `rope_factors_short.weight` has other factors for texts beyond the original context. They would change
//! what the first tokens of a text mean once it is long, so such a model runs up to its original context only.
//!
//! Sources: arXiv 2309.00071 section 3 (YaRN), 2402.13753 (longrope); Hugging Face `modeling_rope_utils`, whose
//! frequencies the tests hold these against.

use crate::error::LoadError;
use crate::gguf::{Gguf, optional};

use super::dense::load_norm;

/// Tensor with a factor for every pair, at every length of a text.
pub(super) const FREQS: &str = "rope_freqs.weight";
/// Tensor with the factors for texts up to the original context.
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";
/// Tensor with the factors for longer texts, which are not run.
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";

/// How the angles of a model are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// What divides them.
    pub scaling: Scaling,
    /// Multiplies sines and cosines.
    pub magnitude: f32,
}

/// What divides frequencies, apart from factors in a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Nothing.
    None,
    /// One factor.
    Linear {
        /// Divides every frequency.
        factor: f32,
    },
    /// One factor for pairs that turn less than `slow` times over the original context, none for those that turn more
    /// than `fast` times, and what lies between for those between.
    Yarn {
        /// Divides the slowest frequencies.
        factor: f32,
        /// Positions of the training before.
        original_context: usize,
        /// Turns from which a frequency stays.
        fast: f32,
        /// Turns up to which it is divided by the whole factor.
        slow: f32,
    },
}

impl Rope {
    /// Unscaled angles.
    pub const fn plain(theta: f32) -> Self {
        Rope { theta, scaling: Scaling::None, magnitude: 1.0 }
    }

    /// Reads the scaling that `gguf` declares.
    ///
    /// # Errors
    /// If it is one this build does not have, or a number of it is missing or no such number.
    pub(super) fn read(gguf: &Gguf<'_>, theta: f32) -> Result<Self, LoadError> {
        let key = gguf.arch_key("rope.scaling.type")?;
        let kind = optional(gguf.str(key.as_str()))?.unwrap_or("none");
        let number = |suffix, default| super::config::positive(gguf, suffix, default);
        let magnitude = number("rope.scaling.attn_factor", Some(1.0))?;
        let plain = Rope { magnitude, ..Rope::plain(theta) };
        match kind {
            "none" => Ok(Rope::plain(theta)),
            "linear" => {
                let factor = number("rope.scaling.factor", None)?;
                Ok(Rope { scaling: Scaling::Linear { factor }, ..plain })
            }
            "yarn" => {
                let factor = number("rope.scaling.factor", None)?;
                let multiplier = gguf.arch_key("rope.scaling.yarn_log_multiplier")?;
                if optional(gguf.f32(multiplier.as_str()))?.is_some_and(|found| found != 0.0) {
                    return Err(LoadError::RopeScaling { found: "yarn with a log multiplier".into() });
                }
                let scaling = Scaling::Yarn {
                    factor,
                    original_context: original_context(gguf)?,
                    fast: number("rope.scaling.yarn_beta_fast", Some(32.0))?,
                    slow: number("rope.scaling.yarn_beta_slow", Some(1.0))?,
                };
                // arXiv 2309.00071, equation 22.
                let growth = if factor > 1.0 { 0.1 * libm::logf(factor) + 1.0 } else { 1.0 };
                Ok(Rope { scaling, magnitude: magnitude * growth, ..plain })
            }
            // Its factors are tensors.
            "longrope" => {
                gguf.require(SHORT_FACTORS)?;
                Ok(plain)
            }
            found => Err(LoadError::RopeScaling { found: found.into() }),
        }
    }

    /// Radians a position of each pair of a head: `out: [head_dim / 2]`; `factors`, if any, is as long.
    pub fn frequencies(&self, factors: Option<&[f32]>, out: &mut [f32]) {
        let head_dim = 2 * out.len();
        for (j, frequency) in out.iter_mut().enumerate() {
            *frequency = 1.0 / libm::powf(self.theta, (2 * j) as f32 / head_dim as f32);
        }
        match self.scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => out.iter_mut().for_each(|frequency| *frequency /= factor),
            Scaling::Yarn { factor, original_context, fast, slow } => {
                // The pair that turns so many times over the original context.
                let pair = |turns: f32| {
                    let per_turn = original_context as f32 / (turns * core::f32::consts::TAU);
                    head_dim as f32 * libm::logf(per_turn) / (2.0 * libm::logf(self.theta))
                };
                let first = libm::floorf(pair(fast)).max(0.0);
                let last = libm::ceilf(pair(slow)).min((head_dim - 1) as f32);
                // Both may be one pair; then the step is as steep as the references make it.
                let width = if last == first { 0.001 } else { last - first };
                for (j, frequency) in out.iter_mut().enumerate() {
                    let kept = 1.0 - ((j as f32 - first) / width).clamp(0.0, 1.0);
                    *frequency = *frequency / factor * (1.0 - kept) + *frequency * kept;
                }
            }
        }
        if let Some(factors) = factors {
            out.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= factor);
        }
    }

    /// Cosines then sines of every position from 0: `table: [positions, head_dim]`. In binary32, as the references do.
    pub(crate) fn table(&self, head_dim: usize, factors: Option<&[f32]>, table: &mut [f32]) {
        // The frequencies stand where the last position's cosines will be, and are turned into those last of all.
        let Some(from) = table.len().checked_sub(head_dim) else { return };
        let half = head_dim / 2;
        self.frequencies(factors, &mut table[from..from + half]);
        for start in (0..table.len()).step_by(head_dim) {
            let position = (start / head_dim) as f32;
            for j in 0..half {
                let angle = position * table[from + j];
                table[start + j] = libm::cosf(angle) * self.magnitude;
                table[start + half + j] = libm::sinf(angle) * self.magnitude;
            }
        }
    }
}

/// The factors of each pair that `gguf` holds for heads of `head_dim`, if it does.
///
/// # Errors
/// If there are not as many as pairs, or one of them is not positive.
pub(super) fn factors<'a>(gguf: &Gguf<'a>, head_dim: usize) -> Result<Option<&'a [f32]>, LoadError> {
    let Some(info) = gguf.tensor(SHORT_FACTORS).or_else(|| gguf.tensor(FREQS)) else { return Ok(None) };
    let factors = load_norm(&info, head_dim / 2)?;
    if factors.iter().all(|factor| *factor > 0.0) {
        Ok(Some(factors))
    } else {
        Err(LoadError::NotFinite { what: info.name().into() })
    }
}

/// Positions that the model may use, of `context` that it declares: see the head of this file.
pub(super) fn usable_context(gguf: &Gguf<'_>, context: usize) -> Result<usize, LoadError> {
    match gguf.tensor(SHORT_FACTORS) {
        Some(_) => Ok(context.min(optional(original_context(gguf))?.unwrap_or(context))),
        None => Ok(context),
    }
}

/// Positions of the training before angles were scaled.
fn original_context(gguf: &Gguf<'_>) -> Result<usize, LoadError> {
    super::config::number(gguf, "rope.scaling.original_context_length", 1 << 24, "1 to 16777216")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest relative difference to frequencies found elsewhere.
    fn differ(rope: Rope, factors: Option<&[f32]>, expected: &[f32]) -> f32 {
        let mut found = [0.0; 8];
        let found = &mut found[..expected.len()];
        rope.frequencies(factors, found);
        found.iter().zip(expected).map(|(found, expected)| (found / expected - 1.0).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn frequencies_are_those_of_hugging_face() {
        // transformers 5.23, `ROPE_INIT_FUNCTIONS` for `LlamaConfig(hidden_size=64, num_attention_heads=4)`.
        let plain = Rope::plain(500_000.0);
        assert!(differ(plain, None, &PLAIN) < 1e-6);
        let yarn = Scaling::Yarn { factor: 4.0, original_context: 256, fast: 32.0, slow: 1.0 };
        let yarn = Rope { scaling: yarn, ..Rope::plain(1e6) };
        assert!(differ(yarn, None, &YARN) < 1e-6);
    }

    /// Theta 5e5.
    const PLAIN: [f32; 8] = [
        1.0,
        0.193_922_76,
        0.037_606_03,
        0.007_292_665,
        0.001_414_213_4,
        2.742_482e-4,
        5.318_295_7e-5,
        1.031_338_5e-5,
    ];

    /// `rope_type` yarn with theta 1e6, factor 4 and an original context of 256; sines and cosines grow by 1.1386294.
    const YARN: [f32; 8] = [
        1.0,
        0.133_370_95,
        0.015_811_39,
        0.001_405_853_3,
        2.5e-4,
        4.445_698_5e-5,
        7.905_694e-6,
        1.405_853_4e-6,
    ];

    #[test]
    fn a_table_holds_cosines_then_sines_of_every_position() {
        let rope = Rope { magnitude: 2.0, ..Rope::plain(10_000.0) };
        let mut table = [9.0f32; 3 * 4];
        rope.table(4, Some(&[1.0, 4.0]), &mut table);
        for (position, row) in table.chunks_exact(4).enumerate() {
            let angles = [position as f32, position as f32 * (0.01 / 4.0)];
            let expected = [angles[0].cos(), angles[1].cos(), angles[0].sin(), angles[1].sin()];
            for (found, expected) in row.iter().zip(expected) {
                assert!((found - 2.0 * expected).abs() < 1e-6, "{position}: {row:?}");
            }
        }
        rope.table(4, None, &mut []);
    }
}
