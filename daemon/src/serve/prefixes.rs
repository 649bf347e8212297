//! What tasks begin with, kept on disk: the keys and values of a task's fixed part, so that a daemon that starts need not
//! compute them again.
//!
//! ```text
//! <state directory>/prefixes/<16 hex digits>.kv
//!     one line of JSON: {"form":1,"identity":"...","tokens":[...],"page_bytes":N,"checksum":N}
//!     pages, each page_bytes, one for every 32 tokens
//! ```
//!
//! `identity` names everything that a bit of them depends on: the model (size, time of change, and samples of its content),
//! its configuration and the options it runs with, the version of the program and of its arithmetic
//! ([`tern_runtime::NUMERICS`]). Kernels are not part of it: all give the same bits. The name of a file is a checksum of
//! identity and tokens; both are compared whole when it is read, and pages are taken only if their checksum fits. Anything
//! else is passed over with a line in the log and written anew.
//!
//! Files are read when the daemon starts and when its tasks change, and written once, when the engine is idle and a task's
//! fixed part has been computed for some request. Together they take at most [`MOST_BYTES`]; the oldest go first.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use tern_runtime::engine::Engine;
use tern_runtime::kv_cache::PAGE_CELLS;
use tern_runtime::map::MappedFile;

use crate::replace::Replacement;
use crate::tasks::prompt::PromptForm;
use crate::tasks::{CurrentTasks, Task, TaskSet};

/// Bytes of all files together.
const MOST_BYTES: u64 = 256 << 20;

/// Two texts with nothing in common: what prompts share with both is there before any text.
const PROBES: [&str; 2] = ["a", "\n7"];

/// The first line of a file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    form: u32,
    identity: String,
    tokens: Vec<u32>,
    page_bytes: usize,
    checksum: u64,
}

/// A task's fixed part.
#[derive(Debug)]
struct Fixed {
    task: String,
    /// Whole pages of tokens.
    tokens: Vec<u32>,
    /// Its file is there, or cannot be.
    is_settled: bool,
}

/// The fixed parts of the tasks in force, and the folder of their files.
#[derive(Debug)]
pub struct Prefixes {
    folder: PathBuf,
    identity: String,
    form: Arc<PromptForm>,
    tasks: Arc<CurrentTasks>,
    /// The tasks that `fixed` is of.
    seen: Option<Arc<TaskSet>>,
    fixed: Vec<Fixed>,
}

/// A checksum: FNV-1a of 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv), by words of eight bytes.
fn checksum(mut hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut add = |word: u64| hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    words.iter().for_each(|word| add(u64::from_le_bytes(*word)));
    rest.iter().for_each(|byte| add(u64::from(*byte)));
    hash
}

/// The start of a checksum.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// What tells a model file from others without reading all of it: size, time of change, and samples.
fn model_identity(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::FileExt as _;
    const SAMPLES: u64 = 64;
    let file = fs::File::open(path)?;
    let meta = file.metadata()?;
    let changed = meta.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let (mut sum, mut sample) = (BASIS, vec![0; 1 << 16]);
    for index in 0..=SAMPLES {
        let read = file.read_at(&mut sample, meta.len() / SAMPLES * index)?;
        sum = checksum(sum, &sample[..read]);
    }
    Ok(format!("{} bytes, changed {changed}, samples {sum:016x}", meta.len()))
}

impl Prefixes {
    /// For the model file `path` that `engine` runs; `None` where the file cannot be told from others.
    pub fn new(
        folder: PathBuf,
        path: &Path,
        engine: &Engine<'_>,
        form: Arc<PromptForm>,
        tasks: Arc<CurrentTasks>,
    ) -> Option<Self> {
        let model = model_identity(path)
            .inspect_err(|error| {
                log::warn!("{}: {error}; what tasks begin with is not kept on disk", path.display());
            })
            .ok()?;
        let (version, numerics) = (env!("CARGO_PKG_VERSION"), tern_runtime::NUMERICS);
        let (config, options) = (engine.model().config, engine.options());
        let identity = format!("{model}; tern {version}, numerics {numerics}; {config:?}; {options:?}");
        Some(Prefixes { folder, identity, form, tasks, seen: None, fixed: Vec::new() })
    }

