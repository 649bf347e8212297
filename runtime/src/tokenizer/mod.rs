//! Text to token ids and back: byte-level BPE over the tables of the model file itself.
//!
//! ```text
//! text -> special tokens cut out -> pieces (pretokenize) -> whole piece a token? else merge bytes (bpe) -> ids
//! ids  -> bytes (alphabet) -> text (decode), unfinished characters held back
//! ```
//! The strings stay in the file. What has to be computed (string offsets, two hash tables, the merge rules as ids) goes
//! into one slice of words that the caller provides, about 7 MB for a vocabulary of 128 256 tokens; encoding needs
//! scratch words in proportion to the text. Nothing is allocated.
//!
//! ```
//! # #[cfg(feature = "std")] {
//! use tern_runtime::gguf::Gguf;
//! use tern_runtime::map::MappedFile;
//! use tern_runtime::tokenizer::{Special, StreamDecoder, Tokenizer};
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");
//! let map = MappedFile::open(path).unwrap();
//! let gguf = Gguf::parse(map.bytes()).unwrap();
//! let plan = Tokenizer::plan(&gguf).unwrap();
//! let mut tables = vec![0; plan.table_words()];
//! let tokenizer = Tokenizer::build(&gguf, plan, &mut tables).unwrap();
//!
//! let (mut scratch, mut ids) = ([0; 5 * 32], [0; 16]);
//! let n = tokenizer.encode("Hello, world!", Special::Plain, &mut scratch, &mut ids).unwrap();
//! let (mut text, mut decoder) = (String::new(), StreamDecoder::new());
//! for &id in &ids[..n] {
//!     decoder.push(tokenizer.token_bytes(id), &mut text).unwrap();
//! }
//! decoder.finish(&mut text).unwrap();
//! assert_eq!(text, "Hello, world!");
//! # }
//! ```

mod alphabet;
mod bpe;
mod chat;
mod decode;
pub mod pretokenize;
mod repair;
mod slots;
mod tables;
mod vocab;

use core::fmt;
use core::ops::Range;

use heapless::Vec;

pub use self::alphabet::TokenBytes;
pub use self::chat::{ChatError, ChatForm, Role, Turn};
pub use self::decode::StreamDecoder;
pub use self::repair::{Repair, Repairs};
pub use self::tables::TokenizerPlan;
pub use self::vocab::TokenKind;

use self::bpe::Merges;
use self::tables::Tables;
use self::vocab::Vocab;
use crate::error::{LoadError, Name};
use crate::gguf::{Gguf, optional};

/// Most stop tokens of a model; published ones have one to three.
const MAX_STOPS: usize = 16;

/// Texts of control tokens that end an answer, whatever the file declares.
const STOP_TEXTS: [&str; 7] =
    ["<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eos|>"];

/// What `encode` does with text that spells a special token.
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

/// A model's tokenizer, over the model file and the tables built from it.
#[derive(Clone, Debug)]
pub struct Tokenizer<'a> {
    vocab: Vocab<'a>,
    merges: Merges<'a>,
    /// Control and user-defined tokens.
    specials: &'a [u32],
    /// Bytes that some special token starts with.
    special_starts: [u64; 4],
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    stops: Vec<u32, MAX_STOPS>,
    chat: Result<ChatForm, ChatError>,
    repairs: Repairs,
}

impl<'a> Tokenizer<'a> {
    /// Says how much table memory the file's tokenizer takes.
    ///
    /// # Errors
    /// [`LoadError`] if the file has no tokenizer, another one than byte-level BPE with the llama-bpe pre-tokenizer, or
    /// tables that do not belong together.
    pub fn plan(gguf: &Gguf<'a>) -> Result<TokenizerPlan, LoadError> {
        Tables::find(gguf)?.plan()
    }

