//! `tern tune`: tries every kernel set and number of threads on a model's shape, and keeps what is fastest.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tern_boards::{Board, Cpu, Knobs, Root, recommended_threads};

use crate::bandwidth::last_level_cache_bytes;
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::model::{EngineChoice, OpenError, asked, contenders, default_model, thread_numbers};
use crate::output::{print, print_json};
use crate::progress::Progress;
use crate::state;
use crate::table::{Align, Table};
use crate::tune::saved::{Answer, FILE, Question, keep};
use crate::tune::{best, try_all};

/// Tries which kernels and how many threads are fastest for a model, shows all of it and keeps the best
///
/// The first start with a model does the same by itself; run this again when the machine was busy then, or to see by how
/// much layouts differ. Only the ternary products are timed, on random weights.
#[derive(Args, Debug)]
pub struct TuneArgs {
    /// Model file (GGUF) or directory (Hugging Face), which is not packed for this; without it $TERN_MODEL, else the bundled model
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Tries, shows and keeps.
///
/// # Errors
/// If the model cannot be used or nothing can be tried here.
pub fn run(args: &TuneArgs) -> Result<(), CommandError> {
    let path = match &args.model {
        Some(path) => path.clone(),
        None => default_model()?,
    };
    // The weights of a directory are packed for whatever is found here.
    let (load, layout) = asked(&path, &EngineChoice::default())?;
    let root = Root::new("/");
    let cpu = Cpu::detect(&root);
    let (board, _) = Board::detect(&root, cpu.arch);
    let knobs = Knobs::from_env().map_err(OpenError::Knob)?;
    let allowed = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (sets, others) = (contenders(layout, load.group), thread_numbers(allowed));
    let usual = recommended_threads(&Knobs { threads: None, ..knobs }, &cpu, &board.profile);
    let progress = Progress::items("trying", (sets.len() + others.len() - 1) as u64);
    let cache_bytes = last_level_cache_bytes(&cpu).unwrap_or(8 << 20);
    let trials = try_all(load, &sets, usual, &others, cache_bytes, |_| progress.add(1));
    drop(progress);
    let Some(trial) = best(&trials) else {
        let message = "only scalar kernels run on this machine, or there is no memory to try others";
        return Err(CommandError::new(Exit::Failed, message));
    };
    let folder = state::folder();
    let question = Question::new(load, &cpu, allowed, layout, None);
    if let Some(folder) = &folder {
        keep(folder, Answer::new(question, trial));
    }
    if args.json {
        return print_json(
            &json!({ "trials": trials, "best": trial, "kept_in": folder.map(|at| at.join(FILE)) }),
        );
    }
    let mut table =
        Table::new([Align::Left, Align::Left, Align::Right, Align::Right, Align::Right, Align::Left]);
    table.row(["kernels", "layout", "threads", "ms a decoded token", "ms a prompt token", ""]);
    for tried in &trials {
        table.row([
            tried.kernels.to_owned(),
            tried.layout.to_owned(),
            tried.threads.to_string(),
            figures::three_digits(tried.decode_ms),
            figures::three_digits(tried.prompt_ms),
            if tried == trial { "best".to_owned() } else { String::new() },
        ]);
    }
    let mut page = table.render();
    page += "ternary products alone, on random weights of this shape; best for a prompt of 64 tokens and an answer of 16\n";
    page += &match folder {
        Some(folder) => format!("kept in {}\n", folder.join(FILE).display()),
        None => "not kept: there is no state directory, set STATE_DIRECTORY or HOME\n".to_owned(),
    };
    print(&page)
}
