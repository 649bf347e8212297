//! The tiny model of the oracle in other clothes: every tensor type for embeddings and heads, the other name of the
//! architecture, other stop tokens, a header with a known defect, and numbers that are none; and models with several scales in a matrix.
//!
//! Tensor types are encoded and decoded here by the formulas of `docs/layouts.md`, value by value and apart from the
//! runtime; the same weights as binary32 must then give the same logits.

use std::path::{Path, PathBuf};

use tern_kernels::blocks::Blocks;
use tern_kernels::coding::TernaryBlock;
use tern_kernels::half::f32_to_f16;
use tern_kernels::{KernelSet, SCALAR};
use tern_runtime::activations::Activations;
use tern_runtime::engine::{Finish, Generate, Goal};
use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, Header, TensorType};
use tern_runtime::map::MappedFile;
use tern_runtime::model::Config;
use tern_runtime::plan::Options;
use tern_runtime::sampler::Sampling;
use tern_runtime::tokenizer::{Repair, Tokenizer};
use tern_tests::fill::Random;
use tern_tests::model::{Setup, fixture, greedy, logits, run, tokens, with_engine, with_options};
use tern_tests::{npy, sets};

const TINY: &str = "oracle/gguf/tiny-i2_s.gguf";
const HIDDEN: usize = 256;
const VOCAB: usize = 512;

/// What of the fixture is changed.
#[derive(Clone)]
struct Variant {
    arch: &'static str,
    pre: Option<&'static str>,
    eos: u32,
    embedding: Option<(TensorType, Vec<u8>)>,
    head: Option<(TensorType, Vec<u8>)>,
}

/// Nothing.
const SAME: Variant =
    Variant { arch: "bitnet-b1.58", pre: Some("llama-bpe"), eos: 511, embedding: None, head: None };

impl Variant {
    /// Writes the model to `name` in `folder`.
    fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let file = MappedFile::open(fixture(TINY)).expect("the fixture");
        let gguf = Gguf::parse(file.bytes()).expect("a good file");
        let mut header = Header::new();
        header.str("general.architecture", self.arch);
        let key = |suffix: &str| format!("{}.{suffix}", self.arch);
        for suffix in [
            "context_length",
            "embedding_length",
            "block_count",
            "feed_forward_length",
            "rope.dimension_count",
            "attention.head_count",
            "attention.head_count_kv",
        ] {
            let value = gguf.u32(&format!("bitnet-b1.58.{suffix}")).expect("a key of the fixture");
            header.u32(&key(suffix), value);
        }
        for suffix in ["attention.layer_norm_rms_epsilon", "rope.freq_base"] {
            let value = gguf.f32(&format!("bitnet-b1.58.{suffix}")).expect("a key of the fixture");
            header.f32(&key(suffix), value);
        }
        header.str("tokenizer.ggml.model", "gpt2");
        if let Some(pre) = self.pre {
            header.str("tokenizer.ggml.pre", pre);
        }
        for table in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
            let texts: Vec<&[u8]> =
                gguf.strings(table).expect("a table").iter().map(|(_, text)| text).collect();
            header.strings(table, &texts);
        }
        let types = gguf.i32s("tokenizer.ggml.token_type").expect("a table");
        let types: Vec<i32> = (0..types.len()).map(|id| types.at(id).expect("a type")).collect();
        header.i32s("tokenizer.ggml.token_type", &types);
        header.u32("tokenizer.ggml.bos_token_id", 510).u32("tokenizer.ggml.eos_token_id", self.eos);
        let mut data: Vec<Vec<u8>> = Vec::new();
        for info in gguf.tensors() {
            let (ty, bytes) = match (&self.embedding, info.name()) {
                (Some((ty, bytes)), "token_embd.weight") => (*ty, bytes.clone()),
                _ => (info.ty(), info.data().expect("a type of this build").to_vec()),
            };
            header.tensor(info.name(), ty, info.dims()).expect("a good tensor");
            data.push(bytes);
        }
        if let Some((ty, bytes)) = &self.head {
            header.tensor("output.weight", *ty, &[HIDDEN as u64, VOCAB as u64]).expect("a good tensor");
            data.push(bytes.clone());
        }
        let mut writer = header.begin(Vec::new()).expect("memory");
        data.iter().for_each(|bytes| writer.write(bytes).expect("as long as it was planned"));
        let path = folder.join(name);
        std::fs::write(&path, writer.finish().expect("all is written")).expect("a place for it");
        path
    }
}

