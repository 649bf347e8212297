//! What one request computed serves others that begin alike, and nobody can tell but by the clock.

use tern_runtime::engine::{Engine, Generate, Goal, Refusal, Request};
use tern_runtime::kv_cache::{KvType, PAGE_CELLS};
use tern_runtime::plan::Options;
use tern_runtime::sampler::Sampling;
use tern_tests::fill::Random;
use tern_tests::model::{Outcome, Setup, fixture, greedy, run, tokens, with_engine, with_options};
use tern_tests::sets;

const TINY: &str = "oracle/gguf/tiny-i2_s.gguf";
const LABELS: [&str; 5] = ["on", "one", "once", "network down", "network up"];

fn setup(kv: KvType) -> Setup {
    Setup { set: sets::usable()[0], kv, slots: 6, batch_rows: 24, ..Setup::default() }
}

fn ids(count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.below(510) as u32).collect()
}

/// A text with the log probabilities of its tokens: every bit of the logits shows.
fn told(max_tokens: usize) -> Goal<'static> {
    Goal::Generate(Generate {
        sampling: Sampling::default(),
        max_tokens: Some(max_tokens),
        ignore_stop_tokens: true,
        logprobs: Some(3),
        ..Generate::default()
    })
}

/// Answers without what was saved, and the tokens saved in all.
fn answers(engine: &mut Engine<'_>, prompts: &[(Vec<u32>, Goal<'_>)]) -> (Vec<Outcome>, usize) {
    let requests: Vec<_> = prompts.iter().map(|(prompt, goal)| (tokens(prompt), *goal)).collect();
    let mut outcomes = run(engine, &requests);
    let mut saved = 0;
    for outcome in &mut outcomes {
        let (_, usage) = outcome.finish.expect("it ended");
        assert!(usage.cached_tokens < usage.prompt_tokens);
        saved += outcome.take_cached();
        // How much is drafted depends on who else is served.
        *outcome = outcome.undrafted();
    }
    (outcomes, saved)
}

