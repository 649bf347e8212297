//! What the daemon keeps of prompts: told in answers, in the status and in metrics.

use serde_json::{Value, json};
use tern_tests::daemon::Daemon;

fn cached(answer: &Value) -> u64 {
    answer["usage"]["cached_tokens"].as_u64().unwrap_or_else(|| panic!("no cached_tokens in {answer}"))
}

fn decide(daemon: &Daemon, texts: &[&str]) -> Vec<Value> {
    let mut peer = daemon.connect();
    for (id, text) in texts.iter().enumerate() {
        peer.send(&json!({"id": id.to_string(), "task": "log-severity", "text": text}).to_string());
    }
    let mut answers: Vec<Value> = texts.iter().map(|_| peer.receive()).collect();
    answers.sort_by_key(|answer| answer["id"].as_str().and_then(|id| id.parse::<usize>().ok()));
    answers
}

#[test]
fn an_answer_says_what_it_did_not_compute() {
    let daemon = Daemon::start("");
    let texts = ["disk sda: I/O error, sector 5", "eth0: link is up", "eth0: link is down"];
    let first = decide(&daemon, &texts[..1]).remove(0);
    assert_eq!(cached(&first), 0, "{first}");
    let again = decide(&daemon, &texts[..1]).remove(0);
    let prompt = again["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert_eq!(cached(&again), prompt - 1, "{again}");
    assert_eq!(again["probabilities"], first["probabilities"]);
    let others = decide(&daemon, &texts[1..]);
    assert!(others.iter().all(|answer| cached(answer) > 3), "{others:?}");
    let sum = cached(&again) + others.iter().map(cached).sum::<u64>();
    assert_eq!(daemon.status()["tokens"]["cached"], sum);
}
