//! `[[digest]]` at a real broker, as `docs/mqtt.md` describes it: windows, what ends them, and that nothing is lost.

use std::time::Duration;

use serde_json::json;
use tern_tests::broker::Broker;
use tern_tests::fill::Random;
use tern_tests::mqtt_daemon::{start, start_in};
use tern_tests::mqtt_peer::{Note, Peer};

/// Longer than a window of a second takes to end.
const TWO_WINDOWS: Duration = Duration::from_millis(2500);

/// A digest of `site/+/log` to `digest/pi`.
fn digest(more: &str) -> String {
    format!("[[digest]]\ntopic = 'site/+/log'\nanswer = 'digest/{{device}}'\n{more}\n")
}

/// Somebody who reads digests and writes logs.
fn plant(broker: &Broker) -> Peer {
    let mut plant = broker.peer("plant");
    plant.subscribe("digest/#");
    plant
}

fn log(plant: &mut Peer, site: &str, text: &str) {
    plant.publish(&Note::new(&format!("site/{site}/log"), text));
}

/// Messages in a digest, and those dropped.
#[track_caller]
fn counts(digest: &Note) -> (u64, u64) {
    assert_eq!(digest.property("status"), Some("200"), "{digest:?}");
    assert_eq!(digest.json()["type"], "text", "{digest:?}");
    let count = |name| digest.property(name).and_then(|count| count.parse().ok()).expect("a number");
    (count("messages"), count("dropped"))
}

#[test]
fn a_window_ends_with_its_last_message_and_is_one_answer() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", &digest("messages = 3\nexpiry_s = 60\nretain = true"));
    let mut plant = plant(&broker);
    for site in ["a", "b"] {
        log(&mut plant, site, "pump stopped");
    }
    assert_eq!(plant.next(Duration::from_millis(300)), None);
    log(&mut plant, "a", "pump runs");
    let first = plant.receive();
    assert_eq!((first.topic.as_str(), counts(&first)), ("digest/pi", (3, 0)));
    assert_eq!(first.content_type.as_deref(), Some("application/json"));
    assert!(first.expiry_s.is_some_and(|left| (50..=60).contains(&left)), "{first:?}");
    assert!(first.name().starts_with("digest-") && first.json()["id"] == first.name().as_str(), "{first:?}");
    assert_eq!((&first.json()["task"], first.property("device")), (&json!("summarize"), Some("pi")));
    // The task was asked about lines with their topics.
    let mut socket = daemon.connect();
    let text = "site/a/log: pump stopped\nsite/b/log: pump stopped\nsite/a/log: pump runs\n";
    socket.send(&json!({"id": "1", "task": "summarize", "text": text}).to_string());
    let same = socket.receive();
    assert_eq!(same["text"], first.json()["text"]);
    assert_eq!(same["usage"]["prompt_tokens"], first.json()["usage"]["prompt_tokens"]);
    // The same messages again are another window.
    for text in ["pump stopped", "pump stopped", "pump runs"] {
        log(&mut plant, "a", text);
    }
    let second = plant.receive();
    assert_eq!(counts(&second), (3, 0));
    assert_ne!(second.name(), first.name());
    // It was kept for those who come later.
    let mut late = broker.peer("late");
    late.subscribe("digest/pi");
    let kept = late.receive();
    assert!(kept.retain && kept.payload == second.payload, "{kept:?}");
}

#[test]
fn a_window_ends_with_its_time_and_an_empty_one_is_silent() {
    let broker = Broker::start();
    let _daemon = start(&broker, "pi", &digest("every_s = 1\nmessages = 100"));
    let mut plant = plant(&broker);
    for text in ["fan slow", "fan stopped"] {
        log(&mut plant, "a", text);
    }
    assert_eq!(counts(&plant.receive()), (2, 0));
    assert_eq!(plant.next(TWO_WINDOWS), None);
    log(&mut plant, "a", "fan runs");
    assert_eq!(counts(&plant.receive()), (1, 0));
}

