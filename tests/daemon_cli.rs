//! The commands that speak to a daemon, as a person or a script runs them: what they print and how they end.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Value, json};
use tern_tests::binary::{Ended, run, tern};
use tern_tests::daemon::Daemon;

const LOG_LINES: &str = include_str!("../daemon/demo/log-lines.txt");
const PARAGRAPHS: &str = include_str!("../daemon/demo/paragraphs.txt");
const SEVERITIES: [&str; 4] = ["critical", "error", "warning", "info"];

/// Runs `tern` with nothing on standard input.
fn plain<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Ended {
    run(tern(arguments), "")
}

/// Runs `tern`, which must succeed.
fn good<'a>(arguments: impl IntoIterator<Item = &'a str>, input: impl Into<Vec<u8>>) -> Ended {
    let ended = run(tern(arguments), input);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended
}

/// Runs `tern`, which must refuse with this exit code and say `words` in one line.
#[track_caller]
fn refused<'a>(arguments: impl IntoIterator<Item = &'a str>, input: &str, code: i32, words: &[&str]) {
    let ended = run(tern(arguments), input);
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("tern: "), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is missing in {:?}", ended.stderr);
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
}

fn eval_file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/eval").join(name).display().to_string()
}

#[test]
fn demo_shows_every_line_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = tern(["demo"]);
    command.env("TMPDIR", folder.path());
    let ended = run(command, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "");
    assert!(ended.stdout.is_ascii(), "a pipe gets plain ASCII");
    assert!(!ended.stdout.contains('\u{1b}'), "and no colour");
    let words_of = |text: &str| text.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let mut lines = 0;
    for line in LOG_LINES.lines().filter(|line| !line.starts_with('#')) {
        let text = line.split('\t').nth(2).expect("three columns");
        let (row, next) = {
            let mut rows = ended.stdout.lines().skip_while(|row| !row.contains(&words_of(text)));
            (rows.next().unwrap_or_else(|| panic!("no row for {text}")), rows.next().unwrap_or_default())
        };
        assert!(row.contains('%') && row.contains('#'), "a probability and a bar: {row}");
        assert!(SEVERITIES.iter().any(|label| next.contains(label)), "a severity: {next}");
        lines += 1;
    }
    let mut paragraphs = 0;
    for paragraph in PARAGRAPHS.split("\n\n") {
        let mut rows = ended.stdout.lines().skip_while(|row| !row.contains(&words_of(paragraph))).skip(1);
        let summary = rows.next().expect("a summary follows");
        assert!(summary.trim_start_matches(' ').trim_start_matches("=>").trim().len() > 3, "{summary}");
        assert!(rows.next().is_some_and(|row| row.contains("tok/s")), "what it cost follows");
        paragraphs += 1;
    }
    let work = format!("{} decisions and {paragraphs} summaries", 2 * lines);
    for fact in ["model", "kernels", "board", "time", "answers", "energy"] {
        assert!(ended.stdout.lines().any(|row| row.starts_with(fact)), "{fact} is missing");
    }
    assert!(ended.stdout.contains(&work), "{work} is missing");
    let left = std::fs::read_dir(folder.path()).expect("the folder is there").count();
    assert_eq!(left, 0, "the temporary folder is empty again");
}

#[test]
fn classify_answers_each_line_of_standard_input_in_order() {
    let input =
        b"usb 1-1: device not accepting address 4\n\n  \nwlan0: authenticated\r\nbad byte \xff here\nlast";
    let ended = good(["classify", "--task", "log-severity"], &input[..]);
    let rows: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split('\t').collect()).collect();
    let texts: Vec<&str> = rows.iter().map(|row| row[2]).collect();
    assert_eq!(
        texts,
        ["usb 1-1: device not accepting address 4", "wlan0: authenticated", "bad byte \u{fffd} here", "last"]
    );
    for row in &rows {
        assert!(SEVERITIES.contains(&row[0]) || row[0] == "?", "{row:?}");
        let p: f64 = row[1].parse().expect("a probability");
        assert!((0.25..=1.0).contains(&p), "the best of four has a quarter at least: {row:?}");
    }
    assert!(ended.stderr.contains("4 decisions") && ended.stderr.contains("energy"), "{}", ended.stderr);
    assert_eq!(good(["classify", "--task", "log-severity", "-q"], "x\n").stderr, "");
}

