//! Reading the `.npy` files of the fixtures (NumPy format 1.0): little-endian `int32` or `float32`, C order.

use std::path::Path;

/// The shape and the raw little-endian values of a file of type `descr`.
fn read(path: &Path, descr: &str) -> (Vec<usize>, Vec<[u8; 4]>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"), "{} is not a version 1 .npy file", path.display());
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_len]).expect("an ASCII header");
    assert!(header.contains(&format!("'descr': '{descr}'")), "{}: {header}", path.display());
    assert!(header.contains("'fortran_order': False"), "{}: {header}", path.display());
    let shape = header.split("'shape': (").nth(1).and_then(|s| s.split(')').next()).expect("a shape");
    let shape = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect::<Vec<usize>>();
    let (values, rest) = bytes[10 + header_len..].as_chunks::<4>();
    assert!(rest.is_empty() && values.len() == shape.iter().product::<usize>(), "{}", path.display());
    (shape, values.to_vec())
}

/// Token ids, whatever their shape.
pub fn ids(path: &Path) -> Vec<u32> {
    read(path, "<i4").1.into_iter().map(u32::from_le_bytes).collect()
}

/// The last dimension and all values.
pub fn floats(path: &Path) -> (usize, Vec<f32>) {
    let (shape, values) = read(path, "<f4");
    (*shape.last().expect("at least one dimension"), values.into_iter().map(f32::from_le_bytes).collect())
}
