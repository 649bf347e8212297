//! A reader over the file's bytes that can only fail, never run past the end.

use crate::error::LoadError;

/// Position in the bytes of a file. Every read is checked; numbers are little-endian.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    /// Position from the start of the file.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes from here to the end of the file.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes; `what` names them in the error.
    pub fn take(&mut self, n: u64, what: &'static str) -> Result<&'a [u8], LoadError> {
        let (at_bytes, left_bytes) = (self.at as u64, self.left() as u64);
        if n > left_bytes {
            return Err(LoadError::Truncated { what, at_bytes, needed_bytes: n, left_bytes });
        }
        let end = self.at + n as usize; // n <= left, so it fits a usize
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], LoadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub fn u32(&mut self, what: &'static str) -> Result<u32, LoadError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &'static str) -> Result<u64, LoadError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A GGUF string: u64 length, then that many bytes, not checked to be UTF-8.
    pub fn string(&mut self, what: &'static str) -> Result<&'a [u8], LoadError> {
        let len = self.u64(what)?;
        self.take(len, what)
    }
}
