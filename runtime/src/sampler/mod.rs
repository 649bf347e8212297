//! From logits to the next token.
//!
//! The order is the field's usual one: repetition penalty, top-k, temperature, top-p, min-p, then one draw. A
//! temperature of 0 is greedy: the highest logit after the penalty, the lowest id on a tie. Nothing sorts the whole
//! vocabulary: [`Sampling::need`] says which tokens can matter, those are picked out, and only they are put in order. A
//! choice depends on those alone, so a head that computes no others gives the same one ([`choose`]).

mod draw;
mod penalty;
mod rng;
mod select;

use bytemuck::{Pod, Zeroable};

pub use draw::{choose, sample, sample_penalized};
pub use penalty::{penalize, penalized, recent};
pub use rng::Rng;
pub use select::argmax;
pub(crate) use select::{best, top};

/// How to choose among tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides logits; 0 chooses greedily.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest tokens whose probabilities reach `top_p` together; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the last `repeat_window` (arXiv 1909.05858,
    /// section 4.1); 1 does nothing.
    pub repetition_penalty: f32,
    /// Tokens that the penalty looks back on.
    pub repeat_window: usize,
    /// Start of the random sequence; the same seed, prompt and settings give the same text.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy, which is also what the values of an industrial summary want.
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repeat_window: 64,
            seed: 0,
        }
    }
}

/// A setting outside its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingError {
    /// The setting.
    pub name: &'static str,
    /// What it was.
    pub found: f32,
    /// What it may be.
    pub expected: &'static str,
}

impl core::fmt::Display for SamplingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} is {}; it must be {}", self.name, self.found, self.expected)
    }
}

impl core::error::Error for SamplingError {}

impl Sampling {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is outside its range, NaN included.
    pub fn check(&self) -> Result<(), SamplingError> {
        let checks = [
            ("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "0 to 100"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..1.0).contains(&self.min_p), "at least 0 and below 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                (0.1..=10.0).contains(&self.repetition_penalty),
                "0.1 to 10",
            ),
        ];
        match checks.into_iter().find(|(_, _, ok, _)| !ok) {
            Some((name, found, _, expected)) => Err(SamplingError { name, found, expected }),
            None => Ok(()),
        }
    }
}

/// A token and its score, first its logit and later its probability.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Logit, or probability after the softmax.
    pub score: f32,
}

/// Higher scores first, lower ids first on a tie; NaN last.
pub(crate) fn better(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    // Adding 0 makes one zero of two.
    let key = |c: &Candidate| if c.score.is_nan() { f32::NEG_INFINITY } else { c.score + 0.0 };
    key(b).total_cmp(&key(a)).then(a.id.cmp(&b.id))
}

/// What a choice depends on: tokens that cannot matter need no exact logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Need {
    /// The highest logit.
    Best,
    /// The highest logits, so many of them.
    Top(usize),
    /// Logits at most this far below the highest.
    Within(f32),
    /// Every logit.
    All,
}

impl Sampling {
    /// What choosing among `vocab` tokens depends on.
    pub fn need(&self, vocab: usize) -> Need {
        if self.temperature == 0.0 {
            Need::Best
        } else if (1..vocab).contains(&self.top_k) {
            Need::Top(self.top_k)
        } else if self.min_p > 0.0 && self.top_p == 1.0 {
            // A little further down than the definition, which `choose` applies to what is left.
            let below = -libm::logf(self.min_p) * self.temperature;
            Need::Within(below * 1.0001 + 1e-4 * self.temperature)
        } else {
            Need::All
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_their_range_are_named() {
        let bad = Sampling { top_p: f32::NAN, ..Sampling::default() };
        assert_eq!(bad.check().unwrap_err().name, "top_p");
        let message = Sampling { temperature: -1.0, ..Sampling::default() }.check().unwrap_err();
        assert_eq!(std::format!("{message}"), "temperature is -1; it must be 0 to 100");
        Sampling::default().check().unwrap();
    }
}
