//! GGUF model files (versions 2 and 3), read in place and trusted in nothing.
//!
//! ```text
//! "GGUF" | u32 version | u64 tensors | u64 keys
//! keys    x { string key | u32 type | value }
//! tensors x { string name | u32 rank | u64 dims[rank] | u32 type | u64 offset }
//! zeros up to a multiple of general.alignment (32)
//! tensor data, each at the start of this section + offset
//! ```
//! All numbers are little-endian, a string is a u64 length and its bytes. [`Gguf::parse`] walks all of it once and checks
//! every length against the file; after that the lookups walk again, so nothing is copied and no memory is needed.
//! Source: the GGUF specification of the ggml project; what BitNet files do differently is said where it matters.

mod cursor;
mod reading;
mod sniff;
mod tensor;
mod types;
mod value;
#[cfg(feature = "std")]
mod write;

use heapless::{String, Vec};

pub use self::reading::{I2sBlocks, MAX_TILES, Reading, ReadingError, Tiles};
pub use self::sniff::Lookalike;
pub use self::tensor::{MAX_DIMS, TensorInfo};
pub use self::types::{BITNET_TAIL_BYTES, PACKED_TAIL_BYTES, TensorType};
pub use self::value::{Array, Array32, StringArray, Value, ValueType};
#[cfg(feature = "std")]
pub use self::write::{DataWriter, Header};

use self::cursor::Cursor;
use self::reading::Meanings;
use self::tensor::{RawTensor, check_neighbours};
use crate::error::{LoadError, Name};

/// Most metadata keys; published files have 20 to 60.
pub const MAX_KEYS: usize = 256;
/// Most tensors; a 30-layer BitNet has 332, and checking them against each other is quadratic.
pub const MAX_TENSORS: usize = 8192;
/// `general.alignment` where the file does not say.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// A metadata key with the architecture's name in front, see [`Gguf::arch_key`].
pub type Key = String<128>;

/// A parsed model file over its bytes.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    file: &'a [u8],
    version: u32,
    alignment: u64,
    /// Where each key starts: token tables are megabytes, so keys are not searched by walking them.
    keys: Vec<usize, MAX_KEYS>,
    tensors_at: usize,
    tensors: usize,
    data_at: u64,
    meanings: Meanings,
    reading: Reading,
}

/// Key of the version of a packed file; a file that has it was written by `tern pack`.
pub const PACKED_KEY: &str = "tern.pack.version";

