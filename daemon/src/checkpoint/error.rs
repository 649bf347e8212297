//! Why a checkpoint cannot be taken.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a directory is not a checkpoint that this build takes.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file of settings is larger than any such file.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest that is read.
        most_bytes: u64,
    },
    /// A file is not the JSON it should be.
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: serde_json::Error,
    },
    /// A file is missing.
    NoFile {
        /// The directory.
        folder: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A safetensors file contradicts itself.
    Shard {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A tensor is not what the model needs.
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A setting says something that this build does not do.
    Setting {
        /// The file.
        file: &'static str,
        /// The key.
        key: String,
        /// What it says.
        found: String,
        /// What would be understood.
        understood: &'static str,
    },
    /// A part of tokenizer.json is none that this build knows.
    Tokenizer {
        /// The part.
        part: &'static str,
        /// What it says.
        found: String,
        /// What would be understood.
        understood: &'static str,
    },
}

impl CheckpointError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + use<'_> {
        |error| CheckpointError::Read { path: path.to_owned(), error }
    }

    pub(super) fn shard(path: &Path, problem: impl Into<String>) -> Self {
        CheckpointError::Shard { path: path.to_owned(), problem: problem.into() }
    }

    pub(super) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        CheckpointError::Tensor { name: name.to_owned(), problem: problem.into() }
    }
}

/// Text of a file in a message: cut, and without anything that plays tricks on a terminal.
pub(super) fn shown(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    if text.chars().nth(400).is_some() { clean + "..." } else { clean }
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::Read { path, error } => {
                write!(f, "'{}' cannot be read: {error}", path.display())
            }
            CheckpointError::TooLarge { path, bytes, most_bytes } => write!(
                f,
                "'{}' has {bytes} bytes, at most {most_bytes} are read of such a file; it is not what its name says",
                path.display()
            ),
            CheckpointError::Json { path, error } => write!(
                f,
                "'{}' is not the JSON it should be: {}; fetch it again",
                path.display(),
                shown(&error.to_string())
            ),
            CheckpointError::NoFile { folder, wanted, advice } => {
                write!(f, "'{}' has no {wanted}; {advice}", folder.display())
            }
            CheckpointError::Shard { path, problem } => {
                write!(f, "'{}' is no sound safetensors file: {}", path.display(), shown(problem))
            }
            CheckpointError::Tensor { name, problem } => {
                write!(f, "tensor '{}': {}", shown(name), shown(problem))
            }
            CheckpointError::Setting { file, key, found, understood } => {
                write!(f, "{file} says {} = {}; understood is {understood}", shown(key), shown(found))
            }
            CheckpointError::Tokenizer { part, found, understood } => {
                write!(f, "the {part} of tokenizer.json is {}; understood is {understood}", shown(found))
            }
        }
    }
}

impl std::error::Error for CheckpointError {}