    /// Looks whether the tasks are others than before, and takes what is kept of them into the engine's cache.
    pub fn load(&mut self, engine: &mut Engine<'_>) {
        let tasks = self.tasks.set();
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &tasks)) {
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
                }
                Err(Unusable::Absent) => {}
                Err(why) => {
                    log::warn!("{}: {}; it is written anew", path.display(), why.words());
                }
            }
        }
        self.seen = Some(tasks);
    }

    /// Writes one fixed part that was computed and is not on disk, if there is one.
    pub fn save_one(&mut self, engine: &Engine<'_>) {
        let Self { folder, identity, fixed, .. } = self;
        let is_computed =
            |fixed: &Fixed| engine.cache().stored(&fixed.tokens).count() == fixed.tokens.len() / PAGE_CELLS;
        let Some(fixed) = fixed.iter_mut().find(|fixed| !fixed.is_settled && is_computed(fixed)) else {
            return;
        };
        fixed.is_settled = true;
        let path = place(folder, identity, &fixed.tokens);
        match write(&path, identity, &fixed.tokens, engine) {
            Ok(()) => log::debug!("task {}: its fixed part is kept in {}", fixed.task, path.display()),
            Err(why) => log::info!("task {}: its fixed part is computed at each start: {why}", fixed.task),
        }
    }
}

/// What prompts of a task begin with, whatever the text: whole pages of tokens.
fn fixed_tokens(form: &PromptForm, task: &Task, engine: &Engine<'_>) -> Vec<u32> {
    let [mut tokens, other] = PROBES.map(|probe| form.task(task, probe).ids(engine.tokenizer()));
    let shared = tokens.iter().zip(&other).take_while(|(a, b)| a == b).count();
    tokens.truncate(shared / PAGE_CELLS * PAGE_CELLS);
    if tokens.len() < engine.options().context_tokens { tokens } else { Vec::new() }
}

fn place(folder: &Path, identity: &str, tokens: &[u32]) -> PathBuf {
    let of_tokens = tokens.iter().fold(BASIS, |hash, token| checksum(hash, &token.to_le_bytes()));
    folder.join(format!("{:016x}.kv", checksum(of_tokens, identity.as_bytes())))
}

/// Why a file is passed over.
#[derive(Debug)]
enum Unusable {
    Absent,
    Unreadable(String),
    NoHead,
    Foreign,
    Length { expected: usize, found: usize },
    Damaged,
}

impl Unusable {
    fn words(&self) -> String {
        match self {
            Unusable::Absent => "it is not there".into(),
            Unusable::Unreadable(why) => why.clone(),
            Unusable::NoHead => "its first line is not that of kept keys and values".into(),
            Unusable::Foreign => "it is of another model, program or text".into(),
            Unusable::Length { expected, found } => format!("it has {found} bytes of pages, not {expected}"),
            Unusable::Damaged => "its checksum does not fit".into(),
        }
    }
}

/// Takes the pages of a file into the cache; returns how many there are of them.
fn read(path: &Path, identity: &str, tokens: &[u32], engine: &mut Engine<'_>) -> Result<usize, Unusable> {
    if !path.exists() {
        return Err(Unusable::Absent);
    }
    let file = MappedFile::open(path).map_err(|error| Unusable::Unreadable(error.to_string()))?;
    let bytes = file.bytes();
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Unusable::NoHead)?;
    let head: Head = serde_json::from_slice(&bytes[..end]).map_err(|_| Unusable::NoHead)?;
    let page_bytes = engine.cache().shape().page_bytes();
    if (head.form, &*head.identity, &*head.tokens, head.page_bytes) != (1, identity, tokens, page_bytes) {
        return Err(Unusable::Foreign);
    }
    let pages = &bytes[end + 1..];
    let expected = tokens.len() / PAGE_CELLS * page_bytes;
    if pages.len() != expected {
        return Err(Unusable::Length { expected, found: pages.len() });
    }
    if checksum(BASIS, pages) != head.checksum {
        return Err(Unusable::Damaged);
    }
    for (index, page) in pages.chunks_exact(page_bytes).enumerate() {
        // What is there already, or has no room, need not be there twice.
        engine.restore(tokens, index, page);
    }
    Ok(expected / page_bytes)
}

