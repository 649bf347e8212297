//! When to connect again: pauses that double, each cut by chance so that a fleet does not come back all at once.

use std::time::Duration;

use crate::random::Random;

/// Pauses between attempts.
#[derive(Debug)]
pub struct Pauses {
    first: Duration,
    most: Duration,
    next: Duration,
    random: Random,
}

impl Pauses {
    /// Pauses from `first` to `most`; `seed` should differ between devices.
    pub fn new(first: Duration, most: Duration, seed: u64) -> Self {
        let first = first.min(most);
        Pauses { first, most, next: first, random: Random::new(seed) }
    }

    /// The pause before the next attempt; the longest if there is no use in hurrying.
    pub fn next(&mut self, lasting: bool) -> Duration {
        let pause = if lasting { self.most } else { self.next };
        self.next = (pause * 2).min(self.most);
        // Between a half and all of it.
        let part = 0.75 + 0.25 * self.random.signed_unit();
        pause.mul_f32(part)
    }

    /// A connection has stood for a while: the next pause is short again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_vary() {
        let ms = Duration::from_millis;
        let mut pauses = Pauses::new(ms(100), ms(1000), 7);
        for most in [100, 200, 400, 800, 1000, 1000] {
            let pause = pauses.next(false);
            assert!(ms(most / 2) <= pause && pause <= ms(most), "{pause:?} of {most} ms");
        }
        pauses.reset();
        assert!(pauses.next(false) <= ms(100));
        assert!(pauses.next(true) >= ms(500));
        let several: Vec<_> = (0..8).map(|_| pauses.next(true)).collect();
        assert!(several.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
