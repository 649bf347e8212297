//! Whatever clients and operators do wrong: the daemon says what, stays up, and serves the others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tern_tests::binary;
use tern_tests::daemon::{Daemon, Peer, assert_refused};

/// A request that must be answered with text, to show that all is well.
#[track_caller]
fn works(peer: &mut Peer) {
    peer.send(r#"{"id":"works","generate":{"prompt":"Hello","max_tokens":2}}"#);
    let answer = peer.receive();
    assert_eq!((&answer["type"], &answer["id"]), (&json!("text"), &json!("works")), "{answer}");
}

#[test]
fn a_line_that_is_no_request_is_refused_and_the_next_is_served() {
    let daemon = Daemon::talker("");
    let mut peer = daemon.connect();
    peer.send_bytes(b"{\"id\":\"\xff\"}\n").expect("the daemon reads");
    peer.refused(None, 400, &["not UTF-8 from byte 7"]);
    let cases = [
        ("hello", None, vec!["not a request", "one JSON object"]),
        (r#"["1", "log-severity"]"#, None, vec!["not a request", "one JSON object"]),
        ("{hello}", None, vec!["not a request", "line 1 column 2"]),
        ("{\"id\":\"1\"", None, vec!["EOF"]),
        (r#"{"task":"log-severity","text":"x"}"#, None, vec!["missing field `id`"]),
        (r#"{"id":7,"task":"log-severity","text":"x"}"#, None, vec!["expected a string"]),
        (r#"{"id":"","status":true}"#, None, vec!["0 bytes", "1 to 128"]),
        (r#"{"id":"1","task":"a","text":"x","threshhold":1}"#, Some("1"), vec!["unknown field `threshhold`"]),
        (r#"{"id":"1"}"#, Some("1"), vec!["0 of task, ask", "exactly one"]),
        (r#"{"id":"1","status":true,"cancel":"2"}"#, Some("1"), vec!["2 of task, ask"]),
        (r#"{"id":"1","task":"log-severity"}"#, Some("1"), vec!["text is missing"]),
        (r#"{"id":"1","generate":{"prompt":"x"},"text":"y"}"#, Some("1"), vec!["task and ask only"]),
        (r#"{"id":"1","generate":{"prompt":"x","max_tokens":0}}"#, Some("1"), vec!["max_tokens is 0"]),
        (r#"{"id":"1","generate":{"prompt":"x","sampling":{"top_p":3}}}"#, Some("1"), vec!["top_p is 3"]),
        (
            r#"{"id":"1","generate":{"prompt":"x","sampling":{"stop":[""]}}}"#,
            Some("1"),
            vec!["stop string 0"],
        ),
        (r#"{"id":"1","chat":{"messages":[]}}"#, Some("1"), vec!["0 messages"]),
        (
            r#"{"id":"1","chat":{"messages":[{"role":"assistant","content":"x"}]}}"#,
            Some("1"),
            vec!["last message"],
        ),
    ];
    for (line, id, words) in cases {
        peer.send(line);
        peer.refused(id, 400, &words);
    }
    let long_id = "x".repeat(129);
    peer.send(&format!(r#"{{"id":"{long_id}","status":true}}"#));
    peer.refused(None, 400, &["129 bytes"]);
    peer.send(r#"{"id":"1","task":"log-severty","text":"x"}"#);
    peer.refused(Some("1"), 404, &["log-severty", "log-severity", "summarize"]);
    peer.send(&format!("{{\"id\":{}{}", "[".repeat(100_000), "]".repeat(100_000)));
    peer.refused(None, 400, &["not a request"]);
    peer.send("\r\n   \n");
    works(&mut peer);
    let status = daemon.status();
    assert_eq!(status["requests"]["answered"], 1, "{status}");
}

#[test]
fn a_hundred_megabytes_without_a_line_end_are_not_kept() {
    let daemon = Daemon::talker("");
    let mut peer = daemon.connect();
    works(&mut peer);
    let before = daemon.peak_bytes();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        peer.send_bytes(&chunk).expect("the daemon reads on");
    }
    peer.send("");
    peer.refused(None, 413, &["1048576 bytes", "limits.line_bytes"]);
    works(&mut peer);
    let grown = daemon.peak_bytes() - before;
    assert!(grown < 8 << 20, "{grown} bytes more");
}

#[test]
fn a_line_that_is_never_finished_ends_the_connection() {
    let daemon = Daemon::talker("[limits]\nline_ms = 100");
    let (mut slow, mut idle) = (daemon.connect(), daemon.connect());
    slow.send_bytes(b"{\"id\":\"1\",").expect("the daemon reads");
    slow.refused(None, 400, &["within 100 ms", "limits.line_ms"]);
    assert_eq!(slow.answer(), None);
    // One that sends nothing at all may stay.
    works(&mut idle);
}

#[test]
fn a_request_cut_off_anywhere_harms_nobody() {
    let daemon = Daemon::talker("[limits]\nclients = 1024");
    let request =
        "{\"id\":\"1\",\"generate\":{\"prompt\":\"\u{e9}\",\"max_tokens\":1},\"stream\":true}\n".as_bytes();
    for cut in 0..request.len() {
        let mut peer = daemon.connect();
        peer.send_bytes(&request[..cut]).expect("the daemon reads");
    }
    works(&mut daemon.connect());
    let idle = |status: &Value| status["live"] == 0 && status["queue"] == 0;
    let status = daemon.status_when(idle);
    // Cut before the last byte of the text it is no request; before the line end it is one, of a client that is gone.
    assert!(status["requests"]["answered"].as_u64().is_some_and(|answered| answered <= 2), "{status}");
}

#[test]
fn a_request_with_any_bit_flipped_harms_nobody() {
    let daemon = Daemon::talker("[limits]\nunread_bytes = 10000000");
    let request =
        r#"{"id":"1","ask":{"kind":"score","instructions":"a","min":0,"max":4},"text":"b","deadline_ms":99}"#;
    let mut peer = daemon.connect();
    for at in 0..request.len() {
        for bit in 0..8 {
            let mut line = request.as_bytes().to_vec();
            line[at] ^= 1 << bit;
            line.push(b'\n');
            peer.send_bytes(&line).expect("the daemon reads");
        }
    }
    peer.end_requests();
    let mut answers = 0;
    while peer.answer().is_some() {
        answers += 1;
    }
    // A flip can split a line in two; none can make a line go unanswered but a blank one.
    assert!(answers >= 8 * request.len(), "{answers} answers");
    works(&mut daemon.connect());
}

#[test]
fn an_id_of_a_live_request_is_not_taken_twice() {
    let daemon = Daemon::talker("");
    let mut peer = daemon.connect();
    peer.talk("1");
    peer.talk("1");
    peer.send(r#"{"id":"1","tsk":"a line that is no request must not end the one that has its id"}"#);
    let mut refusals = Vec::new();
    loop {
        let answer = peer.receive();
        match answer["type"].as_str() {
            Some("token") => {}
            Some("text") => break,
            _ => refusals.push(answer),
        }
    }
    assert_eq!(refusals.len(), 2);
    assert_refused(&refusals[0], None, 400, &["\"1\"", "live request"]);
    assert_refused(&refusals[1], None, 400, &["unknown field `tsk`"]);
    // It is free again, and was never taken on another connection.
    peer.send(r#"{"id":"1","status":true}"#);
    assert_eq!(peer.receive()["type"], "status");
}

#[test]
fn label_sets_that_leave_nothing_to_choose_are_named() {
    let daemon = Daemon::talker("");
    let mut peer = daemon.connect();
    let ask = |labels: Value| {
        let ask = json!({"kind": "choice", "instructions": "Which?", "labels": labels});
        json!({"id": "1", "ask": ask, "text": "x"}).to_string()
    };
    peer.send(&ask(json!([])));
    peer.refused(Some("1"), 400, &["0 entries", "at least 2"]);
    peer.send(&ask(json!(["only"])));
    peer.refused(Some("1"), 400, &["1 entries", "at least 2"]);
    peer.send(&ask(json!(["usb", "network", "usb"])));
    peer.refused(Some("1"), 400, &["\"usb\" is given twice"]);
    peer.send(&ask(json!(["usb", ""])));
    peer.refused(Some("1"), 400, &["label 1 is empty"]);
    let thousand: Vec<_> = (0..1000).map(|label| format!("label {label}")).collect();
    peer.send(&ask(json!(thousand)));
    peer.refused(Some("1"), 400, &["1000 labels"]);
    peer.send(&ask(json!(["usb", "word ".repeat(200)])));
    peer.refused(Some("1"), 400, &["label 1"]);
    peer.send(&ask(json!(["usb", "network"])));
    let decision = peer.receive();
    let probabilities: Vec<_> =
        (0..2).filter_map(|label| decision["probabilities"][label]["p"].as_f64()).collect();
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-4, "{decision}");
}

#[test]
fn texts_over_a_limit_are_refused_with_the_limit() {
    let daemon = Daemon::talker("[limits]\ntext_bytes = 2000");
    let mut peer = daemon.connect();
    let text = |bytes: usize| "a ".repeat(bytes / 2);
    peer.send(&json!({"id": "1", "task": "log-severity", "text": text(2002)}).to_string());
    peer.refused(Some("1"), 413, &["2002 bytes", "2000"]);
    let ask = json!({"kind": "yes_no", "instructions": "Bad?", "limits": {"text_bytes": 10}});
    peer.send(&json!({"id": "1", "ask": ask, "text": text(12)}).to_string());
    peer.refused(Some("1"), 413, &["12 bytes", "10"]);
    let messages = json!([{"role": "system", "content": text(1500)}, {"role": "user", "content": text(600)}]);
    peer.send(&json!({"id": "1", "chat": {"messages": messages}}).to_string());
    peer.refused(Some("1"), 413, &["the conversation has 2100 bytes"]);
    // Within the limit of bytes, beyond the model's context of 256 tokens: never cut silently.
    peer.send(&json!({"id": "1", "task": "log-severity", "text": text(1000)}).to_string());
    peer.refused(Some("1"), 413, &["context of 256"]);
    peer.send(r#"{"id":"1","generate":{"prompt":"x","max_tokens":9999}}"#);
    peer.refused(Some("1"), 413, &["9999", "context of 256"]);
    works(&mut peer);
}

#[test]
fn a_client_that_hangs_up_frees_what_it_held() {
    let daemon = Daemon::talker("");
    let mut leaving = daemon.connect();
    for id in 0..20 {
        leaving.talk(&id.to_string());
    }
    assert_eq!(leaving.receive()["type"], "token");
    drop(leaving);
    let status = daemon.status_when(|status| status["live"] == 0 && status["queue"] == 0);
    let cancelled = status["requests"]["cancelled"].as_u64();
    assert!(cancelled.is_some_and(|cancelled| cancelled >= 19), "{status}");
    works(&mut daemon.connect());
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let daemon = Daemon::talker("[limits]\nclients = 1024");
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{}/{what}", daemon.id())).expect("it is running").count()
    };
    works(&mut daemon.connect());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let daemon = &daemon;
            scope.spawn(move || {
                for turn in 0..50 {
                    let mut peer = daemon.connect();
                    peer.talk("1");
                    peer.send_bytes(b"{\"id\":\"2\",").expect("the daemon reads");
                    if (turn + thread) % 3 == 0 {
                        peer.end_requests();
                    }
                }
            });
        }
    });
    let began = Instant::now();
    // The status itself comes over a connection; so it is not asked for here. What stays open: standard streams, the
    // lock, the listener and its wake-up, the signals' pipe. Threads: main, engine, listener, the writer of what
    // tasks begin with, perhaps one for a meter.
    while count("fd") > 16 || count("task") > 5 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{} files and {} threads are left",
            count("fd"),
            count("task")
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    works(&mut daemon.connect());
}

#[test]
fn a_client_that_only_ends_its_requests_gets_its_answers() {
    let daemon = Daemon::talker("");
    let mut peer = daemon.connect();
    peer.talk("1");
    peer.send_bytes(br#"{"id":"2","generate":{"prompt":"x","max_tokens":1}}"#).expect("the daemon reads");
    peer.end_requests();
    assert_eq!(peer.last("1")["finish"], "context_full");
    assert_eq!(peer.last("2")["finish"], "max_tokens");
    assert_eq!(peer.answer(), None);
}

#[test]
fn a_client_that_does_not_read_is_disconnected() {
    let daemon = Daemon::talker("[limits]\nunread_bytes = 4096");
    let mut deaf = daemon.connect();
    let line = b"{\"id\":\"1\",\"status\":true}\n";
    let began = Instant::now();
    // What the system buffers comes first, some hundred kilobytes.
    while deaf.send_bytes(line).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(30), "it may go on for ever");
    }
    works(&mut daemon.connect());
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let daemon = Daemon::talker("[limits]\nqueue = 3\nclient_queue = 2");
    let (mut greedy, mut modest) = (daemon.connect(), daemon.connect());
    greedy.talk("0");
    assert_eq!(greedy.receive()["type"], "token");
    for id in ["1", "2", "3"] {
        greedy.talk(id);
    }
    let refused = greedy.last("3");
    assert_refused(&refused, Some("3"), 429, &["2 requests of this client", "limits.client_queue"]);
    assert_eq!(refused["reason"], "queue_full");
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|ms| ms >= 10), "{refused}");
    modest.talk("a");
    modest.talk("b");
    assert_refused(&modest.last("b"), Some("b"), 429, &["3 requests wait", "limits.queue"]);
    // Clients take turns: the modest one does not wait for all of the greedy one's.
    assert_eq!(modest.last("a")["type"], "text");
    assert_eq!(greedy.last("2")["type"], "text");
}

#[test]
fn a_deadline_counts_in_the_queue_and_in_the_engine() {
    let daemon = Daemon::talker("[limits]\ndeadline_ms = 60000");
    let mut peer = daemon.connect();
    peer.send(r#"{"id":"1","generate":{"prompt":"Hello"},"deadline_ms":40,"stream":true}"#);
    peer.send(r#"{"id":"2","generate":{"prompt":"Hello"},"deadline_ms":5}"#);
    assert_refused(&peer.last("2"), Some("2"), 408, &["5 ms", "before the engine"]);
    assert_refused(&peer.last("1"), Some("1"), 408, &["40 ms", "while the engine"]);
    works(&mut peer);
    assert_eq!(daemon.status()["requests"]["expired"], 2);
}

#[test]
fn a_request_can_be_cancelled_by_its_own_connection() {
    let daemon = Daemon::talker("");
    let (mut peer, mut other) = (daemon.connect(), daemon.connect());
    peer.talk("running");
    peer.talk("waiting");
    assert_eq!(peer.receive()["type"], "token");
    other.send(r#"{"id":"x","cancel":"running"}"#);
    other.refused(Some("x"), 404, &["\"running\""]);
    peer.send(r#"{"id":"c1","cancel":"waiting"}"#);
    assert_refused(&peer.last("waiting"), Some("waiting"), 499, &["cancelled"]);
    assert_eq!(peer.last("c1")["cancel"], "waiting");
    peer.send(r#"{"id":"c2","cancel":"running"}"#);
    assert_refused(&peer.last("running"), Some("running"), 499, &["cancelled"]);
    assert_eq!(peer.last("c2")["type"], "cancelled");
    peer.send(r#"{"id":"c3","cancel":"running"}"#);
    peer.refused(Some("c3"), 404, &["ended already"]);
    peer.send(r#"{"id":"c4","cancel":"c4"}"#);
    peer.refused(Some("c4"), 404, &["\"c4\""]);
    works(&mut peer);
}

#[test]
fn one_client_too_many_is_told_so() {
    let daemon = Daemon::talker("[limits]\nclients = 1");
    // The connection that looked whether the daemon is up may not have been noticed to be gone.
    let began = Instant::now();
    let mut first = loop {
        let mut first = daemon.connect();
        let sent = first.send_bytes(b"{\"id\":\"1\",\"status\":true}\n").is_ok();
        if sent && first.answer().is_some_and(|answer| answer["type"] == "status") {
            break first;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "the only client is not served");
    };
    let mut second = daemon.connect();
    second.refused(None, 429, &["1 clients", "limits.clients"]);
    assert_eq!(second.answer(), None);
    works(&mut first);
}

#[test]
fn a_second_daemon_finds_the_first_and_a_dead_one_is_replaced() {
    let first = Daemon::talker("");
    let ended = binary::run(first.second(), "");
    assert_eq!(ended.code, Some(73), "{ended:?}");
    assert!(
        ended.stderr.contains("another daemon answers on") && ended.stderr.contains("--socket"),
        "{ended:?}"
    );
    works(&mut first.connect());
    // Its socket stays behind, and nobody answers on it.
    let folder = first.kill();
    assert!(folder.path().join("t.sock").exists());
    let config = std::fs::read_to_string(folder.path().join("tern.toml")).expect("it is left");
    let heir =
        Daemon::start_in(folder, config.strip_prefix("log = 'warn'\n").expect("the line put in front"));
    works(&mut heir.connect());
}

#[test]
fn a_file_in_the_sockets_place_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("t.sock");
    std::fs::write(&place, "precious").expect("it can be written");
    let mut command = binary::tern(["serve", "--socket"]);
    command.arg(&place);
    let ended = binary::run(command, "");
    assert_eq!(ended.code, Some(73), "{ended:?}");
    assert!(ended.stderr.contains("is not a socket"), "{ended:?}");
    assert_eq!(std::fs::read_to_string(&place).expect("it is there"), "precious");
}

#[test]
fn sigterm_lets_running_requests_finish_and_turns_the_rest_away() {
    let mut daemon = Daemon::talker("[limits]\nstop_ms = 60000");
    let mut peer = daemon.connect();
    peer.talk("running");
    peer.talk("waiting");
    assert_eq!(peer.receive()["type"], "token");
    daemon.signal("TERM");
    assert_refused(&peer.last("waiting"), Some("waiting"), 503, &["shutting down"]);
    peer.talk("late");
    let (mut running, mut late) = (false, false);
    while let Some(answer) = peer.answer() {
        match answer["id"].as_str() {
            Some("running") if answer["type"] == "text" => running = answer["finish"] == "context_full",
            Some("late") => {
                assert_refused(&answer, Some("late"), 503, &["shutting down"]);
                late = true;
            }
            _ => assert_eq!(answer["type"], "token", "{answer}"),
        }
    }
    assert!(running && late, "running finished: {running}, late refused: {late}");
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!daemon.socket().exists());
}

#[test]
fn sigterm_breaks_off_what_does_not_finish_in_time() {
    let mut daemon = Daemon::talker("[limits]\nstop_ms = 0");
    let mut peer = daemon.connect();
    peer.talk("1");
    assert_eq!(peer.receive()["type"], "token");
    daemon.signal("INT");
    assert_refused(&peer.last("1"), Some("1"), 503, &["shutting down"]);
    assert_eq!(peer.answer(), None);
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("tern.toml");
    let start = |config: &str| {
        std::fs::write(&file, config).expect("it can be written");
        let mut command = binary::tern(["serve", "--config"]);
        command.arg(&file).arg("--check-config");
        binary::run(command, "")
    };
    let ended = start("[limits]\nqueue = 5\nquueue = 3\n");
    assert_eq!(ended.code, Some(64), "{ended:?}");
    assert!(ended.stderr.contains("tern.toml:3: ") && ended.stderr.contains("quueue"), "{ended:?}");
    let ended = start("[limits]\nclients = 0\n");
    assert_eq!(ended.code, Some(64), "{ended:?}");
    assert!(ended.stderr.contains("limits.clients is 0"), "{ended:?}");
    std::fs::write(folder.path().join("bad.toml"), "kind = 'choice'\nlabels = ['a', 'b']\n")
        .expect("writable");
    let ended = start(&format!("[tasks]\nfolder = '{}'\n", folder.path().display()));
    assert_eq!(ended.code, Some(64), "{ended:?}");
    std::fs::remove_file(folder.path().join("bad.toml")).expect("it is there");
    let ended = start("[tasks]\nfolder = '/nowhere'\n");
    assert_eq!(ended.code, Some(66), "{ended:?}");
    assert!(ended.stderr.contains("/nowhere"), "{ended:?}");
    let ended = start("[model]\npath = '/nowhere.gguf'\n");
    assert_eq!(ended.code, Some(66), "{ended:?}");
    let ended = start("");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("log-severity"), "{ended:?}");
}
