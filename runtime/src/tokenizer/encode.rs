//! Text to token ids.

use core::fmt;
use core::ops::Range;

use super::vocab::{TokenKind, Vocab};
use super::{Method, Tokenizer, bpe, spm};

/// What `encode` does with text that spells a special token, that is a control token or a user-defined one.
///
/// User-defined tokens that are no markers (runs of spaces, single digits) are text like any other and found everywhere.
/// A marker has punctuation at both ends and a letter or digit between them: `<think>`, `[INST]`.
#[derive(Clone, Copy, Debug)]
pub enum Special<'r> {
    /// Special tokens are found anywhere. Only for text that no user wrote.
    Parse,
    /// Text is text: `<|eot_id|>` becomes the tokens of its ten characters.
    Plain,
    /// Special tokens are found, but not where one would touch one of these byte ranges: a template with messages in it.
    Outside(&'r [Range<usize>]),
}

/// Why a text was not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The text has more tokens than the output holds.
    TooLong {
        /// Tokens of the whole text.
        needed_tokens: usize,
        /// Tokens the output holds.
        capacity_tokens: usize,
    },
    /// The scratch memory is too small for the longest piece of the text.
    ScratchTooSmall {
        /// Words that are enough for this text.
        needed_words: usize,
        /// Words given.
        given_words: usize,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { needed_tokens, capacity_tokens } => {
                write!(
                    f,
                    "the text has {needed_tokens} tokens, there is room for {capacity_tokens}; shorten it"
                )
            }
            Self::ScratchTooSmall { needed_words, given_words } => write!(
                f,
                "the text needs up to {needed_words} words of scratch memory, {given_words} were given; shorten it or \
                 raise the limit"
            ),
        }
    }
}

impl core::error::Error for EncodeError {}

/// The control and user-defined tokens, by the bytes they start with.
#[derive(Clone, Debug)]
pub(super) struct Specials<'a> {
    /// Those that are text come first.
    ids: &'a [u32],
    texts: usize,
    starts: Starts,
    text_starts: Starts,
}

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Starts([u64; 4]);

impl Starts {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
    }

    fn has(self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }
}

impl<'a> Specials<'a> {
    /// Puts `found` in order, into memory of as many words.
    pub fn build(found: impl Iterator<Item = u32> + Clone, vocab: &Vocab<'_>, ids: &'a mut [u32]) -> Self {
        let texts = found.clone().filter(|id| is_text(vocab, *id)).count();
        let ordered =
            found.clone().filter(|id| is_text(vocab, *id)).chain(found.filter(|id| !is_text(vocab, *id)));
        for (to, id) in ids.iter_mut().zip(ordered) {
            *to = id;
        }
        let (mut starts, mut text_starts) = (Starts::default(), Starts::default());
        for (index, &id) in ids.iter().enumerate() {
            if let Some(&first) = vocab.spelled(id).first() {
                starts.add(first);
                if index < texts {
                    text_starts.add(first);
                }
            }
        }
        Self { ids, texts, starts, text_starts }
    }

    /// All of them.
    pub fn ids(&self) -> &'a [u32] {
        self.ids
    }
}

/// Whether a special token is text like any other.
fn is_text(vocab: &Vocab<'_>, id: u32) -> bool {
    let text = vocab.spelled(id);
    let is_marker = match text {
        [first, inner @ .., last] => {
            first.is_ascii_punctuation()
                && last.is_ascii_punctuation()
                && inner.iter().any(|b| b.is_ascii_alphanumeric() || !b.is_ascii())
        }
        _ => false,
    };
    vocab.kind(id) == TokenKind::UserDefined && !is_marker
}

