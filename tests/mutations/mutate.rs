//! Changing an input the way that damage, and malice, would.

use tern_tests::fill::Random;

/// An input to begin with, and what is known of its inside.
pub struct Seed {
    /// The input.
    pub bytes: Vec<u8>,
    /// Where numbers lie, each with its width: 1, 2, 4 or 8 bytes.
    pub numbers: Vec<(usize, usize)>,
    /// Up to where it is worth changing bytes at random: the end of a header.
    pub head: usize,
    /// Words of its language, to be put in where they do not belong.
    pub words: &'static [&'static str],
}

impl Seed {
    /// An input of which nothing is known but its words.
    pub fn text(bytes: impl Into<Vec<u8>>, words: &'static [&'static str]) -> Self {
        let bytes = bytes.into();
        Seed { head: bytes.len(), bytes, numbers: Vec::new(), words }
    }
}

/// Numbers at which arithmetic ends, and ids of tensor and value types.
const EDGES: [u64; 32] = [
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    12,
    16,
    31,
    32,
    36,
    38,
    39,
    42,
    64,
    128,
    143,
    255,
    256,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    1 << 61,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// Most bytes of a piece that is moved.
const PIECE_BYTES: usize = 64;

/// One of `seeds`, changed in one to three places.
pub fn mutated(random: &mut Random, seeds: &[Seed]) -> Vec<u8> {
    let seed = &seeds[random.below(seeds.len())];
    let mut bytes = seed.bytes.clone();
    for _ in 0..1 + random.below(3) {
        let other = &seeds[random.below(seeds.len())];
        change(random, &mut bytes, seed, other);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, seed: &Seed, other: &Seed) {
    let place = |random: &mut Random, bytes: &[u8]| {
        let end = if random.below(8) == 0 { bytes.len() } else { seed.head.min(bytes.len()) };
        random.below(end.max(1))
    };
    // Shifting what follows makes most headers meaningless at once, so it is tried less often where there are numbers.
    let kind = if seed.numbers.is_empty() {
        random.below(8)
    } else {
        [0, 1, 2, 5, 5, 5, 6, 6, 7, 7, 3, 4][random.below(12)]
    };
    match kind {
        0 => {
            let at = place(random, bytes);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 if random.below(4) == 0 => {
            let at = place(random, bytes);
            bytes.truncate(at);
        }
        1 | 2 => {
            let (from, to) = (random.below(other.bytes.len().max(1)), place(random, bytes));
            let length = random.below(PIECE_BYTES).min(other.bytes.len() - from).min(bytes.len() - to);
            bytes[to..to + length].copy_from_slice(&other.bytes[from..from + length]);
        }
        3 => {
            let at = place(random, bytes);
            let end = bytes.len().min(at + random.below(PIECE_BYTES));
            bytes.drain(at..end);
        }
        4 => {
            let from = random.below(other.bytes.len().max(1));
            let end = other.bytes.len().min(from + random.below(PIECE_BYTES));
            let at = place(random, bytes);
            bytes.splice(at..at, other.bytes[from..end].iter().copied());
        }
        5 | 6 if !seed.numbers.is_empty() => {
            let (at, width) = seed.numbers[random.below(seed.numbers.len())];
            let Some(field) = bytes.get_mut(at..at + width) else { return };
            let mut value = [0; 8];
            value[..width].copy_from_slice(field);
            let value = u64::from_le_bytes(value);
            let value = match (kind, random.below(4)) {
                (5, _) => EDGES[random.below(EDGES.len())],
                (_, 0) => value.wrapping_add(random.below(40) as u64),
                (_, 1) => value.wrapping_sub(random.below(40) as u64),
                (_, 2) => value.wrapping_mul(random.below(5) as u64),
                (_, _) => random.bits() >> random.below(64),
            };
            field.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        7 if !seed.numbers.is_empty() => {
            // A number where another one belongs.
            let (from, width) = seed.numbers[random.below(seed.numbers.len())];
            let (to, _) = seed.numbers[random.below(seed.numbers.len())];
            if from.max(to) + width <= bytes.len() {
                bytes.copy_within(from..from + width, to);
            }
        }
        _ if !seed.words.is_empty() => {
            let word = seed.words[random.below(seed.words.len())];
            // Now and then nested far deeper than anybody means it.
            let times = if random.below(16) == 0 { 1 + random.below(600) } else { 1 };
            let at = place(random, bytes);
            bytes.splice(at..at, word.repeat(times).bytes());
        }
        _ => bytes.push(random.bits() as u8),
    }
}