/// binary16 by its definition: sign, five bits of exponent, ten of fraction.
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023) / 1024.0);
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-14),
        _ => (1.0 + fraction) * 2f32.powi(exponent - 15),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    half(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// Value `i` of a matrix of type `ty`.
fn value(ty: TensorType, bytes: &[u8], i: usize) -> f32 {
    match ty {
        TensorType::F32 => f32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes")),
        TensorType::F16 => half_at(bytes, 2 * i),
        TensorType::Bf16 => f32::from_le_bytes([0, 0, bytes[2 * i], bytes[2 * i + 1]]),
        TensorType::Q8_0 => {
            let block = &bytes[i / 32 * 34..];
            half_at(block, 0) * f32::from(block[2 + i % 32] as i8)
        }
        TensorType::Q4_0 => {
            let block = &bytes[i / 32 * 18..];
            let byte = block[2 + i % 16];
            let q = if i % 32 < 16 { byte & 15 } else { byte >> 4 };
            half_at(block, 0) * (f32::from(q) - 8.0)
        }
        TensorType::Q6K => {
            let (block, half) = (&bytes[i / 256 * 210..], i % 256 / 128);
            let (group, l) = (i % 128 / 32, i % 32);
            let nibble = block[64 * half + 32 * (group % 2) + l] >> (4 * (group / 2)) & 15;
            let pair = block[128 + 32 * half + l] >> (2 * group) & 3;
            let scale = block[192 + 8 * half + 2 * group + l / 16] as i8;
            half_at(block, 208) * (f32::from(scale) * (f32::from(nibble | pair << 4) - 32.0))
        }
        other => panic!("{other} is not for embeddings"),
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// `values` in blocks of type `ty`, rounded as it comes.
fn encode(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let level =
        |v: f32, step: f32, most: f32| if step == 0.0 { 0.0 } else { (v / step).round().clamp(-most, most) };
    match ty {
        TensorType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        TensorType::F16 => values.iter().flat_map(|v| f32_to_f16(*v).to_le_bytes()).collect(),
        TensorType::Bf16 => values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
        TensorType::Q8_0 => values
            .as_chunks::<32>()
            .0
            .iter()
            .flat_map(|block| {
                let bits = f32_to_f16(largest(block) / 127.0);
                let codes = block.map(|v| level(v, half(bits), 127.0) as i8 as u8);
                bits.to_le_bytes().into_iter().chain(codes)
            })
            .collect(),
        TensorType::Q4_0 => values
            .as_chunks::<32>()
            .0
            .iter()
            .flat_map(|block| {
                let bits = f32_to_f16(largest(block) / 7.0);
                let codes = block.map(|v| (level(v, half(bits), 7.0) + 8.0) as u8);
                let bytes: [u8; 16] = std::array::from_fn(|i| codes[i] | codes[i + 16] << 4);
                bits.to_le_bytes().into_iter().chain(bytes)
            })
            .collect(),
        TensorType::Q6K => values.as_chunks::<256>().0.iter().flat_map(q6_k).collect(),
        other => panic!("{other} is not for embeddings"),
    }
}

/// One block of Q6_K, every other scale negative.
fn q6_k(values: &[f32; 256]) -> [u8; 210] {
    let mut block = [0u8; 210];
    let bits = f32_to_f16(largest(values) / (31.0 * 64.0));
    block[208..].copy_from_slice(&bits.to_le_bytes());
    for (i, v) in values.iter().enumerate() {
        let (half_index, group, l) = (i / 128, i % 128 / 32, i % 32);
        let sixteen = &values[i / 16 * 16..i / 16 * 16 + 16];
        let size = (largest(sixteen) / (31.0 * half(bits))).ceil().clamp(1.0, 127.0);
        let scale = if i / 16 % 2 == 0 { size } else { -size };
        block[192 + 8 * half_index + 2 * group + l / 16] = scale as i8 as u8;
        let q = ((v / (half(bits) * scale)).round().clamp(-32.0, 31.0) + 32.0) as u8;
        block[64 * half_index + 32 * (group % 2) + l] |= (q & 15) << (4 * (group / 2));
        block[128 + 32 * half_index + l] |= (q >> 4) << (2 * group);
    }
    block
}

/// The fixture's embedding as numbers.
fn embedding() -> Vec<f32> {
    let file = MappedFile::open(fixture(TINY)).expect("the fixture");
    let gguf = Gguf::parse(file.bytes()).expect("a good file");
    let info = gguf.require("token_embd.weight").expect("an embedding");
    let bytes = info.data().expect("a type of this build");
    (0..HIDDEN * VOCAB).map(|i| value(info.ty(), bytes, i)).collect()
}

fn prompt() -> Vec<u32> {
    npy::ids(&fixture("oracle/input_ids.npy"))
}

fn logits_of(path: &Path) -> Vec<f32> {
    let setup = Setup { set: sets::usable()[0], ..Setup::default() };
    with_engine(path, setup, |engine| logits(engine, &prompt()))
}

#[test]
fn every_type_of_embedding_and_head_gives_the_logits_of_its_values() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let values = embedding();
    let original = logits_of(&fixture(TINY));
    // Largest error of a value, relative to the largest value of its row of 256.
    for (ty, error) in [
        (TensorType::F32, 0.0),
        (TensorType::F16, 0.0),
        // The values of the fixture have no more digits than this.
        (TensorType::Bf16, 0.0),
        (TensorType::Q8_0, 0.6 / 127.0),
        (TensorType::Q6K, 0.6 / 31.0),
        (TensorType::Q4_0, 0.6 / 7.0),
    ] {
        let bytes = encode(ty, &values);
        let decoded: Vec<f32> = (0..values.len()).map(|i| value(ty, &bytes, i)).collect();
        for (row, (found, expected)) in decoded.chunks(HIDDEN).zip(values.chunks(HIDDEN)).enumerate() {
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= error * largest(expected), "{ty}: row {row} is off by {worst}");
        }
        let wide = (TensorType::F32, encode(TensorType::F32, &decoded));
        let tied = Variant { embedding: Some((ty, bytes.clone())), ..SAME };
        let reference = Variant { embedding: Some(wide.clone()), ..SAME };
        let (found, expected) = (
            logits_of(&tied.write(folder.path(), "tied")),
            logits_of(&reference.write(folder.path(), "wide")),
        );
        assert!(found == expected, "{ty}, tied");
        let (head, reference) =
            (Variant { head: Some((ty, bytes)), ..SAME }, Variant { head: Some(wide), ..SAME });
        let (found, expected) = (
            logits_of(&head.write(folder.path(), "head")),
            logits_of(&reference.write(folder.path(), "wide")),
        );
        assert!(found == expected, "{ty}, a head of its own");
        // With values of its own a head must be used; with those of the embedding it changes nothing.
        assert_eq!(found == original, decoded == values, "{ty}: a head against the embedding");
    }
}

#[test]
fn blocks_that_other_programs_write_give_the_logits_of_their_values() {
    // Any bytes are values of these types; `tests/codings.rs` holds them against other programs.
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (ty, blocks, scale_at) in [
        (TensorType::Q4K, Blocks::Q4K, 0),
        (TensorType::Ternary(TernaryBlock::Q2_0), Blocks::Ternary(TernaryBlock::Q2_0), 0),
        (TensorType::Ternary(TernaryBlock::Tq1_0), Blocks::Ternary(TernaryBlock::Tq1_0), 52),
    ] {
        let (mut random, count) = (Random::new(9), HIDDEN * VOCAB / blocks.values());
        let mut bytes: Vec<u8> = (0..count * blocks.bytes()).map(|_| random.bits() as u8).collect();
        for block in bytes.chunks_exact_mut(blocks.bytes()) {
            let scale = f32_to_f16(0.01 + random.float().abs() / 256.0).to_le_bytes();
            block[scale_at..scale_at + 2].copy_from_slice(&scale);
            if blocks == Blocks::Q4K {
                block[2..4].copy_from_slice(&scale);
            }
        }
        let mut values = vec![0.0; HIDDEN * VOCAB];
        SCALAR.widen(blocks, &bytes, &mut values);
        let found = Variant { embedding: Some((ty, bytes)), ..SAME }.write(folder.path(), "blocks");
        let wide = (TensorType::F32, encode(TensorType::F32, &values));
        let expected = Variant { embedding: Some(wide), ..SAME }.write(folder.path(), "wide");
        assert!(logits_of(&found) == logits_of(&expected), "{ty}");
    }
}

#[test]
fn labels_are_scored_by_the_same_bits_whatever_the_type_of_the_head() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let values = embedding();
    let decide = |head: (TensorType, Vec<u8>)| {
        let path = Variant { head: Some(head), ..SAME }.write(folder.path(), "head");
        let labels = ["net", "network", "disk", "d"];
        with_engine(&path, Setup::default(), |engine| {
            run(engine, &[(tokens(&prompt()), Goal::Choose { labels: &labels })]).remove(0)
        })
    };
    for ty in [TensorType::F16, TensorType::Bf16, TensorType::Q8_0, TensorType::Q6K, TensorType::Q4_0] {
        let bytes = encode(ty, &values);
        let decoded: Vec<f32> = (0..values.len()).map(|i| value(ty, &bytes, i)).collect();
        let expected = decide((TensorType::F32, encode(TensorType::F32, &decoded)));
        assert_eq!(decide((ty, bytes)), expected, "{ty}");
    }
}