#[test]
fn classify_prints_the_daemons_answers_as_json() {
    let arguments =
        ["classify", "--labels", "usb,network", "--instructions", "Which subsystem?", "--json", "eth0 up"];
    let answer = json(good(arguments, "").stdout.trim_end());
    assert_eq!(answer["type"], "decision");
    let probabilities = answer["probabilities"].as_array().expect("a list");
    let labels: Vec<_> = probabilities.iter().map(|one| one["label"].as_str().expect("a label")).collect();
    assert_eq!(labels, ["usb", "network"]);
    let sum: f64 = probabilities.iter().map(|one| one["p"].as_f64().expect("a number")).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    assert!(answer["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 5));
    let energy = answer["energy"].as_object().expect("an energy object");
    for field in ["joules", "joules_per_token", "method", "scope", "idle", "relative_uncertainty"] {
        assert!(energy.contains_key(field), "{field} is missing");
    }
    assert!(energy["joules"] != 0, "unknown is null, never 0");
}

#[test]
fn classify_asks_about_labels_alone() {
    let line = |more: &[&str]| {
        let arguments = ["classify", "-q", "--labels", "usb,network", "eth0 up"];
        good(arguments.iter().chain(more).copied(), "").stdout
    };
    let alone = line(&[]);
    assert_eq!(alone, line(&["--instructions", "Which of these fits best: {labels}?"]));
    assert_eq!(alone, line(&["--instructions", "Which of these fits best: usb, network?"]));
}

#[test]
fn classify_takes_a_task_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mood.toml");
    std::fs::write(&path, "kind = \"yes_no\"\ninstructions = \"Is this bad?\"\n").expect("written");
    let file = path.display().to_string();
    let ended = good(["classify", "--task-file", &file, "disk full"], "");
    assert!(["yes", "no"].contains(&ended.stdout.split('\t').next().unwrap_or_default()), "{ended:?}");

    std::fs::write(&path, "kind = \"choice\"\nlabls = [\"a\", \"b\"]\n").expect("written");
    refused(["classify", "--task-file", &file, "x"], "", 64, &["mood.toml:2", "labls"]);
    refused(["classify", "--task-file", "/nowhere/t.toml", "x"], "", 66, &["/nowhere/t.toml"]);
}

#[test]
fn one_bad_text_does_not_stop_the_others() {
    let long = "word ".repeat(20_000);
    let input = format!("first\n{long}\nlast\n");
    let ended = run(tern(["classify", "--task", "log-severity"]), input);
    assert_eq!(ended.code, Some(64), "{:?}", ended.stderr);
    let texts: Vec<_> = ended.stdout.lines().filter_map(|line| line.split('\t').nth(2)).collect();
    assert_eq!(texts, ["first", "last"]);
    assert!(ended.stderr.contains("text 2: ") && ended.stderr.contains("1 of 3"), "{}", ended.stderr);
}

#[test]
fn unusable_questions_are_refused_with_what_to_do() {
    let labels = |labels| ["classify", "--labels", labels, "--instructions", "Which?", "x"];
    refused(labels("one"), "", 64, &["label"]);
    refused(labels("a,b,a"), "", 64, &["\"a\""]);
    let thousand: Vec<String> = (0..1000).map(|number| format!("label-{number}")).collect();
    refused(labels(&thousand.join(",")), "", 64, &["label"]);
    refused(
        ["classify", "--task", "log-severty", "x"],
        "",
        64,
        &["log-severty", "log-severity", "summarize"],
    );
    refused(["classify", "--task", "summarize", "x"], "", 64, &["text"]);
    refused(["summarize", "--task", "log-severity", "x"], "", 64, &["decision"]);
    refused(["summarize"], " \n", 64, &["no text"]);
    refused(["run"], "\n", 64, &["empty"]);
    refused(["run", "--max-tokens", "0", "x"], "", 64, &["max_tokens"]);
    refused(["run", "--temperature=-1", "x"], "", 64, &["temperature"]);
}

#[test]
fn wrong_usage_is_code_2_and_names_the_option() {
    for (arguments, word) in [
        (&["classify", "x"][..], "--task"),
        (&["classify", "--task", "t", "--labels", "a,b", "--instructions", "Which?", "x"], "--labels"),
        (&["classify", "--instructions", "Which?", "x"], "--labels"),
        (&["classify", "--task", "t", "--socket", "/s", "--model", "m.gguf", "x"], "--model"),
        (&["run", "--socket", "/s", "--kv", "f16", "x"], "--kv"),
        (&["eval", "set.jsonl", "--limit", "0"], "--limit"),
        (&["dance"], "dance"),
    ] {
        let ended = plain(arguments.iter().copied());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(word), "{word} is missing in {}", ended.stderr);
    }
}

