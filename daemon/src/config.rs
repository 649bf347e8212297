//! `tern.toml`: everything a daemon can be told, with defaults that suit a small board.
//!
//! Every key may be left out. A key that is not known is an error with its line, since a misspelt limit that silently
//! does nothing is worse than a daemon that does not start.

pub mod activations;
pub mod blocks;
pub mod changes;
pub mod digest;
pub mod energy;
pub mod http;
pub mod level;
pub mod metering;
pub mod mqtt;
pub mod prefixes;
pub mod record;
pub mod secret;
pub mod socket;
pub mod unknown;

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tern_runtime::head::HeadKind;
use tern_runtime::kv_cache::KvType;

use crate::error::{CommandError, Exit};
use crate::model::{EngineChoice, ModelChoice};
use crate::serve::spending::{self, BadJoules};
use crate::tasks::TaskSet;
use activations::ActivationsName;
use blocks::BlocksOf;
use digest::Digest;
use energy::EnergySection;
use http::HttpSection;
pub use level::LogLevel;
use mqtt::{MqttSection, Watch};
use socket::{SerialSection, SocketSection};

/// Configuration of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Messages of which importance are logged.
    pub log: LogLevel,
    /// The model and how it runs.
    pub model: ModelSection,
    /// The socket clients connect to.
    pub socket: SocketSection,
    /// A serial line, if there is one.
    pub serial: Option<SerialSection>,
    /// Task files.
    pub tasks: TasksSection,
    /// How much clients may ask for.
    pub limits: Limits,
    /// What tasks begin with, on disk.
    pub prefixes: prefixes::PrefixSection,
    /// The power meter, and how much power and heat there may be.
    pub energy: EnergySection,
    /// The broker, if there is one.
    pub mqtt: Option<MqttSection>,
    /// HTTP, if it is spoken.
    pub http: Option<HttpSection>,
    /// Topics of others whose messages go to a task.
    pub watch: Vec<Watch>,
    /// Topics of others whose messages are collected and go to a task together.
    pub digest: Vec<Digest>,
}

/// `[model]`; what is left out is chosen for the machine and the model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// Model file.
    pub path: Option<PathBuf>,
    /// Worker threads.
    pub threads: Option<usize>,
    /// Kernel set by name.
    pub kernels: Option<String>,
    /// Tokens of one request, prompt and answer together.
    pub context_tokens: Option<usize>,
    /// Tokens whose keys and values are kept for all requests together.
    pub cache_tokens: Option<usize>,
    /// Requests that may run at once.
    pub slots: Option<usize>,
    /// Tokens that go through the model together.
    pub batch_rows: Option<usize>,
    /// Tokens that may be tried ahead in a step; 0 for none.
    pub draft_tokens: Option<usize>,
    /// How keys and values are stored.
    pub kv: Option<KvName>,
    /// Whether a model that is not packed is packed once into the state directory; yes unless it says no.
    pub pack: Option<bool>,
    /// Head that turns states into logits.
    pub head: Option<HeadName>,
    /// What ternary products take as their input.
    pub activations: Option<ActivationsName>,
    /// Weights in a block of I2_S.
    pub i2s_blocks: Option<BlocksOf>,
}

/// `head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadName {
    /// As the file has it.
    File,
    /// In int8.
    Int8,
}

/// `kv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvName {
    /// 16 bits.
    F16,
    /// 32 bits.
    F32,
    /// 8 bits and a scale.
    I8,
}

/// `[tasks]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TasksSection {
    /// Folder of task files (`*.toml`), beside those built in; one of the same name replaces it.
    pub folder: Option<PathBuf>,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Clients connected at once.
    pub clients: usize,
    /// Requests that wait for the engine, of all clients.
    pub queue: usize,
    /// Requests of one client that wait for the engine.
    pub client_queue: usize,
    /// Bytes of one line, at most 1 MiB.
    pub line_bytes: usize,
    /// Time from the beginning of a line to its end.
    pub line_ms: u64,
    /// Bytes of the text of a request.
    pub text_bytes: usize,
    /// Texts longer than the context that are worked on at once.
    pub long_texts: usize,
    /// Bytes of answers that may wait for a client that does not read them.
    pub unread_bytes: usize,
    /// Time a client may take to accept bytes that are sent to it.
    pub write_ms: u64,
    /// Deadline of requests that name none; without it they have none.
    pub deadline_ms: Option<u32>,
    /// Joules of requests that name none; without it they are not limited.
    pub max_joules: Option<f64>,
    /// Time that running requests get to finish when the daemon is told to stop.
    pub stop_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            clients: 64,
            queue: 128,
            client_queue: 64,
            line_bytes: tern_protocol::limits::LINE_BYTES,
            line_ms: 30_000,
            text_bytes: 64 << 10,
            long_texts: 8,
            unread_bytes: 256 << 10,
            write_ms: 30_000,
            deadline_ms: None,
            max_joules: None,
            stop_ms: 5_000,
        }
    }
}