    /// Builds the tables. Repairs of known defects are logged here, once.
    ///
    /// # Errors
    /// [`LoadError::TableMemory`] if `tables` is shorter than the plan says; otherwise what is wrong with the file.
    pub fn build(gguf: &Gguf<'a>, plan: TokenizerPlan, tables: &'a mut [u32]) -> Result<Self, LoadError> {
        let found = Tables::find(gguf)?;
        let given_words = tables.len();
        let too_small =
            |needed_words| LoadError::TableMemory { what: "the tokenizer", needed_words, given_words };
        // The plan may be of another file: what counts is this one.
        let needed = found.plan()?;
        if plan != needed || given_words < needed.table_words {
            return Err(too_small(needed.table_words));
        }
        let (vocab, rest) = tables[..needed.table_words].split_at_mut(needed.vocab_words);
        let (specials, merges) = rest.split_at_mut(needed.specials);
        let vocab = Vocab::build(found.tokens, found.types, vocab)?;
        let merges = Merges::build(found.merges, &vocab, merges)?;
        for (to, id) in specials.iter_mut().zip(found.specials()) {
            *to = id;
        }
        let mut this = Self {
            vocab,
            merges,
            specials,
            special_starts: [0; 4],
            bos: None,
            eos: None,
            add_bos: optional(gguf.bool("tokenizer.ggml.add_bos_token"))?.unwrap_or(false),
            stops: Vec::new(),
            chat: Err(ChatError::NoTemplate),
            repairs: Repairs::default(),
        };
        for &id in this.specials {
            if let Some(first) = this.vocab.spelling(id).next() {
                this.special_starts[usize::from(first / 64)] |= 1 << (first % 64);
            }
        }
        if found.is_pre_missing {
            this.repairs.add(Repair::MissingPretokenizer);
        }
        this.find_ends(gguf)?;
        this.find_chat_form(gguf)?;
        for repair in this.repairs.iter() {
            log::warn!("{repair}");
        }
        Ok(this)
    }

    /// An id that the file declares under `key`, if it does.
    fn declared(&self, gguf: &Gguf<'_>, key: &str) -> Result<Option<u32>, LoadError> {
        match optional(gguf.u32(key))? {
            Some(id) if id as usize >= self.vocab.len() => {
                let expected = "a token id below the number of tokens";
                Err(LoadError::KeyRange { key: key.into(), found: id.into(), expected })
            }
            id => Ok(id),
        }
    }

    fn find_ends(&mut self, gguf: &Gguf<'_>) -> Result<(), LoadError> {
        self.bos = self.declared(gguf, "tokenizer.ggml.bos_token_id")?;
        self.eos = self.declared(gguf, "tokenizer.ggml.eos_token_id")?;
        let end_of_turn = self.declared(gguf, "tokenizer.ggml.eot_token_id")?;
        for id in [self.eos, end_of_turn].into_iter().flatten() {
            self.add_stop(id)?;
        }
        for &id in self.specials {
            let text = self.vocab.text(id);
            if self.vocab.kind(id) != TokenKind::Control || !STOP_TEXTS.contains(&text) {
                continue;
            }
            if text == "<|eot_id|>" && !self.stops.contains(&id) {
                self.repairs.add(Repair::UndeclaredEndOfTurn);
            }
            self.add_stop(id)?;
        }
        Ok(())
    }

    fn add_stop(&mut self, id: u32) -> Result<(), LoadError> {
        if self.stops.contains(&id) {
            return Ok(());
        }
        let (found, most) = (MAX_STOPS as u64 + 1, MAX_STOPS as u64);
        self.stops.push(id).map_err(|_| LoadError::TooMany { what: "stop tokens", found, most })
    }

    fn find_chat_form(&mut self, gguf: &Gguf<'_>) -> Result<(), LoadError> {
        let Some(template) = optional(gguf.str("tokenizer.chat_template"))? else { return Ok(()) };
        let is_bitnet = gguf.architecture()?.starts_with("bitnet");
        let form = if is_bitnet && ChatForm::is_placeholder(template) {
            self.repairs.add(Repair::PlaceholderTemplate);
            Some(ChatForm::RolePrefixed)
        } else {
            ChatForm::recognise(template)
        };
        let unknown = ChatError::UnknownTemplate { head: Name::from(template) };
        self.chat = form.ok_or(unknown).and_then(|form| {
            let missing = form.markers().iter().find(|marker| self.special(marker).is_none());
            missing.map_or(Ok(form), |&marker| Err(ChatError::NoMarker { marker }))
        });
        Ok(())
    }

    /// Words of scratch that are enough to encode any text of that many bytes.
    #[must_use]
    pub const fn scratch_words(max_text_bytes: usize) -> usize {
        max_text_bytes.saturating_mul(bpe::SCRATCH_WORDS_PER_BYTE)
    }

