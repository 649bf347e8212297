//! The commands that look at models: `synth`, `inspect`, `logits`, `bench` and `doctor`, through the real program.

use std::path::Path;

use serde_json::Value;
use tern_tests::binary::{Ended, run, tern};
use tern_tests::model::{BUNDLED, bundled, fixture};
use tern_tests::npy;

/// Runs `tern`, which must end with `code`.
fn ends<'a>(code: i32, arguments: impl IntoIterator<Item = &'a str>) -> Ended {
    let ended = run(tern(arguments), "");
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    if code != 0 {
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("tern: ") || code == 2, "{ended:?}");
    }
    ended
}

/// The JSON that `tern` prints with these arguments.
fn json<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Value {
    let ended = ends(0, arguments);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", ended.stdout))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// A folder with a synthetic model in it.
fn synthetic() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = text(&folder.path().join("tiny.gguf")).to_owned();
    ends(0, ["synth", "--shape", "tiny", "-o", &model]);
    (folder, model)
}

#[test]
fn a_synthetic_model_is_the_same_every_time_and_another_with_another_seed() {
    let (folder, model) = synthetic();
    let again = folder.path().join("again.gguf");
    let said = json(["synth", "--shape", "tiny", "-o", text(&again), "--json"]);
    let first = std::fs::read(&model).expect("it was written");
    assert_eq!(said["bytes"], first.len());
    assert_eq!(first, std::fs::read(&again).expect("it was written"));
    ends(0, ["synth", "--shape", "tiny", "-o", text(&again), "--seed", "1"]);
    let other = std::fs::read(&again).expect("it was replaced");
    assert!(other.len() == first.len() && other != first);
    let left = std::fs::read_dir(folder.path()).expect("the folder is there").count();
    assert_eq!(left, 2, "no parts are left behind");
}

#[test]
fn a_model_that_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nowhere = folder.path().join("no/such/folder/x.gguf");
    let ended = ends(73, ["synth", "--shape", "tiny", "-o", text(&nowhere)]);
    assert!(ended.stderr.contains("does not exist"), "{ended:?}");
    ends(73, ["synth", "--shape", "tiny", "-o", text(folder.path())]);
    let ended = ends(2, ["synth", "--shape", "huge", "-o", text(&nowhere)]);
    assert!(ended.stderr.contains("bitnet-2b4t"), "the shapes are named: {ended:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder is there").count(), 0);
}

#[test]
fn inspect_says_what_a_model_is_and_needs() {
    let (_folder, model) = synthetic();
    let found = json(["inspect", &model, "--json", "--tensors", "--threads", "2", "--context", "64"]);
    assert_eq!(found["supported"], true, "{found:#}");
    assert_eq!(found["architecture"], "bitnet-b1.58");
    assert_eq!((&found["shape"]["vocab"], &found["shape"]["layers"]), (&512.into(), &2.into()));
    let ternary = 2 * (128 * (2 * 128 + 2 * 64) + 3 * 128 * 256);
    assert_eq!(found["ternary_weights"], ternary);
    // Codes at two bits, the head as 16-bit floats, and one row of the embedding.
    assert_eq!(found["bytes_per_token"], ternary / 4 + 512 * 128 * 2 + 128 * 2);
    let tensors = found["tensors"].as_array().expect("they were asked for");
    assert_eq!(tensors.len(), 2 + 2 * 11);
    let types = found["types"].as_array().expect("a list");
    let count: u64 = types.iter().filter_map(|ty| ty["tensors"].as_u64()).sum();
    assert_eq!(count, 24, "every tensor is of some type");
    let memory = &found["memory"];
    let sections = memory["sections"].as_array().expect("a list");
    let sum: u64 = sections.iter().filter_map(|section| section["bytes"].as_u64()).sum();
    let arena = memory["arena_bytes"].as_u64().expect("a number");
    assert!(arena >= sum && arena - sum <= 64, "sections add up to the arena but for alignment: {memory:#}");
    let file = std::fs::metadata(&model).expect("it is there").len();
    assert_eq!(memory["total_bytes"], arena + file);
    let pi = found["boards"].as_array().expect("a list").iter().find(|fit| fit["board"] == "raspberry-pi-5");
    assert!(pi.is_some_and(|fit| !fit["fits_mib"].as_array().expect("a list").is_empty()));
    let page = ends(0, ["inspect", &model]).stdout;
    for word in ["synthetic tiny", "Memory with", "key/value cache", "arena and file", "Raspberry Pi 5"] {
        assert!(page.contains(word), "{word} is missing in {page}");
    }
}

