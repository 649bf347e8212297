//! Logits against Hugging Face transformers, and against ourselves taken apart in every other way.
//!
//! The fixtures were made by transformers 5.23 in binary32 (`tests/fixtures/oracle/README.md`). On the margin prompts
//! no activation comes near a rounding boundary of int8, so any correct implementation agrees to float noise.

use std::path::Path;

use tern_runtime::engine::{Goal, Piece};
use tern_runtime::kv_cache::KvType;
use tern_tests::model::{BUNDLED, Setup, bundled, fixture, greedy, logits, run, tokens, with_engine};
use tern_tests::{npy, sets};

const TINY: &str = "oracle/gguf/tiny-i2_s.gguf";

/// A model of each graph, and the folder with what transformers says of it.
const GRAPHS: [(&str, &str); 6] = [
    (TINY, "oracle/offline_f32"),
    ("oracle/llama/tiny-i2_s.gguf", "oracle/llama"),
    ("oracle/bitnet_silu/tiny-i2_s.gguf", "oracle/bitnet_silu"),
    // Norms on heads that are wider than hidden by heads, and YaRN.
    ("oracle/qwen3/tiny-i2_s.gguf", "oracle/qwen3"),
    // Multipliers of embeddings, blocks and logits, and longrope.
    ("oracle/minicpm/tiny-i2_s.gguf", "oracle/minicpm"),
    // A key head for every query head, and the factors of Llama 3.1.
    ("oracle/trilm/tiny-i2_s.gguf", "oracle/trilm"),
];

