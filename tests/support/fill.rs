//! Numbers for tests: seeded ones, and the ones that break careless accumulators.

/// A generator with a seed that a failing test can print (SplitMix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number in `0..end`, near enough to uniform for tests.
    pub fn below(&mut self, end: usize) -> usize {
        (((self.bits() >> 32) * end as u64) >> 32) as usize
    }

    /// A number of the kind that activations are: in (-4, 4), denser near zero.
    pub fn float(&mut self) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1u32 << 24) as f32 * 2.0 - 1.0;
        unit * unit * unit * 4.0
    }

    /// As [`float`](Self::float), but one in eight is a value that arithmetic has rules for: zeros, subnormals, the
    /// largest, infinities, NaN.
    pub fn wild(&mut self) -> f32 {
        const RULES: [u32; 10] = [
            0,
            0x8000_0000,
            1,
            0x8000_0001,
            0x007f_ffff,
            0x7f7f_ffff,
            0xff7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
        ];
        if self.below(8) == 0 { f32::from_bits(RULES[self.below(RULES.len())]) } else { self.float() }
    }
}

/// What a ternary product is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Every weight and every activation the same.
    Constant {
        /// The weight.
        weight: i8,
        /// The activation.
        activation: i8,
    },
    /// Extremes that change sign from column to column together, so that every product is 127 or 128.
    Alternating,
    /// Activations at both extremes in runs of eight columns, so that partial sums swing as far as they can.
    Swinging,
    /// Patterns of period 251, which no power of two divides: swapped blocks, rows or fields do not cancel out.
    Prime,
    /// Random weights and activations over their whole ranges.
    Random {
        /// The seed.
        seed: u64,
    },
}

impl Fill {
    /// The fills that every kernel is run with.
    pub const ALL: [Fill; 11] = [
        Fill::Constant { weight: -1, activation: -128 },
        Fill::Constant { weight: -1, activation: -127 },
        Fill::Constant { weight: -1, activation: 127 },
        Fill::Constant { weight: 1, activation: -128 },
        Fill::Constant { weight: 1, activation: 127 },
        Fill::Constant { weight: 0, activation: -128 },
        Fill::Alternating,
        Fill::Swinging,
        Fill::Prime,
        Fill::Random { seed: 1 },
        Fill::Random { seed: 2 },
    ];

    /// Weights `[rows, cols]`, row-major.
    pub fn weights(self, rows: usize, cols: usize) -> Vec<i8> {
        let mut random = Random::new(if let Fill::Random { seed } = self { seed } else { 0 });
        let weight = |row: usize, col: usize, random: &mut Random| match self {
            Fill::Constant { weight, .. } => weight,
            Fill::Alternating => 1 - 2 * (col % 2) as i8,
            Fill::Swinging => 1,
            Fill::Prime => ((row * 31 + col * 7) % 251 % 3) as i8 - 1,
            Fill::Random { .. } => random.below(3) as i8 - 1,
        };
        (0..rows * cols).map(|i| weight(i / cols, i % cols, &mut random)).collect()
    }

    /// Activations `[tokens, cols]`.
    pub fn activations(self, tokens: usize, cols: usize) -> Vec<i8> {
        let mut random = Random::new(if let Fill::Random { seed } = self { !seed } else { 0 });
        let activation = |token: usize, col: usize, random: &mut Random| match self {
            Fill::Constant { activation, .. } => activation,
            Fill::Alternating => [127, -128][col % 2],
            Fill::Swinging => [127, -128][col / 8 % 2],
            Fill::Prime => ((token * 101 + col * 37) % 251) as u8 as i8,
            Fill::Random { .. } => random.bits() as u8 as i8,
        };
        (0..tokens * cols).map(|i| activation(i / cols, i % cols, &mut random)).collect()
    }
}
