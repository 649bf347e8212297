//! An open-addressing table of indices in the caller's memory: linear probing, at most half full, never shrinking.
//!
//! A slot holds an index of 24 bits and 8 bits of its hash; what the index stands for is compared by the caller, who also
//! supplies the hash. The bits spare nearly all comparisons that would fail, each of which is a walk into the file.

/// Most entries: indices are below it.
pub(super) const MAX_ENTRIES: usize = (1 << INDEX_BITS) - 1;

const INDEX_BITS: u32 = 24;
const INDEX: u32 = (1 << INDEX_BITS) - 1;
/// The index that no entry has.
const FREE: u32 = u32::MAX;

/// Slots for `entries` indices: a power of two, at least twice as many. `None` above [`MAX_ENTRIES`].
pub(super) fn words(entries: usize) -> Option<usize> {
    if entries > MAX_ENTRIES {
        return None;
    }
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

/// Where a search starts and what its slots look like above the index. The tag comes from the top of the hash, the
/// start from its bottom.
fn start(hash: u32, mask: usize) -> (usize, u32) {
    let hash = mix(hash);
    (hash as usize & mask, hash & !INDEX)
}

/// Indices found by hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots<'a> {
    slots: &'a [u32],
}

impl Slots<'_> {
    /// The index with this hash that `is_it`.
    pub fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let (mut at, tag) = start(hash, mask);
        loop {
            match self.slots[at] {
                FREE => return None,
                slot if slot & !INDEX == tag && is_it(slot & INDEX) => return Some(slot & INDEX),
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
    pub fn insert(&mut self, hash: u32, index: u32, is_same: impl FnMut(u32) -> bool) {
        assert!(self.used < self.slots.len() / 2 && index < INDEX, "one free slot ends every search");
        if (Slots { slots: self.slots }).find(hash, is_same).is_some() {
            return;
        }
        let mask = self.slots.len() - 1;
        let (mut at, tag) = start(hash, mask);
        while self.slots[at] != FREE {
            at = (at + 1) & mask;
        }
        self.slots[at] = tag | index;
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
        assert_eq!(words(MAX_ENTRIES + 1), None);
        assert_eq!(words(0), Some(2));
    }
}
