//! Why a model cannot be used.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use tern_boards::SelectError;
use tern_boards::knobs::KnobError;
use tern_runtime::error::LoadError;
use tern_runtime::map;

use crate::error::{CommandError, Exit};
use crate::packing::PackError;

/// Why a model could not be opened for use.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// No file was named and no default is there.
    NoDefault {
        /// Where it was looked for.
        looked_at: Vec<PathBuf>,
    },
    /// The file cannot be opened or mapped.
    File(map::OpenError),
    /// The file is not a model that can be run as asked.
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: LoadError,
    },
    /// A table of tiles beside the model cannot be read.
    Tiles {
        /// The table.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The weights look like I2_S in other blocks than they were read in, and nobody said which they are.
    Blocks {
        /// The file.
        path: PathBuf,
        /// By how many standard errors the others fit better.
        standard_errors: f64,
    },
    /// It is a packed file that this build cannot use.
    Packed {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<PackError>,
    },
    /// An option that makes no sense of a directory, which can only be used packed.
    Directory {
        /// The directory.
        path: PathBuf,
        /// The option.
        option: &'static str,
    },
    /// It can only be used packed, and that failed.
    Unpacked {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A kernel set was asked for that cannot run here.
    Kernels {
        /// The name asked for.
        asked: String,
        /// The names that would do, best first.
        usable: Vec<&'static str>,
    },
    /// The tuning variable for kernels names a set that cannot run here.
    Select(SelectError),
    /// A tuning variable holds something it cannot take.
    Knob(KnobError),
    /// No such number of threads.
    Threads {
        /// Threads asked for.
        found: usize,
        /// The most there may be.
        most: usize,
    },
    /// The model does not fit the memory that is free.
    Memory {
        /// The file.
        path: PathBuf,
        /// Bytes of the arena.
        arena_bytes: u64,
        /// Bytes of the mapped file that every token reads.
        streamed_bytes: u64,
        /// Bytes that are free for a new program.
        available_bytes: u64,
        /// The largest section of the arena and its bytes.
        largest: (&'static str, u64),
        /// With what it would fit.
        relief: String,
    },
    /// The system refused the arena's memory.
    Allocation {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The system refused a thread.
    Workers {
        /// Threads asked for.
        threads: usize,
        /// What it said.
        error: io::Error,
    },
}

impl OpenError {
    /// The exit code of a command that fails with this.
    pub fn exit(&self) -> Exit {
        match self {
            OpenError::NoDefault { .. } | OpenError::File(_) | OpenError::Memory { .. } => Exit::NoInput,
            OpenError::Model { error: LoadError::Options(_), .. } => Exit::BadInput,
            OpenError::Model { .. } | OpenError::Packed { .. } => Exit::NoInput,
            OpenError::Tiles { .. } | OpenError::Blocks { .. } => Exit::NoInput,
            OpenError::Unpacked { .. } => Exit::CannotCreate,
            OpenError::Directory { .. }
            | OpenError::Kernels { .. }
            | OpenError::Select(_)
            | OpenError::Knob(_)
            | OpenError::Threads { .. } => Exit::BadInput,
            OpenError::Allocation { .. } | OpenError::Workers { .. } => Exit::Internal,
        }
    }
}

/// Bytes as mebibytes, rounded up: a need must not look smaller than it is.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NoDefault { looked_at } => {
                let places: Vec<_> = looked_at.iter().map(|place| place.display().to_string()).collect();
                write!(
                    f,
                    "no model is named and the bundled one is in none of {}; give --model FILE or set TERN_MODEL",
                    places.join(", ")
                )
            }
            OpenError::File(error) => write!(f, "{error}"),
            OpenError::Model { path, error } => write!(f, "cannot use '{}': {error}", path.display()),
            OpenError::Tiles { path, line, message } => {
                write!(
                    f,
                    "{}:{line}: {message}; it should be the kernel_config.ini of bitnet.cpp",
                    path.display()
                )
            }
            OpenError::Blocks { path, standard_errors } => write!(
                f,
                "cannot use '{}': its I2_S weights were written in blocks of 64, as bitnet.cpp built for ARM does, and read in \
                 blocks of 128 the model would answer with noise (the neurons of its matrices fit together {standard_errors:.0} \
                 standard errors better in blocks of 64); give --i2s-blocks 64, or pack it once with tern pack --i2s-blocks 64; \
                 --i2s-blocks 128 reads it as it is all the same",
                path.display()
            ),
            OpenError::Packed { path, error } => write!(f, "cannot use '{}': {error}", path.display()),
            OpenError::Directory { path, option } => write!(
                f,
                "'{}' is a directory, which is packed once before it is used and has no I2_S blocks: {option} is for GGUF \
                 files; leave it out, or pack the directory with tern pack and give the file",
                path.display()
            ),
            OpenError::Unpacked { path, why } => write!(
                f,
                "'{}' is a directory, which is packed before it is used, and that failed: {why}",
                path.display()
            ),
            OpenError::Kernels { asked, usable } => write!(
                f,
                "kernel set {asked:?} cannot run on this machine; give one of {}, or none for the fastest",
                usable.join(", ")
            ),
            OpenError::Select(error) => write!(f, "{error}"),
            OpenError::Knob(error) => write!(f, "{error}"),
            OpenError::Threads { found, most } => {
                write!(f, "{found} threads were asked for; there may be 1 to {most}")
            }
            OpenError::Memory { path, arena_bytes, streamed_bytes, available_bytes, largest, relief } => {
                write!(
                    f,
                    "'{}' needs {} MiB ({} MiB of working memory and {} MiB of weights), {} MiB are free; the largest \
                 part of the working memory is the {} with {} MiB; {relief}; or stop other programs",
                    path.display(),
                    mib(arena_bytes.saturating_add(*streamed_bytes)),
                    mib(*arena_bytes),
                    mib(*streamed_bytes),
                    available_bytes >> 20,
                    largest.0,
                    mib(largest.1)
                )
            }
            OpenError::Allocation { bytes } => write!(
                f,
                "the system refuses {} MiB of memory; lower --context, --cache, --slots or --batch, or raise the limit of \
                 this process",
                mib(*bytes as u64)
            ),
            OpenError::Workers { threads, .. } => {
                write!(f, "the system refuses {threads} threads; lower --threads or raise the limit of tasks")
            }
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The others print their cause themselves.
            OpenError::File(error) => error.source(),
            OpenError::Workers { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<OpenError> for CommandError {
    fn from(error: OpenError) -> Self {
        CommandError::from_error(error.exit(), &error)
    }
}
