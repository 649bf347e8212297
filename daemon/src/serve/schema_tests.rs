//! Schemas and log probabilities as a client on the socket meets them.

use serde_json::Value;
use tern_protocol::answer::{Finish, Reason};
use tern_protocol::json::Json;
use tern_protocol::request::Kind;

use super::*;
use crate::client::{Client, ClientError};
use crate::model::EngineChoice;
use crate::wire::{Answer, Ask, Chosen, Generate, Request, Sampling, Text};

const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tern-log-i2_s.gguf");
const PART: &str = r#"{"type":"object","properties":{"part":{"type":"string","maxLength":12},"bad":{"type":"boolean"}},"required":["part","bad"],"additionalProperties":false}"#;

fn start() -> (tempfile::TempDir, ServerHandle, Client) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config::default();
    config.socket.path = folder.path().join("t.sock");
    let engine = EngineChoice { threads: Some(1), ..EngineChoice::default() };
    let model = ModelChoice { path: Some(BUNDLED.into()), engine };
    let server = Server::start_metered(&config, &model, None).expect("it starts");
    let client = Client::connect(server.socket()).expect("it listens");
    (folder, server, client)
}

fn generate(client: &mut Client, generate: Generate) -> Request {
    Request { generate: Some(generate), ..Request::new(client.new_id()) }
}

fn written(answer: Answer) -> Text {
    match answer {
        Answer::Text(text) => text,
        other => panic!("text was asked for: {other:?}"),
    }
}

fn refused(client: &mut Client, request: &Request) -> String {
    match client.ask(request, |_| Ok(())) {
        Err(ClientError::Refused(failure)) => {
            assert_eq!((failure.code, failure.reason), (400, Reason::BadRequest));
            failure.message
        }
        other => panic!("it is to be refused: {other:?}"),
    }
}

#[test]
fn an_extract_answers_with_json_or_says_that_it_was_cut() {
    let (_folder, server, mut client) = start();
    let ask = |limit| Ask {
        instructions: Some("What failed?".into()),
        schema: Some(Json(PART.into())),
        limits: Some(tern_protocol::request::Limits { max_tokens: limit, ..Default::default() }),
        ..Ask::new(Kind::Extract)
    };
    for (limit, finish) in [(Some(80), Finish::StopToken), (Some(3), Finish::MaxTokens)] {
        let mut request = Request::new(client.new_id());
        request.ask = Some(ask(limit));
        request.text = Some("fan 2 stopped".into());
        let text = written(client.ask(&request, |_| Ok(())).expect("it answers"));
        assert_eq!(text.finish, finish, "{text:?}");
        if finish == Finish::StopToken {
            let value: Value = serde_json::from_str(&text.text).expect("JSON");
            assert!(value["part"].is_string() && value["bad"].is_boolean(), "{value}");
            assert!(text.text.starts_with("{\"part\":\""), "compact, in the order of the schema: {value}");
        }
    }
    // Requests with and without a schema, side by side.
    let free = Generate { max_tokens: Some(5), ..Generate::new("usb".into()) };
    let request = generate(&mut client, free.clone());
    let before = written(client.ask(&request, |_| Ok(())).expect("it answers")).text;
    let request = generate(&mut client, free);
    assert_eq!(written(client.ask(&request, |_| Ok(())).expect("it answers")).text, before);
    drop(client);
    server.stop();
}

#[test]
fn what_cannot_be_kept_is_refused_before_it_is_queued() {
    let (_folder, server, mut client) = start();
    let with = |schema: &str| Generate { schema: Some(Json(schema.into())), ..Generate::new("x".into()) };
    let cases = [
        (with(r#"{"properties":{"a":{"uniqueItems":true}}}"#), "at #/properties/a: \"uniqueItems\""),
        (with("{"), "not JSON"),
        (with(r#"{"type":"integer","minimum":5,"maximum":4}"#), "cannot be kept"),
        (with(r#"{"type":"string","pattern":"(?=x)"}"#), "cannot be kept"),
        (Generate { logprobs: Some(21), ..Generate::new("x".into()) }, "logprobs is 21; it must be 0 to 20"),
        (
            Generate {
                sampling: Some(Sampling { stop: Some(vec!["}".into()]), ..Sampling::default() }),
                ..with("{}")
            },
            "leave out stop or schema",
        ),
    ];
    for (wrong, expected) in cases {
        let request = generate(&mut client, wrong);
        let message = refused(&mut client, &request);
        assert!(message.contains(expected), "{message}");
    }
    let mut request = Request::new(client.new_id());
    request.ask = Some(Ask { instructions: Some("x".into()), ..Ask::new(Kind::Extract) });
    request.text = Some("x".into());
    assert!(refused(&mut client, &request).contains("a task of kind extract needs schema"));
    drop(client);
    server.stop();
}

#[test]
fn log_probabilities_come_with_the_text_whole_or_as_it_appears() {
    let (_folder, server, mut client) = start();
    let wanted = Generate { max_tokens: Some(12), logprobs: Some(3), ..Generate::new("usb 1-1: ".into()) };
    let request = generate(&mut client, wanted.clone());
    let whole = written(client.ask(&request, |_| Ok(())).expect("it answers"));
    let told = whole.logprobs.expect("they were asked for");
    assert_eq!(told.len(), whole.usage.generated_tokens as usize);
    assert_eq!(told.iter().map(|token| token.token.as_str()).collect::<String>(), whole.text);
    for token in &told {
        // Greedy: the chosen token is the most probable one.
        assert_eq!((token.top.len(), &token.top[0].token), (3, &token.token));
        assert_eq!(token.top[0].logprob, token.logprob);
        assert!(token.logprob <= 0.0 && token.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
    }
    let mut streamed: Vec<Chosen> = Vec::new();
    let request = Request { stream: true, ..generate(&mut client, wanted) };
    let mut text = String::new();
    client.send(&request).expect("it is sent");
    let last = loop {
        match client.receive().expect("it answers") {
            Answer::Token(token) => {
                text.push_str(&token.text);
                streamed.extend(token.logprobs.expect("they were asked for"));
            }
            last => break written(last),
        }
    };
    assert_eq!((text, last.logprobs, streamed), (whole.text, None, told));
    // Without the field nothing is told.
    let request = generate(&mut client, Generate { max_tokens: Some(3), ..Generate::new("usb".into()) });
    assert_eq!(written(client.ask(&request, |_| Ok(())).expect("it answers")).logprobs, None);
    drop(client);
    server.stop();
}
