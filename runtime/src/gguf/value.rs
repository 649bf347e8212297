//! Metadata values: thirteen types, arrays included, read in place.

use core::fmt;
use core::marker::PhantomData;

use super::cursor::Cursor;
use crate::error::{LoadError, Name};

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [(Self, &'static str, u64); 13] = [
        (Self::U8, "u8", 1),
        (Self::I8, "i8", 1),
        (Self::U16, "u16", 2),
        (Self::I16, "i16", 2),
        (Self::U32, "u32", 4),
        (Self::I32, "i32", 4),
        (Self::F32, "f32", 4),
        (Self::Bool, "bool", 1),
        (Self::Str, "string", 0),
        (Self::Array, "array", 0),
        (Self::U64, "u64", 8),
        (Self::I64, "i64", 8),
        (Self::F64, "f64", 8),
    ];

    fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).map(|t| t.0)
    }

    /// Bytes of one value, 0 for strings and arrays.
    fn fixed_bytes(self) -> u64 {
        Self::ALL[self as usize].2
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// A metadata value, borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The value's type.
    #[must_use]
    pub fn ty(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Any integer, widened; `None` for other types and for a u64 above i64.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::I8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::I64(v) => Some(v),
            Self::U64(v) => Some(i64::try_from(v).unwrap_or(i64::MAX)),
            _ => None,
        }
    }

    /// Appends the value as it stands behind its type.
    #[cfg(feature = "std")]
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::U8(v) => to.push(*v),
            Self::I8(v) => to.push(*v as u8),
            Self::U16(v) => to.extend(v.to_le_bytes()),
            Self::I16(v) => to.extend(v.to_le_bytes()),
            Self::U32(v) => to.extend(v.to_le_bytes()),
            Self::I32(v) => to.extend(v.to_le_bytes()),
            Self::F32(v) => to.extend(v.to_le_bytes()),
            Self::Bool(v) => to.push(u8::from(*v)),
            Self::Str(text) => {
                to.extend((text.len() as u64).to_le_bytes());
                to.extend(*text);
            }
            Self::Array(array) => {
                to.extend((array.ty as u32).to_le_bytes());
                to.extend(array.len.to_le_bytes());
                to.extend(array.bytes);
            }
            Self::U64(v) => to.extend(v.to_le_bytes()),
            Self::I64(v) => to.extend(v.to_le_bytes()),
            Self::F64(v) => to.extend(v.to_le_bytes()),
        }
    }

    /// Reads the value at the cursor: u32 type, then the value. `key` is for the error.
    pub(super) fn read(cursor: &mut Cursor<'a>, key: &[u8]) -> Result<Self, LoadError> {
        let id = cursor.u32("the type of a metadata value")?;
        let ty = ValueType::from_id(id).ok_or(LoadError::ValueType { key: Name::new(key), found: id })?;
        match ty {
            ValueType::Array => Array::read(cursor, key).map(Self::Array),
            ValueType::Str => cursor.string("a metadata string").map(Self::Str),
            _ => Self::scalar(ty, cursor.take(ty.fixed_bytes(), "a metadata value")?, key),
        }
    }

    /// A number or bool from exactly its bytes.
    fn scalar(ty: ValueType, bytes: &[u8], key: &[u8]) -> Result<Self, LoadError> {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let low = u64::from_le_bytes(wide);
        Ok(match ty {
            ValueType::U8 => Self::U8(low as u8),
            ValueType::I8 => Self::I8(low as i8),
            ValueType::U16 => Self::U16(low as u16),
            ValueType::I16 => Self::I16(low as i16),
            ValueType::U32 => Self::U32(low as u32),
            ValueType::I32 => Self::I32(low as i32),
            ValueType::F32 => Self::F32(f32::from_bits(low as u32)),
            ValueType::Bool if low <= 1 => Self::Bool(low == 1),
            ValueType::Bool => {
                return Err(LoadError::KeyRange {
                    key: Name::new(key),
                    found: low as i64,
                    expected: "0 or 1, as a bool is",
                });
            }
            ValueType::U64 => Self::U64(low),
            ValueType::I64 => Self::I64(low as i64),
            ValueType::F64 => Self::F64(f64::from_bits(low)),
            ValueType::Str | ValueType::Array => unreachable!("strings and arrays have no fixed size"),
        })
    }
}

