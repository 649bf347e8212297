//! What tasks begin with, kept on disk: the keys and values of a task's fixed part, so that a daemon that starts need not
//! compute them again.
//!
//! ```text
//! <state directory>/prefixes/<16 hex digits>.kv
//!     one line of JSON: {"form":2,"identity":"...","tokens":[...],"page_bytes":N}
//!     pages, each page_bytes, one for every 32 tokens
//!     a checksum of all before it, 8 bytes, the lowest first
//! ```
//!
//! `identity` names everything that a bit of them depends on: the model (size, time of change, and samples of its content),
//! its configuration, how keys and values are stored and what products take as their input, the version of the program and of
//! its arithmetic ([`tern_runtime::NUMERICS`]). Kernels are not part of it: all give the same bits; neither are slots, context
//! and what is kept, which follow from the memory of the day. The chat template and the task are in the tokens. The name of a file
//! is a checksum of identity and tokens; both are compared whole when it is read, and pages are taken only if their checksum
//! fits. Anything else is passed over with a line in the log and written anew.
//!
//! Files are read when the daemon starts and when its tasks change. They are written once, when a task's fixed part has been
//! computed for some request: whenever the engine is idle, pages are copied to the thread of [`writer`], as many as its queue
//! takes. Pages that are gone before their turn came end the file; it is begun again when they were computed again.

mod file;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tern_runtime::engine::Engine;
use tern_runtime::kv_cache::PAGE_CELLS;

use crate::config::prefixes::PrefixSection;
use crate::figures;
use crate::tasks::prompt::PromptForm;
use crate::tasks::{CurrentTasks, Task, TaskSet};
use file::{Unusable, first_line, model_identity, place, read};
use writer::{Piece, Writer};

/// How long an idle engine waits before it looks again whether the disk takes more.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Two texts with nothing in common: what prompts share with both is there before any text.
const PROBES: [&str; 2] = ["a", "\n7"];

/// A task's fixed part.
#[derive(Debug)]
struct Fixed {
    task: String,
    /// Whole pages of tokens.
    tokens: Vec<u32>,
    /// Its file is there, or handed over, or cannot be.
    is_settled: bool,
}

/// A file whose pages are being handed over.
#[derive(Debug)]
struct Handing {
    tokens: Vec<u32>,
    /// Pages that were.
    pages: usize,
}

/// The fixed parts of the tasks in force, and the folder of their files.
#[derive(Debug)]
pub struct Prefixes {
    folder: PathBuf,
    max_bytes: u64,
    identity: String,
    form: Arc<PromptForm>,
    tasks: Arc<CurrentTasks>,
    /// The tasks that `fixed` is of.
    seen: Option<Arc<TaskSet>>,
    fixed: Vec<Fixed>,
    handing: Option<Handing>,
    writer: Writer,
}

impl Prefixes {
    /// As `section` says, for the model file `path` that `engine` runs, in the state directory; `None` where nothing is to be
    /// kept or nothing can be.
    pub fn of(
        section: &PrefixSection,
        path: &Path,
        engine: &Engine<'_>,
        form: Arc<PromptForm>,
        tasks: Arc<CurrentTasks>,
    ) -> Option<Self> {
        let folder = crate::state::folder().filter(|_| section.keep)?.join("prefixes");
        Prefixes::new((folder, section.max_bytes), path, engine, form, tasks)
    }

    /// Files of at most so many bytes in a folder.
    fn new(
        (folder, max_bytes): (PathBuf, u64),
        path: &Path,
        engine: &Engine<'_>,
        form: Arc<PromptForm>,
        tasks: Arc<CurrentTasks>,
    ) -> Option<Self> {
        let not_kept = |error: &std::io::Error| {
            log::warn!("{}: {error}; what tasks begin with is not kept on disk", path.display());
        };
        let model = model_identity(path).inspect_err(not_kept).ok()?;
        let writer = Writer::start(max_bytes).inspect_err(not_kept).ok()?;
        let (version, numerics) = (env!("CARGO_PKG_VERSION"), tern_runtime::NUMERICS);
        let (config, options) = (engine.model().config, engine.options());
        let (kv, activations) = (options.kv.name(), options.activations);
        let identity =
            format!("{model}; tern {version}, numerics {numerics}; {config:?}; {kv}, {activations:?}");
        let (seen, fixed, handing) = (None, Vec::new(), None);
        Some(Prefixes { folder, max_bytes, identity, form, tasks, seen, fixed, handing, writer })
    }

