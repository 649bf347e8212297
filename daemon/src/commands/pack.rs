//! `tern pack`: a model in the layout that kernels read where it is mapped.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;
use tern_boards::kernel_sets;
use tern_kernels::Layout;
use tern_runtime::gguf::{Gguf, I2sBlocks};
use tern_runtime::map::MappedFile;
use tern_runtime::model::Config;

use crate::checkpoint::Checkpoint;
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::model::{EngineChoice, Host, Need, OpenError, check_directory, parse_threads, reading};
use crate::output::{print, print_json};
use crate::packing::verify::{Verified, verify};
use crate::packing::{PackError, Recipe, source_note};
use crate::progress::Progress;
use crate::replace::check_room;
use crate::tune::Load;
use crate::unfinished::Unfinished;

/// Writes a model in the layout that the kernels of this machine read where it is mapped
///
/// Opening a packed model copies nothing and takes the least memory. The weights are the same: `--verify` unpacks every
/// one of them and compares. Any machine reads any packed file; the layout decides how fast. One matrix is in memory at a
/// time, and a run that was killed is gone on with by the next one for the same file.
#[derive(Args, Debug)]
pub struct PackArgs {
    /// Model file (GGUF), or a directory as Hugging Face publishes models: config.json, safetensors, tokenizer.json
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// File to write; one that is there is replaced once the new one is complete
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Layout: t5r or t5c (1.6 bits a weight), t2r4, tl1p32 or t2b128 (2 bits); without it the best here
    #[arg(long, value_name = "NAME", value_parser = parse_layout)]
    layout: Option<Layout>,
    /// Head that turns states into logits: int8 (half a byte a weight is read to choose a token), or file, as it is
    #[arg(long, value_name = "KIND", default_value = "int8", value_parser = ["int8", "file"])]
    head: String,
    /// Read the written file again, unpack every weight and compare
    #[arg(long)]
    verify: bool,
    /// Worker threads; without it what suits the board
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    /// Weights in a block of I2_S, which its file does not tell: 128, or 64 if bitnet.cpp built for ARM wrote it
    #[arg(long, value_name = "N", value_parser = reading::parse_i2s_blocks)]
    i2s_blocks: Option<I2sBlocks>,
    /// Say what was written as JSON
    #[arg(long)]
    json: bool,
}

fn parse_layout(name: &str) -> Result<Layout, String> {
    Layout::by_name(name).ok_or_else(|| format!("give one of {}", Layout::ALL.map(Layout::name).join(", ")))
}

/// Packs the model.
///
/// # Errors
/// If the model cannot be run, the file not be written, or a weight differs.
pub fn run(args: &PackArgs) -> Result<(), CommandError> {
    if args.model.is_dir() {
        let choice = EngineChoice { i2s_blocks: args.i2s_blocks, ..EngineChoice::default() };
        check_directory(&args.model, &choice)?;
        let checkpoint = Checkpoint::open(&args.model).map_err(|error| unpackable(args, &error.into()))?;
        let load = checkpoint.load().map_err(|error| unpackable(args, &error))?;
        return make(args, load, Source::Checkpoint(&checkpoint));
    }
    let model = &args.model;
    let map = MappedFile::open(model).map_err(OpenError::File)?;
    let (gguf, as_read) = reading::parse(model, map.bytes(), args.i2s_blocks)?;
    reading::check_blocks(model, &gguf, args.i2s_blocks)?;
    let config = Config::read(&gguf).map_err(|error| OpenError::Model { path: model.clone(), error })?;
    let load = Load::of(&gguf, &config).map_err(|error| OpenError::Model { path: model.clone(), error })?;
    let header = usize::try_from(gguf.data_at_bytes()).unwrap_or(0).min(map.bytes().len());
    let note = source_note(model, &gguf, &map.bytes()[..header]) + &reading::note(&as_read);
    make(args, load, Source::Gguf(&gguf, note))
}

/// What is packed.
enum Source<'a> {
    Gguf(&'a Gguf<'a>, String),
    Checkpoint(&'a Checkpoint),
}

