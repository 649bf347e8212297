//! How many requests run at once, how long their context is and how much of keys and values is kept, by the memory that this
//! process may use.
//!
//! ```text
//! free     what the system and the control group leave to this process
//! usable   free without an eighth: texts that wait, other programs, files that are read
//! context  2048 tokens, or the model's if that is less; halved until one request fits, down to 256
//! kept     that context and a quarter of what is usable beside it; at most 8 contexts, or 2048 tokens if those are more
//! slots    16; halved until each has 128 of the tokens kept, and all of them fit
//! ```
//!
//! What is given by hand stays. How keys and values are stored, the head and the layout are never chosen here: those change
//! what a model answers, or how fast. What does not fit all the same is refused, and `relief` says with what it would.

use serde::Serialize;
use tern_runtime::gguf::Gguf;
use tern_runtime::kv_cache::PAGE_CELLS;
use tern_runtime::model::Config;
use tern_runtime::plan::Options;

use super::relief::Wanted;
use super::{EngineChoice, Host};
use crate::figures;

/// A shorter context answers hardly anything.
pub(super) const LEAST_CONTEXT: usize = 256;

/// More requests at once share the same rows of a step.
const MOST_SLOTS: usize = 16;

/// Tokens kept for each slot at least: a short prompt and its answer, or what is left of a context that others share.
const SLOT_TOKENS: usize = 128;

/// Contexts kept at most: few requests fill theirs.
const MOST_CONTEXTS: usize = 8;

/// Why a number is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It was given by hand.
    Given,
    /// It is the most that is chosen where there is enough memory.
    Most,
    /// Memory allows no more.
    Memory,
}

/// The options of an engine and why they are so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// What the engine is to be made for. Their ranges are checked when its memory is planned.
    pub options: Options,
    /// Memory that this process may use, where the system says.
    pub free_bytes: Option<u64>,
    /// What one request of this context takes, with the weights; `None` if it cannot be planned.
    pub least_bytes: Option<u64>,
    /// Of the context.
    pub context: Why,
    /// Of the tokens kept.
    pub cache: Why,
    /// Of the slots.
    pub slots: Why,
}

impl Fit {
    /// What suits the model in `gguf` on `host`, with all that `choice` says.
    pub fn new(gguf: &Gguf<'_>, config: &Config, choice: &EngineChoice, host: &Host) -> Fit {
        let wanted = Wanted::new(gguf, choice.options(config), host);
        Fit::within(choice, config, host.available_bytes, |options| wanted.bytes(options))
    }

    /// As [`Fit::new`], where `bytes` says what an engine with some options takes.
    fn within(
        choice: &EngineChoice,
        config: &Config,
        free_bytes: Option<u64>,
        bytes: impl Fn(Options) -> Option<u64>,
    ) -> Fit {
        let usual = choice.options(config);
        let why = |given: bool, is_most: bool| match (given, is_most) {
            (true, _) => Why::Given,
            (false, true) => Why::Most,
            (false, false) => Why::Memory,
        };
        let (given_context, given_cache, given_slots) =
            (choice.context_tokens.is_some(), choice.cache_tokens.is_some(), choice.slots.is_some());
        let with = |slots: usize, context: usize, cache: usize| {
            let all = EngineChoice {
                slots: Some(slots),
                context_tokens: Some(context),
                cache_tokens: Some(cache),
                ..choice.clone()
            };
            all.options(config)
        };
        let one =
            |context: usize| with(choice.slots.unwrap_or(1), context, choice.cache_tokens.unwrap_or(context));
        let least = bytes(one(usual.context_tokens));
        let (Some(free), Some(mut least)) = (free_bytes, least) else {
            // Nothing to go by, or a number outside its range, which planning names.
            return Fit {
                options: usual,
                free_bytes,
                least_bytes: least,
                context: why(given_context, true),
                cache: why(given_cache, true),
                slots: why(given_slots, true),
            };
        };
        let usable = free - free / 8;

        let mut context = usual.context_tokens;
        while !given_context && least > usable && context / 2 >= LEAST_CONTEXT {
            context /= 2;
            least = bytes(one(context)).unwrap_or(least);
        }

        let most_cache = match choice.slots {
            Some(slots) => context.saturating_mul(slots.min(MOST_CONTEXTS)),
            None => context.saturating_mul(MOST_CONTEXTS).max(MOST_SLOTS * SLOT_TOKENS),
        };
        let cache = choice.cache_tokens.unwrap_or_else(|| {
            let longer = with(choice.slots.unwrap_or(1), context, context + PAGE_CELLS);
            let page_bytes = bytes(longer).map_or(u64::MAX, |longer| longer.saturating_sub(least)).max(1);
            let pages = usable.saturating_sub(least) / 4 / page_bytes;
            let tokens = usize::try_from(pages).unwrap_or(usize::MAX).saturating_mul(PAGE_CELLS);
            context.saturating_add(tokens).min(most_cache)
        });

        let mut slots = choice.slots.unwrap_or(MOST_SLOTS);
        let is_too_many = |slots: usize| {
            cache / slots < SLOT_TOKENS
                || bytes(with(slots, context, cache)).is_none_or(|bytes| bytes > usable)
        };
        while !given_slots && slots > 1 && is_too_many(slots) {
            slots /= 2;
        }
        Fit {
            options: with(slots, context, cache),
            free_bytes,
            least_bytes: Some(least),
            context: why(given_context, context == usual.context_tokens),
            cache: why(given_cache, cache == most_cache),
            slots: why(given_slots, slots == MOST_SLOTS),
        }
    }

