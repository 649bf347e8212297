//! Faults in what a sender says beside its text: properties and fields at and beyond their limits, topics of odd names,
//! times that are none. Each is answered once, with its reason, and the next request is served.

use serde_json::{Value, json};
use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::mqtt_daemon::{asking, severity, start, topic};
use tern_tests::mqtt_peer::{Note, Peer};

/// Asks, and checks the status of the answer and what it says.
#[track_caller]
fn answered(me: &mut Peer, request: &Note, status: &str, words: &str) -> Note {
    me.publish(request);
    let answer = me.receive();
    let text = String::from_utf8_lossy(&answer.payload);
    assert_eq!(answer.property("status"), Some(status), "{text}");
    assert!(text.contains(words), "{words:?} in {text}");
    answer
}

fn works(me: &mut Peer, daemon: &Daemon) {
    answered(me, &severity("works", "link up"), "200", "log-severity");
    assert_eq!(daemon.status()["state"], "ready");
}

#[test]
fn properties_may_be_as_long_as_they_can_be() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", "");
    let mut me = asking(&broker);
    // Two names that differ at their last byte alone are two requests.
    let [one, two] = [1, 2].map(|last| [vec![0xaa; 60_000], vec![last]].concat());
    for name in [&one, &two, &Vec::new()] {
        let request = Note { correlation: Some(name.clone()), ..severity("", "fan stopped") };
        let answer = answered(&mut me, &request, "200", "log-severity");
        assert_eq!(answer.correlation.as_ref().map(Vec::len), Some(name.len()));
        assert!(answer.correlation == Some(name.clone()), "the correlation data came back changed");
    }
    assert_eq!(daemon.status()["requests"]["answered"], 3);
    // A topic that no answer is sent to, as long as it may be; the operator is told, and not in as many words.
    me.subscribe("tern/pi/unanswerable/response");
    let request = Note { response_topic: Some("x".repeat(60_000)), ..severity("far", "fan stopped") };
    assert!(answered(&mut me, &request, "400", "no topic for an answer").payload.len() < 4000);
    // Kinds of content that nobody knows.
    for kind in ["image/png", "application/cbor", "", "\u{1f4a5}; charset=none"] {
        let request =
            Note { content_type: Some(kind.into()), ..severity(&format!("kind {kind}"), "fan stopped") };
        answered(&mut me, &request, "200", "log-severity");
    }
    let request = Note { expiry_s: Some(u32::MAX), ..severity("for ever", "fan stopped") };
    assert!(
        answered(&mut me, &request, "200", "log-severity").expiry_s.is_some_and(|left| left > u32::MAX - 9)
    );
    works(&mut me, &daemon);
}

#[test]
fn fields_that_make_no_sense_are_named() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", "");
    let mut me = asking(&broker);
    let ask = |field: &str, value: &str| {
        let body = format!(r#"{{"text":"fan stopped","{field}":{value}}}"#);
        Note::request(&topic("pi", "log-severity"), &body, "me/answers", &format!("{field} {value}"))
    };
    for (field, values) in [
        ("ttl_s", &["-1", "\"soon\"", "[]", "{}"][..]),
        ("deadline_ms", &["-1", "1e99", "4294967296", "0.5"]),
        ("max_joules", &["-1", "0", "\"much\""]),
        ("id", &["[]", "7", "{}"]),
        ("field", &["\"no pointer\"", "3"]),
        ("text", &["3", "null"]),
        ("stream", &["true"]),
        ("cancel", &["\"x\""]),
    ] {
        for value in values {
            answered(&mut me, &ask(field, value), "400", "");
        }
    }
    // Far beyond any clock.
    for ttl in ["1e300", "18446744073709551615", "1e-300"] {
        let request = ask("ttl_s", ttl);
        me.publish(&request);
        if ttl != "1e-300" {
            let answer = me.receive();
            assert!(matches!(answer.property("status"), Some("200" | "400")), "{ttl}: {answer:?}");
        }
    }
    works(&mut me, &daemon);
}

#[test]
fn topics_of_odd_names_are_told_apart_from_tasks() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", "");
    let mut me = asking(&broker);
    for task in ["", " ", "\u{3c0}", "log-severity ", "LOG-SEVERITY", "..", "%2e", &"x".repeat(60_000)] {
        let request =
            Note { topic: topic("pi", task), ..severity(&format!("task {task:.9}"), "fan stopped") };
        let answer = answered(&mut me, &request, "404", "log-severity");
        assert!(answer.payload.len() < 4000, "{} bytes say that there is no such task", answer.payload.len());
    }
    // Two requests under one name on two topics are two requests.
    answered(&mut me, &severity("same", "fan stopped"), "200", "log-severity");
    let other = Note { topic: topic("pi", "log-subsystem"), ..severity("same", "fan stopped") };
    answered(&mut me, &other, "200", "log-subsystem");
    let ask: Value = json!({"ask": {"kind": "choice", "instructions": "\u{0}", "labels": ["\u{0}", "\u{1f4a5}"]},
        "text": "\u{feff}\u{202e}\u{0}"});
    let request = Note::request(&topic("pi", "ask"), &ask.to_string(), "me/answers", "control");
    answered(&mut me, &request, "200", "probabilities");
    works(&mut me, &daemon);
}
