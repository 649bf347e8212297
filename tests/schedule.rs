//! No answer depends on who else is being served, on how many workers there are, or on how products are cut.

use std::collections::BTreeMap;

use tern_kernels::reference::{LANE_OPS, PLAIN_OPS};
use tern_kernels::{Grain, KernelSet, Layout, TernaryOps};
use tern_runtime::engine::{Engine, Event, Finish, Generate, Goal, Phase, Refusal, Request};
use tern_runtime::kv_cache::KvType;
use tern_runtime::model::Config;
use tern_runtime::plan::Options;
use tern_runtime::sampler::Sampling;
use tern_tests::fill::Random;
use tern_tests::model::{BUNDLED, Outcome, Setup, fixture, logits, run, tokens, with_engine, with_options};
use tern_tests::sets;

const TINY: &str = "oracle/gguf/tiny-i2_s.gguf";
/// Tokens of the tiny model.
const VOCAB: usize = 512;

/// The fastest kernels of this machine.
fn fast() -> Setup {
    Setup { set: sets::usable()[0], ..Setup::default() }
}

/// A request of the random schedule.
struct Planned {
    prompt: Vec<u32>,
    kind: Kind,
    /// Cancelled after this many steps of its own, if it still lives.
    cancelled_after: Option<usize>,
}

enum Kind {
    Generate(Sampling, usize),
    Choose(Vec<&'static str>),
    Logits,
}

impl Planned {
    fn random(random: &mut Random) -> Self {
        const LABELS: [&str; 8] = ["on", "one", "once", "off", "office", "error", "err", "network down"];
        // One in two begins like others.
        let shared = if random.below(2) == 0 { random.below(70) } else { 0 };
        let own = 1 + random.below(14);
        let prompt =
            (0..shared).map(|at| at as u32).chain((0..own).map(|_| random.below(510) as u32)).collect();
        let kind = match random.below(4) {
            0 => Kind::Logits,
            1 => {
                let first = random.below(LABELS.len() - 2);
                Kind::Choose(LABELS[first..first + 2 + random.below(LABELS.len() - first - 1)].to_vec())
            }
            n => {
                let temperature = if n == 2 { 0.0 } else { 1.2 };
                let seed = random.bits();
                let penalty = 1.0 + random.below(2) as f32 / 4.0;
                let sampling =
                    Sampling { temperature, seed, repetition_penalty: penalty, ..Sampling::default() };
                Kind::Generate(sampling, 1 + random.below(10))
            }
        };
        let cancelled_after = (random.below(5) == 0).then(|| random.below(6));
        Planned { prompt, kind, cancelled_after }
    }

    fn goal(&self) -> Goal<'_> {
        match &self.kind {
            Kind::Generate(sampling, max) => Goal::Generate(Generate {
                sampling: *sampling,
                max_tokens: Some(*max),
                stops: &["th", "\n"],
                ..Generate::default()
            }),
            Kind::Choose(labels) => Goal::Choose { labels },
            Kind::Logits => Goal::Logits,
        }
    }
}

/// What the steps said about one request, added up.
#[derive(Default)]
struct Spent {
    prefill_rows: usize,
    decode_rows: usize,
    choices: usize,
    work: u64,
    head_rows: usize,
    label_rows: usize,
}

impl Spent {
    /// Compares with what the request must have taken.
    fn check(&self, request: &Planned, outcome: &Outcome, config: &Config) {
        let (reason, usage) = outcome.finish.expect("it ended");
        // The last token of an answer is not run, unless it is one that ends it without being a part of it.
        let samples = usage.generated_tokens + usize::from(reason == Finish::StopToken);
        let (decoded, heads) = match request.kind {
            Kind::Generate(..) => (samples - 1, samples),
            Kind::Choose(_) => (0, 0),
            Kind::Logits => (0, request.prompt.len()),
        };
        let prefilled = request.prompt.len() - usage.cached_tokens + usage.label_rows;
        assert_eq!((self.prefill_rows, self.choices), (prefilled, decoded));
        // Drafts that came to nothing, in place of other rows or beside them.
        let vain = self.decode_rows - decoded;
        assert!(vain <= usage.drafted_tokens, "{vain} rows in vain, {usage:?}");
        let rows = (prefilled + self.decode_rows) as u64;
        // Each row sees itself and what is before it; a node of a label trie the prompt and its ancestors. Which rows others
        // computed is not told: the first ones at least, the last ones at most.
        let (cached, labels) = (usage.cached_tokens as u64, usage.label_rows as u64);
        let text = (prefilled + decoded) as u64 - labels + cached;
        let sum = |rows: u64| rows * (rows + 1) / 2;
        let (least, most) = (sum(text - cached), sum(text) - sum(cached));
        let (least, most) = (least + labels * (text + 1), most + labels * (text + labels));
        let most = most + vain as u64 * (text + usage.drafted_tokens as u64);
        let work = |seen| rows * config.ternary_weights() + seen * config.attention_products();
        assert!((work(least)..=work(most)).contains(&self.work), "{} for {rows} rows", self.work);
        // The end of the prompt is the root of the trie.
        let weighed = if matches!(request.kind, Kind::Choose(_)) { usage.label_rows + 1 } else { 0 };
        assert_eq!((self.head_rows, self.label_rows), (heads + vain, weighed));
    }
}