    /// Whether memory allows less than would be chosen where there is plenty.
    pub fn is_short(&self) -> bool {
        [self.context, self.cache, self.slots].contains(&Why::Memory)
    }

    /// What was chosen and why, a line each.
    pub fn lines(&self) -> Vec<String> {
        let Options { slots, context_tokens, cache_tokens, .. } = self.options;
        let mut memory = match self.free_bytes {
            Some(free) => {
                let (free, usable) = (figures::bytes(free), figures::bytes(free - free / 8));
                format!("{free} are free, and {usable} of them may be used")
            }
            None => "how much memory is free is not known".into(),
        };
        if let Some(least) = self.least_bytes {
            let least = figures::bytes(least);
            memory += &format!("; one request of {context_tokens} tokens takes {least}, weights included");
        }
        let reason = |why: Why, most: &'static str, memory: &'static str| match why {
            Why::Given => "as given",
            Why::Most => most,
            Why::Memory => memory,
        };
        let context =
            reason(self.context, "the most that is offered unasked", "halved until one request fits");
        let cache = reason(
            self.cache,
            "as many as so many requests need",
            "one context, and a quarter of what may be used beside it",
        );
        let requests = figures::counted(slots, "request");
        let at_once = reason(self.slots, "as many as help", "as many as have room in what is kept");
        vec![
            memory,
            format!("context of {context_tokens} tokens: {context}"),
            format!("{cache_tokens} tokens kept for all: {cache}"),
            format!("{requests} at once: {at_once}"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use tern_boards::Root;
    use tern_boards::memory::Memory;
    use tern_kernels::Layout;
    use tern_kernels::reference::scalar;
    use tern_runtime::map::MappedFile;

    use crate::synth::{Shape, header};

    const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tern-log-i2_s.gguf");

    fn on<R>(file: &Path, test: impl FnOnce(&Gguf<'_>, &Config) -> R) -> R {
        let map = MappedFile::open(file).expect("it is there");
        let gguf = Gguf::parse(map.bytes()).expect("it is sound");
        test(&gguf, &Config::read(&gguf).expect("a graph of ours"))
    }

    /// A machine with so much memory free, seen as any other is.
    fn host(free_bytes: u64) -> Host {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("proc")).expect("a folder in it");
        let text = format!("MemTotal: 99999999 kB\nMemAvailable: {} kB\n", free_bytes / 1024);
        std::fs::write(folder.path().join("proc/meminfo"), text).expect("a small file");
        let memory = Memory::detect(&Root::new(folder.path()));
        Host { set: scalar(Layout::T5R), threads: 4, available_bytes: memory.usable_bytes() }
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_large_model_gets_a_shorter_context_and_fewer_slots_on_small_boards() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("2b.gguf");
        let header =
            header(Shape::by_name("bitnet-2b4t").expect("a shape of this build"), 0).expect("a legal shape");
        let file = std::fs::File::create(&path).expect("a temporary file");
        let bytes = header.file_bytes();
        drop(header.begin(&file).expect("a small header"));
        file.set_len(bytes).expect("a file with a hole");
        on(&path, |gguf, config| {
            let choice =
                EngineChoice { head: Some(tern_runtime::head::HeadKind::Int8), ..EngineChoice::default() };
            let fit = |free_mib: u64| {
                let host = host(free_mib * MIB);
                let fit = Fit::new(gguf, config, &choice, &host);
                let bytes =
                    Wanted::new(gguf, fit.options, &host).bytes(fit.options).expect("it can be planned");
                println!("{free_mib} MiB free: {} taken; {}", figures::bytes(bytes), fit.lines().join("; "));
                (fit, bytes)
            };
            let (plenty, _) = fit(64 << 10);
            let Options { slots, context_tokens, cache_tokens, .. } = plenty.options;
            assert_eq!((slots, context_tokens, cache_tokens), (16, 2048, 8 * 2048));
            assert!(!plenty.is_short() && plenty.context == Why::Most);
            let mut before = plenty.options;
            let least = |fit: &Fit| fit.least_bytes.expect("it can be planned");
            for free_mib in [7400, 3400, 1700, 1050, 1000, 900] {
                let (fit, bytes) = fit(free_mib);
                let now = fit.options;
                assert!(
                    now.slots <= before.slots && now.context_tokens <= before.context_tokens,
                    "{free_mib}"
                );
                assert!(now.cache_tokens <= before.cache_tokens && now.cache_tokens >= now.context_tokens);
                assert!(now.cache_tokens / now.slots >= SLOT_TOKENS, "{free_mib} MiB: {fit:?}");
                let usable = free_mib * MIB / 8 * 7;
                assert!(bytes <= usable || least(&fit) > usable, "{free_mib} MiB: {bytes} bytes");
                assert_eq!((now.kv, now.head, now.batch_rows), (before.kv, before.head, before.batch_rows));
                before = now;
            }
            assert!(before.context_tokens < 2048 && before.slots < 16, "{before:?}");
            // Where nothing fits, the least is what is refused.
            let (hopeless, bytes) = fit(200);
            assert_eq!((hopeless.options.slots, hopeless.options.context_tokens), (1, LEAST_CONTEXT));
            assert!(bytes > 200 * MIB);
        });
    }

    #[test]
    fn a_small_model_is_made_for_as_much_as_helps_on_any_board() {
        on(Path::new(BUNDLED), |gguf, config| {
            let fit = Fit::new(gguf, config, &EngineChoice::default(), &host(200 * MIB));
            assert_eq!((fit.options.slots, fit.is_short()), (16, false), "{:?}", fit.lines());
            assert_eq!(fit.options.context_tokens, config.context.min(2048));
        });
    }

    #[test]
    fn what_is_given_stays_and_what_is_not_known_is_said() {
        on(Path::new(BUNDLED), |gguf, config| {
            let given = EngineChoice {
                slots: Some(5),
                context_tokens: Some(500),
                cache_tokens: Some(600),
                ..EngineChoice::default()
            };
            for free in [MIB, 1 << 40] {
                let Fit { options, context, cache, slots, .. } = Fit::new(gguf, config, &given, &host(free));
                assert_eq!((options.slots, options.context_tokens, options.cache_tokens), (5, 500, 600));
                assert_eq!([context, cache, slots], [Why::Given; 3]);
            }
            let slots = EngineChoice { slots: Some(3), ..EngineChoice::default() };
            let fit = Fit::new(gguf, config, &slots, &host(1 << 40));
            assert_eq!((fit.options.slots, fit.options.cache_tokens), (3, 3 * fit.options.context_tokens));
            let cache = EngineChoice { cache_tokens: Some(700), ..EngineChoice::default() };
            let fit = Fit::new(gguf, config, &cache, &host(1 << 40));
            assert_eq!((fit.options.slots, fit.slots), (4, Why::Memory), "each has 128 of the 700 tokens");
            let blind = Host { available_bytes: None, ..host(MIB) };
            let fit = Fit::new(gguf, config, &EngineChoice::default(), &blind);
            assert_eq!(fit.options, EngineChoice::default().options(config));
            assert!(fit.lines()[0].contains("not known"), "{:?}", fit.lines());
            let none = EngineChoice { slots: Some(0), ..EngineChoice::default() };
            assert_eq!(Fit::new(gguf, config, &none, &host(1 << 40)).options.slots, 0, "planning refuses it");
        });
    }
}
