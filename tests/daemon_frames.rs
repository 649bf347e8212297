//! Frames on the daemon's socket, beside lines: the same answers, the same limits, the same errors.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use embedded_io::Write;
use serde_json::json;
use tern_protocol::answer::{Failure, Finish, Reason};
use tern_protocol::client::Client;
use tern_protocol::frame::encode;
use tern_protocol::request::{Ask, Chat, Generate, Kind, Message, Role};
use tern_protocol::storage::{Borrowed, Fixed};
use tern_protocol::{Answer, Request};
use tern_tests::daemon::Daemon;
use tern_tests::port::Port;

type Room = Fixed<2048, 32>;
type Framed = Client<Port, 8192>;

fn stream(daemon: &Daemon) -> UnixStream {
    UnixStream::connect(daemon.socket()).expect("the daemon takes clients")
}

fn framed(daemon: &Daemon) -> Framed {
    Client::new(Port::new(stream(daemon), Duration::from_secs(60)))
}

/// The same client again, after `bytes` on the wire.
fn after(client: Framed, bytes: &[u8]) -> Framed {
    let mut port = client.into_inner();
    port.write_all(bytes).expect("the daemon reads");
    Client::new(port)
}

/// Waits for an error without an id, about something that could not be read.
#[track_caller]
fn refused(client: &mut Framed, code: u16, words: &str) {
    match client.receive::<Room>() {
        Ok(Answer::Error(Failure { id: None, code: found, message, .. })) if found == code => {
            assert!(message.contains(words), "{words:?} in {message:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn works(client: &mut Framed) {
    let mut request = Request::<Borrowed>::new("works");
    request.status = true;
    let answer = client.ask::<_, Room>(&request, 1);
    assert!(matches!(answer, Ok(Answer::Status(_))), "{answer:?}");
}

#[test]
fn every_kind_of_request_is_answered_as_in_json() {
    let daemon = Daemon::start("");
    let (mut client, mut peer) = (framed(&daemon), daemon.connect());
    let text = "sdhci-bcm-kona: Error: sd host is stuck in reset!!!";
    let mut both = |request: Request<Borrowed>| {
        peer.send(&serde_json::to_string(&request).expect("it is JSON"));
        let line = peer.last(request.id);
        (client.ask::<_, Room>(&request, 1).expect("an answer"), line)
    };
    let (answer, line) = both(Request::task("task", "log-severity", text));
    let Answer::Decision(decision) = answer else { panic!("{answer:?}") };
    // Through text, where a number has as many digits as it needs.
    let as_line = serde_json::to_string(&decision.probabilities).expect("it is JSON");
    let as_line: serde_json::Value = serde_json::from_str(&as_line).expect("it is JSON");
    assert_eq!(as_line, line["probabilities"], "{line}");
    assert_eq!(
        json!([decision.label, decision.model, decision.task]),
        json!([line["label"], line["model"], line["task"]])
    );
    let mut request = Request::new("ask");
    let score = Ask { instructions: Some("How bad?"), min: Some(-2), max: Some(2), ..Ask::new(Kind::Score) };
    (request.ask, request.text) = (Some(score), Some(text));
    let (answer, line) = both(request);
    let Answer::Decision(decision) = answer else { panic!("{answer:?}") };
    assert_eq!(serde_json::to_string(&decision.value).expect("it is JSON"), line["value"].to_string());
    let mut request = Request::new("generate");
    request.generate = Some(Generate { max_tokens: Some(5), ..Generate::new("Once") });
    let (answer, line) = both(request);
    let Answer::Text(end) = answer else { panic!("{answer:?}") };
    assert_eq!((json!(end.text), end.usage.generated_tokens), (line["text"].clone(), 5), "{line}");
    assert_eq!((end.finish, line["finish"].as_str()), (Finish::MaxTokens, Some("max_tokens")));
    let mut request = Request::new("chat");
    let message = Message { role: Role::User, content: "Hello" };
    request.chat = Some(Chat { max_tokens: Some(3), ..Chat::new([message].into_iter().collect()) });
    let (answer, line) = both(request);
    let Answer::Text(end) = answer else { panic!("{answer:?}") };
    assert_eq!(json!(end.text), line["text"]);
    let (answer, line) = both(Request::task("unknown", "no-such-task", text));
    let Answer::Error(failure) = answer else { panic!("{answer:?}") };
    assert_eq!(json!([failure.id, failure.code, failure.message]), json!(["unknown", 404, line["message"]]));
}

#[test]
fn text_is_streamed_and_can_be_cancelled() {
    let daemon = Daemon::talker("");
    let mut client = framed(&daemon);
    let mut request = Request::<Borrowed>::new("1");
    request.generate = Some(Generate::new("Hello"));
    request.stream = true;
    client.send(&request).expect("the daemon reads");
    assert!(matches!(client.receive::<Room>(), Ok(Answer::Token(token)) if token.id == "1"));
    let mut cancel = Request::<Borrowed>::new("2");
    cancel.cancel = Some("1");
    client.send(&cancel).expect("the daemon reads");
    let mut last = Vec::new();
    while last.len() < 2 {
        match client.receive::<Room>().expect("an answer") {
            Answer::Token(_) => {}
            Answer::Error(failure) => last.push((failure.id.expect("it has one"), failure.code)),
            Answer::Cancelled(answer) => last.push((answer.id, 0)),
            other => panic!("{other:?}"),
        }
    }
    last.sort();
    assert_eq!(last, [("1".try_into().expect("short"), 499), ("2".try_into().expect("short"), 0)]);
}

#[test]
fn what_is_damaged_too_long_or_of_another_version_is_refused_and_the_next_frame_is_read() {
    let daemon = Daemon::talker("[limits]\nline_bytes = 600");
    let mut client = framed(&daemon);
    works(&mut client);
    let mut buffer = [0; 4096];
    let good =
        encode(&Request::<Borrowed>::task("1", "log-severity", "fan stopped"), &mut buffer).expect("it fits");
    let mut changed = good.to_vec();
    changed[12] ^= 4;
    client = after(client, &changed);
    refused(&mut client, 400, "a damaged frame");
    // A version and nothing else, with the right checksum.
    client = after(client, &[6, 3, 0x37, 0xbe, 0x0b, 0x4b, 0]);
    refused(&mut client, 400, "a frame of version 3; this side speaks 2");
    client = after(client, &[b'x'; 700]);
    client = after(client, &[0]);
    refused(&mut client, 413, "a frame of more than 600 bytes (limits.line_bytes)");
    // An answer is no request.
    let mut buffer = [0; 64];
    let failure = Failure::<Borrowed> {
        id: Some("1"),
        code: 400,
        reason: Reason::BadRequest,
        message: "no",
        retry_after_ms: None,
    };
    client = after(client, encode(&Answer::Error(failure), &mut buffer).expect("it fits"));
    refused(&mut client, 400, "no message of the expected kind");
    let mut nameless = Request::<Borrowed>::new("");
    nameless.status = true;
    client = after(client, encode(&nameless, &mut [0; 64]).expect("it fits"));
    refused(&mut client, 400, "the id has 0 bytes");
    works(&mut client);
    // JSON on a connection of frames is damage too.
    client = after(client, b"{\"id\":\"1\",\"status\":true}\n\0");
    refused(&mut client, 400, "a damaged frame");
    works(&mut client);
}

#[test]
fn a_frame_that_is_not_finished_ends_the_connection() {
    let daemon = Daemon::talker("[limits]\nline_ms = 50");
    let mut client = after(framed(&daemon), &[0, 7, 7]);
    refused(&mut client, 400, "not finished within 50 ms (limits.line_ms); end it with 00");
    assert!(client.receive::<Room>().is_err());
}

#[test]
fn whoever_is_turned_away_is_told_in_its_own_form() {
    let daemon = Daemon::talker("[limits]\nclients = 1");
    // The connection that looked whether the daemon is up may not have been noticed to be gone.
    let mut first = framed(&daemon);
    let mut status = Request::<Borrowed>::new("1");
    status.status = true;
    while !matches!(first.ask::<_, Room>(&status, 1), Ok(Answer::Status(_))) {
        first = framed(&daemon);
    }
    let mut second = framed(&daemon);
    second.send(&status).expect("the daemon reads");
    refused(&mut second, 429, "limits.clients");
    daemon.connect().refused(None, 429, &["limits.clients"]);
    works(&mut first);
}

#[test]
fn answers_wait_in_frames_as_they_do_in_lines() {
    let daemon = Daemon::talker("[limits]\nunread_bytes = 4096");
    let mut deaf = stream(&daemon);
    let mut request = Request::<Borrowed>::new("1");
    request.status = true;
    let mut buffer = [0; 64];
    let frame = encode(&request, &mut buffer).expect("it fits");
    deaf.write_all(&[0]).expect("the daemon reads");
    let began = std::time::Instant::now();
    while deaf.write_all(frame).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(30), "it may go on for ever");
    }
    works(&mut framed(&daemon));
}