fn write(path: &Path, identity: &str, tokens: &[u32], engine: &Engine<'_>) -> Result<(), String> {
    let pages = || engine.cache().stored(tokens);
    let checksum = pages().fold(BASIS, checksum);
    let page_bytes = engine.cache().shape().page_bytes();
    let bytes = (tokens.len() / PAGE_CELLS * page_bytes) as u64;
    if bytes > MOST_BYTES {
        return Err(format!("it has {bytes} bytes, more than the {MOST_BYTES} of all such files"));
    }
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    make_room(folder, MOST_BYTES - bytes).map_err(|error| error.to_string())?;
    let head = Head { form: 1, identity: identity.to_owned(), tokens: tokens.to_vec(), page_bytes, checksum };
    let mut line = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let mut file = Replacement::create(path).map_err(|error| error.to_string())?;
    file.write_all(&line).map_err(|error| error.to_string())?;
    for page in pages() {
        file.write_all(page).map_err(|error| error.to_string())?;
    }
    file.keep().map_err(|error| error.to_string())
}

/// Removes the oldest files until those that are left have at most `most` bytes.
fn make_room(folder: &Path, most: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() && entry.path().extension().is_some_and(|ending| ending == "kv") {
            files.push((meta.modified()?, meta.len(), entry.path()));
        }
    }
    files.sort();
    let mut all: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in files {
        if all <= most {
            break;
        }
        fs::remove_file(path)?;
        all -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let model = ModelChoice {
            path: Some(
                concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf").into(),
            ),
            engine: EngineChoice { threads: Some(1), ..EngineChoice::default() },
        };
        with_engine(&model, |engine, opened| {
            let form = Arc::new(PromptForm::of(engine.tokenizer()));
            let mut prefixes =
                Prefixes::new(state.into(), &opened.path, engine, form, Arc::clone(tasks)).expect("a model");
            prefixes.load(engine);
            test(engine, &mut prefixes)
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

    #[test]
    fn a_fixed_part_outlives_the_engine_and_a_damaged_file_does_not_count() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("prefixes");
        let known = tasks(folder.path(), "abc ");
        let fixed = start(&state, &known, |engine, prefixes| {
            prefixes.save_one(engine);
            assert!(!state.exists(), "nothing was computed yet");
            assert_eq!(ask(engine, prefixes), 0);
            prefixes.save_one(engine);
            let fixed =
                prefixes.fixed.iter().find(|fixed| fixed.task == "long").expect("it has a fixed part");
            fixed.tokens.len()
        });
        assert!(fixed >= PAGE_CELLS, "{fixed} tokens");
        let files =
            || fs::read_dir(&state).expect("it is there").map(|entry| entry.expect("an entry").path());
        let path = files().next().expect("one file");
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
            prefixes.save_one(engine);
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
    fn the_oldest_files_make_room() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
        for (age, name) in ["a.kv", "b.kv", "c.kv", "other"].into_iter().enumerate() {
            fs::write(folder.path().join(name), [0; 10]).expect("a place for it");
            let file = fs::File::options().write(true).open(folder.path().join(name)).expect("it is there");
            file.set_modified(old + std::time::Duration::from_secs(age as u64)).expect("it can be set");
        }
        make_room(folder.path(), 15).expect("it can be read");
        let left = |name: &str| folder.path().join(name).exists();
        assert_eq!([left("a.kv"), left("b.kv"), left("c.kv"), left("other")], [false, false, true, true]);
    }
}