    /// Looks whether the tasks are others than before, and takes what is kept of them into the engine's cache.
    pub fn load(&mut self, engine: &mut Engine<'_>) {
        let tasks = self.tasks.set();
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &tasks)) || !self.writer.has_room() {
            return;
        }
        let fixed = tasks.names().filter_map(|name| {
            let task = tasks.find(name)?;
            let tokens = fixed_tokens(&self.form, task, engine);
            (!tokens.is_empty()).then(|| Fixed { task: name.to_owned(), tokens, is_settled: false })
        });
        self.fixed = fixed.collect();
        for fixed in &mut self.fixed {
            let path = place(&self.folder, &self.identity, &fixed.tokens);
            match read(&path, &self.identity, &fixed.tokens, engine) {
                Ok(pages) => {
                    fixed.is_settled = true;
                    log::info!("task {}: {} tokens kept from before", fixed.task, pages * PAGE_CELLS);
                    if self.writer.has_room() {
                        self.writer.send(Piece::Used(path));
                    }
                }
                Err(Unusable::Absent) => {}
                Err(why) => {
                    log::warn!("{}: {}; it is written anew", path.display(), why.words());
                }
            }
        }
        self.seen = Some(tasks);
    }

    /// Hands over what the disk takes now of a fixed part that was computed and is not there; says whether more is to come.
    pub fn save(&mut self, engine: &Engine<'_>) -> bool {
        while self.writer.has_room() {
            let Some(handing) = &mut self.handing else {
                if self.begin(engine) {
                    continue;
                }
                return false;
            };
            let whole = handing.tokens.len() / PAGE_CELLS;
            let piece = match engine.cache().stored(&handing.tokens).nth(handing.pages) {
                _ if handing.pages == whole => Piece::End,
                Some(page) => Piece::Page(page.into()),
                None => Piece::Abandon,
            };
            match piece {
                Piece::Page(_) => handing.pages += 1,
                _ => {
                    let done = matches!(piece, Piece::End);
                    let ended = self.fixed.iter_mut().find(|fixed| fixed.tokens == handing.tokens);
                    ended.into_iter().for_each(|fixed| fixed.is_settled = done);
                    self.handing = None;
                }
            }
            self.writer.send(piece);
        }
        true
    }

    /// Begins a file, if one is to be written.
    fn begin(&mut self, engine: &Engine<'_>) -> bool {
        let Self { folder, identity, fixed, writer, max_bytes, .. } = self;
        let is_computed =
            |fixed: &Fixed| engine.cache().stored(&fixed.tokens).count() == fixed.tokens.len() / PAGE_CELLS;
        let Some(fixed) = fixed.iter_mut().find(|fixed| !fixed.is_settled && is_computed(fixed)) else {
            return false;
        };
        let page_bytes = engine.cache().shape().page_bytes();
        let bytes = (fixed.tokens.len() / PAGE_CELLS * page_bytes) as u64;
        if bytes > *max_bytes {
            fixed.is_settled = true;
            let (bytes, most) = (figures::bytes(bytes), figures::bytes(*max_bytes));
            log::info!(
                "task {}: its fixed part has {bytes}, more than prefixes.max_bytes of {most}, and is computed at each start",
                fixed.task
            );
            return true;
        }
        let path = place(folder, identity, &fixed.tokens);
        let line = first_line(identity, &fixed.tokens, page_bytes);
        self.handing = Some(Handing { tokens: fixed.tokens.clone(), pages: 0 });
        writer.send(Piece::Begin { path, line, bytes });
        true
    }
}

