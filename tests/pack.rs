//! `tern pack`: the same model in every layout, compared as its user would and weight by weight.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tern_tests::binary::{Ended, run, tern};
use tern_tests::model::{BUNDLED, bundled, fixture};

const LAYOUTS: [&str; 5] = ["t2b128", "tl1p32", "t2r4", "t5r", "t5c"];

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

/// Packs `model` with this head and `--verify`, and says what was printed.
fn packed(model: &Path, output: &Path, layout: &str, head: &str) -> Value {
    let arguments = ["pack", text(model), "-o", text(output), "--layout", layout, "--head", head];
    let ended = ends(0, arguments.into_iter().chain(["--verify", "--json"]));
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", ended.stdout))
}

/// The logits of a few tokens, as the program writes them.
fn logits(folder: &Path, model: &Path) -> Vec<u8> {
    let (ids, out) = (fixture("oracle/offline_f32/input_ids_margin.npy"), folder.join("logits.npy"));
    ends(0, ["logits", text(model), "--ids", text(&ids), "--out", text(&out)]);
    fs::read(&out).expect("it was written")
}

#[test]
fn every_layout_holds_the_same_model_and_gives_the_same_bits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for model in [bundled(BUNDLED), fixture("oracle/gguf/tiny-i2_s.gguf")] {
        let expected = logits(folder.path(), &model);
        let source_bytes = fs::metadata(&model).expect("the model is there").len();
        for layout in LAYOUTS {
            let output = folder.path().join(format!("{layout}.gguf"));
            let said = packed(&model, &output, layout, "file");
            assert_eq!((&said["layout"], &said["source_bytes"]), (&layout.into(), &source_bytes.into()));
            assert_eq!(said["bytes"], fs::metadata(&output).expect("it was written").len());
            let verified = &said["verified"];
            assert!(
                verified["weights"].as_u64() > Some(10_000) && verified["keys"].as_u64() > Some(15),
                "{said}"
            );
            assert_eq!(logits(folder.path(), &output), expected, "{layout} of {}", model.display());
        }
    }
}

#[test]
fn a_packed_file_is_a_model_like_any_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = bundled(BUNDLED);
    let (five, back) = (folder.path().join("five.gguf"), folder.path().join("back.gguf"));
    packed(&model, &five, "t5r", "file");
    // Packed once more into the layout of the original: nothing was lost on the way.
    packed(&five, &back, "t2b128", "int8");
    let again = fs::read(&back).expect("it was written");
    let said = packed(&model, &back, "t2b128", "int8");
    assert_eq!(said["verified"]["head_rows"], shape(&model, "vocab"), "{said}");
    let all = fs::read(&back).expect("it was written");
    assert_eq!(all.len(), again.len());
    assert_eq!(said["verified"]["matrices"], 7 * shape(&model, "layers"));
    let ended = ends(0, ["inspect", text(&five), "--json"]);
    let found: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(found["supported"], true, "{found:#}");
    let types = found["types"].as_array().expect("a list");
    assert!(types.iter().any(|ty| ty["type"] == "TERN_T5R" && ty["supported"] == true), "{types:?}");
    // Messages are decided alike, to the last digit.
    let lines = "eth0: link down\nCPU0: core temperature above threshold\n";
    let decided = |model: &Path| {
        let ended = run(tern(["classify", "--task", "log-subsystem", "--model", text(model)]), lines);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout
    };
    assert_eq!(decided(&model), decided(&five));
}

fn shape(model: &Path, of: &str) -> u64 {
    let ended = ends(0, ["inspect", text(model), "--json"]);
    let found: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    found["shape"][of].as_u64().expect("a number")
}

#[test]
fn what_cannot_be_packed_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, output) = (folder.path().join("model.gguf"), folder.path().join("out.gguf"));
    let good = fs::read(fixture("oracle/gguf/tiny-i2_s.gguf")).expect("the fixture is there");
    // A code of 3 in the last matrix, whose codes end 32 bytes and a norm before the end of the file.
    let mut damaged = good.clone();
    let at = damaged.len() - 4096;
    damaged[at] |= 3;
    damaged[at + 1] = 0xff;
    for (bytes, code, word) in [
        (&b"not a model at all"[..], 66, "GGUF"),
        (&good[..good.len() / 2], 66, "file"),
        (&damaged, 66, "no ternary weight"),
    ] {
        fs::write(&model, bytes).expect("a small file");
        let ended = ends(code, ["pack", text(&model), "-o", text(&output)]);
        assert!(ended.stderr.contains(word), "{word}: {ended:?}");
        assert!(!output.exists());
    }
    fs::write(&model, &good).expect("a small file");
    ends(73, ["pack", text(&model), "-o", text(&folder.path().join("no/such/folder/x.gguf"))]);
    let ended = ends(2, ["pack", text(&model), "-o", text(&output), "--layout", "t7"]);
    assert!(ended.stderr.contains("t5r"), "the layouts are named: {ended:?}");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder is there").count(), 1);
}
