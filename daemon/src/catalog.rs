//! Ternary models that somebody can get: what `tern models` lists, and what is named where another model does not fit.
//!
//! The data is `models/known.toml`, compiled in. Memory is what the memory plan of the packed model would take, added up
//! from the model's shape by the same rules; a test holds it against [`MemoryPlan`](tern_runtime::plan::MemoryPlan).

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use tern_runtime::kv_cache::PAGE_CELLS;

use crate::inspect::RESERVED_BYTES;

/// All known models, in the order of the file.
pub static KNOWN: LazyLock<Catalog> = LazyLock::new(|| {
    toml::from_str(include_str!("../../models/known.toml")).expect("a test reads the compiled-in catalogue")
});

/// The catalogue.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// The day on which it was last gone through.
    pub checked: String,
    /// The models.
    #[serde(rename = "model")]
    pub models: Vec<Known>,
}

/// One model.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What `tern models NAME` calls it.
    pub name: String,
    /// Whose it is and what it is for.
    pub title: String,
    /// Owner and name under which its maker publishes it on huggingface.co; empty for the bundled model.
    pub repository: String,
    /// Which file to take; empty where it was not found.
    pub file: String,
    /// Published size of that file in millions of bytes, 0 where none was found.
    pub file_mb: f64,
    /// How its weights lie in that file.
    pub format: String,
    /// `general.architecture`, as a GGUF file would say.
    pub architecture: String,
    /// Terms under which it is published.
    pub licence: String,
    /// What this build lacks to run it; empty if nothing.
    pub missing: Vec<String>,
    /// What of this no page of its maker confirms.
    pub unconfirmed: Vec<String>,
    /// Where the figures come from.
    pub source: String,
    /// Its shape, of which the size of the file is evidence.
    pub shape: KnownShape,
}

/// The numbers of a model that decide about memory.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of Config, documented there")]
pub struct KnownShape {
    pub vocab: u64,
    pub context: u64,
    pub hidden: u64,
    pub ffn: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Bytes of 128 weights of embedding and head with their scale where they are ternary too; else 0.
    #[serde(default)]
    pub embedding_block_bytes: u64,
    /// Weights that share a binary16 scale; 0 where all of a matrix do.
    #[serde(default)]
    pub scale_group: u64,
    /// Whether queries have a gate, a projection as large as theirs.
    #[serde(default)]
    pub gated_attention: bool,
    /// Those of its layers that have a recurrence in place of attention.
    pub recurrence: Option<Recurrence>,
}

/// Layers without attention.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recurrence {
    /// How many they are.
    pub layers: u64,
    /// Ternary weights of each, but for its feed-forward.
    pub weights: u64,
    /// Weights of each in binary16.
    pub floats: u64,
    /// What each keeps of a request.
    pub state_bytes: u64,
}

/// What running a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Tokens of context that it is made for.
    pub context_tokens: u64,
    /// Ternary weights at 1.6 bits.
    pub weights_bytes: u64,
    /// What every token reads of an int8 head.
    pub head_bytes: u64,
    /// Keys and values of two such contexts in f16, and what recurrences keep of two requests.
    pub kv_bytes: u64,
    /// Activations, logits, tables.
    pub rest_bytes: u64,
}

impl Need {
    /// All of it.
    pub const fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.head_bytes + self.kv_bytes + self.rest_bytes
    }

    /// What every token reads of the weights.
    pub const fn bytes_per_token(&self) -> u64 {
        self.weights_bytes + self.head_bytes
    }
}

