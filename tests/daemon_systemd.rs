//! The daemon as a service manager sees it: what it says on the manager's socket, and what signals do to it.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use tern_tests::binary;
use tern_tests::daemon::{Daemon, TALKER};
use tern_tests::model::bundled_name;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn at(place: &Path) -> Manager {
        let socket = UnixDatagram::bind(place).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Manager { socket }
    }

    /// The next message, as lines.
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the daemon speaks");
        String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned).collect()
    }

    /// The next message with a line that is, or begins with, `wanted`.
    #[track_caller]
    fn hear(&self, wanted: &str) -> Vec<String> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let said = self.next();
            if said.iter().any(|line| line.starts_with(wanted)) {
                return said;
            }
        }
        panic!("{wanted} was never said");
    }
}

fn value<'a>(said: &'a [String], key: &str) -> &'a str {
    let found = said.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{key} is not in {said:?}"))
}

/// A daemon under a manager, with a folder for tasks.
fn start(config: &str, change: impl FnOnce(&mut Command)) -> (Manager, Daemon) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("notify");
    std::fs::create_dir(folder.path().join("tasks")).expect("writable");
    let manager = Manager::at(&place);
    let config = format!("tasks.folder = '{}'\n{config}", folder.path().join("tasks").display());
    let daemon = Daemon::start_changed(folder, &config, |command| {
        command.env("NOTIFY_SOCKET", &place);
        change(command);
    });
    (manager, daemon)
}

fn write_task(daemon: &Daemon, name: &str, text: &str) {
    let place = daemon.socket().with_file_name("tasks").join(name);
    // As an editor does it: never a half-written file.
    let beside = place.with_extension("new");
    std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &place)).expect("writable");
}

fn door(label: &str) -> String {
    format!("kind = 'choice'\ninstructions = 'Which?'\nlabels = ['{label}', 'other']\n")
}

fn labels(answer: &Value) -> Vec<&str> {
    let all = answer["probabilities"].as_array().unwrap_or_else(|| panic!("{answer}"));
    all.iter().filter_map(|entry| entry["label"].as_str()).collect()
}

/// The reload that a `HUP` asks for, from beginning to end: its last status.
fn reload(manager: &Manager, daemon: &Daemon) -> String {
    daemon.signal("HUP");
    let said = manager.hear("RELOADING=1");
    // `Type=notify-reload` counts from here; an older manager passes over it.
    let then_us: i128 = value(&said, "MONOTONIC_USEC").parse().expect("a number");
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now_us = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    assert!((now_us - 60_000_000..=now_us).contains(&then_us), "{then_us} is not about {now_us}");
    value(&manager.hear("READY=1"), "STATUS").to_owned()
}

#[test]
fn the_manager_hears_of_start_life_and_end() {
    let (manager, mut daemon) = start("[model]\nthreads = 1\n", |command| {
        command.env("WATCHDOG_USEC", "200000").env("JOURNAL_STREAM", "8:1").args(["--log", "info"]);
    });
    let loading = manager.hear("STATUS=reading the model: 0 %");
    let patience_us: u64 = value(&loading, "EXTEND_TIMEOUT_USEC").parse().expect("a number");
    assert!(patience_us >= 30_000_000, "{loading:?}");
    let ready = manager.hear("READY=1");
    assert!(value(&ready, "STATUS").starts_with(&format!("{} with ", bundled_name())), "{ready:?}");
    manager.hear("WATCHDOG=1");
    manager.hear("WATCHDOG=1");
    let mut peer = daemon.connect();
    peer.send(r#"{"id":"1","task":"log-severity","text":"fan stopped"}"#);
    assert_eq!(peer.receive()["type"], "decision");
    let status = manager.hear("STATUS=");
    assert!(value(&status, "STATUS").contains("0 running, 0 waiting; 1 answered, 0 refused"), "{status:?}");
    daemon.signal("TERM");
    let stopping = manager.hear("STOPPING=1");
    let patience_us: u64 = value(&stopping, "EXTEND_TIMEOUT_USEC").parse().expect("a number");
    assert!(patience_us > 5_000_000, "limits.stop_ms and some: {stopping:?}");
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.lines().all(|line| line.starts_with("<6>")), "{ended:?}");
    assert!(ended.stderr.contains("<6>stopped"), "{ended:?}");
}