#[test]
fn the_first_name_of_the_architecture_is_the_same_model() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let alias = Variant { arch: "bitnet-25", ..SAME }.write(folder.path(), "alias");
    assert!(logits_of(&alias) == logits_of(&fixture(TINY)));
    let other = Variant { arch: "qwen2", ..SAME }.write(folder.path(), "other");
    let file = MappedFile::open(&other).expect("just written");
    let error = Config::read(&Gguf::parse(file.bytes()).expect("a good file")).expect_err("another graph");
    assert_eq!(error, LoadError::Architecture { found: "qwen2".into() });
}

#[test]
fn scalings_and_heads_that_no_graph_has_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    // The first occurrence of a text of the file becomes another one of its length.
    let refusal = |model: &str, from: &[u8], to: &[u8]| {
        let mut bytes =
            std::fs::read(fixture(&format!("oracle/{model}/tiny-i2_s.gguf"))).expect("the fixture");
        let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
        bytes[at..at + from.len()].copy_from_slice(to);
        let path = folder.path().join("changed");
        std::fs::write(&path, &bytes).expect("written");
        let file = MappedFile::open(&path).expect("just written");
        Config::read(&Gguf::parse(file.bytes()).expect("still a container")).expect_err("refused")
    };
    assert_eq!(refusal("qwen3", b"yarn", b"warp"), LoadError::RopeScaling { found: "warp".into() });
    assert_eq!(
        refusal("qwen3", b"rope.scaling.factor", b"rope.scaling.vector"),
        LoadError::KeyMissing { key: "qwen3.rope.scaling.factor".into() }
    );
    // A rotary embedding of 32 values of a head of 64.
    let turning = |values: u8| [b"rope.dimension_count\x04\0\0\0", &[values, 0, 0, 0][..]].concat();
    let error = refusal("qwen3", &turning(64), &turning(32));
    assert!(matches!(error, LoadError::Inconsistent { found: 32, against: 64, .. }), "{error}");
    assert_eq!(
        refusal("minicpm", b"residual_scale", b"residual_whale"),
        LoadError::KeyMissing { key: "minicpm.residual_scale".into() }
    );
    let missing = refusal("minicpm", b"rope_factors_short.weight", b"rope_factors_shirt.weight");
    assert_eq!(missing, LoadError::TensorMissing { tensor: "rope_factors_short.weight".into() });
}

