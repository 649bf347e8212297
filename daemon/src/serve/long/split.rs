//! Where a long text may be cut, and the parts that are made of the pieces between.
//!
//! Pieces are sentences as Unicode knows them (a line end is a border too), of a sentence too long for a part words, and
//! of a word too long for one runs of characters. Pieces and parts are ranges that follow each other without a gap, so
//! that nothing of a text can be lost here. Who counts their tokens is not known here.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// A piece of a text that stays in one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes in the text.
    pub bytes: Range<usize>,
    /// How many tokens it is on its own.
    pub tokens: usize,
}

/// The sentences of `text`; of those with more than `long_bytes` the words, none of them with more than `most_bytes`.
pub fn sentences(text: &str, long_bytes: usize, most_bytes: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, sentence) in text.split_sentence_bound_indices() {
        let bytes = at..at + sentence.len();
        match sentence.len() > long_bytes {
            true => found.extend(words(text, bytes, most_bytes)),
            false => found.push(bytes),
        }
    }
    found
}

/// The words of `text[within]`, each with the space before it; of those with more than `most_bytes` runs of characters.
pub fn words(text: &str, within: Range<usize>, most_bytes: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = within.start;
    for (at, word) in text[within.clone()].split_word_bound_indices() {
        let end = within.start + at + word.len();
        if word.chars().all(char::is_whitespace) && end < within.end && end - start < most_bytes {
            continue;
        }
        characters(text, start..end, most_bytes, &mut found);
        start = end;
    }
    found
}

/// `within` in runs of at most `most_bytes`, or one character where that has more.
fn characters(text: &str, within: Range<usize>, most_bytes: usize, found: &mut Vec<Range<usize>>) {
    let mut start = within.start;
    while start < within.end {
        let most = (start + most_bytes.max(1)).min(within.end);
        let is_border = |at: &usize| text.is_char_boundary(*at);
        let end = (start + 1..=most).rev().find(is_border).or_else(|| (most..=within.end).find(is_border));
        let end = end.unwrap_or(within.end);
        found.push(start..end);
        start = end;
    }
}

/// Whether `piece` is an empty line, which ends a paragraph.
fn ends_paragraph(text: &str, piece: &Piece) -> bool {
    let piece = &text[piece.bytes.clone()];
    piece.contains(['\n', '\r', '\u{2029}']) && piece.chars().all(char::is_whitespace)
}

/// Pieces as parts of at most `room_tokens`, as ranges of their places: each part takes as many as fit, or ends with the
/// last paragraph in it if that fills half of the room. A piece with more than `room_tokens` is a part of its own.
pub fn pack(text: &str, pieces: &[Piece], room_tokens: usize) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start < pieces.len() {
        let mut tokens = 0;
        let mut end = start;
        let mut paragraph = None;
        while let Some(piece) = pieces.get(end).filter(|piece| tokens + piece.tokens <= room_tokens) {
            tokens += piece.tokens;
            end += 1;
            if tokens * 2 >= room_tokens && ends_paragraph(text, piece) {
                paragraph = Some(end);
            }
        }
        if end < pieces.len() {
            end = paragraph.unwrap_or(end).max(start + 1);
        }
        parts.push(start..end);
        start = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces with a token for every three bytes begun.
    fn pieces(text: &str, ranges: Vec<Range<usize>>) -> Vec<Piece> {
        assert_eq!(ranges.iter().map(|range| &text[range.clone()]).collect::<String>(), text);
        let piece = |bytes: Range<usize>| Piece { tokens: bytes.len().div_ceil(3), bytes };
        ranges.into_iter().map(piece).collect()
    }

    fn parts<'t>(text: &'t str, pieces: &[Piece], room: usize) -> Vec<&'t str> {
        let part = |part: Range<usize>| &text[pieces[part.start].bytes.start..pieces[part.end - 1].bytes.end];
        pack(text, pieces, room).into_iter().map(part).collect()
    }

    #[test]
    fn parts_end_with_paragraphs_then_sentences_then_words() {
        let text = "One two. Three four.\nFive six.\n\nSeven eight. Nine ten.";
        let cut = |room| parts(text, &pieces(text, sentences(text, 1000, 1000)), room);
        assert_eq!(cut(1000), [text]);
        // The first paragraph fills half of the room.
        assert_eq!(cut(16), ["One two. Three four.\nFive six.\n\n", "Seven eight. Nine ten."]);
        assert_eq!(cut(8), ["One two. Three four.\n", "Five six.\n\n", "Seven eight. Nine ten."]);
        // It does not: the part is filled up.
        let short = "A.\n\nSeven eight. Nine ten.";
        let parts_of_short = parts(short, &pieces(short, sentences(short, 1000, 1000)), 7);
        assert_eq!(parts_of_short, ["A.\n\nSeven eight. ", "Nine ten."]);
        let words = parts(text, &pieces(text, sentences(text, 3, 1000)), 3);
        assert_eq!(&words[..4], ["One two", ". ", "Three", " four."]);
    }

    #[test]
    fn log_lines_stay_whole() {
        let text = "kernel: usb 1-1 gone. Really\nsshd: refused e.g. 10.0.0.1\r\ncron: ok\n";
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let all = pieces(text, sentences(text, 1000, 1000));
        for line in parts(text, &all, 12) {
            assert!(lines.iter().any(|whole| whole.contains(line)), "{line:?}");
        }
    }

    #[test]
    fn a_giant_word_is_cut_between_characters() {
        let text = "\u{e4}".repeat(1000);
        let all = pieces(&text, sentences(&text, 100, 7));
        assert!(all.iter().all(|piece| piece.bytes.len() <= 7));
        assert!(parts(&text, &all, 10).iter().all(|part| part.len() <= 30));
        assert_eq!(words("\u{1f600}\u{1f600}", 0..8, 1).len(), 2);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_part_is_too_large(
            text in "(\\PC|[a-z]{1,9}|[ .!?\\n\\r\\t]|\\. |\u{301}|\u{4f60}|\u{2029}){0,200}",
            long_bytes in 0usize..80,
            most_bytes in 1usize..40,
            room in 1usize..60,
        ) {
            // `pieces` checks that they are the text.
            let all = pieces(&text, sentences(&text, long_bytes, most_bytes));
            let parts = parts(&text, &all, room);
            prop_assert_eq!(parts.concat(), text.as_str());
            for (part, places) in parts.iter().zip(pack(&text, &all, room)) {
                let tokens: usize = all[places.clone()].iter().map(|piece| piece.tokens).sum();
                prop_assert!(tokens <= room || places.len() == 1, "{tokens} tokens of {room} in {part:?}");
            }
            let longest = long_bytes.max(most_bytes).max(4);
            prop_assert!(all.iter().all(|piece| !piece.bytes.is_empty() && piece.bytes.len() <= longest));
        }
    }
}
