//! Faults that come of much: memory over thousands of requests on the socket, a log storm, a crowd of bad clients.
//!
//! `TERN_TEST_REQUESTS=50000 cargo test --release --test daemon_faults_load` asks for more than a quick test can.

use std::time::{Duration, Instant};

use serde_json::json;
use tern_tests::daemon::{Daemon, Peer, requests_of_load};

/// Requests that are under way at once.
const UNDER_WAY: usize = 32;

/// Growth that is no leak: memory that the allocator has not given back, pages that are touched late.
const GROWTH_BYTES: u64 = 1 << 20;

/// One request of many kinds, some of which are refused.
fn line(number: usize) -> String {
    let id = number.to_string();
    let text = format!("eth{number}: link down");
    match number % 50 {
        0 => json!({"id": id, "generate": {"prompt": text, "max_tokens": 4}, "stream": true}),
        1 => json!({"id": id, "status": true}),
        2 => json!({"id": id, "task": "no-such", "text": text}),
        3 => json!({"id": id, "task": "log-severity", "text": "long ".repeat(600)}),
        4 => json!({"id": id, "task": "log-severity", "text": text, "deadline_ms": 0}),
        5 => json!({"id": id, "cancel": "nobody"}),
        6 => json!({"id": id, "tsk": text}),
        _ => {
            let ask = json!({"kind": "choice", "instructions": "Which?", "labels": ["a", "b"]});
            json!({"id": id, "ask": ask, "text": text})
        }
    }
    .to_string()
}

/// Sends requests and reads their answers until the last of them.
fn ask(peer: &mut Peer, numbers: std::ops::Range<usize>) {
    let mut next = numbers.start;
    let mut open = 0;
    while next < numbers.end || open > 0 {
        while next < numbers.end && open < UNDER_WAY {
            peer.send(&line(next));
            next += 1;
            open += 1;
        }
        open -= usize::from(peer.receive()["type"] != "token");
    }
}

#[test]
fn memory_stays_flat_over_many_requests() {
    let count = requests_of_load();
    // What is kept is full after the first fifth.
    let daemon = Daemon::start("[model]\ncache_tokens = 2048\n");
    let began = Instant::now();
    // Some stay connected, some come for a few requests.
    let mut peer = daemon.connect();
    ask(&mut peer, 0..count / 5);
    let early = daemon.resident_bytes();
    for start in (count / 5..count).step_by(100) {
        let end = count.min(start + 100);
        match start / 100 % 4 {
            0 => ask(&mut daemon.connect(), start..end),
            _ => ask(&mut peer, start..end),
        }
    }
    let late = daemon.resident_bytes();
    let (rate, mib) =
        (count as f64 / began.elapsed().as_secs_f64(), |bytes: u64| bytes as f64 / f64::from(1 << 20));
    println!(
        "{count} requests, {rate:.0} a second: {:.2} MiB resident after {}, {:.2} MiB after all",
        mib(early),
        count / 5,
        mib(late)
    );
    assert!(late < early + GROWTH_BYTES, "{early} bytes grew to {late}");
}

#[test]
fn a_storm_of_warnings_is_told_in_sums() {
    let mut daemon = Daemon::talker("[limits]\nclients = 1");
    let mut first = daemon.connect();
    // The connection that looked whether the daemon is up may not have been noticed to be gone.
    daemon_serves(&daemon, &mut first);
    let (began, turned_away) = (Instant::now(), 600);
    for _ in 0..turned_away {
        let mut second = daemon.connect();
        // One that shows what it speaks is told at once.
        second.send_bytes(b"\n").expect("the door is open");
        second.refused(None, 429, &["limits.clients"]);
    }
    assert!(began.elapsed() < Duration::from_secs(30), "it is no storm");
    daemon.signal("TERM");
    let log = daemon.wait().stderr;
    let told = log.lines().filter(|line| line.contains("turned away")).count();
    let summed: usize = (log.lines())
        .filter_map(|line| line.split(" more like it").next()?.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    assert!(told < 60, "{told} lines: {log}");
    // A line that tells a sum quotes one of those it stands for. Some were turned away before.
    let sums = log.lines().filter(|line| line.contains("more like it")).count();
    assert!(
        (turned_away..turned_away + 60).contains(&(told - sums + summed)),
        "{told}, {summed} in {sums}: {log}"
    );
}

/// Waits until `peer` is the client that is served.
fn daemon_serves(daemon: &Daemon, peer: &mut Peer) {
    let began = Instant::now();
    loop {
        let sent = peer.send_bytes(b"{\"id\":\"1\",\"status\":true}\n").is_ok();
        if sent && peer.answer().is_some_and(|answer| answer["type"] == "status") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "the only client is not served");
        *peer = daemon.connect();
    }
}