#[test]
fn a_missing_pre_tokenizer_is_repaired_and_another_one_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let text = "it's 12345 words, don't  you\tthink?\n\n OK";
    let encode = |path: &Path| {
        with_engine(path, Setup::default(), |engine| {
            let (mut scratch, mut out) = (vec![0; 4096], vec![0; 256]);
            let plain = tern_runtime::tokenizer::Special::Plain;
            let count = engine.tokenizer().encode(text, plain, &mut scratch, &mut out).expect("short text");
            (out[..count].to_vec(), engine.tokenizer().repairs().contains(Repair::MissingPretokenizer))
        })
    };
    let (expected, repaired) = encode(&fixture(TINY));
    assert!(!repaired, "the fixture declares it");
    assert_eq!(encode(&Variant { pre: None, ..SAME }.write(folder.path(), "none")), (expected, true));
    let other = Variant { pre: Some("tekken"), ..SAME }.write(folder.path(), "other");
    let file = MappedFile::open(&other).expect("just written");
    let error = Tokenizer::plan(&Gguf::parse(file.bytes()).expect("a good file"));
    assert_eq!(error, Err(LoadError::Pretokenizer { found: "tekken".into() }));
}

#[test]
fn generation_ends_at_the_stop_token_of_the_file() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let whole = with_engine(&fixture(TINY), Setup::default(), |engine| {
        run(engine, &[(tokens(&prompt()), greedy(40))]).remove(0)
    });
    let at = (3..40).find(|at| !whole.ids[..*at].contains(&whole.ids[*at])).expect("a token not seen before");
    let path = Variant { eos: whole.ids[at], ..SAME }.write(folder.path(), "stop");
    with_engine(&path, Setup::default(), |engine| {
        let goal = |ignore_stop_tokens, most| {
            Goal::Generate(Generate {
                sampling: Sampling::default(),
                max_tokens: Some(most),
                ignore_stop_tokens,
                ..Generate::default()
            })
        };
        let found = run(engine, &[(tokens(&prompt()), goal(false, 40)), (tokens(&prompt()), goal(true, 40))]);
        let (reason, usage) = found[0].finish.expect("it ended");
        assert_eq!((reason, usage.generated_tokens), (Finish::StopToken, at));
        assert_eq!(found[0].ids, whole.ids[..at]);
        assert!(whole.text.starts_with(found[0].text.trim_end_matches('\u{fffd}')));
        assert_eq!(found[1].ids, whole.ids, "stop tokens ignored");
        // A limit that is reached first is what ends it.
        let cut = run(engine, &[(tokens(&prompt()), goal(false, at))]).remove(0);
        assert_eq!(cut.finish.expect("it ended").0, Finish::MaxTokens);
    });
}

