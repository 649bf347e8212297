//! NumPy's `.npy` files, versions 1 and 2: token ids in, logits out.
//!
//! ```text
//! 93 "NUMPY" | u8 major | u8 minor | u16 (major 1) or u32 (major 2) header length | header | values
//! header: a Python dict literal "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 512), }", spaces, "\n"
//! ```
//! Source: the format's definition in NumPy's documentation, `numpy.lib.format`.

use std::fmt;
use std::io::{self, Write};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Headers are padded so that the values start at a multiple of this.
const ALIGN: usize = 64;

/// What is wrong with an array of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NpyError {
    /// The file does not start as an `.npy` file does.
    NotNpy,
    /// A version this reader does not know.
    Version(u8, u8),
    /// The file ends early, or goes on after its last value.
    Length {
        /// Bytes that header and shape announce.
        expected_bytes: u64,
        /// Bytes of the file.
        found_bytes: u64,
    },
    /// The header is not the dict it should be.
    Header(&'static str),
    /// Values of another type than 32- or 64-bit integers.
    Type(String),
    /// Neither `[n]` nor `[1, n]`.
    Shape(Vec<u64>),
    /// A value that is no token id.
    Id {
        /// Its index.
        index: usize,
        /// The value.
        found: i64,
    },
}

impl fmt::Display for NpyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NpyError::NotNpy => write!(f, "not a .npy file; write one with numpy.save"),
            NpyError::Version(major, minor) => {
                write!(
                    f,
                    ".npy version {major}.{minor}; versions 1.0 and 2.0 are read, save it with numpy.save"
                )
            }
            NpyError::Length { expected_bytes, found_bytes } => {
                write!(
                    f,
                    "{found_bytes} bytes where its header announces {expected_bytes}; the file is damaged"
                )
            }
            NpyError::Header(what) => write!(f, "its header has no usable {what}; the file is damaged"),
            NpyError::Type(found) => {
                write!(
                    f,
                    "values of type '{found}'; token ids are '<i4' or '<i8' (int32 or int64), in C order"
                )
            }
            NpyError::Shape(found) => write!(f, "shape {found:?}; token ids have the shape [n] or [1, n]"),
            NpyError::Id { index, found } => {
                write!(f, "value {found} at index {index} is no token id; ids are 0 to 4294967294")
            }
        }
    }
}

impl std::error::Error for NpyError {}

/// Reads token ids of the shape `[n]` or `[1, n]`, int32 or int64.
///
/// # Errors
/// [`NpyError`] for anything else.
pub fn read_ids(file: &[u8]) -> Result<Vec<u32>, NpyError> {
    let rest = file.strip_prefix(MAGIC).ok_or(NpyError::NotNpy)?;
    let too_short = || NpyError::Length { expected_bytes: 128, found_bytes: file.len() as u64 };
    let (&[major, minor], rest) = rest.split_first_chunk().ok_or_else(too_short)?;
    let (length, rest) = match (major, minor) {
        (1, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        (2, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        _ => return Err(NpyError::Version(major, minor)),
    };
    let (header, values) = rest.split_at_checked(length).ok_or_else(|| NpyError::Length {
        expected_bytes: (file.len() - rest.len()) as u64 + length as u64,
        found_bytes: file.len() as u64,
    })?;
    let header = std::str::from_utf8(header).map_err(|_| NpyError::Header("text"))?;
    let descr = field(header, "descr").and_then(quoted).ok_or(NpyError::Header("descr"))?;
    let fortran_order = field(header, "fortran_order").ok_or(NpyError::Header("fortran_order"))?;
    let shape = field(header, "shape").and_then(numbers).ok_or(NpyError::Header("shape"))?;
    let ids = match shape.as_slice() {
        [ids] | [1, ids] => *ids,
        _ => return Err(NpyError::Shape(shape)),
    };
    let size = match descr {
        "<i4" => 4,
        "<i8" => 8,
        _ => return Err(NpyError::Type(descr.chars().take(20).collect())),
    };
    // One row or one column lies the same way in both orders; the field must only be a truth value.
    if !fortran_order.starts_with("False") && !fortran_order.starts_with("True") {
        return Err(NpyError::Header("fortran_order"));
    }
    let header_bytes = (file.len() - values.len()) as u64;
    let expected_bytes = ids.checked_mul(size).and_then(|bytes| bytes.checked_add(header_bytes));
    if expected_bytes != Some(file.len() as u64) {
        let expected_bytes = expected_bytes.unwrap_or(u64::MAX);
        return Err(NpyError::Length { expected_bytes, found_bytes: file.len() as u64 });
    }
    let numbers: Vec<i64> = match size {
        4 => values.as_chunks().0.iter().map(|value| i64::from(i32::from_le_bytes(*value))).collect(),
        _ => values.as_chunks().0.iter().map(|value| i64::from_le_bytes(*value)).collect(),
    };
    let id = |(index, found): (usize, i64)| {
        let id = u32::try_from(found).ok().filter(|id| *id != u32::MAX);
        id.ok_or(NpyError::Id { index, found })
    };
    numbers.into_iter().enumerate().map(id).collect()
}

/// What follows `'name':` in the header, spaces removed.
fn field<'h>(header: &'h str, name: &str) -> Option<&'h str> {
    let at = [format!("'{name}'"), format!("\"{name}\"")].iter().find_map(|key| {
        let at = header.find(key.as_str())?;
        Some(at + key.len())
    })?;
    Some(header[at..].trim_start().strip_prefix(':')?.trim_start())
}

/// The text of a quoted string at the start of `text`.
fn quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote).map(|(inside, _)| inside)
}