/// What prompts of a task begin with, whatever the text: whole pages of tokens.
fn fixed_tokens(form: &PromptForm, task: &Task, engine: &Engine<'_>) -> Vec<u32> {
    let [mut tokens, other] = PROBES.map(|probe| form.task(task, probe).ids(engine.tokenizer()));
    let shared = tokens.iter().zip(&other).take_while(|(a, b)| a == b).count();
    tokens.truncate(shared / PAGE_CELLS * PAGE_CELLS);
    if tokens.len() < engine.options().context_tokens { tokens } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    use crate::model::{EngineChoice, ModelChoice, with_engine};
    use tern_runtime::engine::{Goal, Request};

    const TASK: &str = "kind = 'choice'\nlabels = ['a', 'b']\ninstructions = '";

    fn tasks(folder: &Path, words: &str) -> Arc<CurrentTasks> {
        fs::write(folder.join("long.toml"), format!("{TASK}{}'", words.repeat(30))).expect("a place for it");
        Arc::new(CurrentTasks::new(TaskSet::load(Some(folder)).expect("it makes sense")))
    }

    /// Runs `test` on a new engine with what is kept in `state`.
    fn start<R>(
        state: &Path,
        tasks: &Arc<CurrentTasks>,
        test: impl FnOnce(&mut Engine<'_>, &mut Prefixes) -> R,
    ) -> R {
        start_with(state, 1 << 30, EngineChoice::default(), tasks, test)
    }

    fn start_with<R>(
        state: &Path,
        max_bytes: u64,
        engine: EngineChoice,
        tasks: &Arc<CurrentTasks>,
        test: impl FnOnce(&mut Engine<'_>, &mut Prefixes) -> R,
    ) -> R {
        let model = ModelChoice {
            path: Some(
                concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf").into(),
            ),
            engine: EngineChoice { threads: Some(1), ..engine },
        };
        with_engine(&model, |engine, opened| {
            let form = Arc::new(PromptForm::of(engine.tokenizer()));
            let files = (state.into(), max_bytes);
            let mut prefixes =
                Prefixes::new(files, &opened.path, engine, form, Arc::clone(tasks)).expect("a model");
            prefixes.load(engine);
            let result = test(engine, &mut prefixes);
            prefixes.writer.finish();
            result
        })
        .expect("the fixture opens")
    }

    /// Asks the task; returns the tokens that were there already.
    fn ask(engine: &mut Engine<'_>, prefixes: &Prefixes) -> usize {
        let set = prefixes.tasks.set();
        let prompt = prefixes.form.task(set.find("long").expect("it is there"), "which?");
        let goal = Goal::Choose { labels: &["a", "b"] };
        engine.submit(&Request { key: 1, prompt: &prompt.pieces(), goal }).expect("there is room");
        let mut cached = None;
        while engine.live() > 0 {
            engine.step(|_, event| {
                if let tern_runtime::engine::Event::Finished { usage, .. } = event {
                    cached = Some(usage.cached_tokens);
                }
            });
        }
        cached.expect("it ended")
    }

    fn save(engine: &Engine<'_>, prefixes: &mut Prefixes) {
        while prefixes.save(engine) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_fixed_part_outlives_the_engine_and_a_damaged_file_does_not_count() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("prefixes");
        let known = tasks(folder.path(), "abc ");
        let fixed = start(&state, &known, |engine, prefixes| {
            save(engine, prefixes);
            assert!(!state.exists(), "nothing was computed yet");
            assert_eq!(ask(engine, prefixes), 0);
            save(engine, prefixes);
            let fixed =
                prefixes.fixed.iter().find(|fixed| fixed.task == "long").expect("it has a fixed part");
            fixed.tokens.len()
        });
        assert!(fixed >= PAGE_CELLS, "{fixed} tokens");
        let files =
            || fs::read_dir(&state).expect("it is there").map(|entry| entry.expect("an entry").path());
        let path = files().next().expect("one file");
        // Slots, context and what is kept may be others, keys and values may not.
        let other = EngineChoice { slots: Some(2), cache_tokens: Some(2048), ..EngineChoice::default() };
        assert_eq!(
            start_with(&state, 1 << 30, other, &known, |engine, prefixes| ask(engine, prefixes)),
            fixed
        );
        let narrow = EngineChoice { kv: Some(tern_runtime::kv_cache::KvType::I8), ..EngineChoice::default() };
        assert_eq!(start_with(&state, 1 << 30, narrow, &known, |engine, prefixes| ask(engine, prefixes)), 0);
        let kept = |tasks| start(&state, tasks, |engine, prefixes| ask(engine, prefixes));
        assert_eq!(kept(&known), fixed);
        let sound = fs::read(&path).expect("it is there");
        let end = sound.iter().position(|byte| *byte == b'\n').expect("a line");
        for at in [0, end / 2, end, end + 1, end + sound.len() / 3, sound.len() - 1] {
            let mut damaged = sound.clone();
            damaged[at] ^= 4;
            fs::write(&path, &damaged).expect("it can be written");
            assert_eq!(kept(&known), 0, "byte {at}");
            fs::write(&path, &sound[..at]).expect("it can be written");
            assert_eq!(kept(&known), 0, "cut at {at}");
        }
        start(&state, &known, |engine, prefixes| {
            ask(engine, prefixes);
            save(engine, prefixes);
        });
        assert!(fs::read(&path).expect("it is there") == sound, "it is written anew, with the same bits");
        // Other tasks take effect without a start.
        start(&state, &known, |engine, prefixes| {
            known.replace(TaskSet::load(None).expect("built in"));
            prefixes.load(engine);
            assert!(prefixes.fixed.iter().all(|fixed| fixed.task != "long"));
        });
    }

    #[test]
    fn what_takes_too_much_room_is_computed_each_time_and_pages_that_go_end_their_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("prefixes");
        let known = tasks(folder.path(), "abc ");
        start_with(&state, 100, EngineChoice::default(), &known, |engine, prefixes| {
            ask(engine, prefixes);
            save(engine, prefixes);
            assert!(prefixes.fixed.iter().any(|fixed| fixed.is_settled));
        });
        assert!(!state.exists());
        start(&state, &known, |engine, prefixes| {
            ask(engine, prefixes);
            assert!(prefixes.begin(engine));
            engine.keep_prefixes(false);
            save(engine, prefixes);
            assert!(prefixes.handing.is_none() && prefixes.fixed.iter().all(|fixed| !fixed.is_settled));
            engine.keep_prefixes(true);
            ask(engine, prefixes);
            save(engine, prefixes);
        });
        assert_eq!(fs::read_dir(&state).expect("it is there").count(), 1);
    }
}
