//! The daemon at a real broker, as `docs/mqtt.md` describes it, and what must not be lost when either of them falls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;
use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::fill::Random;
use tern_tests::model::bundled_name;
use tern_tests::mqtt_daemon::{Answers, SHORT, asking, severity, slow_model, start, start_in, topic};
use tern_tests::mqtt_peer::{Note, PATIENCE, Peer};

/// A daemon whose answers take long: it talks until its context is full.
fn start_slow(broker: &Broker, device: &str) -> Daemon {
    start(broker, device, &slow_model())
}

#[test]
fn an_answer_goes_where_it_is_wanted_with_all_that_belongs_to_it() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", "group = 'workers'\n");
    let mut me = asking(&broker);
    me.publish(&Note { expiry_s: Some(60), ..severity("n-1", "usb 1-1: device not accepting address 5") });
    let answer = me.receive();
    let body = answer.json();
    assert_eq!((&body["type"], &body["id"]), (&json!("decision"), &json!("n-1")), "{body}");
    assert_eq!((answer.topic.as_str(), answer.name().as_str()), ("me/answers", "n-1"));
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    assert_eq!((answer.property("status"), answer.property("device")), (Some("200"), Some("pi")));
    assert_eq!(answer.property("model"), body["model"].as_str());
    assert_eq!(answer.property("energy_joules").is_some(), body["energy"]["joules"].is_number());
    assert!(answer.expiry_s.is_some_and(|left| (55..=60).contains(&left)), "{answer:?}");
    assert!(!answer.retain);

    // To any device of the group.
    me.publish(&Note { topic: topic("any", "log-severity"), ..severity("n-2", "link up") });
    assert_eq!(me.receive().name(), "n-2");
    // Every kind of request, as the socket has them; binary correlation data; no wish for the answer's place.
    let ask =
        json!({"ask": {"kind": "yes_no", "instructions": "Does this need a person?"}, "text": "fan stopped"});
    let correlation = Some(vec![0, 159, 146, 150]);
    let mut request = Note::request(&topic("pi", "ask"), &ask.to_string(), "me/answers", "");
    request.correlation.clone_from(&correlation);
    me.publish(&request);
    let answer = me.receive();
    assert_eq!((answer.correlation.clone(), &answer.json()["id"]), (correlation, &json!("009f9296")));
    assert!(answer.json()["value"].is_boolean(), "{answer:?}");
    me.subscribe("tern/pi/+/response");
    me.publish(&Note::new(&topic("pi", "status"), ""));
    let answer = me.receive();
    assert_eq!(
        (answer.topic.as_str(), &answer.json()["type"]),
        ("tern/pi/status/response", &json!("status"))
    );

    // The same decision as over the socket, to the bit.
    let mut socket = daemon.connect();
    socket.send(r#"{"id":"1","task":"log-severity","text":"link up"}"#);
    me.publish(&severity("n-3", "link up"));
    assert_eq!(me.receive().json()["probabilities"], socket.receive()["probabilities"]);
}

#[test]
fn senders_of_version_3_put_into_json_what_they_have_no_properties_for() {
    let broker = Broker::start();
    let _daemon = start(&broker, "pi", "");
    let mut old = Peer::connect(broker.port(), "old", 4);
    old.subscribe("old/answers");
    let request = json!({"id": "a7", "reply_to": "old/answers", "ttl_s": 20, "text": "eth0: link is down"});
    old.publish(&Note::new(&topic("pi", "log-subsystem"), request.to_string()));
    let first = old.receive();
    assert_eq!((&first.json()["id"], &first.json()["type"]), (&json!("a7"), &json!("decision")));
    // The same again is the same answer, byte for byte, with its time.
    old.publish(&Note::new(&topic("pi", "log-subsystem"), request.to_string()));
    assert_eq!(old.receive().payload, first.payload);
    let expired = json!({"id": "a8", "reply_to": "old/answers", "ttl_s": 0, "text": "eth0: link is down"});
    old.publish(&Note::new(&topic("pi", "log-subsystem"), expired.to_string()));
    assert_eq!(old.next(SHORT), None);
}

