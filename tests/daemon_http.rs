//! HTTP in bytes: what clients of libraries never send, and what they never wait for. `tests/peers` has the libraries.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tern_tests::binary::tern;
use tern_tests::http_peer::{HttpDaemon, HttpPeer, Response};
use tern_tests::model::bundled_vocab;

const LINE: &str = "fan 2 stopped, temperature critical";
/// What the bundled model goes on with to any length.
const ENDLESS: &str = "Hello Hello Hello";

fn hello(stream: bool) -> Value {
    json!({"prompt": "Hello", "stream": stream})
}

/// Asks until `is_so`.
#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn one_connection_serves_many_requests() {
    let http = HttpDaemon::start("");
    let mut peer = http.connect();
    assert_eq!(peer.get("/health").json(), json!({"status": "ok"}));
    let body = json!({"content": LINE});
    let tokens = peer.post("/tokenize", &body).json()["tokens"].clone();
    assert!(tokens.as_array().is_some_and(|tokens| tokens.len() > 4), "{tokens}");
    assert_eq!(peer.post("/detokenize", &json!({"tokens": tokens})).json(), body);
    let pieces = peer.post("/tokenize", &json!({"content": LINE, "with_pieces": true})).json();
    let pieces = pieces["tokens"].as_array().expect("a list");
    let text: String = pieces.iter().map(|piece| piece["piece"].as_str().expect("text")).collect();
    assert_eq!(text, LINE);
    // The first that there is not.
    let beyond = bundled_vocab();
    let last = peer.post("/detokenize", &json!({"tokens": [beyond - 1]})).json();
    assert!(last["content"].is_string(), "{last}");
    let refused = peer.post("/detokenize", &json!({"tokens": [beyond]}));
    refused.is_refusal(400, "bad_request", &format!("no token {beyond}"));

    let answer = peer.post("/completion", &json!({"prompt": ENDLESS, "n_predict": 4, "cache_prompt": true}));
    let answer = answer.json();
    assert_eq!((&answer["stop"], &answer["stop_type"]), (&json!(true), &json!("limit")));
    assert_eq!((&answer["tokens_predicted"], &answer["timings"]["predicted_n"]), (&json!(4), &json!(4)));
    assert!(answer["tokens_evaluated"].as_u64().is_some_and(|tokens| tokens > 0), "{answer}");
    assert!(answer["energy"].get("joules").is_some(), "{answer}");
    // Two requests before the first answer.
    peer.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(peer.response().expect("the first").json()["status"], "ok");
    assert_eq!(peer.response().expect("the second").json()["object"], "list");
    peer.send(b"HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(peer.head().map(|head| head.status), Some(200));
}

#[test]
fn events_add_up_to_the_answer() {
    let http = HttpDaemon::start("");
    let ask = |stream| json!({"prompt": ENDLESS, "n_predict": 12, "stream": stream});
    let whole = http.post("/completion", &ask(false)).json();
    let streamed = http.post("/completion", &ask(true));
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    let events: Vec<Value> = (streamed.body.split("\n\n").filter(|event| !event.is_empty()))
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON"))
        .collect();
    let (last, pieces) = events.split_last().expect("events");
    let text: String = pieces.iter().map(|piece| piece["content"].as_str().expect("text")).collect();
    assert_eq!(whole["content"], text.as_str());
    assert_eq!((&last["stop"], &last["tokens_predicted"]), (&json!(true), &json!(12)));
    assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece["stop"] == false));
    let openai = http.post("/v1/completions", &json!({"prompt": ENDLESS, "max_tokens": 3, "stream": true}));
    assert!(openai.body.ends_with("\n\ndata: [DONE]\n\n"), "{openai:?}");
}