#[test]
fn a_running_daemon_serves_several_commands() {
    let daemon = Daemon::start("");
    let socket = daemon.socket().display().to_string();
    let ask = |text| good(["classify", "--task", "log-severity", "-q", "--socket", &socket, text], "").stdout;
    let first = ask("usb 1-1: reset high-speed device");
    assert!(first.ends_with("\tusb 1-1: reset high-speed device\n"), "{first}");
    assert_eq!(ask("usb 1-1: reset high-speed device"), first);
    let own =
        good(["classify", "--task", "log-severity", "-q", "usb 1-1: reset high-speed device"], "").stdout;
    assert_eq!(own, first, "a command's own daemon answers the same");
}

#[test]
fn a_missing_daemon_or_model_is_said() {
    refused(
        ["classify", "--task", "t", "--socket", "/nowhere/s", "x"],
        "",
        69,
        &["/nowhere/s", "tern serve"],
    );
    refused(["run", "--model", "/nowhere/m.gguf", "x"], "", 66, &["/nowhere/m.gguf"]);
    refused(["demo", "--model", file!()], "", 66, &["daemon_cli.rs"]);
}

#[test]
fn summarize_writes_a_line_a_paragraph_and_what_it_cost() {
    let text =
        "A small tool that reads sensors.\nIt is written in C.\n\nA second paragraph about a web server.\n";
    let ended = good(["summarize", "--paragraphs"], text);
    assert_eq!(ended.stderr.lines().filter(|line| line.contains("generated")).count(), 2, "{ended:?}");
    let answer = json(good(["summarize", "--json", "A tool that reads sensors."], "").stdout.trim_end());
    assert_eq!(answer["type"], "text");
    assert_eq!(answer["task"], "summarize");
    assert!(answer["usage"]["generated_tokens"].as_u64().is_some_and(|tokens| (1..=48).contains(&tokens)));
}

#[test]
fn run_streams_the_text_that_it_reports() {
    let raw = ["run", "--raw", "--max-tokens", "12", "--temperature", "0.9", "--seed", "11", "The daemon"];
    let printed = good(raw, "").stdout;
    assert!(!printed.trim().is_empty());
    let whole = json(good(raw.into_iter().chain(["--json"]), "").stdout.trim_end());
    assert_eq!(printed.trim_end_matches('\n'), whole["text"].as_str().expect("text").trim_end_matches('\n'));
    assert_eq!(good(raw, "").stdout, printed, "a seed makes it the same again");
    let other = ["run", "--raw", "--max-tokens", "12", "--temperature", "0.9", "--seed", "12", "The daemon"];
    assert_ne!(good(other, "").stdout, printed, "another seed makes it another");
}

