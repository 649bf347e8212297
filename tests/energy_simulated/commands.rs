//! The commands themselves, as far as they go without a board.

use tern_tests::binary::{run, tern};

/// What a command that must end with `code` says.
fn ends(code: i32, words: &[&str]) -> String {
    let ended = run(tern(words.iter().copied()), "");
    assert_eq!(ended.code, Some(code), "{words:?}: {ended:?}");
    ended.stderr + &ended.stdout
}

#[test]
fn what_cannot_be_done_is_said_before_any_load_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (there, readings) = (path("there.toml"), path("readings"));
    std::fs::write(&there, "kept\n").expect("a small file");
    std::fs::write(&readings, "3.1\n").expect("a small file");
    let calibrate = |more: &[&str]| -> Vec<String> {
        ["energy", "calibrate"].iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let said = |code, more: &[&str]| {
        let words = calibrate(more);
        ends(code, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(said(0, &["--dry-run"]).contains("\n  idle\n"));
    assert!(said(66, &["--readings", &path("nowhere")]).contains("No such file"));
    let refused = said(73, &["--readings", &readings, "--output", &there]);
    assert!(refused.contains("--force replaces it"), "{refused}");
    assert_eq!(std::fs::read_to_string(&there).expect("it is there"), "kept\n");
    assert!(
        said(73, &["--readings", &readings, "--output", &path("no/folder/x")]).contains("does not exist")
    );
    said(2, &["--seconds", "0"]);
    said(2, &["--display-error", "90"]);
    ends(2, &["energy", "sweep", "--rounds", "1"]);
    ends(2, &["energy"]);
}
