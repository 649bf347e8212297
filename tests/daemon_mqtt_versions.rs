//! Brokers that speak MQTT 3.1.1 only, what it lacks, and how often brokers of either version send a message that
//! several watches take.

use std::collections::BTreeSet;

use serde_json::json;
use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::mqtt_daemon::{SHORT, folder, start, start_in, start_through, topic};
use tern_tests::mqtt_peer::{Note, Peer};
use tern_tests::old_broker::{Manner, OldBroker};

/// A request as senders of 3.1.1 make it.
fn old_request(task: &str, id: &str, text: &str) -> Note {
    let body = json!({"id": id, "reply_to": "old/answers", "ttl_s": 60, "text": text});
    Note::new(&topic("pi", task), body.to_string())
}

fn old_peer(broker: &Broker) -> Peer {
    let mut peer = Peer::connect(broker.port(), "old", 4);
    peer.subscribe("old/answers");
    peer
}

fn log_of(mut daemon: Daemon) -> String {
    daemon.signal("TERM");
    daemon.wait().stderr
}

#[test]
fn a_broker_that_does_not_know_version_5_is_spoken_to_in_3_1_1() {
    for manner in [Manner::Refuses, Manner::HangsUp] {
        let store = folder();
        let mut broker = Broker::start_with(&format!(
            "persistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes true",
            store.path().display()
        ));
        let gate = OldBroker::before(broker.port(), manner);
        let daemon = start_through(folder(), &broker, gate.port(), "pi", "");
        let mut old = old_peer(&broker);
        let request = old_request("log-subsystem", "a1", "eth0: link is down");
        old.publish(&request);
        let first = old.receive();
        assert_eq!((&first.json()["id"], &first.json()["type"]), (&json!("a1"), &json!("decision")));
        // The same again is the same answer, also after both have fallen.
        old.publish(&request);
        assert_eq!(old.receive().payload, first.payload);
        let folder = daemon.kill();
        broker.stop();
        broker.restart();
        let daemon = start_through(folder, &broker, gate.port(), "pi", "");
        let mut old = old_peer(&broker);
        old.publish(&request);
        assert_eq!(old.receive().payload, first.payload);
        old.subscribe("tern/pi/status");
        let online = old.receive_where(|note| note.topic == "tern/pi/status").json();
        assert_eq!((&online["state"], &online["protocol"]), (&json!("online"), &json!("3.1.1")));
        let log = log_of(daemon);
        let told = log.matches("does not speak MQTT 5").count();
        assert_eq!(told, 1, "{manner:?}: {log}");
        // Twice at each start, and not again in between.
        assert_eq!(gate.turned_away(), 4, "{manner:?}");
    }
}

#[test]
fn what_a_broker_of_3_1_1_cannot_be_told_is_borne() {
    let broker = Broker::start_with("max_inflight_messages 0");
    let config = "protocol = '3.1.1'\npacket_bytes = 65536\nreceive_maximum = 1\ngroup = 'workers'\n";
    let daemon = start(&broker, "pi", config);
    let mut old = old_peer(&broker);
    old.subscribe("tern/pi/+/response");
    old.publish(&Note::new(&topic("pi", "log-severity"), vec![b'x'; 300_000]));
    let refusal = old.receive();
    assert_eq!(
        (refusal.topic.as_str(), &refusal.json()["code"]),
        ("tern/pi/log-severity/response", &json!(413))
    );
    // Shared subscriptions are there where the broker has them.
    let any = old_request("log-severity", "any", "fan stopped");
    old.publish(&Note { topic: topic("any", "log-severity"), ..any });
    assert_eq!(old.receive().json()["id"], "any");

    // All at once, and far more than may be unacknowledged.
    let folder = daemon.kill();
    let names: BTreeSet<_> = (0..40).map(|number| format!("r{number}")).collect();
    for name in &names {
        old.publish(&old_request("log-severity", name, &format!("fan {name} stopped")));
    }
    let daemon = start_in(folder, &broker, "pi", config);
    let mut answered = BTreeSet::new();
    while answered.len() < names.len() {
        let answer = old.receive().json();
        assert_eq!(answer["type"], "decision", "{answer}");
        answered.insert(answer["id"].as_str().expect("a name").to_owned());
    }
    assert_eq!(answered, names);
    assert_eq!(daemon.status()["requests"]["answered"], 40);
    let log = log_of(daemon);
    assert!(log.contains("the broker sends more than can be held"), "{log}");
}

