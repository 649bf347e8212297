//! What is in a model file, what running it takes, and where it fits: the facts behind `tern inspect`.
//!
//! A file that this build cannot run is described as far as its container goes, with every reason why not.

mod boards;
mod checkpoint;
mod memory;

use std::path::{Path, PathBuf};

use serde::Serialize;
use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, TensorInfo};
use tern_runtime::model::{Config, file_layout, grouping};
use tern_runtime::tokenizer::{Repair, Tokenizer};

use crate::model::{EngineChoice, Need, OpenError};
use crate::packing::{look_at, packed};
use crate::tasks::prompt::PromptForm;
use crate::tune::Load;

pub use boards::{BoardFit, RESERVED_BYTES, boards};
pub use checkpoint::{CheckpointFacts, Outline};
pub use memory::{MadeFor, MappedNeed, MemoryNeed, SectionNeed};

/// All that is known of a model file.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// What the directory holds, if it is one; everything else is then said of its packed form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointFacts>,
    /// Version of the container.
    pub gguf_version: u32,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// `general.name`.
    pub name: Option<String>,
    /// Whether this build runs it; otherwise `problems` says why not.
    pub supported: bool,
    /// Why it cannot be run.
    pub problems: Vec<String>,
    /// The model's shape.
    pub shape: Option<ShapeFacts>,
    /// Values in all tensors.
    pub parameters: u64,
    /// Ternary weights.
    pub ternary_weights: Option<u64>,
    /// Columns of their matrices that share a scale, where a matrix has several.
    pub group_cols: Option<usize>,
    /// Bytes of weights that decoding one token reads.
    pub bytes_per_token: Option<u64>,
    /// Tensors by type, the largest sum first.
    pub types: Vec<TypeSum>,
    /// The tokenizer.
    pub tokenizer: Option<TokenizerFacts>,
    /// Defects of the file that are mended when it is loaded.
    pub repairs: Vec<String>,
    /// Where memory goes.
    pub memory: Option<MemoryNeed>,
    /// Known boards and whether it fits them.
    pub boards: Vec<BoardFit>,
    /// Every tensor, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorFacts>,
}

/// Numbers of [`Config`].
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are those of Config, documented there")]
pub struct ShapeFacts {
    pub vocab: usize,
    pub context: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rope_theta: f32,
    pub rms_eps: f32,
}

impl From<Config> for ShapeFacts {
    fn from(config: Config) -> Self {
        let Config { vocab, context, hidden, ffn, layers, heads, kv_heads, head_dim, rope, rms_eps, .. } =
            config;
        let rope_theta = rope.theta;
        ShapeFacts { vocab, context, hidden, ffn, layers, heads, kv_heads, head_dim, rope_theta, rms_eps }
    }
}

/// All tensors of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeSum {
    /// The type.
    #[serde(rename = "type")]
    pub name: &'static str,
    /// Its id in the file.
    pub id: u32,
    /// Whether this build reads it.
    pub supported: bool,
    /// Tensors.
    pub tensors: usize,
    /// Their values.
    pub elements: u64,
    /// Their bytes, where the type's size is known.
    pub bytes: Option<u64>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorFacts {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: &'static str,
    /// Dimensions, the contiguous one first.
    pub dims: Vec<u64>,
    /// Bytes, where the type's size is known.
    pub bytes: Option<u64>,
    /// Where it starts in the file.
    pub at_bytes: u64,
}

/// The tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenizerFacts {
    /// Tokens.
    pub tokens: usize,
    /// Merge rules.
    pub merges: usize,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// Whether a prompt begins with it.
    pub add_bos: bool,
    /// Tokens that end an answer.
    pub stops: Vec<u32>,
    /// How a conversation is written, or why it cannot be.
    pub chat: String,
}

