//! The engine as its caller meets it: what ends an answer, what is refused and with which numbers, and what memory it
//! takes.

use tern_runtime::arena::ALIGN;
use tern_runtime::engine::{Engine, Event, Finish, Generate, Goal, Piece, Refusal, Request};
use tern_runtime::error::LoadError;
use tern_runtime::gguf::Gguf;
use tern_runtime::kv_cache::{KvType, NoPages};
use tern_runtime::map::MappedFile;
use tern_runtime::model::Config;
use tern_runtime::parallel::Serial;
use tern_runtime::plan::{MemoryPlan, Options};
use tern_runtime::pool::Pool;
use tern_runtime::sampler::{Sampling, argmax};
use tern_runtime::stop::StopError;
use tern_runtime::tokenizer::Special;
use tern_runtime::trie::LabelError;
use tern_tests::model::{
    BUNDLED, Outcome, Setup, fixture, greedy, logits, run, tokens, with_engine, with_options,
};
use tern_tests::sets;

const TINY: &str = "oracle/gguf/tiny-i2_s.gguf";
/// Tokens of the tiny model: its vocabulary and its context.
const VOCAB: usize = 512;
const CONTEXT: usize = 256;

/// The fastest kernels of this machine.
fn fast() -> Setup {
    Setup { set: sets::usable()[0], ..Setup::default() }
}

fn tiny<R>(test: impl FnOnce(&mut Engine<'_>) -> R) -> R {
    with_engine(&fixture(TINY), fast(), test)
}

fn generate(sampling: Sampling, max_tokens: Option<usize>, stops: &'static [&'static str]) -> Goal<'static> {
    Goal::Generate(Generate { sampling, max_tokens, stops, ignore_stop_tokens: true, ..Generate::default() })
}

/// Runs one request.
fn one(engine: &mut Engine<'_>, prompt: &[u32], goal: Goal<'_>) -> Outcome {
    run(engine, &[(tokens(prompt), goal)]).remove(0)
}

/// Tokens of a text, however many.
fn count(engine: &Engine<'_>, text: &str) -> usize {
    let (mut scratch, mut out) = (vec![0; 1 << 16], vec![0; 1 << 13]);
    engine.tokenizer().encode(text, Special::Plain, &mut scratch, &mut out).expect("room for any test's text")
}

/// Why a request is not taken.
fn refusal(engine: &mut Engine<'_>, prompt: &[Piece<'_>], goal: Goal<'_>) -> Refusal {
    engine.submit(&Request { key: 77, prompt, goal }).expect_err("a request to refuse")
}

#[test]
fn stop_strings_end_the_text_wherever_tokens_are_cut() {
    tiny(|engine| {
        let prompt = [5, 9, 40];
        let whole = one(engine, &prompt, greedy(60));
        let chars: Vec<(usize, char)> = whole.text.char_indices().collect();
        let mut across_tokens = 0;
        for start in (0..chars.len() - 8).step_by(9) {
            for length in [1, 2, 7] {
                let stop = &whole.text[chars[start].0..chars[start + length].0];
                let goal = Goal::Generate(Generate {
                    sampling: Sampling::default(),
                    max_tokens: Some(60),
                    stops: &["never written", stop],
                    ignore_stop_tokens: true,
                    ..Generate::default()
                });
                let found = one(engine, &prompt, goal);
                let end = whole.text.find(stop).expect("cut from it");
                assert_eq!(found.text, whole.text[..end], "stop string {stop:?}");
                assert!(whole.ids.starts_with(&found.ids), "stop string {stop:?}");
                assert_eq!(found.finish.expect("it ended").0, Finish::StopString);
                let last = *found.ids.last().expect("a token");
                let last_bytes = engine.tokenizer().token_bytes(last).count();
                across_tokens += usize::from(last_bytes < stop.len());
            }
        }
        assert!(across_tokens > 3, "{across_tokens} stop strings were longer than the token that ended them");
    });
}

