//! The int8 head: choices made from its high plane against those of the whole head, and the whole head against the one
//! it was made from.
//!
//! A miss is a choice that differs; there may be none. `--nocapture` prints how many rows were looked up for it and how
//! far the worst estimate was off, in the deviations that `head::screen` counts in.

use tern_kernels::SCALAR;
use tern_kernels::planes::{nibble_at, weight_at};
use tern_runtime::activations::Form;
use tern_runtime::arena::{ALIGN, Arena};
use tern_runtime::engine::{Engine, Generate, Goal, Piece};
use tern_runtime::forward::{Machine, Row, WorkShape, Workspace};
use tern_runtime::gguf::{Gguf, TensorType};
use tern_runtime::head::planes::FACTORS;
use tern_runtime::head::screen::{self, K};
use tern_runtime::head::{self, Head, HeadKind, Planes};
use tern_runtime::kv_cache::{KvCache, KvShape, KvType, PAGE_CELLS};
use tern_runtime::map::MappedFile;
use tern_runtime::model::{Config, Dense, DenseData, Model};
use tern_runtime::parallel::Serial;
use tern_runtime::sampler::{Candidate, Rng, Sampling, argmax, choose, penalized, recent, sample};
use tern_tests::fill::Random;
use tern_tests::model::{BUNDLED, Outcome, Setup, bundled, greedy, logits, run, tokens, with_options};
use tern_tests::sets;

/// The settings whose choices are compared: each way of not needing every logit, with penalties and without.
fn samplings() -> [Sampling; 6] {
    let warm = Sampling { temperature: 0.8, ..Sampling::default() };
    let penalty = |sampling| Sampling { repetition_penalty: 1.3, repeat_window: 20, ..sampling };
    [
        Sampling::default(),
        penalty(Sampling::default()),
        Sampling { top_k: 40, top_p: 0.95, ..warm },
        penalty(Sampling { top_k: 200, min_p: 0.001, ..warm }),
        Sampling { min_p: 0.05, ..warm },
        Sampling { repetition_penalty: 0.5, ..penalty(Sampling { min_p: 0.02, temperature: 1.5, ..warm }) },
    ]
}

/// What came of comparing choices.
#[derive(Default)]
struct Tally {
    choices: usize,
    misses: usize,
    /// Rows looked up, by sampling.
    rows: [usize; 6],
    most_rows: usize,
    /// The largest deviation of an exact logit above its estimate.
    worst: f32,
    /// Rows whose bound was below their exact logit.
    broken_bounds: usize,
}

impl Tally {
    fn print(&self, name: &str, planes: &Planes<'_>) {
        let states = self.choices / self.rows.len();
        let rows: Vec<usize> = self.rows.iter().map(|rows| rows.div_ceil(states.max(1))).collect();
        println!(
            "{name}: {} rows x {}, {states} states, {} choices, {} misses; rows looked up {rows:?} a state, most {}; \
             worst estimate {:.1} deviations under",
            planes.rows, planes.cols, self.choices, self.misses, self.most_rows, self.worst
        );
    }
}

