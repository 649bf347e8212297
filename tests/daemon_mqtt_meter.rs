//! A smart plug at a real broker as the daemon's power meter.

use serde_json::{Value, json};
use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::mqtt_daemon::start;
use tern_tests::mqtt_peer::{Note, PATIENCE, Peer};

/// A daemon that hears this plug, once it does.
fn metered(broker: &Broker, plug: &str) -> Daemon {
    start(broker, "pi", &format!("[energy]\nmeter = 'external_meter'\n[energy.mqtt]\n{plug}\n"))
}

/// Says `message` until the daemon's joules are known, and gives its energy totals.
fn said_until_heard(daemon: &Daemon, peer: &mut Peer, topic: &str, message: &str) -> Value {
    let mut socket = daemon.connect();
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        peer.publish(&Note::new(topic, message));
        socket.send(r#"{"id":"1","task":"log-severity","text":"fan stopped"}"#);
        let answer = socket.receive();
        if answer["energy"]["joules"].is_number() {
            socket.send(r#"{"id":"2","status":true}"#);
            return json!({"answer": answer["energy"], "status": socket.receive()["energy"]});
        }
        assert!(answer["energy"]["joules"].is_null(), "{answer}");
        assert!(std::time::Instant::now() < until, "the plug is never heard: {answer}");
    }
}

#[test]
fn plugs_of_three_kinds_are_heard_and_named_in_each_answer() {
    let broker = Broker::start();
    let mut peer = broker.peer("plug");
    let cases = [
        (
            "topic = 'tele/desk/SENSOR'\nkind = 'tasmota'",
            "tele/desk/SENSOR",
            r#"{"Time":"2026-02-01T12:00:10","ENERGY":{"Total":3.185,"Power":4,"Voltage":231,"Current":0.040}}"#,
        ),
        (
            "topic = 'shellyplus-1/status/switch:0'\nkind = 'shelly'",
            "shellyplus-1/status/switch:0",
            r#"{"id":0,"output":true,"apower":4.1,"aenergy":{"total":1563.912}}"#,
        ),
        ("topic = 'ha/plug/power'\nkind = 'homeassistant'", "ha/plug/power", "4.2"),
    ];
    for (plug, topic, message) in cases {
        let daemon = metered(&broker, plug);
        let said = said_until_heard(&daemon, &mut peer, topic, message);
        let energy = &said["answer"];
        assert_eq!(energy["method"], "external_meter", "{said}");
        assert_eq!((&energy["scope"], &energy["idle"]), (&json!("wall"), &json!("included")), "{said}");
        assert_eq!(energy["source"], format!("plug at {topic}"), "{said}");
        // A plug that speaks every few milliseconds at most is too coarse for one short request, and it says so.
        assert_eq!(energy["below_resolution"], true, "{said}");
        assert_eq!(said["status"]["method"], "external_meter", "{said}");
    }
}

#[test]
fn a_plug_that_falls_silent_or_was_only_retained_makes_joules_unknown() {
    let broker = Broker::start();
    let mut peer = broker.peer("plug");
    // What the broker kept may be of last year.
    peer.publish(&Note { retain: true, ..Note::new("ha/plug/power", "4.2") });
    let daemon = metered(&broker, "topic = 'ha/plug/power'\nkind = 'homeassistant'\nstale_s = 1");
    let mut socket = daemon.connect();
    let mut ask = || {
        socket.send(r#"{"id":"1","task":"log-severity","text":"fan stopped"}"#);
        socket.receive()["energy"].clone()
    };
    let first = ask();
    assert!(first["joules"].is_null() && first["method"] == "external_meter", "{first}");
    said_until_heard(&daemon, &mut peer, "ha/plug/power", "4.2");
    // Nobody speaks any more: after a second nobody knows.
    let until = std::time::Instant::now() + PATIENCE;
    while ask()["joules"].is_number() {
        assert!(std::time::Instant::now() < until, "it is believed for ever");
    }
    assert!(ask()["joules"].is_null());
    // A broker that comes back is heard again.
    said_until_heard(&daemon, &mut peer, "ha/plug/power", "4.3");
}

#[test]
fn a_file_that_another_program_writes_is_a_meter_too() {
    let folder = tern_tests::mqtt_daemon::folder();
    let file = folder.path().join("power_w");
    std::fs::write(&file, "3.5\n").expect("it can be written");
    let config =
        format!("[energy]\nmeter = 'external_meter'\nfile = '{}'\nfile_stale_s = 3600\n", file.display());
    let daemon = Daemon::start_in(folder, &config);
    let mut socket = daemon.connect();
    socket.send(r#"{"id":"1","task":"log-severity","text":"fan stopped"}"#);
    let energy = socket.receive()["energy"].clone();
    assert_eq!((&energy["method"], &energy["scope"]), (&json!("external_meter"), &json!("wall")), "{energy}");
    assert!(energy["joules"].as_f64().is_some_and(|joules| joules > 0.0), "{energy}");
    assert_eq!(energy["source"], format!("file {}", file.display()));
}

#[test]
fn doctor_names_a_configured_meter_and_what_is_wrong_with_it() {
    let folder = tern_tests::mqtt_daemon::folder();
    let (file, config) = (folder.path().join("power_w"), folder.path().join("tern.toml"));
    let section = format!("[energy]\nmeter = 'external_meter'\nfile = '{}'\n", file.display());
    std::fs::write(&config, section).expect("it can be written");
    std::fs::write(&file, "lots\n").expect("it can be written");
    let mut doctor = tern_tests::binary::tern(["doctor", "--json", "--config"]);
    let output = doctor.arg(&config).output().expect("it runs");
    let found: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let machine = &found["machine"];
    let meters = machine["meters"].as_array().expect("a list");
    let about = |words: &str| {
        let mut named = meters
            .iter()
            .filter(|finding| finding["looked_at"].as_str().is_some_and(|at| at.contains(words)));
        named.next().unwrap_or_else(|| panic!("nothing about {words:?} in {machine}"))
    };
    let finding = about("configured file");
    assert!(
        finding["outcome"] == "failed" && finding["why"].as_str().is_some_and(|why| why.contains("lots"))
    );
    // What was asked for is not there, and nothing is taken in its place.
    assert!(about("energy.meter names")["outcome"] == "absent" && machine["meter"].is_null(), "{machine}");
}
