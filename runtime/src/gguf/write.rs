//! Writes a GGUF v3: the header first, then tensor data as it comes, so that a file larger than memory can be made.
//!
//! ```
//! use tern_runtime::gguf::{Gguf, Header, TensorType};
//! let mut header = Header::new();
//! header.str("general.architecture", "bitnet-b1.58").u32("bitnet-b1.58.block_count", 1);
//! header.tensor("output_norm.weight", TensorType::F32, &[2])?;
//! let mut data = header.begin(Vec::new())?;
//! data.write(&1.0f32.to_le_bytes())?;
//! data.write(&2.0f32.to_le_bytes())?;
//! let file = data.finish()?;
//! assert_eq!(Gguf::parse(&file).unwrap().require("output_norm.weight").unwrap().row_len(), 2);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io::{self, Write};
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use super::{DEFAULT_ALIGNMENT, MAX_DIMS, TensorType, Value, ValueType};

/// A header being put together: keys in the order of the calls, then tensors in the order of their data.
#[derive(Clone, Debug, Default)]
pub struct Header {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<Planned>,
    /// End of the last tensor, padded.
    data_bytes: u64,
    /// Where it is not the default.
    alignment: Option<u64>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    ty: TensorType,
    dims: Vec<u64>,
    offset: u64,
    nbytes: u64,
}

impl Header {
    /// An empty header with the default alignment of 32.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty header whose tensors start at multiples of `alignment_bytes`, a power of two from 8 on.
    ///
    /// # Panics
    /// If it is another number.
    #[must_use]
    pub fn aligned(alignment_bytes: u32) -> Self {
        assert!(alignment_bytes >= 8 && alignment_bytes.is_power_of_two(), "alignment {alignment_bytes}");
        let mut header = Self { alignment: Some(u64::from(alignment_bytes)), ..Self::default() };
        header.u32("general.alignment", alignment_bytes);
        header
    }

    fn alignment(&self) -> u64 {
        self.alignment.unwrap_or(DEFAULT_ALIGNMENT)
    }

    /// Adds a key with the value it has in another file.
    pub fn copy(&mut self, key: &str, value: &Value<'_>) -> &mut Self {
        value.write(self.key(key, value.ty()));
        self
    }

    fn key(&mut self, key: &str, ty: ValueType) -> &mut Vec<u8> {
        self.key_count += 1;
        put_string(&mut self.keys, key.as_bytes());
        self.keys.extend((ty as u32).to_le_bytes());
        &mut self.keys
    }

