//! All tensors of a checkpoint: one safetensors file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::CheckpointError;
use super::settings;
use super::shard::{Shard, Tensor};

/// A model in one file.
const SINGLE: &str = "model.safetensors";
/// Which shard has which tensor.
const INDEX: &str = "model.safetensors.index.json";
/// Largest index that is read.
const MOST_INDEX_BYTES: u64 = 64 << 20;
/// Most shards; each is an open file.
const MOST_SHARDS: usize = 256;

/// The tensors of a checkpoint.
#[derive(Debug)]
pub struct Tensors {
    shards: Vec<Shard>,
    by_name: BTreeMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Tensors {
    /// Opens the files in `folder` and reads their headers.
    pub(super) fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let single = folder.join(SINGLE);
        let mut this = Tensors { shards: Vec::new(), by_name: BTreeMap::new() };
        if single.exists() {
            this.add(&single)?;
            return Ok(this);
        }
        let index = folder.join(INDEX);
        let no_weights = CheckpointError::NoFile {
            folder: folder.to_owned(),
            wanted: "model.safetensors and no model.safetensors.index.json",
            advice: "weights are read from safetensors files only",
        };
        let bytes = settings::read(&index, MOST_INDEX_BYTES)?.ok_or(no_weights)?;
        let Index { weight_map } = serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::Json { path: index.clone(), error })?;
        let files: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        if files.len() > MOST_SHARDS {
            let problem = format!("it names {} files, at most {MOST_SHARDS} are opened", files.len());
            return Err(CheckpointError::shard(&index, problem));
        }
        for file in files {
            // A name with folders in it could be any file of the machine.
            if Path::new(file).file_name() != Some(file.as_ref()) {
                let problem = format!("it names '{file}'; the name of a file beside it is expected");
                return Err(CheckpointError::shard(&index, problem));
            }
            this.add(&folder.join(file))?;
        }
        for (name, file) in &weight_map {
            let is_there = this.by_name.get(name).is_some_and(|tensor| this.path_of(tensor).ends_with(file));
            if !is_there {
                return Err(CheckpointError::shard(&index, format!("tensor '{name}' is not in '{file}'")));
            }
        }
        if let Some(name) = this.by_name.keys().find(|name| !weight_map.contains_key(*name)) {
            let problem = format!("a shard has tensor '{name}', the index does not");
            return Err(CheckpointError::shard(&index, problem));
        }
        Ok(this)
    }

    fn add(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let (shard, tensors) = Shard::open(path, self.shards.len())?;
        self.shards.push(shard);
        for tensor in tensors {
            if let Some(twice) = self.by_name.insert(tensor.name.clone(), tensor) {
                let other = self.path_of(&twice).display();
                let problem = format!("tensor '{}' is in '{other}' as well", twice.name);
                return Err(CheckpointError::shard(path, problem));
            }
        }
        Ok(())
    }

    fn path_of(&self, tensor: &Tensor) -> &Path {
        &self.shards[tensor.shard].path
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.by_name.values()
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.shards.len()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.by_name.values().map(|tensor| tensor.bytes).sum()
    }

    /// Reads `into.len()` bytes of `tensor`, from `from_bytes` on.
    pub(super) fn read(
        &self,
        tensor: &Tensor,
        from_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), CheckpointError> {
        debug_assert!(from_bytes + into.len() as u64 <= tensor.bytes, "inside the tensor");
        self.shards[tensor.shard].read_at(tensor.at_bytes + from_bytes, into)
    }

    /// The whole of `tensor` in `into`.
    pub(super) fn read_all(&self, tensor: &Tensor, into: &mut Vec<u8>) -> Result<(), CheckpointError> {
        into.resize(tensor.bytes as usize, 0); // as much as the file has, checked when it was opened
        self.read(tensor, 0, into)
    }

    /// Headers, sizes and times of the files: what tells this checkpoint from another without reading its weights.
    pub(super) fn fingerprint(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(&shard.header);
            if let Ok(metadata) = shard.file.metadata() {
                let changed =
                    metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                all.extend(changed.map_or(0, |at| at.as_nanos()).to_le_bytes());
                all.extend(metadata.len().to_le_bytes());
            }
        }
        all
    }
}
