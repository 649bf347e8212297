//! Faults of the machine: a disk that is full, and a clock that jumps.
//!
//! The disk is full by a limit on the size of the daemon's files (`setrlimit`), which the system reports as it does a
//! full disk, and which needs no rights. The clock is that of libfaketime, which the daemon finds where the C library's
//! would be; it moves the time of day alone, as setting a clock does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use tempfile::TempDir;
use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::mqtt_daemon::{Answers, asking, folder, severity, slow_model, start, start_in, talk};
use tern_tests::mqtt_peer::{Note, Peer};

/// Lets no file of the daemon grow beyond `bytes`.
fn limit_files(daemon: &Daemon, bytes: &str) {
    let id = daemon.id().to_string();
    let set = Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:unlimited")]).status();
    assert!(set.expect("prlimit of util-linux is installed").success());
}

fn problem(peer: &mut Peer, is_one: bool) -> Note {
    peer.receive_where(|note| note.topic == "tern/pi/metrics" && note.json()["problem"] == is_one)
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", "metrics_s = 1\n");
    let mut watcher = broker.peer("watcher");
    watcher.subscribe("tern/pi/metrics");
    let mut me = asking(&broker);
    let mut answers = Answers::default();
    let ask = |me: &mut Peer, name: &str| me.publish(&severity(name, &format!("fan {name} stopped")));
    ask(&mut me, "before");
    answers.wait(&mut me, 1);
    let journal = daemon.folder().join("state/mqtt.outbox");
    let bytes = || std::fs::metadata(&journal).expect("the outbox is there").len();
    // In the middle of a line.
    let limit = bytes() + 100;
    limit_files(&daemon, &limit.to_string());
    for name in ["full 1", "full 2", "full 3"] {
        ask(&mut me, name);
    }
    let told = problem(&mut watcher, true).json();
    let text = told["problem_text"].as_str().expect("words");
    assert!(text.contains("the outbox cannot be written"), "{told}");
    assert!(bytes() <= limit, "{} bytes of {limit}", bytes());
    // An answer that is not on disk could be followed by another one, so none leaves.
    ask(&mut me, "before");
    answers.drain(&mut me);
    assert_eq!((answers.count(), answers.again()), (1, 0));
    // Room again: all of it is on disk, half a line that was left is not.
    limit_files(&daemon, "unlimited");
    answers.wait(&mut me, 4);
    problem(&mut watcher, false);
    let text = std::fs::read_to_string(&journal).expect("UTF-8");
    assert!(text.contains("full 3") && text.ends_with('\n'), "{text}");
    let daemon = start_in(daemon.kill(), &broker, "pi", "");
    for name in ["before", "full 1", "full 2", "full 3"] {
        ask(&mut me, name);
    }
    answers.drain(&mut me);
    assert_eq!(daemon.status()["requests"]["answered"], 0, "what is stored was run again");
    assert!(answers.again() >= 5, "{}", answers.again());
}

#[test]
fn a_daemon_killed_while_the_disk_is_full_loses_nothing() {
    let broker = Broker::start();
    let daemon = start(&broker, "pi", &slow_model());
    let mut me = asking(&broker);
    limit_files(&daemon, "1");
    for name in ["1", "2", "3"] {
        me.publish(&talk(name));
    }
    daemon.status_when(|status| status["live"] == 1 && status["queue"] == 2);
    // Nothing of it was written; the broker has it still.
    let mut daemon = start_in(daemon.kill(), &broker, "pi", &slow_model());
    let mut answers = Answers::default();
    answers.wait(&mut me, 3);
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code, Some(0));
}

/// libfaketime of the Debian package `faketime`.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("there are libraries").flatten();
    let mut places = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    places.find(|place| place.exists()).expect("libfaketime is installed (apt-get install faketime)")
}

/// A daemon whose time of day is off by what `clock` says, at each moment.
fn start_at(folder: TempDir, broker: &Broker, clock: &Path, more: &str) -> Daemon {
    let mut peer = broker.peer("watch");
    peer.subscribe("tern/pi/status");
    let config = broker.config("pi", &folder.path().join("state"));
    let daemon = Daemon::start_changed(folder, &format!("{config}{more}"), |command| {
        command.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", clock);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    });
    peer.receive_where(|note| !note.retain && note.json()["state"] == "online");
    daemon
}

/// Seconds of a year.
const YEAR_S: u64 = 31_556_952;

/// The years that the system's clock showed and those by which the daemon keeps time, as it wrote them down.
fn years_in_records(daemon: &Daemon) -> [BTreeSet<u64>; 2] {
    let text = std::fs::read_to_string(daemon.folder().join("state/mqtt.outbox")).expect("UTF-8");
    ["\"wall_ms\":", "\"keep_until\":"].map(|name| {
        let moments =
            text.split(name).skip(1).filter_map(|rest| rest.split(['}', ',']).next()?.parse::<u64>().ok());
        moments.filter(|ms| *ms > 0).map(|ms| 1970 + ms / 1000 / YEAR_S).collect()
    })
}

#[test]
fn a_clock_that_jumps_ends_nothing_early_and_loses_nothing() {
    let broker = Broker::start();
    let clock = folder();
    let clock = clock.path().join("clock");
    let set = |offset: &str| std::fs::write(&clock, format!("{offset}\n")).expect("it can be written");
    let mut me = asking(&broker);
    let mut answers = Answers::default();
    let within = |name: &str| Note { expiry_s: Some(60), ..talk(name) };
    set("+0");
    let mut daemon = start_at(folder(), &broker, &clock, &slow_model());
    // One runs, two wait; meanwhile the clock is set ten years on, then twenty back.
    for name in ["1", "2", "3"] {
        me.publish(&within(name));
    }
    daemon.status_when(|status| status["live"] == 1 && status["queue"] == 2);
    set("+10y");
    daemon.status_when(|status| status["requests"]["answered"] == 1);
    set("-10y");
    answers.wait(&mut me, 3);
    me.publish(&within("4"));
    answers.wait(&mut me, 4);
    assert_eq!(daemon.status()["requests"]["expired"], 0);

    // Killed with requests under way, and up again ten years ahead, then ten years behind, then where it was: what it
    // wrote down is out of date or far from it, and the broker knows better.
    for (round, offset) in ["+10y", "-10y", "+0"].into_iter().enumerate() {
        for name in [5 + 2 * round, 6 + 2 * round] {
            me.publish(&within(&name.to_string()));
        }
        daemon.status_when(|status| status["live"] == 1);
        let folder = daemon.kill();
        set(offset);
        daemon = start_at(folder, &broker, &clock, &slow_model());
        answers.wait(&mut me, 6 + 2 * round);
    }
    answers.drain(&mut me);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    let year = 1970 + now.as_secs() / YEAR_S;
    let [shown, kept] = years_in_records(&daemon);
    let jumped = [year - 10, year, year + 10].iter().all(|year| shown.contains(year));
    assert!(jumped, "{shown:?}: the clock did not jump");
    assert_eq!(kept, BTreeSet::from([year]), "time that is kept jumped with it");
    assert_eq!(daemon.status()["requests"]["expired"], 0);
}