#[test]
fn typed_questions_are_answered_with_probabilities() {
    let http = HttpDaemon::start("");
    let questions = json!({
        "which": {"type": "choice", "instructions": "Which subsystem?", "criteria": {"thermal": "heat", "usb": null}},
        "bad": {"type": "score", "instructions": "How bad?", "criteria": ["fine", "poor", "broken"]},
        "person": {"type": "noul", "instructions": "Does this need a person?"},
        "severity": {"task": "log-severity"},
    });
    let answer = http.post("/v1/systemone", &json!({"state": LINE, "questions": questions})).json();
    let answers = &answer["answers"];
    let sum =
        |of: &Value| of.as_object().map_or(0.0, |all| all.values().filter_map(Value::as_f64).sum::<f64>());
    for (id, kind) in [("which", "choice"), ("bad", "score"), ("severity", "choice")] {
        let one = &answers[id];
        assert_eq!(one["type"], kind, "{answer}");
        assert!((sum(&one["probabilities"]) - 1.0).abs() < 1e-4, "{one}");
        assert!(one["confidence"].as_f64().is_some_and(|sure| (0.0..=1.0).contains(&sure)), "{one}");
        assert!(one["energy"].get("joules").is_some(), "{one}");
    }
    let (which, bad) = (&answers["which"], &answers["bad"]);
    let choice = which["choice"].as_str().expect("a choice");
    assert!(which["probabilities"][choice].as_f64().is_some_and(|p| p >= 0.5), "{which}");
    let p = |level: &str| bad["probabilities"][level].as_f64().expect("a probability");
    assert!((bad["score"].as_f64().expect("a score") - p("1") - 2.0 * p("2")).abs() < 1e-4, "{bad}");
    assert_eq!(bad["legend"], json!({"0": "fine", "1": "poor", "2": "broken"}));
    let noul = &answers["person"];
    assert!(noul["noul"].as_f64().is_some_and(|p| (0.0..=1.0).contains(&p)), "{noul}");
    assert!(noul.get("confidence").is_none(), "{noul}");
    assert_eq!(answer["usage"]["output_tokens"], 0);
    // The same by the socket.
    let mut peer = http.daemon.connect();
    peer.send(&json!({"id": "1", "task": "log-severity", "text": LINE}).to_string());
    assert_eq!(peer.receive()["label"], answers["severity"]["choice"]);

    let ask =
        |question: Value| http.post("/v1/systemone", &json!({"state": LINE, "questions": {"q": question}}));
    ask(json!({"task": "nope"})).is_refusal(404, "unknown_task", "question \"q\": no task \"nope\"");
    ask(json!({"task": "summarize"})).is_refusal(400, "bad_request", "name one that decides");
    ask(json!({"type": "choice", "instructions": "x", "criteria": ["a"]})).is_refusal(
        400,
        "bad_request",
        "labels",
    );
}

#[test]
fn what_is_wrong_is_told_with_the_right_status() {
    let http = HttpDaemon::start("body_bytes = 2000\nheader_bytes = 2000\nheader_ms = 300\nbody_ms = 300");
    http.get("/nope").is_refusal(404, "not_found", "/nope");
    let wrong = http.post("/health", &json!({}));
    wrong.is_refusal(405, "method_not_allowed", "not POST");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD"));
    http.get("/completion").is_refusal(405, "method_not_allowed", "takes POST");

    let sent = |bytes: &[u8]| -> Response {
        let mut peer = http.connect();
        peer.send(bytes);
        let response = peer.response().expect("a response");
        assert_eq!(peer.line(), None, "the connection is over");
        response
    };
    let post = |body: &str| {
        let head = "POST /v1/completions HTTP/1.1\r\nconnection: close\r\ncontent-length: ";
        sent(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes())
    };
    post("{").is_refusal(400, "bad_request", "EOF");
    post("").is_refusal(400, "bad_request", "EOF");
    post("[]").is_refusal(400, "bad_request", "JSON object");
    post("{\"prompt\": \"\\ud800\"}").is_refusal(400, "bad_request", "at line 1 column");
    sent(b"POST /v1/completions HTTP/1.1\r\nconnection: close\r\ncontent-length: 14\r\n\r\n{\"prompt\":\"\xff\"}")
        .is_refusal(400, "bad_request", "unicode");
    let big = format!("{{\"prompt\": \"{}\"}}", "x".repeat(3000));
    post(&big).is_refusal(413, "too_large", "http.body_bytes");
    // Far more than is read, and without its length being told.
    sent(format!("POST /completion HTTP/1.1\r\ncontent-length: 9999999999\r\n\r\n{big}").as_bytes())
        .is_refusal(413, "too_large", "http.body_bytes");
    let chunk = format!("{:x}\r\n{}\r\n", 1500, "x".repeat(1500));
    sent(format!("POST /completion HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}").as_bytes())
        .is_refusal(413, "too_large", "http.body_bytes");

    let long = "x".repeat(100_000);
    sent(format!("GET /health HTTP/1.1\r\nx: {long}\r\n\r\n").as_bytes()).is_refusal(
        431,
        "too_large",
        "http.header_bytes",
    );
    sent(format!("GET /{long} HTTP/1.1\r\n\r\n").as_bytes()).is_refusal(
        431,
        "too_large",
        "http.header_bytes",
    );
    sent(b"hello?\r\n\r\n").is_refusal(400, "bad_request", "not HTTP/1.1");
    sent(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").is_refusal(
        400,
        "bad_request",
        "not HTTP/1.1",
    );
    sent(b"GET /health HTTP/1.1\r\nx: ").is_refusal(408, "deadline", "http.header_ms");
    sent(b"POST /completion HTTP/1.1\r\ncontent-length: 100\r\n\r\n{").is_refusal(
        408,
        "deadline",
        "http.body_ms",
    );
    // A second request on a connection has no other rights than the first.
    let mut peer = http.connect();
    assert_eq!(peer.get("/health").status, 200);
    peer.send(b"rubbish\r\n\r\n");
    peer.response().expect("a response").is_refusal(400, "bad_request", "not HTTP/1.1");
    assert_eq!(http.get("/health").status, 200);
}

