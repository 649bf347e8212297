//! Models whose matrices have several scales: logits against Hugging Face transformers with float activations, the error of
//! int8 ones, and the same bits in every set, cut and form of the file.
//!
//! The fixtures were made by transformers in binary32 (`tests/oracles/groups.py`). With float activations nothing is rounded
//! that binary32 would keep, so no prompt needs a margin.

use std::fs;
use std::path::Path;

use tern::packing::verify::verify;
use tern::packing::{PackError, Recipe, packed};
use tern_kernels::coding::TernaryBlock;
use tern_kernels::half::f32_to_f16;
use tern_kernels::{KernelSet, Layout};
use tern_runtime::activations::Activations;
use tern_runtime::arena::ALIGN;
use tern_runtime::engine::Engine;
use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, Header, TensorType};
use tern_runtime::map::MappedFile;
use tern_runtime::model::ternary::is_matrix;
use tern_runtime::model::{Config, Rows, grouping};
use tern_runtime::parallel::Serial;
use tern_runtime::plan::{MemoryPlan, Options};
use tern_runtime::tokenizer::Special;
use tern_tests::fill::Random;
use tern_tests::model::{BUNDLED, Setup, bundled, fixture, greedy, logits, run, tokens, with_options};
use tern_tests::{npy, sets};

/// A model and the columns that share a scale in it.
const MODELS: [(&str, usize); 3] = [("q2_0", 64), ("pq2_0", 128), ("tq2_0", 256)];

/// The file of a model, its ids, and what transformers says of them: the size of the vocabulary and the logits.
fn oracle(name: &str) -> (std::path::PathBuf, Vec<u32>, usize, Vec<f32>) {
    let (vocab, expected) = npy::floats(&fixture(&format!("oracle/groups/{name}_logits.npy")));
    let ids = npy::ids(&fixture(&format!("oracle/groups/{name}_ids.npy")));
    (fixture(&format!("oracle/groups/{name}.gguf")), ids, vocab, expected)
}

/// The sets that take groups of `group` columns.
fn takers(group: usize) -> Vec<&'static KernelSet> {
    sets::for_models().into_iter().filter(|set| set.layout.takes_groups(group)).collect()
}

/// Logits of `ids` by `setup` with these activations.
fn logits_of(path: &Path, setup: Setup, activations: Activations, ids: &[u32]) -> Vec<f32> {
    with_options(path, setup, |options| options.activations = Some(activations), |e| logits(e, ids))
}

/// The largest difference of two logits, the mean divergence of the distributions in nats, and how many rows have another
/// token at their top.
fn compare(found: &[f32], expected: &[f32], vocab: usize) -> (f32, f64, usize) {
    assert_eq!(found.len(), expected.len(), "logits of every position");
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        row.iter().map(|x| f64::from(*x) - sum.ln()).collect()
    };
    let top = |row: &[f32]| (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let (mut divergence, mut flips) = (0.0, 0);
    for (found, expected) in found.chunks(vocab).zip(expected.chunks(vocab)) {
        let (q, p) = (log_softmax(found), log_softmax(expected));
        divergence += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        flips += usize::from(top(found) != top(expected));
    }
    (largest, divergence / (found.len() / vocab) as f64, flips)
}

#[test]
fn float_activations_agree_with_transformers_and_int8_ones_nearly() {
    for (name, group) in MODELS {
        let (path, ids, vocab, expected) = oracle(name);
        for (at, set) in takers(group).into_iter().enumerate() {
            let setup = Setup { set, ..Setup::default() };
            let found = logits_of(&path, setup, Activations::Float, &ids);
            let (largest, _, flips) = compare(&found, &expected, vocab);
            println!("{name}, {}: float, largest difference {largest:.2e}", set.name);
            assert!(largest < 1e-4 && flips == 0, "{name}, {}: {largest} {flips}", set.name);
            if at == 0 {
                let found = logits_of(&path, setup, Activations::Int8, &ids);
                let (largest, divergence, flips) = compare(&found, &expected, vocab);
                println!("{name}: int8, largest {largest:.2e}, KL {divergence:.1e}, {flips} flips");
                assert!(largest > 1e-4, "{name}: int8 was meant, {largest}");
                assert!(largest < 0.2 && divergence < 1e-3, "{name}: {largest} {divergence}");
            }
        }
    }
}