/// The numbers of a tuple at the start of `text`.
fn numbers(text: &str) -> Option<Vec<u64>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    let parts = inside.split(',').map(str::trim).filter(|part| !part.is_empty());
    // Python 2 wrote long integers with an L behind.
    parts.map(|part| part.trim_end_matches('L').parse().ok()).collect()
}

/// Writes the header of a float32 array `[rows, columns]` in C order; `rows * columns` values must follow.
///
/// # Errors
/// Those of `out`.
pub fn write_f32_header(out: &mut impl Write, rows: usize, columns: usize) -> io::Result<()> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let unpadded = MAGIC.len() + 2 + 2 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGN) - unpadded));
    header.push('\n');
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    // Two numbers of at most twenty digits: far below the 65535 bytes of version 1.
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())
}

/// Writes values of an array whose header was written.
///
/// # Errors
/// Those of `out`.
pub fn write_f32s(out: &mut impl Write, values: &[f32]) -> io::Result<()> {
    let mut bytes = [0u8; 4096];
    for values in values.chunks(bytes.len() / 4) {
        for (to, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *to = value.to_le_bytes();
        }
        out.write_all(&bytes[..4 * values.len()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, header: &str, values: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend([version, 0]);
        match version {
            1 => file.extend((header.len() as u16).to_le_bytes()),
            _ => file.extend((header.len() as u32).to_le_bytes()),
        }
        file.extend(header.as_bytes());
        file.extend(values);
        file
    }

    fn ids_of(descr: &str, shape: &str, values: &[u8]) -> Result<Vec<u32>, NpyError> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}   \n");
        let one = read_ids(&npy(1, &header, values));
        assert_eq!(
            one,
            read_ids(&npy(2, &header, values)).map_err(|error| match error {
                NpyError::Length { expected_bytes, found_bytes } => {
                    NpyError::Length { expected_bytes: expected_bytes - 2, found_bytes: found_bytes - 2 }
                }
                other => other,
            })
        );
        one
    }

    #[test]
    fn ids_of_both_widths_and_shapes() {
        let narrow: Vec<u8> = [7i32, 0, 128_255].iter().flat_map(|id| id.to_le_bytes()).collect();
        let wide: Vec<u8> = [7i64, 0, 128_255].iter().flat_map(|id| id.to_le_bytes()).collect();
        assert_eq!(ids_of("<i4", "(3,)", &narrow), Ok(vec![7, 0, 128_255]));
        assert_eq!(ids_of("<i8", "(1, 3)", &wide), Ok(vec![7, 0, 128_255]));
        assert_eq!(ids_of("<i8", "(0,)", &[]), Ok(vec![]));
    }

    #[test]
    fn arrays_that_are_no_ids_are_refused_with_what_was_found() {
        assert_eq!(ids_of("<f4", "(1,)", &[0; 4]), Err(NpyError::Type("<f4".into())));
        assert_eq!(ids_of(">i4", "(1,)", &[0; 4]), Err(NpyError::Type(">i4".into())));
        assert_eq!(ids_of("<i4", "(2, 1)", &[0; 8]), Err(NpyError::Shape(vec![2, 1])));
        assert_eq!(ids_of("<i4", "()", &[0; 4]), Err(NpyError::Shape(vec![])));
        assert_eq!(ids_of("<i4", "(1,)", &(-1i32).to_le_bytes()), Err(NpyError::Id { index: 0, found: -1 }));
        let huge = (1i64 << 32).to_le_bytes();
        assert_eq!(ids_of("<i8", "(1,)", &huge), Err(NpyError::Id { index: 0, found: 1 << 32 }));
        assert!(matches!(ids_of("<i4", "(2,)", &[0; 4]), Err(NpyError::Length { .. })));
        assert!(matches!(ids_of("<i8", "(1152921504606846975,)", &[0; 8]), Err(NpyError::Length { .. })));
        let overflowing =
            npy(1, "{'descr': '<i8', 'fortran_order': False, 'shape': (9223372036854775807,), }", &[0; 8]);
        assert!(matches!(read_ids(&overflowing), Err(NpyError::Length { expected_bytes: u64::MAX, .. })));
        assert_eq!(ids_of("<i4", "(x,)", &[]), Err(NpyError::Header("shape")));
    }

    #[test]
    fn no_cut_or_flipped_file_panics() {
        let good = npy(1, "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n", &[0; 8]);
        assert_eq!(read_ids(&good), Ok(vec![0, 0]));
        for cut in 0..good.len() {
            assert!(read_ids(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[at] ^= 1 << bit;
                // Many flips leave a legal file; none may do worse than an error.
                let _ = read_ids(&flipped);
            }
        }
        assert_eq!(read_ids(b"GGUF"), Err(NpyError::NotNpy));
        assert_eq!(read_ids(&npy(3, "", &[])), Err(NpyError::Version(3, 0)));
    }

    #[test]
    fn written_headers_are_aligned_and_say_the_shape() {
        let mut file = Vec::new();
        write_f32_header(&mut file, 3, 128_256).expect("memory");
        assert!(file.len().is_multiple_of(ALIGN) && file.ends_with(b" \n"));
        let header = std::str::from_utf8(&file[10..]).expect("ASCII");
        assert_eq!(field(header, "shape").and_then(numbers), Some(vec![3, 128_256]));
        assert_eq!(field(header, "descr").and_then(quoted), Some("<f4"));
        let values: Vec<f32> = (0..2000).map(|i| i as f32).collect();
        let start = file.len();
        write_f32s(&mut file, &values).expect("memory");
        let back: Vec<f32> = file[start..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(back, values);
    }
}