/// A head of `weights: [rows, cols]` in planes.
fn with_planes<R>(cols: usize, weights: &[f32], test: impl FnOnce(&Planes<'_>) -> R) -> R {
    let rows = weights.len() / cols;
    let dense = Dense { cols, rows, ty: TensorType::F32, data: DenseData::F32(weights) };
    let mut memory = vec![0u8; Planes::arena_bytes(rows, cols).expect("it fits") + ALIGN];
    let planes = Planes::build(&SCALAR, &dense, &mut Arena::new(&mut memory)).expect("finite weights");
    test(&planes)
}

/// Chooses for every state from the high plane and from all logits, with every sampling.
fn compare(planes: &Planes<'_>, states: &[f32], seed: u64) -> Tally {
    /// States that share a reading of the plane.
    const GROUP: usize = 11;
    let (vocab, set) = (planes.rows, sets::usable()[0]);
    let (machine, head) = (Machine { set, exec: &Serial }, Head::Planes(*planes));
    let mut memory =
        vec![0u8; head::Workspace::arena_bytes(planes.cols, true, GROUP).expect("it fits") + ALIGN];
    let mut work = head::Workspace::new(&head, GROUP, &mut Arena::new(&mut memory)).expect("as planned");
    let mut candidates = vec![Candidate { id: 0, score: 0.0 }; vocab];
    let mut tally = Tally::default();
    let mut random = Random::new(seed);
    for states in states.chunks(GROUP * planes.cols) {
        let n = states.len() / planes.cols;
        work.prepare(set, &head, states);
        let (mut exact, mut bounds) = (vec![0.0; n * vocab], vec![0.0; n * vocab]);
        head::logits(machine, &mut [], &head, &work, (states, 0..n), &mut exact);
        head::bounds(machine, &mut [], planes, &work, 0..n, &mut bounds);
        for (at, (exact, bounds)) in exact.chunks(vocab).zip(bounds.chunks(vocab)).enumerate() {
            let state = work.state(planes, at);
            let unit = 1.0 / state.1.split.scale;
            for (row, (exact, bound)) in exact.iter().zip(bounds).enumerate() {
                let deviation =
                    (planes.spread[row] * state.1.length + planes.size[row] * state.1.low_length) * unit;
                tally.broken_bounds += usize::from(exact > bound);
                if deviation > 0.0 {
                    tally.worst = tally.worst.max(K - (bound - exact) / deviation);
                }
            }
            let history: Vec<u32> = (0..30).map(|_| random.below(vocab) as u32).collect();
            for (i, sampling) in samplings().into_iter().enumerate() {
                let rng = Rng::new(random.bits());
                let expected =
                    sample(set, &sampling, &mut { rng }, &mut exact.to_vec(), &history, &mut candidates);
                let known = recent(&sampling, &history, &mut candidates);
                for token in &mut candidates[..known] {
                    token.score = penalized(&sampling, exact[token.id as usize]);
                }
                let (need, mut bounds) = (sampling.need(vocab), bounds.to_vec());
                let found =
                    screen::candidates(set, planes, state, need, &mut bounds, &mut candidates, known, vocab);
                let found = found.expect("no more rows than there are");
                let kept = &mut candidates[..found.candidates];
                let chosen = choose(set, &sampling, &mut { rng }, kept, &mut bounds);
                tally.choices += 1;
                tally.misses += usize::from(chosen != expected);
                tally.rows[i] += found.rows;
                tally.most_rows = tally.most_rows.max(found.rows);
            }
        }
    }
    tally
}

/// A normal deviate, near enough.
fn normal(random: &mut Random) -> f32 {
    (0..6).map(|_| (random.bits() >> 40) as f32 / (1u32 << 24) as f32 - 0.5).sum::<f32>()
        * std::f32::consts::SQRT_2
}

/// One with rare values far out.
fn heavy(random: &mut Random) -> f32 {
    normal(random) * if random.below(64) == 0 { 12.0 } else { 1.0 }
}

/// States of every kind: random, with a few columns that dwarf the rest, near one row, between two rows, opposite to one.
fn states(random: &mut Random, weights: &[f32], cols: usize, n: usize) -> Vec<f32> {
    let rows = weights.len() / cols;
    let mut states = Vec::with_capacity(n * cols);
    for kind in 0..n {
        let [a, b] = [0; 2].map(|_| &weights[random.below(rows) * cols..][..cols]);
        let loud = random.below(cols);
        for c in 0..cols {
            let noise = normal(random);
            states.push(match kind % 5 {
                0 => noise,
                1 => heavy(random) * if c == loud { 30.0 } else { 1.0 },
                2 => a[c] * 0.2 + noise,
                3 => (a[c] + b[c]) * 0.1 + noise,
                _ => noise - a[c] * 0.1,
            });
        }
    }
    states
}

#[test]
fn random_heads_choose_as_the_whole_head_does() {
    for (rows, cols, n, tail) in [
        (2048, 256, 1500, false),
        (2048, 256, 1500, true),
        (8192, 640, 400, false),
        (32768, 640, 150, true),
        (4096, 2560, 150, false),
        (1000, 100, 500, true),
    ] {
        let mut random = Random::new(rows as u64 ^ u64::from(tail));
        let weights: Vec<f32> =
            (0..rows * cols).map(|_| if tail { heavy(&mut random) } else { normal(&mut random) }).collect();
        let states = states(&mut random, &weights, cols, n);
        with_planes(cols, &weights, |planes| {
            let tally = compare(planes, &states, 7);
            tally.print(if tail { "heavy-tailed" } else { "normal" }, planes);
            assert_eq!((tally.misses, tally.broken_bounds), (0, 0));
        });
    }
}

#[test]
fn rows_that_only_low_nibbles_tell_apart_are_told_apart() {
    let (rows, cols, n) = (3000, 256, 200);
    let mut random = Random::new(5);
    let base: Vec<i32> = (0..cols).map(|_| random.below(15) as i32 - 7).collect();
    // Every row has the nibbles of `base`, and one column that makes the scale 1.
    let mut weights: Vec<f32> = (0..rows * cols)
        .map(|i| if i % cols == 0 { 127.0 } else { (16 * base[i % cols] + random.below(16) as i32) as f32 })
        .collect();
    // Some twice, so that the first of equals must win.
    weights.copy_within(100 * cols..200 * cols, 2000 * cols);
    let states = states(&mut random, &weights, cols, n);
    with_planes(cols, &weights, |planes| {
        let row = |r: usize| &planes.high[r * planes.high.len() / rows..(r + 1) * planes.high.len() / rows];
        assert!((1..rows).all(|r| row(r) == row(0)), "the high plane tells nothing apart");
        let tally = compare(planes, &states, 8);
        tally.print("equal high plane", planes);
        assert_eq!((tally.misses, tally.broken_bounds), (0, 0));
    });
}

#[test]
fn odd_rows_choose_as_the_whole_head_does() {
    let (rows, cols, n) = (1024, 256, 200);
    let mut random = Random::new(6);
    let row = |random: &mut Random, r: usize| -> Vec<f32> {
        match r % 8 {
            // Zeros, one value, constants, a few values far apart, and the same a thousand times larger.
            0 => vec![0.0; cols],
            1 => (0..cols).map(|c| if c == r / 8 { 1.0 } else { 0.0 }).collect(),
            2 => vec![r as f32 * 0.01 - 4.0; cols],
            3 => (0..cols).map(|_| if random.below(32) == 0 { heavy(random) } else { 0.0 }).collect(),
            4 => (0..cols).map(|_| [-1.0, 1.0][random.below(2)]).collect(),
            5 => (0..cols).map(|_| normal(random) + 3.0).collect(),
            6 => (0..cols).map(|_| normal(random) * 1000.0).collect(),
            _ => (0..cols).map(|_| normal(random) * 1e-3).collect(),
        }
    };
    let weights: Vec<f32> = (0..rows).flat_map(|r| row(&mut random, r)).collect();
    let mut all = states(&mut random, &weights, cols, n);
    // Nothing, one column, one sign, and numbers that are none.
    for kind in 0..6 {
        all.extend((0..cols).map(|c| match kind {
            0 => 0.0,
            1 => {
                if c == 3 {
                    -5.0
                } else {
                    0.0
                }
            }
            2 => 1.0,
            3 => -(c as f32),
            4 => [f32::NAN, 1.0][c % 2],
            _ => [f32::INFINITY, -1.0, 0.5][c % 3],
        }));
    }
    with_planes(cols, &weights, |planes| {
        let tally = compare(planes, &all, 9);
        tally.print("odd rows", planes);
        assert_eq!((tally.misses, tally.broken_bounds), (0, 0));
    });
}

#[test]
fn a_row_is_its_line_and_what_spread_covers() {
    let cols = 300;
    let mut random = Random::new(10);
    let weights: Vec<f32> = (0..50 * cols).map(|_| heavy(&mut random)).collect();
    with_planes(cols, &weights, |planes| {
        let bytes = planes.high.len() / planes.rows;
        for r in 0..planes.rows {
            let (high, low) = (&planes.high[r * bytes..][..bytes], &planes.low[r * bytes..][..bytes]);
            let (mut rest, mut cross, mut line) = (0.0f64, 0.0f64, 0.0f64);
            for c in 0..cols {
                let u = f32::from(nibble_at(high, c));
                let fitted = planes.slope[r] * u + planes.offset[r];
                let left = planes.scale[r] * f32::from(weight_at(high, low, c)) - fitted;
                rest += f64::from(left * left);
                cross += f64::from(left * u);
                line += f64::from(fitted * fitted);
            }
            let n = cols as f64;
            let (spread, size) = (f64::from(planes.spread[r]), f64::from(planes.size[r]));
            assert!(((line / n).sqrt() - size).abs() < 1e-4 * size, "row {r}: {line} {size}");
            assert!((rest / n).sqrt() <= spread * 1.0001, "row {r}: {rest} {spread}");
            assert!(cross.abs() < 1e-2 * (rest * n).sqrt(), "row {r}: what is left has a slope: {cross}");
        }
        assert_eq!(FACTORS, 5);
    });
}

/// Token ids of texts of an evaluation set, the bundled model's way.
fn texts(engine: &Engine<'_>, name: &str, n: usize) -> Vec<Vec<u32>> {
    let lines = std::fs::read_to_string(bundled("eval").join(name)).expect("an evaluation set");
    let (mut scratch, mut out) = (vec![0; 1 << 16], vec![0; 1 << 12]);
    let texts = lines.lines().take(n).map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let text = format!("User: How severe is this log line?\n{}", line["text"].as_str().expect("a text"));
        let plain = tern_runtime::tokenizer::Special::Plain;
        let n = engine.tokenizer().encode(&text, plain, &mut scratch, &mut out).expect("a short text");
        [0].iter().chain(&out[..n.min(120)]).copied().collect()
    });
    texts.collect()
}