impl KnownShape {
    /// Ternary weights of all layers.
    pub fn ternary_weights(&self) -> u64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let attention = self.hidden * (2 * (q + kv) + if self.gated_attention { q } else { 0 });
        let recurrences = self.recurrence.map_or(0, |recurrence| recurrence.layers * recurrence.weights);
        self.attention_layers() * attention + recurrences + self.layers * 3 * self.hidden * self.ffn
    }

    /// Layers with keys and values.
    fn attention_layers(&self) -> u64 {
        self.layers - self.recurrence.map_or(0, |recurrence| recurrence.layers)
    }

    /// Weights beside those that are ternary, in binary16; norms are nothing to speak of.
    fn float_bytes(&self) -> u64 {
        self.recurrence.map_or(0, |recurrence| 2 * recurrence.layers * recurrence.floats)
    }

    /// Weights of embedding and head.
    pub const fn embedding_weights(&self) -> u64 {
        self.vocab * self.hidden * if self.tied { 1 } else { 2 }
    }

    /// Memory of the packed model with the options that [`Options::for_model`](tern_runtime::plan::Options::for_model)
    /// chooses, and at most `most_context` tokens of context.
    pub fn need(&self, most_context: u64) -> Need {
        const SLOTS: u64 = 4;
        const ROWS: u64 = 64;
        // Rows of full logits beside those of slots.
        const LOGIT_ROWS: u64 = 8;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let context_tokens = self.context.min(2048).min(most_context);
        let cells = (2 * context_tokens).next_multiple_of(PAGE_CELLS as u64);
        let head_weights = self.vocab * self.hidden;
        let row_bytes = 4 * (self.hidden + q + 2 * kv + q + self.ffn) + 4 * self.hidden.max(self.ffn);
        let logits = (SLOTS + LOGIT_ROWS) * 4 * self.vocab + 8 * self.vocab;
        // Tables of a byte-level BPE: some words for a token and its merge rule.
        let tokenizer = 24 * self.vocab;
        let scales_bytes = match self.scale_group {
            0 => 0,
            group => 2 * self.ternary_weights().div_ceil(group),
        };
        Need {
            context_tokens,
            weights_bytes: self.ternary_weights().div_ceil(5) + scales_bytes + self.float_bytes(),
            // The high plane, or blocks as they lie in the file.
            head_bytes: match self.embedding_block_bytes {
                0 => head_weights.div_ceil(2),
                block => head_weights * block / 128,
            },
            kv_bytes: self.attention_layers() * 2 * kv * 2 * cells
                + self.recurrence.map_or(0, |recurrence| 2 * recurrence.layers * recurrence.state_bytes),
            rest_bytes: ROWS * row_bytes
                + logits
                + tokenizer
                + 4 * context_tokens * self.head_dim
                + (4 << 20),
        }
    }
}

impl Known {
    /// Whether nothing is missing.
    pub fn runs(&self) -> bool {
        self.missing.is_empty()
    }

    /// The smallest usual memory of a board, MiB, that holds it, if one does.
    pub fn board_mib(&self) -> Option<u64> {
        const SIZES_MIB: [u64; 9] = [512, 1024, 1536, 2048, 4096, 8192, 16_384, 32_768, 65_536];
        let needed = self.shape.need(u64::MAX).total_bytes() + RESERVED_BYTES;
        SIZES_MIB.into_iter().find(|mib| (mib << 20) >= needed)
    }

    /// Whether it fits into `bytes` of free memory.
    pub fn fits(&self, bytes: u64) -> bool {
        self.shape.need(u64::MAX).total_bytes() <= bytes
    }
}

