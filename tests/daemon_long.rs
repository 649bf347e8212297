//! Texts longer than the context, with real models.

use serde_json::{Value, json};
use tern_tests::daemon::{Daemon, Peer};

/// A context that holds a paragraph.
const SMALL: &str = "[model]\ncontext_tokens = 192\nslots = 3\n";

/// Descriptions of programs that do not exist, about 40 tokens each.
fn document(paragraphs: usize) -> String {
    let things = ["clock", "editor", "mail server", "disk checker", "terminal", "font viewer", "proxy"];
    let what = |number: usize| {
        let thing = things[number % things.len()];
        format!(
            "Tool{number} is a small {thing} for the command line. It can be configured with a text file. \
             It needs no other {thing} and was written by {number} people.\n\n"
        )
    };
    (0..paragraphs).map(what).collect()
}

fn ask(peer: &mut Peer, request: Value) -> Value {
    peer.send(&request.to_string());
    peer.receive()
}

fn number(answer: &Value, group: &str, field: &str) -> u64 {
    answer[group][field].as_u64().unwrap_or_else(|| panic!("{group}.{field} in {answer}"))
}

#[test]
fn a_long_text_becomes_one_line_and_its_usage_is_all_there_was() {
    let daemon = Daemon::start(SMALL);
    let mut peer = daemon.connect();
    let text = document(60);
    assert!(text.len() > 8000);
    let whole = ask(&mut peer, json!({"id": "1", "task": "summarize", "text": text}));
    assert_eq!(
        (&whole["type"], &whole["id"], &whole["task"]),
        (&json!("text"), &json!("1"), &json!("summarize"))
    );
    assert!(whole["text"].as_str().is_some_and(|text| !text.is_empty() && text.len() < 400), "{whole}");
    assert!(["stop_token", "max_tokens"].contains(&whole["finish"].as_str().expect("text")), "{whole}");
    let status = daemon.status();
    for (of_answer, of_daemon) in [("prompt_tokens", "prompt"), ("generated_tokens", "generated")] {
        assert_eq!(
            number(&whole, "usage", of_answer),
            number(&status, "tokens", of_daemon),
            "{whole} {status}"
        );
    }
    // Everything was read, and the answers to the parts too.
    assert!(number(&whole, "usage", "prompt_tokens") > 60 * 35, "{whole}");
    assert_eq!((number(&status, "requests", "answered"), &status["live"]), (1, &json!(0)));
    let usage = &whole["usage"];
    assert!(usage["prompt_tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{whole}");
    assert!(usage["queue_ms"].as_f64().is_some_and(|ms| ms < 10_000.0), "{whole}");

    // The same again, streamed: only the last round is seen, and parts at once change nothing.
    peer.send(&json!({"id": "2", "task": "summarize", "text": text, "stream": true}).to_string());
    let mut streamed = String::new();
    let again = loop {
        let answer = peer.receive();
        match answer["type"].as_str() {
            Some("token") => streamed += answer["text"].as_str().expect("text"),
            _ => break answer,
        }
    };
    assert_eq!((&again["text"], again["text"].as_str()), (&whole["text"], Some(streamed.as_str())));
}

#[test]
fn a_text_that_fits_is_asked_as_ever() {
    let daemon = Daemon::start(SMALL);
    let mut peer = daemon.connect();
    let text = document(1);
    let mut plain =
        json!({"kind": "text", "instructions": "Summarize in one line.", "limits": {"max_tokens": 48}});
    let without = ask(&mut peer, json!({"id": "1", "ask": plain, "text": text}));
    plain["long"] = json!("map_reduce");
    let with = ask(&mut peer, json!({"id": "1", "ask": plain, "text": text}));
    assert_eq!((&with["text"], &with["finish"]), (&without["text"], &without["finish"]));
    assert_eq!(with["usage"]["prompt_tokens"], without["usage"]["prompt_tokens"]);
    // What does not fit is refused as before by a task that does not say `long`.
    plain.as_object_mut().expect("an object").remove("long");
    let refused = ask(&mut peer, json!({"id": "1", "ask": plain, "text": document(20)}));
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(413), &json!("too_large")));
}

#[test]
fn scripts_without_spaces_and_giant_words_are_cut_too() {
    let daemon = Daemon::start(SMALL);
    let mut peer = daemon.connect();
    let texts = [
        "\u{6f22}\u{5b57}\u{3068}\u{304b}\u{306a}".repeat(80),
        "x".repeat(4000),
        "\u{1f469}\u{200d}\u{1f680}".repeat(100),
        format!("{}\r\n", "=".repeat(70)).repeat(100),
        " ".repeat(30_000) + "one word",
    ];
    for text in texts {
        let limits = json!({"max_tokens": 4});
        let task = json!({"kind": "text", "instructions": "Sum up.", "long": "map_reduce", "limits": limits});
        let answer = ask(&mut peer, json!({"id": "1", "ask": task, "text": text}));
        assert_eq!(answer["type"], "text", "{answer}");
    }
}