#[test]
fn a_stopped_process_feeds_no_watchdog() {
    let (manager, daemon) = start("[model]\nthreads = 1\n", |command| {
        command.env("WATCHDOG_USEC", "200000");
    });
    manager.hear("WATCHDOG=1");
    daemon.signal("STOP");
    // What it said before it stopped.
    manager.socket.set_read_timeout(Some(Duration::from_millis(400))).expect("a timeout");
    let mut buffer = [0; 4096];
    while manager.socket.recv(&mut buffer).is_ok() {}
    manager.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    daemon.signal("CONT");
    manager.hear("WATCHDOG=1");
}

#[test]
fn a_reload_puts_tasks_and_the_log_level_in_force() {
    let (manager, mut daemon) = start("[model]\nthreads = 1\n", |_| ());
    manager.hear("READY=1");
    let built_in = daemon.status()["tasks"].as_array().expect("a list").len();
    write_task(&daemon, "door.toml", &door("open"));
    let mut peer = daemon.connect();
    let ask = r#"{"id":"1","task":"door","text":"ajar"}"#;
    peer.send(ask);
    peer.refused(Some("1"), 404, &["door"]);
    reload(&manager, &daemon);
    peer.send(ask);
    assert_eq!(labels(&peer.receive()), ["open", "other"]);

    write_task(&daemon, "door.toml", &door("shut"));
    let config = daemon.socket().with_file_name("tern.toml");
    let text = std::fs::read_to_string(&config).expect("it is there");
    let changed =
        text.replace("log = 'warn'", "log = 'info'") + "[limits]\nqueue = 5\n[socket]\nmode = 0o600\n";
    std::fs::write(&config, changed).expect("writable");
    reload(&manager, &daemon);
    peer.send(ask);
    assert_eq!(labels(&peer.receive()), ["shut", "other"]);
    write_task(&daemon, "door.toml", "kind = 'yes_no'\ninstructions = 'Open?'\n");
    reload(&manager, &daemon);
    daemon.signal("TERM");
    let log = daemon.wait().stderr;
    let restart = "tern: warn: changed, and in force only after a restart: limits.queue, socket.mode";
    assert!(log.contains(restart), "{log}");
    let reloaded = format!("tern: reloaded: {} tasks, changed: door", built_in + 1);
    assert!(log.contains(&reloaded), "{log}");
}

