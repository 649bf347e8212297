//! `tern inspect`: what is in a model file and what it needs.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use tern_runtime::map::MappedFile;

use crate::error::{CommandError, Exit};
use crate::figures;
use crate::inspect::{Description, MemoryNeed, Outline, TokenizerFacts};
use crate::model::{EngineChoice, OpenError, default_model, reading};
use crate::output::{print, print_json};
use crate::table::{Align, Table, cut};

/// Says what is in a model file, what running it takes and which boards it fits
///
/// Nothing is loaded: memory is only planned. A directory is described as the file it would be packed into. A model that this build cannot run is described as far as possible, and
/// the exit code is then 1.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Model file (GGUF) or directory (Hugging Face); without it $TERN_MODEL, else the bundled model
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Show only where memory goes, with the context, batch and head that are given
    #[arg(long, conflicts_with_all = ["tensors", "json"])]
    plan: bool,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineChoice,
}

/// Describes the model.
///
/// # Errors
/// If the file is no model at all; and, after describing it, if this build cannot run it.
pub fn run(args: &InspectArgs) -> Result<(), CommandError> {
    let path = match &args.model {
        Some(path) => path.clone(),
        None => default_model()?,
    };
    let outline = if path.is_dir() { Some(Outline::new(&path, &args.engine)?) } else { None };
    let file = outline.as_ref().map_or(path.as_path(), Outline::file);
    let map = MappedFile::open(file).map_err(OpenError::File)?;
    let (gguf, _) = reading::parse(&path, map.bytes(), args.engine.i2s_blocks)?;
    reading::check_blocks(&path, &gguf, args.engine.i2s_blocks)?;
    let mut description = Description::new(&path, &gguf, &args.engine, args.tensors)?;
    description.checkpoint = outline.map(|outline| outline.facts);
    if args.json {
        print_json(&description)?;
    } else if let Some(memory) = description.memory.as_ref().filter(|_| args.plan) {
        print(memory_table(memory).trim_start())?;
    } else {
        print(&page(&description))?;
    }
    match description.problems.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            let message = format!("'{}' cannot be run: {first}{more}", path.display());
            Err(CommandError::new(Exit::Failed, message))
        }
    }
}

/// Millions or billions of values.
fn count(values: u64) -> String {
    match values as f64 {
        v if v >= 1e9 => format!("{} billion", figures::three_digits(v / 1e9)),
        v if v >= 1e6 => format!("{} million", figures::three_digits(v / 1e6)),
        _ => values.to_string(),
    }
}

fn page(description: &Description) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(page, "{}", description.path.display());
    page += &summary(description).render();
    for problem in &description.problems {
        let _ = writeln!(page, "  not supported: {problem}");
    }
    for repair in &description.repairs {
        let _ = writeln!(page, "  repaired when loaded: {repair}");
    }
    page += "\nTensors\n";
    let mut table =
        Table::new([Align::Left, Align::Right, Align::Right, Align::Right, Align::Left]).indented(2);
    table.row(["type", "tensors", "values", "bytes", ""]);
    for ty in &description.types {
        let bytes = ty.bytes.map_or("unknown".into(), figures::bytes);
        let note = if ty.supported { "" } else { "not read by this build" };
        table.row([ty.name.into(), ty.tensors.to_string(), count(ty.elements), bytes, note.into()]);
    }
    page += &table.render();
    if let Some(memory) = &description.memory {
        page += &memory_table(memory);
        page += &board_table(description);
    }
    if !description.tensors.is_empty() {
        page += "\nAll tensors\n";
        let mut table =
            Table::new([Align::Left, Align::Left, Align::Right, Align::Right, Align::Right]).indented(2);
        table.row(["name", "type", "shape", "bytes", "at byte"]);
        for tensor in &description.tensors {
            let dims: Vec<String> = tensor.dims.iter().map(u64::to_string).collect();
            let bytes = tensor.bytes.map_or("unknown".into(), |bytes| bytes.to_string());
            let cells = [
                cut(&tensor.name, 64),
                tensor.ty.into(),
                dims.join(" x "),
                bytes,
                tensor.at_bytes.to_string(),
            ];
            table.row(cells);
        }
        page += &table.render();
    }
    page
}

