//! Models as Hugging Face publishes them: a directory with config.json, safetensors files and tokenizer.json.
//!
//! A checkpoint is turned into a packed file (`docs/packed.md`) without anything in between: [`Checkpoint::open`] reads what
//! it says of itself and refuses what this build would get wrong, [`Checkpoint::pack`] reads one matrix at a time, quantises
//! or unpacks it and writes it in the layout of the kernels, [`Checkpoint::verify`] does it again and compares every weight.
//!
//! | file here | holds |
//! |---|---|
//! | `shard`, `tensors`, `dtype` | safetensors files, trusted in nothing |
//! | `settings`, `config` | config.json: shape, graph, how weights are written down |
//! | `rope` | how it scales rotary angles |
//! | `matrix` | weights -1, 0 and +1 from packed bytes or from float masters |
//! | `ternary` | floats that are ternary already, and how many columns share a scale |
//! | `parts` | which tensor becomes which of a GGUF |
//! | `tokenizer` | tokenizer.json and its neighbours as the keys of a GGUF |
//! | `keys` | all keys of the packed file |
//! | `pack`, `verify` | writing it, and comparing it with the checkpoint |

mod config;
mod dtype;
mod error;
mod keys;
mod matrix;
mod pack;
mod parts;
mod rope;
mod settings;
mod shard;
mod tensors;
mod ternary;
mod tokenizer;
mod verify;

use std::path::{Path, PathBuf};

pub use config::{Convention, Shape};
pub use dtype::Dtype;
pub use error::CheckpointError;
pub use rope::{Rope, Scaling};
pub use shard::Tensor;
pub use tensors::Tensors;

use settings::Settings;
use tokenizer::Vocabulary;

/// A directory with a model in it, opened.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    /// Its shape.
    pub shape: Shape,
    /// Its tensors.
    pub tensors: Tensors,
    vocabulary: Vocabulary,
    /// Columns of its matrices that share a scale, where each has several.
    group: Option<usize>,
    /// A sum over all that it says of itself.
    sum: u64,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`: all settings and headers are read and found sound, every tensor the model needs is
    /// there, and none is left over.
    ///
    /// # Errors
    /// What is missing, broken, or says something that this build does not do.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let (config, config_bytes) = Settings::open(folder, Shape::FILE)?;
        if config_bytes.is_empty() {
            return Err(CheckpointError::NoFile {
                folder: folder.to_owned(),
                wanted: Shape::FILE,
                advice: "give a GGUF file, or a directory as Hugging Face publishes models",
            });
        }
        let shape = Shape::read(&config)?;
        let tensors = Tensors::open(folder)?;
        let (vocabulary, texts) = Vocabulary::open(folder, &config, shape.vocab)?;
        let said = [config_bytes, texts, tensors.fingerprint()].concat();
        let sum = crate::packing::fnv1a(&said);
        let mut this = Checkpoint { folder: folder.to_owned(), shape, tensors, vocabulary, group: None, sum };
        let matrices = this.matrices()?;
        this.group = match this.shape.convention {
            Convention::Ternary => ternary::grouping(&this.tensors, &matrices)?,
            Convention::Packed | Convention::PackedInverse | Convention::Online => None,
        };
        Ok(this)
    }

    /// Columns of its matrices that share a scale, where each has several.
    pub fn group(&self) -> Option<usize> {
        self.group
    }

    /// The directory's own name.
    pub fn name(&self) -> String {
        let full = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        full.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// A text that tells this checkpoint from another without reading its weights.
    pub fn note(&self) -> String {
        format!("{}, {} bytes of tensors, headers {:016x}", self.name(), self.tensors.bytes(), self.sum)
    }
}
