//! Seeded numbers that are the same on every machine, for synthetic models, benchmarks and self-tests.

use tern_runtime::sampler::Rng;

/// The sampler's generator, with the distributions that these uses want.
#[derive(Clone, Debug)]
pub struct Random(Rng);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Random(Rng::new(seed))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..end`; `end` is at least 1. Off from uniform by less than `end` in 2^32.
    pub fn below(&mut self, end: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(end)) >> 32) as u32
    }

    /// A number in [-1, 1).
    pub fn signed_unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // First values of the reference implementation for seed 1234567.
        let mut random = Random::new(1_234_567);
        let found = [random.bits(), random.bits(), random.bits()];
        assert_eq!(found, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut random = Random::new(5);
        for _ in 0..10_000 {
            assert!(random.below(3) < 3);
            assert!((-1.0..1.0).contains(&random.signed_unit()));
        }
    }
}
