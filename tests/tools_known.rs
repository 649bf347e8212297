//! The commands that look at models which are not there: `models`, and `bench` of a shape.

use serde_json::Value;
use tern_tests::binary::{Ended, run, tern};
use tern_tests::model::{BUNDLED, bundled};

/// Runs `tern`, which must end with `code`.
fn ends<'a>(code: i32, arguments: impl IntoIterator<Item = &'a str>) -> Ended {
    let ended = run(tern(arguments), "");
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    ended
}

fn json<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Value {
    serde_json::from_str(&ends(0, arguments).stdout).expect("JSON")
}

#[test]
fn models_are_listed_by_what_fits_and_described_one_by_one() {
    let names = |found: &Value| -> Vec<String> {
        let models = found["models"].as_array().expect("a list");
        models.iter().map(|model| model["model"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    let listed = json(["models", "--json"]);
    for model in listed["models"].as_array().expect("a list") {
        assert!(model["needed_bytes"].as_u64() > Some(4 << 20) && model["board_mib"].is_u64(), "{model:#}");
    }
    let all = names(&listed);
    assert!(all.len() > 12 && all.contains(&"bitnet-2b4t".to_owned()), "{all:?}");
    let small = names(&json(["models", "--json", "--board", "raspberry-pi-zero-2-w"]));
    let large = names(&json(["models", "--json", "--board", "raspberry-pi-5"]));
    assert!(
        small.contains(&"tern-log".to_owned()) && !small.contains(&"bitnet-2b4t".to_owned()),
        "{small:?}"
    );
    assert!(large.len() > small.len() && large.iter().all(|name| all.contains(name)), "{large:?}");
    let here = json(["models", "--json", "--board"]);
    assert!(here["free_bytes"].as_u64() > Some(1 << 20), "{here}");

    let page = ends(0, ["models"]).stdout;
    assert!(
        page.contains("bonsai-8b") && page.contains("Apache-2.0") && page.contains("lacks a part"),
        "{page}"
    );
    let page = ends(0, ["models", "bitnet-2b4t"]).stdout;
    for told in
        ["microsoft/bitnet-b1.58-2B-4T-gguf", "ggml-model-i2_s.gguf", "MIT", "Raspberry Pi", "runs it"]
    {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(!page.contains("not confirmed"), "{page}");
    let page = ends(0, ["models", "falcon-e-1b"]).stdout;
    assert!(page.contains("not confirmed") && page.contains("2048 and 32768 are both said"), "{page}");
    assert!(ends(64, ["models", "gpt-5"]).stderr.contains("bitnet-2b4t"), "what there is is named");
    assert!(
        ends(64, ["models", "--board", "toaster"]).stderr.contains("raspberry-pi-5"),
        "what there is is named"
    );
}

#[test]
fn a_shape_is_timed_by_layers_and_added_up() {
    let found =
        json(["bench", "--json", "--shape", "tiny", "--layers", "2", "--bandwidth", "10", "--context", "32"]);
    assert_eq!(found["layers"].as_array().map(Vec::len), Some(2), "{found:#}");
    let number = |path: &str| found.pointer(path).and_then(Value::as_f64).expect(path);
    let (layer, kv, head) =
        (number("/bytes/layer_bytes"), number("/bytes/kv_bytes_per_position"), number("/bytes/head_bytes"));
    // Two layers, 32 positions.
    assert_eq!(number("/bytes_per_token"), 2.0 * (layer + 32.0 * kv) + head);
    let bound = number("/stated_bound_tokens_per_second");
    assert!((bound * number("/bytes_per_token") / 10e9 - 1.0).abs() < 1e-9, "{found:#}");
    let implied = number("/implied_tokens_per_second");
    let slowest = 1e3 / (2.0 * number("/layers/0/decode_ms").min(number("/layers/1/decode_ms")));
    assert!(implied > 0.0 && implied <= slowest, "{found:#}");
    let page = ends(0, ["bench", "--shape", "tiny", "--layers", "1", "--bandwidth", "10"]).stdout;
    for told in
        ["without a file", "measured here", "added up", "implied here", "implied by a bandwidth of 10.0 GB/s"]
    {
        assert!(page.contains(told), "{told}: {page}");
    }
    ends(2, ["bench", "--shape", "huge"]);
    ends(2, ["bench", "--shape", "tiny", "--bandwidth", "0"]);
}

#[test]
fn the_bundled_model_is_what_the_list_says() {
    let listed = json(["models", "tern-log", "--json"]);
    let listed = &listed["model"];
    let file = bundled(BUNDLED).display().to_string();
    let found = json(["inspect", "--json", &file]);
    assert_eq!(listed["file"], BUNDLED, "{listed:#}");
    let mb = found["file_bytes"].as_f64().expect("a size") / 1e6;
    assert!((mb - listed["file_mb"].as_f64().expect("a size")).abs() <= 0.005, "{mb} MB: {listed:#}");
    for field in ["vocab", "context", "hidden", "ffn", "layers", "heads", "kv_heads", "head_dim"] {
        assert_eq!(found["shape"][field], listed["shape"][field], "{field}");
    }
    assert_eq!(found["architecture"], listed["architecture"]);
}