/// The socket that daemons and clients use when they are told no other: in the service's own runtime directory, in
/// the user's, or `/run/tern/tern.sock`.
pub fn default_socket() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || set("XDG_RUNTIME_DIR").map(|folder| folder.join("tern"));
    set("RUNTIME_DIRECTORY").or_else(user).unwrap_or_else(|| PathBuf::from("/run/tern")).join("tern.sock")
}

/// A configuration that cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not TOML, or has a key that is unknown or holds something of another type.
    Syntax {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A number outside its range.
    Range {
        /// The key with its section.
        key: &'static str,
        /// What it is.
        found: u64,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// A topic is to go to a task that is not there.
    UnknownTask {
        /// The topic.
        topic: String,
        /// The task.
        task: String,
    },
    /// A text that makes no sense.
    Value {
        /// The key with its section.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Read { path, .. } => write!(f, "cannot read the configuration '{}'", path.display()),
            ConfigError::Syntax { path, line, message } => write!(f, "{}:{line}: {message}", path.display()),
            ConfigError::Range { key, found, least, most } => {
                write!(f, "{key} is {found}; it may be {least} to {most}")
            }
            ConfigError::UnknownTask { topic, task } => {
                write!(f, "{topic:?} is read for the task {task:?}, which is not there")
            }
            ConfigError::Value { key, found, expected } => {
                write!(f, "{key} is {found:?}; it must be {expected}")
            }
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ConfigError::Read { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        let exit = if matches!(error, ConfigError::Read { .. }) { Exit::NoInput } else { Exit::BadInput };
        CommandError::from_error(exit, &error)
    }
}

/// The line of byte `at`, counted from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// Checks numbers, each with its key and its least and greatest value.
fn in_range(ranges: &[(&'static str, u64, u64, u64)]) -> Result<(), ConfigError> {
    match ranges.iter().find(|(_, found, least, most)| !(least..=most).contains(&found)) {
        Some(&(key, found, least, most)) => Err(ConfigError::Range { key, found, least, most }),
        None => Ok(()),
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// If it cannot be read, or something in it makes no sense.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Config::parse(path, &Config::text(path)?)
    }

    /// The text of a configuration file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn text(path: &Path) -> Result<String, ConfigError> {
        std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })
    }

    /// Checks the text of the configuration file `path`.
    ///
    /// # Errors
    /// If something in it makes no sense.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            message: unknown::explain(text, &error),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks every number; the model's own are checked when it is opened.
    ///
    /// # Errors
    /// The first number outside its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Limits {
            clients,
            queue,
            client_queue,
            line_bytes,
            line_ms,
            text_bytes,
            long_texts,
            unread_bytes,
            write_ms,
            deadline_ms,
            max_joules,
            stop_ms,
        } = self.limits;
        let hour_ms = 3_600_000;
        let ranges = [
            ("socket.mode", u64::from(self.socket.mode), 0, 0o777),
            ("limits.clients", clients as u64, 1, 1024),
            ("limits.queue", queue as u64, 1, 65_536),
            ("limits.client_queue", client_queue as u64, 1, 65_536),
            ("limits.line_bytes", line_bytes as u64, 256, tern_protocol::limits::LINE_BYTES as u64),
            ("limits.line_ms", line_ms, 1, hour_ms),
            ("limits.text_bytes", text_bytes as u64, 1, tern_protocol::limits::LINE_BYTES as u64),
            ("limits.long_texts", long_texts as u64, 1, 256),
            ("limits.unread_bytes", unread_bytes as u64, 4096, 1 << 30),
            ("limits.write_ms", write_ms, 1, hour_ms),
            ("limits.deadline_ms", u64::from(deadline_ms.unwrap_or(1)), 1, hour_ms),
            ("limits.stop_ms", stop_ms, 0, hour_ms),
        ];
        in_range(&ranges)?;
        spending::check(max_joules).map_err(|BadJoules(found)| ConfigError::Value {
            key: "limits.max_joules",
            found: found.to_string(),
            expected: "a number of joules above 0",
        })?;
        self.energy.check()?;
        self.prefixes.check()?;
        self.http.as_ref().map_or(Ok(()), HttpSection::check)?;
        self.energy.check_meters(self.mqtt.is_some())?;
        self.energy.record.check(self.energy.price_per_kwh)?;
        if let Some(serial) = &self.serial {
            serial.check()?;
        }
        match &self.mqtt {
            Some(mqtt) => {
                mqtt.check(&self.watch)?;
                digest::check(&self.digest, &self.watch, mqtt, text_bytes)
            }
            None if self.watch.is_empty() && self.digest.is_empty() => Ok(()),
            None => Err(ConfigError::Value {
                key: if self.watch.is_empty() { "digest" } else { "watch" },
                found: format!("{} topics", self.watch.len() + self.digest.len()),
                expected: "together with [mqtt], which says where the broker is",
            }),
        }
    }

    /// Whether every task that this configuration names is in `tasks`.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_tasks(&self, tasks: &TaskSet) -> Result<(), ConfigError> {
        let watched = self.watch.iter().map(|watch| (&watch.topic, &watch.task));
        let mut named = watched.chain(self.digest.iter().map(|digest| (&digest.topic, &digest.task)));
        match named.find(|(_, task)| tasks.find(task).is_none()) {
            Some((topic, task)) => Err(ConfigError::UnknownTask { topic: topic.clone(), task: task.clone() }),
            None => Ok(()),
        }
    }

    /// The model to serve: what `chosen` says, and this configuration where it says nothing.
    pub fn model_choice(&self, chosen: &ModelChoice) -> ModelChoice {
        let ModelChoice { path, engine } = chosen.clone();
        let section = self.model.clone();
        let kv = section.kv.map(|kv| match kv {
            KvName::F16 => KvType::F16,
            KvName::F32 => KvType::F32,
            KvName::I8 => KvType::I8,
        });
        let head = section.head.map(|head| match head {
            HeadName::File => HeadKind::File,
            HeadName::Int8 => HeadKind::Int8,
        });
        ModelChoice {
            path: path.or(section.path),
            engine: EngineChoice {
                threads: engine.threads.or(section.threads),
                kernels: engine.kernels.or(section.kernels),
                context_tokens: engine.context_tokens.or(section.context_tokens),
                cache_tokens: engine.cache_tokens.or(section.cache_tokens),
                slots: engine.slots.or(section.slots),
                batch_rows: engine.batch_rows.or(section.batch_rows),
                draft_tokens: engine.draft_tokens.or(section.draft_tokens),
                no_pack: engine.no_pack || section.pack == Some(false),
                head: engine.head.or(head),
                kv: engine.kv.or(kv),
                i2s_blocks: engine.i2s_blocks.or(section.i2s_blocks.map(BlocksOf::blocks)),
                activations: engine.activations.or(section.activations.map(ActivationsName::kind)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("tern.toml");
        std::fs::write(&path, text).expect("it can be written");
        Config::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_defaults_and_keys_change_them() {
        assert_eq!(read("").expect("it is sound"), Config::default());
        let config = read(
            "log = \"debug\"\n[model]\npath = \"/m.gguf\"\nthreads = 2\nkv = \"f32\"\n[socket]\nmode = 0o600\n\
             [limits]\nqueue = 7\ndeadline_ms = 900\n",
        )
        .expect("it is sound");
        assert_eq!((config.log, config.socket.mode, config.limits.queue), (LogLevel::Debug, 0o600, 7));
        assert_eq!(config.limits.clients, Limits::default().clients);
        let chosen = EngineChoice { threads: Some(3), ..EngineChoice::default() };
        let choice = config.model_choice(&ModelChoice { path: None, engine: chosen });
        assert_eq!(choice.path.as_deref(), Some(Path::new("/m.gguf")));
        assert_eq!((choice.engine.threads, choice.engine.kv), (Some(3), Some(KvType::F32)));
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let page = include_str!("../../docs/config.md");
        let block = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        // Keys without a default are there as comments; with an example value they must be keys all the same.
        let example: String = block.expect("the page has the file").replace("\n# ", "\n");
        let all = read(&example).expect("every key exists");
        assert!(all.model.path.is_some() && all.tasks.folder.is_some() && all.limits.deadline_ms.is_some());
        let defaults = read(block.expect("the page has the file")).expect("it is sound");
        assert_eq!(defaults, Config::default());
    }

    #[test]
    fn mistakes_are_told_with_their_line_or_key() {
        let unknown = read("[limits]\nclients = 3\nquue = 2\n").expect_err("a misspelt key");
        assert!(unknown.contains("tern.toml:3: ") && unknown.contains("quue"), "{unknown}");
        let kind = read("\n[model]\nthreads = \"two\"\n").expect_err("a string for a number");
        assert!(kind.contains("tern.toml:3: "), "{kind}");
        let range = read("[limits]\nclients = 0\n").expect_err("no clients");
        assert_eq!(range, "limits.clients is 0; it may be 1 to 1024");
        let broken = read("log = \n").expect_err("no value");
        assert!(broken.contains("tern.toml:1: "), "{broken}");
    }
}
