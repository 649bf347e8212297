//! Directories as Hugging Face publishes models: packed, run and compared with what transformers and tokenizers say of them
//! (`tests/oracles/checkpoints.py`).

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tern::tasks::nfc;
use tern_runtime::gguf::Gguf;
use tern_runtime::map::MappedFile;
use tern_runtime::tokenizer::{Special, Tokenizer};
use tern_tests::binary::{Ended, run, tern};
use tern_tests::model::{Setup, fixture, logits, with_engine};
use tern_tests::npy;

/// Runs `tern`, which must end with `code`.
fn ends<'a>(code: i32, arguments: impl IntoIterator<Item = &'a str>) -> Ended {
    let ended = run(tern(arguments), "");
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    ended
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Packs `model` with every weight compared, and says what was printed.
fn packed(model: &Path, output: &Path, layout: &str) -> Value {
    let arguments = ["pack", text(model), "-o", text(output), "--layout", layout, "--head", "file"];
    let ended = ends(0, arguments.into_iter().chain(["--verify", "--json"]));
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", ended.stdout))
}

/// The checkpoint of a fixture with the tokenizer of another: the older ones have none, and logits need none.
fn assembled(folder: &Path, name: &str, tokenizer: &str) -> PathBuf {
    let place = folder.join(name.replace('/', "-"));
    fs::create_dir(&place).expect("a new folder");
    for entry in fs::read_dir(fixture(name)).expect("the fixture").flatten() {
        let file = entry.file_name();
        if text(Path::new(&file)).starts_with("model") || file == "config.json" {
            fs::copy(entry.path(), place.join(file)).expect("room");
        }
    }
    fs::copy(fixture(tokenizer), place.join("tokenizer.json")).expect("the fixture");
    place
}

#[test]
fn every_convention_gives_the_logits_of_transformers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, tokenizer) in [
        ("oracle/offline_f32", "oracle/tokenizer"),
        ("oracle/bitlinear_f32", "oracle/tokenizer"),
        ("hf/online", "hf/online"),
        ("hf/llama", "hf/llama"),
        ("hf/onebit", "hf/onebit"),
    ] {
        let model = assembled(folder.path(), name, &format!("{tokenizer}/tokenizer.json"));
        let oracle = fixture(name);
        let (vocab, expected) = npy::floats(&oracle.join("logits_margin.npy"));
        let ids = npy::ids(&oracle.join("input_ids_margin.npy"));
        let mut first = None;
        for layout in ["t2b128", "t5r"] {
            let output = folder.path().join(format!("{layout}.gguf"));
            let said = packed(&model, &output, layout);
            assert!(said["verified"]["weights"].as_u64() > Some(90_000), "{said}");
            let found = with_engine(&output, Setup::default(), |engine| logits(engine, &ids));
            let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let top = |row: &[f32]| (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            let flips =
                found.chunks(vocab).zip(expected.chunks(vocab)).filter(|(a, b)| top(a) != top(b)).count();
            println!("{name}, {layout}: {} tokens, largest difference {largest:.2e}", ids.len());
            assert!(found.len() == expected.len() && largest <= 2e-5 && flips == 0, "{largest} {flips}");
            assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "the same bits in every layout");
        }
    }
}

#[test]
fn texts_have_the_ids_of_the_library() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("packed.gguf");
    for name in ["online", "llama", "onebit"] {
        let model = fixture(&format!("hf/{name}"));
        packed(&model, &output, "t2r4");
        let map = MappedFile::open(&output).expect("just written");
        let gguf = Gguf::parse(map.bytes()).expect("a good file");
        let plan = Tokenizer::plan(&gguf).expect("a known tokenizer");
        let mut tables = vec![0; plan.table_words()];
        let tokenizer = Tokenizer::build(&gguf, plan, &mut tables).expect("a good tokenizer");
        assert_eq!(tokenizer.add_bos(), name != "llama", "{name}");
        let vectors = fs::read_to_string(model.join("vectors.json")).expect("the fixture");
        let vectors: Vec<Value> = serde_json::from_str(&vectors).expect("JSON");
        assert!(vectors.len() > 150, "{name}: {} texts", vectors.len());
        let (mut scratch, mut ids) = (vec![0; Tokenizer::scratch_words(4096)], vec![0; 4096]);
        for vector in &vectors {
            let line = vector["text"].as_str().expect("a text");
            let expected: Vec<u32> = vector["ids"]
                .as_array()
                .expect("ids")
                .iter()
                .map(|id| id.as_u64().unwrap_or(0) as u32)
                .collect();
            let line = if tokenizer.wants_nfc() { nfc::normalised(line) } else { line.into() };
            let count = tokenizer.encode(&line, Special::Plain, &mut scratch, &mut ids).expect("room");
            assert_eq!(&ids[..count], expected, "{name}: {line:?}");
        }
    }
}

