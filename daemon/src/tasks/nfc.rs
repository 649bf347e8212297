//! Normalisation form C, for models whose tokenizer was trained on text in it.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The text in normalisation form C.
pub fn normalised(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::Maybe | IsNormalized::No => Cow::Owned(text.nfc().collect()),
    }
}