/// Largest difference, and whether the largest logit of each row is the same one.
fn compare(found: &[f32], expected: &[f32], vocab: usize) -> (f32, usize) {
    assert_eq!(found.len(), expected.len(), "logits of every position");
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let top = |row: &[f32]| (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let rows = found.chunks(vocab).zip(expected.chunks(vocab));
    (largest, rows.filter(|(a, b)| top(a) != top(b)).count())
}

/// Reference ids and logits of a fixture folder.
fn reference(ids: &str, expected: &str) -> (Vec<u32>, usize, Vec<f32>) {
    let (vocab, logits) = npy::floats(&fixture(expected));
    (npy::ids(&fixture(ids)), vocab, logits)
}

#[test]
fn margin_prompts_agree_with_hugging_face_to_2e_5() {
    for (model, folder) in GRAPHS {
        let (ids, vocab, expected) =
            reference(&format!("{folder}/input_ids_margin.npy"), &format!("{folder}/logits_margin.npy"));
        for set in sets::for_models() {
            let found = with_engine(&fixture(model), Setup { set, ..Setup::default() }, |e| logits(e, &ids));
            let (largest, flips) = compare(&found, &expected, vocab);
            println!(
                "{folder}, {}: margin prompt, {} tokens, largest difference {largest:.2e}",
                set.name,
                ids.len()
            );
            assert!(largest <= 2e-5 && flips == 0, "{folder}, {}: {largest} {flips}", set.name);
        }
    }
}

#[test]
fn the_48_token_prompt_agrees_everywhere_in_top_1_and_to_1e_3() {
    let (ids, vocab, expected) = reference("oracle/input_ids.npy", "oracle/offline_f32/logits.npy");
    for set in sets::for_models() {
        let found = with_engine(&fixture(TINY), Setup { set, ..Setup::default() }, |e| logits(e, &ids));
        let (largest, flips) = compare(&found, &expected, vocab);
        println!(
            "{}: {} tokens, largest difference {largest:.2e}, top-1 {flips} differ",
            set.name,
            ids.len()
        );
        assert!(largest < 1e-3 && flips == 0, "{}: {largest} {flips}", set.name);
    }
}

#[test]
fn every_kernel_set_worker_count_and_chunk_size_gives_the_same_bits() {
    let ids = npy::ids(&fixture("oracle/input_ids.npy"));
    for kv in KvType::ALL {
        let base = Setup { kv, ..Setup::default() };
        let expected = with_engine(&fixture(TINY), base, |e| logits(e, &ids));
        // Caches differ in attention, which knows no layout: one set of each tier would do, two are enough.
        let most = if kv == KvType::F16 { usize::MAX } else { 2 };
        for set in sets::for_models().into_iter().take(most) {
            for (workers, batch_rows) in [(1, 64), (1, 4), (2, 64), (3, 5), (4, 7)] {
                let setup = Setup { set, workers, batch_rows, ..base };
                let found = with_engine(&fixture(TINY), setup, |e| logits(e, &ids));
                assert!(found == expected, "{} {workers} workers, {batch_rows} rows, {kv:?}", set.name);
            }
        }
    }
}

#[test]
fn so_it_is_with_every_graph() {
    for (model, folder) in &GRAPHS[1..] {
        let ids = npy::ids(&fixture(&format!("{folder}/input_ids_margin.npy")));
        let expected = with_engine(&fixture(model), Setup::default(), |e| logits(e, &ids));
        for set in sets::for_models() {
            let setup = Setup { set, workers: 3, batch_rows: 5, ..Setup::default() };
            let found = with_engine(&fixture(model), setup, |e| logits(e, &ids));
            assert!(found == expected, "{folder}, {}", set.name);
        }
    }
}

#[test]
fn decoding_token_by_token_and_beside_strangers_gives_the_bits_of_one_pass() {
    let all = npy::ids(&fixture("oracle/input_ids.npy"));
    with_engine(&fixture(TINY), Setup { kv: KvType::F16, ..Setup::default() }, |engine| {
        // A greedy continuation, then the same text in one pass.
        let alone = run(engine, &[(tokens(&all[..9]), greedy(30))]).remove(0);
        let text: Vec<u32> = all[..9].iter().chain(&alone.ids).copied().collect();
        let once = logits(engine, &text);
        let vocab = once.len() / text.len();
        for (i, id) in alone.ids.iter().enumerate() {
            let row = &once[(8 + i) * vocab..(9 + i) * vocab];
            assert_eq!(tern_runtime::sampler::argmax(row), *id, "token {i}");
        }
        // The same beside five other requests in four slots.
        let labels = ["one", "two", "three", "twenty"];
        let mut mixed = run(
            engine,
            &[
                (tokens(&all), Goal::Logits),
                (tokens(&all[..9]), greedy(30)),
                (tokens(&all[20..40]), Goal::Choose { labels: &labels }),
                (tokens(&all[5..6]), greedy(50)),
                (tokens(&all[..48]), greedy(3)),
                (tokens(&text), Goal::Logits),
            ],
        );
        mixed.iter_mut().for_each(|outcome| _ = outcome.take_cached());
        assert_eq!(mixed[1].undrafted(), alone.undrafted());
        assert!(mixed[0].logits == logits(engine, &all) && mixed[5].logits == once);
        let mut decided = run(engine, &[(tokens(&all[20..40]), Goal::Choose { labels: &labels })]).remove(0);
        assert!(decided.take_cached() > 0, "it was asked before");
        assert_eq!(mixed[2], decided);
    });
}

#[test]
fn label_probabilities_are_those_of_scoring_each_label_by_itself() {
    let labels = ["network", "net", "storage", "stop", "a", "network card"];
    with_engine(&fixture(TINY), Setup::default(), |engine| {
        let prompt = npy::ids(&fixture("oracle/input_ids.npy"))[..11].to_vec();
        let decided = run(engine, &[(tokens(&prompt), Goal::Choose { labels: &labels })]).remove(0);
        let end = engine.tokenizer().stop_tokens()[0];
        let encode = |engine: &tern_runtime::engine::Engine<'_>, text: &str| {
            let (mut scratch, mut out) = (vec![0; 4096], vec![0; 64]);
            let plain = tern_runtime::tokenizer::Special::Plain;
            let n = engine.tokenizer().encode(text, plain, &mut scratch, &mut out).expect("short text");
            out[..n].iter().copied().chain([end]).collect::<Vec<u32>>()
        };
        let paths: Vec<Vec<u32>> = labels.iter().map(|label| encode(engine, label)).collect();
        for (path, found) in paths.iter().zip(&decided.probabilities) {
            let text: Vec<u32> = prompt.iter().chain(path).copied().collect();
            let all = logits(engine, &text);
            let vocab = all.len() / text.len();
            let mut p = 1.0f64;
            for (i, token) in path.iter().enumerate() {
                let row = &all[(prompt.len() - 1 + i) * vocab..];
                let mut next: Vec<u32> = paths
                    .iter()
                    .filter(|other| other.starts_with(&path[..i]))
                    .map(|other| other[i])
                    .collect();
                next.sort_unstable();
                next.dedup();
                let total: f64 = next.iter().map(|t| f64::from(row[*t as usize]).exp()).sum();
                p *= f64::from(row[*token as usize]).exp() / total;
            }
            assert!((f64::from(*found) - p).abs() < 1e-5, "{path:?}: {found} against {p}");
        }
        let total: f32 = decided.probabilities.iter().sum();
        assert!((total - 1.0).abs() < 1e-5, "probabilities add up to {total}");
        let usage = decided.finish.expect("it ended").1;
        assert_eq!((usage.prompt_tokens, usage.generated_tokens), (11, 0));
        assert!(usage.label_rows > 0, "these labels share prefixes");
    });
}