/// Serves `requests` as they arrive at random; those cancelled have no finish.
fn serve_at_random(engine: &mut Engine<'_>, requests: &[Planned], random: &mut Random) -> Vec<Outcome> {
    let (mut outcomes, mut spent) = (vec![Outcome::default(); requests.len()], BTreeMap::new());
    let (mut next, mut age, mut most_live) = (0, BTreeMap::new(), 0);
    while next < requests.len() || engine.live() > 0 {
        for _ in 0..random.below(3) {
            let Some(request) = requests.get(next) else { break };
            let prompt = tokens(&request.prompt);
            match engine.submit(&Request { key: next as u64, prompt: &prompt, goal: request.goal() }) {
                Ok(()) => {
                    age.insert(next, 0);
                    next += 1;
                }
                Err(Refusal::Busy { .. }) if engine.live() > 0 => break,
                Err(refusal) => panic!("request {next}: {refusal}"),
            }
        }
        most_live = most_live.max(engine.live());
        let step = engine.step(|key, event| {
            let outcome = &mut outcomes[key as usize];
            match event {
                Event::Token { id } => outcome.ids.push(id),
                Event::Text(text) => outcome.text.push_str(text),
                Event::Logits { logits, position } => {
                    assert_eq!(position * VOCAB, outcome.logits.len(), "positions in order");
                    outcome.logits.extend(logits);
                }
                Event::Logprobs { .. } => panic!("nobody asked for them"),
                Event::Decided { probabilities } => outcome.probabilities = probabilities.to_vec(),
                Event::Finished { reason, usage } => outcome.finish = Some((reason, usage)),
            }
        });
        assert!(step.rows() <= engine.options().batch_rows, "{} rows", step.rows());
        for share in &step.shares {
            let spent = spent.entry(share.key as usize).or_insert_with(Spent::default);
            assert!(age.contains_key(&(share.key as usize)) && share.rows > 0, "{share:?}");
            match share.phase {
                Phase::Prefill => spent.prefill_rows += share.rows,
                Phase::Decode => {
                    spent.decode_rows += share.rows;
                    spent.choices += share.choices;
                }
            }
            spent.work += share.work;
            spent.head_rows += share.head_rows;
            spent.label_rows += share.label_rows;
        }
        age.retain(|index, age| {
            *age += 1;
            let is_over = outcomes[*index].finish.is_some();
            let give_up = requests[*index].cancelled_after.is_some_and(|after| *age > after);
            assert!(!give_up || is_over || engine.cancel(*index as u64), "a live request can be cancelled");
            !is_over && !give_up
        });
    }
    assert_eq!(most_live, engine.options().slots, "the schedule fills every slot at times");
    for (index, outcome) in outcomes.iter_mut().enumerate() {
        if outcome.finish.is_some() {
            spent[&index].check(&requests[index], outcome, &engine.model().config);
        }
        outcome.take_cached();
    }
    outcomes
}

#[test]
fn two_hundred_requests_at_random_get_the_answers_they_get_alone() {
    let mut random = Random::new(20_261_121);
    let requests: Vec<Planned> = (0..200).map(|_| Planned::random(&mut random)).collect();
    let alone: Vec<Outcome> = with_engine(&fixture(TINY), fast(), |engine| {
        engine.keep_prefixes(false);
        let alone = |request: &Planned| run(engine, &[(tokens(&request.prompt), request.goal())]).remove(0);
        requests.iter().map(alone).collect()
    });
    for (workers, batch_rows, slots) in [(1, 7, 5), (3, 16, 6)] {
        // Pages for some two long requests, so that memory runs out as well as slots.
        let setup = Setup { workers, batch_rows, slots, ..fast() };
        let small = |options: &mut Options| (options.label_tokens, options.cache_tokens) = (64, 320);
        with_options(&fixture(TINY), setup, small, |engine| {
            let found = serve_at_random(engine, &requests, &mut random);
            let (mut ended, mut cancelled) = (0, 0);
            for (index, (found, alone)) in found.iter().zip(&alone).enumerate() {
                if found.finish.is_some() {
                    assert!(found.undrafted() == alone.undrafted(), "request {index} with {workers} workers");
                    ended += 1;
                } else {
                    assert!(requests[index].cancelled_after.is_some(), "request {index} never ended");
                    assert!(alone.ids.starts_with(&found.ids), "request {index}");
                    assert!(alone.text.starts_with(&found.text), "request {index}");
                    assert!(alone.logits.starts_with(&found.logits), "request {index}");
                    cancelled += 1;
                }
            }
            println!("{workers} workers: {ended} ended, {cancelled} cancelled");
            assert!(ended > 120 && cancelled > 10, "{ended} ended, {cancelled} cancelled");
        });
    }
}

