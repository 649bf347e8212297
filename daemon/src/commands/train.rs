//! `tern train`: a model of one's own labels, by the recipe in Python that trained the bundled one.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use crate::error::{CommandError, Exit};
use crate::figures;
use crate::model::{default_model, recipe_folders};
use crate::output::print;

const EXAMPLES: &str = "\
Example, on a PC (once, then the last line for each model):
  python3 -m venv ~/tern-train
  ~/tern-train/bin/pip install --require-hashes -r /usr/share/tern/train/requirements.txt
  tern train messages.csv --question 'Which machine is this about?' -o mine --python ~/tern-train/bin/python

messages.csv has the columns `text` and `label`, at least five rows a label; hundreds are better. Into the folder go \
NAME.gguf, the model; NAME.toml, its task; NAME.jsonl, the rows kept for its evaluation; and figures.json, which says \
beside the model's figures what a logistic regression reaches on the same rows.";

/// The script of the recipe.
const SCRIPT: &str = "finetune.py";

/// The number of the signal that an instruction the CPU refuses raises (signal(7), all architectures).
const SIGILL: i32 = 4;

/// Makes a model of your own labels from a CSV of texts and labels, and evaluates it
///
/// The bundled model is trained on with the recipe in Python that made it (PyTorch): minutes on a PC's two cores. The file
/// that comes out runs wherever Tern does, and is asked by its task; what the first model knew fades from it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TrainArgs {
    /// The rows: CSV with the columns `text` and `label`
    #[arg(value_name = "CSV")]
    rows: PathBuf,
    /// What the model is asked about a text
    #[arg(long, value_name = "TEXT", value_parser = parse_question)]
    question: String,
    /// Folder for the model, its task and its evaluation
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// Name of the model and its task
    #[arg(long, value_name = "NAME", default_value = "my-labels", value_parser = parse_name)]
    name: String,
    /// Time for the training alone
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1440))]
    minutes: u32,
    /// Model to begin with, of this recipe (I2_S GGUF); without it $TERN_MODEL, else the bundled model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Python with the packages of the recipe's requirements.txt
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// Folder of the recipe; without it the repository's or the package's
    #[arg(long, value_name = "FOLDER")]
    recipe: Option<PathBuf>,
}

/// The labels are learned, so a question does not name them; it is one line of a prompt.
fn parse_question(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains(['\n', '\r']) {
        return Err("give one line of text".to_owned());
    }
    if text.contains("{labels}") || text.contains("{text}") {
        return Err(
            "the model learns the labels, and the text follows by itself: leave {labels} and {text} out"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

fn parse_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_plain) {
        true => Ok(name.to_owned()),
        false => Err("give letters, digits, - and _".to_owned()),
    }
}

/// Trains, evaluates and says how the model is used.
///
/// # Errors
/// If the rows, the recipe, Python or one of its packages is missing, or training or evaluation fails.
pub fn run(args: &TrainArgs) -> Result<(), CommandError> {
    if !args.rows.is_file() {
        let message = format!("no file {}; give a CSV with the columns text and label", args.rows.display());
        return Err(CommandError::new(Exit::NoInput, message));
    }
    let recipe = recipe(args.recipe.as_deref())?;
    let script = recipe.join(SCRIPT);
    check_python(&args.python, &recipe)?;
    let model = match &args.model {
        Some(path) => path.clone(),
        None => default_model()?,
    };
    let mut training = Command::new(&args.python);
    training.arg(&script).arg("--csv").arg(&args.rows).arg("--model").arg(&model);
    training.args([
        "--question",
        &args.question,
        "--name",
        &args.name,
        "--minutes",
        &args.minutes.to_string(),
    ]);
    training.arg("--out").arg(&args.output);
    finish(&mut training, "the training")?;

    let written = |ending: &str| args.output.join(format!("{}.{ending}", args.name));
    let program = std::env::current_exe()
        .map_err(|error| CommandError::new(Exit::Internal, format!("where this program is: {error}")))?;
    let mut evaluation = Command::new(program);
    evaluation.arg("eval").arg(written("jsonl")).arg("--model").arg(written("gguf"));
    evaluation.args(["--instructions", &args.question]);
    finish(&mut evaluation, "the evaluation")?;
    print(&how_to_use(&args.output, &written("gguf"), &written("toml"), &args.name))
}

fn recipe(named: Option<&Path>) -> Result<PathBuf, CommandError> {
    let looked_at = named.map_or_else(recipe_folders, |folder| vec![folder.to_owned()]);
    let found = looked_at.iter().find(|folder| folder.join(SCRIPT).is_file());
    found.cloned().ok_or_else(|| {
        let places: Vec<String> = looked_at.iter().map(|folder| folder.display().to_string()).collect();
        let message = format!(
            "the recipe is in none of {}; take the folder models/train of Tern's repository and name it with --recipe",
            places.join(", ")
        );
        CommandError::new(Exit::NoInput, message)
    })
}

/// Lets the recipe load its packages, which says what is missing before any time is spent.
fn check_python(python: &Path, recipe: &Path) -> Result<(), CommandError> {
    let tried = Command::new(python).arg(recipe.join(SCRIPT)).arg("--help").stdin(Stdio::null()).output();
    let why = match tried {
        Ok(ended) if ended.status.success() => return Ok(()),
        Ok(ended) => {
            String::from_utf8_lossy(&ended.stderr).lines().last().unwrap_or("it says nothing").to_owned()
        }
        Err(error) => error.to_string(),
    };
    let requirements = recipe.join("requirements.txt");
    let message = format!(
        "{} cannot run the recipe ({why}); python3 -m venv FOLDER && FOLDER/bin/pip install --require-hashes -r {}, then \
         give --python FOLDER/bin/python",
        python.display(),
        requirements.display()
    );
    Err(CommandError::new(Exit::NoInput, message))
}

/// Runs a program to its end, with this one's standard streams.
fn finish(command: &mut Command, what: &str) -> Result<(), CommandError> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|error| {
        CommandError::new(Exit::Internal, format!("{what} could not be started: {error}"))
    })?;
    if status.success() {
        return Ok(());
    }
    let hint = match status.signal() {
        // Virtual machines that announce AMX and hide its description (CPUID leaf 1DH) stop oneDNN's kernels so.
        Some(SIGILL) => "; try again with ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16 in the environment",
        _ => "",
    };
    Err(CommandError::new(Exit::Failed, format!("{what} failed ({status}); what it said stands above{hint}")))
}

fn how_to_use(folder: &Path, model: &Path, task: &Path, name: &str) -> String {
    let size = model.metadata().map_or(0, |file| file.len());
    let absolute =
        |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    format!(
        "\n{} ({}) answers now:\n\
         \x20 tern classify --model {} --task-file {} < texts.txt\n\
         or, in /etc/tern/tern.toml, as the task {name}:\n\
         \x20 [model]\n\
         \x20 path = {:?}\n\
         \x20 [tasks]\n\
         \x20 folder = {:?}\n",
        model.display(),
        figures::bytes(size),
        model.display(),
        task.display(),
        absolute(model),
        absolute(folder),
    )
}
