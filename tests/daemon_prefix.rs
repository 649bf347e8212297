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

#[test]
fn labels_in_instructions_are_those_of_the_request() {
    let daemon = Daemon::start("");
    let mut peer = daemon.connect();
    let mut ask = |instructions: &str, labels: &[&str]| {
        let ask = json!({"kind": "choice", "instructions": instructions, "labels": labels});
        peer.send(&json!({"id": "1", "ask": ask, "text": "fan 2 stopped"}).to_string());
        peer.receive()
    };
    let (few, many) = (["fan", "pump"], ["door", "fan", "pump"]);
    let first = ask("Which of these fits best: {labels}?", &few);
    assert_eq!(cached(&first), 0, "{first}");
    // Spelt out it is the same prompt, of which all is kept.
    let spelt = ask("Which of these fits best: fan, pump?", &few);
    assert_eq!(spelt["probabilities"], first["probabilities"]);
    let prompt = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert_eq!((prompt(&spelt), cached(&spelt)), (prompt(&first), prompt(&first) - 1));
    // Under other labels the same instructions are another prompt: what was kept of it ends with the words in common.
    let other = ask("Which of these fits best: {labels}?", &many);
    assert!(prompt(&other) > prompt(&first), "{other}");
    let common = cached(&other);
    assert!(common < prompt(&first) - 4, "{other}");
    let fresh = Daemon::start("");
    let alone = json!({"kind": "choice", "instructions": "Which of these fits best: door, fan, pump?", "labels": many});
    let mut peer = fresh.connect();
    peer.send(&json!({"id": "1", "ask": alone, "text": "fan 2 stopped"}).to_string());
    assert_eq!(peer.receive()["probabilities"], other["probabilities"]);
    // A task that has no labels cannot name them.
    let ask = json!({"kind": "text", "instructions": "One of {labels}."});
    peer.send(&json!({"id": "2", "ask": ask, "text": "x"}).to_string());
    peer.refused(Some("2"), 400, &["instructions has {labels}", "kind text"]);
}
