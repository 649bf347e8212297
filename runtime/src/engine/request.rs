//! What is asked of the engine, what it answers, and why it may refuse.

use crate::kv_cache::NoPages;
use crate::sampler::{Candidate, Sampling, SamplingError};
use crate::stop::StopError;
use crate::trie::LabelError;

/// A piece of a prompt. Text never becomes a special token, whatever it says; those are given by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'r> {
    /// Text; adjoining texts are *not* joined before they are split into tokens, so give one piece for what belongs
    /// together.
    Text(&'r str),
    /// One token.
    Token(u32),
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Chosen by the caller; every event carries it. No two live requests may share one.
    pub key: u64,
    /// The prompt, begin-of-text token included if the model wants one.
    pub prompt: &'r [Piece<'r>],
    /// What to do with it.
    pub goal: Goal<'r>,
}

/// What a request is after.
#[derive(Clone, Copy, Debug)]
pub enum Goal<'r> {
    /// Text.
    Generate(Generate<'r>),
    /// One probability a label.
    Choose {
        /// The labels, at least two.
        labels: &'r [&'r str],
    },
    /// The logits at every position of the prompt.
    Logits,
}

/// How text is to be generated; greedily and as far as the context goes where nothing is said.
#[derive(Clone, Copy, Debug)]
pub struct Generate<'r> {
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` is what the context leaves.
    pub max_tokens: Option<usize>,
    /// Strings that end the text and are not part of it.
    pub stops: &'r [&'r str],
    /// Ignore the model's stop tokens, for benchmarks.
    pub ignore_stop_tokens: bool,
    /// Tell the log probability of every token, and of so many alternatives; at most
    /// [`MOST_LOGPROBS`](super::MOST_LOGPROBS).
    pub logprobs: Option<usize>,
    /// Try tokens ahead where that is likely to be quicker; the text is the same to the bit.
    pub speculate: bool,
}

impl Default for Generate<'_> {
    fn default() -> Self {
        Generate {
            sampling: Sampling::default(),
            max_tokens: None,
            stops: &[],
            ignore_stop_tokens: false,
            logprobs: None,
            speculate: true,
        }
    }
}

/// What happened in a step to the request with this key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'e> {
    /// How probable the token of the next [`Event::Token`] was, if the request asks for it: natural logarithms of
    /// probabilities among all tokens, before penalties, temperature, filters and constraints.
    Logprobs {
        /// Of the token.
        chosen: f32,
        /// The most probable ones, best first; scores are logarithms too.
        top: &'e [Candidate],
    },
    /// A token was generated; its text follows as [`Event::Text`], perhaps later, perhaps joined with others.
    Token {
        /// Its id.
        id: u32,
    },
    /// More text, whole UTF-8 characters.
    Text(&'e str),
    /// Logits `[vocab]` at `position`.
    Logits {
        /// Position in the prompt.
        position: usize,
        /// One a token of the vocabulary.
        logits: &'e [f32],
    },
    /// The decision: one probability a label, in the order of the labels, adding up to 1. A model whose logits are not
    /// numbers gives every label 0.
    Decided {
        /// Probabilities.
        probabilities: &'e [f32],
    },
    /// The request is over and its slot free.
    Finished {
        /// Why.
        reason: Finish,
        /// What it took.
        usage: Usage,
    },
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// The model wrote a stop token.
    StopToken,
    /// A stop string came up.
    StopString,
    /// `max_tokens` were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// A decision, logits or a constrained text are complete.
    Complete,
    /// Its caller had enough, see [`Engine::end`](super::Engine::end).
    Ended,
    /// No token may follow by the rules of its [`Constraint`](crate::constraint::Constraint), and it may not end here.
    Stuck,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, those that were not computed for it, because somebody before or beside it had the same beginning.
    pub cached_tokens: usize,
    /// Tokens generated; 0 for decisions.
    pub generated_tokens: usize,
    /// Label-trie nodes that the model was run on.
    pub label_rows: usize,
    /// Tokens that were tried ahead.
    pub drafted_tokens: usize,
    /// Those of them that came to be part of the text.
    pub accepted_tokens: usize,
}

/// Which part of a request a share of a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the prompt, or scoring labels.
    Prefill,
    /// Generating.
    Decode,
}

/// One request's part of a step's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The request.
    pub key: u64,
    /// Prefill or decode.
    pub phase: Phase,
    /// Tokens that went through the layers.
    pub rows: usize,
    /// Tokens chosen by them, one that ends the text included: fewer than rows where a draft was wrong.
    pub choices: usize,
    /// Multiply-accumulates spent on them in the layers: ternary weights, and keys and values that they look at.
    pub work: u64,
    /// Rows of these for which logits of the whole vocabulary were bounded or computed.
    pub head_rows: usize,
    /// Nodes of a label trie whose children were weighed.
    pub label_rows: usize,
}

/// How long the parts of a step took, in nanoseconds of the engine's clock; all 0 without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// All rows through the layers.
    pub layers_ns: u64,
    /// Logits of `head_rows`, and the choice of tokens by them.
    pub heads_ns: u64,
    /// Weighing `label_rows`.
    pub labels_ns: u64,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// Every slot is taken, or live requests hold the memory that this one needs; try again after a step.
    Busy {
        /// Pages short, if it is memory.
        pages: Option<NoPages>,
    },
    /// The prompt, or the prompt and the tokens asked for, do not fit the context.
    ContextOverflow {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// Tokens of the context.
        context_tokens: usize,
    },
    /// A text of the prompt is longer than memory was planned for.
    PromptTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        most_bytes: usize,
    },
    /// There is no token to start from.
    EmptyPrompt,
    /// `max_tokens` is 0.
    NothingToGenerate,
    /// A token id outside the vocabulary.
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The model declares no token that ends a label.
    NoEndToken,
    /// The label set cannot be scored.
    Labels(LabelError),
    /// A sampling setting is outside its range.
    Sampling(SamplingError),
    /// The stop strings cannot be used.
    Stops(StopError),
    /// More log probabilities than there is room for.
    TooManyLogprobs {
        /// How many were asked for.
        found: usize,
        /// The limit.
        most: usize,
    },
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Refusal::Busy { pages: None } => write!(f, "every slot is taken; try again later"),
            Refusal::Busy { pages: Some(NoPages { needed, free }) } => {
                write!(f, "{needed} pages of key/value cache needed, {free} free; try again later")
            }
            Refusal::ContextOverflow { prompt_tokens, max_tokens, context_tokens } => write!(
                f,
                "{prompt_tokens} prompt tokens and {max_tokens} more asked for do not fit the context of \
                 {context_tokens}; shorten the text, ask for less, or raise context_tokens"
            ),
            Refusal::PromptTooLong { bytes, most_bytes } => {
                write!(
                    f,
                    "a prompt text of {bytes} bytes; at most {most_bytes} are taken; shorten it, or raise context_tokens"
                )
            }
            Refusal::EmptyPrompt => write!(f, "the prompt is empty"),
            Refusal::NothingToGenerate => write!(f, "max_tokens is 0; ask for at least 1"),
            Refusal::UnknownToken { id, vocab } => {
                write!(f, "token {id} is not in the vocabulary of {vocab}")
            }
            Refusal::NoEndToken => {
                write!(
                    f,
                    "the model declares no stop token, so labels have no end; it can only generate text"
                )
            }
            Refusal::Labels(error) => write!(f, "{error}"),
            Refusal::Sampling(error) => write!(f, "{error}"),
            Refusal::Stops(error) => write!(f, "{error}"),
            Refusal::TooManyLogprobs { found, most } => {
                write!(f, "{found} log probabilities a token; at most {most} are told")
            }
        }
    }
}

impl core::error::Error for Refusal {}

impl From<LabelError> for Refusal {
    fn from(error: LabelError) -> Self {
        Refusal::Labels(error)
    }
}

impl From<SamplingError> for Refusal {
    fn from(error: SamplingError) -> Self {
        Refusal::Sampling(error)
    }
}

impl From<StopError> for Refusal {
    fn from(error: StopError) -> Self {
        Refusal::Stops(error)
    }
}
