//! A made-up vocabulary of any size that a byte-level BPE tokenizer can work with.
//!
//! Tokens 0 to 255 are the bytes. Token `256 + n` is token `n / 256` with byte `n % 256` behind it, and the merge rule
//! that makes it is of rank `n`: so the tokens are all texts of one byte, then of two, then of three, each of them
//! different from all others. The last few ids are control tokens, in the order of Llama 3.

/// Ids set aside for control tokens in a vocabulary of ordinary size.
const CONTROL_TOKENS: u32 = 256;

/// `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// The tables of a tokenizer as GGUF keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Spelling of each token; bytes in the printable alphabet of byte-level BPE.
    pub tokens: Vec<String>,
    /// Kind of each token.
    pub types: Vec<i32>,
    /// `left right` for each merge rule, strongest first.
    pub merges: Vec<String>,
    /// `<|begin_of_text|>`.
    pub bos: u32,
    /// `<|end_of_text|>`.
    pub eos: u32,
    /// `<|eot_id|>`.
    pub end_of_turn: u32,
}

impl Vocabulary {
    /// A vocabulary of `size` tokens.
    ///
    /// # Panics
    /// If `size` is below 272: 256 bytes and 16 control tokens.
    pub fn new(size: u32) -> Self {
        assert!(size >= 272, "a vocabulary of {size} has no room for the bytes and the control tokens");
        let control = CONTROL_TOKENS.min((size - 256) / 2).max(16);
        let normal = (size - control) as usize;
        let alphabet = alphabet();
        let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
        let mut merges = Vec::with_capacity(normal - 256);
        for n in 0..normal - 256 {
            let (left, right) = (&tokens[n / 256], &tokens[n % 256]);
            merges.push(format!("{left} {right}"));
            let joined = format!("{left}{right}");
            tokens.push(joined);
        }
        let first = normal as u32;
        tokens.extend((0..control).map(|n| match n {
            0 => "<|begin_of_text|>".into(),
            1 => "<|end_of_text|>".into(),
            9 => "<|eot_id|>".into(),
            n => format!("<|reserved_special_token_{n}|>"),
        }));
        let mut types = vec![NORMAL; normal];
        types.resize(size as usize, CONTROL);
        Vocabulary { tokens, types, merges, bos: first, eos: first + 1, end_of_turn: first + 9 }
    }
}

/// The character that spells each byte: printable Latin-1 bytes are themselves, the others take U+0100 and on in
/// order. Source: the published GPT-2 encoder.
fn alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte {
        33..=126 | 161..=172 | 174..=255 => char::from(byte as u8),
        _ => {
            let character = char::from_u32(next).unwrap_or(char::REPLACEMENT_CHARACTER);
            next += 1;
            character
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_token_is_different_and_every_rule_makes_one() {
        for size in [272, 512, 32_002, 128_256] {
            let vocabulary = Vocabulary::new(size);
            assert_eq!((vocabulary.tokens.len(), vocabulary.types.len()), (size as usize, size as usize));
            let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
            assert_eq!(tokens.len(), size as usize);
            for rule in &vocabulary.merges {
                let (left, right) = rule.split_once(' ').expect("two tokens");
                assert!(tokens.contains(left) && tokens.contains(right), "{rule}");
                assert!(tokens.contains(format!("{left}{right}").as_str()), "{rule}");
            }
            assert_eq!(vocabulary.tokens[vocabulary.end_of_turn as usize], "<|eot_id|>");
        }
    }

    #[test]
    fn the_published_size_has_the_published_ids() {
        let vocabulary = Vocabulary::new(128_256);
        assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.end_of_turn), (128_000, 128_001, 128_009));
    }

    #[test]
    fn known_spellings() {
        let alphabet = alphabet();
        assert_eq!((alphabet[32], alphabet[10], alphabet[173]), ('\u{120}', '\u{10a}', '\u{143}'));
        assert_eq!(alphabet.iter().collect::<HashSet<_>>().len(), 256);
    }
}