#[test]
fn run_puts_standard_input_behind_the_prompt() {
    let usage = |arguments: &[&str], input: &str| {
        let ended = good(arguments.iter().copied().chain(["--json", "--max-tokens", "4"]), input);
        json(ended.stdout.trim_end())["usage"]["prompt_tokens"].as_u64().expect("a count")
    };
    let alone = usage(&["run", "What is this?"], "");
    let both = usage(&["run", "What is this?"], "usb 1-1: device descriptor read/64, error -110\n");
    let piped = usage(&["run"], "What is this?\n");
    assert!(both > alone + 8, "{both} against {alone}");
    assert_eq!(piped, alone);
}

#[test]
fn eval_scores_a_set() {
    let file = eval_file("log-severity.jsonl");
    let report = json(good(["eval", &file, "--limit", "120", "--json"], "").stdout.trim_end());
    assert_eq!(report["task"], "log-severity");
    let scores = &report["scores"];
    assert_eq!(scores["rows"], 120);
    let figure = |name: &str| scores[name].as_f64().unwrap_or_else(|| panic!("no {name}"));
    let right: u64 =
        scores["labels"].as_array().expect("labels").iter().filter_map(|one| one["hits"].as_u64()).sum();
    assert!((figure("accuracy") - right as f64 / 120.0).abs() < 1e-9);
    assert!(figure("accuracy") > 0.6, "the bundled model knows severities: {}", figure("accuracy"));
    assert!(figure("macro_f1") > 0.0 && figure("calibration_error") < 0.5);
    assert!(report["answers_per_second"].as_f64().is_some_and(|rate| rate > 0.0));

    let words = good(["eval", &file, "--limit", "20"], "").stdout;
    for part in
        ["accuracy", "macro-F1", "most confident half", "calibration error", "answer \\ guess", "energy"]
    {
        assert!(words.contains(part), "{part} is missing in {words}");
    }
    let file = eval_file("summary.jsonl");
    let report = json(good(["eval", &file, "--limit", "6", "--json"], "").stdout.trim_end());
    assert_eq!(report["summaries"]["rows"], 6);
    assert!(report["summaries"]["rouge_l"].as_f64().is_some_and(|score| (0.0..=1.0).contains(&score)));
    assert!(report["scores"].is_null());
}

#[test]
fn eval_refuses_what_is_no_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    refused(["eval", "/nowhere/set.jsonl"], "", 66, &["/nowhere/set.jsonl"]);
    refused(["eval", &write("log-severity.jsonl", "{\"text\":\"x\"}\n")], "", 64, &["line 1", "answer"]);
    refused(["eval", &write("empty.jsonl", "\n")], "", 64, &["empty"]);
    let letters = write("letters.jsonl", "{\"text\":\"x\",\"labels\":[\"a\",\"b\"],\"answer\":\"a\"}\n");
    refused(["eval", &letters], "", 64, &["\"letters\"", "--instructions"]);
    refused(["eval", &letters, "--task", "log-severity"], "", 64, &["line 1", "no label \"a\""]);
    good(["eval", &letters, "--instructions", "Which letter?"], "");
    let plain = "{\"text\":\"x\",\"labels\":[\"a\",\"b\"],\"answer\":\"a\"}";
    let asking = plain.replace("\"labels\"", "\"instructions\":\"Which?\",\"labels\"");
    let mixed = write("mixed.jsonl", &format!("{asking}\n\n{plain}\n"));
    refused(["eval", &mixed], "", 64, &["line 3 has labels and no instructions", "line 1", "split it"]);
    let lone = write("lone.jsonl", &format!("{asking}\n{}\n", asking.replace(",\"b\"", "")));
    refused(["eval", &lone], "", 64, &["line 2: labels has 1 entries"]);
}