#[test]
fn a_head_that_comes_in_drips_is_not_waited_for() {
    let http = HttpDaemon::start("header_ms = 400\nkeep_alive_ms = 200");
    let mut slow = http.connect();
    let began = Instant::now();
    let mut sent = 0;
    // A byte at a time, each soon enough by itself.
    while began.elapsed() < Duration::from_millis(300) {
        slow.send(b"x");
        sent += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    slow.response().expect("a response").is_refusal(408, "deadline", "http.header_ms");
    assert!(sent > 2 && began.elapsed() < Duration::from_secs(20));
    // One that says nothing is let go, and so is one that has had its answer.
    assert_eq!(http.connect().line(), None);
    let mut idle = http.connect();
    assert_eq!(idle.get("/health").status, 200);
    assert_eq!(idle.line(), None);
}

#[test]
fn connections_are_counted() {
    let http = HttpDaemon::start("connections = 2");
    // A place may be that of a connection which is not seen to be over yet.
    let place = || {
        let mut found = None;
        wait_for("a free place", || {
            let mut peer = http.connect();
            peer.send(b"GET /health HTTP/1.1\r\n\r\n");
            let served = peer.response().is_some_and(|response| response.status == 200);
            found = served.then_some(peer);
            served
        });
        found.expect("a connection")
    };
    let (one, mut two) = (place(), place());
    let third = http.connect().response().expect("it is told why");
    third.is_refusal(503, "too_many_connections", "http.connections");
    assert_eq!(third.header("retry-after"), Some("1"));
    drop(one);
    drop(place());
    assert_eq!(two.get("/health").status, 200);
}

#[test]
fn hanging_up_cancels() {
    let http = HttpDaemon::talker("");
    for stream in [true, false] {
        let before = http.daemon.status()["requests"]["cancelled"].as_u64().expect("a number");
        let mut peer = http.connect();
        peer.send_post("/v1/completions", &hello(stream));
        http.daemon.status_when(|status| status["live"] == 1);
        drop(peer);
        let status = http.daemon.status_when(|status| status["live"] == 0);
        assert_eq!(status["requests"]["cancelled"], before + 1, "{status}");
    }
    // So does one whose request still waits.
    let mut running = http.connect();
    running.send_post("/v1/completions", &hello(false));
    http.daemon.status_when(|status| status["live"] == 1);
    let mut waiting = http.connect();
    waiting.send_post("/v1/completions", &hello(false));
    http.daemon.status_when(|status| status["queue"] == 1);
    drop(waiting);
    http.daemon.status_when(|status| status["queue"] == 0);
    assert_eq!(running.response().expect("it goes on").status, 200);
    assert_eq!(http.daemon.status()["requests"]["cancelled"], 3);
}

#[test]
fn time_is_limited_and_so_is_the_queue() {
    let http = HttpDaemon::talker("limits.queue = 1");
    let late = http.post("/v1/completions", &json!({"prompt": "Hello", "deadline_ms": 1}));
    late.is_refusal(408, "deadline", "1 ms");
    let mut running = http.connect();
    running.send_post("/v1/completions", &hello(false));
    http.daemon.status_when(|status| status["live"] == 1);
    let mut waiting = http.connect();
    waiting.send_post("/v1/completions", &hello(false));
    http.daemon.status_when(|status| status["queue"] == 1);
    let full = http.post("/v1/completions", &hello(true));
    full.is_refusal(429, "queue_full", "limits.queue");
    let seconds = full.header("retry-after").and_then(|after| after.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| (1..=60).contains(&seconds)), "{full:?}");
}

