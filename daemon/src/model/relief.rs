//! What would make a model fit that does not: fewer requests, another layout, a shorter context, smaller keys and values, an
//! int8 head, or another model.

use std::fmt::Write as _;

use tern_boards::kernel_sets;
use tern_kernels::KernelSet;
use tern_runtime::gguf::Gguf;
use tern_runtime::head::HeadKind;
use tern_runtime::kv_cache::KvType;
use tern_runtime::model::{file_layout, grouping};
use tern_runtime::plan::{MemoryPlan, Options};

use super::fitting::LEAST_CONTEXT;
use super::{Host, kv_name, residence};
use crate::catalog;

/// A model as it was to be run, and the kernels it was planned for.
pub(super) struct Wanted<'a> {
    pub gguf: &'a Gguf<'a>,
    pub options: Options,
    pub set: &'a KernelSet,
    pub threads: usize,
}

impl<'a> Wanted<'a> {
    /// The model in `gguf` as it is to be run on `host`.
    pub(super) fn new(gguf: &'a Gguf<'a>, options: Options, host: &Host) -> Self {
        Wanted { gguf, options, set: host.set, threads: host.threads }
    }

    /// Bytes that stay in memory with other options; `None` if it cannot be run with them.
    pub(super) fn bytes(&self, options: Options) -> Option<u64> {
        self.bytes_with(options, self.set)
    }

    /// As [`bytes`](Self::bytes), with other kernels: weights that lie in another layout than theirs are copied into the
    /// arena, and the file's own need not stay in memory.
    fn bytes_with(&self, options: Options, set: &KernelSet) -> Option<u64> {
        let plan = MemoryPlan::new(self.gguf, options, set, self.threads).ok()?;
        let moved = file_layout(self.gguf) != Some(set.layout);
        let parts = residence::parts(self.gguf, options.head, moved);
        (plan.total_bytes() as u64).checked_add(residence::streamed_bytes(&parts))
    }

    /// Kernels that would take the model in another layout, one set a layout, best first.
    fn others(&self) -> Vec<&'static KernelSet> {
        let cols = grouping(self.gguf).ok().flatten();
        let takes = |set: &KernelSet| cols.is_none_or(|cols| set.layout.takes_groups(cols));
        let mut others: Vec<&'static KernelSet> = Vec::new();
        for set in kernel_sets().filter(|set| set.layout != self.set.layout && takes(set)) {
            if !others.iter().any(|other| other.layout == set.layout) {
                others.push(set);
            }
        }
        others
    }

    /// Says with which options it would fit into `available_bytes`: those of the first step that is enough, each step
    /// costing more than the one before. Where none is, the largest known model that does.
    pub(super) fn relief(&self, available_bytes: u64) -> String {
        let others = self.others();
        let mut options = self.options;
        for step in self.steps(&mut options) {
            let fits =
                |set: &&KernelSet| self.bytes_with(step, set).is_some_and(|bytes| bytes <= available_bytes);
            if fits(&self.set) {
                return format!("it would fit with {}", flags(&self.options, &step));
            }
            // Another layout answers the same.
            if let Some(set) = others.iter().copied().find(fits) {
                let flags = [flags(&self.options, &step), format!("--kernels {}", set.name)];
                let flags: Vec<_> = flags.into_iter().filter(|flag| !flag.is_empty()).collect();
                return format!("it would fit with {} (weights in {})", flags.join(" "), set.layout.name());
            }
        }
        let sets = others.iter().copied().chain([self.set]);
        let least = sets.filter_map(|set| self.bytes_with(self.smallest(), set)).min();
        let mut text = match least {
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

    const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tern-log-i2_s.gguf");

    #[test]
    fn a_refusal_names_the_cheapest_options_that_fit_and_then_another_model() {
        let map = MappedFile::open(BUNDLED).expect("the bundled model");
        let gguf = Gguf::parse(map.bytes()).expect("it is sound");
        let options = Options::for_model(&Config::read(&gguf).expect("a graph of ours"));
        let wanted = Wanted { gguf: &gguf, options, set: &tern_kernels::SCALAR, threads: 1 };
        let whole = wanted.bytes(options).expect("it can be planned");
        let one = Options { slots: 1, cache_tokens: options.context_tokens, ..options };
        let needed = wanted.bytes(one).expect("it can be planned");
        assert!(needed < whole);
        let text = wanted.relief(needed);
        assert_eq!(text, format!("it would fit with --slots 1 --cache {}", options.context_tokens));
        // Another layout costs no answer, so it comes before a shorter context.
        let sets = || wanted.others().into_iter().chain([wanted.set]);
        let least = |options| {
            sets().filter_map(|set| wanted.bytes_with(options, set)).min().expect("it can be planned")
        };
        assert!(least(one) < needed, "1.6 bits a weight are less than 2");
        let text = wanted.relief(needed - 1);
        assert!(
            text.contains("--slots 1 --cache 1024 --kernels ") && text.contains("(weights in "),
            "{text}"
        );
        let text = wanted.relief(least(one) - 1);
        assert!(text.contains("--slots 1 --context 512 --cache 512"), "{text}");
        let smallest = least(wanted.smallest());
        let text = wanted.relief(smallest);
        assert!(text.contains("--kv i8") && text.contains("--batch 16"), "{text}");
        let text = wanted.relief(smallest.min(1 << 20) - 1);
        assert!(text.contains("still need") && !text.contains("known model"), "{text}");
    }
}
