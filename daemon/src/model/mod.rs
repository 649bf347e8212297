//! Opening a model for use: find the file, map it, plan its memory, check that it fits, start the workers, load.
//!
//! Everything is borrowed from this function's stack, so an engine lives inside a closure:
//!
//! ```no_run
//! use tern::model::{ModelChoice, with_engine};
//! let layers = with_engine(&ModelChoice::default(), |engine, opened| {
//!     println!("{} on {} threads", opened.title(), opened.threads);
//!     engine.model().config.layers
//! })?;
//! # Ok::<(), tern::model::OpenError>(())
//! ```

pub mod blocks;
mod error;
mod find;
mod fitting;
mod form;
mod host;
pub mod reading;
mod relief;
pub mod residence;
pub mod streaming;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::Args;
use tern_runtime::activations::Activations;
use tern_runtime::engine::Engine;
use tern_runtime::gguf::I2sBlocks;
use tern_runtime::head::HeadKind;
use tern_runtime::kv_cache::KvType;
use tern_runtime::map::Anonymous;
use tern_runtime::model::Config;
use tern_runtime::plan::{MemoryPlan, Options};
use tern_runtime::pool::Pool;

use crate::progress::Progress;
use crate::systemd;
use relief::Wanted;

pub use error::OpenError;
pub use find::{MODEL_VARIABLE, default_model, recipe_folders};
pub use fitting::{Fit, Why};
pub use form::{Form, asked, check_directory};
pub use host::{Host, Need, contenders, thread_numbers};

/// More worker threads than this help no machine Tern is made for.
const MAX_THREADS: usize = 256;

/// Which model to use and how; what is `None` is chosen for the machine and the model.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelChoice {
    /// Model file (GGUF) or directory (Hugging Face); without it $TERN_MODEL, else the bundled model
    #[arg(long = "model", value_name = "FILE")]
    pub path: Option<PathBuf>,
    /// How to run it.
    #[command(flatten)]
    pub engine: EngineChoice,
}

/// How to run a model; what is `None` is chosen for the machine and the model.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineChoice {
    /// Worker threads; without it what suits the board
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
    /// Kernel set by name (`tern doctor` lists them); without it the fastest
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<String>,
    /// Tokens of one request, prompt and answer together; without it the model's context, at most 2048, or what fits the
    /// memory
    #[arg(long = "context", value_name = "TOKENS")]
    pub context_tokens: Option<usize>,
    /// Tokens whose keys and values are kept for all requests together; without it up to eight contexts, by the memory
    #[arg(long = "cache", value_name = "TOKENS")]
    pub cache_tokens: Option<usize>,
    /// Requests that may run at once; without it 16, or what fits the memory
    #[arg(long, value_name = "N")]
    pub slots: Option<usize>,
    /// Tokens that go through the model together; without it 64
    #[arg(long = "batch", value_name = "TOKENS")]
    pub batch_rows: Option<usize>,
    /// Tokens that may be tried ahead in a step because they stood in the text before; 0 for none, without it 8. No answer
    /// depends on it
    #[arg(long = "draft", value_name = "TOKENS")]
    pub draft_tokens: Option<usize>,
    /// Use a model that is not packed as it is, instead of packing it once into the state directory
    #[arg(long)]
    pub no_pack: bool,
    /// Head that turns states into logits: file, as it is, or int8; without it what the file is packed with
    #[arg(long, value_name = "KIND", value_parser = parse_head)]
    pub head: Option<HeadKind>,
    /// How keys and values are stored: f16, f32 or i8; without it f16
    #[arg(long, value_name = "TYPE", value_parser = parse_kv)]
    pub kv: Option<KvType>,
    /// Weights in a block of I2_S, which its file does not tell: 128, or 64 if bitnet.cpp built for ARM wrote it; without it
    /// 128, unless the weights themselves say otherwise
    #[arg(long, value_name = "N", value_parser = reading::parse_i2s_blocks)]
    pub i2s_blocks: Option<I2sBlocks>,
    /// What ternary products take as their input: int8 or float; without it what suits the model
    #[arg(long, value_name = "KIND", value_parser = parse_activations)]
    pub activations: Option<Activations>,
}

