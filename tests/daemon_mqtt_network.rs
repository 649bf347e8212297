//! Faults: a broker killed and restarted with what it has stored, one that cannot be reached for long, a half-open
//! connection, a slow broker, one that reads nothing, packets spoilt on their way, and a connection cut at any packet.
//!
//! A broker that forgets is in `daemon_mqtt.rs`.

use std::time::{Duration, Instant};

use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::fault_proxy::{Fate, FaultProxy, Kind, Way};
use tern_tests::mqtt_daemon::{
    Answers, asking, folder, severity, slow_model, start, start_in, start_through, talk,
};

/// A daemon behind a proxy.
fn behind(proxy: &FaultProxy, broker: &Broker, more: &str) -> Daemon {
    start_through(folder(), broker, proxy.port(), "pi", more)
}

fn ended(mut daemon: Daemon) -> String {
    daemon.signal("TERM");
    daemon.wait().stderr
}

#[test]
fn a_broker_killed_and_started_again_with_its_store_keeps_what_it_has() {
    let store = folder();
    let lines = format!(
        "persistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes true",
        store.path().display()
    );
    let mut broker = Broker::start_with(&lines);
    let daemon = start(&broker, "pi", &slow_model());
    let mut me = asking(&broker);
    for name in ["1", "2", "3", "4"] {
        me.publish(&talk(name));
    }
    // All of it is ours, whatever the broker's store has missed.
    daemon.status_when(|status| status["live"] == 1 && status["queue"] == 3);
    let folder = daemon.kill();
    // Both fall; what was asked is in the broker's store and in ours.
    broker.kill();
    broker.restart();
    let mut me = asking(&broker);
    let mut daemon = start_in(folder, &broker, "pi", &slow_model());
    let mut answers = Answers::default();
    answers.wait(&mut me, 4);
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_broker_that_cannot_be_reached_for_long_costs_nothing_but_time() {
    let broker = Broker::start();
    let proxy = FaultProxy::before(broker.port());
    let daemon = behind(&proxy, &broker, &slow_model());
    let mut me = asking(&broker);
    let mut answers = Answers::default();
    for name in ["1", "2", "3"] {
        me.publish(&talk(name));
    }
    daemon.status_when(|status| status["queue"] == 2);
    proxy.refuse(true);
    proxy.cut();
    // The engine goes on with what it has, and everybody else is served.
    daemon.status_when(|status| status["requests"]["answered"] == 3);
    let (before, began) = (proxy.attempts(), Instant::now());
    // Pauses of 20 ms doubled to 200 ms, each cut by up to a half: a minute and a half of real ones.
    proxy.wait_attempts(before + 12);
    assert!(began.elapsed() > Duration::from_millis(800), "12 attempts in {:?}", began.elapsed());
    // It may even fall meanwhile, and be started where there is no broker.
    let folder = daemon.kill();
    let config = broker.config_through(proxy.port(), "pi", &folder.path().join("state"));
    let daemon = Daemon::start_in(folder, &(config + &slow_model()));
    me.publish(&talk("4"));
    proxy.wait_attempts(proxy.attempts() + 3);
    assert_eq!(daemon.status()["requests"]["answered"], 0, "answers that are stored were run again");
    proxy.refuse(false);
    answers.wait(&mut me, 4);
    answers.drain(&mut me);
    assert_eq!(daemon.status()["requests"]["answered"], 1);
    let log = ended(daemon);
    assert!(log.contains("the broker cannot be reached"), "{log}");
}

#[test]
fn a_connection_whose_other_end_has_vanished_is_found_out() {
    let broker = Broker::start();
    let proxy = FaultProxy::before(broker.port());
    let daemon = behind(&proxy, &broker, &slow_model());
    let mut me = asking(&broker);
    me.publish(&talk("1"));
    daemon.status_when(|status| status["live"] == 1);
    // Not a packet gets through any more, and nobody says so.
    let began = Instant::now();
    let vanished = proxy.attempts();
    proxy.rule(|_| Fate::Lose);
    me.publish(&talk("2"));
    daemon.status_when(|status| status["requests"]["answered"] == 1);
    // The keep-alive of 5 s is asked for once and missed once.
    proxy.wait_attempts(vanished + 1);
    let noticed = began.elapsed();
    assert!(noticed > Duration::from_secs(4) && noticed < Duration::from_secs(20), "{noticed:?}");
    proxy.pass();
    // The attempt may have been swallowed as well, and is given up in its turn.
    let mut answers = Answers::default();
    answers.wait(&mut me, 2);
    println!("a connection without another end was given up after {noticed:?}");
    let log = ended(daemon);
    assert!(log.contains("the broker is lost"), "{log}");
}

#[test]
fn a_slow_broker_is_waited_for() {
    let broker = Broker::start();
    let proxy = FaultProxy::before(broker.port());
    let daemon = behind(&proxy, &broker, "");
    let mut me = asking(&broker);
    // A request takes a fifth of a second to come, an answer half a second to go.
    proxy.rule(|_| Fate::Trickle { bytes: 16, pause_us: 10_000 });
    for number in 0..5 {
        me.publish(&severity(&number.to_string(), "fan stopped"));
    }
    let mut answers = Answers::default();
    answers.wait(&mut me, 5);
    answers.drain(&mut me);
    assert_eq!((answers.again(), proxy.attempts()), (0, 1), "it was taken for a broken one");
    // The socket does not wait with it.
    let mut peer = daemon.connect();
    let began = Instant::now();
    peer.send(r#"{"id":"1","task":"log-severity","text":"link up"}"#);
    assert_eq!(peer.receive()["type"], "decision");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_broker_that_reads_nothing_holds_up_only_itself() {
    let broker = Broker::start();
    let proxy = FaultProxy::before(broker.port());
    let daemon = behind(&proxy, &broker, "");
    let mut me = asking(&broker);
    proxy.rule(|packet| if packet.way == Way::Up { Fate::Hold } else { Fate::Pass });
    for number in 0..200 {
        me.publish(&severity(&number.to_string(), &format!("eth{number}: {}", "link down ".repeat(20))));
    }
    proxy.wait_held();
    // As many as may be without acknowledgement; the rest is the broker's.
    daemon.status_when(|status| status["requests"]["answered"] == 16);
    let mut peer = daemon.connect();
    peer.send(r#"{"id":"1","task":"log-severity","text":"link up"}"#);
    assert_eq!(peer.receive()["type"], "decision");
    assert_eq!(daemon.status()["requests"]["answered"], 17);
    proxy.pass();
    let mut answers = Answers::default();
    answers.wait(&mut me, 200);
}

#[test]
fn packets_spoilt_on_their_way_are_sent_again() {
    let broker = Broker::start();
    let proxy = FaultProxy::before(broker.port());
    let daemon = behind(&proxy, &broker, "");
    let mut me = asking(&broker);
    let mut answers = Answers::default();
    // A property that does not exist, a length of five bytes, a packet of no kind, a packet that no broker sends, and
    // properties longer than their packet.
    let spoils: [fn(&mut Vec<u8>); 5] = [
        |bytes| {
            let at = bytes.windows(2).position(|pair| pair == [0x08, 0]).expect("a response topic");
            bytes[at] = 0x7f;
        },
        |bytes| bytes[1..5].fill(0xff),
        |bytes| bytes[0] = 0x0f,
        |bytes| bytes[0] = 0x82,
        |bytes| {
            let at = bytes.windows(2).position(|pair| pair == [0x08, 0]).expect("a response topic");
            bytes[at - 1] = 0x7f;
        },
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let mut once = true;
        proxy.rule(move |packet| {
            if packet.is(Way::Down, Kind::Publish, "/request") && std::mem::take(&mut once) {
                spoil(&mut packet.bytes);
            }
            Fate::Pass
        });
        me.publish(&severity(&number.to_string(), "fan stopped"));
        answers.wait(&mut me, number + 1);
    }
    // A topic that is not UTF-8 is none of ours; a connection that ended with it would end with it for ever.
    let attempts = proxy.attempts();
    proxy.rule(|packet| {
        if packet.is(Way::Down, Kind::Publish, "/request") && packet.bytes.ends_with(b"spoilt") {
            packet.bytes[6] = 0xff;
        }
        Fate::Pass
    });
    me.publish(&severity("lost", "spoilt"));
    me.publish(&severity("last", "fan stopped"));
    answers.wait(&mut me, 6);
    answers.drain(&mut me);
    assert_eq!((daemon.status()["requests"]["answered"].as_u64(), proxy.attempts()), (Some(6), attempts));
    let log = ended(daemon);
    assert!(log.contains("which is not read any more"), "{log}");
}

#[test]
fn a_connection_cut_at_any_packet_loses_nothing() {
    let broker = Broker::start();
    let proxy = FaultProxy::before(broker.port());
    let daemon = behind(&proxy, &broker, "");
    let mut me = asking(&broker);
    let mut answers = Answers::default();
    // The connection is cut at the first packet of an exchange of eight, then at the second, and so on.
    let cuts = 40;
    for cut in 0..cuts {
        let mut left = cut % 8;
        proxy.rule(move |_| {
            left -= 1;
            if left < 0 { Fate::Hold } else { Fate::Pass }
        });
        me.publish(&severity(&format!("a{cut}"), &format!("fan {cut} stopped")));
        me.publish(&severity(&format!("b{cut}"), &format!("eth{cut}: link down")));
        proxy.wait_held();
        proxy.cut();
        proxy.pass();
        answers.wait(&mut me, 2 * (cut as usize + 1));
    }
    answers.drain(&mut me);
    println!("{cuts} cuts, {} answered, {} came again", answers.count(), answers.again());
    assert_eq!(daemon.status()["requests"]["answered"], 2 * cuts, "something was run twice");
}
