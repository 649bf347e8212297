//! Opening a model for a test and asking the engine for logits, text or decisions.

use std::path::{Path, PathBuf};

use tern_kernels::KernelSet;
use tern_runtime::engine::{Engine, Event, Finish, Generate, Goal, Piece, Request, Usage};
use tern_runtime::gguf::Gguf;
use tern_runtime::kv_cache::KvType;
use tern_runtime::map::MappedFile;
use tern_runtime::model::Config;
use tern_runtime::parallel::{Exec, Serial};
use tern_runtime::plan::{MemoryPlan, Options};
use tern_runtime::pool::Pool;
use tern_runtime::sampler::Sampling;

/// A file below `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A file below `models`.
pub fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// The bundled model. What tests assert of it is so for any model in its place.
pub const BUNDLED: &str = "tern-log-i2_s.gguf";

/// What the bundled model calls itself: the name under which a daemon offers it.
///
/// # Panics
/// If it is no model, or has no name.
pub fn bundled_name() -> String {
    let file = MappedFile::open(bundled(BUNDLED)).expect("the bundled model");
    let model = Gguf::parse(file.bytes()).expect("a model");
    model.str("general.name").expect("it has a name").to_owned()
}

/// How many tokens the bundled model knows.
///
/// # Panics
/// If it is no model.
pub fn bundled_vocab() -> usize {
    let file = MappedFile::open(bundled(BUNDLED)).expect("the bundled model");
    let model = Gguf::parse(file.bytes()).expect("a model");
    Config::read(&model).expect("a shape").vocab
}

/// How a test wants its engine.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Kernels.
    pub set: &'static KernelSet,
    /// Worker threads.
    pub workers: usize,
    /// Cache type.
    pub kv: KvType,
    /// Requests at once.
    pub slots: usize,
    /// Rows of a step.
    pub batch_rows: usize,
}

impl Default for Setup {
    /// Scalar kernels on one worker and a cache that keeps full precision.
    fn default() -> Self {
        Setup { set: &tern_kernels::SCALAR, workers: 1, kv: KvType::F32, slots: 4, batch_rows: 64 }
    }
}

/// Opens `path` and runs `test` on the engine.
///
/// # Panics
/// If the model does not load.
pub fn with_engine<R>(path: &Path, setup: Setup, test: impl FnOnce(&mut Engine<'_>) -> R) -> R {
    with_options(path, setup, |_| {}, test)
}

/// As [`with_engine`], with options changed by `adjust`.
///
/// # Panics
/// If the model does not load.
pub fn with_options<R>(
    path: &Path,
    setup: Setup,
    adjust: impl FnOnce(&mut Options),
    test: impl FnOnce(&mut Engine<'_>) -> R,
) -> R {
    let file = MappedFile::open(path).unwrap_or_else(|e| panic!("{e}"));
    let gguf = Gguf::parse(file.bytes()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let config = Config::read(&gguf).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let Setup { set, workers, kv, slots, batch_rows } = setup;
    let mut options = Options { slots, batch_rows, kv, ..Options::for_model(&config) };
    adjust(&mut options);
    let plan = MemoryPlan::new(&gguf, options, set, workers).unwrap_or_else(|e| panic!("{e}"));
    let mut memory = vec![0u8; plan.total_bytes()];
    let pool = Pool::new(workers).expect("threads");
    let exec: &dyn Exec = if workers == 1 { &Serial } else { &pool };
    let mut engine = Engine::new(&gguf, &plan, set, exec, &mut memory).unwrap_or_else(|e| panic!("{e}"));
    test(&mut engine)
}

/// A prompt of ids.
pub fn tokens(ids: &[u32]) -> Vec<Piece<'static>> {
    ids.iter().map(|id| Piece::Token(*id)).collect()
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Generated token ids.
    pub ids: Vec<u32>,
    /// Generated text.
    pub text: String,
    /// Logits of each position, one after another.
    pub logits: Vec<f32>,
    /// Log probabilities: of each token, and of the best ones by id.
    pub logprobs: Vec<(f32, Vec<(u32, f32)>)>,
    /// Label probabilities.
    pub probabilities: Vec<f32>,
    /// How it ended.
    pub finish: Option<(Finish, Usage)>,
}

impl Outcome {
    /// Tokens that others had computed; they are taken out, since how many there are depends on who else is served.
    pub fn take_cached(&mut self) -> usize {
        self.finish.as_mut().map_or(0, |(_, usage)| std::mem::take(&mut usage.cached_tokens))
    }

    /// As it would be if nothing had been tried ahead, which depends on the company.
    #[must_use]
    pub fn undrafted(&self) -> Self {
        let finish = self
            .finish
            .map(|(reason, usage)| (reason, Usage { drafted_tokens: 0, accepted_tokens: 0, ..usage }));
        Outcome { finish, ..self.clone() }
    }
}

/// Submits all requests as slots come free and steps until all are over. Keys are indices.
///
/// # Panics
/// If one is refused for good.
pub fn run(engine: &mut Engine<'_>, requests: &[(Vec<Piece<'_>>, Goal<'_>)]) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::default(); requests.len()];
    let mut next = 0;
    while next < requests.len() || engine.live() > 0 {
        while let Some((prompt, goal)) = requests.get(next) {
            match engine.submit(&Request { key: next as u64, prompt, goal: *goal }) {
                Ok(()) => next += 1,
                Err(tern_runtime::engine::Refusal::Busy { .. }) if engine.live() > 0 => break,
                Err(refusal) => panic!("request {next}: {refusal}"),
            }
        }
        engine.step(|key, event| {
            let outcome = &mut outcomes[key as usize];
            match event {
                Event::Token { id } => outcome.ids.push(id),
                Event::Text(text) => outcome.text.push_str(text),
                Event::Logits { logits, .. } => outcome.logits.extend(logits),
                Event::Logprobs { chosen, top } => {
                    let top = top.iter().map(|token| (token.id, token.score)).collect();
                    outcome.logprobs.push((chosen, top));
                }
                Event::Decided { probabilities } => outcome.probabilities = probabilities.to_vec(),
                Event::Finished { reason, usage } => outcome.finish = Some((reason, usage)),
            }
        });
    }
    outcomes
}

/// Logits at every position of `ids`, `[ids, vocab]`.
pub fn logits(engine: &mut Engine<'_>, ids: &[u32]) -> Vec<f32> {
    run(engine, &[(tokens(ids), Goal::Logits)]).remove(0).logits
}

/// Greedy generation of `max_tokens`, stop tokens ignored.
pub fn greedy(max_tokens: usize) -> Goal<'static> {
    let sampling = Sampling::default();
    Goal::Generate(Generate {
        sampling,
        max_tokens: Some(max_tokens),
        ignore_stop_tokens: true,
        ..Generate::default()
    })
}