/// The largest model that this build runs and that fits into `bytes`, if there is one.
pub fn largest_that_fits(bytes: u64) -> Option<&'static Known> {
    let fitting = KNOWN.models.iter().filter(|model| model.runs() && model.fits(bytes));
    fitting.max_by_key(|model| model.shape.ternary_weights())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashSet;

    use tern_kernels::Layout;
    use tern_kernels::reference::scalar;
    use tern_runtime::gguf::Gguf;
    use tern_runtime::head::HeadKind;
    use tern_runtime::map::MappedFile;
    use tern_runtime::model::Config;
    use tern_runtime::model::graph::ARCHITECTURES;
    use tern_runtime::plan::{MemoryPlan, Options};

    use crate::synth::{Shape, header};

    #[test]
    fn the_catalogue_is_whole_and_names_no_mirror() {
        let names: HashSet<&str> = KNOWN.models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names.len(), KNOWN.models.len(), "every name once");
        assert!(crate::date::parse(&KNOWN.checked).is_some(), "{}", KNOWN.checked);
        for model in &KNOWN.models {
            let Known { name, repository, file, architecture, missing, source, licence, .. } = model;
            let parts: Vec<&str> = repository.split('/').collect();
            assert!(repository.is_empty() && name == "tern-log" || parts.len() == 2, "{name}: {repository}");
            assert!(!repository.contains(':') && !source.contains("http"), "{name}: no links");
            assert!(!licence.is_empty() && !source.is_empty() && !model.title.is_empty(), "{name}");
            assert!(!file.is_empty() && model.file_mb > 0.0, "{name}: a file that was looked up");
            let phrases = missing.iter().chain(&model.unconfirmed);
            assert!(phrases.clone().all(|phrase| phrase.len() > 8), "{name}");
            let has_graph = ARCHITECTURES.contains(&architecture.as_str());
            assert!(has_graph || !missing.is_empty(), "{name}: {architecture} is no graph of this build");
        }
        let bundled = KNOWN.models.iter().find(|model| model.name == "tern-log").expect("it is listed");
        assert!(bundled.runs() && bundled.board_mib() == Some(512));
    }

    #[test]
    fn every_model_has_a_need_for_memory_and_a_board() {
        for model in &KNOWN.models {
            let need = model.shape.need(u64::MAX);
            let weights = model.shape.ternary_weights() as f64;
            // 1.6 bits, and with a scale for each group at most an eighth of a bit more.
            let bits = 8.0 * need.weights_bytes as f64 / weights;
            assert!((1.6..1.76).contains(&bits), "{}: {bits}", model.name);
            assert!(
                need.head_bytes > 0 && need.kv_bytes > 0 && need.rest_bytes > 0,
                "{}: {need:?}",
                model.name
            );
            let mib = model.board_mib().unwrap_or_else(|| panic!("{}: {need:?}", model.name));
            assert!(!model.fits(need.total_bytes() - 1) && model.fits(mib << 20), "{}", model.name);
        }
    }

    #[test]
    fn published_sizes_are_those_of_the_shapes() {
        for model in KNOWN.models.iter() {
            let shape = &model.shape;
            // Bits of a layer's weight and of one of embedding and head.
            let (weight, embedding) = match model.format.as_str() {
                "I2_S" | "packed safetensors" => (2.0, 16.0),
                "PQ2_0" => (2.125, 2.125),
                "PTQ1_0" => (1.75, 1.75),
                // With an embedding in Q4_K and a head in Q6_K.
                "TQ2_0" => (2.0625, (4.5 + 6.5625) / 2.0),
                "F16 safetensors" => (16.0, 16.0),
                "F32 safetensors" => (32.0, 32.0),
                other => panic!("{}: no rule for the size of {other}", model.name),
            };
            let is_ternary = weight == embedding && weight < 3.0;
            assert_eq!(shape.embedding_block_bytes > 0, is_ternary, "{}", model.name);
            let bits = shape.ternary_weights() as f64 * weight + shape.embedding_weights() as f64 * embedding;
            let computed = (bits / 8.0 + shape.float_bytes() as f64) / 1e6;
            // Beside weights a file holds a vocabulary of a few megabytes; sizes are published in three digits.
            let beyond = model.file_mb - computed;
            assert!(
                (-0.005 * computed..=0.005 * computed + 15.0).contains(&beyond),
                "{}: {computed:.0} MB",
                model.name
            );
        }
    }

    #[test]
    fn memory_is_what_the_plan_would_take() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["tern-log", "bitnet-large", "bitnet-2b4t"] {
            let model = KNOWN.models.iter().find(|model| model.name == name).expect("it is listed");
            let shape = model.shape;
            let number = |value: u64| u32::try_from(value).expect("a small number");
            let synthetic = Shape {
                name: "known",
                about: "",
                vocab: number(shape.vocab),
                context: number(shape.context),
                hidden: number(shape.hidden),
                ffn: number(shape.ffn),
                layers: number(shape.layers),
                heads: number(shape.heads),
                kv_heads: number(shape.kv_heads),
                head_dim: number(shape.head_dim),
                rope_theta: 1e4,
            };
            // A file of holes: only its header is ever read.
            let header = header(&synthetic, 1).expect("a shape of a model");
            let file_bytes = header.file_bytes();
            let path = folder.path().join(name);
            let mut bytes = Vec::new();
            header.begin(&mut bytes).expect("written to memory");
            std::fs::write(&path, &bytes).expect("written");
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("just written");
            file.set_len(file_bytes).expect("a file of holes");
            let map = MappedFile::open(&path).expect("just written");
            let gguf = Gguf::parse(map.bytes()).expect("what we write");
            let config = Config::read(&gguf).expect("a shape of a model");
            let options = Options { head: HeadKind::File, ..Options::for_model(&config) };
            let plan = MemoryPlan::new(&gguf, options, scalar(Layout::T5R), 4).expect("it can be planned");
            let section =
                |wanted: &str| plan.sections.iter().find(|s| s.name == wanted).map_or(0, |s| s.bytes as u64);
            let need = shape.need(u64::MAX);
            let weights = section("repacked weights");
            assert!(
                need.weights_bytes <= weights && weights <= need.weights_bytes * 103 / 100,
                "{name}: {plan:?}"
            );
            let kv = section("key/value cache");
            assert!(need.kv_bytes <= kv && kv <= need.kv_bytes * 102 / 100, "{name}: {need:?} {kv}");
            let rest = plan.total_bytes() as u64 - weights - kv;
            println!("{name}: {} planned, {need:?}", plan.total_bytes());
            assert!(
                need.rest_bytes.abs_diff(rest) < need.total_bytes() / 20 + (4 << 20),
                "{name}: {need:?} {rest}"
            );
        }
    }

    #[test]
    fn what_fits_is_the_largest_that_runs() {
        assert_eq!(largest_that_fits(1 << 40).map(|model| model.runs()), Some(true));
        assert_eq!(largest_that_fits(40 << 20).map(|model| model.name.as_str()), Some("tern-log"));
        assert!(largest_that_fits(1 << 20).is_none());
    }
}
