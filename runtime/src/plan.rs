//! What the engine will need, section by section, before a byte of it is taken.
//!
//! [`MemoryPlan::new`] adds up the very sizes that [`crate::engine::Engine::new`] cuts from the arena, so `tern inspect`
//! can say whether a model fits a board without loading it. `docs/arena.md` explains each section.

use tern_kernels::KernelSet;

use crate::activations::{Activations, Form};
use crate::arena::{ALIGN, slice_bytes};
use crate::engine::MOST_DRAFTS;
use crate::error::LoadError;
use crate::forward::{Row, WorkShape};
use crate::gguf::Gguf;
use crate::head::{self, HeadKind};
use crate::kv_cache::{self, KvShape, KvType, MAX_SLOTS, PAGE_CELLS};
use crate::model::{Config, grouping, repacked_bytes};
use crate::sampler::Candidate;
use crate::tokenizer::{Tokenizer, TokenizerPlan};
use crate::trie::{MAX_DEPTH, Node};

/// How much the engine is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Requests that may run at once, 1 to [`MAX_SLOTS`].
    pub slots: usize,
    /// Tokens of one request, prompt and answer together; at most the model's own context.
    pub context_tokens: usize,
    /// Tokens that the key/value cache holds for all requests together; a full context is always kept.
    pub cache_tokens: usize,
    /// Rows of a step: prompt tokens, decoded tokens and label nodes together.
    pub batch_rows: usize,
    /// How keys and values are stored.
    pub kv: KvType,
    /// Bytes of the longest text of a prompt.
    pub prompt_bytes: usize,
    /// Labels of a decision.
    pub labels: usize,
    /// Nodes of a label trie.
    pub label_tokens: usize,
    /// Which head to compute logits with.
    pub head: HeadKind,
    /// Tokens that may be tried ahead in a step, for all requests together; 0 tries none. See [`MOST_DRAFTS`].
    pub draft_tokens: usize,
    /// What ternary products take as their input; `None` is what suits the model.
    pub activations: Option<Activations>,
}

impl Options {
    /// Options that suit most requests on a model with this `config`.
    pub fn for_model(config: &Config) -> Self {
        let context_tokens = config.context.min(2048);
        Options {
            slots: 16,
            context_tokens,
            cache_tokens: 2 * context_tokens,
            batch_rows: 64,
            kv: KvType::F16,
            prompt_bytes: 16 * context_tokens,
            labels: 256,
            label_tokens: 1024,
            head: HeadKind::Stored,
            draft_tokens: 8,
            activations: None,
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// The first option outside its range.
    pub fn check(&self, config: &Config) -> Result<(), OptionsError> {
        let ranges = [
            ("slots", self.slots, 1, MAX_SLOTS),
            ("context_tokens", self.context_tokens, 2, config.context),
            ("cache_tokens", self.cache_tokens, 0, 1 << 26),
            ("batch_rows", self.batch_rows, self.slots.max(2), 4096),
            ("prompt_bytes", self.prompt_bytes, 16, 1 << 24),
            ("labels", self.labels, 2, 1 << 16),
            ("label_tokens", self.label_tokens, 8, 1 << 20),
            ("draft_tokens", self.draft_tokens, 0, MOST_DRAFTS),
        ];
        match ranges.into_iter().find(|(_, found, least, most)| !(least..=most).contains(&found)) {
            Some((name, found, least, most)) => Err(OptionsError { name, found, least, most }),
            None => Ok(()),
        }
    }

    /// Cells that one request may fill: its context, which a label trie shares with its prompt.
    pub const fn cells(&self) -> usize {
        self.context_tokens
    }
}

/// An option outside its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionsError {
    /// The option.
    pub name: &'static str,
    /// What it was.
    pub found: usize,
    /// The least it may be.
    pub least: usize,
    /// The most it may be.
    pub most: usize,
}

impl core::fmt::Display for OptionsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { name, found, least, most } = self;
        write!(f, "{name} is {found}; with this model it may be {least} to {most}")
    }
}

impl core::error::Error for OptionsError {}

/// One part of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub name: &'static str,
    /// Bytes, alignment included.
    pub bytes: usize,
}

/// Every section of the arena and the shapes they were computed from.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// The model's shape.
    pub config: Config,
    /// What the plan was made for.
    pub options: Options,
    /// The sections, in the order in which they are cut.
    pub sections: heapless::Vec<Section, 9>,
    pub(crate) tokenizer: TokenizerPlan,
    pub(crate) kv: KvShape,
    pub(crate) work: WorkShape,
}

