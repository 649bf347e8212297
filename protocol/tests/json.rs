//! The JSON form, as `docs/wire.md` shows it.

use tern_protocol::answer::{Answer, Decision, Failure, Reason, Token, Usage, Value};
use tern_protocol::answer::{Energy, Idle, Method, Probability};
use tern_protocol::json::Json;
use tern_protocol::request::{Ask, Kind, NotOneWork, Request, Role, Work};
use tern_protocol::storage::{Borrowed, Fixed};

type Small = Fixed<64, 4>;

fn parse(line: &str) -> Result<Request<Small>, String> {
    serde_json::from_str(line).map_err(|error| error.to_string())
}

#[test]
fn the_documented_requests_are_read() {
    let task = parse(r#"{"id":"1","task":"log-severity","text":"usb 1-1: no address"}"#).unwrap();
    assert!(matches!(task.work(), Ok(Work::Task(name)) if name == "log-severity"));
    assert_eq!(
        (task.text.as_deref(), task.stream, task.deadline_ms),
        (Some("usb 1-1: no address"), false, None)
    );

    let ask = parse(
        r#"{"id":"2","ask":{"kind":"choice","instructions":"Which subsystem?","labels":["usb","network"],
            "threshold":0.5},"text":"..."}"#,
    );
    let ask = ask.unwrap().ask.unwrap();
    assert_eq!((ask.kind, ask.threshold, ask.labels.unwrap().len()), (Kind::Choice, Some(0.5), 2));

    let generate =
        parse(r#"{"id":"3","generate":{"prompt":"Once","max_tokens":32,"sampling":{"top_k":5}}}"#).unwrap();
    let generate = generate.generate.unwrap();
    assert_eq!((generate.max_tokens, generate.sampling.unwrap().top_k), (Some(32), Some(5)));

    let chat = parse(r#"{"id":"4","chat":{"messages":[{"role":"user","content":"Hello"}],"max_tokens":64}}"#);
    let chat = chat.unwrap().chat.unwrap();
    assert_eq!((chat.messages[0].role, chat.messages[0].content.as_str()), (Role::User, "Hello"));

    assert_eq!(
        parse(r#"{"id":"5","cancel":"4"}"#).unwrap().work(),
        Ok(Work::Cancel(&"4".try_into().unwrap()))
    );
    assert_eq!(parse(r#"{"id":"6","status":true}"#).unwrap().work(), Ok(Work::Status));
}

#[test]
fn a_schema_is_an_object_or_its_text_and_keeps_its_order() {
    type Roomy = Fixed<256, 4>;
    let read = |schema: &str| {
        let line = format!(r#"{{"id":"1","generate":{{"prompt":"x","schema":{schema},"logprobs":3}}}}"#);
        let request: Request<Roomy> = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let generate = request.generate.unwrap();
        assert_eq!(generate.logprobs, Some(3));
        Ok::<_, String>(generate.schema.unwrap().as_str().to_owned())
    };
    let text = r#"{"type":"object","b":[1,-2,0.5,1e300,null,true],"a":{"\"\\\n\u0001":"\u00e9"},"z":[]}"#;
    let compact = text.replace(r"\u00e9", "\u{e9}");
    assert_eq!(read(text).unwrap(), compact);
    assert_eq!(read(&text.replace(':', " : ").replace(',', "\n,")).unwrap(), compact);
    // As a string it stays as it is.
    assert_eq!(read(r#""{ \"a\": 1 }""#).unwrap(), r#"{ "a": 1 }"#);
    for (wrong, message) in [("7", "expected a JSON object"), ("[]", "expected a JSON object"), ("null", "")]
    {
        let line = format!(r#"{{"id":"1","ask":{{"kind":"extract","schema":{wrong}}},"text":""}}"#);
        match serde_json::from_str::<Request<Roomy>>(&line) {
            Err(error) => assert!(!message.is_empty() && error.to_string().contains(message), "{error}"),
            Ok(request) => assert!(message.is_empty() && request.ask.unwrap().schema.is_none()),
        }
    }
    let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(300));
    assert!(read(&long).unwrap_err().contains("longer than there is room for"));
    let mut request = Request::<Roomy>::new("1".try_into().unwrap());
    request.ask =
        Some(Ask { schema: Some(Json(compact.as_str().try_into().unwrap())), ..Ask::new(Kind::Extract) });
    let line = serde_json::to_string(&request).unwrap();
    assert!(line.contains(r#""kind":"extract","schema":"{\"type"#), "{line}");
    assert_eq!(serde_json::from_str::<Request<Roomy>>(&line).unwrap(), request);
}

#[test]
fn every_request_on_the_page_is_one() {
    let page = include_str!("../../docs/wire.md");
    let shown: Vec<_> = page.split('`').filter(|span| span.starts_with("{\"id\"")).collect();
    assert!(shown.len() >= 6, "{shown:?}");
    for line in shown {
        let request: Request<Fixed<128, 4>> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(request.work().is_ok(), "{line}");
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    let unknown = parse(r#"{"id":"1","task":"a","text":"b","treshold":0.5}"#).unwrap_err();
    assert!(unknown.contains("unknown field `treshold`"), "{unknown}");
    let unknown = parse(r#"{"id":"1","ask":{"kind":"choice","label":["a"]},"text":""}"#).unwrap_err();
    assert!(unknown.contains("unknown field `label`"), "{unknown}");
    let missing = parse(r#"{"task":"a","text":"b"}"#).unwrap_err();
    assert!(missing.contains("missing field `id`"), "{missing}");
    assert_eq!(parse(r#"{"id":"1"}"#).unwrap().work(), Err(NotOneWork { found: 0 }));
    let two = parse(r#"{"id":"1","task":"a","cancel":"b"}"#).unwrap();
    assert_eq!(two.work(), Err(NotOneWork { found: 2 }));
}

#[test]
fn absent_fields_are_not_written() {
    let request = Request::<Borrowed>::task("1", "log-severity", "a \"b\"");
    let line = serde_json::to_string(&request).unwrap();
    assert_eq!(line, r#"{"id":"1","task":"log-severity","text":"a \"b\""}"#);
    assert_eq!(parse(&line).unwrap().task.as_deref(), Some("log-severity"));
}

fn decision() -> Decision<Small> {
    Decision {
        id: "1".try_into().unwrap(),
        label: None,
        probability: 0.5,
        abstained: true,
        probabilities: heapless::Vec::from_slice(&[
            Probability { label: "no".try_into().unwrap(), p: 0.5 },
            Probability { label: "yes".try_into().unwrap(), p: 0.5 },
        ])
        .unwrap(),
        value: Some(Value::Number(2.5)),
        usage: Usage { prompt_tokens: 9, ..Usage::default() },
        energy: Energy {
            joules: None,
            prefill_joules: None,
            decode_joules: None,
            joules_per_token: None,
            method: Method::Unknown,
            source: None,
            scope: None,
            idle: Idle::Included,
            idle_watts: None,
            relative_uncertainty: None,
            samples: 0,
            sample_hz: None,
            window_ms: 0.0,
            calibrated_at: None,
            throttled: None,
            below_resolution: false,
        },
        model: "m".try_into().unwrap(),
        task: None,
    }
}

#[test]
fn an_answer_is_flat_starts_with_its_type_and_says_null() {
    let answer = Answer::Decision(decision());
    let line = serde_json::to_string(&answer).unwrap();
    let start = r#"{"type":"decision","id":"1","label":null,"probability":0.5,"abstained":true,"probabilities":[{"label":"no","p":0.5},"#;
    assert!(line.starts_with(start), "{line}");
    assert!(line.contains(r#""value":2.5"#) && line.contains(r#""joules":null"#), "{line}");
    assert_eq!(serde_json::from_str::<Answer<Small>>(&line).unwrap(), answer);
}

#[test]
fn every_value_survives() {
    for (text, value) in [("true", Value::Bool(true)), ("1.5", Value::Number(1.5)), ("3", Value::Number(3.0))]
    {
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), value);
    }
    let failure = Failure::<Small> {
        id: None,
        code: Reason::QueueFull.code(),
        reason: Reason::QueueFull,
        message: "full".try_into().unwrap(),
        retry_after_ms: Some(20),
    };
    let line = serde_json::to_string(&Answer::Error(failure.clone())).unwrap();
    assert_eq!(
        line,
        r#"{"type":"error","id":null,"code":429,"reason":"queue_full","message":"full","retry_after_ms":20}"#
    );
    assert_eq!(serde_json::from_str::<Answer<Small>>(&line).unwrap(), Answer::Error(failure));
}

#[test]
fn an_answer_without_a_type_in_front_is_refused() {
    for line in ["{}", r#"{"id":"1","type":"token","text":""}"#, r#"{"type":"poem"}"#, "[]"] {
        assert!(serde_json::from_str::<Answer<Small>>(line).is_err(), "{line}");
    }
    let token =
        serde_json::from_str::<Answer<Small>>(r#"{"type":"token","id":"1","text":"x","new":1}"#).unwrap();
    let expected =
        Token { id: "1".try_into().unwrap(), text: "x".try_into().unwrap(), logprobs: None, joules: None };
    assert_eq!(token, Answer::Token(expected));
    assert!(!token.is_last());
}