/// The same one by one, with nothing kept.
fn without(kv: KvType, prompts: &[(Vec<u32>, Goal<'_>)]) -> Vec<Outcome> {
    with_engine(&fixture(TINY), setup(kv), |engine| {
        engine.keep_prefixes(false);
        let one = |request| {
            let (mut outcomes, saved) = answers(engine, std::slice::from_ref(request));
            assert_eq!(saved, 0);
            outcomes.remove(0)
        };
        prompts.iter().map(one).collect()
    })
}

#[test]
fn answers_have_the_same_bits_with_and_without_what_is_kept() {
    let fixed = ids(80, 1);
    let prompt = |length: usize, seed| [&fixed[..length], &ids(9, seed)[..]].concat();
    // Behind whole pages, within a page, at its very end, and a prompt that is a beginning of another.
    let mut prompts = vec![];
    for (seed, length) in [80, 80, 64, 70, 55, 32, 31, 80, 3].into_iter().enumerate() {
        let goal = if seed % 2 == 0 { Goal::Choose { labels: &LABELS } } else { told(5) };
        prompts.push((prompt(length, seed as u64), goal));
    }
    prompts.push((fixed[..64].to_vec(), told(40)));
    prompts.push((fixed[..65].to_vec(), Goal::Choose { labels: &LABELS }));
    for kv in KvType::ALL {
        let expected = without(kv, &prompts);
        let ample = |options: &mut Options| options.cache_tokens = 64 * PAGE_CELLS;
        with_options(&fixture(TINY), setup(kv), ample, |engine| {
            // All at once, then again with everything there.
            let (found, saved) = answers(engine, &prompts);
            assert!(found == expected, "{kv:?}: in a burst");
            assert!(saved > 300, "{kv:?}: {saved} tokens saved in a burst");
            let (found, again) = answers(engine, &prompts);
            assert!(found == expected, "{kv:?}: again");
            let all: usize = prompts.iter().map(|(prompt, _)| prompt.len() - 1).sum();
            assert_eq!(again, all, "{kv:?}: all but the last token of each");
        });
    }
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    with_engine(&fixture(TINY), setup(KvType::F16), |engine| {
        let first = ids(40, 3);
        let (found, _) = answers(engine, &[(first.clone(), told(30))]);
        // The last token of an answer is not run.
        let kept = first.len() + 29;
        let next = [&first[..], &found[0].ids, &ids(8, 4)].concat();
        let (continued, saved) = answers(engine, &[(next.clone(), told(6))]);
        assert_eq!(saved, kept);
        assert!(continued == without(KvType::F16, &[(next, told(6))]));
    });
}

#[test]
fn what_comes_at_once_is_computed_once() {
    let fixed = ids(3 * PAGE_CELLS, 5);
    with_engine(&fixture(TINY), setup(KvType::F16), |engine| {
        let prompts: Vec<_> = (0..6).map(|n| [&fixed[..], &ids(4, 10 + n)].concat()).collect();
        let submit = |engine: &mut Engine<'_>, key: usize| {
            let prompt = tokens(&prompts[key]);
            engine.submit(&Request {
                key: key as u64,
                prompt: &prompt,
                goal: Goal::Choose { labels: &LABELS },
            })
        };
        (0..6).for_each(|key| submit(engine, key).expect("there is room"));
        let mut rows = engine.step(|_, _| {}).rows();
        // Whoever was to compute it may go: another goes on.
        assert!(engine.cancel(0) && engine.cancel(1));
        while engine.live() > 0 {
            rows += engine.step(|_, _| {}).rows();
        }
        let labels = rows - 3 * PAGE_CELLS - 4 * 4;
        assert!(labels <= 6 * 8, "{rows} rows");
    });
}

#[test]
fn what_is_kept_never_takes_a_place_that_is_asked_for() {
    let small = |options: &mut Options| options.cache_tokens = 9 * PAGE_CELLS;
    with_options(&fixture(TINY), setup(KvType::I8), small, |engine| {
        for seed in 0..20 {
            // Whole contexts and what fills the rest, each of another text.
            let long = tokens(&ids(240, seed));
            engine.submit(&Request { key: 1, prompt: &long, goal: greedy(16) }).expect("eight of nine pages");
            let short = tokens(&ids(20, 100 + seed));
            engine.submit(&Request { key: 2, prompt: &short, goal: greedy(12) }).expect("the ninth page");
            let refused = engine.submit(&Request { key: 3, prompt: &short, goal: greedy(12) });
            assert!(matches!(refused, Err(Refusal::Busy { pages: Some(_) })), "{refused:?}");
            while engine.live() > 0 {
                engine.step(|_, _| {});
            }
        }
    });
}

#[test]
fn a_prefix_that_was_saved_serves_another_engine() {
    let fixed = ids(70, 6);
    let prompt = [&fixed[..], &ids(5, 7)].concat();
    for kv in KvType::ALL {
        let request = [(prompt.clone(), told(4))];
        let expected = without(kv, &request);
        let saved: Vec<Vec<u8>> = with_engine(&fixture(TINY), setup(kv), |engine| {
            answers(engine, &request);
            engine.cache().stored(&fixed).map(<[u8]>::to_vec).collect()
        });
        assert_eq!(saved.len(), 2);
        with_engine(&fixture(TINY), Setup { set: &tern_kernels::SCALAR, ..setup(kv) }, |engine| {
            assert!(!engine.restore(&fixed, 0, &saved[0][1..]), "a page of another size");
            for (index, bytes) in saved.iter().enumerate() {
                assert!(engine.restore(&fixed, index, bytes));
            }
            let (found, saved) = answers(engine, &request);
            assert!(found == expected && saved == 64, "{kv:?}: {saved} tokens saved");
        });
    }
}