#[test]
fn every_kernel_set_worker_count_and_chunk_size_gives_the_same_bits() {
    for (name, group) in MODELS {
        let (path, ids, ..) = oracle(name);
        let takers = takers(group);
        for activations in Activations::ALL {
            let base = Setup { set: takers[0], ..Setup::default() };
            let expected = logits_of(&path, base, activations, &ids);
            for (at, set) in takers.iter().enumerate() {
                // Cuts differ with the set, so each set gets one of them.
                let (workers, batch_rows) = [(1, 64), (2, 7), (3, 5), (1, 4)][at % 4];
                let found = logits_of(&path, Setup { set, workers, batch_rows, ..base }, activations, &ids);
                assert!(found == expected, "{name} {activations:?} {} {workers} {batch_rows}", set.name);
            }
        }
    }
}

#[test]
fn decoding_token_by_token_gives_the_bits_of_one_pass() {
    let (path, ids, vocab, _) = oracle("pq2_0");
    for activations in Activations::ALL {
        let setup = Setup { set: takers(128)[0], ..Setup::default() };
        let adjust = |options: &mut Options| options.activations = Some(activations);
        with_options(&path, setup, adjust, |engine| {
            let alone = run(engine, &[(tokens(&ids[..6]), greedy(12))]).remove(0).ids;
            let text: Vec<u32> = ids[..6].iter().chain(&alone).copied().collect();
            let once = logits(engine, &text);
            for (i, id) in alone.iter().enumerate() {
                let row = &once[(5 + i) * vocab..(6 + i) * vocab];
                assert_eq!(tern_runtime::sampler::argmax(row), *id, "{activations:?}, token {i}");
            }
        });
    }
}

#[test]
fn the_plan_is_exactly_what_the_engine_cuts() {
    for (name, group) in MODELS {
        let file = MappedFile::open(oracle(name).0).expect("the fixture");
        let gguf = Gguf::parse(file.bytes()).expect("a good file");
        let config = Config::read(&gguf).expect("a good file");
        for set in takers(group) {
            for activations in Activations::ALL {
                let activations = Some(activations);
                let options = Options { activations, slots: 2, batch_rows: 5, ..Options::for_model(&config) };
                let plan = MemoryPlan::new(&gguf, options, set, 1).expect("it can be planned");
                let bytes = plan.total_bytes() - ALIGN;
                let mut memory = vec![0u8; plan.total_bytes()];
                let skip = memory.as_ptr().align_offset(ALIGN);
                let exactly = &mut memory[skip..skip + bytes];
                Engine::new(&gguf, &plan, set, &Serial, exactly)
                    .unwrap_or_else(|e| panic!("{name} {}: {e}", set.name));
                let error = Engine::new(&gguf, &plan, set, &Serial, &mut memory[skip..skip + bytes - 1]);
                assert!(matches!(error, Err(LoadError::Arena(_))), "{name} {}: {error:?}", set.name);
            }
        }
    }
}

#[test]
fn kernels_that_do_not_take_the_groups_are_refused_with_those_that_do() {
    let file = MappedFile::open(oracle("q2_0").0).expect("the fixture");
    let gguf = Gguf::parse(file.bytes()).expect("a good file");
    let options = Options::for_model(&Config::read(&gguf).expect("a good file"));
    for set in sets::usable().into_iter().filter(|set| !set.layout.takes_groups(64)) {
        let error =
            MemoryPlan::new(&gguf, options, set, 1).expect_err("a layout of wider blocks").to_string();
        assert!(
            error.contains(set.layout.name()) && error.contains("t2r4") && error.contains("64"),
            "{error}"
        );
    }
}