#[test]
fn inspect_describes_what_it_cannot_run_and_says_why() {
    // Nothing beside it tells the tiles of its matrices.
    let model = fixture("oracle/gguf/tiny-tl1.gguf");
    let ended = ends(1, ["inspect", text(&model), "--json"]);
    let found: Value = serde_json::from_str(&ended.stdout).expect("JSON all the same");
    assert_eq!(found["supported"], false);
    assert_eq!(found["shape"]["layers"], 2);
    assert!(
        found["problems"].as_array().is_some_and(|list| list.iter().any(|p| p.to_string().contains("TL1")))
    );
    assert!(ended.stderr.contains("cannot be run"), "{ended:?}");
    let page = ends(1, ["inspect", text(&model)]).stdout;
    assert!(page.contains("not supported") && page.contains("TL1"), "{page}");
    // A vocabulary without a model: keys are missing, not a panic.
    ends(1, ["inspect", text(&fixture("oracle/gguf/log-vocab.gguf"))]);
    ends(66, ["inspect", "/nowhere.gguf"]);
    ends(66, ["inspect", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
}

/// Runs `tern logits` on the fixture model and returns the last dimension and the values.
fn logits(more: &[&str]) -> (usize, Vec<f32>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("logits.npy");
    let (model, ids) =
        (fixture("oracle/gguf/tiny-i2_s.gguf"), fixture("oracle/offline_f32/input_ids_margin.npy"));
    let mut arguments = vec!["logits", text(&model), "--ids", text(&ids), "--out", text(&out)];
    arguments.extend(more);
    ends(0, arguments);
    npy::floats(&out)
}

#[test]
fn logits_agree_with_the_reference_and_do_not_depend_on_chunks_threads_or_kernels() {
    let (vocab, found) = logits(&[]);
    let (reference_vocab, expected) = npy::floats(&fixture("oracle/offline_f32/logits_margin.npy"));
    assert_eq!((vocab, found.len()), (reference_vocab, expected.len()));
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 2e-5, "largest difference {worst:e}");
    for more in [
        ["--chunk", "2"].as_slice(),
        &["--chunk", "3", "--threads", "2"],
        &["--kernels", "scalar-t2i8", "--threads", "1"],
    ] {
        assert_eq!(logits(more).1, found, "{more:?}");
    }
    let (_, rounded) = logits(&["--kv", "f16"]);
    assert!(rounded != found, "keys and values in f16 round");
}

#[test]
fn logits_refuse_ids_that_make_no_sense() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ids, out) = (folder.path().join("ids.npy"), folder.path().join("out.npy"));
    let model = fixture("oracle/gguf/tiny-i2_s.gguf");
    let npy = |header: &str, values: &[u8]| {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(values);
        std::fs::write(&ids, file).expect("a temporary file");
    };
    let refused = |code: i32, word: &str| {
        let ended = ends(code, ["logits", text(&model), "--ids", text(&ids), "--out", text(&out)]);
        assert!(ended.stderr.contains(word), "{word:?} is missing in {ended:?}");
        assert!(!out.exists(), "no output after {word:?}");
    };
    refused(66, "cannot read");
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", &[0; 4]);
    refused(64, "int32 or int64");
    npy("{'descr': '<i4', 'fortran_order': False, 'shape': (0,), }", &[]);
    refused(64, "at least one");
    npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", &512i32.to_le_bytes());
    refused(64, "not in the vocabulary of 512");
    npy("{'descr': '<i4', 'fortran_order': False, 'shape': (999999,), }", &vec![0; 4 * 999_999]);
    refused(64, "context_tokens is 999999");
}

#[test]
fn bench_measures_both_rates_beside_their_bound() {
    let (_folder, model) = synthetic();
    let amount = ["--prompt", "8", "--generate", "4", "--repeat", "2", "--threads", "2"];
    let found = json(["bench", &model, "--json"].into_iter().chain(amount));
    for (part, tokens) in [("prompt", 8), ("generate", 4)] {
        let rate = &found[part]["tokens_per_second"];
        assert_eq!(found[part]["tokens"], tokens);
        assert_eq!(rate["values"].as_array().map(Vec::len), Some(2), "{found:#}");
        assert!(rate["mean"].as_f64().is_some_and(|rate| rate > 0.0));
        let joules = &found[part]["joules_per_token"];
        assert!(joules.is_null() || joules.as_f64().is_some_and(|joules| joules > 0.0), "never 0: {found:#}");
    }
    let (bytes, bandwidth) =
        (found["bytes_per_token"].as_f64(), found["bandwidth"]["bytes_per_second"].as_f64());
    let bound = found["bandwidth_bound_tokens_per_second"].as_f64().expect("memory can be read");
    assert!((bound * bytes.expect("a number") / bandwidth.expect("a number") - 1.0).abs() < 1e-9);
    assert_eq!(found["threads"], 2);
    let only = ["bench", &model, "--prompt", "0", "--generate", "2", "--repeat", "1"];
    let page = ends(0, only).stdout;
    assert!(page.contains("tg 2") && !page.contains("pp 0"), "{page}");
    ends(64, ["bench", &model, "--prompt", "0", "--generate", "0"]);
    let ended = ends(64, ["bench", &model, "--prompt", "300"]);
    assert!(ended.stderr.contains("2 to 256"), "the model's context is named: {ended:?}");
}

#[test]
fn doctor_proves_every_set_and_tries_the_model() {
    let model = text(&bundled(BUNDLED)).to_owned();
    let found = json(["doctor", "--json", "--model", &model]);
    assert_eq!(found["wrong"], Value::Array(Vec::new()), "{found:#}");
    let proofs = found["proofs"].as_array().expect("a list");
    let usable = tern_tests::sets::usable();
    assert_eq!(proofs.len(), usable.len());
    assert!(
        proofs.iter().all(|proof| proof["failure"].is_null() && proof["comparisons"].as_u64() > Some(300))
    );
    assert_eq!(found["model"]["path"], model.as_str());
    assert_eq!(found["model"]["sanity"]["sound"], true, "{found:#}");
    let page = ends(0, ["doctor", &model]).stdout;
    assert!(
        page.ends_with("all is well\n") && page.contains("it reads: ") && page.contains("power meter"),
        "{page}"
    );
    let page = ends(1, ["doctor", "--model", "/nowhere.gguf"]).stdout;
    assert!(page.contains("wrong: ") && page.contains("/nowhere.gguf"), "{page}");
    let mut command = tern(["doctor", "--model", &model]);
    command.env("TERN_KERNELS", "warp");
    let ended = run(command, "");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("TERN_KERNELS"), "{ended:?}");
}