#[test]
fn text_ends_at_max_tokens_or_where_the_context_does() {
    tiny(|engine| {
        let prompt: Vec<u32> = (0..200).collect();
        let full = one(engine, &prompt, generate(Sampling::default(), None, &[]));
        let (reason, usage) = full.finish.expect("it ended");
        assert_eq!((reason, full.ids.len()), (Finish::ContextFull, CONTEXT - 200));
        assert_eq!((usage.prompt_tokens, usage.generated_tokens), (200, CONTEXT - 200));
        for most in [1, 2, 55, 56] {
            let found = one(engine, &prompt, greedy(most));
            assert_eq!(found.finish.expect("it ended").0, Finish::MaxTokens);
            assert_eq!(found.ids, full.ids[..most]);
        }
        // The last token of an answer needs no place behind it, but one that is a prompt does.
        let overflow = |prompt_tokens, max_tokens| Refusal::ContextOverflow {
            prompt_tokens,
            max_tokens,
            context_tokens: CONTEXT,
        };
        assert_eq!(refusal(engine, &tokens(&prompt), greedy(57)), overflow(200, 57));
        assert_eq!(refusal(engine, &tokens(&prompt), greedy(usize::MAX)), overflow(200, usize::MAX));
        let filled = vec![7; CONTEXT];
        let no_room = refusal(engine, &tokens(&filled), generate(Sampling::default(), None, &[]));
        assert_eq!(no_room, overflow(CONTEXT, 1));
        assert_eq!(one(engine, &filled, Goal::Logits).logits.len(), CONTEXT * VOCAB);
        assert_eq!(refusal(engine, &tokens(&[7; CONTEXT + 44]), Goal::Logits), overflow(CONTEXT + 44, 0));
        let message = overflow(200, 57).to_string();
        assert!(["200", "57", "256"].iter().all(|number| message.contains(number)), "{message}");
    });
}

#[test]
fn what_cannot_be_served_is_refused_and_leaves_no_trace() {
    let few = |options: &mut Options| (options.prompt_bytes, options.label_tokens) = (2000, 8);
    with_options(&fixture(TINY), fast(), few, |engine| {
        let good = tokens(&[1, 2, 3]);
        assert_eq!(refusal(engine, &[], greedy(1)), Refusal::EmptyPrompt);
        assert_eq!(refusal(engine, &[Piece::Text("")], Goal::Logits), Refusal::EmptyPrompt);
        let unknown = refusal(engine, &tokens(&[1, VOCAB as u32, 2]), greedy(1));
        assert_eq!(unknown, Refusal::UnknownToken { id: 512, vocab: VOCAB });
        assert_eq!(refusal(engine, &good, greedy(0)), Refusal::NothingToGenerate);
        let long = "x".repeat(2001);
        let too_long = refusal(engine, &[Piece::Text(&long)], greedy(1));
        assert_eq!(too_long, Refusal::PromptTooLong { bytes: 2001, most_bytes: 2000 });
        // Counted to the end, over all pieces, although there is no place for them.
        let text = "q8Z#".repeat(500);
        let counted = refusal(engine, &[Piece::Text(&text), Piece::Token(1), Piece::Text(&text)], greedy(1));
        let prompt_tokens = 2 * count(engine, &text) + 1;
        assert_eq!(
            counted,
            Refusal::ContextOverflow { prompt_tokens, max_tokens: 0, context_tokens: CONTEXT }
        );
        let normal = Sampling::default();
        for (name, sampling) in [
            ("temperature", Sampling { temperature: f32::INFINITY, ..normal }),
            ("top_p", Sampling { top_p: 0.0, ..normal }),
            ("min_p", Sampling { min_p: 1.0, ..normal }),
            ("repetition_penalty", Sampling { repetition_penalty: f32::NAN, ..normal }),
        ] {
            match refusal(engine, &good, generate(sampling, Some(1), &[])) {
                Refusal::Sampling(error) => assert_eq!(error.name, name),
                other => panic!("{name}: {other}"),
            }
        }
        let stops = refusal(engine, &good, generate(normal, Some(1), &["a", ""]));
        assert_eq!(stops, Refusal::Stops(StopError::Empty { index: 1 }));
        let stops = refusal(engine, &good, generate(normal, Some(1), &["stop"; 9]));
        assert_eq!(stops, Refusal::Stops(StopError::TooMany { found: 9 }));
        // Every slot and every page is still there.
        assert_eq!(engine.live(), 0);
        for key in 0..engine.options().slots as u64 {
            // Together all 16 pages, so that one lost would be missed.
            let max = engine.options().cache_tokens / engine.options().slots - good.len();
            engine.submit(&Request { key, prompt: &good, goal: greedy(max) }).expect("room for all");
        }
    });
}