#[test]
fn a_request_sent_twice_is_run_once_also_after_a_restart() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", "");
    let mut me = asking(&broker);
    let request = severity("once", "thermal zone0: critical temperature reached");
    for _ in 0..3 {
        me.publish(&request);
    }
    let first = me.receive();
    // Those that came while it ran wait for its one answer; later ones get it again.
    me.publish(&request);
    let again = me.receive_where(|note| note.name() == "once");
    assert_eq!(again.payload, first.payload);
    assert_eq!(daemon.status()["requests"]["answered"], 1);
    let folder = daemon.kill();
    let daemon = start_in(folder, &broker, "pi", "");
    while me.next(SHORT).is_some() {}
    me.publish(&request);
    assert_eq!(me.receive().payload, first.payload);
    assert_eq!(daemon.status()["requests"]["answered"], 0);
    // The same name on another text is another request.
    me.publish(&severity("once", "systemd: started"));
    assert_ne!(me.receive().json()["probabilities"], first.json()["probabilities"]);
}

#[test]
fn what_makes_no_sense_is_answered_and_does_not_stop_the_rest() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", "packet_bytes = 65536\n[limits]\ntext_bytes = 1000\n");
    let mut me = asking(&broker);
    me.subscribe("tern/pi/+/response");
    let mut refused = |request: Note, status: &str, words: &str| {
        me.publish(&request);
        let answer = me.receive();
        assert_eq!(answer.property("status"), Some(status), "{answer:?}");
        let body = answer.json();
        assert!(body["message"].as_str().is_some_and(|text| text.contains(words)), "{words:?} in {body}");
        answer
    };
    let raw = |payload: &[u8]| Note { payload: payload.into(), ..severity("x", "") };
    let typed =
        |kind: &str, payload: &str| Note { content_type: Some(kind.into()), ..severity("x", payload) };
    refused(raw(b"ab\xff"), "400", "UTF-8 from byte 2");
    refused(typed("application/json", "{\"text\":"), "400", "not JSON");
    refused(typed("application/senml+json", "[{\"v\":1}]"), "400", "no name");
    refused(severity("x", r#"{"text":"a","txet":"b"}"#), "400", "txet");
    refused(severity("x", r#"{"text":"a","id":7}"#), "400", "id is 7");
    refused(severity("x", &"long ".repeat(300)), "413", "at most 1000");
    refused(Note { topic: topic("pi", "no-such"), ..severity("x", "a") }, "404", "log-severity");
    // An answer that would be a request again, or that no broker may take, goes where an operator sees it.
    for place in ["tern/pi/log-severity/request", "a/+/b", "$SYS/x", ""] {
        let request = Note { response_topic: Some(place.into()), ..severity("x", "a") };
        if place.contains('+') || place.is_empty() {
            // Brokers may refuse to pass it on at all; by JSON it comes for sure.
            let body = json!({"text": "a", "reply_to": place});
            let answer = refused(
                Note::new(&topic("pi", "log-severity"), body.to_string()),
                "400",
                "no topic for an answer",
            );
            assert_eq!(answer.topic, "tern/pi/unanswerable/response");
        } else {
            refused(request, "400", "no topic for an answer");
        }
    }
    // Far too large for the daemon, which has told the broker so: it is not sent, and what follows is.
    me.publish(&Note { payload: vec![b'x'; 10 << 20], ..severity("big", "") });
    me.publish(&severity("small", "link up"));
    assert_eq!(me.receive().name(), "small");
    assert!(daemon.peak_bytes() < 200 << 20, "{} bytes", daemon.peak_bytes());
    assert_eq!(daemon.status()["requests"]["answered"], 1);
}

#[test]
fn what_has_expired_is_not_begun_and_what_expires_is_broken_off() {
    let broker = Broker::start();
    let daemon = start_slow(&broker, "pi");
    let mut me = asking(&broker);
    let talk = |correlation: &str, expiry_s: Option<u32>| Note {
        expiry_s,
        ..Note::request(
            &topic("pi", "generate"),
            r#"{"generate":{"prompt":"Hello"}}"#,
            "me/answers",
            correlation,
        )
    };
    // One slot: the second waits for the first for longer than it is worth something.
    me.publish(&talk("long", None));
    daemon.status_when(|status| status["live"] == 1);
    me.publish(&Note {
        payload: br#"{"ttl_s":0.05,"generate":{"prompt":"Hello"}}"#.to_vec(),
        ..talk("short", None)
    });
    let status = daemon.status_when(|status| status["requests"]["expired"] == 1);
    let answer = me.receive();
    assert_eq!((answer.name().as_str(), answer.property("status")), ("long", Some("200")));
    // Nobody waits for an answer that comes too late; its request runs when it is sent with time enough.
    assert_eq!(me.next(SHORT), None, "{status}");
    me.publish(&talk("short", Some(60)));
    assert_eq!(me.receive().name(), "short");
    // A deadline within the expiry is answered.
    me.publish(&Note {
        payload: br#"{"deadline_ms":30,"generate":{"prompt":"Hello"}}"#.to_vec(),
        ..talk("late", Some(60))
    });
    let answer = me.receive();
    assert_eq!((answer.name().as_str(), answer.property("status")), ("late", Some("408")));
}

#[test]
fn watched_topics_are_classified_as_they_are() {
    let broker = Broker::start();
    let watch = |topic: &str, more: &str| {
        format!(
            "[[watch]]\ntopic = '{topic}'\ntask = 'log-severity'\nanswer = 'graded/{{device}}/{{topic}}'\n{more}\n"
        )
    };
    let config = watch("site/+/log", "field = '/event/message'\nretain = true\nexpiry_s = 100")
        + &watch("sensors/#", "format = 'senml'")
        + &watch("journal/+", "format = 'journal'");
    let daemon = start(&broker, "pi", &config);
    let mut me = broker.peer("me");
    me.subscribe("graded/#");
    let mut socket = daemon.connect();
    let mut same_as = |answer: &Note, text: &str| {
        socket.send(&json!({"id": "1", "task": "log-severity", "text": text}).to_string());
        assert_eq!(answer.json()["probabilities"], socket.receive()["probabilities"], "{answer:?}");
    };
    me.publish(&Note::new("site/press 1/log", r#"{"n":1,"event":{"message":"fan stopped"}}"#));
    let answer = me.receive();
    assert_eq!(
        (answer.topic.as_str(), answer.property("status")),
        ("graded/pi/site/press 1/log", Some("200"))
    );
    assert!(answer.expiry_s.is_some_and(|left| left > 90));
    same_as(&answer, "fan stopped");
    me.publish(&Note::new("sensors/a", r#"[{"bn":"pump:","bu":"Cel"},{"n":"t","v":99.5}]"#));
    same_as(&me.receive(), "pump:t 99.5 Cel");
    me.send(&Note::new("journal/host", r#"{"MESSAGE":"link down","SYSLOG_IDENTIFIER":"dhcpcd"}"#), 0);
    same_as(&me.receive(), "dhcpcd: link down");
    // A message that does not hold what the watch looks for is told where the answers go.
    me.publish(&Note::new("site/b/log", r#"{"other":1}"#));
    let answer = me.receive();
    assert_eq!((answer.topic.as_str(), answer.property("status")), ("graded/pi/site/b/log", Some("400")));
    // What is retained is there for those who come later.
    let mut late = broker.peer("late");
    late.subscribe("graded/pi/site/press 1/log");
    assert!(late.receive().retain);
}

#[test]
fn the_device_says_whether_it_is_there() {
    let broker = Broker::start();
    let mut me = broker.peer("me");
    me.subscribe("tern/pi/+");
    me.subscribe("homeassistant/device/#");
    let mut daemon = start(&broker, "pi", "discovery = 'homeassistant'\nmetrics_s = 1\n");
    let online = me.receive();
    let body = online.json();
    assert_eq!((&body["state"], &body["model"]), (&json!("online"), &json!(bundled_name())));
    assert!(body["tasks"].as_array().is_some_and(|tasks| tasks.contains(&json!("log-severity"))), "{body}");
    let discovery = me.receive_where(|note| note.topic == "homeassistant/device/tern_pi/config").json();
    let components = discovery["components"].as_object().expect("entities").keys().cloned();
    let expected = ["energy", "last_label", "power", "problem", "queue", "tokens_per_second"];
    assert_eq!(components.collect::<BTreeSet<_>>(), expected.map(str::to_owned).into());
    let metrics = me.receive_where(|note| note.topic == "tern/pi/metrics").json();
    for component in discovery["components"].as_object().expect("entities").values() {
        let template = component["value_template"].as_str().expect("a template");
        let key = template.split("value_json.").nth(1).expect("a key").split([' ', '}']).next();
        assert!(metrics.get(key.expect("a key")).is_some(), "{template} of {metrics}");
    }
    me.publish(&severity("a", "fan stopped"));
    me.receive_where(|note| note.topic == "tern/pi/metrics" && note.json()["last_label"].is_string());
    // Home Assistant has been started again.
    me.publish(&Note::new("homeassistant/status", "online"));
    me.receive_where(|note| note.topic.starts_with("homeassistant/"));
    // A stop is told as one, and the session stays: what comes meanwhile is answered later.
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code, Some(0));
    me.receive_where(|note| note.topic == "tern/pi/status" && note.json()["state"] == "stopped");
    me.subscribe("me/answers");
    me.publish(&severity("meanwhile", "link up"));
    let daemon = start_in(daemon.kill(), &broker, "pi", "");
    me.receive_where(|note| note.name() == "meanwhile");
    // So is an end without a word.
    drop(daemon);
    me.receive_where(|note| note.topic == "tern/pi/status" && note.json()["state"] == "offline");
}

#[test]
fn a_device_whose_tasks_were_read_again_says_so() {
    let broker = Broker::start();
    let mut me = broker.peer("me");
    me.subscribe("tern/pi/status");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tasks = folder.path().join("tasks");
    std::fs::create_dir(&tasks).expect("writable");
    let section = format!("[tasks]\nfolder = '{}'\n", tasks.display());
    let daemon = start_in(folder, &broker, "pi", &section);
    let has_door =
        |note: &Note| note.json()["tasks"].as_array().is_some_and(|all| all.contains(&json!("door")));
    assert!(!has_door(&me.receive_where(|note| note.json()["state"] == "online")));
    let door = "kind = 'choice'\ninstructions = 'Which?'\nlabels = ['front', 'rear']\n";
    std::fs::write(tasks.join("door.toml"), door).expect("writable");
    daemon.signal("HUP");
    me.receive_where(|note| note.json()["state"] == "online" && has_door(note));
}

#[test]
fn a_broker_that_forgets_everything_loses_nothing_that_was_taken() {
    let mut broker = Broker::start();
    let mut daemon = start_slow(&broker, "pi");
    let mut me = asking(&broker);
    let body = r#"{"generate":{"prompt":"Hello"}}"#;
    for name in ["1", "2", "3"] {
        me.publish(&Note::request(&topic("pi", "generate"), body, "me/answers", name));
    }
    daemon.status_when(|status| status["live"] == 1 && status["queue"] == 2);
    broker.kill();
    broker.restart();
    let mut me = asking(&broker);
    let names: BTreeSet<_> = (0..3).map(|_| me.receive().name()).collect();
    assert_eq!(names, ["1", "2", "3"].map(str::to_owned).into());
    // It answers on.
    me.publish(&Note::request(&topic("pi", "generate"), body, "me/answers", "4"));
    assert_eq!(me.receive().name(), "4");
    daemon.signal("TERM");
    let log = daemon.wait().stderr;
    assert!(log.contains("the broker is lost") && log.contains("forgotten our session"), "{log}");
}

/// Numbers that decide where a daemon is killed.
fn seeds(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut random = Random::new(seed);
    move |end| random.below(end as usize) as u64
}

#[test]
fn a_daemon_killed_again_and_again_answers_everything_and_never_differently() {
    // As many as fit into the time; the seed says where.
    let (most, time) = (200, Duration::from_secs(75));
    let broker = Broker::start();
    let mut me = asking(&broker);
    let mut daemon = start(&broker, "pi", "");
    let mut below = seeds(0x5EED);
    let texts =
        ["fan stopped", "link up", "usb 1-1: reset", "EXT4-fs error", "out of memory: killed process"];
    let mut answers = Answers::default();
    let (mut asked, mut kills) = (0, 0);
    let began = Instant::now();
    while kills < most && began.elapsed() < time {
        for _ in 0..=below(6) {
            me.publish(&severity(&format!("r{asked}"), &format!("{} {asked}", texts[asked % texts.len()])));
            asked += 1;
        }
        // At some answer, or at some moment.
        if below(2) == 0 {
            if let Some(answer) = me.next(Duration::from_millis(50)) {
                answers.note(answer);
            }
        } else {
            std::thread::sleep(Duration::from_micros(below(12_000)));
        }
        let folder = daemon.kill();
        kills += 1;
        let config = broker.config("pi", &folder.path().join("state"));
        daemon = Daemon::start_in(folder, &config);
        // Often it does not even get to the broker.
        std::thread::sleep(Duration::from_millis(below(60)));
    }
    answers.wait(&mut me, asked);
    answers.drain(&mut me);
    println!("{kills} kills, {asked} requests, {} answered, {} came again", answers.count(), answers.again());
    assert!(kills >= 20, "only {kills} kills in {time:?}");
}

#[test]
fn three_devices_share_the_work_and_two_may_fall() {
    let broker = Broker::start();
    let config = "group = 'workers'\nsession_expiry_s = 2\n";
    let mut daemons: Vec<_> = ["a", "b", "c"].iter().map(|name| start(&broker, name, config)).collect();
    let mut me = asking(&broker);
    let any = |number: usize| Note {
        topic: topic("any", "log-severity"),
        expiry_s: Some(30),
        ..severity(&format!("r{number}"), &format!("eth{number}: link down"))
    };
    let mut answers: BTreeMap<String, Note> = BTreeMap::new();
    let mut devices = BTreeSet::new();
    for number in 0..60 {
        me.publish(&any(number));
        if number == 19 {
            // All of them are at work before any falls.
            while devices.len() < 3 {
                let answer = me.receive();
                devices.insert(answer.property("device").expect("a name").to_owned());
                answers.insert(answer.name(), answer);
            }
        }
        match number {
            // One stalls, one dies; the broker goes on giving both their share for a while.
            20 => daemons[1].signal("STOP"),
            40 => drop(daemons.remove(0)),
            _ => {}
        }
    }
    let began = Instant::now();
    while answers.len() < 60 {
        assert!(began.elapsed() < PATIENCE, "{} of 60 answered", answers.len());
        while let Some(answer) = me.next(SHORT) {
            devices.insert(answer.property("device").expect("a name").to_owned());
            let name = answer.name();
            let first = answers.entry(name).or_insert_with(|| answer.clone());
            // Devices agree on every bit, so that even a second answer is the same decision.
            assert_eq!(first.json()["probabilities"], answer.json()["probabilities"]);
        }
        // The sender repeats what it has no answer to, by the same name.
        for number in (0..60).filter(|number| !answers.contains_key(&format!("r{number}"))) {
            me.publish(&any(number));
        }
    }
    assert_eq!(devices.len(), 3, "{devices:?}");
}