#[test]
fn eval_asks_each_line_its_own_question() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, rows: &[Value]| {
        let path = folder.path().join(name);
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        std::fs::write(&path, lines.join("\n")).expect("written");
        path.display().to_string()
    };
    let eval = |arguments: &[&str]| {
        let arguments = ["eval"].iter().chain(arguments).chain(&["--json"]).copied();
        json(good(arguments, "").stdout.trim_end())
    };
    let rows = [
        json!({"text": "usb 1-1: reset", "instructions": "Which part?", "labels": ["disk", "usb", "fan"], "answer": "usb"}),
        json!({"text": "fan stopped", "instructions": "How bad?", "labels": ["info", "error"], "answer": "error"}),
    ];
    let mut right = 0.0;
    for row in &rows {
        let labels: Vec<&str> =
            row["labels"].as_array().expect("labels").iter().filter_map(Value::as_str).collect();
        let part = |name: &str| row[name].as_str().expect("text");
        let labels = labels.join(",");
        let arguments =
            ["classify", "--labels", &labels, "--instructions", part("instructions"), part("text"), "-q"];
        let line = good(arguments, "").stdout;
        right += f64::from(u8::from(line.starts_with(&format!("{}\t", part("answer")))));
    }
    let own = eval(&[&write("own.jsonl", &rows)]);
    let scores = &own["scores"];
    assert_eq!((&own["task"], &own["own_instructions"]), (&Value::Null, &json!(true)));
    assert_eq!(scores["accuracy"].as_f64(), Some(right / 2.0), "as `classify` answers: {own}");
    assert_eq!(scores["blind_share"].as_f64(), Some((1.0 / 3.0 + 0.5) / 2.0));
    assert!(scores["macro_f1"].is_null() && scores["labels"].is_null(), "the labels differ: {own}");
    let words = good(["eval", &write("own.jsonl", &rows)], "").stdout;
    assert!(words.contains("own.jsonl: instructions and labels of each line, "), "{words}");
    assert!(words.contains("guessing blindly") && !words.contains("macro-F1"), "{words}");

    // The same labels in all lines, in any order: all figures, and those of the same question asked from outside.
    let row = |text: &str, labels: [&str; 2], answer: &str| json!({"text": text, "labels": labels, "answer": answer});
    let plain = [row("fan stopped", ["yes", "no"], "yes"), row("usb 1-1: found", ["no", "yes"], "no")];
    let asking = plain.clone().map(|mut row| {
        row["instructions"] = json!("Is this bad?");
        row
    });
    let outside = eval(&[&write("plain.jsonl", &plain), "--instructions", "Is this bad?"]);
    let inside = eval(&[&write("asking.jsonl", &asking)]);
    assert_eq!(inside["scores"], outside["scores"]);
    assert!(inside["scores"]["macro_f1"].is_number(), "{inside}");
    // A task or a question that is given goes before the lines' own.
    let other = write("log-severity.jsonl", &asking);
    refused(["eval", &other, "--task", "log-severity"], "", 64, &["line 1", "no label \"yes\""]);
    assert_eq!(eval(&[&other])["own_instructions"], json!(true));
    assert_eq!(eval(&[&other, "--instructions", "Is this bad?"])["scores"], outside["scores"]);
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = tern(["classify", "--task", "log-severity", "-q"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("its input");
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("its output"));
    use std::io::Write as _;
    writeln!(stdin, "first line").expect("it reads");
    reader.read_line(&mut first).expect("it answers at once, before its input ends");
    assert!(first.ends_with("\tfirst line\n"), "{first:?}");
    drop(reader);
    // However many lines it takes to notice; the pipe breaks when it has gone.
    while writeln!(stdin, "another line").is_ok() {}
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

#[test]
fn every_command_explains_itself() {
    let top = good(["--help"], "").stdout;
    for command in ["classify", "summarize", "run", "demo", "eval"] {
        assert!(top.contains(command), "{command} is missing in {top}");
        let help = good([command, "--help"], "").stdout;
        assert!(help.lines().count() > 8 && help.contains("--model"), "{help}");
        assert!(command == "demo" || help.contains("Examples:"), "{help}");
    }
}
