//! Whether a model understands plain text at all, or its weights are read wrongly: the check of `tern doctor MODEL`.
//!
//! A file whose blocks, scales or vocabulary are taken for something else loads well and answers noise. So the model
//! reads a built-in English text and the same tokens shuffled, at most [`MOST_TOKENS`] of each, and three numbers are
//! compared, each a mean of `-ln p` of the next token:
//!
//! - of the text,
//! - of the shuffled tokens: what knowing the words without their order is worth,
//! - `ln(vocabulary)`: what guessing is worth.
//!
//! None depends on how large or good a model is. Measured with the bundled one, 5 million weights that know log lines and
//! package descriptions: 4.8 nats, 7.9 and 9.0. Read in blocks of 64 instead of 128: 10.8, 10.8 and 9.0; with its vocabulary
//! shuffled: 11.6 and 11.8. Larger models are further from noise.
//!
//! It does not see everything. One damaged matrix among many leaves text readable, and a scale that a norm behind it
//! divides away changes nothing in any text.

use serde::Serialize;
use tern_runtime::engine::{Engine, Event, Goal, Piece, Refusal, Request};
use tern_runtime::kv_cache::PAGE_CELLS;
use tern_runtime::tokenizer::{EncodeError, Special, Tokenizer};

use crate::random::Random;

/// Tokens of the text that are read, and again shuffled.
pub const MOST_TOKENS: usize = 128;

/// Fewer say nothing.
const LEAST_TOKENS: usize = 24;

/// Nats a token by which a text must be likelier than its tokens shuffled.
const LEAST_BY_ORDER: f64 = 1.0;

/// Nats a token by which a text must be likelier than guessing.
const LEAST_BY_WORDS: f64 = 1.5;

/// Plain sentences of the kind that Tern is given.
const TEXT: &str = "The network driver could not reach the device because the link was down. The operator checked the \
    cable, replaced the power supply and started the service again. After the restart the controller reported no error and \
    the temperature of the motor was below the limit. This tool reads a list of files and writes a report for each of them. \
    If the file does not exist, it is created with the default settings. The pump must be switched off before the filter is \
    cleaned, and it may only be started again when the valve is closed. The package contains the library and the \
    documentation that is needed to build programs with it.";

/// How a model reads the text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sanity {
    /// Tokens of the text that were predicted.
    pub tokens: usize,
    /// Bytes of text they stand for.
    pub bytes: usize,
    /// Perplexity of the text: among how many equally likely tokens each was to be found.
    pub perplexity: f64,
    /// Perplexity of the same tokens shuffled.
    pub shuffled_perplexity: f64,
    /// Tokens of the vocabulary: the perplexity of guessing.
    pub vocabulary: usize,
    /// Whether it is likely enough that the model reads text.
    pub sound: bool,
}

/// Why nothing can be said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SanityError {
    /// The tokenizer makes too few tokens of the text.
    TooFewTokens {
        /// How many it makes.
        tokens: usize,
    },
    /// The engine refuses the text.
    Refused(Refusal),
    /// The tokenizer refuses it.
    Encode(EncodeError),
}

impl core::fmt::Display for SanityError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooFewTokens { tokens } => write!(
                f,
                "a text of {} bytes becomes {tokens} tokens, too few to judge the model by; its vocabulary may belong to \
                 another model",
                TEXT.len()
            ),
            Self::Refused(refusal) => {
                write!(f, "the engine cannot read a text of {MOST_TOKENS} tokens: {refusal}")
            }
            Self::Encode(error) => write!(f, "the text cannot be made tokens: {error}"),
        }
    }
}

impl core::error::Error for SanityError {}

/// Tokens of context that [`examine`] needs of an engine.
pub const CONTEXT_TOKENS: usize = MOST_TOKENS + 1;

/// Tokens of key/value cache that it needs: whole pages for both texts.
pub const CACHE_TOKENS: usize = 2 * CONTEXT_TOKENS.next_multiple_of(PAGE_CELLS);

