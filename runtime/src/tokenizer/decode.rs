//! Bytes of tokens to text, as it streams.
//!
//! A token may end inside a character, so bytes of an unfinished one are held back until the next token completes it.
//! What can never become a character turns into U+FFFD, one for each maximal part, as `String::from_utf8_lossy` does.

use core::fmt;

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Holds back at most three bytes between tokens.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    held: [u8; 4],
    len: usize,
    drops_space: bool,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder that leaves out the first byte if it is a space: the one that encoding put in front.
    #[must_use]
    pub fn dropping_space() -> Self {
        Self { drops_space: true, ..Self::default() }
    }

    /// Takes the bytes of the next token and writes the characters that are complete.
    ///
    /// # Errors
    /// Those of `out`, such as a full fixed-size string; bytes not yet taken are lost then.
    pub fn push(&mut self, bytes: impl IntoIterator<Item = u8>, out: &mut impl fmt::Write) -> fmt::Result {
        bytes.into_iter().try_for_each(|byte| self.push_byte(byte, out))
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(&mut self, out: &mut impl fmt::Write) -> fmt::Result {
        let is_unfinished = self.len > 0;
        self.len = 0;
        if is_unfinished { out.write_char(REPLACEMENT) } else { Ok(()) }
    }

    /// Bytes held back.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.len
    }

    fn push_byte(&mut self, byte: u8, out: &mut impl fmt::Write) -> fmt::Result {
        if core::mem::take(&mut self.drops_space) && byte == b' ' {
            return Ok(());
        }
        if self.len > 0 {
            if continues(self.held[0], self.len, byte) {
                self.held[self.len] = byte;
                self.len += 1;
                return self.write_if_complete(out);
            }
            self.len = 0;
            out.write_char(REPLACEMENT)?;
        }
        match byte {
            0..=0x7f => out.write_char(char::from(byte)),
            0xc2..=0xf4 => {
                self.held[0] = byte;
                self.len = 1;
                Ok(())
            }
            _ => out.write_char(REPLACEMENT),
        }
    }

    fn write_if_complete(&mut self, out: &mut impl fmt::Write) -> fmt::Result {
        let needed = match self.held[0] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            _ => 4,
        };
        if self.len < needed {
            return Ok(());
        }
        self.len = 0;
        out.write_str(core::str::from_utf8(&self.held[..needed]).unwrap_or("\u{fffd}"))
    }
}

/// Whether `byte` may stand at `index` (1 to 3) of a character that starts with `first` (Unicode standard, table 3-7).
fn continues(first: u8, index: usize, byte: u8) -> bool {
    let range = match (first, index) {
        (0xe0, 1) => 0xa0..=0xbf,
        (0xed, 1) => 0x80..=0x9f,
        (0xf0, 1) => 0x90..=0xbf,
        (0xf4, 1) => 0x80..=0x8f,
        _ => 0x80..=0xbf,
    };
    range.contains(&byte)
}