impl Tokenizer<'_> {
    /// Words of scratch that are enough to encode any text of that many bytes.
    #[must_use]
    pub const fn scratch_words(max_text_bytes: usize) -> usize {
        // One more than the text: the space that some tokenizers put in front.
        max_text_bytes.saturating_add(1).saturating_mul(bpe::SCRATCH_WORDS_PER_BYTE)
    }

    /// Encodes a text that stands at the beginning or behind a special token, and returns the number of ids written to
    /// the front of `out`. BOS is not added; see [`Tokenizer::add_bos`].
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] with the exact number of tokens, [`EncodeError::ScratchTooSmall`] with words that are
    /// enough. `out` then holds the beginning of the text.
    pub fn encode(
        &self,
        text: &str,
        special: Special<'_>,
        scratch: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, EncodeError> {
        self.encode_after(false, text, special, scratch, out)
    }

    /// [`Tokenizer::encode`] of a text that goes on where other text ended, if `after_text`: no space is put in front.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_after(
        &self,
        after_text: bool,
        text: &str,
        special: Special<'_>,
        scratch: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, EncodeError> {
        let mut sink = Sink { out, len: 0 };
        let (mut rest, mut lead) = (0, self.leads_with_space() && !after_text);
        while let Some((at, id)) = self.next_special(text, rest, special) {
            self.encode_plain(&text[rest..at.start], lead, scratch, &mut sink, text.len())?;
            sink.push(id);
            rest = at.end;
            lead = self.leads_with_space();
        }
        self.encode_plain(&text[rest..], lead, scratch, &mut sink, text.len())?;
        if sink.len > sink.out.len() {
            return Err(EncodeError::TooLong { needed_tokens: sink.len, capacity_tokens: sink.out.len() });
        }
        Ok(sink.len)
    }

    /// Whether a space is put in front of a text, which the text's tokens then begin with.
    #[must_use]
    pub fn leads_with_space(&self) -> bool {
        matches!(self.method, Method::Spm { leads: true, .. })
    }

    /// The first special token in `text` from byte `from` on, the longest where several start together.
    fn next_special(&self, text: &str, from: usize, special: Special<'_>) -> Option<(Range<usize>, u32)> {
        let plain: &[Range<usize>] = match special {
            Special::Plain | Special::Parse => &[],
            Special::Outside(ranges) => ranges,
        };
        let Specials { ids, texts, starts, text_starts } = self.specials;
        let all_plain = matches!(special, Special::Plain);
        if all_plain && texts == 0 {
            return None;
        }
        let is_plain =
            |span: &Range<usize>| all_plain || plain.iter().any(|r| r.start < span.end && span.start < r.end);
        let bytes = text.as_bytes();
        // A start inside a message is passed over before any token is compared: messages may be full of them.
        let is_start = |at: usize| {
            let byte = bytes[at];
            text_starts.has(byte) || (starts.has(byte) && !is_plain(&(at..at + 1)))
        };
        let mut candidates = (from..bytes.len()).filter(|&at| is_start(at) && text.is_char_boundary(at));
        candidates.find_map(|at| {
            let found = ids.iter().enumerate().filter_map(|(index, &id)| {
                let token = self.vocab.spelled(id);
                let span = at..at + token.len();
                let is_here = !token.is_empty() && bytes[at..].starts_with(token);
                (is_here && (index < texts || !is_plain(&span))).then_some((span, id))
            });
            found.max_by_key(|(span, _)| span.end)
        })
    }

    fn encode_plain(
        &self,
        text: &str,
        lead: bool,
        scratch: &mut [u32],
        sink: &mut Sink<'_>,
        whole_bytes: usize,
    ) -> Result<(), EncodeError> {
        let given_words = scratch.len();
        let needed_words = Self::scratch_words(whole_bytes);
        let too_small = EncodeError::ScratchTooSmall { needed_words, given_words };
        match &self.method {
            Method::Bpe { merges, split, whole_pieces } => {
                let whole_pieces = *whole_pieces;
                for piece in split.pieces(text) {
                    let piece = piece.as_bytes();
                    let is_short = whole_pieces && piece.len() <= self.vocab.longest_bytes();
                    if let Some(id) = is_short.then(|| self.vocab.find(piece.iter().copied())).flatten() {
                        sink.push(id);
                        continue;
                    }
                    let words = piece.len().saturating_mul(bpe::SCRATCH_WORDS_PER_BYTE);
                    let scratch = scratch.get_mut(..words).ok_or(too_small)?;
                    bpe::merge(piece, &self.vocab, merges, scratch, |id| sink.push(id));
                }
                Ok(())
            }
            Method::Spm { .. } if text.is_empty() => Ok(()),
            Method::Spm { scores, .. } => {
                let words = (text.len() + usize::from(lead)).saturating_mul(bpe::SCRATCH_WORDS_PER_BYTE);
                let scratch = scratch.get_mut(..words).ok_or(too_small)?;
                spm::merge(text.as_bytes(), lead, &self.vocab, scores, scratch, |id| sink.push(id));
                Ok(())
            }
        }
    }
}

/// Output that counts on when it is full, so that the error can say how much was needed.
struct Sink<'o> {
    out: &'o mut [u32],
    len: usize,
}

impl Sink<'_> {
    fn push(&mut self, id: u32) {
        if let Some(to) = self.out.get_mut(self.len) {
            *to = id;
        }
        self.len += 1;
    }
}