impl<'a> Gguf<'a> {
    /// Parses and checks a whole header against the file's bytes. Tensor data is not looked at.
    ///
    /// # Errors
    /// Any [`LoadError`] about the container; the type of a tensor is not judged here but by [`TensorInfo::data`].
    pub fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        Self::parse_as(file, &Reading::default())
    }

    /// As [`parse`](Self::parse), with what is known about the file from elsewhere.
    ///
    /// # Errors
    /// See there.
    pub fn parse_as(file: &'a [u8], reading: &Reading) -> Result<Self, LoadError> {
        let mut cursor = Cursor::new(file, 0);
        if !file.starts_with(b"GGUF") {
            return Err(LoadError::NotGguf { looks_like: Lookalike::guess(file) });
        }
        cursor.take(4, "the magic")?;
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(LoadError::Version { found: version });
        }
        let tensors = cursor.u64("the number of tensors")?;
        let keys = cursor.u64("the number of metadata keys")?;
        // The smallest key takes 13 bytes (empty name, one-byte value): refuse before looping.
        let left = cursor.left() as u64;
        let most_keys = (left / 13).min(MAX_KEYS as u64);
        if keys > most_keys {
            return Err(LoadError::TooMany { what: "metadata keys", found: keys, most: most_keys });
        }
        let most_tensors = (left / RawTensor::LEAST_BYTES).min(MAX_TENSORS as u64);
        if tensors > most_tensors {
            return Err(LoadError::TooMany { what: "tensors", found: tensors, most: most_tensors });
        }
        let mut gguf = Self {
            file,
            version,
            alignment: DEFAULT_ALIGNMENT,
            keys: Vec::new(),
            tensors_at: 0,
            tensors: tensors as usize,
            data_at: 0,
            meanings: Meanings::new(reading.i2s),
            reading: reading.clone(),
        };
        for _ in 0..keys {
            gguf.add_key(&mut cursor)?;
        }
        gguf.alignment = gguf.read_alignment()?;
        gguf.tensors_at = cursor.at();
        for _ in 0..tensors {
            RawTensor::read(&mut cursor)?;
        }
        gguf.data_at = (cursor.at() as u64)
            .checked_next_multiple_of(gguf.alignment)
            .ok_or(LoadError::Alignment { found: gguf.alignment })?;
        gguf.check_tensors()?;
        Ok(gguf)
    }

    /// Reads one key and its value, and remembers where it was.
    fn add_key(&mut self, cursor: &mut Cursor<'a>) -> Result<(), LoadError> {
        let at = cursor.at();
        let key = cursor.string("a metadata key")?;
        let name = Name::new(key);
        let text =
            core::str::from_utf8(key).map_err(|_| LoadError::NotUtf8 { what: "a metadata key", name })?;
        if self.value(text).is_some() {
            return Err(LoadError::KeyTwice { key: name });
        }
        Value::read(cursor, key)?;
        self.keys.push(at).map_err(|_| LoadError::TooMany {
            what: "metadata keys",
            found: MAX_KEYS as u64 + 1,
            most: MAX_KEYS as u64,
        })
    }

    fn read_alignment(&self) -> Result<u64, LoadError> {
        let found = optional(self.u64("general.alignment"))?.unwrap_or(DEFAULT_ALIGNMENT);
        if found >= 8 && found.is_power_of_two() { Ok(found) } else { Err(LoadError::Alignment { found }) }
    }

    fn check_tensors(&mut self) -> Result<(), LoadError> {
        let data_bytes = (self.file.len() as u64).saturating_sub(self.data_at);
        let mut meanings = self.meanings;
        // A packed file pads its tensors, so their distance tells nothing; `TensorType::id` tells its ids apart.
        match optional(self.u32(PACKED_KEY))? {
            Some(_) => meanings.be_ours(),
            None => meanings.resolve(|| self.raw_tensors(), self.alignment, data_bytes)?,
        }
        self.meanings = meanings;
        // Each by itself first: what is wrong with one tensor is then not reported as a neighbour's fault.
        for raw in self.raw_tensors() {
            raw.check(self.file, self.data_at, self.alignment, (&self.meanings, &self.reading))?;
        }
        for (index, info) in self.tensors().enumerate() {
            check_neighbours(&info, index, self.raw_tensors(), &self.meanings, self.alignment, data_bytes)?;
        }
        Ok(())
    }

    /// The descriptions again; they were all read once, so none fails here.
    fn raw_tensors(&self) -> impl Iterator<Item = RawTensor<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.file, self.tensors_at);
        (0..self.tensors).map_while(move |_| RawTensor::read(&mut cursor).ok())
    }

    /// The container's version, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of the data section and of each tensor in it.
    #[must_use]
    pub fn alignment_bytes(&self) -> u64 {
        self.alignment
    }

    /// Where the data section starts in the file.
    #[must_use]
    pub fn data_at_bytes(&self) -> u64 {
        self.data_at
    }

    /// Size of the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file.len() as u64
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'a>> + use<'a, '_> {
        let as_it_is = (&self.meanings, &self.reading);
        self.raw_tensors()
            .map_while(move |raw| raw.check(self.file, self.data_at, self.alignment, as_it_is).ok())
    }

    /// Number of tensors.
    #[must_use]
    pub fn tensor_count(&self) -> usize {
        self.tensors
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'a>> {
        self.tensors().find(|t| t.name() == name)
    }

    /// The tensor of that name, which must be there.
    ///
    /// # Errors
    /// [`LoadError::TensorMissing`].
    pub fn require(&self, name: &str) -> Result<TensorInfo<'a>, LoadError> {
        self.tensor(name).ok_or(LoadError::TensorMissing { tensor: name.into() })
    }

    /// All keys and values in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.keys.iter().filter_map(|&at| {
            let mut cursor = Cursor::new(self.file, at);
            let key = cursor.string("a metadata key").ok()?;
            Some((core::str::from_utf8(key).ok()?, Value::read(&mut cursor, key).ok()?))
        })
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        self.keys.iter().find_map(|&at| {
            let mut cursor = Cursor::new(self.file, at);
            let found = cursor.string("a metadata key").ok()?;
            if found == key.as_bytes() { Value::read(&mut cursor, found).ok() } else { None }
        })
    }

    fn required(&self, key: &str) -> Result<Value<'a>, LoadError> {
        self.value(key).ok_or_else(|| LoadError::key_missing(key))
    }

    /// A non-negative integer of any width (converters differ).
    ///
    /// # Errors
    /// [`LoadError::KeyMissing`], [`LoadError::KeyType`], [`LoadError::KeyRange`] if it is negative.
    pub fn u64(&self, key: &str) -> Result<u64, LoadError> {
        let value = self.required(key)?;
        if let Value::U64(v) = value {
            return Ok(v);
        }
        let v = value.integer().ok_or_else(|| wrong_type(key, &value, "an integer"))?;
        let expected = "a number that is not negative";
        u64::try_from(v).map_err(|_| LoadError::KeyRange { key: key.into(), found: v, expected })
    }

    /// A non-negative integer below 2^32.
    ///
    /// # Errors
    /// As [`Gguf::u64`].
    pub fn u32(&self, key: &str) -> Result<u32, LoadError> {
        let v = self.u64(key)?;
        u32::try_from(v).map_err(|_| LoadError::KeyRange {
            key: key.into(),
            found: i64::try_from(v).unwrap_or(i64::MAX),
            expected: "a number below 2^32",
        })
    }

    /// An f32, or an f64 rounded to one.
    ///
    /// # Errors
    /// [`LoadError::KeyMissing`], [`LoadError::KeyType`].
    pub fn f32(&self, key: &str) -> Result<f32, LoadError> {
        match self.required(key)? {
            Value::F32(v) => Ok(v),
            Value::F64(v) => Ok(v as f32),
            other => Err(wrong_type(key, &other, "f32")),
        }
    }

    /// A bool.
    ///
    /// # Errors
    /// [`LoadError::KeyMissing`], [`LoadError::KeyType`].
    pub fn bool(&self, key: &str) -> Result<bool, LoadError> {
        match self.required(key)? {
            Value::Bool(v) => Ok(v),
            other => Err(wrong_type(key, &other, "bool")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// [`LoadError::KeyMissing`], [`LoadError::KeyType`], [`LoadError::NotUtf8`].
    pub fn str(&self, key: &str) -> Result<&'a str, LoadError> {
        match self.required(key)? {
            Value::Str(v) => core::str::from_utf8(v)
                .map_err(|_| LoadError::NotUtf8 { what: "the text of key", name: key.into() }),
            other => Err(wrong_type(key, &other, "string")),
        }
    }

    /// An array of texts.
    ///
    /// # Errors
    /// [`LoadError::KeyMissing`], [`LoadError::KeyType`].
    pub fn strings(&self, key: &str) -> Result<StringArray<'a>, LoadError> {
        let value = self.required(key)?;
        let Value::Array(array) = value else { return Err(wrong_type(key, &value, "array of strings")) };
        array.strings().ok_or_else(|| LoadError::KeyType {
            key: key.into(),
            found: array.element_type(),
            expected: "an array of strings",
        })
    }

    /// An array of 32-bit integers.
    ///
    /// # Errors
    /// [`LoadError::KeyMissing`], [`LoadError::KeyType`].
    pub fn i32s(&self, key: &str) -> Result<Array32<'a, i32>, LoadError> {
        let value = self.required(key)?;
        let Value::Array(array) = value else { return Err(wrong_type(key, &value, "array of i32")) };
        array.i32s().ok_or_else(|| LoadError::KeyType {
            key: key.into(),
            found: array.element_type(),
            expected: "an array of i32",
        })
    }

    /// An array of 32-bit floats.
    ///
    /// # Errors
    /// [`LoadError::KeyMissing`], [`LoadError::KeyType`].
    pub fn f32s(&self, key: &str) -> Result<Array32<'a, f32>, LoadError> {
        let value = self.required(key)?;
        let Value::Array(array) = value else { return Err(wrong_type(key, &value, "array of f32")) };
        array.f32s().ok_or_else(|| LoadError::KeyType {
            key: key.into(),
            found: array.element_type(),
            expected: "an array of f32",
        })
    }

    /// `general.architecture`, such as `bitnet-b1.58`.
    ///
    /// # Errors
    /// As [`Gguf::str`].
    pub fn architecture(&self) -> Result<&'a str, LoadError> {
        self.str("general.architecture")
    }

    /// The key `{architecture}.{suffix}`, as hyperparameters are named.
    ///
    /// # Errors
    /// As [`Gguf::str`], for the architecture.
    pub fn arch_key(&self, suffix: &str) -> Result<Key, LoadError> {
        let arch = self.architecture()?;
        let mut key = Key::new();
        let too_long = |()| LoadError::Architecture { found: arch.into() };
        for part in [arch, ".", suffix] {
            key.push_str(part).map_err(|_| too_long(()))?;
        }
        Ok(key)
    }
}

/// Turns "the key is missing" into `None`, for keys with a default.
///
/// # Errors
/// Every other error is passed on.
pub fn optional<T>(found: Result<T, LoadError>) -> Result<Option<T>, LoadError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(LoadError::KeyMissing { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

fn wrong_type(key: &str, value: &Value<'_>, expected: &'static str) -> LoadError {
    LoadError::KeyType { key: key.into(), found: value.ty(), expected }
}
