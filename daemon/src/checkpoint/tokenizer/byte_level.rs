//! How text is cut before it is merged, recognised exactly and named as GGUF files name it.
//!
//! A name stands for a pattern and two habits. All of it must fit:
//!
//! | name | pattern | `ignore_merges` | normalizer |
//! |---|---|---|---|
//! | `llama-bpe` | that of Llama 3 | true | none |
//! | `dbrx` | that of Llama 3 | false | none |
//! | `qwen2` | that of Qwen 2: one digit at a time | false | NFC |
//! | `gpt-2` | that of GPT-2 | false | none |
//! | `gpt-neox` | that of GPT-2 | false | NFC |
//!
//! The names and what they stand for are those of llama.cpp's table and of `runtime/src/tokenizer`.

use serde_json::Value;

use super::json::File;
use super::refused;
use crate::checkpoint::CheckpointError;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What the library's ByteLevel cuts by; files that spell it out give one of these.
const GPT2: [&str; 2] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
];

const UNDERSTOOD: &str = "the pattern of Llama 3, Qwen 2 or GPT-2 over bytes";

/// The name of the way in which `file` cuts text.
pub(super) fn name(file: &File<'_>, ignore_merges: bool) -> Result<&'static str, CheckpointError> {
    let steps = steps(&file.pre_tokenizer);
    let unknown = || Err(refused("pre_tokenizer", &file.pre_tokenizer.to_string(), UNDERSTOOD));
    let pattern = match steps.as_slice() {
        [bytes] if is_byte_level(bytes, true) => GPT2[0],
        [split, bytes] if is_byte_level(bytes, false) => match pattern(split) {
            Some(pattern) => pattern,
            None => return unknown(),
        },
        _ => return unknown(),
    };
    let nfc = match &file.normalizer {
        Value::Null => false,
        normalizer if kind(normalizer) == "NFC" => true,
        normalizer => return Err(refused("normalizer", &normalizer.to_string(), "none, or NFC")),
    };
    match (pattern, ignore_merges, nfc) {
        (LLAMA3, true, false) => Ok("llama-bpe"),
        (LLAMA3, false, false) => Ok("dbrx"),
        (QWEN2, false, true) => Ok("qwen2"),
        (pattern, false, nfc) if GPT2.contains(&pattern) => Ok(if nfc { "gpt-neox" } else { "gpt-2" }),
        (LLAMA3 | QWEN2, ..) => {
            let found = format!(
                "a known one with ignore_merges {ignore_merges} and {}",
                if nfc { "NFC" } else { "no normalizer" }
            );
            Err(refused(
                "pattern",
                &found,
                "Llama 3 without a normalizer, Qwen 2 with NFC and without ignore_merges",
            ))
        }
        (pattern, ..) if GPT2.contains(&pattern) => {
            Err(refused("pattern", "that of GPT-2 with ignore_merges", "that of GPT-2 without"))
        }
        _ => unknown(),
    }
}

/// The steps of a sequence, or the one step.
pub(super) fn steps(value: &Value) -> Vec<&Value> {
    let list =
        ["pretokenizers", "normalizers", "processors"].iter().find_map(|key| value.get(key)?.as_array());
    match (value, list) {
        (Value::Null, _) => Vec::new(),
        (_, Some(list)) if kind(value) == "Sequence" => list.iter().flat_map(steps).collect(),
        _ => vec![value],
    }
}

/// The type of a step.
pub(super) fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or("")
}

/// A flag of a step; the library's default is given.
pub(super) fn flag(step: &Value, key: &str, default: bool) -> bool {
    step.get(key).and_then(Value::as_bool).unwrap_or(default)
}

fn is_byte_level(step: &Value, cuts: bool) -> bool {
    kind(step) == "ByteLevel"
        && !flag(step, "add_prefix_space", true)
        && flag(step, "use_regex", true) == cuts
}

/// The known pattern of a step that makes each match a piece.
fn pattern(step: &Value) -> Option<&'static str> {
    let behavior = step.get("behavior")?.as_str()?;
    // Every text is matched from end to end by each of these, so what is kept and what is dropped come to the same.
    let keeps_all = match flag(step, "invert", false) {
        false => behavior == "Isolated",
        true => matches!(behavior, "Removed" | "Isolated"),
    };
    let text = step.get("pattern")?.get("Regex")?.as_str()?;
    let known = [LLAMA3, QWEN2].into_iter().chain(GPT2).find(|known| *known == text);
    known.filter(|_| kind(step) == "Split" && keeps_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(
        pattern: &str,
        behavior: &str,
        normalizer: Value,
        ignore_merges: bool,
    ) -> Result<&'static str, String> {
        let text = json!({
            "model": {}, "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": behavior == "Removed"},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
        })
        .to_string();
        let file = serde_json::from_str(&text).expect("as the library writes it");
        name(&file, ignore_merges).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pattern_is_known_to_the_letter_or_shown() {
        let none = Value::Null;
        let nfc = || json!({"type": "NFC"});
        assert_eq!(named(LLAMA3, "Isolated", none.clone(), true), Ok("llama-bpe"));
        assert_eq!(named(LLAMA3, "Removed", none.clone(), false), Ok("dbrx"));
        assert_eq!(named(QWEN2, "Isolated", nfc(), false), Ok("qwen2"));
        assert_eq!(named(GPT2[1], "Isolated", none.clone(), false), Ok("gpt-2"));
        assert_eq!(named(GPT2[0], "Isolated", nfc(), false), Ok("gpt-neox"));
        for (pattern, normalizer, ignore_merges, word) in [
            (QWEN2, none.clone(), false, "no normalizer"),
            (QWEN2, nfc(), true, "ignore_merges true"),
            (GPT2[0], none.clone(), true, "ignore_merges"),
            (LLAMA3, json!({"type": "Lowercase"}), true, "Lowercase"),
            (r"\p{L}+|\d{4}", none, false, r"\\d{4}"),
        ] {
            let error = named(pattern, "Isolated", normalizer, ignore_merges).expect_err(word);
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