#[test]
fn what_would_cost_too_much_is_refused_with_the_figure() {
    let daemon = Daemon::start(SMALL);
    let mut peer = daemon.connect();
    let limits = json!({"max_tokens": 16, "long_tokens": 1000});
    let task = json!({"kind": "text", "instructions": "Sum up.", "long": "map_reduce", "limits": limits});
    let refused = ask(&mut peer, json!({"id": "1", "ask": task, "text": document(60)}));
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(413), &json!("too_large")));
    let message = refused["message"].as_str().expect("text");
    assert!(message.contains("limits.long_tokens of the task allows 1000"), "{message}");
    assert_eq!(number(&daemon.status(), "tokens", "prompt"), 0);
    // The same task takes a shorter one.
    let answer = ask(&mut peer, json!({"id": "1", "ask": task, "text": document(8)}));
    let usage = &answer["usage"];
    let spent = usage["prompt_tokens"].as_u64().expect("a number")
        + usage["generated_tokens"].as_u64().expect("a number");
    assert!((8 * 35..=1000).contains(&spent), "{answer}");
}

/// A request that takes the slow talking model far longer than any test.
fn endless() -> Value {
    let limits = json!({"max_tokens": 60, "long_tokens": 4_000_000});
    let task = json!({"kind": "text", "instructions": "Go on.", "long": "map_reduce", "limits": limits});
    json!({"id": "long", "ask": task, "text": document(300)})
}

#[test]
fn cancelling_ends_it_in_the_middle() {
    let daemon = Daemon::talker("");
    let mut peer = daemon.connect();
    peer.send(&endless().to_string());
    daemon.status_when(|status| number(status, "tokens", "generated") > 0);
    peer.send(r#"{"id":"stop","cancel":"long"}"#);
    let answers = [peer.receive(), peer.receive()];
    let of = |id: &str| answers.iter().find(|answer| answer["id"] == id).expect("both are answered");
    assert_eq!((&of("long")["code"], &of("stop")["type"]), (&json!(499), &json!("cancelled")));
    let status = daemon.status_when(|status| status["live"] == 0 && status["queue"] == 0);
    assert_eq!((number(&status, "requests", "cancelled"), number(&status, "requests", "answered")), (1, 0));
    // The id is free again.
    peer.send(r#"{"id":"stop","cancel":"long"}"#);
    assert_eq!(peer.receive()["code"], 404);
}

#[test]
fn the_deadline_is_that_of_the_whole() {
    let daemon = Daemon::talker("");
    let mut peer = daemon.connect();
    let mut request = endless();
    request["deadline_ms"] = json!(700);
    let late = ask(&mut peer, request);
    assert_eq!((&late["id"], &late["code"]), (&json!("long"), &json!(408)));
    assert!(late["message"].as_str().is_some_and(|message| message.contains("700 ms")), "{late}");
    let status = daemon.status_when(|status| status["live"] == 0 && status["queue"] == 0);
    assert_eq!(number(&status, "requests", "expired"), 1);
}

#[test]
fn others_get_their_turn_and_a_client_that_hangs_up_is_forgotten() {
    let daemon = Daemon::talker("");
    let mut greedy = daemon.connect();
    greedy.send(&endless().to_string());
    daemon.status_when(|status| number(status, "tokens", "generated") > 0);
    let mut modest = daemon.connect();
    let answer = ask(&mut modest, json!({"id": "1", "generate": {"prompt": "Hello", "max_tokens": 2}}));
    assert_eq!(answer["type"], "text");
    drop(greedy);
    let status = daemon.status_when(|status| status["live"] == 0 && status["queue"] == 0);
    assert_eq!(number(&status, "requests", "answered"), 1);
    daemon.status_when(|status| number(status, "requests", "cancelled") == 1);
}

#[test]
fn a_daemon_that_is_told_to_stop_does_not_wait_for_it() {
    let mut daemon = Daemon::talker("[limits]\nstop_ms = 200");
    let mut peer = daemon.connect();
    peer.send(&endless().to_string());
    daemon.status_when(|status| number(status, "tokens", "generated") > 0);
    daemon.signal("TERM");
    let stopped = peer.receive();
    assert_eq!((&stopped["id"], &stopped["code"]), (&json!("long"), &json!(503)));
    assert_eq!(daemon.wait().code, Some(0));
}
