//! A directory as Hugging Face publishes models, described as the packed file it would become.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::TempDir;
use tern_runtime::head::HeadKind;

use crate::checkpoint::Checkpoint;
use crate::error::{CommandError, Exit};
use crate::model::{EngineChoice, Need, OpenError, check_directory};
use crate::packing::{PackError, Recipe};
use crate::replace::cannot_write;

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointFacts {
    /// Its class, as config.json names it.
    pub class: String,
    /// How its ternary weights are written down.
    pub convention: String,
    /// Its safetensors files.
    pub files: usize,
    /// Bytes of its tensors.
    pub tensor_bytes: u64,
    /// How many tensors there are of each type.
    pub dtypes: BTreeMap<String, usize>,
    /// The layout that it would be packed in.
    pub layout: &'static str,
}

/// A file with the header that a checkpoint's packed form would have and a hole instead of its data: it takes no room on
/// the disk, and everything that does not depend on weights can be asked of it.
#[derive(Debug)]
pub struct Outline {
    // Removed when this is dropped.
    _folder: TempDir,
    file: PathBuf,
    /// What the directory holds.
    pub facts: CheckpointFacts,
}

impl Outline {
    /// The outline of the checkpoint in `folder`, packed as it would be for `choice`.
    ///
    /// # Errors
    /// If it is none that can be packed, or there is no place for temporary files.
    pub fn new(folder: &Path, choice: &EngineChoice) -> Result<Self, CommandError> {
        check_directory(folder, choice)?;
        let unusable =
            |error: PackError| OpenError::Packed { path: folder.to_owned(), error: Box::new(error) };
        let checkpoint = Checkpoint::open(folder).map_err(|error| unusable(error.into()))?;
        let load = checkpoint.load().map_err(unusable)?;
        let host = choice.host(Need { layout: None, load: Some(load), may_try: false })?;
        let recipe = Recipe { layout: host.set.layout, int8_head: choice.head != Some(HeadKind::File) };
        let header = checkpoint.header(&recipe).map_err(unusable)?;
        let temporary =
            tempfile::tempdir().map_err(|error| CommandError::from_error(Exit::CannotCreate, &error))?;
        let file = temporary.path().join("outline.gguf");
        let written = OpenOptions::new().write(true).create_new(true).open(&file).and_then(|mut out| {
            out.write_all(&header.bytes())?;
            out.set_len(header.file_bytes())
        });
        written.map_err(|error| cannot_write(&file, &error))?;
        let mut dtypes = BTreeMap::new();
        for tensor in checkpoint.tensors.iter() {
            *dtypes.entry(tensor.dtype.to_string()).or_insert(0) += 1;
        }
        let facts = CheckpointFacts {
            class: checkpoint.shape.class.clone(),
            convention: checkpoint.shape.convention.to_string(),
            files: checkpoint.tensors.files(),
            tensor_bytes: checkpoint.tensors.bytes(),
            dtypes,
            layout: recipe.layout.name(),
        };
        Ok(Outline { _folder: temporary, file, facts })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}
