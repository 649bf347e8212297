//! Text of a model file that an error carries without an allocator, and that is safe to print on a terminal.

use core::fmt;

/// Bytes of a [`Name`]; the longest tensor name of a published model is 40 or so.
const NAME_BYTES: usize = 62;

/// A short printable copy of a key, tensor name or text of the file.
///
/// Bytes outside printable ASCII become `?` and what does not fit is cut, shown as `...`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; NAME_BYTES],
    len: u8,
    cut: bool,
}

impl Name {
    /// Copies the head of `text`.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        let mut bytes = [0; NAME_BYTES];
        for (to, &from) in bytes.iter_mut().zip(text) {
            *to = if (b' '..=b'~').contains(&from) { from } else { b'?' };
        }
        Self { bytes, len: text.len().min(NAME_BYTES) as u8, cut: text.len() > NAME_BYTES }
    }

    /// The copied text, without the mark of a cut.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only printable ASCII is ever stored, so the fallback is out of reach.
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        if self.cut { f.write_str("...") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_cut_and_printable() {
        let long = [b'x'; 100];
        assert_eq!(Name::new(&long).as_str().len(), NAME_BYTES);
        assert!(Name::new(b"\x1b[31mred\xff").as_str() == "?[31mred?");
    }
}
