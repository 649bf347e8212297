//! BPE over characters with byte fallback, as the library makes it of SentencePiece vocabularies.
//!
//! There a pair is merged if there is a rule for it, the earliest rule first. In a GGUF a pair is merged if what it spells
//! is a token, the one with the highest score first. The two are the same where every pair that spells a token has a rule,
//! and the rules of a token stand together: then a token's score is minus the place of its first rule. That is how the
//! library lists the rules of such a vocabulary, and it is checked here; anything else is refused.

use std::collections::HashMap;

use serde_json::Value;

use super::byte_level::{flag, kind, steps};
use super::json::{Bpe, File};
use super::{BYTE, NORMAL, UNKNOWN, refused};
use crate::checkpoint::CheckpointError;

/// What spells a space.
const SPACE: &str = "\u{2581}";

/// Whether a space is put in front of a text, where `file` does nothing else but spell spaces.
pub(super) fn space_prefix(file: &File<'_>) -> Result<bool, CheckpointError> {
    let is = |step: &Value, key: &str, text: &str| step.get(key).and_then(Value::as_str) == Some(text);
    let is_prepend = |step: &Value| kind(step) == "Prepend" && is(step, "prepend", SPACE);
    let is_replace = |step: &Value| {
        kind(step) == "Replace"
            && step.get("pattern").is_some_and(|pattern| is(pattern, "String", " "))
            && is(step, "content", SPACE)
    };
    let is_metaspace = |step: &Value| {
        kind(step) == "Metaspace" && is(step, "replacement", SPACE) && !flag(step, "split", true)
    };
    match (steps(&file.normalizer).as_slice(), steps(&file.pre_tokenizer).as_slice()) {
        ([prepend, replace], []) if is_prepend(prepend) && is_replace(replace) => Ok(true),
        ([replace], []) if is_replace(replace) => Ok(false),
        ([], [step]) if is_metaspace(step) && is(step, "prepend_scheme", "never") => Ok(false),
        ([], [step]) if is_metaspace(step) && is(step, "prepend_scheme", "always") => Ok(true),
        _ => {
            let found = format!("{}, the pre_tokenizer {}", file.normalizer, file.pre_tokenizer);
            Err(refused(
                "normalizer",
                &found,
                "spaces spelled as U+2581, with one in front or without, and no cutting",
            ))
        }
    }
}

/// Gives the tokens of bytes and the unknown token their types.
pub(super) fn mark(types: &mut [i32], tokens: &[String], unknown: Option<&str>) {
    for (ty, text) in types.iter_mut().zip(tokens) {
        if unknown == Some(text) {
            *ty = UNKNOWN;
        } else if is_byte(text) {
            *ty = BYTE;
        }
    }
}

/// Whether a token is spelled `<0xHH>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The score of each token.
pub(super) fn scores(bpe: &Bpe, tokens: &[String], types: &[i32]) -> Result<Vec<f32>, CheckpointError> {
    let normal = || tokens.iter().zip(types).enumerate().filter(|(_, (_, ty))| **ty == NORMAL);
    let ids: HashMap<&str, usize> = normal().map(|(id, (text, _))| (text.as_str(), id)).collect();
    let rules: HashMap<(&str, &str), usize> = bpe.merges().zip(0..).collect();
    // Characters are never made by merging, so that their score says nothing.
    let mut scores = vec![0.0; tokens.len()];
    let mut current = None;
    for (rank, (left, right)) in bpe.merges().enumerate() {
        let joined = format!("{left}{right}");
        let Some(id) = ids.get(joined.as_str()) else {
            let found = format!("one that makes {joined:?}, which is no token");
            return Err(refused("merges", &found, "rules that make tokens"));
        };
        if current == Some(*id) {
            continue;
        }
        current = Some(*id);
        if scores[*id] != 0.0 {
            let found = format!("ones that make {joined:?} with others between them");
            return Err(refused(
                "merges",
                &found,
                "the rules of a token together, as SentencePiece vocabularies have them",
            ));
        }
        // Exact up to 2^24 rules.
        scores[*id] = -(rank as f32) - 1.0;
    }
    for (_, (text, _)) in normal() {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            let may_stand = |part: &str| ids.contains_key(part) || part.chars().nth(1).is_none();
            if may_stand(left) && may_stand(right) && !rules.contains_key(&(left, right)) {
                let found = format!("without one for {left:?} and {right:?}, which together are a token");
                return Err(refused("merges", &found, "a rule for every pair that makes a token"));
            }
        }
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(tokens: &[&str], merges: &str) -> Result<Vec<f32>, String> {
        let vocab: Vec<String> =
            tokens.iter().enumerate().map(|(id, text)| format!("{text:?}: {id}")).collect();
        let text = format!("{{\"type\": \"BPE\", \"vocab\": {{{}}}, \"merges\": {merges}}}", vocab.join(","));
        let bpe = Bpe::read(&text).expect("JSON").expect("BPE");
        let tokens: Vec<String> = tokens.iter().map(|text| text.to_string()).collect();
        scores(&bpe, &tokens, &vec![NORMAL; tokens.len()]).map_err(|error| error.to_string())
    }

    #[test]
    fn scores_stand_for_rules_only_where_both_give_the_same_tokens() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc"];
        let rules = r#"["a b", ["b", "c"], "a bc", "ab c"]"#;
        assert_eq!(scored(&tokens, rules), Ok(vec![0.0, 0.0, 0.0, -1.0, -2.0, -3.0]));
        for (merges, word) in [
            (r#"["a b", "b c", "a bc"]"#, "\"ab\" and \"c\""),
            (r#"["a b", "a bc", "b c", "ab c"]"#, "others between"),
            (r#"["a b", "b c", "a bc", "ab c", "c a"]"#, "\"ca\""),
        ] {
            let error = scored(&tokens, merges).expect_err(word);
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(is_byte("<0x0A>") && !is_byte("<0x0>") && !is_byte("<0xzz>"));
    }
}
