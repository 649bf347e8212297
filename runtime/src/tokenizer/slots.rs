//! An open-addressing table of indices in the caller's memory: linear probing, at most half full, never shrinking.
//!
//! The table holds indices only; what they stand for is compared by the caller, who also supplies the hash.

const FREE: u32 = u32::MAX;

/// Slots for `entries` indices: a power of two, at least twice as many. `None` if that does not fit.
pub(super) fn words(entries: usize) -> Option<usize> {
    entries.max(1).checked_mul(2)?.checked_next_power_of_two()
}

/// Spreads a hash over all bits, as the table takes the lowest (the finaliser of MurmurHash3).
fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}

/// Indices below `u32::MAX`, found by hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots<'a> {
    slots: &'a [u32],
}

impl Slots<'_> {
    /// The index with this hash that `is_it`.
    pub fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = mix(hash) as usize & mask;
        loop {
            match self.slots[at] {
                FREE => return None,
                index if is_it(index) => return Some(index),
                _ => at = (at + 1) & mask,
            }
        }
    }
}

/// A table being filled.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    slots: &'a mut [u32],
    used: usize,
}

impl<'a> Builder<'a> {
    /// Over memory of [`words`].
    pub fn new(slots: &'a mut [u32]) -> Self {
        assert!(slots.len().is_power_of_two(), "memory from words()");
        slots.fill(FREE);
        Self { slots, used: 0 }
    }

    /// Adds an index unless one that `is_same` is there. No more than the table was made for.
    pub fn insert(&mut self, hash: u32, index: u32, mut is_same: impl FnMut(u32) -> bool) {
        assert!(self.used < self.slots.len() / 2, "one free slot ends every search");
        let mask = self.slots.len() - 1;
        let mut at = mix(hash) as usize & mask;
        while self.slots[at] != FREE {
            if is_same(self.slots[at]) {
                return;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = index;
        self.used += 1;
    }

    /// The filled table.
    pub fn finish(self) -> Slots<'a> {
        Slots { slots: self.slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let keys: [u32; 100] = core::array::from_fn(|i| (i as u32).wrapping_mul(2_654_435_761));
        let mut memory = [0; 256];
        assert_eq!(words(100), Some(256));
        let mut builder = Builder::new(&mut memory);
        for (index, &key) in keys.iter().enumerate() {
            // All in few chains: collisions are the point.
            builder.insert(key % 4, index as u32, |other| keys[other as usize] == key);
            builder.insert(key % 4, 1000, |other| keys[other as usize % 100] == key);
        }
        let slots = builder.finish();
        for (index, &key) in keys.iter().enumerate() {
            assert_eq!(slots.find(key % 4, |i| keys[i as usize] == key), Some(index as u32));
        }
        assert_eq!(slots.find(1, |_| false), None);
        assert_eq!(words(usize::MAX), None);
        assert_eq!(words(0), Some(2));
    }
}
