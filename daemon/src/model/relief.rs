//! What would make a model fit that does not: fewer requests, a shorter context, smaller keys and values, an int8 head, or
//! another model.

use std::fmt::Write as _;

use tern_kernels::KernelSet;
use tern_runtime::gguf::Gguf;
use tern_runtime::head::HeadKind;
use tern_runtime::kv_cache::KvType;
use tern_runtime::plan::{MemoryPlan, Options};

use super::{kv_name, residence};
use crate::catalog;

/// A shorter context answers hardly anything.
const LEAST_CONTEXT: usize = 256;

/// A model as it was to be run, and the kernels it was planned for.
pub(super) struct Wanted<'a> {
    pub gguf: &'a Gguf<'a>,
    pub options: Options,
    pub set: &'a KernelSet,
    pub threads: usize,
    /// Whether ternary weights are copied into the arena.
    pub moved: bool,
}

impl Wanted<'_> {
    /// Bytes that stay in memory with other options; `None` if it cannot be run with them.
    fn bytes(&self, options: Options) -> Option<u64> {
        let plan = MemoryPlan::new(self.gguf, options, self.set, self.threads).ok()?;
        let parts = residence::parts(self.gguf, options.head, self.moved);
        (plan.total_bytes() as u64).checked_add(residence::streamed_bytes(&parts))
    }

    /// Says with which options it would fit into `available_bytes`: those of the first step that is enough, each step
    /// costing more than the one before. Where none is, the largest known model that does.
    pub(super) fn relief(&self, available_bytes: u64) -> String {
        let fits = |options: &Options| self.bytes(*options).is_some_and(|bytes| bytes <= available_bytes);
        let mut options = self.options;
        if let Some(found) = self.steps(&mut options).find(fits) {
            return format!("it would fit with {}", flags(&self.options, &found));
        }
        let mut text = match self.bytes(self.smallest()) {
            Some(bytes) => format!(
                "with one request of {LEAST_CONTEXT} tokens it would still need {} MiB",
                bytes.div_ceil(1 << 20)
            ),
            None => "no smaller options help".into(),
        };
        if let Some(known) = catalog::largest_that_fits(available_bytes) {
            let need = known.shape.need(u64::MAX).total_bytes();
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "; the largest known model that fits is {} ({} MiB), see tern models --board",
                known.name,
                need.div_ceil(1 << 20)
            );
        }
        text
    }

    /// Options that take less and less, each change on top of those before.
    fn steps(&self, options: &mut Options) -> impl Iterator<Item = Options> {
        let mut steps = Vec::new();
        let mut add = |options: &Options| {
            if steps.last() != Some(options) {
                steps.push(*options);
            }
        };
        options.slots = 1;
        options.cache_tokens = options.context_tokens;
        add(options);
        // An int8 head costs accuracy that docs/head.md measures, keys and values in int8 some more; a shorter context
        // costs texts.
        if options.head == HeadKind::File {
            options.head = HeadKind::Stored;
            add(options);
        }
        if options.kv == KvType::F32 {
            options.kv = KvType::F16;
            add(options);
        }
        while options.context_tokens / 2 >= LEAST_CONTEXT {
            shorten(options, options.context_tokens / 2);
            add(options);
        }
        options.kv = KvType::I8;
        add(options);
        options.batch_rows = options.batch_rows.min(16);
        add(options);
        options.head = HeadKind::Int8;
        add(options);
        steps.into_iter()
    }

    /// The last of the steps.
    fn smallest(&self) -> Options {
        let mut options = self.options;
        let _ = self.steps(&mut options).count();
        options
    }
}

/// Another context, with all that follows from it.
fn shorten(options: &mut Options, context_tokens: usize) {
    options.context_tokens = context_tokens;
    options.cache_tokens = context_tokens;
    options.prompt_bytes = options.prompt_bytes.min(16 * context_tokens).max(16);
}

/// What to write on the command line to get from one to the other.
fn flags(from: &Options, to: &Options) -> String {
    let mut flags = Vec::new();
    let mut add = |changed: bool, flag: String| flags.extend(changed.then_some(flag));
    add(to.slots != from.slots, format!("--slots {}", to.slots));
    add(to.context_tokens != from.context_tokens, format!("--context {}", to.context_tokens));
    add(to.cache_tokens != from.cache_tokens, format!("--cache {}", to.cache_tokens));
    add(to.batch_rows != from.batch_rows, format!("--batch {}", to.batch_rows));
    add(to.kv != from.kv, format!("--kv {}", kv_name(to.kv)));
    match to.head {
        HeadKind::Int8 if from.head != to.head => flags.push("--head int8".into()),
        HeadKind::Stored if from.head != to.head => flags.push("without --head file".into()),
        _ => {}
    }
    flags.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    use tern_runtime::map::MappedFile;
    use tern_runtime::model::Config;

    const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tern-log-4m-i2_s.gguf");

    #[test]
    fn a_refusal_names_the_cheapest_options_that_fit_and_then_another_model() {
        let map = MappedFile::open(BUNDLED).expect("the bundled model");
        let gguf = Gguf::parse(map.bytes()).expect("it is sound");
        let options = Options::for_model(&Config::read(&gguf).expect("a graph of ours"));
        let wanted = Wanted { gguf: &gguf, options, set: &tern_kernels::SCALAR, threads: 1, moved: false };
        let whole = wanted.bytes(options).expect("it can be planned");
        let one = Options { slots: 1, cache_tokens: options.context_tokens, ..options };
        let needed = wanted.bytes(one).expect("it can be planned");
        assert!(needed < whole);
        let text = wanted.relief(needed);
        assert_eq!(text, format!("it would fit with --slots 1 --cache {}", options.context_tokens));
        let text = wanted.relief(needed - 1);
        assert!(text.contains("--slots 1 --context 512 --cache 512"), "{text}");
        let smallest = wanted.bytes(wanted.smallest()).expect("it can be planned");
        let text = wanted.relief(smallest);
        assert!(text.contains("--kv i8") && text.contains("--batch 16"), "{text}");
        let text = wanted.relief(smallest.min(1 << 20) - 1);
        assert!(text.contains("still need") && !text.contains("known model"), "{text}");
    }
}
