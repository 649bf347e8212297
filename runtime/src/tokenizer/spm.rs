//! Merging by score, as vocabularies made by SentencePiece want it, in O(n log n) for any input.
//!
//! Rule: start with one symbol per character; as long as two neighbours together spell a token, join the two whose token
//! has the highest score (leftmost on ties). A character that is no token becomes the tokens of its bytes. Source: the
//! published SentencePiece encoder for byte-pair models.
//!
//! These vocabularies spell a space as U+2581, and in front of a text stands one more. Neither is written out: U+2581 in
//! the vocabulary and in the text is read as a space, and the space in front is position 0 of a text that does not hold
//! it.

use core::iter;

use super::alphabet::TokenBytes;
use super::tournament::{NONE, Tournament};
use super::vocab::Vocab;
use crate::error::LoadError;
use crate::gguf::{Array32, Gguf};

/// The scores of the tokens, all finite.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scores<'a> {
    scores: Array32<'a, f32>,
}

impl<'a> Scores<'a> {
    const KEY: &'static str = "tokenizer.ggml.scores";

    /// The file's scores, one for each of `tokens`.
    pub fn find(gguf: &Gguf<'a>, tokens: usize) -> Result<Self, LoadError> {
        let scores = gguf.f32s(Self::KEY)?;
        if scores.len() != tokens {
            let (found, expected) = (scores.len() as u64, tokens as u64);
            return Err(LoadError::KeyLength { key: Self::KEY.into(), found, expected });
        }
        if (0..tokens).any(|index| !scores.at(index).is_some_and(f32::is_finite)) {
            return Err(LoadError::NotFinite { what: Self::KEY.into() });
        }
        Ok(Self { scores })
    }

    /// Lower for a higher score, and never [`NONE`].
    fn rank(&self, id: u32) -> u32 {
        // Of a finite number the bits in this order are neither all zero nor all one. Adding zero makes -0 zero.
        let bits = (self.scores.at(id as usize).unwrap_or(f32::MIN) + 0.0).to_bits();
        let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        !rising
    }
}

/// A text and perhaps a space in front of it.
#[derive(Clone, Copy)]
struct Spaced<'t> {
    text: &'t [u8],
    /// 1 with the space in front, else 0.
    lead: usize,
}

impl<'t> Spaced<'t> {
    fn len(self) -> usize {
        self.lead + self.text.len()
    }

    fn span(self, start: usize, end: usize) -> impl Iterator<Item = u8> + Clone + use<'t> {
        let text = &self.text[start.saturating_sub(self.lead)..end - self.lead];
        iter::once(b' ').take(usize::from(start < self.lead)).chain(TokenBytes::spaced(text))
    }

    /// Where the character ends that starts at `start`.
    fn character_end(self, start: usize) -> usize {
        if start < self.lead {
            return self.lead;
        }
        start
            + match self.text[start - self.lead] {
                0..=0x7f => 1,
                0x80..=0xdf => 2,
                0xe0..=0xef => 3,
                _ => 4,
            }
    }
}

/// Merges `text`, with a space in front of it if `lead`, and emits its tokens in order.
///
/// `scratch` holds [`super::bpe::SCRATCH_WORDS_PER_BYTE`] words for each byte and for the space; `text` is UTF-8 and not
/// empty.
pub(super) fn merge(
    text: &[u8],
    lead: bool,
    vocab: &Vocab<'_>,
    scores: &Scores<'_>,
    scratch: &mut [u32],
    mut emit: impl FnMut(u32),
) {
    let text = Spaced { text, lead: usize::from(lead) };
    let n = text.len();
    let (next, rest) = scratch.split_at_mut(n);
    let (previous, rest) = rest.split_at_mut(n);
    let (rank, rest) = rest.split_at_mut(n);
    // A token's space may be three bytes of the text.
    let longest = vocab.longest_bytes().saturating_mul(3);
    let rank_of = |start: usize, end: usize| {
        let id = if end - start <= longest { vocab.find(text.span(start, end)) } else { None };
        id.map_or(NONE, |id| scores.rank(id))
    };
    rank.fill(NONE);
    let (mut start, mut before) = (0, NONE);
    while start < n {
        let end = text.character_end(start);
        next[start] = end as u32;
        previous[start] = before;
        if before != NONE {
            rank[before as usize] = rank_of(before as usize, end);
        }
        before = start as u32;
        start = end;
    }
    let mut best = Tournament::new(&mut rest[..n], rank);
    loop {
        let at = best.winner();
        if rank[at] == NONE {
            break;
        }
        let gone = next[at] as usize;
        let after = next[gone] as usize;
        next[at] = after as u32;
        rank[gone] = NONE;
        best.update(gone, rank);
        rank[at] = NONE;
        if after < n {
            previous[after] = at as u32;
            rank[at] = rank_of(at, next[after] as usize);
        }
        best.update(at, rank);
        if previous[at] != NONE {
            let before = previous[at] as usize;
            rank[before] = rank_of(before, after);
            best.update(before, rank);
        }
    }
    let mut at = 0;
    while at < n {
        let end = next[at] as usize;
        match vocab.find(text.span(at, end)) {
            Some(id) => emit(id),
            None => text.span(at, end).for_each(|byte| emit(vocab.of_byte(byte))),
        }
        at = end;
    }
}
