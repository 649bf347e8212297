//! Pre-tokenizers: cut text into the pieces that are merged separately.
//!
//! They give the same pieces as these patterns, without a regex engine:
//! ```text
//! Llama3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! Qwen2   the same with \p{N} in place of \p{N}{1,3}
//! Gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//! The alternatives are tried in order at each position, and one of them always matches. `\p{L}` is general category L:
//! `char::is_alphabetic` also has letter numbers and some marks, which would cut differently.

use unicode_general_category::{GeneralCategory, get_general_category};

/// A pre-tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Of Llama 3, Falcon 3 and Falcon-E: up to three digits together.
    Llama3,
    /// Of Qwen 2 and 3: every digit alone.
    Qwen2,
    /// Of GPT-2 and GPT-NeoX: numbers whole, only a space joins what follows it.
    Gpt2,
}

impl Split {
    /// The pieces of `text`, in order and without gaps.
    #[must_use]
    pub fn pieces(self, text: &str) -> Pieces<'_> {
        Pieces { rest: text, split: self }
    }

    /// Bytes of the first piece of a text that starts with `first`.
    fn first(self, text: &str, first: char) -> usize {
        match self {
            Self::Llama3 | Self::Qwen2 => {
                let most_digits = if self == Self::Llama3 { 3 } else { 1 };
                contraction(text, fold)
                    .or_else(|| word(text, first))
                    .or_else(|| number(text, most_digits))
                    .or_else(|| punctuation(text, first))
                    .unwrap_or_else(|| line_end(text).unwrap_or_else(|| whitespace(text, first)))
            }
            Self::Gpt2 => contraction(text, |c| c)
                .or_else(|| spaced(text, first, is_letter))
                .or_else(|| spaced(text, first, is_number))
                .or_else(|| spaced(text, first, is_symbol))
                .unwrap_or_else(|| whitespace(text, first)),
        }
    }
}

/// The pieces of a text; see [`Split::pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'t> {
    rest: &'t str,
    split: Split,
}

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let text = self.rest;
        let len = self.split.first(text, text.chars().next()?);
        let (piece, rest) = text.split_at(len);
        self.rest = rest;
        Some(piece)
    }
}

fn is_letter(c: char) -> bool {
    use GeneralCategory::{LowercaseLetter, ModifierLetter, OtherLetter, TitlecaseLetter, UppercaseLetter};
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    matches!(
        get_general_category(c),
        LowercaseLetter | UppercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter
    )
}

/// `\p{N}`.
fn is_number(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { c.is_numeric() }
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

fn is_symbol(c: char) -> bool {
    !c.is_whitespace() && !is_letter(c) && !is_number(c)
}

/// Bytes at the front of `text` whose characters all satisfy `is_in`.
fn run(text: &str, is_in: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_in(c)).unwrap_or(text.len())
}

/// Simple case folding; the long s folds to s, no other character beyond ASCII folds into the letters of contractions.
fn fold(c: char) -> char {
    if c == '\u{17f}' { 's' } else { c.to_ascii_lowercase() }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, after folding.
fn contraction(text: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let mut chars = text.chars();
    if chars.next() != Some('\'') {
        return None;
    }
    let a = chars.next()?;
    match (fold(a), chars.next().map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => Some(1 + a.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(3),
        _ => None,
    }
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+`
fn word(text: &str, first: char) -> Option<usize> {
    let lead = if is_letter(first) || is_line_end(first) || is_number(first) { 0 } else { first.len_utf8() };
    let letters = run(&text[lead..], is_letter);
    (letters > 0).then_some(lead + letters)
}

/// `\p{N}{1,most}`
fn number(text: &str, most: usize) -> Option<usize> {
    let len = text.chars().take(most).take_while(|&c| is_number(c)).map(char::len_utf8).sum();
    (len > 0).then_some(len)
}

/// ` ?` and one or more characters that are `is_in`.
fn spaced(text: &str, first: char, is_in: impl Fn(char) -> bool) -> Option<usize> {
    let space = usize::from(first == ' ');
    let len = run(&text[space..], is_in);
    (len > 0).then_some(space + len)
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*`
fn punctuation(text: &str, first: char) -> Option<usize> {
    let end = spaced(text, first, is_symbol)?;
    Some(end + run(&text[end..], is_line_end))
}

/// `\s*[\r\n]+`: a run of whitespace up to its last line end.
fn line_end(text: &str) -> Option<usize> {
    let spaces = &text[..run(text, char::is_whitespace)];
    Some(spaces.rfind(is_line_end)? + 1)
}

/// `\s+(?!\S)|\s+` on text that starts with whitespace: a run leaves its last character to what follows, unless it
/// ends the text or is that one character.
fn whitespace(text: &str, first: char) -> usize {
    let len = run(text, char::is_whitespace);
    let last = text[..len].chars().next_back().map_or(0, char::len_utf8);
    if len == text.len() || len == last { len.max(first.len_utf8()) } else { len - last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alternative_and_their_order() {
        // Pieces as the regex gives them, separated by |.
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("Hello, world!", &["Hello", ",", " world", "!"]),
            ("I'll say it's 'RE", &["I", "'ll", " say", " it", "'s", " '", "RE"]),
            ("'RE'\u{17f}'x", &["'RE", "'\u{17f}", "'x"]),
            ("1 12345678", &["1", " ", "123", "456", "78"]),
            ("  two   and  ", &[" ", " two", "  ", " and", "  "]),
            ("a\n\n b", &["a", "\n\n", " b"]),
            ("a \n \n  b", &["a", " \n \n", " ", " b"]),
            ("end.\r\n\nx", &["end", ".\r\n\n", "x"]),
            ("tab\tx\t\ty", &["tab", "\tx", "\t", "\ty"]),
            (" $%^\n", &[" $%^\n"]),
            ("_under_ _x", &["_under", "_", " _", "x"]),
            ("e\u{301}x", &["e", "\u{301}x"]),
            ("\u{a0}n\u{2003}m \u{3000}i", &["\u{a0}n", "\u{2003}m", " ", "\u{3000}i"]),
            ("\u{2167}\u{663}1x", &["\u{2167}\u{663}1", "x"]),
            ("\u{939}\u{93f}\u{928}", &["\u{939}", "\u{93f}\u{928}"]),
            ("\u{24b6}\u{b2}", &["\u{24b6}", "\u{b2}"]),
        ];
        for (text, expected) in cases {
            assert!(Split::Llama3.pieces(text).eq(expected.iter().copied()), "{text:?}");
        }
    }

    #[test]
    fn what_the_others_cut_differently() {
        let cases: &[(Split, &str, &[&str])] = &[
            (Split::Qwen2, "a1234 56", &["a", "1", "2", "3", "4", " ", "5", "6"]),
            (Split::Qwen2, "I'LL\n\n b", &["I", "'LL", "\n\n", " b"]),
            (Split::Gpt2, "a1234 56", &["a", "1234", " 56"]),
            (Split::Gpt2, "I'll 'RE it's", &["I", "'ll", " '", "RE", " it", "'s"]),
            (Split::Gpt2, "end.\r\n\nx", &["end", ".", "\r\n", "\n", "x"]),
            (Split::Gpt2, "\tx  y \n", &["\t", "x", " ", " y", " \n"]),
            (Split::Gpt2, "a (b) _c", &["a", " (", "b", ")", " _", "c"]),
        ];
        for (split, text, expected) in cases {
            let pieces: Vec<&str> = split.pieces(text).collect();
            assert_eq!(pieces, *expected, "{split:?} {text:?}");
        }
    }
}
