//! How vocabularies spell their tokens.
//!
//! Those of byte-level BPE spell each byte as one printable character, those made by SentencePiece write text and spell
//! only the space otherwise, as U+2581.
//!
//! Bytes 33..=126, 161..=172 and 174..=255 stand for themselves, the other 68 in increasing order are U+0100 to U+0143
//! (space is U+0120, newline U+010A). Source: the published GPT-2 encoder. A character outside the alphabet, which a
//! sound vocabulary does not have in ordinary tokens, stands for its own UTF-8 bytes.

/// The bytes a token stands for, decoded from its spelling as they are asked for.
#[derive(Clone, Debug)]
pub struct TokenBytes<'a> {
    text: &'a [u8],
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// One character of the alphabet a byte.
    Alphabet,
    /// Text with U+2581 for a space.
    Spaced,
    /// Text.
    Literal,
}

/// UTF-8 of U+2581, the space of SentencePiece.
const SPACE: [u8; 3] = [0xe2, 0x96, 0x81];

/// Every byte, to be borrowed.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut i = 0;
    while i < 256 {
        bytes[i] = i as u8;
        i += 1;
    }
    bytes
};

impl<'a> TokenBytes<'a> {
    /// Of an ordinary token: `text` is in the alphabet.
    pub(super) fn spelled(text: &'a [u8]) -> Self {
        Self { text, form: Form::Alphabet }
    }

    /// Of a special token: `text` means itself.
    pub(super) fn literal(text: &'a [u8]) -> Self {
        Self { text, form: Form::Literal }
    }

    /// Text, or an ordinary token of SentencePiece: U+2581 is a space.
    pub(super) fn spaced(text: &'a [u8]) -> Self {
        Self { text, form: Form::Spaced }
    }

    /// One byte.
    pub(super) fn byte(byte: u8) -> Self {
        Self::literal(core::slice::from_ref(&BYTES[usize::from(byte)]))
    }
}

impl Iterator for TokenBytes<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.text.split_first()?;
        if matches!(self.form, Form::Spaced)
            && first == SPACE[0]
            && let Some(rest) = self.text.strip_prefix(&SPACE)
        {
            self.text = rest;
            return Some(b' ');
        }
        // All characters of the alphabet beyond ASCII are two bytes in UTF-8: C2 A1 to C5 83.
        if matches!(self.form, Form::Alphabet)
            && let (0xc2..=0xc5, Some((&second @ 0x80..=0xbf, after))) = (first, rest.split_first())
            && let Some(byte) = spelled_byte(u32::from(first & 0x1f) << 6 | u32::from(second & 0x3f))
        {
            self.text = after;
            return Some(byte);
        }
        self.text = rest;
        Some(first)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.text.len() / 3, Some(self.text.len()))
    }
}

/// The byte behind a character beyond ASCII.
fn spelled_byte(character: u32) -> Option<u8> {
    match character {
        161..=172 | 174..=255 => Some(character as u8),
        256..=288 => Some((character - 256) as u8),
        289..=322 => Some((character - 289 + 127) as u8),
        323 => Some(173),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_has_each_byte_once() {
        let mut seen = [0; 256];
        for character in (33..=126).chain(161..=172).chain(174..=255).chain(256..=323) {
            let mut utf8 = [0; 4];
            let text = char::from_u32(character).unwrap().encode_utf8(&mut utf8);
            let mut bytes = TokenBytes::spelled(text.as_bytes());
            seen[usize::from(bytes.next().unwrap())] += 1;
            assert_eq!(bytes.next(), None, "U+{character:04X}");
        }
        assert_eq!(seen, [1; 256]);
    }

    #[test]
    fn known_spellings() {
        assert!(TokenBytes::spelled("\u{120}run\u{10a}".as_bytes()).eq(*b" run\n"));
        assert!(TokenBytes::spelled("\u{e4}\u{bd}\u{142}".as_bytes()).eq(*b"\xe4\xbd\xa0"));
        assert!(TokenBytes::spelled("\u{4e2d} \u{ad}".as_bytes()).eq("\u{4e2d} \u{ad}".bytes()));
        assert!(TokenBytes::literal("\u{120}".as_bytes()).eq([0xc4, 0xa0]));
        assert!(
            TokenBytes::spaced("\u{2581}\u{120}\u{2582} \u{2581}".as_bytes())
                .eq(" \u{120}\u{2582}  ".bytes())
        );
        assert!((0..=255).all(|byte| TokenBytes::byte(byte).eq([byte])));
    }
}
