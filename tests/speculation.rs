//! Tokens tried ahead change nothing that anybody is told: event by event, bit by bit, the same as without.

use tern_runtime::constraint::{Constraint, Free, Progress};
use tern_runtime::engine::{Engine, Event, Finish, Generate, Goal, Piece, Request, Usage};
use tern_runtime::head::HeadKind;
use tern_runtime::kv_cache::KvType;
use tern_runtime::plan::Options;
use tern_runtime::sampler::{Rng, Sampling};
use tern_tests::model::{BUNDLED, Setup, bundled, fixture, tokens, with_options};
use tern_tests::sets;

/// What a request was told, and what it took.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    events: Vec<String>,
    ids: Vec<u32>,
    steps: usize,
    choices: usize,
    rows: usize,
    finish: Option<(Finish, Usage)>,
}

/// Runs one request under `rules`. Numbers are compared by their shortest exact decimals.
fn serve(
    engine: &mut Engine<'_>,
    rules: &mut dyn Constraint,
    prompt: &[Piece<'_>],
    goal: Generate<'_>,
) -> Told {
    let mut told = Told::default();
    engine.submit(&Request { key: 1, prompt, goal: Goal::Generate(goal) }).expect("a good request");
    while engine.live() > 0 {
        let step = engine.step_under(rules, |_, event| {
            match event {
                Event::Finished { reason, usage } => told.finish = Some((reason, usage)),
                event => told.events.push(format!("{event:?}")),
            }
            if let Event::Token { id } = event {
                told.ids.push(id);
            }
        });
        told.steps += 1;
        told.choices += step.shares.iter().map(|share| share.choices).sum::<usize>();
        told.rows += step.rows();
    }
    told
}

/// Drafts that were made and that came true, over many requests.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    drafted: usize,
    accepted: usize,
}

/// Runs a request with and without drafts and compares.
fn compare<R: Constraint>(
    engine: &mut Engine<'_>,
    rules: impl Fn() -> R,
    prompt: &[Piece<'_>],
    goal: Generate<'_>,
    sum: &mut Sum,
) -> Told {
    let plain = serve(engine, &mut rules(), prompt, Generate { speculate: false, ..goal });
    let ahead = serve(engine, &mut rules(), prompt, Generate { speculate: true, ..goal });
    assert_eq!(ahead.events, plain.events, "{:?}", goal.sampling);
    let ((reason, usage), (plain_reason, plain_usage)) =
        ahead.finish.zip(plain.finish).expect("both came to an end");
    assert_eq!(reason, plain_reason, "{:?}", goal.sampling);
    assert_eq!((plain_usage.drafted_tokens, plain_usage.accepted_tokens), (0, 0));
    let without_drafts = Usage { drafted_tokens: 0, accepted_tokens: 0, ..usage };
    assert_eq!(without_drafts, plain_usage);
    assert!(usage.accepted_tokens <= usage.drafted_tokens && ahead.steps <= plain.steps, "{usage:?}");
    assert_eq!(ahead.choices, plain.choices);
    // Every step saved is a row drafted rather than due.
    assert_eq!(ahead.rows + plain.steps, plain.rows + usage.drafted_tokens + ahead.steps);
    sum.drafted += usage.drafted_tokens;
    sum.accepted += usage.accepted_tokens;
    ahead
}

/// Settings of every kind of choice: the best, the best few, those near the best, all; with and without a penalty.
fn samplings() -> [Sampling; 6] {
    let greedy = Sampling::default();
    let warm = Sampling { temperature: 0.7, ..greedy };
    [
        greedy,
        Sampling { repetition_penalty: 1.2, repeat_window: 24, ..greedy },
        Sampling { top_k: 30, top_p: 0.9, ..warm },
        Sampling { min_p: 0.05, repetition_penalty: 1.1, ..warm },
        Sampling { temperature: 0.3, ..greedy },
        Sampling { top_p: 0.8, ..warm },
    ]
}

/// Two thirds of all tokens may follow, by their place and number; the text is complete after `length`.
struct TwoThirds {
    taken: usize,
    length: usize,
    words: Vec<u32>,
}

impl TwoThirds {
    fn new(length: usize) -> Self {
        TwoThirds { taken: 0, length, words: Vec::new() }
    }

    fn permits(&self, token: u32) -> bool {
        !Rng::new(self.taken as u64 % 3 * 1009 + u64::from(token)).next_u64().is_multiple_of(3)
    }
}

impl Constraint for TwoThirds {
    fn constrains(&self, _: u64) -> bool {
        true
    }

    fn allows(&mut self, _: u64, token: u32) -> bool {
        self.permits(token)
    }

    fn allowed(&mut self, _: u64) -> &[u32] {
        self.words = (0..1024)
            .map(|word| (0..32).fold(0, |bits, bit| bits | u32::from(self.permits(32 * word + bit)) << bit))
            .collect();
        &self.words
    }

    fn may_end(&mut self, _: u64) -> bool {
        self.taken > 20
    }

    fn take(&mut self, _: u64, token: u32) -> Progress {
        assert!(self.permits(token), "token {token} may not follow");
        self.taken += 1;
        if self.taken == self.length { Progress::Complete } else { Progress::Open }
    }
}

/// One text and no other may be written.
struct Dictated<'d> {
    text: &'d [u32],
    taken: usize,
    words: Vec<u32>,
}

