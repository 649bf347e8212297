//! Texts drawn at temperature 1 by the bundled model are valid whenever they finish by themselves.

use std::time::{Duration, Instant};

use serde_json::Value;
use tern_runtime::engine::{Event, Finish, Generate, Goal, Piece, Request};
use tern_runtime::sampler::Sampling;

use super::*;
use crate::model::{EngineChoice, ModelChoice, with_engine};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tern-log-i2_s.gguf");

/// The schemas, which a peer in Python checks as well.
const SCHEMAS: &str = include_str!("../../../tests/fixtures/schemas.json");

fn schema(text: &str) -> Result<Schema, String> {
    Schema::new(&tern_protocol::json::Json(text.to_owned())).map_err(|error| error.to_string())
}

/// Whether `value` is valid, as far as the keywords of the fixtures go.
fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return schema.as_bool() == Some(true) };
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let within = |found: f64, least: &str, most: &str| {
        number(least).is_none_or(|least| found >= least) && number(most).is_none_or(|most| found <= most)
    };
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    schema.iter().all(|(keyword, wanted)| match keyword.as_str() {
        "type" => match wanted {
            Value::Array(names) => names.iter().any(|name| name.as_str().is_some_and(is)),
            name => name.as_str().is_some_and(is),
        },
        "enum" => wanted.as_array().is_some_and(|values| values.contains(value)),
        "const" => wanted == value,
        "anyOf" => wanted.as_array().is_some_and(|any| any.iter().any(|one| is_valid(root, one, value))),
        "allOf" => wanted.as_array().is_some_and(|all| all.iter().all(|one| is_valid(root, one, value))),
        "$ref" => {
            let path = wanted.as_str().expect("a string").trim_start_matches('#');
            is_valid(root, root.pointer(path).expect("it leads somewhere"), value)
        }
        "properties" => wanted.as_object().is_some_and(|named| {
            named.iter().all(|(name, one)| value.get(name).is_none_or(|held| is_valid(root, one, held)))
        }),
        "required" => wanted.as_array().is_some_and(|names| {
            !value.is_object() || names.iter().all(|name| value.get(name.as_str().unwrap_or("")).is_some())
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let named =
                |name: &String| schema.get("properties").is_some_and(|named| named.get(name).is_some());
            object.iter().all(|(name, held)| named(name) || is_valid(root, wanted, held))
        }),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|one| is_valid(root, wanted, one))),
        "minItems" | "maxItems" => {
            value.as_array().is_none_or(|items| within(items.len() as f64, "minItems", "maxItems"))
        }
        "minLength" | "maxLength" => {
            value.as_str().is_none_or(|text| within(text.chars().count() as f64, "minLength", "maxLength"))
        }
        "minimum" | "maximum" => value.as_f64().is_none_or(|number| within(number, "minimum", "maximum")),
        "pattern" => value.as_str().is_none_or(|text| {
            assert_eq!(wanted, "^[A-Z]{2}-[0-9]{3}$", "the pattern that this check knows");
            let bytes = text.as_bytes();
            bytes.len() == 6
                && bytes[..2].iter().all(u8::is_ascii_uppercase)
                && bytes[2] == b'-'
                && bytes[3..].iter().all(u8::is_ascii_digit)
        }),
        "$defs" | "title" | "description" => true,
        other => panic!("the check does not know {other}"),
    })
}

#[test]
fn what_finishes_is_valid() {
    let schemas: Vec<Value> = serde_json::from_str(SCHEMAS).expect("JSON");
    assert!(schemas.len() >= 12);
    let model = ModelChoice {
        path: Some(MODEL.into()),
        engine: EngineChoice { threads: Some(1), ..EngineChoice::default() },
    };
    with_engine(&model, |engine, _| {
        let tokens = engine.tokenizer().len() as u32;
        let words: Vec<Vec<u8>> =
            (0..tokens).map(|id| engine.tokenizer().token_bytes(id).collect()).collect();
        let book = Book::default();
        let (mut finished, mut cut) = (0, 0);
        for (index, document) in schemas.iter().enumerate() {
            let checked = schema(&document.to_string()).expect("supported");
            for seed in 0..6 {
                let temperature = if seed == 0 { 0.0 } else { 1.0 };
                let sampling = Sampling { temperature, seed, ..Sampling::default() };
                let goal =
                    Goal::Generate(Generate { sampling, max_tokens: Some(150), ..Generate::default() });
                let prompt = [Piece::Text("usb 1-1: device descriptor read/64, error -71")];
                engine.submit(&Request { key: 1, prompt: &prompt, goal }).expect("a good request");
                let mut rules = Rules::default();
                let grammar = book.grammar(&checked, || Some(words.clone()));
                rules.add(1, grammar.unwrap_or_else(|error| panic!("{document}: {error}")));
                let (mut text, mut end) = (String::new(), None);
                while engine.live() > 0 {
                    engine.step_under(&mut rules, |_, event| match event {
                        Event::Text(more) => text.push_str(more),
                        Event::Finished { reason, .. } => end = Some(reason),
                        _ => {}
                    });
                }
                match end.expect("it ended") {
                    Finish::StopToken | Finish::Complete => {
                        let value: Value = serde_json::from_str(&text)
                            .unwrap_or_else(|error| panic!("schema {index}, seed {seed}: {error}: {text}"));
                        assert!(is_valid(document, document, &value), "schema {index}, seed {seed}: {text}");
                        let compact: String = text.split([' ', '\n']).collect();
                        assert!(text.len() == compact.len() || text.contains('"'), "compact: {text}");
                        finished += 1;
                    }
                    Finish::MaxTokens => cut += 1,
                    other => panic!("schema {index}, seed {seed}: {other:?}: {text}"),
                }
            }
        }
        println!("{finished} texts finished and are valid, {cut} were cut short");
        assert!(finished > cut, "{finished} finished, {cut} cut");
    })
    .expect("the bundled model opens");
}

