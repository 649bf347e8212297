//! Speed of a model on this machine, in the two numbers that everybody compares.
//!
//! As `llama-bench` means them: *prompt processing* is the rate at which a prompt of P tokens goes through the model in
//! batches, from an empty context, the head for its last token included; *text generation* is the rate at which G tokens
//! are made one after the other from an empty context, in one text or in several at once. A warm-up of each is run first and not counted.

pub mod energy;
pub mod extract;
mod samples;
pub mod shape;

use std::time::{Duration, Instant};

use serde::Serialize;
use tern_boards::energy::{Completed, EnergyReport, Ledger, Meter, Phase, Share};
use tern_runtime::engine::{Engine, Event, Generate, Goal, Piece, Refusal, Request};
use tern_runtime::sampler::Sampling;

use crate::model::streaming::Streaming;
use crate::random::Random;

pub use samples::Samples;

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Tokens of the prompt; 0 leaves that part out.
    pub prompt_tokens: usize,
    /// Tokens to generate; 0 leaves that part out.
    pub generate_tokens: usize,
    /// Texts that are generated at once; the prompt is always one.
    pub sequences: usize,
    /// Times that each part is run and counted.
    pub repeats: usize,
}

/// One part of a benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Tokens of one text.
    pub tokens: usize,
    /// Texts at once.
    pub sequences: usize,
    /// Tokens a second, all texts together.
    pub tokens_per_second: Samples,
    /// Milliseconds of one run.
    pub milliseconds: Samples,
    /// What the meter counted over all counted runs.
    pub energy: EnergyReport,
    /// Joules by token; `null` without a meter, or where it cannot resolve so short a run.
    pub joules_per_token: Option<f64>,
}

/// What a benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Prompt processing.
    pub prompt: Option<Part>,
    /// Text generation.
    pub generate: Option<Part>,
    /// Milliseconds from submitting a prompt of the given length to its first token.
    pub first_token_ms: Option<Samples>,
}

/// Runs `amount` on `engine` with the joules of `ledger`, whose clock began at `origin`, and calls `ran` after each
/// counted run.
///
/// # Errors
/// If the engine refuses a request: the context is too small for the amount.
pub fn measure(
    engine: &mut Engine<'_>,
    amount: Amount,
    ledger: &mut Ledger,
    origin: Instant,
    mut ran: impl FnMut(),
) -> Result<Measured, Refusal> {
    let streaming = Streaming::of(engine, ledger.meter().and_then(Meter::traffic));
    let prompt = prompt(engine, amount.prompt_tokens);
    let mut part = |prompt: &[Piece<'_>],
                    generate: usize,
                    texts: u64,
                    phase: Phase|
     -> Result<Option<Vec<Run>>, Refusal> {
        // Enough to touch every weight and wake every thread, without doubling the time of a slow machine.
        let warm_prompt = prompt.len().min(engine.options().batch_rows);
        run(engine, &streaming, &prompt[..warm_prompt], generate.min(4), texts)?;
        let mut runs = Vec::with_capacity(amount.repeats);
        for _ in 0..amount.repeats {
            ledger.begin_step(origin.elapsed());
            let one = run(engine, &streaming, prompt, generate, texts)?;
            let request = u64::from(phase == Phase::Decode);
            ledger.end_step(origin.elapsed(), &[Share { request, phase, weight: 1 }]);
            runs.push(one);
            ran();
        }
        Ok(Some(runs))
    };
    let prompts = match amount.prompt_tokens {
        0 => None,
        _ => part(&prompt, 1, 1, Phase::Prefill)?,
    };
    let generations = match amount.generate_tokens {
        0 => None,
        tokens => part(&prompt[..1], tokens, amount.sequences as u64, Phase::Decode)?,
    };
    let total = |tokens: usize| (tokens * amount.repeats) as u64;
    let mut summary = |runs: Vec<Run>, tokens: usize, sequences: usize, phase: Phase| {
        let (prefill_tokens, decode_tokens) = match phase {
            Phase::Prefill => (total(tokens), 0),
            Phase::Decode => (0, total(tokens * sequences)),
        };
        let completed = Completed { prefill_tokens, decode_tokens, throttled: None };
        let energy = ledger.finish(u64::from(phase == Phase::Decode), completed);
        let seconds = runs.iter().map(|run| run.whole.as_secs_f64());
        Part {
            tokens,
            sequences,
            tokens_per_second: seconds.clone().map(|seconds| (tokens * sequences) as f64 / seconds).collect(),
            milliseconds: seconds.map(|seconds| seconds * 1e3).collect(),
            joules_per_token: energy.joules_per_token.filter(|_| !energy.below_resolution),
            energy,
        }
    };
    let first_token_ms =
        prompts.as_ref().map(|runs| runs.iter().map(|run| run.first_token.as_secs_f64() * 1e3).collect());
    Ok(Measured {
        first_token_ms,
        prompt: prompts.map(|runs| summary(runs, amount.prompt_tokens, 1, Phase::Prefill)),
        generate: generations
            .map(|runs| summary(runs, amount.generate_tokens, amount.sequences, Phase::Decode)),
    })
}

/// Any prompt of `tokens` tokens, of one at least, the same every time.
fn prompt(engine: &Engine<'_>, tokens: usize) -> Vec<Piece<'static>> {
    let vocab = engine.model().config.vocab as u32;
    let mut random = Random::new(1);
    let mut prompt = vec![Piece::Token(engine.tokenizer().bos().unwrap_or(0))];
    prompt.resize_with(tokens.max(1), || Piece::Token(random.below(vocab)));
    prompt
}

/// Times of one run.
struct Run {
    first_token: Duration,
    whole: Duration,
}

/// Generates `tokens` tokens after `prompt`, greedily, whatever they are, in `texts` texts at once.
fn run(
    engine: &mut Engine<'_>,
    streaming: &Streaming,
    prompt: &[Piece<'_>],
    tokens: usize,
    texts: u64,
) -> Result<Run, Refusal> {
    let goal = Goal::Generate(Generate {
        sampling: Sampling::default(),
        max_tokens: Some(tokens),
        ignore_stop_tokens: true,
        // What it measures is a token a row.
        speculate: false,
        ..Generate::default()
    });
    // Every run reads the same prompt, and is to compute it.
    engine.keep_prefixes(false);
    let began = Instant::now();
    for key in 0..texts {
        engine.submit(&Request { key, prompt, goal })?;
    }
    let mut first_token = None;
    while engine.live() > 0 {
        let step = engine.step(|_, event| {
            if matches!(event, Event::Token { .. }) && first_token.is_none() {
                first_token = Some(began.elapsed());
            }
        });
        debug_assert!(step.rows() > 0, "a live request has rows");
        streaming.count(&step);
    }
    let whole = began.elapsed();
    Ok(Run { first_token: first_token.unwrap_or(whole), whole })
}