/// Final hidden states of the bundled model at every position of some texts, and its head as stored.
fn real_states(test: impl FnOnce(&[f32], &Dense<'_>)) {
    let path = bundled(BUNDLED);
    let texts = with_options(&path, Setup::default(), |_| {}, |e| texts(e, "log-severity.jsonl", 60));
    let file = MappedFile::open(&path).expect("the bundled model");
    let gguf = Gguf::parse(file.bytes()).expect("a good file");
    let config = Config::read(&gguf).expect("a good shape");
    let set =
        *sets::usable().iter().find(|set| set.layout == SCALAR.layout).expect("the scalar one at least");
    let mut memory = vec![0u8; 64 << 20];
    let mut arena = Arena::new(&mut memory);
    let model = Model::load(&gguf, config, set, &mut arena).expect("it loads");
    let kv = KvShape {
        layers: config.layers,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        slots: 1,
        pages_per_slot: 128 / PAGE_CELLS,
        pages: 128 / PAGE_CELLS,
        kv: KvType::F32,
    };
    let pool = arena.take(kv.pool_bytes().expect("small")).expect("it fits");
    let mut cache = KvCache::new(
        kv,
        pool,
        arena.take(kv.table_words()).expect("it fits"),
        arena.take(kv.pages).expect("it fits"),
    );
    let shape = WorkShape::new(&config, (set, Form::WHOLE), 128, (128, 128), 1);
    let mut work = Workspace::new(&model, &shape, &mut arena).expect("it fits");
    let mut states = Vec::new();
    for text in texts {
        cache.reserve(0, &[], text.len()).expect("a short text");
        let row = |(at, token): (usize, &u32)| Row {
            token: *token,
            slot: 0,
            position: at as u32,
            cell: at as u32,
            visible: at as u32 + 1,
            branch_start: 0,
            branch_len: 0,
        };
        let rows: Vec<Row> = text.iter().enumerate().map(row).collect();
        work.run(Machine { set, exec: &Serial }, &model, &mut cache, &rows, &[]);
        for row in 0..rows.len() {
            let mut y = vec![0.0; config.hidden];
            work.output(set, &model, row, &mut y);
            states.extend(y);
        }
        cache.release(0, &[]);
    }
    let Head::Dense(dense) = &model.head else { panic!("the bundled model stores its head as it is") };
    test(&states, dense);
}

#[test]
fn real_states_choose_as_the_whole_head_does() {
    real_states(|states, dense| {
        let mut memory = vec![0u8; Planes::arena_bytes(dense.rows, dense.cols).expect("it fits") + ALIGN];
        let planes = Planes::build(&SCALAR, dense, &mut Arena::new(&mut memory)).expect("finite weights");
        let tally = compare(&planes, states, 11);
        tally.print("bundled model", &planes);
        assert!(tally.choices > 6 * 1500, "{} choices", tally.choices);
        assert_eq!((tally.misses, tally.broken_bounds), (0, 0));
    });
}

#[test]
fn eight_bits_say_what_sixteen_do() {
    real_states(|states, dense| {
        let set = sets::usable()[0];
        let (machine, n) = (Machine { set, exec: &Serial }, states.len() / dense.cols);
        let kinds = {
            let mut memory = vec![0u8; Planes::arena_bytes(dense.rows, dense.cols).expect("it fits") + ALIGN];
            let planes = Planes::build(&SCALAR, dense, &mut Arena::new(&mut memory)).expect("finite weights");
            [Head::Dense(*dense), Head::Planes(planes)].map(|head| {
                let bytes = head::Workspace::arena_bytes(dense.cols, true, 8).expect("it fits") + ALIGN;
                let mut memory = vec![0u8; bytes];
                let mut work = head::Workspace::new(&head, 8, &mut Arena::new(&mut memory)).expect("planned");
                let mut all = vec![0.0; n * dense.rows];
                let chunks = states.chunks(8 * dense.cols).zip(all.chunks_mut(8 * dense.rows));
                for (states, logits) in chunks {
                    work.prepare(set, &head, states);
                    let range = 0..states.len() / dense.cols;
                    head::logits(machine, &mut vec![0; dense.cols], &head, &work, (states, range), logits);
                }
                all
            })
        };
        let softmax = |logits: &[f32]| {
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = logits.iter().map(|l| f64::from(l - best).exp()).sum();
            logits.iter().map(|l| f64::from(l - best).exp() / total).collect::<Vec<f64>>()
        };
        let (mut same, mut divergence, mut largest) = (0, 0.0, 0.0f32);
        for (a, b) in kinds[0].chunks(dense.rows).zip(kinds[1].chunks(dense.rows)) {
            same += usize::from(argmax(a) == argmax(b));
            let terms = softmax(a).into_iter().zip(softmax(b));
            divergence += terms.map(|(p, q)| if p > 0.0 { p * (p / q).ln() } else { 0.0 }).sum::<f64>();
            largest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
        }
        let (same, divergence) = (same as f64 / n as f64, divergence / n as f64);
        println!(
            "int8 head on {n} states: top-1 {same:.4}, KL {divergence:.2e}, largest difference {largest:.3}"
        );
        assert!(same > 0.98 && divergence < 1e-3, "top-1 {same}, KL {divergence}");
    });
}

/// The engine's options with an int8 head.
fn int8(options: &mut tern_runtime::plan::Options) {
    options.head = HeadKind::Int8;
}

#[test]
fn the_engine_chooses_as_all_its_logits_say() {
    let path = bundled(BUNDLED);
    let setup = Setup { set: sets::usable()[0], workers: 2, kv: KvType::F32, ..Setup::default() };
    with_options(&path, setup, int8, |engine| {
        let vocab = engine.model().config.vocab;
        assert_eq!(engine.model().head.name(), "h8n2");
        for prompt in texts(engine, "log-severity.jsonl", 12) {
            let prompt = &prompt[..prompt.len().min(20)];
            for sampling in samplings() {
                let sampling = Sampling { seed: 3, ..sampling };
                let goal = Goal::Generate(Generate {
                    sampling,
                    max_tokens: Some(12),
                    ignore_stop_tokens: true,
                    ..Generate::default()
                });
                let ids = run(engine, &[(tokens(prompt), goal)]).remove(0).ids;
                let text: Vec<u32> = prompt.iter().chain(&ids).copied().collect();
                let all = logits(engine, &text);
                let (mut rng, mut candidates) = (Rng::new(3), vec![Candidate { id: 0, score: 0.0 }; vocab]);
                for (i, id) in ids.iter().enumerate() {
                    let known = prompt.len() + i;
                    let mut row = all[(known - 1) * vocab..known * vocab].to_vec();
                    let expected =
                        sample(&SCALAR, &sampling, &mut rng, &mut row, &text[..known], &mut candidates);
                    assert_eq!(*id, expected, "token {i}, {sampling:?}");
                }
            }
        }
    });
}

#[test]
fn an_int8_head_answers_alike_on_every_set_and_beside_strangers() {
    let path = bundled(BUNDLED);
    let labels = ["critical", "error", "warning", "warm"];
    let sampled = |seed| {
        Goal::Generate(Generate {
            sampling: Sampling { temperature: 0.7, top_k: 30, top_p: 0.9, seed, ..Sampling::default() },
            max_tokens: Some(20),
            ignore_stop_tokens: true,
            ..Generate::default()
        })
    };
    let plain = |seed| {
        Goal::Generate(Generate {
            sampling: Sampling { temperature: 0.7, seed, ..Sampling::default() },
            max_tokens: Some(20),
            ignore_stop_tokens: true,
            ..Generate::default()
        })
    };
    let prompt = vec![Piece::Token(0), Piece::Text("User: How severe is this log line?\nusb 1-1: error -71")];
    let goals = [
        greedy(20),
        sampled(1),
        plain(2),
        Goal::Choose { labels: &labels },
        Goal::Logits,
        sampled(4),
        plain(5),
    ];
    let requests: Vec<_> = goals.iter().map(|goal| (prompt.clone(), *goal)).collect();
    let base = Setup { kv: KvType::F32, ..Setup::default() };
    let expected: Vec<_> = with_options(&path, base, int8, |engine| {
        engine.keep_prefixes(false);
        let alone = |request| run(engine, std::slice::from_ref(request)).remove(0).undrafted();
        requests.iter().map(alone).collect()
    });
    // One scalar set stands for all: they differ in layouts, which a head does not see, and they are slow.
    for set in sets::for_models() {
        for (workers, slots) in [(1, 1), (2, 4), (3, 7)] {
            let setup = Setup { set, workers, slots, ..base };
            let mut found = with_options(&path, setup, int8, |engine| run(engine, &requests));
            found.iter_mut().for_each(|outcome| _ = outcome.take_cached());
            let found: Vec<_> = found.iter().map(Outcome::undrafted).collect();
            assert!(found == expected, "{}, {workers} workers, {slots} slots", set.name);
        }
    }
}