#[test]
fn prompts_of_a_higher_rank_are_read_first_and_none_stands_still() {
    let prompt = |key: u64| (0..60).map(|at| (at * 7 + key as u32 * 31) % 510).collect::<Vec<u32>>();
    let goal = || Goal::Choose { labels: &["on", "off"] };
    let alone = |key: u64| {
        with_engine(&fixture(TINY), fast(), |engine| run(engine, &[(tokens(&prompt(key)), goal())]).remove(0))
    };
    let setup = Setup { batch_rows: 8, slots: 3, ..fast() };
    with_engine(&fixture(TINY), setup, |engine| {
        engine.keep_prefixes(false);
        let submit = |engine: &mut Engine<'_>, key: u64, rank: u8| {
            let prompt = prompt(key);
            engine.submit(&Request { key, prompt: &tokens(&prompt), goal: goal() }).expect("a free slot");
            assert!(engine.set_rank(key, rank) && !engine.set_rank(99, rank));
        };
        submit(engine, 0, 0);
        submit(engine, 1, 2);
        submit(engine, 2, 2);
        let (mut order, mut rows_of_0, mut next, mut steps) = (Vec::new(), 0, 3, 0);
        let mut probabilities = BTreeMap::new();
        while !order.contains(&0) {
            let step = engine.step(|key, event| match event {
                Event::Decided { probabilities: found } => drop(probabilities.insert(key, found.to_vec())),
                Event::Finished { .. } => order.push(key),
                _ => {}
            });
            rows_of_0 +=
                step.shares.iter().filter(|share| share.key == 0).map(|share| share.rows).sum::<usize>();
            if order.len() == 2 && next == 3 {
                assert_eq!(order, [1, 2], "who is of higher rank is done first");
                assert!((1..30).contains(&rows_of_0), "{rows_of_0} rows of 61 meanwhile");
            }
            // Others of higher rank keep coming.
            while order.len() >= 2 && engine.live() < 3 && !order.contains(&0) {
                submit(engine, next, 2);
                next += 1;
            }
            steps += 1;
            assert!(steps < 150, "the first stands still");
        }
        assert!(next > 6, "{next} came before it was done");
        for key in 0..3 {
            assert_eq!(probabilities[&key], alone(key).probabilities, "request {key}");
        }
    });
}

#[test]
fn attention_over_many_spans_has_the_bits_of_one_worker() {
    let path = tern_tests::model::bundled(BUNDLED);
    let mut random = Random::new(11);
    let run = |setup: Setup, ids: &[u32]| {
        let adjust = |options: &mut Options| options.context_tokens = 320;
        with_options(&path, Setup { slots: 1, ..setup }, adjust, |engine| logits(engine, ids))
    };
    // A span is 256 cells. Few rows a step leave the workers too little to share, so that rows are split among them.
    let ids: Vec<u32> = (0..290).map(|_| random.below(1000) as u32).collect();
    for (kv, workers, batch_rows) in [(KvType::F16, 3, 5), (KvType::F32, 4, 7), (KvType::I8, 2, 3)] {
        let expected = run(Setup { kv, workers: 1, batch_rows: 64, ..fast() }, &ids);
        let found = run(Setup { kv, workers, batch_rows, ..fast() }, &ids);
        assert!(found == expected, "{kv:?}, {workers} workers, {batch_rows} rows");
    }
}

/// The scalar kernels under a cut and a hunger for scratch that no set of the project has.
macro_rules! cut_set {
    ($name:literal, $grain:expr) => {{
        static SET: KernelSet = KernelSet::new(
            $name,
            Layout::T2B128,
            TernaryOps {
                grain: $grain,
                scratch_words: |rows, _, tokens| 3 * rows * tokens + 5,
                multiply: |tile, scratch, sums| {
                    assert_eq!(scratch.len(), 3 * tile.rows * tile.tokens + 5, "exactly what was asked for");
                    scratch.fill(u64::MAX);
                    (PLAIN_OPS.multiply)(tile, &mut [], sums);
                },
                ..PLAIN_OPS
            },
            LANE_OPS,
        );
        &SET
    }};
}

#[test]
fn products_are_cut_as_their_kernels_ask_and_keep_their_bits() {
    let ids = tern_tests::npy::ids(&fixture("oracle/input_ids.npy"));
    let expected = with_engine(&fixture(TINY), Setup::default(), |e| logits(e, &ids));
    let sets = [
        cut_set!("every row, three tokens", |rows, _, _, _| Grain { rows, tokens: 3 }),
        cut_set!("more rows than there are", |_, _, _, _| Grain { rows: 1 << 20, tokens: 16 }),
        cut_set!("seven rows, every token", |_, _, tokens, _| Grain { rows: 7, tokens }),
        cut_set!("a share for each worker", |rows, _, tokens, workers| Grain {
            rows: rows.div_ceil(workers),
            tokens: 1 + tokens / 2,
        }),
    ];
    for set in sets {
        for (workers, batch_rows) in [(1, 64), (3, 33), (2, 5)] {
            let setup = Setup { set, workers, batch_rows, ..Setup::default() };
            let found = with_engine(&fixture(TINY), setup, |e| logits(e, &ids));
            assert!(found == expected, "{}: {workers} workers, {batch_rows} rows", set.name);
        }
    }
}
