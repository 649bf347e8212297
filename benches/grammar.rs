//! What a schema costs: the vocabulary once, a grammar once a schema, and a token each time.
//!
//! ```sh
//! cargo bench --bench grammar                    # the bundled model's vocabulary
//! cargo bench --bench grammar -- model.gguf      # another's
//! ```
//! Texts are cut into the longest tokens that fit, so that both questions are asked at every place: which tokens may follow,
//! of the whole vocabulary, and whether one may.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tern::grammar::{Book, Grammar, Schema};
use tern_runtime::gguf::Gguf;
use tern_runtime::map::MappedFile;
use tern_runtime::tokenizer::Tokenizer;
use tern_tests::model::{BUNDLED, bundled};

/// Schemas, and a text of each.
const CASES: [(&str, &str, &str); 2] = [
    (
        "an extract",
        r#"{"type":"object","properties":{"part":{"type":"string","maxLength":40},"severity":{"enum":["critical","error","warning","info"]},"n":{"type":"integer","minimum":0,"maximum":99}},"required":["part","severity","n"],"additionalProperties":false}"#,
        r#"{"part":"fan 2 of the left rack, stopped","severity":"critical","n":42}"#,
    ),
    (
        "a long string",
        r#"{"type":"object","properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false}"#,
        r#"{"text":"the pump lost pressure and the valve did not close in time"}"#,
    ),
];

/// What every token of a model prints as.
fn words(path: &std::path::Path) -> Vec<Vec<u8>> {
    let file = MappedFile::open(path).unwrap_or_else(|error| panic!("{error}"));
    let gguf = Gguf::parse(file.bytes()).expect("a model");
    let plan = Tokenizer::plan(&gguf).expect("a tokenizer");
    let mut tables = vec![0; plan.table_words()];
    let tokenizer = Tokenizer::build(&gguf, plan, &mut tables).expect("a tokenizer");
    (0..tokenizer.len() as u32).map(|id| tokenizer.token_bytes(id).collect()).collect()
}

/// The longest token that `text` begins with.
fn longest(words: &[Vec<u8>], text: &[u8]) -> u32 {
    let fits = |word: &Vec<u8>| !word.is_empty() && text.starts_with(word);
    let found = (0u32..).zip(words).filter(|(_, word)| fits(word)).max_by_key(|(_, word)| word.len());
    found.expect("every byte is a token").0
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let mean = us(times.iter().sum()) / times.len() as f64;
    println!("  {what}: mean {mean:.1} us, median {:.1} us", us(times[times.len() / 2]));
}

fn main() {
    let path = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let path = path.map_or_else(|| bundled(BUNDLED), PathBuf::from);
    let words = words(&path);
    let book = Book::default();
    for (name, schema, text) in CASES {
        let schema = Schema::new(&tern_protocol::json::Json(schema.to_owned())).expect("supported");
        let begun = Instant::now();
        let grammar = || book.grammar(&schema, || Some(words.clone())).expect("it can be kept");
        let first = grammar();
        println!("{name}, {} tokens: ready after {:?}", words.len(), begun.elapsed());
        drop(first);
        let (mut masks, mut single, mut takes) = (Vec::new(), Vec::new(), Vec::new());
        let timed = |times: &mut Vec<Duration>, run: &mut dyn FnMut()| {
            let begun = Instant::now();
            run();
            times.push(begun.elapsed());
        };
        for whole in [true, false] {
            let mut grammar: Grammar = grammar();
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let token = longest(&words, rest);
                rest = &rest[words[token as usize].len()..];
                match whole {
                    true => timed(&mut masks, &mut || assert!(!grammar.allowed().is_empty())),
                    false => timed(&mut single, &mut || assert!(grammar.allows(token))),
                }
                timed(&mut takes, &mut || {
                    grammar.take(token);
                });
            }
        }
        show("which tokens may follow", masks);
        show("whether one may follow", single);
        show("taking one", takes);
    }
}
