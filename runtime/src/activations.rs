//! How the inputs of ternary products are quantised.
//!
//! | | scale | digits | for |
//! |---|---|---|---|
//! | int8, whole rows | one a token | 1 | models trained with int8 activations (W1.58A8): BitNet and its kin |
//! | int8, blocks | one a token and group of columns | 1 | weight-only models, whose weights have a scale a group |
//! | float | as above | 3 | weight-only models where every bit counts |
//!
//! An input `x` of a row or group is `x = (q0 + q1 / 254 + q2 / 254^2) / s` with `s = 127 / max |x|` and int8 digits, each
//! the nearest to what the ones before leave over. One digit is the absmax quantisation of BitNet; three keep 23 bits beside
//! the sign, no less than binary32 has for the largest value of the group. Every digit meets the weights in an exact integer
//! product, so every kernel set gives the same bits with either.

use tern_kernels::{Grain, KernelSet, quant};

/// Tokens that are so few that a task should have many rows: what it reads of each group is then a long run.
const FEW_TOKENS: usize = 8;

/// Tasks of a worker in a product in groups with few tokens: enough to finish together.
const TASKS: usize = 3;

/// How many values of the next digit make one of a digit: half a step on either side is 127 of them.
const BASE: f32 = 254.0;

/// What a model's ternary products take as their input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Int8: a scale a token where the weights of a matrix have one scale, else a scale for each of their groups.
    #[default]
    Int8,
    /// As binary32 gives them, in three digits of int8.
    Float,
}

impl Activations {
    /// Both, for tests and messages.
    pub const ALL: [Activations; 2] = [Activations::Int8, Activations::Float];

    /// The name in configurations and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Activations::Int8 => "int8",
            Activations::Float => "float",
        }
    }

    /// The kind called `name`, if there is one.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The form of the inputs of one model's products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Columns of the weights that share a scale, where they do not all.
    pub group: Option<usize>,
    /// What inputs are kept as.
    pub activations: Activations,
}

impl Form {
    /// One scale a matrix and int8 with one scale a token.
    pub const WHOLE: Form = Form { group: None, activations: Activations::Int8 };

    /// Values of a row of `cols` that share a scale.
    pub(crate) fn group_cols(self, cols: usize) -> usize {
        self.group.unwrap_or(cols)
    }

    /// Scales of a row of `cols` values.
    pub(crate) fn groups(self, cols: usize) -> usize {
        cols / self.group_cols(cols).max(1)
    }

    /// Digits of a value; kernels see each as a token of its own.
    pub(crate) const fn digits(self) -> usize {
        match self.activations {
            Activations::Int8 => 1,
            Activations::Float => 3,
        }
    }

    /// Whether sums over whole rows are all there is to a product.
    pub(crate) const fn is_whole(self) -> bool {
        self.group.is_none() && self.digits() == 1
    }

    /// Numbers of [`write_factors`](Self::write_factors) for a row of `cols` values.
    pub(crate) fn factors(self, cols: usize) -> usize {
        self.groups(cols) * self.digits()
    }

    /// Writes what becomes of the sums of a group that was quantised with scale `s`: a factor for each digit, or `s` itself
    /// where a product is divided by it.
    pub(crate) fn write_factors(self, s: f32, factors: &mut [f32]) {
        if self.is_whole() {
            return factors.fill(s);
        }
        let mut factor = 1.0 / s;
        for to in factors {
            *to = factor;
            factor /= BASE;
        }
    }

    /// Bytes of one group of one token in the kernels' form, its digits one after another.
    pub(crate) fn group_bytes(self, set: &KernelSet, cols: usize) -> usize {
        self.digits() * set.prepared_bytes(self.group_cols(cols))
    }

    /// Bytes of one token.
    pub(crate) fn token_bytes(self, set: &KernelSet, cols: usize) -> usize {
        self.groups(cols) * self.group_bytes(set, cols)
    }

    /// The part of a product of `rows x cols` with `tokens` tokens that a task should get when `workers` share it. In groups,
    /// which lie apart, a task with few tokens gets many rows.
    pub fn grain(self, set: &KernelSet, rows: usize, cols: usize, tokens: usize, workers: usize) -> Grain {
        let seen = tokens * self.digits();
        let grain = set.grain(rows, self.group_cols(cols), seen, workers);
        let rows = if self.group.is_some() && seen < FEW_TOKENS {
            rows.div_ceil(TASKS * workers.max(1)).max(1).next_multiple_of(grain.rows)
        } else {
            grain.rows
        };
        Grain { rows, tokens: (grain.tokens / self.digits()).max(1) }
    }

    /// Quantises one group `x` of a token into `prepared`, its digits one after another, and returns the scale. `q` and
    /// `rest` are as long as `x` and hold anything before and after.
    pub(crate) fn quantize(
        self,
        set: &KernelSet,
        x: &[f32],
        (q, rest): (&mut [i8], &mut [f32]),
        prepared: &mut [u8],
    ) -> f32 {
        let s = quant::quantize(set, x, q);
        let mut places = prepared.chunks_exact_mut(set.prepared_bytes(x.len()));
        let mut place = || places.next().expect("a place for each digit");
        set.prepare(q, place());
        if self.activations == Activations::Float {
            for ((rest, x), q) in rest.iter_mut().zip(x).zip(q.iter()) {
                *rest = x * s - f32::from(*q);
            }
            set.quantize(rest, BASE, q);
            set.prepare(q, place());
            for (rest, q) in rest.iter_mut().zip(q.iter()) {
                *rest = *rest * BASE - f32::from(*q);
            }
            set.quantize(rest, BASE, q);
            set.prepare(q, place());
        }
        s
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use tern_kernels::SCALAR;
    use tern_kernels::reference::PLAIN_HEADER;

    #[test]
    fn three_digits_keep_what_binary32_holds() {
        let x: Vec<f32> = (0..128).map(|i| libm::sinf(i as f32) * libm::powf(0.5, (i % 9) as f32)).collect();
        let form = Form { group: Some(128), activations: Activations::Float };
        let mut prepared = vec![0; form.group_bytes(&SCALAR, 640)];
        let (mut q, mut rest) = ([0; 128], [0.0; 128]);
        let s = form.quantize(&SCALAR, &x, (&mut q, &mut rest), &mut prepared);
        let each = SCALAR.prepared_bytes(128);
        let digit = |k: usize, i: usize| f64::from(prepared[k * each + PLAIN_HEADER + i] as i8);
        let largest = x.iter().fold(0.0, |largest: f32, v| largest.max(v.abs()));
        for (i, x) in x.iter().enumerate() {
            let value = (digit(0, i) + digit(1, i) / 254.0 + digit(2, i) / (254.0 * 254.0)) / f64::from(s);
            let error = (value - f64::from(*x)).abs();
            assert!(error <= f64::from(largest) / f64::from(1 << 23), "{i}: {value} for {x}");
        }
    }

    #[test]
    fn what_is_no_number_is_zero_and_sizes_follow_groups() {
        let form = Form { group: Some(128), activations: Activations::Float };
        assert_eq!((form.groups(512), Form::WHOLE.groups(512)), (4, 1));
        assert_eq!(form.token_bytes(&SCALAR, 512), 4 * 3 * SCALAR.prepared_bytes(128));
        let mut prepared = vec![1; form.group_bytes(&SCALAR, 512)];
        let (mut q, mut rest) = ([0; 128], [0.0; 128]);
        form.quantize(&SCALAR, &[f32::NAN; 128], (&mut q, &mut rest), &mut prepared);
        assert!(prepared.iter().all(|byte| *byte == 0));
    }
}