#[test]
fn what_would_not_be_kept_is_refused_by_name_and_place() {
    let cases = [
        ("[]", "a schema is a JSON object"),
        ("{", "not JSON"),
        (r#"{"if":{}}"#, "at #: \"if\" is not supported"),
        (r#"{"properties":{"a/b":{"uniqueItems":true}}}"#, "at #/properties/a~1b: \"uniqueItems\""),
        (r#"{"type":"strnig"}"#, "#/type must be one of null, boolean"),
        (r#"{"items":{"type":["string",3]}}"#, "#/items/type must be"),
        (r#"{"minItems":-1}"#, "#/minItems must be a whole number from 0 to 1000"),
        (r#"{"maxLength":100000000}"#, "#/maxLength must be a whole number"),
        (r#"{"required":"a"}"#, "#/required must be a list of strings"),
        (r#"{"anyOf":[]}"#, "#/anyOf must be a list of schemas"),
        (r#"{"format":"idn-email"}"#, "#/format must be one of date-time"),
        (r##"{"$ref":"#/$defs/none"}"##, "there is no schema there"),
        (r#"{"$ref":"https://example.com/s"}"#, "there is no schema there"),
        (r#"{"x-guidance":{"whitespace_flexible":true}}"#, "\"x-guidance\" is not supported"),
    ];
    for (text, expected) in cases {
        let message = schema(text).expect_err(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
    let nested = |depth: usize| format!("{}true{}", r#"{"items":"#.repeat(depth), "}".repeat(depth));
    assert!(schema(&nested(20)).is_ok());
    assert!(schema(&nested(40)).expect_err("too deep").contains("24 schemas deep"));
    let many: Vec<String> = (0..1001).map(|n| format!("\"p{n}\":{{}}")).collect();
    let many = format!("{{\"properties\":{{{}}}}}", many.join(","));
    assert!(schema(&many).expect_err("too many").contains("1000 schemas"));
}

#[test]
fn what_the_library_cannot_keep_is_refused_in_bounded_time() {
    let deep = |depth: usize| {
        let chain: Vec<String> = (0..depth)
            .map(|n| format!(r##""d{n}":{{"items":{{"$ref":"#/$defs/d{}"}}}}"##, (n + 1) % depth))
            .collect();
        format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{}}}}}"##, chain.join(","))
    };
    let wide = |ways: usize| {
        let one = |n: usize| format!(r#"{{"properties":{{"p{n}":{{"type":"string"}}}}}}"#);
        let any: Vec<String> = (0..ways).map(one).collect();
        let each = format!("{{\"anyOf\":[{}]}}", any.join(","));
        format!("{{\"allOf\":[{}]}}", vec![each; 8].join(","))
    };
    let all: Vec<String> = vec![
        deep(400),
        wide(12),
        r#"{"type":"string","pattern":"^(a|aa)+$","minLength":900}"#.into(),
        r#"{"type":"string","pattern":"(?=x)y"}"#.into(),
        r#"{"type":"string","pattern":"["}"#.into(),
        r#"{"type":"string","pattern":"(((((a{1,50}){1,50}){1,50}){1,50}){1,50})"}"#.into(),
        r#"{"type":"array","minItems":1000,"items":{"type":"array","minItems":1000,"items":{"type":"array","minItems":1000}}}"#.into(),
        r#"{"type":"object","minProperties":900,"additionalProperties":{"type":"object","minProperties":900}}"#.into(),
        r#"{"type":"integer","minimum":5,"maximum":4}"#.into(),
        r#"{"type":"number","multipleOf":1e-300}"#.into(),
        r#"{"type":"number","minimum":-1e308,"maximum":1e308,"multipleOf":0.1}"#.into(),
        r##"{"$ref":"#"}"##.into(),
        r##"{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}"##.into(),
        r#"{"allOf":[{"type":"string"},{"type":"number"}]}"#.into(),
        r#"{"oneOf":[{"type":"string"},{"type":"string","maxLength":3}]}"#.into(),
    ];
    for text in all {
        let checked = schema(&text).expect("every keyword is known");
        let begun = Instant::now();
        let outcome = checked.check();
        let took = begun.elapsed();
        let shown: String = text.chars().take(80).collect();
        println!("{took:?} {shown}: {:?}", outcome.as_ref().map_err(ToString::to_string));
        assert!(took < Duration::from_secs(20), "{shown} took {took:?}");
    }
}
