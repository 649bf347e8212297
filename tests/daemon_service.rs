//! The daemon as `docs/wire.md` describes it, with the bundled model.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tern_tests::daemon::{Daemon, Peer};
use tern_tests::model::{bundled, bundled_name};

const USAGE: [&str; 8] = [
    "prompt_tokens",
    "generated_tokens",
    "label_rows",
    "queue_ms",
    "prefill_ms",
    "decode_ms",
    "prompt_tokens_per_second",
    "generated_tokens_per_second",
];

/// Checks that an answer carries what every last answer of the model carries.
#[track_caller]
fn is_complete(answer: &Value) {
    for field in USAGE {
        assert!(answer["usage"].get(field).is_some(), "{field} in {answer}");
    }
    assert!(answer["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{answer}");
    let energy = &answer["energy"];
    match energy["joules"].as_f64() {
        None => assert_eq!(energy["method"], "unknown", "{answer}"),
        // A request may be over before a coarse meter has counted anything, and then says so.
        Some(joules) => assert!(joules > 0.0 || energy["below_resolution"] == true, "{answer}"),
    }
    assert_eq!(answer["model"], bundled_name(), "{answer}");
}

fn probabilities(answer: &Value) -> Vec<(String, f64)> {
    let list = answer["probabilities"].as_array().expect("a list");
    list.iter()
        .map(|entry| {
            let label = entry["label"].as_str().expect("a label");
            (label.to_owned(), entry["p"].as_f64().expect("a probability"))
        })
        .collect()
}

#[test]
fn a_task_decides_with_one_probability_a_label() {
    let daemon = Daemon::start("");
    let mut peer = daemon.connect();
    peer.send(
        r#"{"id":"1","task":"log-severity","text":"usb 1-1: device not accepting address 5, error -71"}"#,
    );
    let answer = peer.receive();
    assert_eq!(
        (&answer["type"], &answer["id"], &answer["task"]),
        (&json!("decision"), &json!("1"), &json!("log-severity"))
    );
    is_complete(&answer);
    let all = probabilities(&answer);
    let labels: Vec<_> = all.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!(labels, ["critical", "error", "warning", "info"]);
    assert!((all.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-4, "{answer}");
    let (best, p) = all.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("four labels");
    assert_eq!((&answer["label"], answer["probability"].as_f64()), (&json!(best), Some(*p)));
    assert_eq!(answer["usage"]["generated_tokens"], 0);
    assert!(answer["usage"]["generated_tokens_per_second"].is_null());
}

#[test]
fn a_task_in_the_request_can_be_of_every_kind() {
    let daemon = Daemon::start("");
    let mut peer = daemon.connect();
    let mut ask = |ask: Value| {
        peer.send(&json!({"id": "1", "ask": ask, "text": "fan 2 stopped, temperature critical"}).to_string());
        peer.receive()
    };
    let choice =
        json!({"kind": "choice", "name": "mine", "instructions": "Which?", "labels": ["thermal", "usb"]});
    let sure = ask(choice.clone());
    assert_eq!(
        (&sure["task"], &sure["value"], &sure["abstained"]),
        (&json!("mine"), &Value::Null, &json!(false))
    );
    let mut strict = choice;
    strict["threshold"] = json!(1.0);
    let unsure = ask(strict);
    assert_eq!((&unsure["label"], &unsure["abstained"]), (&Value::Null, &json!(true)));
    assert_eq!(unsure["probability"], sure["probability"]);

    let yes_no = ask(json!({"kind": "yes_no", "instructions": "Does this need a person?"}));
    assert_eq!(yes_no["value"], json!(yes_no["label"] == "yes"));

    let score = ask(json!({"kind": "score", "instructions": "How bad?", "min": -2, "max": 2}));
    let expected: f64 =
        probabilities(&score).iter().map(|(label, p)| label.parse::<f64>().expect("a number") * p).sum();
    assert!((score["value"].as_f64().expect("a number") - expected).abs() < 1e-4, "{score}");

    let limits = json!({"max_tokens": 3});
    let text = ask(json!({"kind": "text", "instructions": "Summarize in one line.", "limits": limits}));
    assert_eq!(text["type"], "text");
    assert!(text["usage"]["generated_tokens"].as_u64().is_some_and(|tokens| tokens <= 3), "{text}");
    for answer in [&sure, &yes_no, &score, &text] {
        is_complete(answer);
    }

    let example = json!([{"text": "cpu hot", "answer": "thermal"}]);
    let shown = ask(
        json!({"kind": "choice", "instructions": "Which?", "labels": ["thermal", "usb"], "example": example}),
    );
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert!(tokens(&shown) > tokens(&sure) + 4, "{shown}");
}

#[test]
fn text_streams_in_pieces_that_add_up() {
    let daemon = Daemon::start("");
    let mut peer = daemon.connect();
    let text = "Pod::LaTeX is a module to convert documentation in the Pod format into LaTeX.";
    peer.send(&json!({"id": "1", "task": "summarize", "text": text, "stream": true}).to_string());
    let mut pieces = String::new();
    let whole = loop {
        let answer = peer.receive();
        match answer["type"].as_str() {
            Some("token") => pieces += answer["text"].as_str().expect("text"),
            _ => break answer,
        }
    };
    assert_eq!((&whole["type"], whole["text"].as_str()), (&json!("text"), Some(pieces.as_str())));
    assert!(!pieces.is_empty());
    is_complete(&whole);

    // The same again in one piece; and with a string in it as a stop string, up to that.
    let mut generate = |sampling: Value| {
        let prompt = "User: Summarize in one line.\nA tool to show the time.";
        let generate = json!({"prompt": prompt, "max_tokens": 24, "sampling": sampling});
        peer.send(&json!({"id": "2", "generate": generate}).to_string());
        peer.receive()
    };
    let sampling = json!({"temperature": 1.5, "seed": 7});
    let (first, second) = (generate(sampling.clone()), generate(sampling));
    assert_eq!(first["text"], second["text"]);
    let other = generate(json!({"temperature": 1.5, "seed": 8}));
    assert_ne!(first["text"], other["text"]);
    let long = first["text"].as_str().expect("text");
    let stop: String = long.chars().skip(5).take(3).collect();
    let cut = generate(json!({"temperature": 1.5, "seed": 7, "stop": [stop]}));
    assert_eq!(cut["finish"], "stop_string", "{cut}");
    assert_eq!(cut["text"].as_str(), long.split(&stop).next());
}

#[test]
fn answers_of_many_clients_and_requests_go_where_they_belong() {
    let daemon = Daemon::start("");
    let lines =
        ["usb 1-1: reset", "eth0: link down", "thermal zone0: critical", "EXT4-fs error", "wlan0: deauth"];
    let ask = |peer: &mut Peer, id: usize, line: &str| {
        peer.send(&json!({"id": id.to_string(), "task": "log-subsystem", "text": line}).to_string());
    };
    let mut alone = daemon.connect();
    let expected: Vec<_> = (lines.iter().enumerate())
        .map(|(id, line)| {
            ask(&mut alone, id, line);
            alone.receive()["probabilities"].clone()
        })
        .collect();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (daemon, expected, ask) = (&daemon, &expected, &ask);
            scope.spawn(move || {
                let mut peer = daemon.connect();
                for turn in 0..10 {
                    ask(&mut peer, turn, lines[(turn + client) % lines.len()]);
                }
                for _ in 0..10 {
                    let answer = peer.receive();
                    let turn: usize =
                        answer["id"].as_str().and_then(|id| id.parse().ok()).expect("one of ours");
                    // To the bit: how many others were in the batch must not change an answer.
                    assert_eq!(answer["probabilities"], expected[(turn + client) % lines.len()]);
                }
            });
        }
    });
    let status = daemon.status();
    assert_eq!(status["requests"]["answered"], 45, "{status}");
    assert_eq!(
        (&status["state"], &status["queue"], &status["live"]),
        (&json!("ready"), &json!(0), &json!(0))
    );
    let tasks = status["tasks"].as_array().expect("a list");
    assert!(tasks.contains(&json!("log-subsystem")) && tasks.contains(&json!("summarize")), "{status}");
}