impl Description {
    /// Describes the model `gguf` at `path` as it would be run with `choice`; `all_tensors` lists each of them.
    ///
    /// Reads the weights once to check them, and takes memory for the tokenizer's tables only.
    ///
    /// # Errors
    /// If `choice` asks for something this machine does not have. What is wrong with the model is part of the
    /// description.
    pub fn new(
        path: &Path,
        gguf: &Gguf<'_>,
        choice: &EngineChoice,
        all_tensors: bool,
    ) -> Result<Description, OpenError> {
        let layout = file_layout(gguf);
        let is_packed = matches!(packed(gguf), Ok(Some(_)));
        let layout = layout.filter(|_| is_packed || choice.no_pack);
        let load = Config::read(gguf).and_then(|config| Load::of(gguf, &config)).ok();
        let host = choice.host(Need { layout, load, may_try: false })?;
        let mut description = Description {
            path: path.to_owned(),
            file_bytes: gguf.file_bytes(),
            checkpoint: None,
            gguf_version: gguf.version(),
            architecture: gguf.architecture().ok().map(str::to_owned),
            name: gguf.str("general.name").ok().filter(|name| !name.is_empty()).map(str::to_owned),
            supported: false,
            problems: Vec::new(),
            shape: None,
            parameters: gguf.tensors().map(|tensor| tensor.elements()).sum(),
            ternary_weights: None,
            group_cols: grouping(gguf).ok().flatten(),
            bytes_per_token: None,
            types: types(gguf),
            tokenizer: None,
            repairs: Vec::new(),
            memory: None,
            boards: Vec::new(),
            tensors: Vec::new(),
        };
        if all_tensors {
            description.tensors = gguf.tensors().map(|tensor| facts(gguf, &tensor)).collect();
        }
        if let Err(error) = description.read_tokenizer(gguf) {
            description.problems.push(error.to_string());
        }
        match Config::read(gguf) {
            Ok(config) => {
                description.shape = Some(config.into());
                description.ternary_weights = Some(config.ternary_weights());
                description.read_weights(gguf, config);
                match MemoryNeed::new(gguf, &config, choice, &host) {
                    Ok(memory) => {
                        let least_bytes = memory.one_request_bytes.unwrap_or(memory.resident_bytes);
                        description.boards = boards(least_bytes, description.bytes_per_token);
                        description.memory = Some(memory);
                    }
                    Err(error) => description.note(error),
                }
            }
            Err(error) => description.note(error),
        }
        for ty in description.types.iter().filter(|ty| !ty.supported) {
            let TypeSum { name, id, tensors, .. } = ty;
            let problem = format!("{tensors} tensors of type {name} ({id}), which this build does not read");
            description.problems.push(problem);
        }
        description.supported = description.problems.is_empty();
        Ok(description)
    }

    /// Adds a problem that is not known yet: planning finds the same ones as reading.
    fn note(&mut self, error: LoadError) {
        let problem = error.to_string();
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn read_tokenizer(&mut self, gguf: &Gguf<'_>) -> Result<(), LoadError> {
        let plan = Tokenizer::plan(gguf)?;
        let mut tables = vec![0u32; plan.table_words()];
        let tokenizer = Tokenizer::build(gguf, plan, &mut tables)?;
        self.repairs = tokenizer.repairs().iter().map(|repair| repair.to_string()).collect();
        self.tokenizer = Some(TokenizerFacts {
            tokens: plan.tokens(),
            merges: plan.merges(),
            bos: tokenizer.bos(),
            add_bos: tokenizer.add_bos(),
            stops: tokenizer.stop_tokens().to_vec(),
            chat: match PromptForm::of(&tokenizer).chats() {
                Ok(()) if tokenizer.repairs().contains(Repair::PlaceholderTemplate) => {
                    "the template it was trained on".into()
                }
                Ok(()) => "the file's template".into(),
                Err(error) => error.to_string(),
            },
        });
        Ok(())
    }

    /// Looks at the weights where they lie, whatever kernels would run them.
    fn read_weights(&mut self, gguf: &Gguf<'_>, config: Config) {
        match look_at(gguf, config, |model| model.bytes_per_token()) {
            Ok(bytes) => self.bytes_per_token = Some(bytes as u64),
            // The types this build does not read are all listed anyway.
            Err(LoadError::NotTernary { found, .. } | LoadError::TensorType { found, .. })
                if !found.is_supported() => {}
            Err(error) => self.note(error),
        }
    }
}

fn types(gguf: &Gguf<'_>) -> Vec<TypeSum> {
    let mut sums: Vec<TypeSum> = Vec::new();
    for tensor in gguf.tensors() {
        let ty = tensor.ty();
        let at = sums.iter().position(|sum| sum.id == ty.id()).unwrap_or_else(|| {
            let (name, id, supported) = (ty.name(), ty.id(), ty.is_supported());
            sums.push(TypeSum { name, id, supported, tensors: 0, elements: 0, bytes: Some(0) });
            sums.len() - 1
        });
        let sum = &mut sums[at];
        sum.tensors += 1;
        sum.elements = sum.elements.saturating_add(tensor.elements());
        sum.bytes = sum.bytes.zip(tensor.nbytes()).map(|(sum, bytes)| sum.saturating_add(bytes));
    }
    sums.sort_by_key(|sum| std::cmp::Reverse((sum.bytes, sum.elements)));
    sums
}

fn facts(gguf: &Gguf<'_>, tensor: &TensorInfo<'_>) -> TensorFacts {
    TensorFacts {
        name: tensor.name().to_owned(),
        ty: tensor.ty().name(),
        dims: tensor.dims().to_vec(),
        bytes: tensor.nbytes(),
        at_bytes: gguf.data_at_bytes() + tensor.offset_bytes(),
    }
}
