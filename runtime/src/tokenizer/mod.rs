//! Text to token ids and back, over the tables of the model file itself: byte-level BPE (`tokenizer.ggml.model` is
//! `gpt2`) and SentencePiece (`llama`). `docs/tokenizers.md` says what is read and what is refused.
//!
//! ```text
//! gpt2:  text -> special tokens cut out -> pieces (pretokenize) -> bytes merged by rank (bpe) -> ids
//! llama: text -> special tokens cut out -> space in front -> characters merged by score (spm) -> ids
//! ids -> bytes (alphabet) -> text (decode), unfinished characters held back
//! ```
//! The strings stay in the file. What has to be computed (string offsets, two hash tables, the merge rules as ids) goes
//! into one slice of words that the caller provides, about 7 MB for a vocabulary of 128 256 tokens; encoding needs
//! scratch words in proportion to the text. Nothing is allocated.
//!
//! ```
//! # #[cfg(feature = "std")] {
//! use tern_runtime::gguf::Gguf;
//! use tern_runtime::map::MappedFile;
//! use tern_runtime::tokenizer::{Special, Tokenizer};
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");
//! let map = MappedFile::open(path).unwrap();
//! let gguf = Gguf::parse(map.bytes()).unwrap();
//! let plan = Tokenizer::plan(&gguf).unwrap();
//! let mut tables = vec![0; plan.table_words()];
//! let tokenizer = Tokenizer::build(&gguf, plan, &mut tables).unwrap();
//!
//! let (mut scratch, mut ids) = ([0; Tokenizer::scratch_words(32)], [0; 16]);
//! let n = tokenizer.encode("Hello, world!", Special::Plain, &mut scratch, &mut ids).unwrap();
//! let (mut text, mut decoder) = (String::new(), tokenizer.decoder());
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
mod encode;
mod ends;
mod family;
pub mod pretokenize;
mod repair;
mod slots;
mod spm;
mod tables;
mod tournament;
mod vocab;

use heapless::Vec;

pub use self::alphabet::TokenBytes;
pub use self::decode::StreamDecoder;
pub use self::encode::{EncodeError, Special};
pub use self::repair::{Repair, Repairs};
pub use self::tables::TokenizerPlan;
pub use self::vocab::TokenKind;

pub(crate) use self::family::KnownNames;

use self::bpe::Merges;
use self::encode::Specials;
use self::ends::MAX_STOPS;
use self::pretokenize::Split;
use self::spm::Scores;
use self::tables::{Found, Tables};
use self::vocab::Vocab;
use crate::error::LoadError;
use crate::gguf::{Gguf, optional};

/// How pieces of text are joined to tokens.
#[derive(Clone, Debug)]
enum Method<'a> {
    /// Byte-level BPE.
    Bpe { merges: Merges<'a>, split: Split, whole_pieces: bool },
    /// SentencePiece.
    Spm { scores: Scores<'a>, leads: bool },
}

/// A model's tokenizer, over the model file and the tables built from it.
#[derive(Clone, Debug)]
pub struct Tokenizer<'a> {
    vocab: Vocab<'a>,
    method: Method<'a>,
    /// Control and user-defined tokens.
    specials: Specials<'a>,
    nfc: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    stops: Vec<u32, MAX_STOPS>,
    end_of_turn: Option<u32>,
    template: Option<&'a str>,
    repairs: Repairs,
}

impl<'a> Tokenizer<'a> {
    /// Says how much table memory the file's tokenizer takes.
    ///
    /// # Errors
    /// [`LoadError`] if the file has no tokenizer, another one than byte-level BPE with a known pre-tokenizer and
    /// SentencePiece, or tables that do not belong together.
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
        let vocab = Vocab::build(found.tokens, found.types, found.spelling(), vocab)?;
        let specials = Specials::build(found.specials(), &vocab, specials);
        let mut repairs = Repairs::default();
        let (method, adds_bos, nfc) = match found.method {
            Found::Bpe { merges: texts, family, is_pre_missing } => {
                if is_pre_missing {
                    repairs.add(Repair::MissingPretokenizer);
                }
                let merges = Merges::build(texts, &vocab, merges)?;
                let method = Method::Bpe { merges, split: family.split, whole_pieces: family.whole_pieces };
                (method, family.adds_bos, family.nfc)
            }
            Found::Spm { scores } => {
                let leads = optional(gguf.bool("tokenizer.ggml.add_space_prefix"))?.unwrap_or(true);
                (Method::Spm { scores, leads }, true, false)
            }
        };
        let mut this = Self {
            vocab,
            method,
            specials,
            nfc,
            bos: None,
            eos: None,
            add_bos: optional(gguf.bool("tokenizer.ggml.add_bos_token"))?.unwrap_or(adds_bos),
            stops: Vec::new(),
            end_of_turn: None,
            template: optional(gguf.str("tokenizer.chat_template"))?,
            repairs,
        };
        if let Some(template) = this.template
            && let Some(trained) = chat::trained(gguf.architecture()?, template)
        {
            this.template = Some(trained);
            this.repairs.add(Repair::PlaceholderTemplate);
        }
        this.find_ends(gguf)?;
        for repair in this.repairs.iter() {
            log::warn!("{repair}");
        }
        Ok(this)
    }

    /// Whether texts are to be in normalisation form C, as they were when the model was trained: bring them there before
    /// they are encoded. Here they are taken as they are.
    #[must_use]
    pub fn wants_nfc(&self) -> bool {
        self.nfc
    }

    /// A decoder for the tokens of a text that stands at the beginning or behind a special token; for text that goes on
    /// where other text ended it is [`StreamDecoder::new`].
    #[must_use]
    pub fn decoder(&self) -> StreamDecoder {
        if self.leads_with_space() { StreamDecoder::dropping_space() } else { StreamDecoder::new() }
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
        self.specials.ids().iter().copied().find(|&id| self.vocab.text(id) == text && !text.is_empty())
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

    /// The token that ends a turn: the one the file declares, else the one that its template writes, as far as the names
    /// of published models tell, else what ends a text.
    #[must_use]
    pub fn end_of_turn(&self) -> Option<u32> {
        self.end_of_turn
    }

    /// The program that lays out a conversation as the model was taught to see it: Jinja, from the file, or the one that
    /// the model was trained on where the file's is known to be wrong. `None` of a model that was not taught to chat.
    #[must_use]
    pub fn chat_template(&self) -> Option<&'a str> {
        self.template
    }

    /// What was mended in this file.
    #[must_use]
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }
}
