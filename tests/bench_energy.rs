//! `tern bench --energy` from outside, on a machine without a meter.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tern_tests::binary::tern;
use tern_tests::daemon::TALKER;

fn bench(config: &Path, energy: &str, seconds: &str) -> Output {
    let mut command = tern([
        "bench",
        TALKER,
        "--prompt",
        "16",
        "--generate",
        "8",
        "--repeat",
        "1",
        "--threads",
        "1",
        "--json",
    ]);
    command.args([energy, "--energy-seconds", seconds, "--energy-repeat", "2", "--config"]).arg(config);
    command.output().expect("it runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn without_a_meter_it_is_null_and_a_failure_only_where_it_is_required() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("tern.toml");
    std::fs::write(&config, "[energy]\nmeter = 'none'\n").expect("it can be written");
    let output = bench(&config, "--energy", "0.1");
    let report = json(&output);
    assert!(output.status.success() && report["energy"].is_null(), "{report}");
    assert!(report["energy_unknown"].as_str().is_some_and(|why| why.contains("no power meter")), "{report}");
    let required = bench(&config, "--energy=require", "0.1");
    assert_eq!(required.status.code(), Some(1));
    assert!(json(&required)["energy"].is_null());
    assert!(String::from_utf8_lossy(&required.stderr).contains("unknown"), "{required:?}");
}