impl Source<'_> {
    fn bytes(&self) -> u64 {
        match self {
            Source::Gguf(gguf, _) => gguf.file_bytes(),
            Source::Checkpoint(checkpoint) => checkpoint.tensors.bytes(),
        }
    }

    /// Size of the packed form, and what tells it from others.
    fn described(&self, recipe: &Recipe) -> Result<(u64, String), PackError> {
        match self {
            Source::Gguf(gguf, note) => Ok((recipe.file_bytes(gguf, note)?, recipe.identity(gguf, note)?)),
            Source::Checkpoint(checkpoint) => {
                Ok((checkpoint.header(recipe)?.file_bytes(), checkpoint.identity(recipe)?))
            }
        }
    }

    fn write(
        &self,
        recipe: &Recipe,
        workers: usize,
        out: Unfinished,
        wrote: impl FnMut(u64),
    ) -> Result<Unfinished, PackError> {
        match self {
            Source::Gguf(gguf, note) => recipe.write(gguf, note, workers, out, wrote),
            Source::Checkpoint(checkpoint) => checkpoint.pack(recipe, workers, out, wrote),
        }
    }
}

fn unpackable(args: &PackArgs, error: &PackError) -> CommandError {
    CommandError::from_error(Exit::NoInput, error)
        .while_doing(format!("cannot pack '{}'", args.model.display()))
}

/// Packs `source`, a model that asks for this load.
fn make(args: &PackArgs, load: Load, source: Source<'_>) -> Result<(), CommandError> {
    let PackArgs { model, output, .. } = args;
    let need = Need { layout: None, load: Some(load), may_try: args.layout.is_none() };
    let host = EngineChoice { threads: args.threads, ..EngineChoice::default() }.host(need)?;
    let recipe = Recipe { layout: args.layout.unwrap_or(host.set.layout), int8_head: args.head == "int8" };
    let (bytes, identity) = source.described(&recipe).map_err(|error| unpackable(args, &error))?;
    let began = Instant::now();
    let file = Unfinished::begin(output, &identity)?;
    let resumed_bytes = file.resumed_bytes();
    check_room(output, bytes.saturating_sub(resumed_bytes))?;
    let progress = Progress::bytes("packing", bytes);
    source
        .write(&recipe, host.threads, file, |bytes| progress.add(bytes))
        .map_err(|error| unpackable(args, &error))?
        .keep()?;
    drop(progress);
    let seconds = began.elapsed().as_secs_f64();
    let verified = if args.verify { Some(compare(&source, &recipe, &host, output, bytes)?) } else { None };
    let kernels = kernel_sets().find(|set| set.layout == recipe.layout).map(|set| set.name);
    if args.json {
        return print_json(&json!({
            "path": output, "layout": recipe.layout.name(), "bytes": bytes, "source_bytes": source.bytes(),
            "resumed_bytes": resumed_bytes, "seconds": seconds, "kernels": kernels,
            "verified": verified.map(|v| json!({
                "matrices": v.matrices, "weights": v.weights, "tensors": v.tensors, "head_rows": v.head_rows, "keys": v.keys,
            })),
        }));
    }
    let resumed = if resumed_bytes > 0 {
        format!("; {} were there from an earlier attempt", figures::bytes(resumed_bytes))
    } else {
        String::new()
    };
    let mut page = format!(
        "wrote {} ({}, {} from {}, {seconds:.1} s), for {}{resumed}\n",
        output.display(),
        recipe.layout.name(),
        figures::bytes(bytes),
        figures::bytes(source.bytes()),
        kernels.unwrap_or("no kernels here"),
    );
    if let Some(Verified { matrices, weights, tensors, head_rows, keys }) = verified {
        let head = if head_rows > 0 {
            format!("; {head_rows} rows of the int8 head are as made of its own")
        } else {
            String::new()
        };
        page += &format!(
            "verified: {weights} weights in {matrices} matrices, {tensors} other tensors and {keys} keys are those of {}{head}\n",
            model.display()
        );
    }
    print(&page)
}

/// Reads `output` again and compares all of it with `source`.
fn compare(
    source: &Source<'_>,
    recipe: &Recipe,
    host: &Host,
    output: &Path,
    bytes: u64,
) -> Result<Verified, CommandError> {
    let map = MappedFile::open(output).map_err(OpenError::File)?;
    let copy =
        Gguf::parse(map.bytes()).map_err(|error| OpenError::Model { path: output.to_owned(), error })?;
    let progress = Progress::bytes("verifying", bytes);
    let read = |bytes| progress.add(bytes);
    let verified = match source {
        Source::Gguf(gguf, _) => verify(gguf, &copy, read),
        Source::Checkpoint(checkpoint) => checkpoint.verify(recipe, &copy, host.threads, read),
    };
    verified.map_err(|difference| {
        let message = format!("'{}' is not its source: {difference}", output.display());
        CommandError::new(Exit::Failed, message)
    })
}