    /// Adds a u32.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.key(key, ValueType::U32).extend(value.to_le_bytes());
        self
    }

    /// Adds an f32.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.key(key, ValueType::F32).extend(value.to_le_bytes());
        self
    }

    /// Adds a bool.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key, ValueType::Bool).push(u8::from(value));
        self
    }

    /// Adds a text.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        put_string(self.key(key, ValueType::Str), value.as_bytes());
        self
    }

    fn array(&mut self, key: &str, ty: ValueType, len: usize) -> &mut Vec<u8> {
        let to = self.key(key, ValueType::Array);
        to.extend((ty as u32).to_le_bytes());
        to.extend((len as u64).to_le_bytes());
        to
    }

    /// Adds an array of texts.
    pub fn strings<T: AsRef<[u8]>>(&mut self, key: &str, values: &[T]) -> &mut Self {
        let to = self.array(key, ValueType::Str, values.len());
        for value in values {
            put_string(to, value.as_ref());
        }
        self
    }

    /// Adds an array of i32.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let to = self.array(key, ValueType::I32, values.len());
        to.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds an array of f32.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let to = self.array(key, ValueType::F32, values.len());
        to.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds a tensor, contiguous dimension first. Its data follows that of the tensor added before.
    ///
    /// # Errors
    /// `InvalidInput` for no or too many dimensions, a zero one, a row that is not whole blocks, a type of unknown
    /// size or a name that is taken.
    pub fn tensor(&mut self, name: &str, ty: TensorType, dims: &[u64]) -> io::Result<&mut Self> {
        let refuse =
            |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("tensor '{name}': {why}")));
        let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        if dims.is_empty() || dims.len() > MAX_DIMS || !dims[0].is_multiple_of(ty.block_elements()) {
            return refuse(&format!("{dims:?} is no shape for {ty}"));
        }
        if self.tensors.iter().any(|t| t.name == name) {
            return refuse("added twice");
        }
        let nbytes = elements.filter(|&n| n > 0).and_then(|n| ty.nbytes(dims[0], n / dims[0]));
        let alignment = self.alignment();
        let end = nbytes.and_then(|n| self.data_bytes.checked_add(n)?.checked_next_multiple_of(alignment));
        let (Some(nbytes), Some(end)) = (nbytes, end) else {
            return refuse(&format!("{dims:?} of {ty} has no known size"));
        };
        self.tensors.push(Planned {
            name: name.into(),
            ty,
            dims: dims.to_vec(),
            offset: self.data_bytes,
            nbytes,
        });
        self.data_bytes = end;
        Ok(self)
    }

    /// Size of the file once all data is written.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.head().len() as u64 + self.data_bytes
    }

    /// Magic, counts, keys, tensor descriptions and the padding in front of the data.
    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(self.keys.len() + 128 * self.tensors.len() + 64);
        head.extend(b"GGUF");
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend(self.key_count.to_le_bytes());
        head.extend(&self.keys);
        for t in &self.tensors {
            put_string(&mut head, t.name.as_bytes());
            head.extend((t.dims.len() as u32).to_le_bytes());
            head.extend(t.dims.iter().flat_map(|d| d.to_le_bytes()));
            head.extend(t.ty.id().to_le_bytes());
            head.extend(t.offset.to_le_bytes());
        }
        head.resize(head.len().next_multiple_of(self.alignment() as usize), 0);
        head
    }

    /// Writes the header and hands back what takes the data. `out` should be buffered.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin<W: Write>(self, mut out: W) -> io::Result<DataWriter<W>> {
        out.write_all(&self.head())?;
        let left = self.tensors.first().map_or(0, |t| t.nbytes);
        let alignment = self.alignment();
        Ok(DataWriter { out, tensors: self.tensors, current: 0, left, alignment })
    }

    /// Where the tensor behind the first `tensors` begins in the file; the end of the file if there is none.
    #[must_use]
    pub fn tensor_at_bytes(&self, tensors: usize) -> u64 {
        self.head().len() as u64 + self.tensors.get(tensors).map_or(self.data_bytes, |tensor| tensor.offset)
    }

    /// The bytes in front of the data.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.head()
    }

    /// Hands back what takes the data of the tensors behind the first `done`, where `out` already has the header and
    /// those: it must stand at [`tensor_at_bytes`](Self::tensor_at_bytes). Nothing is written.
    pub fn resume<W: Write>(self, out: W, done: usize) -> DataWriter<W> {
        let left = self.tensors.get(done).map_or(0, |t| t.nbytes);
        let alignment = self.alignment();
        DataWriter { out, tensors: self.tensors, current: done, left, alignment }
    }
}

fn put_string(to: &mut Vec<u8>, text: &[u8]) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text);
}

/// Takes the data of the tensors one after the other and pads between them.
#[derive(Debug)]
pub struct DataWriter<W> {
    out: W,
    tensors: Vec<Planned>,
    current: usize,
    left: u64,
    alignment: u64,
}

impl<W: Write> DataWriter<W> {
    /// The tensor whose data comes next and how many bytes of it are left; `None` when all are written.
    #[must_use]
    pub fn current(&self) -> Option<(&str, u64)> {
        self.tensors.get(self.current).map(|t| (t.name.as_str(), self.left))
    }

    /// Writes the next bytes of the current tensor; at its end the next one becomes current.
    ///
    /// # Errors
    /// Those of the output; `InvalidInput` for more bytes than the tensor has left.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(tensor) = self.tensors.get(self.current).filter(|_| bytes.len() as u64 <= self.left) else {
            let at = self.current().map_or_else(
                || String::from("after the last tensor"),
                |(name, left)| format!("for tensor '{name}', which has {left} left"),
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} bytes {at}", bytes.len())));
        };
        self.out.write_all(bytes)?;
        self.left -= bytes.len() as u64;
        if self.left == 0 {
            let padding = tensor.nbytes.next_multiple_of(self.alignment) - tensor.nbytes;
            self.out.write_all(&vec![0; padding as usize])?;
            self.current += 1;
            self.left = self.tensors.get(self.current).map_or(0, |t| t.nbytes);
        }
        Ok(())
    }

    /// The output.
    pub fn out_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Flushes and hands the output back.
    ///
    /// # Errors
    /// Those of the output; `InvalidInput` if data is missing.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some((name, left)) = self.current() {
            let message = format!("tensor '{name}' lacks {left} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}