/// A kind of activations on a command line.
///
/// # Errors
/// If there is no such kind.
pub fn parse_activations(text: &str) -> Result<Activations, String> {
    Activations::by_name(text).ok_or_else(|| "give int8 or float".into())
}

/// A number of threads on a command line.
///
/// # Errors
/// If there can be no such number of threads.
pub fn parse_threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=MAX_THREADS).contains(threads));
    threads.ok_or_else(|| format!("give a number from 1 to {MAX_THREADS}"))
}

/// A kind of head on a command line.
///
/// # Errors
/// If there is no such kind.
pub fn parse_head(text: &str) -> Result<HeadKind, String> {
    match text {
        "file" => Ok(HeadKind::File),
        "int8" => Ok(HeadKind::Int8),
        _ => Err("give file or int8".into()),
    }
}

/// A cache type on a command line.
///
/// # Errors
/// If there is no such type.
pub fn parse_kv(text: &str) -> Result<KvType, String> {
    KvType::by_name(text).ok_or_else(|| "give f16, f32 or i8".into())
}

/// `f16`, `f32` or `i8`.
pub fn kv_name(kv: KvType) -> &'static str {
    kv.name()
}

impl EngineChoice {
    /// The engine's options for a model with this `config` where memory is no matter (see [`Fit`]); ranges are checked by
    /// [`MemoryPlan::new`].
    pub fn options(&self, config: &Config) -> Options {
        let mut options = Options::for_model(config);
        if let Some(context_tokens) = self.context_tokens {
            options.context_tokens = context_tokens;
            options.prompt_bytes = context_tokens.saturating_mul(16).clamp(16, 1 << 24);
        }
        options.slots = self.slots.unwrap_or(options.slots);
        // One request at a time cannot use the cache of two.
        let contexts = options.slots.min(2);
        options.cache_tokens =
            self.cache_tokens.unwrap_or_else(|| options.context_tokens.saturating_mul(contexts).min(1 << 26));
        options.batch_rows = self.batch_rows.unwrap_or(options.batch_rows.max(options.slots));
        options.draft_tokens = self.draft_tokens.unwrap_or(options.draft_tokens);
        options.kv = self.kv.unwrap_or(options.kv);
        options.head = self.head.unwrap_or(options.head);
        options.activations = self.activations.or(options.activations);
        options
    }
}

impl ModelChoice {
    /// The chosen file, or the default one.
    ///
    /// # Errors
    /// If none is chosen and no default is where defaults are looked for.
    pub fn file(&self) -> Result<PathBuf, OpenError> {
        match &self.path {
            Some(path) => Ok(path.clone()),
            None => default_model(),
        }
    }
}

/// What was opened, in owned values that outlive the engine.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The model file.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// `general.name`, where the file has one.
    pub name: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
    /// The kernel set in use.
    pub kernels: &'static str,
    /// Worker threads, the calling one included.
    pub threads: usize,
    /// How the kernels get at its weights.
    pub form: Form,
    /// Where every byte of the arena goes.
    pub plan: MemoryPlan,
    /// From opening the file to being ready.
    pub load_time: Duration,
    /// Defects of the file that were mended, one sentence each.
    pub repairs: Vec<String>,
    /// A count that goes up while the engine works, within a step too.
    pub pulse: Arc<AtomicU64>,
}

impl Opened {
    /// The file whose weights are read: the packed copy where there is one, which a directory always has.
    pub fn file(&self) -> &Path {
        match &self.form {
            Form::Packed(copy) => copy,
            _ => &self.path,
        }
    }

    /// The model's own name, else its file name.
    pub fn title(&self) -> &str {
        match &self.name {
            Some(name) => name,
            None => self.path.file_name().and_then(|name| name.to_str()).unwrap_or("model"),
        }
    }
}

