//! Ids and pieces equal to what other tokenizers gave for the same text.

use serde_json::Value;
use tern_runtime::gguf::Gguf;
use tern_runtime::tokenizer::pretokenize::Split;
use tern_runtime::tokenizer::{Special, StreamDecoder, Tokenizer};

const TINY: &[u8] = include_bytes!("../../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");
const TINY_VECTORS: &str = include_str!("../../tests/fixtures/oracle/tokenizer/tiny_vectors.json");
const LOG: &[u8] = include_bytes!("../../tests/fixtures/oracle/gguf/log-vocab.gguf");
const LOG_VECTORS: &str = include_str!("../../tests/fixtures/oracle/tokenizer/log_vectors.json");
const LLAMA3_VECTORS: &str = include_str!("../../tests/fixtures/oracle/tokenizer/llama3_vectors.json");
const LLAMA3_SPLITS: &str = include_str!("../../tests/fixtures/oracle/tokenizer/llama3_splits.json");

fn rows(json: &str) -> Vec<Value> {
    serde_json::from_str(json).unwrap()
}

/// Encodes each vector of a file, compares, and decodes back to the text.
fn check(file: &[u8], vectors: &str) -> usize {
    let gguf = Gguf::parse(file).unwrap();
    let plan = Tokenizer::plan(&gguf).unwrap();
    let mut tables = vec![0; plan.table_words()];
    let tokenizer = Tokenizer::build(&gguf, plan, &mut tables).unwrap();
    let rows = rows(vectors);
    for row in &rows {
        let text = row["text"].as_str().unwrap();
        let expected: Vec<u32> =
            row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let special = if row["special"] == true { Special::Parse } else { Special::Plain };
        let mut scratch = vec![0; Tokenizer::scratch_words(text.len())];
        let mut ids = vec![0; expected.len()];
        let n = tokenizer.encode(text, special, &mut scratch, &mut ids);
        assert_eq!((n, &ids), (Ok(expected.len()), &expected), "{text:?}");
        if row["special"] != true {
            let (mut back, mut decoder) = (String::new(), StreamDecoder::new());
            for &id in &ids {
                decoder.push(tokenizer.token_bytes(id), &mut back).unwrap();
            }
            decoder.finish(&mut back).unwrap();
            assert_eq!(back, text);
        }
    }
    rows.len()
}

#[test]
fn tiny_vocabulary_gives_the_oracles_ids() {
    assert_eq!(check(TINY, TINY_VECTORS), 20);
}

#[test]
fn log_vocabulary_gives_the_oracles_ids() {
    assert_eq!(check(LOG, LOG_VECTORS), 407);
}

#[test]
fn pieces_are_those_of_the_pattern() {
    let rows = rows(LLAMA3_SPLITS);
    assert_eq!(rows.len(), 2400);
    for row in rows {
        let text = row[0].as_str().unwrap();
        let expected = row.as_array().unwrap()[1..].iter().map(|n| n.as_u64().unwrap() as usize);
        assert!(
            Split::Llama3.pieces(text).map(str::len).eq(expected),
            "{text:?}: {:?}",
            Split::Llama3.pieces(text).collect::<Vec<_>>()
        );
    }
}

/// The official vocabulary is not shipped, but no token spans two pieces: a text cannot have fewer tokens than pieces,
/// and the ids of the twenty strings say which ones are whole.
#[test]
fn pieces_of_the_llama3_strings_fit_their_ids() {
    for row in rows(LLAMA3_VECTORS) {
        let text = row["text"].as_str().unwrap();
        let pieces: Vec<&str> = Split::Llama3.pieces(text).collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.len() <= row["ids"].as_array().unwrap().len(), "{pieces:?}");
    }
    // Strings of common words, whose pieces are tokens each.
    for text in ["Hello, world!", "1 12 123 1234 12345678 3.14159"] {
        let rows = rows(LLAMA3_VECTORS);
        let row = rows.iter().find(|row| row["text"] == text).unwrap();
        assert_eq!(Split::Llama3.pieces(text).count(), row["ids"].as_array().unwrap().len(), "{text:?}");
    }
}