impl Constraint for Dictated<'_> {
    fn constrains(&self, _: u64) -> bool {
        true
    }

    fn allows(&mut self, _: u64, token: u32) -> bool {
        self.text[self.taken] == token
    }

    fn allowed(&mut self, _: u64) -> &[u32] {
        let token = self.text[self.taken];
        self.words = vec![0; token as usize / 32 + 1];
        self.words[token as usize / 32] = 1 << (token % 32);
        &self.words
    }

    fn may_end(&mut self, _: u64) -> bool {
        false
    }

    fn take(&mut self, _: u64, token: u32) -> Progress {
        assert_eq!(token, self.text[self.taken]);
        self.taken += 1;
        if self.taken == self.text.len() { Progress::Complete } else { Progress::Open }
    }
}

/// Engines to compare on: both heads of the bundled model, and one whose texts go round in circles.
fn on_engines(mut test: impl FnMut(&str, &mut Engine<'_>)) {
    let fast = Setup { set: sets::usable()[0], ..Setup::default() };
    let models = [
        ("file head", bundled(BUNDLED), HeadKind::File, KvType::F16, 1, 5),
        ("int8 head", bundled(BUNDLED), HeadKind::Int8, KvType::I8, 2, 8),
        ("tiny", fixture("oracle/gguf/tiny-i2_s.gguf"), HeadKind::Stored, KvType::F32, 1, 32),
    ];
    for (name, path, head, kv, workers, draft_tokens) in models {
        let adjust = |options: &mut Options| {
            (options.head, options.draft_tokens) = (head, draft_tokens);
            options.context_tokens = options.context_tokens.min(320);
        };
        with_options(&path, Setup { kv, workers, ..fast }, adjust, |engine| {
            // What one request computed would be missing from the rows of the next.
            engine.keep_prefixes(false);
            test(name, engine);
        });
    }
}

/// A log with what repeats itself in it.
const LOG: &str = "User: Summarize this log.\nusb 1-1: device descriptor read error -71\npump 4: bearing temperature \
                   81 C, limit 80 C\nusb 1-1: device descriptor read error -71\npump 4: bearing temperature 84 C, limit \
                   80 C\n\nAssistant: pump 4: bearing";

#[test]
fn every_event_is_the_same_as_without() {
    on_engines(|name, engine| {
        let mut sum = Sum::default();
        let ids: Vec<u32> = (0..40).map(|at| 3 + at % 13).collect();
        let prompts = [vec![Piece::Token(0), Piece::Text(LOG)], tokens(&ids)];
        let settings = prompts.iter().flat_map(|prompt| samplings().map(|sampling| (prompt, sampling)));
        for (seed, (prompt, sampling)) in (1..).zip(settings) {
            let goal = Generate {
                sampling: Sampling { seed, ..sampling },
                max_tokens: Some(40),
                ignore_stop_tokens: seed % 2 == 0,
                ..Generate::default()
            };
            compare(engine, || Free, prompt, goal, &mut sum);
            let weighed = Generate { logprobs: Some(3), max_tokens: Some(20), ..goal };
            compare(engine, || Free, prompt, weighed, &mut sum);
            compare(engine, || TwoThirds::new(25), prompt, goal, &mut sum);
            let stops = Generate { stops: &["error", "\n\n", "80"], ..goal };
            compare(engine, || Free, prompt, stops, &mut sum);
        }
        println!("{name}: {sum:?}");
        assert!(sum.accepted > 100 && sum.drafted > sum.accepted + 50, "{name}: {sum:?}");
    });
}

#[test]
fn a_dictated_copy_takes_a_fraction_of_the_steps() {
    on_engines(|name, engine| {
        // A copy of the middle of the prompt with every twelfth token changed.
        let prompt: Vec<u32> = (0..90).map(|at| 5 + at * 7 % 400).collect();
        let copy: Vec<u32> =
            (20..80u32).map(|at| if at % 12 == 0 { 3 } else { prompt[at as usize] }).collect();
        for sampling in samplings() {
            let mut sum = Sum::default();
            let goal = Generate { sampling, ignore_stop_tokens: true, ..Generate::default() };
            let rules = || Dictated { text: &copy, taken: 0, words: Vec::new() };
            let told = compare(engine, rules, &tokens(&prompt), goal, &mut sum);
            assert_eq!(
                (told.ids.as_slice(), told.finish.map(|end| end.0)),
                (&copy[..], Some(Finish::Complete))
            );
            assert!(told.steps < 40 && sum.accepted > 20, "{name}: {} steps, {sum:?}", told.steps);
        }
    });
}

#[test]
fn drafts_stay_within_every_limit() {
    on_engines(|_, engine| {
        let mut sum = Sum::default();
        let context = engine.options().context_tokens;
        let prompt: Vec<u32> = (0..context as u32 - 30).map(|at| 3 + at % 5).collect();
        let goal = Generate { ignore_stop_tokens: true, ..Generate::default() };
        let full = compare(engine, || Free, &tokens(&prompt), goal, &mut sum);
        assert_eq!((full.ids.len(), full.finish.map(|end| end.0)), (30, Some(Finish::ContextFull)));
        for most in 1..12 {
            let limited = Generate { max_tokens: Some(most), ..goal };
            let told = compare(engine, || Free, &tokens(&prompt), limited, &mut sum);
            assert_eq!(
                (told.ids.as_slice(), told.finish.map(|end| end.0)),
                (&full.ids[..most], Some(Finish::MaxTokens))
            );
        }
        // Whatever was cancelled or ended in between leaves nothing wrong behind, also where it is kept for others.
        engine.keep_prefixes(true);
        let request = Request { key: 1, prompt: &tokens(&prompt), goal: Goal::Generate(goal) };
        for steps in 4..14 {
            engine.submit(&request).expect("a good request");
            (0..steps).for_each(|_| drop(engine.step(|_, _| ())));
            assert!(engine.cancel(1) || engine.live() == 0);
        }
        let written: Vec<u32> = prompt.iter().chain(&full.ids[..20]).copied().collect();
        for _ in 0..3 {
            assert_eq!(serve(engine, &mut Free, &tokens(&prompt), goal).events, full.events);
            let rest = serve(engine, &mut Free, &tokens(&written), goal);
            assert_eq!(rest.ids, full.ids[20..]);
            assert!(
                rest.finish.is_some_and(|(_, usage)| usage.cached_tokens > prompt.len()),
                "{:?}",
                rest.finish
            );
        }
    });
}

#[test]
fn without_room_for_drafts_there_are_none() {
    let setup = Setup { set: sets::usable()[0], ..Setup::default() };
    let without = |options: &mut Options| options.draft_tokens = 0;
    with_options(&fixture("oracle/gguf/tiny-i2_s.gguf"), setup, without, |engine| {
        let goal = Generate { ignore_stop_tokens: true, max_tokens: Some(30), ..Generate::default() };
        let told = serve(engine, &mut Free, &tokens(&[4, 5, 4, 5, 4, 5]), goal);
        assert_eq!((told.steps, told.finish.map(|end| end.1.drafted_tokens)), (30, Some(0)));
    });
}