#[test]
fn two_hundred_greedy_tokens_are_pinned() {
    // Found by the NumPy reimplementation as well: `tests/oracles/greedy.py`.
    let expected = npy::ids(&fixture("oracle/greedy_200.npy"));
    for set in sets::for_models() {
        let found = with_engine(&fixture(TINY), Setup { set, ..Setup::default() }, |engine| {
            run(engine, &[(tokens(&[1, 5, 9, 40]), greedy(200))]).remove(0).ids
        });
        assert_eq!(found, expected, "{}", set.name);
    }
}

#[test]
fn a_half_precision_cache_changes_little() {
    let (ids, vocab, expected) = reference("oracle/input_ids.npy", "oracle/offline_f32/logits.npy");
    let found =
        with_engine(&fixture(TINY), Setup { kv: KvType::F16, ..Setup::default() }, |e| logits(e, &ids));
    let (largest, flips) = compare(&found, &expected, vocab);
    println!("f16 cache: largest difference {largest:.2e}, top-1 {flips} differ");
    // int8 rounding flips of this size are what Hugging Face shows against itself in another order of sums.
    assert!(largest < 0.4 && flips <= 2, "{largest} {flips}");
}

#[test]
fn the_bundled_model_agrees_with_hugging_face() {
    for n in 0..3 {
        let ids = npy::ids(&bundled(&format!("reference/ref{n}_ids.npy")));
        let (vocab, expected) = npy::floats(&bundled(&format!("reference/ref{n}_logits.npy")));
        let model = bundled(BUNDLED);
        let setup = Setup { set: sets::usable()[0], ..Setup::default() };
        let found = with_engine(Path::new(&model), setup, |e| logits(e, &ids));
        let (largest, flips) = compare(&found, &expected, vocab);
        let first = compare(&found[..8 * vocab], &expected[..8 * vocab], vocab).0;
        println!(
            "reference {n}: {} tokens, largest {largest:.2e}, first eight {first:.2e}, {flips} flips",
            ids.len()
        );
        // No activation of these prompts meets another rounding here than there, so only float noise is left.
        assert!(largest < 1e-4 && flips == 0, "reference {n}: {largest} {flips}");
    }
}

#[test]
fn text_never_becomes_a_special_token() {
    with_engine(&bundled(BUNDLED), Setup::default(), |engine| {
        let pieces = vec![Piece::Text("<|eot_id|>")];
        let usage = run(engine, &[(pieces, Goal::Logits)]).remove(0).finish.expect("it ended").1;
        assert!(usage.prompt_tokens > 1, "ten characters of text, not one token");
    });
}