fn summary(description: &Description) -> Table {
    let mut table = Table::new([Align::Left, Align::Left]).indented(2);
    let mut row = |name: &str, text: String| table.row([name.to_owned(), text]);
    // Texts of the file are cut and cleaned: they must not play tricks on a terminal.
    row("name", description.name.as_deref().map_or("(none)".into(), |name| cut(name, 80)));
    let architecture = description.architecture.as_deref().map_or("(none)".into(), |name| cut(name, 40));
    row("architecture", format!("{architecture}, GGUF version {}", description.gguf_version));
    if let Some(found) = &description.checkpoint {
        let files = figures::counted(found.files, "safetensors file");
        row(
            "directory",
            format!("{}, {files} with {}", cut(&found.class, 40), figures::bytes(found.tensor_bytes)),
        );
        let dtypes: Vec<String> =
            found.dtypes.iter().map(|(name, count)| format!("{count} {}", cut(name, 12))).collect();
        row("its tensors", dtypes.join(", "));
        row("its weights", found.convention.clone());
        row("packed", format!("{}, {}", figures::bytes(description.file_bytes), found.layout));
    } else {
        row("file", figures::bytes(description.file_bytes));
    }
    let ternary = description.ternary_weights.map(|weights| format!(", {} of them ternary", count(weights)));
    row("parameters", count(description.parameters) + &ternary.unwrap_or_default());
    if let Some(cols) = description.group_cols {
        row("scales", format!("one for every {cols} columns of a row, as weight-only models have them"));
    }
    if let Some(shape) = &description.shape {
        row("layers", format!("{}, hidden {}, feed-forward {}", shape.layers, shape.hidden, shape.ffn));
        row(
            "heads",
            format!(
                "{} for queries, {} for keys and values, of {}",
                shape.heads, shape.kv_heads, shape.head_dim
            ),
        );
        row("context", format!("{} tokens", shape.context));
    }
    if let Some(bytes) = description.bytes_per_token {
        row("decoding", format!("reads {} of weights a token", figures::bytes(bytes)));
    }
    if let Some(tokenizer) = &description.tokenizer {
        let TokenizerFacts { tokens, merges, bos, add_bos, stops, chat } = tokenizer;
        let begin = match (bos, add_bos) {
            (Some(bos), true) => format!("begins with {bos}"),
            (Some(bos), false) => format!("has a begin token, {bos}, and does not use it"),
            (None, _) => "no begin token".into(),
        };
        let stops: Vec<String> = stops.iter().map(u32::to_string).collect();
        let stops = if stops.is_empty() { "nothing".into() } else { stops.join(", ") };
        row("tokenizer", format!("{tokens} tokens, {merges} merges; {begin}, stops at {stops}"));
        row("chat form", chat.clone());
    }
    table
}

fn memory_table(memory: &MemoryNeed) -> String {
    let mut page = format!(
        "\nMemory with {} on {}: {}, {} tokens of context, {} kept for all, {} a step, {} keys and values\n",
        memory.kernels,
        figures::counted(memory.threads, "thread"),
        figures::counted(memory.slots, "slot"),
        memory.context_tokens,
        memory.cache_tokens,
        memory.batch_rows,
        memory.kv
    );
    let mut table = Table::new([Align::Left, Align::Right, Align::Right]).indented(2);
    for section in &memory.sections {
        table.row([section.name.to_owned(), section.bytes.to_string(), figures::bytes(section.bytes)]);
    }
    let mut total =
        |name: &str, bytes: u64| table.row([name.to_owned(), bytes.to_string(), figures::bytes(bytes)]);
    total("arena", memory.arena_bytes);
    for part in memory.mapped.iter().filter(|part| part.every_token) {
        total(&format!("mapped: {}", part.name), part.bytes);
    }
    total("resident", memory.resident_bytes);
    for part in memory.mapped.iter().filter(|part| !part.every_token) {
        total(&format!("mapped, as needed: {}", part.name), part.bytes);
    }
    total("arena and file", memory.total_bytes);
    page += &table.render();
    if let (Some(available), Some(fits)) = (memory.available_bytes, memory.fits_here) {
        let verdict = if fits { "it fits" } else { "it does not fit" };
        let _ = writeln!(page, "  {} are free on this machine: {verdict}", figures::bytes(available));
    }
    page += "Made for this memory\n";
    for line in &memory.made_for.lines {
        let _ = writeln!(page, "  {line}");
    }
    page
}

fn board_table(description: &Description) -> String {
    let mut table = Table::new([Align::Left, Align::Left, Align::Left, Align::Right]).indented(2);
    table.row(["board", "fits with", "too small", "one core at most"]);
    let sizes = |mib: &[u64]| {
        let texts: Vec<String> = mib
            .iter()
            .map(|mib| if mib % 1024 == 0 { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") })
            .collect();
        texts.join(", ")
    };
    for fit in &description.boards {
        let bound = fit.one_core_bound_tokens_per_second;
        let bound = bound.map_or(String::new(), |rate| format!("{} tok/s", figures::three_digits(rate)));
        table.row([fit.title.clone(), sizes(&fit.fits_mib), sizes(&fit.too_small_mib), bound]);
    }
    let tokens = description.memory.as_ref().map_or(0, |memory| memory.context_tokens);
    format!(
        "\nBoards (fits: one request of {tokens} tokens; bound: published read bandwidth of one core by bytes a token)\n{}",
        table.render()
    )
}