/// A metadata array, borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    ty: ValueType,
    len: u64,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of the elements; never an array.
    #[must_use]
    pub fn element_type(&self) -> ValueType {
        self.ty
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads u32 type, u64 count, elements, and walks strings to find the end.
    fn read(cursor: &mut Cursor<'a>, key: &[u8]) -> Result<Self, LoadError> {
        let id = cursor.u32("the element type of a metadata array")?;
        let bad_type = LoadError::ValueType { key: Name::new(key), found: id };
        let ty = ValueType::from_id(id).filter(|t| *t != ValueType::Array).ok_or(bad_type)?;
        let len = cursor.u64("the length of a metadata array")?;
        // A string takes at least its length field, so no count can make the loop below longer than the file.
        let least = if ty == ValueType::Str { 8 } else { ty.fixed_bytes() };
        let most = cursor.left() as u64 / least;
        if len > most {
            return Err(LoadError::TooMany { what: "elements of a metadata array", found: len, most });
        }
        let bytes = if ty == ValueType::Str {
            let mut end = *cursor;
            for _ in 0..len {
                end.string("a string of a metadata array")?;
            }
            cursor.take((end.at() - cursor.at()) as u64, "a metadata array")?
        } else {
            cursor.take(len * least, "a metadata array")?
        };
        Ok(Self { ty, len, bytes })
    }

    /// The array as strings, if it is one of strings.
    #[must_use]
    pub fn strings(&self) -> Option<StringArray<'a>> {
        (self.ty == ValueType::Str).then_some(StringArray { bytes: self.bytes, len: self.len as usize })
    }

    /// The array as i32, if it is one of i32 or u32 (read as i32, as converters differ).
    #[must_use]
    pub fn i32s(&self) -> Option<Array32<'a, i32>> {
        matches!(self.ty, ValueType::I32 | ValueType::U32).then(|| Array32::new(self.bytes))
    }

    /// The array as f32, if it is one of f32.
    #[must_use]
    pub fn f32s(&self) -> Option<Array32<'a, f32>> {
        (self.ty == ValueType::F32).then(|| Array32::new(self.bytes))
    }
}

/// An array of strings: `u64 length, bytes` one after the other.
#[derive(Clone, Copy, Debug)]
pub struct StringArray<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> StringArray<'a> {
    /// Number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the whole array; offsets from [`StringArray::iter`] are below it.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Each string with its offset, which [`StringArray::at`] takes. The bytes are UTF-8 in a sound file; that is not
    /// checked here.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let mut cursor = Cursor::new(self.bytes, 0);
        (0..self.len).map_while(move |_| {
            let at = cursor.at();
            cursor.string("a string").ok().map(|s| (at, s))
        })
    }

    /// The string at an offset; empty for an offset that is none.
    #[must_use]
    pub fn at(&self, offset: usize) -> &'a [u8] {
        Cursor::new(self.bytes, offset).string("a string").unwrap_or(&[])
    }
}

/// An array of numbers of 32 bits, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct Array32<'a, T> {
    bytes: &'a [u8],
    of: PhantomData<T>,
}

impl<'a, T> Array32<'a, T> {
    fn new(bytes: &'a [u8]) -> Self {
        Array32 { bytes, of: PhantomData }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / 4
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn bytes_at(&self, index: usize) -> Option<[u8; 4]> {
        let start = index.checked_mul(4)?;
        self.bytes.get(start..start.checked_add(4)?)?.try_into().ok()
    }
}

impl Array32<'_, i32> {
    /// The integer at `index`, if there is one.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<i32> {
        self.bytes_at(index).map(i32::from_le_bytes)
    }
}

impl Array32<'_, f32> {
    /// The float at `index`, if there is one.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<f32> {
        self.bytes_at(index).map(f32::from_le_bytes)
    }
}