#[test]
fn label_sets_that_make_no_choice_are_refused() {
    let few = |options: &mut Options| options.label_tokens = 100;
    with_options(&fixture(TINY), fast(), few, |engine| {
        let mut refused = |labels: &[&str]| match refusal(engine, &tokens(&[1]), Goal::Choose { labels }) {
            Refusal::Labels(error) => error,
            other => panic!("{labels:?}: {other}"),
        };
        assert_eq!(refused(&[]), LabelError::TooFew { found: 0 });
        assert_eq!(refused(&["yes"]), LabelError::TooFew { found: 1 });
        assert_eq!(refused(&["a", "b", "c", "b"]), LabelError::Duplicate { first: 1, second: 3 });
        assert_eq!(refused(&["a", ""]), LabelError::Empty { index: 1 });
        let many: Vec<String> = (0..1000).map(|n| format!("label {n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(refused(&many), LabelError::TooMany { found: 1000, most: 256 });
        assert!(matches!(refused(&many[..200]), LabelError::TooManyTokens { most: 100, .. }));
        // A label's length is told as it is, however far beyond the limit.
        let long = "q8Z#".repeat(300);
        let LabelError::TooLong { index: 1, tokens: found } = refused(&["a", &long]) else {
            panic!("too long a label")
        };
        assert_eq!(found, count(engine, &long) + 1, "with the end token");
    });
}

#[test]
fn a_label_trie_wider_than_a_step_gives_the_same_bits() {
    // Prefixes of each other, long common beginnings, and more branches than rows.
    let labels: Vec<String> = (0..60)
        .map(|n| ["disk ", "disk failure ", "net"][n % 3].repeat(1 + n % 2) + &n.to_string())
        .collect();
    let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    labels.extend(["disk", "disk failure", "di", "d"]);
    let decide = |batch_rows, workers| {
        let setup = Setup { batch_rows, workers, ..fast() };
        with_engine(&fixture(TINY), setup, |engine| {
            one(engine, &[9, 8, 7, 6, 5, 4, 3], Goal::Choose { labels: &labels })
        })
    };
    let expected = decide(512, 1);
    let rows = expected.finish.expect("it ended").1.label_rows;
    assert!(rows > 14, "{rows} rows of the trie");
    let total: f32 = expected.probabilities.iter().sum();
    assert!((total - 1.0).abs() < 1e-5, "probabilities add up to {total}");
    assert!(expected.probabilities.iter().all(|p| *p > 0.0 && *p < 1.0));
    for (batch_rows, workers) in [(4, 1), (7, 3), (64, 2)] {
        assert_eq!(decide(batch_rows, workers), expected, "{batch_rows} rows, {workers} workers");
    }
}

#[test]
fn labels_share_the_context_with_their_prompt() {
    tiny(|engine| {
        let labels = ["a label with one end", "a label with two ends"];
        let prompt = tokens(&[1; CONTEXT]);
        let mut choose =
            |prompt| engine.submit(&Request { key: 1, prompt, goal: Goal::Choose { labels: &labels } });
        let refused = choose(&prompt).expect_err("a whole context leaves no room for labels");
        assert!(matches!(refused, Refusal::ContextOverflow { prompt_tokens: CONTEXT, max_tokens: 1.., .. }));
        choose(&prompt[..CONTEXT / 2]).expect("half of it does");
    });
}

#[test]
fn busy_passes_when_a_slot_or_pages_come_free() {
    let small = |options: &mut Options| (options.label_tokens, options.cache_tokens) = (8, 9 * 32);
    with_options(&fixture(TINY), fast(), small, |engine| {
        // Nine pages of 32 cells, one more than a context.
        let prompt = tokens(&[1; 50]);
        // Each of another text, so that none shares a page.
        let submit = |engine: &mut Engine<'_>, key: u64| {
            let prompt = tokens(&[key as u32; 50]);
            engine.submit(&Request { key, prompt: &prompt, goal: greedy(46) })
        };
        for key in 0..3 {
            submit(engine, key).expect("three pages are free");
        }
        let short = Refusal::Busy { pages: Some(NoPages { needed: 3, free: 0 }) };
        assert_eq!(submit(engine, 3), Err(short));
        engine.step(|_, _| {});
        assert!(engine.cancel(1) && !engine.cancel(1), "it was there once");
        submit(engine, 3).expect("the pages of a cancelled request");
        engine.step(|key, _| assert_ne!(key, 1, "nothing comes of a cancelled request"));
        assert_eq!(submit(engine, 4), Err(short));
        let mut finished = 0;
        while engine.live() > 0 {
            engine.step(|_, event| finished += usize::from(matches!(event, Event::Finished { .. })));
        }
        assert_eq!(finished, 3);
        // A request that needs all there is, then slots instead of pages.
        let whole = tokens(&[1; CONTEXT]);
        engine.submit(&Request { key: 9, prompt: &whole, goal: Goal::Logits }).expect("all pages are free");
        assert!(engine.cancel(9));
        for key in 0..4 {
            engine.submit(&Request { key, prompt: &prompt[..1], goal: greedy(2) }).expect("a slot");
        }
        assert_eq!(submit(engine, 5), Err(Refusal::Busy { pages: None }));
        while engine.live() == 4 {
            engine.step(|_, _| {});
        }
        submit(engine, 5).expect("a slot came free");
    });
}

#[test]
fn seeds_reproduce_and_differ() {
    tiny(|engine| {
        let mut text = |seed| {
            let sampling =
                Sampling { temperature: 1.5, top_k: 100, top_p: 0.98, seed, ..Sampling::default() };
            one(engine, &[3, 4], generate(sampling, Some(40), &[])).ids
        };
        let (a, b) = (text(1), text(2));
        assert_ne!(a, b);
        assert_eq!((text(1), text(2)), (a, b));
    });
}

#[test]
fn a_repetition_penalty_acts_on_the_last_tokens() {
    tiny(|engine| {
        let prompt = [5, 9, 40];
        let (penalty, window) = (1.9, 5);
        let sampling = Sampling { repetition_penalty: penalty, repeat_window: window, ..Sampling::default() };
        let found = one(engine, &prompt, generate(sampling, Some(40), &[])).ids;
        assert_ne!(found, one(engine, &prompt, greedy(40)).ids, "it changes something");
        let text: Vec<u32> = prompt.iter().chain(&found).copied().collect();
        let all = logits(engine, &text);
        for (i, id) in found.iter().enumerate() {
            let known = prompt.len() + i;
            let mut row = all[(known - 1) * VOCAB..known * VOCAB].to_vec();
            let mut recent = text[known.saturating_sub(window)..known].to_vec();
            recent.sort_unstable();
            recent.dedup();
            for seen in recent {
                let logit = &mut row[seen as usize];
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
            assert_eq!(argmax(&row), *id, "token {i}");
        }
    });
}

#[test]
fn the_plan_is_exactly_what_the_engine_cuts() {
    let file = MappedFile::open(fixture(TINY)).expect("the fixture");
    let gguf = Gguf::parse(file.bytes()).expect("a good file");
    let config = Config::read(&gguf).expect("a good file");
    for set in sets::usable() {
        for kv in KvType::ALL {
            let options = Options { kv, slots: 3, batch_rows: 5, labels: 7, ..Options::for_model(&config) };
            let plan = MemoryPlan::new(&gguf, options, set, 1).expect("it can be planned");
            // From the first aligned byte on, nothing is left over.
            let bytes = plan.total_bytes() - ALIGN;
            let mut memory = vec![0u8; plan.total_bytes()];
            let skip = memory.as_ptr().align_offset(ALIGN);
            let exactly = &mut memory[skip..skip + bytes];
            Engine::new(&gguf, &plan, set, &Serial, exactly).unwrap_or_else(|e| panic!("{}: {e}", set.name));
            let error = Engine::new(&gguf, &plan, set, &Serial, &mut memory[skip..skip + bytes - 1]);
            assert!(matches!(error, Err(LoadError::Arena(_))), "{}: {error:?}", set.name);
        }
    }
}

#[test]
fn a_plan_for_other_parts_is_refused() {
    let file = MappedFile::open(fixture(TINY)).expect("the fixture");
    let gguf = Gguf::parse(file.bytes()).expect("a good file");
    let options = Options::for_model(&Config::read(&gguf).expect("a good file"));
    let set = &tern_kernels::SCALAR;
    let plan = MemoryPlan::new(&gguf, options, set, 2).expect("it can be planned");
    let mut memory = vec![0u8; plan.total_bytes()];
    let pool = Pool::new(3).expect("threads");
    let error = Engine::new(&gguf, &plan, set, &pool, &mut memory).expect_err("another number of workers");
    assert_eq!(error, LoadError::NotAsPlanned { what: "workers", planned: 2, found: 3 });
    let other = MappedFile::open(tern_tests::model::bundled(BUNDLED)).expect("the model");
    let other = Gguf::parse(other.bytes()).expect("a good file");
    let pool = Pool::new(2).expect("threads");
    let error = Engine::new(&other, &plan, set, &pool, &mut memory);
    assert!(matches!(error, Err(LoadError::NotAsPlanned { .. } | LoadError::Options(_))), "{error:?}");
}
