//! Byte-pair merging of one piece of text, in O(n log n) for any input.
//!
//! Rule: start with one token per byte; as long as some adjacent pair has a merge rule, replace the pair of lowest rank
//! (leftmost on ties) by the merged token.
//!
//! The pairs stand in a linked list; a tournament tree over their positions knows the best one. Each merge changes three
//! pairs, so it costs three walks of log2(n) steps: 60 000 times the same letter is as harmless as prose.

use super::alphabet::TokenBytes;
use super::slots::{self, Slots};
use super::tournament::{NONE, Tournament};
use super::vocab::Vocab;
use crate::error::{LoadError, Name};
use crate::gguf::StringArray;

/// Words of scratch per byte of a piece: token, next, previous, rank and tree node.
pub(super) const SCRATCH_WORDS_PER_BYTE: usize = 5;

/// The merge rules: pair of tokens to rank, rank to merged token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merges<'a> {
    /// `[left, right, merged]` by rank.
    rules: &'a [[u32; 3]],
    slots: Slots<'a>,
}

impl<'a> Merges<'a> {
    /// Words of table memory for `rules` rules.
    pub fn words(rules: usize) -> Option<usize> {
        rules.checked_mul(3)?.checked_add(slots::words(rules)?)
    }

    /// Builds the table in memory of exactly [`Merges::words`] from texts of the form `left right`.
    pub fn build(
        texts: StringArray<'_>,
        vocab: &Vocab<'_>,
        tables: &'a mut [u32],
    ) -> Result<Self, LoadError> {
        let (rules, slots) = tables.split_at_mut(texts.len() * 3);
        let (rules, _) = rules.as_chunks_mut::<3>();
        for ((rule, (_, text)), index) in rules.iter_mut().zip(texts.iter()).zip(0..) {
            *rule = parse(text, vocab).map_err(|reason| LoadError::Merge {
                index,
                rule: Name::new(text),
                reason,
            })?;
        }
        let rules = &*rules;
        let mut builder = slots::Builder::new(slots);
        for (rank, rule) in (0..).zip(rules) {
            // Of two rules for one pair the first, stronger one is used.
            builder.insert(hash(rule[0], rule[1]), rank, |other| rules[other as usize][..2] == rule[..2]);
        }
        Ok(Self { rules, slots: builder.finish() })
    }

    /// The rank of the rule for a pair, `u32::MAX` without one.
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.slots
            .find(hash(left, right), |rank| self.rules[rank as usize][..2] == [left, right])
            .unwrap_or(NONE)
    }
}

fn parse(text: &[u8], vocab: &Vocab<'_>) -> Result<[u32; 3], &'static str> {
    let space = text.iter().position(|&b| b == b' ').ok_or("has no space between its two tokens")?;
    let (left, right) = (TokenBytes::spelled(&text[..space]), TokenBytes::spelled(&text[space + 1..]));
    let find = |bytes: TokenBytes<'_>| vocab.find(bytes).ok_or("names a token that is not in the vocabulary");
    let merged = vocab.find(left.clone().chain(right.clone()));
    Ok([find(left)?, find(right)?, merged.ok_or("makes a token that is not in the vocabulary")?])
}

fn hash(left: u32, right: u32) -> u32 {
    left.wrapping_mul(0x9e37_79b1) ^ right.wrapping_mul(0x85eb_ca77).rotate_left(16)
}

/// Merges `piece` and emits its tokens in order.
///
/// `scratch` holds [`SCRATCH_WORDS_PER_BYTE`] words for each byte; `piece` is UTF-8 and not empty.
pub(super) fn merge(
    piece: &[u8],
    vocab: &Vocab<'_>,
    merges: &Merges<'_>,
    scratch: &mut [u32],
    mut emit: impl FnMut(u32),
) {
    let n = piece.len();
    let (token, rest) = scratch.split_at_mut(n);
    let (next, rest) = rest.split_at_mut(n);
    let (previous, rest) = rest.split_at_mut(n);
    let (rank, rest) = rest.split_at_mut(n);
    for i in 0..n {
        token[i] = vocab.of_byte(piece[i]);
        next[i] = if i + 1 < n { i as u32 + 1 } else { NONE };
        previous[i] = (i as u32).wrapping_sub(1); // NONE for the first
    }
    for i in 0..n {
        rank[i] = if i + 1 < n { merges.rank(token[i], token[i + 1]) } else { NONE };
    }
    let mut best = Tournament::new(&mut rest[..n], rank);
    loop {
        let at = best.winner();
        let rule = rank[at];
        if rule == NONE {
            break;
        }
        let gone = next[at] as usize;
        let after = next[gone];
        token[at] = merges.rules[rule as usize][2];
        next[at] = after;
        rank[gone] = NONE;
        best.update(gone, rank);
        rank[at] = NONE;
        if after != NONE {
            previous[after as usize] = at as u32;
            rank[at] = merges.rank(token[at], token[after as usize]);
        }
        best.update(at, rank);
        if previous[at] != NONE {
            let before = previous[at] as usize;
            rank[before] = merges.rank(token[before], token[at]);
            best.update(before, rank);
        }
    }
    let mut at = 0;
    while at != NONE {
        emit(token[at as usize]);
        at = next[at as usize];
    }
}
