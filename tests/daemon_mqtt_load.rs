//! Faults that come of much at a broker: 10,000 requests that wait, memory over all of them, and a payload of 10 MB.
//!
//! `TERN_TEST_REQUESTS=50000 cargo test --release --test daemon_mqtt_load` asks for more than a quick test can.

use std::collections::BTreeSet;
use std::time::Instant;

use tern_tests::broker::Broker;
use tern_tests::daemon::requests_of_load;
use tern_tests::mqtt_daemon::{asking, severity, start, start_in};
use tern_tests::mqtt_peer::Note;

/// Growth that is no leak: memory that the allocator has not given back, pages that are touched late.
const GROWTH_BYTES: u64 = 2 << 20;

#[test]
fn a_long_queue_is_worked_off_in_little_memory_that_stays_flat() {
    let count = requests_of_load();
    let broker = Broker::start();
    // Answers are kept for those who ask again, up to this; it is reached early.
    let more = "outbox_bytes = 262144\n[model]\ncache_tokens = 2048\n";
    let daemon = start(&broker, "pi", more);
    let folder = daemon.kill();
    let mut me = asking(&broker);
    for number in 0..count {
        me.publish(&severity(&format!("r{number}"), "fan stopped"));
    }
    let began = Instant::now();
    let daemon = start_in(folder, &broker, "pi", more);
    let mut names = BTreeSet::new();
    let mut early = 0;
    while names.len() < count {
        names.insert(me.receive().name());
        if names.len() == count / 5 {
            early = daemon.resident_bytes();
        }
    }
    let late = daemon.resident_bytes();
    let (rate, mib) =
        (count as f64 / began.elapsed().as_secs_f64(), |bytes: u64| bytes as f64 / f64::from(1 << 20));
    println!(
        "{count} queued requests, {rate:.0} a second: {:.2} MiB resident after {}, {:.2} MiB after all",
        mib(early),
        count / 5,
        mib(late)
    );
    assert_eq!(daemon.status()["requests"]["answered"], count);
    assert!(daemon.peak_bytes() < 150 << 20, "{} bytes", daemon.peak_bytes());
    assert!(late < early + GROWTH_BYTES, "{early} bytes grew to {late}");
    let journal = std::fs::metadata(daemon.folder().join("state/mqtt.outbox")).expect("the outbox is there");
    assert!(journal.len() < 1 << 20, "{} bytes on disk", journal.len());
}

#[test]
fn ten_megabytes_are_refused_when_a_packet_may_be_so_large() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", "packet_bytes = 16777216\n");
    let mut me = asking(&broker);
    let text = "word ".repeat(2 << 20);
    let json = format!("{{\"text\":\"{text}\"}}");
    let deep = format!("{{\"text\":{}1{}}}", "[".repeat(5 << 20), "]".repeat(5 << 20));
    for (name, payload, status) in [
        ("text", text.clone().into_bytes(), "413"),
        ("json", json.into_bytes(), "413"),
        ("deep", deep.into_bytes(), "400"),
        ("bytes", vec![0xfe; 10 << 20], "400"),
    ] {
        let content_type = (name == "deep").then(|| "application/json".to_owned());
        me.publish(&Note { payload, content_type, ..severity(name, "") });
        let answer = me.receive();
        assert_eq!((answer.name().as_str(), answer.property("status")), (name, Some(status)), "{answer:?}");
        assert!(answer.payload.len() < 2000, "{} bytes say what is wrong", answer.payload.len());
    }
    me.publish(&severity("small", "link up"));
    assert_eq!(me.receive().property("status"), Some("200"));
    assert!(daemon.peak_bytes() < 250 << 20, "{} bytes", daemon.peak_bytes());
}
