//! Damage at every byte of a header: the reader refuses or reads on, and never panics or leaves the file.

use tern_runtime::gguf::{Gguf, Value};

const TINY: &[u8] = include_bytes!("../../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");

/// Walks all a parsed file offers and checks what a parse promises; returns how many tensors it saw.
fn walk(file: &[u8]) -> Option<usize> {
    let g = Gguf::parse(file).ok()?;
    let mut spans = Vec::new();
    for t in g.tensors() {
        assert_eq!(t.elements(), t.row_len() * t.rows());
        let start = (g.data_at_bytes() + t.offset_bytes()) as usize;
        if let Ok(data) = t.data() {
            assert_eq!(Some(data.len() as u64), t.nbytes());
            assert!(core::ptr::eq(data, &file[start..start + data.len()]), "{t:?} lies elsewhere");
            spans.push((start, start + data.len()));
        }
    }
    assert_eq!(g.tensors().count(), g.tensor_count());
    spans.sort_unstable();
    assert!(spans.windows(2).all(|w| w[0].1 <= w[1].0), "tensors overlap");
    for (key, value) in g.entries() {
        assert_eq!(g.value(key).map(|v| v.ty()), Some(value.ty()));
        if let Value::Array(array) = value {
            if let Some(strings) = array.strings() {
                assert_eq!(strings.iter().count() as u64, array.len());
            }
            if let Some(numbers) = array.i32s() {
                assert_eq!(numbers.len() as u64, array.len());
            }
        }
    }
    Some(g.tensor_count())
}

fn header_len() -> usize {
    Gguf::parse(TINY).unwrap().data_at_bytes() as usize
}

#[test]
fn cut_at_every_header_byte_and_in_the_data() {
    assert_eq!(walk(TINY), Some(24));
    for len in 0..header_len() {
        assert_eq!(walk(&TINY[..len]), None, "cut to {len} bytes");
    }
    for len in (header_len()..TINY.len()).step_by(4099) {
        assert_eq!(walk(&TINY[..len]), None, "cut to {len} bytes");
    }
}

#[test]
fn every_bit_of_the_header_flipped() {
    let mut file = TINY.to_vec();
    let (mut read, mut refused) = (0, 0);
    for at in 0..header_len() {
        for bit in 0..8 {
            file[at] ^= 1 << bit;
            if walk(&file).is_some() {
                read += 1
            } else {
                refused += 1
            }
            file[at] ^= 1 << bit;
        }
    }
    // Most bits are text of tokens and merges, which the container does not judge.
    assert!(read > 10_000 && refused > 10_000, "{read} read, {refused} refused");
}

#[test]
fn numbers_of_the_header_replaced() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let len = header_len() as u64;
    let edges = [
        0,
        1,
        7,
        8,
        31,
        32,
        36,
        255,
        1 << 16,
        1 << 31,
        u64::from(u32::MAX),
        1 << 32,
        1 << 62,
        1 << 63,
        u64::MAX,
    ];
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut file = TINY.to_vec();
        for _ in 0..1 + random() % 3 {
            let at = (random() % (len - 8)) as usize;
            let value =
                if random() % 4 == 0 { random() } else { edges[(random() % edges.len() as u64) as usize] };
            let width = if random() % 2 == 0 { 4 } else { 8 };
            file[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        refused += u32::from(walk(&file).is_none());
    }
    assert!(refused > 5_000, "only {refused} of 20000 refused");
}