/// Lets the model read the text in order and shuffled. The engine has room for two requests of [`CONTEXT_TOKENS`], or
/// of the model's context if that is less, and a cache of [`CACHE_TOKENS`].
///
/// # Errors
/// If the text cannot be read; what the model makes of it is never an error.
pub fn examine(engine: &mut Engine<'_>, progress: impl Fn(u64)) -> Result<Sanity, SanityError> {
    let mut ids = tokens(engine.tokenizer())?;
    let first = engine.tokenizer().bos();
    let room = engine.options().context_tokens - usize::from(first.is_some());
    ids.truncate(MOST_TOKENS.min(room));
    if ids.len() < LEAST_TOKENS {
        return Err(SanityError::TooFewTokens { tokens: ids.len() });
    }
    let bytes = ids.iter().map(|id| engine.tokenizer().token_bytes(*id).count()).sum();
    let mut shuffled = ids.clone();
    let mut random = Random::new(1);
    for last in (1..shuffled.len()).rev() {
        shuffled.swap(last, random.below(last as u32 + 1) as usize);
    }
    let texts = [ids, shuffled].map(|ids| first.into_iter().chain(ids).collect::<Vec<u32>>());
    for (key, text) in texts.iter().enumerate() {
        let pieces: Vec<Piece<'_>> = text.iter().map(|id| Piece::Token(*id)).collect();
        let request = Request { key: key as u64, prompt: &pieces, goal: Goal::Logits };
        engine.submit(&request).map_err(SanityError::Refused)?;
    }
    let (mut nats, mut counts) = ([0.0; 2], [0usize; 2]);
    while engine.live() > 0 {
        engine.step(|key, event| {
            let Event::Logits { position, logits } = event else { return };
            let text = key as usize;
            progress(1);
            if let Some(next) = texts[text].get(position + 1) {
                nats[text] += surprise(logits, *next);
                counts[text] += 1;
            }
        });
    }
    let [text, shuffled] = [0, 1].map(|text| nats[text] / counts[text].max(1) as f64);
    let vocabulary = engine.model().config.vocab;
    Ok(Sanity {
        tokens: counts[0],
        bytes,
        perplexity: text.exp(),
        shuffled_perplexity: shuffled.exp(),
        vocabulary,
        sound: is_sound(text, shuffled, vocabulary),
    })
}

/// Whether means of so many nats are those of a model that reads; no numbers are not.
fn is_sound(text: f64, shuffled: f64, vocabulary: usize) -> bool {
    shuffled - text >= LEAST_BY_ORDER && (vocabulary as f64).ln() - text >= LEAST_BY_WORDS
}

/// `-ln p` of token `id`; infinite or no number if `logits` are.
fn surprise(logits: &[f32], id: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    sum.ln() + f64::from(largest) - f64::from(logits[id as usize])
}

/// The tokens of the text.
fn tokens(tokenizer: &Tokenizer<'_>) -> Result<Vec<u32>, SanityError> {
    // No tokenizer makes more tokens of a text than it has bytes.
    let mut ids = vec![0; TEXT.len()];
    let mut scratch = vec![0; Tokenizer::scratch_words(TEXT.len())];
    let count = tokenizer.encode(TEXT, Special::Plain, &mut scratch, &mut ids);
    ids.truncate(count.map_err(SanityError::Encode)?);
    Ok(ids)
}

impl Sanity {
    /// The finding in one line.
    pub fn line(&self) -> String {
        let Sanity { tokens, perplexity, shuffled_perplexity, vocabulary, sound, .. } = self;
        let verdict = if *sound { "it reads" } else { "NOISE" };
        format!(
            "{verdict}: perplexity {} on {tokens} tokens of English, {} on the same shuffled, {vocabulary} by guessing",
            count(*perplexity),
            count(*shuffled_perplexity)
        )
    }

    /// What is wrong and what to try, if the model does not read; `hint` is what may help with this very file.
    pub fn complaint(&self, hint: &str) -> Option<String> {
        let Sanity { tokens, perplexity, shuffled_perplexity, vocabulary, sound, .. } = self;
        (!sound).then(|| {
            format!(
                "what the model says is noise: on {tokens} tokens of plain English its perplexity is {}, on the same \
                 tokens shuffled {}, and guessing among all {vocabulary} tokens would be {vocabulary}; a model that reads is \
                 at least {:.1} times better in order than shuffled and {:.1} times better than guessing. Its weights, scales \
                 or vocabulary are not what this build takes them for, or it was never trained: {hint}",
                count(*perplexity),
                count(*shuffled_perplexity),
                LEAST_BY_ORDER.exp(),
                LEAST_BY_WORDS.exp()
            )
        })
    }
}

/// A perplexity.
fn count(value: f64) -> String {
    if value.is_finite() { crate::figures::three_digits(value) } else { "no number".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_must_beat_shuffling_and_guessing() {
        // An earlier bundled model, as it is and damaged in several ways: 4096 tokens, 8.3 nats by guessing.
        assert!(is_sound(5.08, 7.66, 4096));
        for (text, shuffled) in [(7.91, 8.32), (11.09, 11.09), (7.88, 8.65), (9.26, 9.43), (6.98, 7.03)] {
            assert!(!is_sound(text, shuffled, 4096), "{text} {shuffled}");
        }
        // One that knows words and no order, and one that knows order where words are nothing.
        assert!(!is_sound(3.0, 3.5, 128_256) && !is_sound(11.0, 13.0, 128_256));
        assert!(!is_sound(f64::NAN, 8.0, 4096) && !is_sound(3.0, f64::NAN, 4096));
    }

    #[test]
    fn surprise_is_the_negative_logarithm_of_a_probability() {
        let logits = [1.0f32.ln(), 3.0f32.ln(), 4.0f32.ln()];
        assert!((surprise(&logits, 1) - (8.0f64 / 3.0).ln()).abs() < 1e-6);
        assert!(surprise(&[f32::NAN, 0.0], 1).is_nan());
        assert!(surprise(&[f32::NEG_INFINITY; 2], 1).is_nan());
    }
}