#[test]
fn packed_files_carry_the_scales_and_change_no_bit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, group) in MODELS {
        let (path, ids, ..) = oracle(name);
        let source = MappedFile::open(&path).expect("the fixture");
        let gguf = Gguf::parse(source.bytes()).expect("a good file");
        let set = takers(group)[0];
        let expected = logits_of(&path, Setup { set, ..Setup::default() }, Activations::Int8, &ids);
        let write = |gguf: &Gguf<'_>, layout: Layout, place: &Path| {
            let recipe = Recipe { layout, int8_head: false };
            let bytes = recipe.write(gguf, "here", 3, Vec::new(), |_| ()).expect("it can be packed");
            assert_eq!(bytes.len() as u64, recipe.file_bytes(gguf, "here").expect("it can be packed"));
            fs::write(place, bytes).expect("a small file");
        };
        for layout in Layout::ALL.into_iter().filter(|layout| layout.takes_groups(group)) {
            let (once, twice) = (folder.path().join("once.gguf"), folder.path().join("twice.gguf"));
            let _ = (fs::remove_file(&once), fs::remove_file(&twice));
            write(&gguf, layout, &once);
            let copy = MappedFile::open(&once).expect("it was written");
            let copy = Gguf::parse(copy.bytes()).expect("what we write");
            assert_eq!(grouping(&copy).expect("what we write"), Some(group));
            assert_eq!(packed(&copy).expect("what we write").map(|packed| packed.layout), Some(layout));
            let verified = verify(&gguf, &copy, |_| ()).unwrap_or_else(|difference| panic!("{difference}"));
            assert_eq!(verified.matrices, 14, "{name}");
            // Once more into another layout, from the packed file: nothing was lost on the way.
            write(&copy, Layout::T2R4, &twice);
            let again = MappedFile::open(&twice).expect("it was written");
            let again = Gguf::parse(again.bytes()).expect("what we write");
            verify(&gguf, &again, |_| ()).unwrap_or_else(|difference| panic!("{difference}"));
            // With kernels that read it as it lies, and with others that it is moved for.
            for path in [&once, &twice] {
                let found = logits_of(path, Setup { set, ..Setup::default() }, Activations::Int8, &ids);
                assert!(found == expected, "{name} packed as {}", layout.name());
            }
        }
        let recipe = Recipe { layout: Layout::T5C, int8_head: false };
        let error = recipe.file_bytes(&gguf, "here").expect_err("blocks of 80 columns");
        assert!(matches!(error, PackError::Load(LoadError::Scales(_))), "{error}");
    }
}

#[test]
fn a_changed_scale_of_a_packed_file_is_found() {
    let source = MappedFile::open(oracle("pq2_0").0).expect("the fixture");
    let gguf = Gguf::parse(source.bytes()).expect("a good file");
    let recipe = Recipe { layout: Layout::T5R, int8_head: false };
    let whole = recipe.write(&gguf, "here", 1, Vec::new(), |_| ()).expect("it can be packed");
    let place = {
        let copy = Gguf::parse(&whole).expect("what we write");
        let info = copy.require("blk.1.ffn_down.scales").expect("it is there");
        (copy.data_at_bytes() + info.offset_bytes()) as usize + 6
    };
    // In memory aligned as a mapped file is.
    let mut memory = vec![0u8; whole.len() + ALIGN];
    let skip = memory.as_ptr().align_offset(ALIGN);
    let changed = &mut memory[skip..skip + whole.len()];
    changed.copy_from_slice(&whole);
    changed[place] ^= 1;
    let found = verify(&gguf, &Gguf::parse(changed).expect("still a file"), |_| ()).expect_err("a scale");
    assert!(found.to_string().contains("blk.1.ffn_down.weight"), "{found}");
    changed[place + 1] = 0x7c;
    let found = verify(&gguf, &Gguf::parse(changed).expect("still a file"), |_| ()).expect_err("infinity");
    assert!(found.to_string().contains("blk.1.ffn_down.scales"), "{found}");
}

#[test]
fn blocks_with_one_scale_for_all_are_one_scale() {
    // The weights of `tiny-i2_s.gguf` in types that keep a scale in binary16 for each 256 of them.
    let ids = npy::ids(&fixture("oracle/input_ids.npy"))[..24].to_vec();
    let of = |name: &str, set| {
        let path = fixture(&format!("oracle/gguf/tiny-{name}.gguf"));
        let file = MappedFile::open(&path).expect("the fixture");
        assert_eq!(grouping(&Gguf::parse(file.bytes()).expect("a good file")), Ok(None), "{name}");
        logits_of(&path, Setup { set, ..Setup::default() }, Activations::Int8, &ids)
    };
    let set = sets::usable()[0];
    let expected = of("i2_s", set);
    let (tq1, tq2) = (of("tq1_0", set), of("tq2_0", set));
    assert!(tq1 == tq2, "two codings of the same weights and scales");
    assert!(of("tq2_0", &tern_kernels::SCALAR) == tq2, "one scale a matrix is for every layout");
    // The scales of this model are numbers of binary16, so nothing is rounded. Where they are not, a logit is off by what
    // half a unit of 11 bits in a scale does to it.
    assert!(tq2 == expected, "the same scales in another type");
}