    /// Encodes a text and returns the number of ids written to the front of `out`. BOS is not added; see
    /// [`Tokenizer::add_bos`].
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
        let mut sink = Sink { out, len: 0 };
        let mut rest = 0;
        while let Some((at, id)) = self.next_special(text, rest, special) {
            self.encode_plain(&text[rest..at.start], scratch, &mut sink, text.len())?;
            sink.push(id);
            rest = at.end;
        }
        self.encode_plain(&text[rest..], scratch, &mut sink, text.len())?;
        if sink.len > sink.out.len() {
            return Err(EncodeError::TooLong { needed_tokens: sink.len, capacity_tokens: sink.out.len() });
        }
        Ok(sink.len)
    }

    /// The first special token in `text` from byte `from` on, the longest where several start together.
    fn next_special(&self, text: &str, from: usize, special: Special<'_>) -> Option<(Range<usize>, u32)> {
        let plain: &[Range<usize>] = match special {
            Special::Plain => return None,
            Special::Parse => &[],
            Special::Outside(ranges) => ranges,
        };
        let is_start = |b: u8| self.special_starts[usize::from(b / 64)] >> (b % 64) & 1 == 1;
        let is_plain = |span: &Range<usize>| plain.iter().any(|r| r.start < span.end && span.start < r.end);
        let bytes = text.as_bytes();
        // A start inside a message is passed over before any token is compared: messages may be full of them.
        let starts = (from..bytes.len()).filter(|&at| is_start(bytes[at]) && !is_plain(&(at..at + 1)));
        starts.filter(|&at| text.is_char_boundary(at)).find_map(|at| {
            let found = self.specials.iter().filter_map(|&id| {
                let token = self.vocab.spelled(id);
                let span = at..at + token.len();
                let is_here = !token.is_empty() && bytes[at..].starts_with(token);
                (is_here && !is_plain(&span)).then_some((span, id))
            });
            found.max_by_key(|(span, _)| span.end)
        })
    }

    fn encode_plain(
        &self,
        text: &str,
        scratch: &mut [u32],
        sink: &mut Sink<'_>,
        whole_bytes: usize,
    ) -> Result<(), EncodeError> {
        for piece in pretokenize::pieces(text) {
            let piece = piece.as_bytes();
            let whole = if piece.len() <= self.vocab.longest_bytes() {
                self.vocab.find(piece.iter().copied())
            } else {
                None
            };
            if let Some(id) = whole {
                sink.push(id);
                continue;
            }
            let given_words = scratch.len();
            let Some(scratch) = scratch.get_mut(..Self::scratch_words(piece.len())) else {
                let needed_words = Self::scratch_words(whole_bytes);
                return Err(EncodeError::ScratchTooSmall { needed_words, given_words });
            };
            bpe::merge(piece, &self.vocab, &self.merges, scratch, |id| sink.push(id));
        }
        Ok(())
    }

    /// The bytes a token prints as: none for a control token or an id that is no token.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> TokenBytes<'a> {
        if self.vocab.is_silent(id) { TokenBytes::literal(&[]) } else { self.vocab.spelling(id) }
    }

    /// Most bytes of one token.
    #[must_use]
    pub fn longest_token_bytes(&self) -> usize {
        self.vocab.longest_bytes()
    }

    /// A token as the file spells it (a space is U+0120), for people to look at; empty for an id that is none.
    #[must_use]
    pub fn token_text(&self, id: u32) -> &'a str {
        self.vocab.text(id)
    }

    /// What a token is for.
    #[must_use]
    pub fn token_kind(&self, id: u32) -> TokenKind {
        self.vocab.kind(id)
    }

    /// Whether a token is a control token: it prints as nothing and plain text never contains it.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        self.token_kind(id) == TokenKind::Control
    }

    /// The special token spelled `text`, else the ordinary token that prints as exactly `text`.
    #[must_use]
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.special(text).or_else(|| self.vocab.find(text.bytes()))
    }

    fn special(&self, text: &str) -> Option<u32> {
        self.specials.iter().copied().find(|&id| self.vocab.text(id) == text && !text.is_empty())
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vocab.len()
    }

    /// Whether there are no tokens; never true of a tokenizer that was built.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vocab.len() == 0
    }

    /// The token that begins a text, if the file declares one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if the file declares one.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a prompt starts with [`Tokenizer::bos`], as the file says; false where it does not.
    #[must_use]
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// The tokens that end an answer: the declared ones, then every control token known to end one.
    #[must_use]
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stops
    }

    /// How the model was taught to see a conversation.
    ///
    /// # Errors
    /// [`ChatError`] if it was not, or in a form this build does not know.
    pub fn chat_form(&self) -> Result<ChatForm, ChatError> {
        self.chat
    }

    /// What was mended in this file.
    #[must_use]
    pub fn repairs(&self) -> Repairs {
        self.repairs
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