#[test]
fn a_reload_of_something_broken_changes_nothing_and_says_why() {
    let (manager, mut daemon) = start("[model]\nthreads = 1\n", |_| ());
    manager.hear("READY=1");
    write_task(&daemon, "door.toml", &door("open"));
    reload(&manager, &daemon);
    write_task(&daemon, "door.toml", "kind = 'choice'\n\nlabel = ['shut', 'other']\n");
    write_task(&daemon, "new.toml", &door("fine"));
    let status = reload(&manager, &daemon);
    assert!(status.contains("the last reload was refused: ") && status.contains("door.toml:3: "), "{status}");
    let mut peer = daemon.connect();
    peer.send(r#"{"id":"1","task":"door","text":"ajar"}"#);
    assert_eq!(labels(&peer.receive()), ["open", "other"]);
    peer.send(r#"{"id":"2","task":"new","text":"ajar"}"#);
    peer.refused(Some("2"), 404, &["new"]);
    write_task(&daemon, "door.toml", &door("shut"));
    let status = reload(&manager, &daemon);
    assert!(!status.contains("refused: "), "{status}");
    peer.send(r#"{"id":"3","task":"door","text":"ajar"}"#);
    assert_eq!(labels(&peer.receive()), ["shut", "other"]);
    let config = daemon.socket().with_file_name("tern.toml");
    std::fs::write(&config, "lgo = 'warn'\n").expect("writable");
    assert!(reload(&manager, &daemon).contains("tern.toml:1: "));
    daemon.signal("TERM");
    let log = daemon.wait().stderr;
    assert_eq!(log.matches("tern: error: reload refused, everything stays as it was: ").count(), 2, "{log}");
}

#[test]
fn a_request_keeps_the_task_that_it_began_with() {
    let model = format!("[model]\npath = '{TALKER}'\nthreads = 1\nkernels = 'scalar-t2i8'\nslots = 1\n");
    let (manager, daemon) = start(&model, |_| ());
    manager.hear("READY=1");
    write_task(&daemon, "door.toml", &door("open"));
    reload(&manager, &daemon);
    let (mut talker, mut peer) = (daemon.connect(), daemon.connect());
    talker.talk("1");
    assert_eq!(talker.receive()["type"], "token");
    peer.send(r#"{"id":"2","task":"door","text":"ajar"}"#);
    daemon.status_when(|status| status["queue"] == 1);
    write_task(&daemon, "door.toml", &door("shut"));
    reload(&manager, &daemon);
    peer.send(r#"{"id":"3","task":"door","text":"ajar"}"#);
    assert_eq!(labels(&peer.last("2")), ["open", "other"]);
    assert_eq!(labels(&peer.last("3")), ["shut", "other"]);
}

/// Kills a child however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_daemon_that_still_loads_stops_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Opening this waits for somebody who writes, as a disk would that is asleep.
    let model = folder.path().join("model.gguf");
    assert!(Command::new("mkfifo").arg(&model).status().expect("a fifo").success());
    let manager = Manager::at(&folder.path().join("notify"));
    let mut command = binary::tern(["serve", "--config", "/dev/null", "--socket"]);
    command.arg(folder.path().join("t.sock")).arg("--model").arg(&model);
    command.env("NOTIFY_SOCKET", folder.path().join("notify"));
    let mut child = Killed(command.spawn().expect("it starts"));
    let said = manager.hear("STATUS=starting");
    assert!(said.iter().any(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")), "{said:?}");
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.0.id())]).status();
    assert!(sent.expect("a shell runs").success());
    assert_eq!(child.0.wait().expect("it ends").code(), Some(0));
}

#[test]
fn long_work_tells_how_far_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let manager = Manager::at(&folder.path().join("notify"));
    let mut command = binary::tern(["synth", "--shape", "bitnet-large", "--output"]);
    command.arg(folder.path().join("model.gguf")).env("NOTIFY_SOCKET", folder.path().join("notify"));
    let _child = Killed(command.spawn().expect("it starts"));
    let percent = |said: &[String]| -> u32 {
        let status = value(said, "STATUS").strip_prefix("writing: ").expect("what is done");
        status.strip_suffix(" %").and_then(|percent| percent.parse().ok()).expect("how much of it")
    };
    assert_eq!(percent(&manager.next()), 0);
    // On a busy machine the first piece may take longer than two words to the manager.
    let later = std::iter::repeat_with(|| percent(&manager.next())).find(|percent| *percent > 0);
    assert!(later.is_some_and(|percent| percent < 100), "{later:?}");
}

#[test]
fn a_start_that_fails_says_why_to_the_manager() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let manager = Manager::at(&folder.path().join("notify"));
    let mut command =
        binary::tern(["serve", "--config", "/dev/null", "--model", "/nowhere.gguf", "--socket"]);
    command.arg(folder.path().join("t.sock")).env("NOTIFY_SOCKET", folder.path().join("notify"));
    let ended = binary::run(command, "");
    assert_eq!(ended.code, Some(66), "{ended:?}");
    let said = loop {
        let said = manager.hear("STATUS=");
        if value(&said, "STATUS") != "starting" {
            break said;
        }
    };
    assert!(value(&said, "STATUS").contains("/nowhere.gguf"), "{said:?}");
}