#[test]
fn a_directory_is_used_like_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, state) = (fixture("hf/online"), folder.path().join("state"));
    let (ids, out) = (model.join("input_ids_margin.npy"), folder.path().join("logits.npy"));
    let run_with = |arguments: &[&str]| {
        let mut command = tern(arguments.iter().copied());
        command.env("STATE_DIRECTORY", &state);
        let ended = run(command, "");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    };
    let arguments =
        ["logits", text(&model), "--ids", text(&ids), "--out", text(&out), "--kernels", "scalar-t2i8"];
    run_with(&arguments);
    let first = fs::read(&out).expect("it was written");
    let copy = state.join("packed/online.t2b128.int8-head.gguf");
    let made = fs::metadata(&copy).and_then(|file| file.modified()).expect("the packed copy");
    run_with(&arguments);
    assert!(fs::read(&out).expect("it was written") == first);
    assert_eq!(
        fs::metadata(&copy).and_then(|file| file.modified()).expect("still there"),
        made,
        "packed once"
    );
    run_with(&["run", "--model", text(&model), "--max-tokens", "3", "the pump is"]);
    let found: Value =
        serde_json::from_str(&run_with(&["inspect", text(&model), "--json"]).stdout).expect("JSON");
    assert_eq!((&found["supported"], &found["shape"]["layers"]), (&json!(true), &json!(1)), "{found:#}");
    assert_eq!(found["checkpoint"]["dtypes"]["BF16"], 13, "{found:#}");
    assert!(found["boards"].as_array().is_some_and(|boards| !boards.is_empty()));
    // Its shape is enough to find what is fastest, and what was found is for the directory's next start.
    let found: Value =
        serde_json::from_str(&run_with(&["tune", text(&model), "--json"]).stdout).expect("JSON");
    assert!(found["best"]["threads"].as_u64() > Some(0), "{found:#}");
    assert_eq!(found["kept_in"], json!(state.join("tuning.json")), "{found:#}");
    for option in [&["--no-pack"][..], &["--i2s-blocks", "128"]] {
        let arguments = ["run", "--model", text(&model)].into_iter().chain(option.iter().copied());
        let ended = ends(64, arguments.chain(["the pump is"]));
        assert!(ended.stderr.contains(option[0]) && ended.stderr.contains("tern pack"), "{ended:?}");
    }
    // No place for the copy: said, not worked around.
    let mut command = tern(arguments);
    command.env("STATE_DIRECTORY", out);
    let ended = run(command, "");
    assert!(ended.code == Some(73) && ended.stderr.contains("packed before it is used"), "{ended:?}");
}

/// A safetensors file of so many layers whose linear masters are all zeros: a hole, where the system has such.
fn large(folder: &Path, layers: usize) {
    let mut config: Value =
        serde_json::from_slice(&fs::read(fixture("hf/online/config.json")).expect("the fixture"))
            .expect("JSON");
    let (hidden, ffn, vocab) = (512u64, 1024u64, 384u64);
    for (key, value) in
        [("hidden_size", hidden), ("intermediate_size", ffn), ("num_hidden_layers", layers as u64)]
    {
        config[key] = value.into();
    }
    fs::write(folder.join("config.json"), config.to_string()).expect("room");
    fs::copy(fixture("hf/online/tokenizer.json"), folder.join("tokenizer.json")).expect("the fixture");
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    let mut add = |name: String, shape: &[u64]| {
        let bytes = 2 * shape.iter().product::<u64>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, at + bytes]}));
        at += bytes;
    };
    add("model.embed_tokens.weight".into(), &[vocab, hidden]);
    add("model.norm.weight".into(), &[hidden]);
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[u64]| add(format!("model.layers.{layer}.{name}.weight"), shape);
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
        add("self_attn.attn_sub_norm", &[hidden]);
        add("mlp.ffn_sub_norm", &[ffn]);
        add("self_attn.q_proj", &[hidden, hidden]);
        add("self_attn.o_proj", &[hidden, hidden]);
        add("self_attn.k_proj", &[hidden / 2, hidden]);
        add("self_attn.v_proj", &[hidden / 2, hidden]);
        add("mlp.gate_proj", &[ffn, hidden]);
        add("mlp.up_proj", &[ffn, hidden]);
        add("mlp.down_proj", &[hidden, ffn]);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    let path = folder.join("model.safetensors");
    fs::write(&path, &file).expect("room");
    let sparse = fs::OpenOptions::new().write(true).open(&path).expect("just written");
    sparse.set_len(file.len() as u64 + at).expect("a hole");
}

#[test]
fn a_killed_run_is_gone_on_with_and_writes_what_one_run_writes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a new folder");
    large(&model, 12);
    let (whole, output) = (folder.path().join("whole.gguf"), folder.path().join("out.gguf"));
    let arguments =
        |output| ["pack", text(&model), "-o", output, "--layout", "t2r4", "--threads", "1", "--json"];
    ends(0, arguments(text(&whole)));
    let journal = folder.path().join(".out.gguf.part.journal");
    let places = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count().saturating_sub(1));
    let began = Instant::now();
    let mut program = tern(arguments(text(&output))).spawn().expect("the program starts");
    while places() == 0 && program.try_wait().expect("a child").is_none() {
        assert!(began.elapsed() < Duration::from_secs(100), "no place to go on from");
        thread::sleep(Duration::from_millis(1));
    }
    program.kill().expect("a child");
    program.wait().expect("a child");
    assert!(!output.exists() && places() > 0, "it was to be killed in the middle");
    let said: Value = serde_json::from_str(&ends(0, arguments(text(&output))).stdout).expect("JSON");
    assert!(said["resumed_bytes"].as_u64() > Some(0), "{said}");
    assert!(fs::read(&output).expect("it is there") == fs::read(&whole).expect("it is there"));
    let hidden = fs::read_dir(folder.path()).expect("it is there").flatten();
    let hidden: Vec<_> = hidden.filter(|entry| text(&entry.path()).contains(".part")).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn a_disk_that_fills_up_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    // A bound on the size of files is to a program what a full disk is.
    let mut command = std::process::Command::new("prlimit");
    command.args(["--fsize=200000", text(tern_tests::binary::path()), "pack", text(&fixture("hf/online"))]);
    command.args(["-o", text(&output), "--layout", "t2r4"]).env("TERN_TUNE", "off");
    let ended = command.output().expect("prlimit of util-linux");
    let message = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:?}");
    assert!(message.contains("cannot be written") && !message.contains("panicked"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
}
