//! `tern train`: what it refuses before any time is spent, and what it makes of a recipe's outcome.
//!
//! The recipe here is the test's own and trains nothing: it hands on the model it is given, as the real one writes its
//! outcome. The real one needs PyTorch; `models/train/README.md` has what it reaches.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tern_tests::binary::{Ended, run, tern};

const QUESTION: &str = "How severe is this log line?";

const RECIPE: &str = r#"
import argparse, json, os, shutil, sys
parser = argparse.ArgumentParser()
for name in ("csv", "model", "question", "name", "minutes", "out"):
    parser.add_argument("--" + name, required=True)
args = parser.parse_args()
if args.minutes == "3":
    sys.exit("loss is not a number")
os.makedirs(args.out)
path = os.path.join(args.out, args.name)
shutil.copy(args.model, path + ".gguf")
labels = ["error", "info"]
with open(path + ".toml", "w") as file:
    file.write(f'kind = "choice"\ninstructions = {json.dumps(args.question)}\nlabels = {json.dumps(labels)}\n')
with open(args.csv) as rows, open(path + ".jsonl", "w") as file:
    for row in rows.read().splitlines()[1:]:
        text, label = row.rsplit(",", 1)
        file.write(json.dumps({"text": text, "labels": labels, "answer": label}) + "\n")
"#;

const ROWS: &str = "text,label\nsda: write failed: I/O error,error\nusb 1-1: new device,info\n";

struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("recipe")).expect("a folder");
        fs::write(folder.path().join("recipe/finetune.py"), RECIPE).expect("the recipe");
        fs::write(folder.path().join("rows.csv"), ROWS).expect("the rows");
        Bench { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `tern train rows.csv` with the recipe, the output folder `mine` and further arguments.
    fn train(&self, more: &[&str]) -> Ended {
        let mut command = tern(["train", "rows.csv", "-o", "mine", "--recipe", "recipe"]);
        command.args(more).current_dir(self.folder.path());
        run(command, "")
    }
}

#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("tern: ") || code == 2, "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is missing in {:?}", ended.stderr);
    }
}

#[test]
fn the_outcome_is_evaluated_and_its_use_is_said() {
    let bench = Bench::new();
    let ended = bench.train(&["--question", QUESTION, "--name", "lines"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for words in ["accuracy", "mine/lines.gguf (", "--task-file mine/lines.toml", "[tasks]"] {
        assert!(ended.stdout.contains(words), "{words:?} is missing in {:?}", ended.stdout);
    }
    let named = |line: &str| {
        ended.stdout.contains(&format!("{line} = {:?}", bench.path("mine").display().to_string()))
    };
    assert!(named("folder"), "{:?}", ended.stdout);

    // What it says to do does it.
    let (model, task) = (bench.path("mine/lines.gguf"), bench.path("mine/lines.toml"));
    let words = |path: &Path| path.display().to_string();
    let ended = run(
        tern(["classify", "--model", &words(&model), "--task-file", &words(&task)]),
        "sda: write failed: I/O error\n",
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("error") || ended.stdout.contains("info"), "{ended:?}");
}

#[test]
fn what_is_missing_is_said_before_the_training() {
    let bench = Bench::new();
    let question = ["--question", QUESTION];
    let ended = bench.train(&[&question[..], &["--python", "/nowhere/python"]].concat());
    refused(&ended, 66, &["/nowhere/python cannot run the recipe", "pip install", "recipe/requirements.txt"]);

    fs::write(bench.path("recipe/finetune.py"), "import a_package_nobody_has\n").expect("another recipe");
    refused(&bench.train(&question), 66, &["No module named 'a_package_nobody_has'", "--python"]);
    assert!(!bench.path("mine").exists());

    fs::remove_file(bench.path("recipe/finetune.py")).expect("no recipe");
    refused(&bench.train(&question), 66, &["the recipe is in none of recipe", "models/train"]);
    fs::remove_file(bench.path("rows.csv")).expect("no rows");
    refused(&bench.train(&question), 66, &["no file rows.csv", "text and label"]);
}

#[test]
fn a_training_that_fails_is_a_failure() {
    let bench = Bench::new();
    let ended = bench.train(&["--question", QUESTION, "--minutes", "3"]);
    refused(&ended, 1, &["loss is not a number", "the training failed (exit status: 1)"]);
}

#[test]
fn questions_and_names_that_cannot_work_are_usage() {
    let bench = Bench::new();
    refused(&bench.train(&["--question", "Which of {labels}?"]), 2, &["{labels}", "learns the labels"]);
    refused(&bench.train(&["--question", "two\nlines"]), 2, &["one line"]);
    refused(&bench.train(&["--question", QUESTION, "--name", "../mine"]), 2, &["letters, digits"]);
    refused(&bench.train(&["--question", QUESTION, "--minutes", "0"]), 2, &["--minutes"]);
    refused(&bench.train(&[]), 2, &["--question"]);
}