#[test]
fn weights_that_are_no_numbers_give_an_answer_and_no_panic() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut random = Random::new(5);
    let wild: Vec<f32> = (0..HIDDEN * VOCAB).map(|_| random.wild()).collect();
    let path = Variant { embedding: Some((TensorType::F32, encode(TensorType::F32, &wild))), ..SAME }
        .write(folder.path(), "wild");
    for set in sets::usable() {
        with_engine(&path, Setup { set, ..Setup::default() }, |engine| {
            let sampling =
                Sampling { temperature: 0.9, top_k: 50, top_p: 0.9, min_p: 0.05, ..Sampling::default() };
            let generate = Goal::Generate(Generate {
                sampling,
                max_tokens: Some(9),
                ignore_stop_tokens: true,
                ..Generate::default()
            });
            let labels = ["net", "network", "disk"];
            let choose = Goal::Choose { labels: &labels };
            let found = run(
                engine,
                &[(tokens(&prompt()), generate), (tokens(&prompt()), choose), (tokens(&prompt()), greedy(9))],
            );
            assert_eq!((found[0].ids.len(), found[2].ids.len()), (9, 9), "{}", set.name);
            assert!(found[0].ids.iter().chain(&found[2].ids).all(|id| (*id as usize) < VOCAB));
            let total: f32 = found[1].probabilities.iter().sum();
            assert!(total == 0.0 || (total - 1.0).abs() < 1e-5, "{}: {:?}", set.name, found[1].probabilities);
        });
    }
}

#[test]
fn several_scales_in_a_matrix_give_the_same_bits_in_every_set() {
    // All sets of this machine, those of the other layouts of scalar code too; `tests/groups.rs` has longer texts.
    for (name, group) in [("q2_0", 64), ("pq2_0", 128)] {
        let path = fixture(&format!("oracle/groups/{name}.gguf"));
        let ids = &npy::ids(&fixture(&format!("oracle/groups/{name}_ids.npy")))[..5];
        for activations in Activations::ALL {
            let of = |set: &'static KernelSet| {
                let adjust = |options: &mut Options| options.activations = Some(activations);
                with_options(&path, Setup { set, ..Setup::default() }, adjust, |engine| logits(engine, ids))
            };
            let mut takers = sets::usable().into_iter().rev().filter(|set| set.layout.takes_groups(group));
            let expected = of(takers.next().expect("a scalar set"));
            assert!(expected.iter().all(|logit| logit.is_finite()) && !expected.is_empty());
            for set in takers {
                assert!(of(set) == expected, "{name}, {activations:?}: {}", set.name);
            }
        }
    }
}
