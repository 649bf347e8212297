//! `tern bench --energy` from outside: what it says of a meter that it is given, and of none.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

#[test]
fn a_meter_gives_joules_with_its_name_and_an_interval() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (config, power) = (folder.path().join("tern.toml"), folder.path().join("power_w"));
    let text =
        format!("[energy]\nmeter = 'external_meter'\nfile = '{}'\nfile_stale_s = 5\n", power.display());
    std::fs::write(&config, text).expect("it can be written");
    let done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        // A program beside that writes four watts, again and again, as the driver of a meter would.
        scope.spawn(|| {
            let fresh = folder.path().join("fresh");
            while !done.load(Ordering::Relaxed) {
                std::fs::write(&fresh, "4.0").expect("it can be written");
                std::fs::rename(&fresh, &power).expect("it can be renamed");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        while !power.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let output = bench(&config, "--energy=require", "1");
        done.store(true, Ordering::Relaxed);
        output
    });
    let report = json(&output);
    let energy = &report["energy"];
    assert_eq!(energy["method"], "external_meter", "{report}");
    assert!(energy["source"].as_str().is_some_and(|source| source.contains("power_w")), "{energy}");
    assert!((energy["idle_before_w"].as_f64().expect("it rested") - 4.0).abs() < 0.2, "{energy}");
    for part in ["prefill", "decode"] {
        let part = &energy[part];
        let number =
            |name: &str| part["joules_per_token"][name].as_f64().unwrap_or_else(|| panic!("{report}"));
        assert!(number("low") < number("median") && number("median") < number("high"), "{part}");
        // Four watts at rest and at work: what a token costs is all rest.
        assert!((part["watts"].as_f64().expect("it was measured") - 4.0).abs() < 0.4, "{part}");
        assert_eq!(part["joules_per_token"]["values"].as_array().map(Vec::len), Some(2));
    }
    assert!(output.status.success(), "{output:?}");
}
