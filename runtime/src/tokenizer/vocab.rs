//! Tokens by id and ids by bytes, over the string table of the model file.
//!
//! Nothing is copied: `offsets` says where each token's string lies in the file, and an open-addressing hash table of
//! ids answers the way back by comparing with the file. Control tokens are not in the hash table, so no text can reach
//! one through it.

use super::alphabet::TokenBytes;
use super::slots::{self, Slots};
use crate::error::{LoadError, Name};
use crate::gguf::{Array32, StringArray};

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenKind {
    /// 1: text.
    Normal,
    /// 2: stands for what has no token.
    Unknown,
    /// 3: begin, end and the like; never text.
    Control,
    /// 4: text added by the model's makers, found before anything else.
    UserDefined,
    /// 5: a hole in the numbering.
    Unused,
    /// 6: a single byte, in vocabularies made by SentencePiece.
    Byte,
    /// Any other number.
    Other,
}

impl TokenKind {
    fn from_type(ty: i32) -> Self {
        match ty {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Other,
        }
    }

    /// Whether the token prints as nothing and cannot come from text.
    fn is_silent(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// How a vocabulary spells its ordinary tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// In the alphabet of byte-level BPE.
    Alphabet,
    /// As SentencePiece does: U+2581 for a space, single bytes as `<0xXX>`.
    Spaced,
}

/// The tokens of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vocab<'a> {
    strings: StringArray<'a>,
    types: Array32<'a, i32>,
    how: Spelling,
    offsets: &'a [u32],
    slots: Slots<'a>,
    /// The token of each byte; a token that no byte has is `u32::MAX`.
    bytes: &'a [u32],
    longest: usize,
}

impl<'a> Vocab<'a> {
    /// Words of table memory for a vocabulary of `tokens`.
    pub fn words(tokens: usize) -> Option<usize> {
        tokens.checked_add(slots::words(tokens)?)?.checked_add(256)
    }

    /// Builds the tables in memory of exactly [`Vocab::words`].
    pub fn build(
        strings: StringArray<'a>,
        types: Array32<'a, i32>,
        how: Spelling,
        tables: &'a mut [u32],
    ) -> Result<Self, LoadError> {
        let (offsets, rest) = tables.split_at_mut(strings.len());
        let (bytes, slots) = rest.split_at_mut(256);
        for (to, (at, text)) in offsets.iter_mut().zip(strings.iter()) {
            *to = at as u32; // the plan refuses a table of 4 GiB
            if core::str::from_utf8(text).is_err() {
                let name = Name::new(text);
                return Err(LoadError::NotUtf8 { what: "the token", name });
            }
        }
        let offsets = &*offsets;
        let spelling = |id: u32| spelling(strings, types, how, offsets, id);
        let mut builder = slots::Builder::new(slots);
        let mut longest = 0;
        for id in 0..strings.len() as u32 {
            longest = longest.max(spelling(id).count());
            if !comes_from_text(kind(types, id), how, strings.at(offsets[id as usize] as usize)) {
                continue;
            }
            // Of two tokens with the same bytes the first is used.
            builder.insert(hash(spelling(id)), id, |other| spelling(other).eq(spelling(id)));
        }
        let slots = builder.finish();
        bytes.fill(u32::MAX);
        if how == Spelling::Spaced {
            for id in (0..strings.len() as u32).rev().filter(|id| kind(types, *id) == TokenKind::Byte) {
                if let Some(byte) = byte_of(strings.at(offsets[id as usize] as usize)) {
                    bytes[usize::from(byte)] = id;
                }
            }
        }
        for (byte, to) in (0..=255).zip(bytes.iter_mut()) {
            if how == Spelling::Alphabet {
                let found = slots.find(hash([byte].into_iter()), |id| spelling(id).eq([byte]));
                *to = found.unwrap_or(u32::MAX);
            }
            // C0, C1 and F5..FF never occur in UTF-8.
            if *to == u32::MAX && !matches!(byte, 0xc0 | 0xc1 | 0xf5..) {
                return Err(LoadError::ByteWithoutToken { byte });
            }
        }
        Ok(Self { strings, types, how, offsets, slots, bytes, longest })
    }

    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Most bytes of one token.
    pub fn longest_bytes(&self) -> usize {
        self.longest
    }

    pub fn kind(&self, id: u32) -> TokenKind {
        kind(self.types, id)
    }

    /// Whether the token prints as nothing.
    pub fn is_silent(&self, id: u32) -> bool {
        self.kind(id).is_silent()
    }

    /// The token's string in the file; empty for an id that is none.
    pub fn spelled(&self, id: u32) -> &'a [u8] {
        self.offsets.get(id as usize).map_or(&[], |&at| self.strings.at(at as usize))
    }

    /// [`Vocab::spelled`] as text.
    pub fn text(&self, id: u32) -> &'a str {
        core::str::from_utf8(self.spelled(id)).unwrap_or("") // UTF-8, checked by build
    }

    /// The bytes behind the token, control tokens included.
    pub fn spelling(&self, id: u32) -> TokenBytes<'a> {
        if (id as usize) < self.len() {
            spelling(self.strings, self.types, self.how, self.offsets, id)
        } else {
            TokenBytes::literal(&[])
        }
    }

    /// The token of one byte of UTF-8 text.
    pub fn of_byte(&self, byte: u8) -> u32 {
        self.bytes[usize::from(byte)]
    }

    /// The token with exactly these bytes that text may become.
    pub fn find(&self, bytes: impl Iterator<Item = u8> + Clone) -> Option<u32> {
        self.slots.find(hash(bytes.clone()), |id| self.spelling(id).eq(bytes.clone()))
    }
}

fn kind(types: Array32<'_, i32>, id: u32) -> TokenKind {
    TokenKind::from_type(types.at(id as usize).unwrap_or(0))
}

/// Whether merging may lead to a token.
fn comes_from_text(kind: TokenKind, how: Spelling, text: &[u8]) -> bool {
    match how {
        Spelling::Alphabet => !kind.is_silent(),
        // A space is U+2581; what spells it otherwise was never made by merging. User-defined tokens are found before.
        Spelling::Spaced => {
            !kind.is_silent()
                && !matches!(kind, TokenKind::Byte | TokenKind::UserDefined)
                && !text.contains(&b' ')
        }
    }
}

fn spelling<'a>(
    strings: StringArray<'a>,
    types: Array32<'_, i32>,
    how: Spelling,
    offsets: &[u32],
    id: u32,
) -> TokenBytes<'a> {
    let text = strings.at(offsets[id as usize] as usize);
    match (how, kind(types, id)) {
        (Spelling::Alphabet, TokenKind::Normal | TokenKind::Byte | TokenKind::Other) => {
            TokenBytes::spelled(text)
        }
        (Spelling::Spaced, TokenKind::Byte) => {
            byte_of(text).map_or(TokenBytes::literal(text), TokenBytes::byte)
        }
        (Spelling::Spaced, TokenKind::Normal | TokenKind::Unused | TokenKind::Other) => {
            TokenBytes::spaced(text)
        }
        _ => TokenBytes::literal(text),
    }
}

/// The byte that `<0xXX>` stands for.
fn byte_of(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digit = |b: u8| char::from(b).to_digit(16);
    match *digits {
        [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
        _ => None,
    }
}

/// FNV-1a: short inputs, no setup; the table mixes the result once more.
fn hash(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}