#[test]
fn health_says_that_the_model_is_being_opened() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("t.toml"), format!("[http]\nlisten = 'unix:{}'\n", path("h.sock").display()))
        .expect("it can be written");
    let mut command = tern(["serve", "--log", "warn", "--config"]);
    command.arg(path("t.toml")).arg("--socket").arg(path("t.sock"));
    // The first start tries kernels for about a second, in which the model is not there yet.
    command.env_remove("TERN_TUNE").env("XDG_STATE_HOME", path("state"));
    let mut child = command.spawn().expect("the program starts");
    wait_for("a connection", || HttpPeer::connect(&path("h.sock")).is_ok());
    let connect = || HttpPeer::connect(&path("h.sock")).expect("it listens");
    let health = connect().get("/health");
    assert_eq!((health.status, health.json()), (503, json!({"status": "loading"})));
    assert_eq!(health.header("retry-after"), Some("1"));
    connect().post("/completion", &hello(false)).is_refusal(503, "loading", "being opened");
    connect().get("/metrics").is_refusal(503, "loading", "being opened");
    assert!(!path("t.sock").exists(), "the model is there already");
    wait_for("the model", || connect().get("/health").status == 200);
    assert_eq!(connect().post("/completion", &json!({"prompt": "x", "n_predict": 1})).status, 200);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn a_daemon_that_stops_says_so_and_delivers() {
    let mut http = HttpDaemon::talker("");
    let mut running = http.connect();
    running.send_post("/v1/completions", &hello(true));
    assert_eq!(running.head().map(|head| head.status), Some(200));
    assert!(running.chunk().is_some_and(|chunk| chunk.starts_with("data: ")));
    let mut other = http.connect();
    http.daemon.signal("TERM");
    wait_for("the end", || {
        let health = other.get("/health");
        let word = health.json()["status"].as_str().map(str::to_owned);
        assert!(matches!((health.status, word.as_deref()), (200, Some("ok")) | (503, Some("stopping"))));
        health.status == 503
    });
    let refused = other.post("/v1/completions", &hello(false));
    refused.is_refusal(503, "stopping", "shutting down");
    assert!(refused.header("retry-after").is_some());
    let mut events = String::new();
    while let Some(chunk) = running.chunk() {
        events += &chunk;
    }
    assert!(events.ends_with("data: [DONE]\n\n") || events.contains("\"code\":\"stopping\""), "{events}");
    assert_eq!(http.daemon.wait().code, Some(0));
    assert!(!http.socket.exists());
}

#[test]
fn what_cannot_be_served_is_told_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let start = |http: &str| {
        std::fs::write(path("t.toml"), format!("[http]\n{http}\n")).expect("it can be written");
        let mut command = tern(["serve", "--log", "warn", "--config"]);
        command.arg(path("t.toml")).arg("--socket").arg(path("t.sock"));
        tern_tests::binary::run(command, "")
    };
    let open = start("listen = '0.0.0.0:0'");
    assert!(open.code == Some(64) && open.stderr.contains("http.key"), "{open:?}");
    let no_key = start(&format!("listen = '0.0.0.0:0'\nkey = {{ file = '{}' }}", path("none").display()));
    assert!(no_key.code == Some(66) && no_key.stderr.contains("the key of HTTP"), "{no_key:?}");
    std::fs::write(path("empty"), "\n").expect("it can be written");
    let empty = start(&format!("key = {{ file = '{}' }}", path("empty").display()));
    assert!(empty.code == Some(66) && empty.stderr.contains("is empty"), "{empty:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let busy = start(&format!("listen = '{address}'"));
    assert!(busy.code == Some(73) && busy.stderr.contains(&address.to_string()), "{busy:?}");
}
