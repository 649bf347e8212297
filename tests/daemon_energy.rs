//! Where the joules went, over restarts: a daemon whose meter is a file that this test writes, stopped, killed and asked
//! for its report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tern_tests::binary::{self, tern};
use tern_tests::daemon::{Daemon, Peer};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A meter that counts joules into a file, five watts for ever.
struct Counter {
    file: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Counter {
    fn start() -> Counter {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (file, beside) = (folder.path().join("joules"), folder.path().join("joules.new"));
        std::fs::write(&file, "0").expect("a few bytes");
        let (stop, target) = (Arc::new(AtomicBool::new(false)), file.clone());
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            while !told.load(Ordering::Relaxed) {
                // Whole or not at all, as a program that means well writes it.
                std::fs::write(&beside, format!("{:.6}", began.elapsed().as_secs_f64() * 5.0)).expect("room");
                std::fs::rename(&beside, &target).expect("the same folder");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Counter { file, stop, thread: Some(thread), _folder: folder }
    }

    fn config(&self) -> String {
        format!(
            "[energy]\nmeter = 'external_meter'\nfile = '{}'\nfile_unit = 'joules'\nprice_per_kwh = 0.5\n\
             currency = 'EUR'\n[energy.record]\nevery_s = 1\n",
            self.file.display()
        )
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn classify(peer: &mut Peer, times: usize) {
    for _ in 0..times {
        peer.send(r#"{"id":"1","task":"log-severity","text":"fan stopped"}"#);
        assert_eq!(peer.receive()["type"], "decision");
    }
}

/// What `tern energy report` prints of the state in `folder` with more arguments. Two days, as midnight may come.
fn report(folder: &Path, arguments: &[&str]) -> String {
    let mut command = tern(["energy", "report", "--days", "2", "--state"]);
    command.arg(folder.join("state")).args(arguments);
    let ended = binary::run(command, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

/// The part of the one meter of a report.
fn part(folder: &Path) -> Value {
    let report: Value = serde_json::from_str(&report(folder, &["--json"])).expect("JSON");
    assert_eq!(report["meters"].as_array().map(Vec::len), Some(1), "{report}");
    report["meters"][0].clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Everything that the meter counted is somewhere.
fn adds_up(part: &Value) {
    let tasks: f64 =
        part["tasks"].as_array().expect("tasks").iter().map(|task| number(&task["joules"])).sum();
    let sum = tasks + number(&part["idle_joules"]) + number(&part["unattributed_joules"]);
    assert!((sum - number(&part["joules"])).abs() < 1e-6, "{part}");
    let hours: f64 = (part["hours"].as_array().expect("hours").iter())
        .map(|hour| ["requests_joules", "idle_joules", "unattributed_joules"].map(|name| number(&hour[name])))
        .map(|parts| parts.iter().sum::<f64>())
        .sum();
    assert!((hours - sum).abs() < 1e-6, "{part}");
}

fn task<'p>(part: &'p Value, name: &str) -> &'p Value {
    let tasks = part["tasks"].as_array().expect("tasks");
    tasks.iter().find(|task| task["task"] == name).unwrap_or_else(|| panic!("no {name} in {part}"))
}

#[test]
fn totals_go_on_over_restarts_and_a_kill_loses_no_more_than_since_the_last_write() {
    let counter = Counter::start();
    let mut daemon = Daemon::start(&counter.config());
    let mut peer = daemon.connect();
    classify(&mut peer, 5);
    peer.send(r#"{"id":"2","generate":{"prompt":"Hello Hello Hello","max_tokens":30}}"#);
    assert_eq!(peer.receive()["type"], "text");
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code, Some(0));
    // Stopped: all of it is there.
    let first = part(daemon.folder());
    adds_up(&first);
    assert_eq!((first["method"].as_str(), first["scope"].as_str()), (Some("external_meter"), Some("wall")));
    assert_eq!(task(&first, "log-severity")["answered"], 5);
    assert_eq!(
        (&task(&first, "other")["answered"], &task(&first, "other")["decode_tokens"]),
        (&1.into(), &30.into())
    );
    assert!(number(&first["joules"]) > 0.0);

    // Killed at once: what was there before is there still.
    let daemon = Daemon::start_in(daemon.kill(), &counter.config());
    classify(&mut daemon.connect(), 3);
    let folder = daemon.kill();
    let second = part(folder.path());
    adds_up(&second);
    let answered = task(&second, "log-severity")["answered"].as_u64().expect("a count");
    assert!((5..=8).contains(&answered), "{second}");
    assert!(number(&second["joules"]) >= number(&first["joules"]));

    // Killed after a write, which comes within a second: that is there.
    let daemon = Daemon::start_in(folder, &counter.config());
    classify(&mut daemon.connect(), 2);
    let began = Instant::now();
    while task(&part(daemon.folder()), "log-severity")["answered"] != answered + 2 {
        assert!(began.elapsed() < PATIENCE, "the record is not written");
        std::thread::sleep(Duration::from_millis(50));
    }
    let folder = daemon.kill();
    let third = part(folder.path());
    adds_up(&third);
    assert_eq!(task(&third, "log-severity")["answered"], answered + 2);

    let text = report(folder.path(), &["--price", "0.30", "--currency", "EUR"]);
    for word in ["external_meter: file", "covers wall", "idle", "log-severity", "EUR/1000", "by day"] {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
    assert!(text.is_ascii(), "a pipe gets ASCII");
    let svg = folder.path().join("day.svg");
    let csv = report(folder.path(), &["--csv", "--svg", svg.to_str().expect("UTF-8")]);
    assert!(csv.starts_with("day,hour_utc,") && csv.contains(",requests,log-severity,"), "{csv}");
    assert!(std::fs::read_to_string(&svg).expect("it was drawn").ends_with("</svg>\n"));
}

#[test]
fn a_damaged_record_is_set_aside_with_a_warning_and_a_report_of_it_refused() {
    let counter = Counter::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("a folder");
    std::fs::write(state.join("energy.json"), "{\"format\":\"tern-energy\",\"version\":1,\"writ")
        .expect("bytes");
    let refused = |folder: &Path, code: i32, words: &[&str]| {
        let mut command = tern(["energy", "report", "--state"]);
        command.arg(folder);
        let ended = binary::run(command, "");
        assert_eq!(ended.code, Some(code), "{ended:?}");
        words
            .iter()
            .for_each(|word| assert!(ended.stderr.contains(word), "{word:?} is not in {}", ended.stderr));
    };
    refused(&state, 66, &["energy.json", "damaged"]);
    refused(folder.path(), 66, &["there is no record of energy", "energy.record.keep"]);
    let mut daemon = Daemon::start_in(folder, &counter.config());
    classify(&mut daemon.connect(), 1);
    daemon.signal("TERM");
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("damaged") && ended.stderr.contains("energy.json.aside"),
        "{}",
        ended.stderr
    );
    assert!(daemon.folder().join("state/energy.json.aside").exists());
    assert_eq!(task(&part(daemon.folder()), "log-severity")["answered"], 1);
}

#[test]
fn streamed_tokens_carry_joules_that_add_up() {
    let counter = Counter::start();
    let daemon = Daemon::talker(&counter.config());
    let mut peer = daemon.connect();
    peer.talk("1");
    let mut joules = Vec::new();
    let end = loop {
        let answer = peer.receive();
        if answer["type"] != "token" {
            break answer;
        }
        joules.push(answer["joules"].as_f64());
    };
    assert_eq!(joules[0], None, "the first token comes with the prompt");
    let decode = number(&end["energy"]["decode_joules"]);
    assert!((joules.iter().flatten().sum::<f64>() - decode).abs() < 1e-6, "{joules:?} of {decode}");
    // The file is written every 10 ms and read as often: single tokens of so small a model are far below it.
    assert_eq!(end["tokens_below_resolution"], true, "{end}");
}
