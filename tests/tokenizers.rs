//! Ids equal to those of Hugging Face `tokenizers` on 12,000 strings in many scripts, for every family of tokenizers.
//!
//! The strings are made here as `tests/oracles/tokenizer_agreement.py` makes them; its digests of texts and ids, and the
//! vocabularies it trained, are in `tests/fixtures/tokenizers/agreement.json`. What llama.cpp makes of the same strings is
//! in `docs/tokenizers.md`.

use std::fs;

use serde_json::Value;
use tern::tasks::nfc;
use tern_runtime::gguf::{Gguf, Header};
use tern_runtime::tokenizer::{Special, StreamDecoder, TokenKind, Tokenizer};

const BLOCK: usize = 100;
const STRINGS: u64 = 12_000;

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/tokenizers/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&fs::read_to_string(path).expect("a fixture")).expect("JSON")
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().expect("a list")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    list(value, key).iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

/// A linear congruence modulo 2^64, upper half.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }

    fn pick<'p>(&mut self, parts: &'p [String]) -> &'p str {
        &parts[self.below(parts.len())]
    }
}

/// The strings of the corpus.
fn strings() -> Vec<String> {
    let corpus = fixture("corpus.json");
    let [parts, spaces, symbols] = ["parts", "spaces", "symbols"].map(|key| texts(&corpus, key));
    let ranges: Vec<[u64; 2]> =
        list(&corpus, "ranges").iter().map(|range| [number(&range[0]), number(&range[1])]).collect();
    let markers = ["<s>", "</s>", "<|end|>"].map(String::from);
    let make = |index| {
        let (mut random, mut text) = (Random(index), String::new());
        random.below(2);
        for _ in 0..1 + random.below(9) {
            match random.below(12) {
                kind @ 0..5 => {
                    text += random.pick(&parts);
                    text += if kind < 3 { " " } else { "" };
                }
                5 | 6 => {
                    let [low, high] = ranges[random.below(ranges.len())];
                    for _ in 0..1 + random.below(6) {
                        let code = low + random.below((high - low + 1) as usize) as u64;
                        text.extend(char::from_u32(code as u32));
                    }
                }
                7 | 8 => text += random.pick(&spaces),
                9 => {
                    for _ in 0..1 + random.below(7) {
                        text += &random.below(10).to_string();
                    }
                }
                10 => {
                    for _ in 0..1 + random.below(4) {
                        text += random.pick(&symbols);
                    }
                }
                _ => text += random.pick(&markers),
            }
        }
        text
    };
    (0..STRINGS).map(make).collect()
}

/// FNV-1a of rows of bytes, each with its length in front.
fn digest(rows: &[Vec<u8>]) -> String {
    let mut digest = 0xcbf2_9ce4_8422_2325u64;
    for row in rows {
        for byte in (row.len() as u32).to_le_bytes().iter().chain(row) {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{digest:016x}")
}

/// The vocabulary as the file of a model has it.
fn file(family: &Value) -> Vec<u8> {
    let mut tokens: Vec<String> =
        list(family, "tokens").iter().map(|token| token.as_str().unwrap_or_default().to_owned()).collect();
    let mut merges = Vec::new();
    let mut scores = vec![-1e6; tokens.len()];
    for (rank, rule) in list(family, "merges").iter().enumerate() {
        let [left, right, merged] = [0, 1, 2].map(|at| number(&rule[at]) as usize);
        tokens[merged] = format!("{}{}", tokens[left], tokens[right]);
        merges.push(format!("{} {}", tokens[left], tokens[right]));
        if scores[merged] == -1e6 {
            scores[merged] = -(rank as f32);
        }
    }
    let types: Vec<i32> = list(family, "types").iter().map(|ty| number(ty) as i32).collect();
    let id = |text: &str| tokens.iter().position(|token| token == text).expect("a token") as u32;
    let model = family["model"].as_str().expect("a model");
    let mut header = Header::new();
    header.str("general.architecture", "llama").str("tokenizer.ggml.model", model);
    match family["pre"].as_str() {
        Some(pre) => header.str("tokenizer.ggml.pre", pre).strings("tokenizer.ggml.merges", &merges),
        None => header.f32s("tokenizer.ggml.scores", &scores),
    };
    header.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &types);
    header.u32("tokenizer.ggml.bos_token_id", id("<s>")).u32("tokenizer.ggml.eos_token_id", id("</s>"));
    header.begin(Vec::new()).expect("a header").finish().expect("a file")
}

/// Strings whose ids agree: those of blocks whose digest does.
fn agreeing(rows: &[Vec<u8>], expected: &[Value]) -> usize {
    assert_eq!(rows.len().div_ceil(BLOCK), expected.len());
    let blocks = rows.chunks(BLOCK).zip(expected);
    blocks
        .filter(|(rows, expected)| Some(digest(rows).as_str()) == expected.as_str())
        .map(|(rows, _)| rows.len())
        .sum()
}

#[test]
fn ids_are_those_of_hugging_face() {
    let agreement = fixture("agreement.json");
    let strings = strings();
    let bytes: Vec<Vec<u8>> = strings.iter().map(|text| text.as_bytes().to_vec()).collect();
    assert_eq!(agreeing(&bytes, list(&agreement, "texts")), strings.len(), "the same strings are made");
    let mut families = 0;
    for family in list(&agreement, "families") {
        let name = family["name"].as_str().expect("a name");
        let file = file(family);
        let gguf = Gguf::parse(&file).expect("a sound file");
        let plan = Tokenizer::plan(&gguf).expect("a tokenizer");
        let mut tables = vec![0; plan.table_words()];
        let tokenizer = Tokenizer::build(&gguf, plan, &mut tables).expect("a sound tokenizer");
        assert_eq!(Some(tokenizer.wants_nfc()), family["nfc"].as_bool(), "{name}");
        let longest = strings.iter().map(String::len).max().unwrap_or(0) * 3;
        let mut scratch = vec![0; Tokenizer::scratch_words(longest)];
        let mut out = vec![0; longest + 1];
        for (mode, special) in [("special", Special::Parse), ("plain", Special::Plain)] {
            let mut rows = Vec::new();
            for text in &strings {
                let text = if tokenizer.wants_nfc() { nfc::normalised(text) } else { text.into() };
                let n = tokenizer.encode(&text, special, &mut scratch, &mut out).expect("room for any text");
                let ids = &out[..n];
                rows.push(ids.iter().flat_map(|id| id.to_le_bytes()).collect());
                // Behind a user-defined token SentencePiece puts a space in front again, here as in the others.
                let user = |id: &u32| tokenizer.token_kind(*id) == TokenKind::UserDefined;
                if mode == "plain" && !(name == "spm" && ids.iter().any(user)) {
                    let (mut back, mut decoder): (String, StreamDecoder) =
                        (String::new(), tokenizer.decoder());
                    for id in ids {
                        decoder.push(tokenizer.token_bytes(*id), &mut back).expect("a String takes all");
                    }
                    decoder.finish(&mut back).expect("a String takes all");
                    // To SentencePiece U+2581 is a space.
                    let same = if name == "spm" { text.replace('\u{2581}', " ") } else { text.into_owned() };
                    assert_eq!(back, same, "{name}");
                }
            }
            let agree = agreeing(&rows, list(family, mode));
            println!("{name} {mode}: {agree} of {} strings agree", strings.len());
            assert_eq!(agree, strings.len(), "{name} {mode}");
        }
        families += 1;
    }
    assert_eq!(families, 5);
}
