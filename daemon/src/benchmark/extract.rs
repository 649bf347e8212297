//! What trying tokens ahead is worth where a text is made of its prompt.
//!
//! A model with made-up weights extracts nothing, and one that does would measure itself beside the engine. So the text is
//! dictated: of every position one token may follow, whatever the logits say. The prompt is texts of a set one after another,
//! the dictated text their first sentences with every tenth word replaced by another word of the prompt, as an extract is
//! that was smoothed here and there. A word or a mark is one token, found by its spelling alone: what a vocabulary of words
//! would give, and fewer copied tokens in a row than the pieces of words of a real one.
//!
//! Runs with and without drafts take turns, and dictating costs both the same.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use serde::Serialize;
use tern_runtime::constraint::{Constraint, Progress};
use tern_runtime::engine::{Engine, Event, Generate, Goal, Piece, Refusal, Request};

use super::{Amount, Samples};
use crate::evaluation::set::Set;
use crate::random::Random;

/// One word in so many is another one than in the prompt.
pub const CHANGED_ONE_IN: usize = 10;
/// Ids below this one stand for no word: bytes and control tokens of common vocabularies.
const FIRST_ID: u32 = 256;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Extract {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the text.
    pub tokens: usize,
    /// Those of them that were changed.
    pub changed: usize,
    /// Tokens a second after the first, one a step.
    pub plain_tokens_per_second: Samples,
    /// The same where tokens are tried ahead.
    pub ahead_tokens_per_second: Samples,
    /// Median of the second by median of the first.
    pub ratio: f64,
    /// Steps of one text with drafts.
    pub steps: usize,
    /// Tokens tried ahead in one text.
    pub drafted: usize,
    /// Those of them that were right.
    pub accepted: usize,
}

/// Why there is nothing to measure.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ExtractError {
    /// The texts have too few words.
    TooShort {
        /// Words in all.
        words: usize,
        /// Words wanted.
        wanted: usize,
    },
    /// More words than tokens.
    Vocabulary {
        /// Different words.
        words: usize,
        /// Tokens that can stand for one.
        tokens: usize,
    },
    /// The engine does not take it.
    Refused(Refusal),
}

impl fmt::Display for ExtractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExtractError::TooShort { words, wanted } => {
                write!(
                    f,
                    "the texts of the set have {words} words; {wanted} are wanted: ask for a shorter --prompt"
                )
            }
            ExtractError::Vocabulary { words, tokens } => {
                write!(
                    f,
                    "{words} different words and {tokens} tokens to stand for them; ask for a shorter --prompt"
                )
            }
            ExtractError::Refused(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl std::error::Error for ExtractError {}

/// A prompt and a text made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dictation {
    prompt: Vec<u32>,
    text: Vec<u32>,
    changed: usize,
}

/// Words and marks in order.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for piece in text.split_whitespace() {
        let mut rest = piece;
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric();
            let end = match is_word(first) {
                true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                false => first.len_utf8(),
            };
            words.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
    words
}

impl Dictation {
    /// Texts of `set` up to `prompt_tokens`, and at most `text_tokens` of their first sentences.
    fn new(set: &Set, prompt_tokens: usize, text_tokens: usize, vocab: usize) -> Result<Self, ExtractError> {
        let mut ids = HashMap::new();
        let (mut prompt, mut leads) = (Vec::new(), Vec::new());
        for example in &set.examples {
            let text: Vec<u32> = words(&example.text)
                .into_iter()
                .map(|word| {
                    let next = FIRST_ID + ids.len() as u32;
                    *ids.entry(word.to_owned()).or_insert(next)
                })
                .collect();
            if prompt.len() + text.len() > prompt_tokens {
                break;
            }
            let sentence = words(&example.text).iter().position(|word| *word == ".");
            leads.extend_from_slice(&text[..sentence.map_or(text.len(), |end| end + 1)]);
            prompt.extend(text);
        }
        let tokens = vocab.saturating_sub(FIRST_ID as usize);
        if ids.len() > tokens {
            return Err(ExtractError::Vocabulary { words: ids.len(), tokens });
        }
        if leads.len() < 2 {
            return Err(ExtractError::TooShort { words: prompt.len(), wanted: prompt_tokens });
        }
        leads.truncate(text_tokens);
        let mut random = Random::new(1);
        let mut changed = 0;
        for at in (CHANGED_ONE_IN - 1..leads.len()).step_by(CHANGED_ONE_IN) {
            let other = prompt[random.below(prompt.len() as u32) as usize];
            changed += usize::from(other != leads[at]);
            leads[at] = other;
        }
        Ok(Dictation { prompt, text: leads, changed })
    }
}

/// The one token that may follow.
struct Dictated<'d> {
    text: &'d [u32],
    taken: usize,
    words: Vec<u32>,
}

impl Dictated<'_> {
    fn next(&self) -> Option<u32> {
        self.text.get(self.taken).copied()
    }
}

impl Constraint for Dictated<'_> {
    fn constrains(&self, _: u64) -> bool {
        true
    }

    fn allows(&mut self, _: u64, token: u32) -> bool {
        self.next() == Some(token)
    }

    fn allowed(&mut self, _: u64) -> &[u32] {
        self.words.fill(0);
        if let Some(token) = self.next() {
            let word = token as usize / 32;
            self.words.resize(self.words.len().max(word + 1), 0);
            self.words[word] = 1 << (token % 32);
        }
        &self.words
    }

    fn may_end(&mut self, _: u64) -> bool {
        false
    }

    fn take(&mut self, _: u64, _: u32) -> Progress {
        self.taken += 1;
        if self.taken == self.text.len() { Progress::Complete } else { Progress::Open }
    }
}

