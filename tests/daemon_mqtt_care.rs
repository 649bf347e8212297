//! Requests that end the daemon, and a disk that takes nothing: what must neither go on for ever nor be lost.

use std::process::{Command, Stdio};

use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::mqtt_daemon::{SHORT, asking, folder, severity, slow_model, start, start_in, talk};

#[test]
fn a_request_with_which_the_daemon_ends_each_time_is_given_up_and_others_are_not() {
    let broker = Broker::start();
    let mut me = asking(&broker);
    let mut operator = broker.peer("operator");
    operator.subscribe("tern/pi/metrics");
    let mut daemon = start(&broker, "pi", &slow_model());
    me.publish(&talk("poison"));
    me.publish(&talk("innocent"));
    for life in 1..=3 {
        if life == 3 {
            // It was tried less and so goes first; the other one is run alone when the daemon has been up for a while.
            assert_eq!(me.receive().name(), "innocent");
        }
        daemon.status_when(|status| status["live"] == 1);
        daemon = start_in(daemon.kill(), &broker, "pi", &slow_model());
    }
    // The other one's may come again.
    let answer = me.receive_where(|note| note.name() == "poison");
    assert_eq!(answer.property("status"), Some("500"));
    let body = answer.json();
    assert!(body["message"].as_str().is_some_and(|words| words.contains("ended 3 times")), "{body}");
    operator.receive_where(|note| {
        note.json()["problem_text"].as_str().is_some_and(|text| text.contains("poison"))
    });
    // It stays given up for who asks again, and the rest goes on.
    me.publish(&talk("poison"));
    assert_eq!(me.receive_where(|note| note.name() == "poison").payload, answer.payload);
    me.publish(&talk("next"));
    assert_eq!(me.receive_where(|note| note.name() == "next").property("status"), Some("200"));
    assert_eq!(daemon.status()["requests"]["answered"], 1);
}

/// Bytes that files may grow to, for a running process; with 0 the disk is full.
fn allow(daemon: &Daemon, bytes: &str) {
    let pid = daemon.id().to_string();
    let limit = format!("--fsize={bytes}:unlimited");
    let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(set.expect("util-linux has prlimit").success());
}

/// A daemon that is told when a file may not grow, rather than killed.
fn start_warned(folder: tempfile::TempDir, config: &str) -> Daemon {
    Daemon::start_changed(folder, config, |command| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        *command = shell;
    })
}

#[test]
fn a_full_disk_holds_answers_up_and_loses_none() {
    let broker = Broker::start();
    let mut me = asking(&broker);
    let mut operator = broker.peer("operator");
    operator.subscribe("tern/pi/metrics");
    let folder = folder();
    let config = broker.config("pi", &folder.path().join("state")) + "metrics_s = 1\n";
    let problem = |note: &tern_tests::mqtt_peer::Note| {
        note.json()["problem_text"].as_str().is_some_and(|text| text.contains("outbox cannot be written"))
    };
    let daemon = start_warned(folder, &config);
    operator.receive_where(|note| !problem(note));
    allow(&daemon, "0");
    me.publish(&severity("one", "fan stopped"));
    operator.receive_where(problem);
    assert_eq!(me.next(SHORT), None, "what is not on disk has left");
    // Killed now, it has neither an answer nor acknowledged the request.
    let daemon = start_warned(daemon.kill(), &config);
    let first = me.receive();
    assert_eq!(first.name(), "one");
    allow(&daemon, "0");
    me.publish(&severity("two", "link up"));
    operator.receive_where(problem);
    assert_eq!(me.next(SHORT), None, "what is not on disk has left");
    allow(&daemon, "unlimited");
    assert_eq!(me.receive().name(), "two");
    operator.receive_where(|note| note.json()["problem"] == false);
    // What was asked and answered meanwhile is on disk now.
    let daemon = start_warned(daemon.kill(), &config);
    me.publish(&severity("one", "fan stopped"));
    assert_eq!(me.receive_where(|note| note.name() == "one").payload, first.payload);
    assert_eq!(daemon.status()["requests"]["answered"], 0);
}