fn watch(topic: &str, task: &str, answer: &str) -> String {
    format!("[[watch]]\ntopic = '{topic}'\ntask = '{task}'\nanswer = '{answer}'\n")
}

#[test]
fn each_watch_that_takes_a_message_is_served_once() {
    // A broker of MQTT 5 sends a message once for each subscription; in 3.1.1 mosquitto can do either.
    for (protocol, duplicates) in [("5", true), ("3.1.1", true), ("3.1.1", false)] {
        let broker = Broker::start_with(&format!("allow_duplicate_messages {duplicates}"));
        let protocol = format!("protocol = '{protocol}'\ndiscovery = 'home'\n");
        let watches = [
            watch("site/#", "log-severity", "graded/all/{topic}"),
            watch("site/+/log", "log-subsystem", "graded/one/{topic}"),
            watch("site/+/log", "log-severity", "graded/two/{topic}"),
            // These cross.
            watch("a/x/+", "log-severity", "graded/three/{topic}"),
            watch("a/+/b", "log-subsystem", "graded/four/{topic}"),
            // Home Assistant's own topic.
            watch("home/+", "log-severity", "graded/home/{topic}"),
        ];
        let daemon = start(&broker, "pi", &format!("{protocol}{}", watches.concat()));
        let mut me = broker.peer("me");
        me.subscribe("graded/#");
        let mut answers = |topic: &str, qos: u8, expected: &[&str]| {
            match qos {
                0 => drop(me.send(&Note::new(topic, "fan stopped"), 0)),
                _ => me.publish(&Note::new(topic, "fan stopped")),
            }
            let mut found: Vec<_> = expected.iter().map(|_| me.receive().topic).collect();
            found.extend(me.next(SHORT).map(|note| note.topic));
            found.sort();
            assert_eq!(found, expected, "{protocol} with duplicates {duplicates}");
        };
        let all = ["graded/all/site/x/log", "graded/one/site/x/log", "graded/two/site/x/log"];
        answers("site/x/log", 1, &all);
        answers("site/x/log", 0, &all);
        answers("site/y", 1, &["graded/all/site/y"]);
        answers("a/x/b", 1, &["graded/four/a/x/b", "graded/three/a/x/b"]);
        answers("home/status", 1, &["graded/home/home/status"]);
        assert_eq!(daemon.status()["requests"]["answered"], 10);

        // Another configuration: what is not watched any more is not sent any more.
        let folder = daemon.kill();
        let fewer = watch("site/+/log", "log-severity", "graded/two/{topic}");
        let daemon = start_in(folder, &broker, "pi", &format!("{protocol}{fewer}"));
        answers("site/x/log", 1, &["graded/two/site/x/log"]);
        answers("site/y", 1, &[]);
        let log = log_of(daemon);
        assert!(!log.contains("not read any more"), "{log}");
    }
}

#[test]
fn what_is_retained_is_read_once_and_not_at_every_connection() {
    for protocol in ["5", "3.1.1"] {
        let broker = Broker::start();
        let mut me = broker.peer("me");
        me.subscribe("graded/#");
        me.publish(&Note { retain: true, ..Note::new("site/x", "fan stopped") });
        let config =
            format!("protocol = '{protocol}'\n{}", watch("site/+", "log-severity", "graded/{topic}"));
        let mut daemon = start(&broker, "pi", &config);
        assert_eq!(me.receive().topic, "graded/site/x");
        // The session's subscriptions are known to stand only when the broker has said so.
        me.publish(&Note::new("site/y", "link up"));
        assert_eq!(me.receive().topic, "graded/site/y");
        daemon.signal("TERM");
        assert_eq!(daemon.wait().code, Some(0));
        let _daemon = start_in(daemon.kill(), &broker, "pi", &config);
        assert_eq!(me.next(SHORT), None, "version {protocol}");
    }
}