/// Opens the chosen model and runs `f` with an engine on it.
///
/// Nothing is allocated before the whole sum is known to fit, and a refused allocation is an error, never an abort.
///
/// # Errors
/// [`OpenError`]: no such file, an unusable model, options out of range, or more memory than there is.
pub fn with_engine<R>(
    choice: &ModelChoice,
    f: impl FnOnce(&mut Engine<'_>, &Opened) -> R,
) -> Result<R, OpenError> {
    let began = Instant::now();
    let path = choice.file()?;
    let unusable = |error| OpenError::Model { path: path.clone(), error };
    let (map, form, host) = form::open(&path, &choice.engine)?;
    let (gguf, _) = reading::parse(&path, map.bytes(), choice.engine.i2s_blocks)?;
    let config = Config::read(&gguf).map_err(unusable)?;
    let fit = Fit::new(&gguf, &config, &choice.engine, &host);
    let plan = MemoryPlan::new(&gguf, fit.options, host.set, host.threads).map_err(unusable)?;
    let moved = matches!(form, Form::Moved { .. });
    let parts = residence::parts(&gguf, plan.options.head, moved);
    let wanted = Wanted::new(&gguf, plan.options, &host);
    check_memory(&path, &plan, residence::streamed_bytes(&parts), host.available_bytes, &wanted)?;
    let level = if fit.is_short() { log::Level::Info } else { log::Level::Debug };
    fit.lines().iter().for_each(|line| log::log!(level, "{line}"));
    let mut memory = allocate(plan.total_bytes())?;
    let pool =
        Pool::new(host.threads).map_err(|error| OpenError::Workers { threads: host.threads, error })?;
    if systemd::is_listening() {
        read_through(map.bytes());
    }
    let mut engine = Engine::new(&gguf, &plan, host.set, &pool, memory.bytes_mut()).map_err(unusable)?;
    let opened = Opened {
        file_bytes: gguf.file_bytes(),
        name: gguf.str("general.name").ok().filter(|name| !name.is_empty()).map(str::to_owned),
        architecture: gguf.architecture().map_err(unusable)?.to_owned(),
        kernels: host.set.name,
        threads: host.threads,
        form: form.clone(),
        load_time: began.elapsed(),
        repairs: engine.tokenizer().repairs().iter().map(|repair| repair.to_string()).collect(),
        plan: plan.clone(),
        path: path.clone(),
        pulse: pool.pulse(),
    };
    log::info!(
        "model {} ({} on {} threads, {}) loaded in {:.0} ms",
        opened.title(),
        opened.kernels,
        opened.threads,
        opened.form,
        opened.load_time.as_secs_f64() * 1e3
    );
    Ok(f(&mut engine, &opened))
}

/// What an engine on the chosen model would be made for here; nothing of it is taken.
///
/// # Errors
/// As [`with_engine`], but for what only loading finds.
pub fn planned(choice: &ModelChoice) -> Result<Fit, OpenError> {
    let path = choice.file()?;
    let (map, _, host) = form::open(&path, &choice.engine)?;
    let (gguf, _) = reading::parse(&path, map.bytes(), choice.engine.i2s_blocks)?;
    let config = Config::read(&gguf).map_err(|error| OpenError::Model { path: path.clone(), error })?;
    Ok(Fit::new(&gguf, &config, &choice.engine, &host))
}

/// Refuses a model that would push the machine out of memory: the arena, and what every token reads of the mapped file,
/// which is useless if it does not stay in memory.
fn check_memory(
    path: &Path,
    plan: &MemoryPlan,
    streamed_bytes: u64,
    available_bytes: Option<u64>,
    wanted: &Wanted<'_>,
) -> Result<(), OpenError> {
    let arena_bytes = plan.total_bytes() as u64;
    match available_bytes {
        Some(available_bytes) if arena_bytes.saturating_add(streamed_bytes) > available_bytes => {
            let largest = plan.sections.iter().max_by_key(|section| section.bytes);
            Err(OpenError::Memory {
                path: path.to_owned(),
                arena_bytes,
                streamed_bytes,
                available_bytes,
                largest: largest.map_or(("", 0), |section| (section.name, section.bytes as u64)),
                relief: wanted.relief(available_bytes),
            })
        }
        _ => Ok(()),
    }
}

/// Reads a mapped file from its beginning to its end, so that whoever waits for a slow disk sees how far it is; what
/// follows then finds it in memory.
fn read_through(bytes: &[u8]) {
    let progress = Progress::bytes("reading the model", bytes.len() as u64);
    for piece in bytes.chunks(4 << 20) {
        // One byte of each of the smallest pages.
        std::hint::black_box(piece.iter().step_by(4096).fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
        progress.add(piece.len() as u64);
    }
    systemd::loading("preparing the model");
}

/// Zeroed memory; what is never used of it is never taken.
fn allocate(bytes: usize) -> Result<Anonymous, OpenError> {
    Anonymous::new(bytes).map_err(|_| OpenError::Allocation { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    use tern_runtime::gguf::Gguf;
    use tern_runtime::map::MappedFile;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");

    fn tiny(engine: EngineChoice) -> ModelChoice {
        ModelChoice { path: Some(TINY.into()), engine }
    }

    fn refusal(choice: &ModelChoice) -> String {
        with_engine(choice, |_, _| ()).expect_err("this must be refused").to_string()
    }

    #[test]
    fn a_model_opens_with_what_was_chosen() {
        let choice = tiny(EngineChoice {
            threads: Some(2),
            kernels: Some("scalar-t2i8".into()),
            context_tokens: Some(32),
            cache_tokens: Some(48),
            slots: Some(2),
            batch_rows: Some(8),
            no_pack: false,
            head: None,
            draft_tokens: Some(3),
            kv: Some(KvType::F32),
            activations: Some(Activations::Float),
            ..EngineChoice::default()
        });
        let opened = with_engine(&choice, |engine, opened| {
            let options = engine.options();
            assert_eq!((options.context_tokens, options.slots, options.batch_rows), (32, 2, 8));
            assert_eq!((options.kv, options.cache_tokens), (KvType::F32, 48));
            assert_eq!(options.activations, Some(Activations::Float));
            opened.clone()
        })
        .expect("the fixture opens");
        assert_eq!((opened.kernels, opened.threads), ("scalar-t2i8", 2));
        assert_eq!(opened.path, Path::new(TINY));
        assert_eq!(opened.file_bytes, std::fs::metadata(TINY).expect("the fixture is there").len());
    }

    #[test]
    fn what_cannot_be_had_is_named_with_what_can() {
        let kernels = EngineChoice { kernels: Some("warp".into()), ..EngineChoice::default() };
        let message = refusal(&tiny(kernels));
        assert!(message.contains("\"warp\"") && message.contains("scalar-t2i8"), "{message}");
        let context = EngineChoice { context_tokens: Some(1 << 30), ..EngineChoice::default() };
        assert!(refusal(&tiny(context)).contains("tiny-i2_s.gguf"));
        let threads = EngineChoice { threads: Some(0), ..EngineChoice::default() };
        assert!(refusal(&tiny(threads)).contains("1 to 256"));
        let nowhere = ModelChoice { path: Some("/nowhere/x.gguf".into()), ..ModelChoice::default() };
        assert!(refusal(&nowhere).contains("no such file"));
    }

    #[test]
    fn a_sum_above_what_is_free_is_refused_with_the_numbers() {
        let map = MappedFile::open(TINY).expect("the fixture is there");
        let gguf = Gguf::parse(map.bytes()).expect("it is sound");
        let config = Config::read(&gguf).expect("it is a BitNet model");
        let options = EngineChoice::default().options(&config);
        let plan = MemoryPlan::new(&gguf, options, &tern_kernels::SCALAR, 1).expect("it can be planned");
        let needed = plan.total_bytes() as u64 + gguf.file_bytes();
        let wanted = Wanted { gguf: &gguf, options, set: &tern_kernels::SCALAR, threads: 1 };
        let check = |available| check_memory(Path::new(TINY), &plan, gguf.file_bytes(), available, &wanted);
        assert!(check(Some(needed)).is_ok() && check(None).is_ok());
        let error = check(Some(needed - 1)).expect_err("one byte short");
        assert!(matches!(error, OpenError::Memory { available_bytes, .. } if available_bytes == needed - 1));
        assert!(error.to_string().contains("it would fit with --slots 1"), "{error}");
        assert!(matches!(allocate(usize::MAX / 2), Err(OpenError::Allocation { .. })));
    }
}
