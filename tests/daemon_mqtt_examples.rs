//! The examples of `packaging/examples` that need mosquitto's clients alone.

use std::process::Command;

use serde_json::Value;
use tern_tests::broker::Broker;
use tern_tests::mqtt_daemon::start;

#[test]
fn the_one_liners_of_mosquitto_are_answered() {
    let broker = Broker::start();
    let _daemon = start(&broker, "pi", "");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/examples/mosquitto_rr.sh");
    let mut command = Command::new(script);
    command.env("HOST", "127.0.0.1").env("PORT", broker.port().to_string()).env("DEVICE", "pi");
    let ended = command.output().expect("a shell runs");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    let answers: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?} is no JSON")))
        .collect();
    let kinds: Vec<_> = answers.iter().map(|answer| answer["type"].as_str().unwrap_or_default()).collect();
    assert_eq!(kinds, ["decision", "decision", "decision", "status", "decision"], "{said}");
    assert_eq!(answers[0]["probabilities"], answers[1]["probabilities"]);
    assert!(answers[1]["id"].as_str().is_some_and(|id| id.starts_with("req-")), "{said}");
    assert!(answers[4]["id"].as_str().is_some_and(|id| id.starts_with("old-")), "{said}");
}
