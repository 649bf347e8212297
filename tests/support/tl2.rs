//! Matrices in TL2 of bitnet.cpp, written triple by triple from the definition of the layout: this repository only reads it.
//!
//! `tests/codings.rs` holds the bytes to those of the reference converter, whose `preprocess_*_weights_tl2` they follow.

use tern_kernels::coding::TileShape;

/// Where a row of 32 has its place in a line of bytes.
fn place(row: usize) -> usize {
    [0, 2, 1, 3][row / 8] * 8 + row % 8
}

/// `weights: [rows, cols]` in tiles of `tile`, with the converter's padding and `scale` behind it.
///
/// # Panics
/// If the converter could not cut such a matrix so.
pub fn encode(weights: &[i8], (rows, cols): (usize, usize), tile: TileShape, scale: f32) -> Vec<u8> {
    let TileShape { rows: bm, cols: bk, strip } = tile;
    let in_triples = cols / bk * bk;
    let in_pairs = cols - in_triples;
    assert!(strip == 32 && rows.is_multiple_of(bm) && in_pairs.is_multiple_of(32) && cols >= 256);
    let code_bytes = ((cols - 256) * rows / 3 * 5 / 8 + 256 * rows / 2 * 4 / 8).next_multiple_of(32);
    let (signs_at, pairs_at) = (rows * in_triples / 6, rows * in_triples / 6 + rows * in_triples / 24);
    let mut bytes = vec![0; code_bytes + 32];
    for (m, weights) in weights.chunks_exact(cols).enumerate() {
        let (panel, strip, lane) = (m / bm, m % bm / 32, m % 32);
        let (triples, pairs) = weights.split_at(in_triples);
        for (t, three) in triples.as_chunks::<3>().0.iter().enumerate() {
            let [a, b, c] = three.map(i32::from);
            let value = 9 * a + 3 * b + c;
            let (column, t) = (t / (bk / 3), t % (bk / 3));
            let nibble_at = panel * (bm * in_triples / 6) + column * (bm * bk / 6) + strip * (32 * bk / 6);
            bytes[nibble_at + t / 2 * 32 + place(lane)] |= (value.unsigned_abs() as u8) << (4 * (1 - t % 2));
            if value < 0 {
                let word_at =
                    panel * (bm * in_triples / 24) + column * (bm * bk / 24) + strip * (32 * bk / 24);
                let bit = 15 - (2 * (t % 8) + lane / 16);
                bytes[signs_at + word_at + t / 8 * 32 + 2 * (lane % 16) + bit / 8] |= 1 << (bit % 8);
            }
        }
        for (p, two) in pairs.as_chunks::<2>().0.iter().enumerate() {
            let code = (3 * two[0] + two[1] + 4) as u8;
            let at = pairs_at + panel * (bm * in_pairs / 4) + p / 16 * (bm * 8) + strip * 256;
            bytes[at + p % 16 / 2 * 32 + place(lane)] |= code << (4 * (1 - p % 2));
        }
    }
    bytes[code_bytes..code_bytes + 4].copy_from_slice(&scale.to_le_bytes());
    bytes
}