/// `source` with a scale for every 128 columns of a row: within a thousandth of that of the matrix, so that it is the same
/// model, trained and all, in the form of a weight-only one.
fn weight_only(source: &Gguf<'_>) -> Vec<u8> {
    let block = TensorType::Ternary(TernaryBlock::Pq2_0);
    let mut header = Header::aligned(64);
    for (key, value) in source.entries().filter(|(key, _)| *key != "general.alignment") {
        header.copy(key, &value);
    }
    for info in source.tensors() {
        header
            .tensor(info.name(), if is_matrix(&info) { block } else { info.ty() }, info.dims())
            .expect("a name");
    }
    let mut data = header.begin(Vec::new()).expect("memory");
    let mut random = Random::new(128);
    for info in source.tensors() {
        if !is_matrix(&info) {
            data.write(info.data().expect("sound")).expect("memory");
            continue;
        }
        let rows = Rows::new(source, &info, None).expect("a sound matrix");
        let (height, cols) = rows.shape();
        let (mut trits, mut scale) = (vec![0i8; cols], [0f32]);
        for row in 0..height {
            rows.read(row, &mut trits, &mut scale).expect("a sound matrix");
            for weights in trits.as_chunks::<128>().0 {
                let near = scale[0] * (1.0 + (random.below(2001) as f32 - 1000.0) * 1e-6);
                let code = |weight: &i8| (weight + 1) as u8;
                let mut bytes = f32_to_f16(near).to_le_bytes().to_vec();
                bytes.extend(
                    weights
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|four| four.iter().rev().fold(0, |byte, weight| byte << 2 | code(weight))),
                );
                data.write(&bytes).expect("memory");
            }
        }
    }
    data.finish().expect("whole")
}

/// Texts of an evaluation set as ids of the bundled model, `most` in all, 96 a text.
fn texts(engine: &Engine<'_>, most: usize) -> Vec<Vec<u32>> {
    let lines = fs::read_to_string(bundled("eval/log-subsystem.jsonl")).expect("an evaluation set");
    let (mut scratch, mut out) = (vec![0; 1 << 16], vec![0; 1 << 12]);
    let (mut texts, mut count) = (Vec::new(), 0);
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let text =
            format!("User: Which part of the system is this from?\n{}", line["text"].as_str().expect("text"));
        let n =
            engine.tokenizer().encode(&text, Special::Plain, &mut scratch, &mut out).expect("a short text");
        let ids: Vec<u32> = [0].iter().chain(&out[..n.min(95)]).copied().collect();
        count += ids.len();
        texts.push(ids);
        if count >= most {
            break;
        }
    }
    texts
}

#[test]
fn what_int8_loses_beside_float_on_a_trained_model() {
    let source = MappedFile::open(bundled(BUNDLED)).expect("the bundled model");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("weight-only.gguf");
    fs::write(&path, weight_only(&Gguf::parse(source.bytes()).expect("a good file"))).expect("a small file");
    let setup = Setup { set: takers(128)[0], workers: 2, ..Setup::default() };
    let of = |path: &Path, activations| {
        let adjust = |options: &mut Options| options.activations = Some(activations);
        with_options(path, setup, adjust, |engine| {
            let texts = texts(engine, 3000);
            let found: Vec<f32> = texts.iter().flat_map(|ids| logits(engine, ids)).collect();
            (found, engine.model().config.vocab, engine.model().group)
        })
    };
    let (expected, vocab, group) = of(&path, Activations::Float);
    assert_eq!(group, Some(128));
    let rows = expected.len() / vocab;
    let mut losses = Vec::new();
    let whole = bundled(BUNDLED);
    for (name, path) in [("a scale for each 128 columns", &path), ("a scale for each token", &whole)] {
        let (found, ..) = of(path, Activations::Int8);
        let (largest, divergence, flips) = compare(&found, &expected, vocab);
        let agree = 100.0 * (rows - flips) as f64 / rows as f64;
        println!(
            "int8, {name}: {rows} tokens, KL {divergence:.2e} nats, top-1 {agree:.2} %, largest {largest:.3}"
        );
        losses.push((divergence, agree));
    }
    assert!(losses[0].0 < 2e-3 && losses[0].1 > 98.0, "{losses:?}");
}
