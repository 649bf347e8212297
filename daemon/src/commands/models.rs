//! `tern models`: the ternary models that somebody can get, what they need, and what this build lacks for them.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;
use tern_boards::Root;
use tern_boards::memory::Memory;
use tern_boards::profile::built_in;

use crate::catalog::{KNOWN, Known};
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::inspect::{RESERVED_BYTES, boards};
use crate::output::{print, print_json};
use crate::table::{Align, Table};

/// Lists known ternary models: size, licence, memory, where their makers publish them, and whether this build runs them
///
/// Nothing is downloaded. Memory is that of the model packed by Tern (1.6 bits a weight, int8 head) with two contexts of at
/// most 2048 tokens; `tern inspect FILE` says it exactly for a file that is there.
#[derive(Args, Debug)]
pub struct ModelsArgs {
    /// Show all that is known of one model
    #[arg(value_name = "NAME", conflicts_with = "board")]
    name: Option<String>,
    /// List only what fits this machine's memory, or the largest of a board by the name of its profile
    #[arg(long, value_name = "BOARD", num_args = 0..=1, default_missing_value = "")]
    board: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists the models.
///
/// # Errors
/// If there is no such model or board.
pub fn run(args: &ModelsArgs) -> Result<(), CommandError> {
    if let Some(name) = &args.name {
        let known = KNOWN.models.iter().find(|model| model.name == *name).ok_or_else(|| {
            let names: Vec<&str> = KNOWN.models.iter().map(|model| model.name.as_str()).collect();
            CommandError::new(
                Exit::BadInput,
                format!("no model {name:?} is known; give one of {}", names.join(", ")),
            )
        })?;
        return if args.json { print_json(&facts(known)) } else { print(&page(known)) };
    }
    let free = args.board.as_deref().map(free_bytes).transpose()?;
    let fits = |model: &&Known| free.as_ref().is_none_or(|(bytes, _)| model.fits(*bytes));
    let models: Vec<&Known> = KNOWN.models.iter().filter(fits).collect();
    if args.json {
        let all: Vec<_> = models.iter().map(|model| facts(model)).collect();
        return print_json(
            &json!({ "checked": KNOWN.checked, "free_bytes": free.map(|(bytes, _)| bytes), "models": all }),
        );
    }
    print(&list(&models, free.as_ref()))
}

/// Free memory of this machine, or of the board with this profile, and what that is.
fn free_bytes(board: &str) -> Result<(u64, String), CommandError> {
    if board.is_empty() {
        let memory = Memory::detect(&Root::new("/"));
        let bytes = memory.usable_bytes().ok_or_else(|| {
            CommandError::new(Exit::Failed, "this system does not say how much memory is free; name a board")
        })?;
        return Ok((bytes, "free on this machine".into()));
    }
    let sizes = |profile: &tern_boards::profile::Profile| {
        profile.memory.as_ref().and_then(|memory| memory.sizes_mib.iter().max().copied())
    };
    match built_in()
        .find(|profile| profile.name == board)
        .and_then(|profile| Some((sizes(&profile)?, profile)))
    {
        Some((mib, profile)) => {
            let what = format!("of the {} MiB of the largest {}", mib, profile.title);
            Ok(((mib << 20).saturating_sub(RESERVED_BYTES), what))
        }
        None => {
            let names: Vec<String> =
                built_in().filter(|profile| sizes(profile).is_some()).map(|profile| profile.name).collect();
            let message = format!("no board {board:?} with a known memory; give one of {}", names.join(", "));
            Err(CommandError::new(Exit::BadInput, message))
        }
    }
}

/// What is known of a model, with what follows from it.
fn facts(model: &Known) -> serde_json::Value {
    let need = model.shape.need(u64::MAX);
    json!({
        "model": model,
        "runs": model.runs(),
        "need": need,
        "needed_bytes": need.total_bytes(),
        "board_mib": model.board_mib(),
        "boards": boards(need.total_bytes(), Some(need.bytes_per_token())),
    })
}

fn file_size(model: &Known) -> String {
    figures::bytes((model.file_mb * 1e6) as u64)
}

/// A size of memory as boards are sold.
fn memory_size(mib: u64) -> String {
    if mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

fn list(models: &[&Known], free: Option<&(u64, String)>) -> String {
    let mut page = String::new();
    if let Some((bytes, what)) = free {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{} {what}", figures::bytes(*bytes));
    }
    let mut table = Table::new([
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Left,
        Align::Left,
        Align::Left,
    ]);
    table.row(["name", "file", "memory", "board of", "licence", "format", "this build"]);
    for model in models {
        table.row([
            if model.unconfirmed.is_empty() { model.name.clone() } else { format!("{} *", model.name) },
            file_size(model),
            figures::bytes(model.shape.need(u64::MAX).total_bytes()),
            model.board_mib().map_or(String::new(), memory_size),
            model.licence.clone(),
            model.format.clone(),
            if model.runs() { "runs it".into() } else { "lacks a part".into() },
        ]);
    }
    page += &table.render();
    let _ = writeln!(
        page,
        "\ntern models NAME says where a model is published, what is lacking, and what no page of its maker confirms (*); list \
         of {}",
        KNOWN.checked
    );
    page
}

fn page(model: &Known) -> String {
    let mut table = Table::new([Align::Left, Align::Left]);
    let mut row = |name: &str, text: String| table.row([name.to_owned(), text]);
    row("model", model.title.clone());
    let place =
        if model.repository.is_empty() { "in this repository".into() } else { model.repository.clone() };
    row("published", place);
    row("file", format!("{}, {}, {}", model.file, model.format, file_size(model)));
    row("licence", model.licence.clone());
    row("architecture", model.architecture.clone());
    let shape = &model.shape;
    let need = shape.need(u64::MAX);
    let weights = figures::three_digits(shape.ternary_weights() as f64 / 1e9);
    row("weights", format!("{weights} billion ternary; {} layers, hidden {}", shape.layers, shape.hidden));
    row(
        "memory",
        format!(
            "{}: {} of weights, {} of head, {} of keys and values for {} tokens, {} of everything else",
            figures::bytes(need.total_bytes()),
            figures::bytes(need.weights_bytes),
            figures::bytes(need.head_bytes),
            figures::bytes(need.kv_bytes),
            2 * need.context_tokens,
            figures::bytes(need.rest_bytes)
        ),
    );
    let fits: Vec<String> = boards(need.total_bytes(), Some(need.bytes_per_token()))
        .into_iter()
        .filter_map(|fit| Some(format!("{} with {}", fit.title, memory_size(*fit.fits_mib.iter().min()?))))
        .collect();
    row("fits", if fits.is_empty() { "no board with a profile".into() } else { fits.join(", ") });
    let lacks = if model.runs() {
        "runs it: graph, weights and tokenizer are held against other programs; the published file was not at hand".into()
    } else {
        format!("lacks {}", model.missing.join(", "))
    };
    row("this build", lacks);
    if !model.unconfirmed.is_empty() {
        row("not confirmed", model.unconfirmed.join("; "));
    }
    row("source", format!("{}; {}", model.source, KNOWN.checked));
    table.render()
}
