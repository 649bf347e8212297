//! One safetensors file: its header read and checked, its tensors read where they lie.
//!
//! ```text
//! u64 length of the header, little-endian
//! JSON {"name": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}, "__metadata__": {...}}
//! data: offsets count from here, and the tensors fill it without gaps
//! ```
//! Files are read piece by piece, never mapped: what is in memory is what is worked on, and a file that is cut off
//! meanwhile is an error. Source: the description of the format by Hugging Face, whose library is not used because its
//! errors do not name the tensor and it wants the whole file in memory or mapped.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::CheckpointError;
use super::dtype::Dtype;

/// Longest header; the bound of the format's own library.
const MOST_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors of a file, as in a GGUF.
const MOST_TENSORS: usize = tern_runtime::gguf::MAX_TENSORS;

/// A tensor of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Type of its values.
    pub dtype: Dtype,
    /// Dimensions, the contiguous one last.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: u64,
    /// Where it starts in the file.
    pub(super) at_bytes: u64,
    /// Which of the shards it is in.
    pub(super) shard: usize,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Shard {
    pub path: PathBuf,
    pub file: File,
    /// The bytes of its header, for the sum over all that a checkpoint says of itself.
    pub header: Vec<u8>,
}

impl Shard {
    /// Opens number `index` of a checkpoint's files and reads its header.
    pub fn open(path: &Path, index: usize) -> Result<(Self, Vec<Tensor>), CheckpointError> {
        let fail = |problem: String| CheckpointError::shard(path, problem);
        let file = File::open(path).map_err(CheckpointError::read(path))?;
        let size = file.metadata().map_err(CheckpointError::read(path))?.len();
        let mut length = [0; 8];
        if size < 8 {
            return Err(fail(format!("it has {size} bytes, a header takes 8 at least; fetch it again")));
        }
        file.read_exact_at(&mut length, 0).map_err(CheckpointError::read(path))?;
        let length = u64::from_le_bytes(length);
        if length > MOST_HEADER_BYTES || length > size - 8 {
            let problem =
                "its header would have {length} bytes; the file has {size}, a header at most {most}";
            let problem =
                problem.replace("{length}", &length.to_string()).replace("{size}", &size.to_string());
            return Err(fail(problem.replace("{most}", &MOST_HEADER_BYTES.to_string())));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 8).map_err(CheckpointError::read(path))?;
        let entries: Entries = serde_json::from_slice(&header)
            .map_err(|error| CheckpointError::Json { path: path.to_owned(), error })?;
        let tensors = check(entries, 8 + length, size, index).map_err(fail)?;
        Ok((Shard { path: path.to_owned(), file, header }, tensors))
    }

    /// Reads bytes of the file.
    pub fn read_at(&self, at_bytes: u64, into: &mut [u8]) -> Result<(), CheckpointError> {
        self.file.read_exact_at(into, at_bytes).map_err(CheckpointError::read(&self.path))
    }
}

/// What a header says of a tensor.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A header, its tensors in the order of the JSON: a map would hide those that are there twice.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a tensor under each name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else if entries.len() < MOST_TENSORS {
                        entries.push((name, map.next_value()?));
                    } else {
                        return Err(serde::de::Error::custom(format_args!(
                            "more than {MOST_TENSORS} tensors"
                        )));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Header)
    }
}

/// Checks each tensor by itself, then that together they are the data and nothing else.
fn check(entries: Entries, data_at: u64, size: u64, shard: usize) -> Result<Vec<Tensor>, String> {
    let data_bytes = size - data_at;
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, Entry { dtype, shape, data_offsets: [begin, end] }) in entries.0 {
        if begin > end || end > data_bytes {
            return Err(format!(
                "tensor '{name}' takes bytes {begin} to {end} of {data_bytes}; the file may be cut off, fetch it again"
            ));
        }
        let dtype = Dtype::by_name(&dtype);
        let elements = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
        let expected = elements.and_then(|n| n.checked_mul(dtype.value_bytes()?));
        if dtype.value_bytes().is_some() && expected != Some(end - begin) {
            return Err(format!("tensor '{name}' is {dtype} {shape:?} and takes {} bytes", end - begin));
        }
        tensors.push(Tensor { name, dtype, shape, bytes: end - begin, at_bytes: data_at + begin, shard });
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.at_bytes, tensor.bytes));
    let mut reached = data_at;
    for tensor in order {
        if tensor.at_bytes != reached {
            let what = if tensor.at_bytes < reached { "overlaps the one before it" } else { "leaves a gap" };
            let (found, expected) = (tensor.at_bytes - data_at, reached - data_at);
            return Err(format!("tensor '{}' {what}: it begins at {found}, not at {expected}", tensor.name));
        }
        reached += tensor.bytes;
    }
    if reached != size {
        let (found, expected) = (data_bytes, reached - data_at);
        return Err(format!("its data has {found} bytes and its tensors {expected}; fetch it again"));
    }
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("tensor '{}' is there twice", pair[0])),
        None => Ok(tensors),
    }
}