#[test]
fn a_daemon_killed_in_the_middle_of_windows_loses_no_message() {
    let broker = Broker::start();
    let config = digest("messages = 12");
    let mut daemon = start(&broker, "pi", &config);
    let mut plant = plant(&broker);
    let mut random = Random::new(7);
    for round in 0..4 {
        for line in 0..12 {
            log(&mut plant, "a", &format!("round {round}, line {line}"));
            if line % 4 == 3 {
                // At any moment: of a message that is not on disk the broker has not been told.
                std::thread::sleep(Duration::from_micros(random.below(3000) as u64));
                daemon = start_in(daemon.kill(), &broker, "pi", &config);
            }
        }
    }
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 4 {
        let digest = plant.receive();
        assert_eq!(counts(&digest), (12, 0));
        names.insert(digest.name());
    }
    // The same answer may come twice, but no message was in two windows, which would make a fifth.
    while let Some(again) = plant.next(Duration::from_millis(500)) {
        assert!(names.contains(&again.name()), "{again:?}");
    }
    drop(daemon);
}

#[test]
fn what_is_too_much_or_unreadable_is_dropped_and_counted() {
    let broker = Broker::start();
    let more = "messages = 21\nmax_bytes = 256\nformat = 'json'\nfield = '/message'";
    let daemon = start(&broker, "pi", &digest(more));
    let mut plant = plant(&broker);
    log(&mut plant, "a", "not JSON");
    for number in 0..20 {
        log(&mut plant, "a", &json!({"message": format!("valve {number:02} is stuck")}).to_string());
    }
    // "site/a/log: valve 19 is stuck" and a line end are 30 bytes.
    let digest = plant.receive();
    assert_eq!(counts(&digest), (8, 13));
    let text: String = (12..20).map(|number| format!("site/a/log: valve {number:02} is stuck\n")).collect();
    let mut socket = daemon.connect();
    socket.send(&json!({"id": "1", "task": "summarize", "text": text}).to_string());
    assert_eq!(socket.receive()["text"], digest.json()["text"]);
}

#[test]
fn each_topic_may_have_its_own_windows_beside_watches_of_it() {
    let broker = Broker::start();
    let digests = "[[digest]]\ntopic = 'site/+/log'\nanswer = 'digest/{topic}'\nby = 'topic'\nmessages = 2\n";
    let watch = "[[watch]]\ntopic = 'site/a/log'\ntask = 'log-severity'\nanswer = 'graded/{topic}'\n";
    let _daemon = start(&broker, "pi", &format!("{digests}{watch}"));
    let mut plant = plant(&broker);
    let mut graded = broker.peer("graded");
    graded.subscribe("graded/#");
    for site in ["a", "b", "a", "b"] {
        log(&mut plant, site, "door open");
    }
    let mut topics = [plant.receive(), plant.receive()].map(|digest| {
        assert_eq!(counts(&digest), (2, 0));
        digest.topic
    });
    topics.sort();
    assert_eq!(topics, ["digest/site/a/log", "digest/site/b/log"]);
    for _ in 0..2 {
        assert_eq!(graded.receive().json()["type"], "decision");
    }
}

#[test]
fn a_window_longer_than_the_context_is_summarized_in_parts() {
    let broker = Broker::start();
    let more = format!("{}[model]\ncontext_tokens = 192\n", digest("messages = 60"));
    let daemon = start(&broker, "pi", &more);
    let mut plant = plant(&broker);
    for number in 0..60 {
        log(&mut plant, "a", &format!("usb 1-{number}: device not accepting address {number}"));
    }
    let digest = plant.receive();
    assert_eq!(counts(&digest), (60, 0));
    assert!(digest.json()["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 600));
    assert_eq!(daemon.status()["requests"]["answered"], 1);
}

#[test]
fn an_update_computes_only_what_came_since() {
    let broker = Broker::start();
    let _daemon = start(&broker, "pi", &digest("messages = 12\nupdate_messages = 4"));
    let mut plant = plant(&broker);
    let mut before = 0;
    for round in 0..3 {
        for line in 0..4 {
            log(&mut plant, "a", &format!("round {round}: pump {line} stopped, bearing at 81 degrees"));
        }
        let answer = plant.receive();
        assert_eq!(counts(&answer), (4 * (round + 1), 0));
        assert_eq!(answer.property("open"), (round < 2).then_some("true"));
        let json = answer.json();
        let count = |name: &str| json["usage"][name].as_u64().expect("a number");
        let (prompt, cached) = (count("prompt_tokens"), count("cached_tokens"));
        println!("round {round}: {prompt} tokens, {cached} of them kept");
        // The end of the prompt comes behind the text, and the last token of a text may join with what follows.
        assert!(cached + 24 >= before && cached < prompt, "{cached} of {prompt} after {before}");
        before = prompt;
    }
}
