//! Where the memory of a running model goes.

use serde::Serialize;
use tern_runtime::error::LoadError;
use tern_runtime::gguf::Gguf;
use tern_runtime::model::{Config, file_layout};
use tern_runtime::plan::MemoryPlan;

use crate::model::{EngineChoice, Fit, Host, Why, kv_name, residence};

/// The memory plan with the file beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryNeed {
    /// The kernel set it is planned for.
    pub kernels: &'static str,
    /// Worker threads.
    pub threads: usize,
    /// Tokens of one request.
    pub context_tokens: usize,
    /// Tokens of the key/value cache.
    pub cache_tokens: usize,
    /// Requests at once.
    pub slots: usize,
    /// Tokens of one step.
    pub batch_rows: usize,
    /// How keys and values are stored.
    pub kv: &'static str,
    /// Parts of the arena.
    pub sections: Vec<SectionNeed>,
    /// The whole arena.
    pub arena_bytes: u64,
    /// Parts of the mapped file.
    pub mapped: Vec<MappedNeed>,
    /// The mapped file.
    pub file_bytes: u64,
    /// What stays in memory: the arena, and what every token reads of the file.
    pub resident_bytes: u64,
    /// Arena and file, the most that can ever be in memory.
    pub total_bytes: u64,
    /// What is free on this machine, where it says.
    pub available_bytes: Option<u64>,
    /// Whether that is enough.
    pub fits_here: Option<bool>,
    /// What one request of this context takes, with what every token reads of the file.
    pub one_request_bytes: Option<u64>,
    /// Why the context, the tokens kept and the slots are what they are.
    pub made_for: MadeFor,
}

/// Why an engine is made for so much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MadeFor {
    /// Of the context.
    pub context: Why,
    /// Of the tokens kept for all.
    pub cache: Why,
    /// Of the slots.
    pub slots: Why,
    /// The numbers and the same in words.
    pub lines: Vec<String>,
}

impl From<&Fit> for MadeFor {
    fn from(fit: &Fit) -> Self {
        let Fit { context, cache, slots, .. } = *fit;
        MadeFor { context, cache, slots, lines: fit.lines() }
    }
}

/// One part of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SectionNeed {
    /// What it holds.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
}

/// One part of the mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MappedNeed {
    /// What it holds.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// Whether every token reads all of it; otherwise pages come and go as they are needed.
    pub every_token: bool,
}

impl MemoryNeed {
    /// Plans for the model in `gguf` with what `choice` says on `host`, and takes nothing.
    ///
    /// # Errors
    /// As [`MemoryPlan::new`].
    pub fn new(
        gguf: &Gguf<'_>,
        config: &Config,
        choice: &EngineChoice,
        host: &Host,
    ) -> Result<MemoryNeed, LoadError> {
        let fit = Fit::new(gguf, config, choice, host);
        let options = fit.options;
        let plan = MemoryPlan::new(gguf, options, host.set, host.threads)?;
        let sections = plan.sections.iter();
        let arena_bytes = plan.total_bytes() as u64;
        let moved = file_layout(gguf) != Some(host.set.layout);
        let parts = residence::parts(gguf, options.head, moved);
        let resident_bytes = arena_bytes.saturating_add(residence::streamed_bytes(&parts));
        let total_bytes = arena_bytes.saturating_add(gguf.file_bytes());
        Ok(MemoryNeed {
            kernels: host.set.name,
            threads: host.threads,
            context_tokens: options.context_tokens,
            cache_tokens: options.cache_tokens.max(options.cells()),
            slots: options.slots,
            batch_rows: options.batch_rows,
            kv: kv_name(options.kv),
            sections: sections
                .map(|section| SectionNeed { name: section.name, bytes: section.bytes as u64 })
                .collect(),
            arena_bytes,
            mapped: parts
                .iter()
                .map(|part| MappedNeed { name: part.name, bytes: part.bytes, every_token: part.streamed })
                .collect(),
            file_bytes: gguf.file_bytes(),
            resident_bytes,
            total_bytes,
            available_bytes: host.available_bytes,
            fits_here: host.available_bytes.map(|available_bytes| resident_bytes <= available_bytes),
            one_request_bytes: fit.least_bytes,
            made_for: MadeFor::from(&fit),
        })
    }
}