impl MemoryPlan {
    /// Plans for the model in `gguf` on `workers` workers with the kernels of `set`.
    ///
    /// # Errors
    /// If the model's metadata is unusable, an option is out of range, or the sum overflows.
    pub fn new(
        gguf: &Gguf<'_>,
        options: Options,
        set: &KernelSet,
        workers: usize,
    ) -> Result<Self, LoadError> {
        let config = Config::read(gguf)?;
        options.check(&config).map_err(LoadError::Options)?;
        let tokenizer = Tokenizer::plan(gguf)?;
        let pages_per_slot = options.cells().div_ceil(PAGE_CELLS);
        let kv = KvShape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            slots: options.slots,
            pages_per_slot,
            pages: options.cache_tokens.div_ceil(PAGE_CELLS).max(pages_per_slot),
            kv: options.kv,
        };
        let spans = (options.context_tokens, options.cells());
        let form = Form { group: grouping(gguf)?, activations: options.activations.unwrap_or_default() };
        let repacked = repacked_bytes(gguf, set.layout)?;
        let work = WorkShape::new(&config, (set, form), options.batch_rows, spans, workers);
        let mut plan = MemoryPlan { config, options, sections: heapless::Vec::new(), tokenizer, kv, work };
        plan.add_sections(gguf, repacked).ok_or(LoadError::PlanOverflow)?;
        Ok(plan)
    }

    /// Bytes of the whole arena; a block of this size serves wherever it starts.
    pub fn total_bytes(&self) -> usize {
        self.sections.iter().map(|section| section.bytes).sum::<usize>() + ALIGN
    }

    /// Checks that an engine put together from these parts is the one that was planned: sizes follow from the kernel
    /// set's layout and prepared form and from the number of workers, so others would not fit what is cut.
    pub(crate) fn expect(&self, gguf: &Gguf<'_>, set: &KernelSet, workers: usize) -> Result<(), LoadError> {
        let MemoryPlan { config, options, work, .. } = self;
        let planned_here = MemoryPlan::new(gguf, *options, set, work.workers)?;
        let group = |work: &WorkShape| work.form.group.unwrap_or(0);
        let parts = [
            ("workers", work.workers, workers),
            ("bytes of a prepared token", work.prepared_bytes, planned_here.work.prepared_bytes),
            ("columns that share a scale", group(work), group(&planned_here.work)),
            ("bytes in all", self.total_bytes(), planned_here.total_bytes()),
            ("tokens of a vocabulary", config.vocab, planned_here.config.vocab),
        ];
        match parts.into_iter().find(|(_, planned, found)| planned != found) {
            Some((what, planned, found)) => Err(LoadError::NotAsPlanned { what, planned, found }),
            None if *config != planned_here.config => Err(LoadError::Inconsistent {
                rule: "the file has another shape than the planned one",
                found: planned_here.config.hidden,
                against: config.hidden,
            }),
            None => Ok(()),
        }
    }

    /// The form of the inputs of ternary products.
    pub fn form(&self) -> Form {
        self.work.form
    }

    fn add_sections(&mut self, gguf: &Gguf<'_>, repacked: usize) -> Option<()> {
        let MemoryPlan { config, options, tokenizer, kv, work, .. } = &*self;
        let rows = options.batch_rows;
        let stored = head::Planes::are_in(gguf);
        let in_planes = options.head == HeadKind::Int8 || stored && options.head == HeadKind::Stored;
        let sum = |parts: &[Option<usize>]| {
            parts.iter().try_fold(0usize, |total, part| total.checked_add((*part)?))
        };
        let sections = [
            ("repacked weights", repacked),
            ("tokenizer tables", slice_bytes::<u32>(tokenizer.table_words())?),
            (
                "key/value cache",
                sum(&[
                    slice_bytes::<u8>(kv.pool_bytes()?),
                    slice_bytes::<u32>(kv.table_words()),
                    slice_bytes::<kv_cache::Node>(kv.pages),
                ])?,
            ),
            (
                "activations",
                sum(&[
                    slice_bytes::<f32>(rows.checked_mul(config.hidden)?),
                    slice_bytes::<u8>(rows.checked_mul(work.prepared_bytes)?),
                    slice_bytes::<f32>(rows.checked_mul(work.token_factors)?),
                    slice_bytes::<f32>(rows.checked_mul(config.q_dim() + 2 * config.kv_dim())?),
                    slice_bytes::<f32>(rows.checked_mul(config.q_dim())?),
                    slice_bytes::<f32>(rows.checked_mul(config.ffn)?),
                    slice_bytes::<f32>(work.span_floats),
                ])?,
            ),
            ("rotary table", slice_bytes::<f32>(work.context.checked_mul(config.head_dim)?)?),
            ("worker scratch", slice_bytes::<u64>(work.workers.checked_mul(work.scratch_words)?)?),
            (
                "logits and sampling",
                sum(&[
                    slice_bytes::<f32>(self.logit_rows().checked_mul(config.vocab)?),
                    slice_bytes::<f32>(rows.checked_mul(config.hidden)?),
                    head::Workspace::arena_bytes(config.hidden, in_planes, self.logit_rows()),
                    slice_bytes::<Candidate>(config.vocab),
                ])?,
            ),
            (
                "requests",
                sum(&[
                    slice_bytes::<u32>(options.context_tokens)?.checked_mul(options.slots),
                    slice_bytes::<Node>(options.label_tokens)?.checked_mul(options.slots),
                    slice_bytes::<u32>(options.label_tokens)?.checked_mul(options.slots),
                    slice_bytes::<f32>(options.labels),
                    slice_bytes::<Row>(rows),
                    slice_bytes::<u32>(rows.checked_mul(MAX_DEPTH)?),
                    slice_bytes::<crate::engine::Want>(rows),
                    slice_bytes::<u32>(Tokenizer::scratch_words(options.prompt_bytes)),
                ])?,
            ),
        ];
        let made_head = if in_planes && !stored {
            Some(("int8 head", head::Planes::arena_bytes(config.vocab, config.hidden)?))
        } else {
            None
        };
        for (name, bytes) in sections.into_iter().chain(made_head) {
            // Nine sections, nine places.
            let _ = self.sections.push(Section { name, bytes });
        }
        self.sections.iter().try_fold(ALIGN, |total, section| total.checked_add(section.bytes))?;
        Some(())
    }

    /// Rows of full logits that a step can hold: one for every request, and a few for requests for logits or, in steps
    /// without those, for drafts.
    pub(crate) fn logit_rows(&self) -> usize {
        let more = crate::engine::LOGIT_CHUNK.max(self.options.draft_tokens);
        (self.options.slots + more).min(self.options.batch_rows)
    }
}