#[test]
fn the_socket_lets_in_whom_the_configuration_says() {
    let mode = |daemon: &Daemon| {
        std::fs::metadata(daemon.socket()).expect("it is there").permissions().mode() & 0o777
    };
    assert_eq!(mode(&Daemon::talker("")), 0o660);
    assert_eq!(mode(&Daemon::talker("socket.mode = 0o600")), 0o600);
}

#[test]
fn the_bundled_model_answers_as_its_trainer_computes() {
    let file = std::fs::read_to_string(bundled("reference/answers.jsonl")).expect("made by reference.py");
    let daemon = Daemon::start("");
    let mut peer = daemon.connect();
    let (mut decisions, mut distances, mut summaries, mut same) = (0, 0.0, 0, 0);
    for row in file.lines() {
        let row: Value = serde_json::from_str(row).expect("JSON lines");
        let mut ask =
            json!({"kind": "text", "instructions": row["instructions"], "limits": {"max_tokens": 32}});
        if !row["labels"].is_null() {
            ask = json!({"kind": "choice", "instructions": row["instructions"], "labels": row["labels"]});
        }
        peer.send(&json!({"id": "1", "ask": ask, "text": row["text"]}).to_string());
        let answer = peer.receive();
        assert_eq!(answer["usage"]["prompt_tokens"], row["prompt_tokens"], "{row} {answer}");
        let Some(shares) = row["shares"].as_array() else {
            summaries += 1;
            same += usize::from(answer["text"] == row["summary"]);
            continue;
        };
        // Some activations are rounded the other way in another order of sums; that moves probabilities a little.
        let pairs = probabilities(&answer);
        assert_eq!(pairs.len(), shares.len(), "{row} {answer}");
        let off =
            pairs.iter().zip(shares).map(|((_, p), share)| (p - share.as_f64().expect("a share")).abs());
        let off = off.fold(0.0, f64::max);
        assert!(off < 0.08, "{off}: {row} {answer}");
        (decisions, distances) = (decisions + 1, distances + off);
    }
    println!(
        "{decisions} decisions, {:.1e} off in the mean; {same} of {summaries} summaries",
        distances / f64::from(decisions)
    );
    assert!(decisions >= 40 && distances / f64::from(decisions) < 0.01, "{distances}");
    assert!(summaries >= 8 && same * 4 >= summaries * 3, "{same} of {summaries}");
}
