//! Packed bytes against golden ones that other programs made.
//!
//! `layout_vectors.json` comes from the reference converters (see `tests/fixtures/oracle/README.md`); its weights follow
//! a rule that is repeated here. The bytes of `tl1p32` were made by ten lines of Python from the drawing in
//! `kernels/src/layout.rs`, since no other program knows that layout.

use tern_kernels::{Layout, SCALAR, pack, planes};

/// The weight rule of `layout_vectors.json`.
fn weight(row: usize, col: usize) -> i8 {
    let x = (row as u32).wrapping_mul(73_856_093) ^ (col as u32).wrapping_mul(19_349_663);
    ((x.wrapping_mul(2_654_435_761) >> 16) % 3) as i8 - 1
}

/// The bytes of a string of hexadecimal digits; white space is passed over.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let text = |pair: &[u8]| String::from_utf8(pair.to_vec()).expect("ASCII");
    digits.chunks(2).map(|pair| u8::from_str_radix(&text(pair), 16).expect("hexadecimal digits")).collect()
}

/// Packs the rule's weights and compares both directions with `golden`.
fn check(layout: Layout, rows: usize, cols: usize, golden: &[u8]) {
    let weights: Vec<i8> = (0..rows * cols).map(|i| weight(i / cols, i % cols)).collect();
    let mut packed = vec![0; layout.bytes(rows, cols).expect("a shape that fits")];
    pack::pack(layout, &weights, rows, cols, &mut packed);
    assert_eq!(packed, golden, "{} {rows} x {cols} as packed", layout.name());
    let mut unpacked = vec![0; rows * cols];
    pack::unpack(layout, golden, rows, cols, &mut unpacked);
    assert_eq!(unpacked, weights, "{} {rows} x {cols} as unpacked", layout.name());
}

#[test]
fn i2_s_in_blocks_of_128_is_t2b128() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/oracle/layout_vectors.json");
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let vectors: serde_json::Value = serde_json::from_str(&text).expect("the fixture is JSON");
    let vectors = vectors["vectors"].as_array().expect("a list of vectors");
    let mut checked = 0;
    for vector in vectors.iter().filter(|vector| vector["layout"] == "i2_s_blk128") {
        let size = |key: &str| vector[key].as_u64().expect("a size") as usize;
        let (rows, cols) = (size("M"), size("K"));
        let golden = bytes(vector["hex"].as_str().expect("hexadecimal text"));
        let (payload, trailer) = golden.split_at(rows * cols / 4);
        check(Layout::T2B128, rows, cols, payload);
        // The tensor ends with its scale and padding up to 32 bytes, which the layout leaves to the file format.
        let scale = vector["scale"].as_f64().expect("a scale") as f32;
        assert_eq!((trailer.len(), &trailer[..4]), (32, scale.to_le_bytes().as_slice()));
        checked += 1;
    }
    assert_eq!(checked, 1, "vectors named i2_s_blk128 in {path}");
}

#[test]
fn tl1p32_is_as_drawn() {
    let golden = bytes(
        "7247252551573655151257875061064435400156450431875472610706741251
         8462861516735676465752223561587665670580888675722760022787327845
         3844444444444444444444444444444444444444444444444444444444444444
         7144444444444444444444444444444444444444444444444444444444444444",
    );
    check(Layout::Tl1P32, 33, 8, &golden);
}

#[test]
fn h8n2_is_as_drawn() {
    let (cols, mut row) = (65, vec![0.0; 65]);
    // 127 somewhere makes the scale 1.
    (row[0], row[64], row[7]) = (-3.0, 100.0, 127.0);
    let bytes = planes::row_bytes(cols);
    let (mut high, mut low) = (vec![1; bytes], vec![1; bytes]);
    assert_eq!(planes::quantize_row(&SCALAR, &row, &mut high, &mut low), 1.0);
    assert_eq!((high[0], low[0]), (0xe7, 0x4d));
    assert_eq!((high[7], low[7]), (0x8f, 0x0f));
    assert!(high[8..].iter().all(|b| *b == 0x88) && low[8..].iter().all(|b| *b == 0));
    assert_eq!((planes::plane_bytes(3, 2560), planes::plane_bytes(2, 65)), (Some(3 * 1280), Some(2 * 64)));
}