/// One run.
struct Run {
    tokens_per_second: f64,
    steps: usize,
    drafted: usize,
    accepted: usize,
}

fn run(engine: &mut Engine<'_>, dictation: &Dictation, speculate: bool) -> Result<Run, Refusal> {
    let prompt: Vec<Piece<'_>> = dictation.prompt.iter().map(|id| Piece::Token(*id)).collect();
    let goal = Goal::Generate(Generate {
        max_tokens: Some(dictation.text.len()),
        ignore_stop_tokens: true,
        speculate,
        ..Generate::default()
    });
    engine.submit(&Request { key: 0, prompt: &prompt, goal })?;
    let mut rules = Dictated { text: &dictation.text, taken: 0, words: Vec::new() };
    let (mut began, mut steps, mut usage) = (Instant::now(), 0, None);
    while engine.live() > 0 {
        let mut tokens = 0;
        engine.step_under(&mut rules, |_, event| match event {
            Event::Token { .. } => tokens += 1,
            Event::Finished { usage: found, .. } => usage = Some(found),
            _ => {}
        });
        if tokens > 0 && steps == 0 {
            began = Instant::now();
        }
        steps += usize::from(tokens > 0);
    }
    let usage = usage.unwrap_or_default();
    Ok(Run {
        tokens_per_second: (dictation.text.len() - 1) as f64 / began.elapsed().as_secs_f64(),
        steps,
        drafted: usage.drafted_tokens,
        accepted: usage.accepted_tokens,
    })
}

fn median(values: &Samples) -> f64 {
    let mut values = values.values.clone();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Measures `amount` on the texts of `set`, after a run of each kind that is not counted, and calls `ran` after each
/// counted one.
///
/// # Errors
/// [`ExtractError`].
pub fn measure(
    engine: &mut Engine<'_>,
    set: &Set,
    amount: Amount,
    mut ran: impl FnMut(),
) -> Result<Extract, ExtractError> {
    let vocab = engine.model().config.vocab;
    let dictation = Dictation::new(set, amount.prompt_tokens, amount.generate_tokens, vocab)?;
    engine.set_clock(crate::serve::worker::nanoseconds);
    let (mut plain, mut ahead) = (Vec::new(), Vec::new());
    let mut last = run(engine, &dictation, true).map_err(ExtractError::Refused)?;
    for _ in 0..amount.repeats {
        for (speculate, rates) in [(false, &mut plain), (true, &mut ahead)] {
            last = run(engine, &dictation, speculate).map_err(ExtractError::Refused)?;
            rates.push(last.tokens_per_second);
            ran();
        }
    }
    let plain_tokens_per_second: Samples = plain.into_iter().collect();
    let ahead_tokens_per_second: Samples = ahead.into_iter().collect();
    Ok(Extract {
        prompt_tokens: dictation.prompt.len(),
        tokens: dictation.text.len(),
        changed: dictation.changed,
        ratio: median(&ahead_tokens_per_second) / median(&plain_tokens_per_second),
        plain_tokens_per_second,
        ahead_tokens_per_second,
        steps: last.steps,
        drafted: last.drafted,
        accepted: last.accepted,
    })
}

impl Extract {
    /// For a person.
    pub fn in_words(&self) -> String {
        let Extract { prompt_tokens, tokens, changed, ratio, steps, drafted, accepted, .. } = self;
        let rate = |samples| crate::figures::three_digits(median(samples));
        format!(
            "an extract of {tokens} tokens, {changed} of them changed, dictated after a prompt of {prompt_tokens}\n  \
             one token a step  {} tokens/s\n  tried ahead       {} tokens/s, {ratio:.2} times as many; {steps} steps, \
             {drafted} tokens tried, {accepted} of them rightly\n  medians of {} runs each, taking turns\n",
            rate(&self.plain_tokens_per_second),
            rate(&self.ahead_tokens_per_second),
            self.plain_tokens_per_second.values.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EngineChoice, ModelChoice, with_engine};

    #[test]
    fn words_and_marks_are_told_apart() {
        assert_eq!(
            words("It reads, writes\n(v1.2)."),
            ["It", "reads", ",", "writes", "(", "v1", ".", "2", ")", "."]
        );
    }

    #[test]
    fn an_extract_is_written_as_dictated() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tern-log-i2_s.gguf");
        let lines = "{\"text\": \"The pump was switched off at noon by the crew of the night. It is old.\", \"answer\": \
                     \"x\"}\n{\"text\": \"The valve behind it leaks since the storm of last week. Nobody went there.\", \
                     \"answer\": \"y\"}";
        let set = Set::read(lines.as_bytes(), 10).expect("a set");
        let choice = ModelChoice { path: Some(path.into()), engine: EngineChoice::default() };
        let amount = Amount { prompt_tokens: 100, generate_tokens: 100, sequences: 1, repeats: 2 };
        with_engine(&choice, |engine, _| {
            let found = measure(engine, &set, amount, || ()).expect("room for it");
            assert_eq!((found.tokens, found.prompt_tokens), (26, 34));
            // How much is tried depends on what steps take here; each token that was right saves one.
            assert_eq!(found.steps + found.accepted, found.tokens, "{found:?}");
            assert!(found.accepted <= found.drafted && found.changed <= 2, "{found:?}");
            let refused = measure(engine, &set, Amount { prompt_tokens: 3, ..amount }, || ());
            assert_eq!(refused.expect_err("no text fits"), ExtractError::TooShort { words: 0, wanted: 3 });
        })
        .expect("the bundled model");
    }
}
