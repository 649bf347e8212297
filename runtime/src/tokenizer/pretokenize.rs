//! The llama-bpe pre-tokenizer: cuts text into the pieces that are merged separately.
//!
//! It gives the same pieces as this pattern of the Llama 3 tokenizer, without a regex engine:
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//! The alternatives are tried in order at each position, and one of them always matches. `\p{L}` is general category L:
//! `char::is_alphabetic` also has letter numbers and some marks, which would cut differently.

use unicode_general_category::{GeneralCategory, get_general_category};

/// The pieces of a text, in order and without gaps.
#[derive(Clone, Debug)]
pub struct Pieces<'t> {
    rest: &'t str,
}

/// Splits a text into pieces.
#[must_use]
pub fn pieces(text: &str) -> Pieces<'_> {
    Pieces { rest: text }
}

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let text = self.rest;
        let first = text.chars().next()?;
        let len = contraction(text)
            .or_else(|| word(text, first))
            .or_else(|| number(text))
            .or_else(|| punctuation(text, first))
            .unwrap_or_else(|| whitespace(text, first));
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

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
fn contraction(text: &str) -> Option<usize> {
    // Simple case folding; the long s folds to s, no other non-ASCII character folds into these letters.
    let fold = |c: char| if c == '\u{17f}' { 's' } else { c.to_ascii_lowercase() };
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

/// `\p{N}{1,3}`
fn number(text: &str) -> Option<usize> {
    let len = text.chars().take(3).take_while(|&c| is_number(c)).map(char::len_utf8).sum();
    (len > 0).then_some(len)
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*`
fn punctuation(text: &str, first: char) -> Option<usize> {
    let space = usize::from(first == ' ');
    let symbols = run(&text[space..], is_symbol);
    let end = space + symbols;
    (symbols > 0).then(|| end + run(&text[end..], is_line_end))
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` on text that starts with whitespace.
///
/// A run goes up to its last line end; without one it leaves its last character to what follows, unless it ends the
/// text or is that one character.
fn whitespace(text: &str, first: char) -> usize {
    let len = run(text, char::is_whitespace);
    let spaces = &text[..len];
    if let Some(line_end) = spaces.rfind(is_line_end) {
        return line_end + 1;
    }
    let last = spaces.chars().next_back().map_or(0, char::len_utf8);
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
            assert!(pieces(text).eq(expected.iter().copied()), "{text:?}");
        }
    }
}
