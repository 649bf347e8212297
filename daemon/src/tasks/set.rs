//! The tasks that a daemon has: those built in, and those of a folder.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Answering, Task, TaskError};
use crate::config::line_of;
use crate::config::unknown::explain;
use crate::error::{CommandError, Exit};
use crate::grammar::CompileError;
use crate::wire::Ask;

/// Tasks that are part of the program, by file name and in that order.
const BUILT_IN: [(&str, &str); 4] = [
    ("log-severity", include_str!("../../tasks/log-severity.toml")),
    ("log-subsystem", include_str!("../../tasks/log-subsystem.toml")),
    ("needs-a-person", include_str!("../../tasks/needs-a-person.toml")),
    ("summarize", include_str!("../../tasks/summarize.toml")),
];

/// Bytes of the largest task file.
const FILE_BYTES: u64 = 1 << 20;

/// Tasks by name.
#[derive(Clone, Debug, Default)]
pub struct TaskSet {
    tasks: BTreeMap<String, Arc<Task>>,
}

/// A task file that cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum TaskFileError {
    /// The folder or file cannot be read.
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is far too large for a task.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file is not TOML, or has a key that is unknown or of another type.
    Syntax {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The task makes no sense.
    Task {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: TaskError,
    },
    /// Its schema cannot be kept.
    Schema {
        /// The file.
        path: PathBuf,
        /// Why.
        error: CompileError,
    },
}

impl fmt::Display for TaskFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskFileError::Read { path, .. } => write!(f, "cannot read tasks from '{}'", path.display()),
            TaskFileError::TooLarge { path, bytes } => {
                write!(f, "'{}' has {bytes} bytes; a task file has at most {FILE_BYTES}", path.display())
            }
            TaskFileError::Syntax { path, line, message } => {
                write!(f, "{}:{line}: {message}", path.display())
            }
            TaskFileError::Task { path, error } => write!(f, "{}: {error}", path.display()),
            TaskFileError::Schema { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl Error for TaskFileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TaskFileError::Read { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<TaskFileError> for CommandError {
    fn from(error: TaskFileError) -> Self {
        let exit = if matches!(error, TaskFileError::Read { .. }) { Exit::NoInput } else { Exit::BadInput };
        CommandError::from_error(exit, &error)
    }
}

/// Parses the text of a task file; the task is called after `stem`, its file's name without the ending, if it does not say.
///
/// # Errors
/// If it is no TOML, or no task.
pub fn parse(path: &Path, stem: &str, text: &str) -> Result<(String, Task), TaskFileError> {
    let mut ask: Ask = toml::from_str(text).map_err(|error| TaskFileError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        message: explain(text, &error),
    })?;
    let name = ask.name.take().unwrap_or_else(|| stem.to_owned());
    ask.name = Some(name.clone());
    let task = Task::new(ask).map_err(|error| TaskFileError::Task { path: path.to_owned(), error })?;
    if let Answering::Text { schema: Some(schema), .. } = &task.answering {
        schema.check().map_err(|error| TaskFileError::Schema { path: path.to_owned(), error })?;
    }
    Ok((name, task))
}

impl TaskSet {
    /// The tasks built in, and those of `folder`, which come first where names are equal.
    ///
    /// # Errors
    /// The first file that cannot be used: a daemon that lacks a task its clients count on must not start.
    pub fn load(folder: Option<&Path>) -> Result<Self, TaskFileError> {
        let mut set = TaskSet::default();
        for (stem, text) in BUILT_IN {
            set.add(parse(Path::new(&format!("(built in) {stem}.toml")), stem, text)?);
        }
        let Some(folder) = folder else { return Ok(set) };
        let read = |path: &Path| {
            let path = path.to_owned();
            move |error| TaskFileError::Read { path, error }
        };
        for entry in std::fs::read_dir(folder).map_err(read(folder))? {
            let path = entry.map_err(read(folder))?.path();
            if path.extension().is_none_or(|ending| ending != "toml") {
                continue;
            }
            let bytes = std::fs::metadata(&path).map_err(read(&path))?.len();
            if bytes > FILE_BYTES {
                return Err(TaskFileError::TooLarge { path, bytes });
            }
            let text = std::fs::read_to_string(&path).map_err(read(&path))?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            set.add(parse(&path, &stem, &text)?);
        }
        Ok(set)
    }

    fn add(&mut self, (name, task): (String, Task)) {
        self.tasks.insert(name, Arc::new(task));
    }

    /// The task called `name`.
    pub fn find(&self, name: &str) -> Option<&Arc<Task>> {
        self.tasks.get(name)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Answering;

    #[test]
    fn the_tasks_built_in_make_sense() {
        let set = TaskSet::load(None).expect("they are part of the program");
        assert!(set.names().eq(BUILT_IN.map(|(name, _)| name)), "{:?}", set.names().collect::<Vec<_>>());
        let task = set.find("log-subsystem").expect("it is built in");
        assert!(matches!(&task.answering, Answering::Decision { labels, .. } if labels.len() == 13));
        assert_eq!(task.name.as_deref(), Some("log-subsystem"));
    }

    #[test]
    fn a_folder_adds_and_replaces() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
        write("summarize.toml", "kind = 'text'\ninstructions = 'Shorter.'");
        write("door.toml", "name = 'front-door'\nkind = 'yes_no'\ninstructions = 'Open?'");
        write("notes.txt", "not a task");
        let set = TaskSet::load(Some(folder.path())).expect("all make sense");
        assert_eq!(set.find("summarize").map(|task| task.instructions.as_str()), Some("Shorter."));
        assert!(set.find("front-door").is_some() && set.find("door").is_none());
        assert_eq!(set.names().count(), BUILT_IN.len() + 1);

        write("bad.toml", "kind = 'yes_no'\n\ninstruction = 'Open?'");
        let message = TaskSet::load(Some(folder.path())).expect_err("a misspelt key").to_string();
        assert!(
            message.contains("bad.toml:3: instruction: unknown key; did you mean instructions?"),
            "{message}"
        );
        let missing = TaskSet::load(Some(&folder.path().join("none"))).expect_err("no such folder");
        assert!(matches!(missing, TaskFileError::Read { .. }));
    }
}
