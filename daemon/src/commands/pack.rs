//! `tern pack`: a model in the layout that kernels read where it is mapped.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;
use tern_boards::kernel_sets;
use tern_kernels::Layout;
use tern_runtime::gguf::Gguf;
use tern_runtime::map::MappedFile;
use tern_runtime::model::Config;

use crate::error::{CommandError, Exit};
use crate::figures;
use crate::model::{EngineChoice, Need, OpenError, parse_threads};
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
/// one of them and compares. Any machine reads any packed file; the layout decides how fast.
#[derive(Args, Debug)]
pub struct PackArgs {
    /// Model file (GGUF)
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
    let PackArgs { model, output, .. } = args;
    let map = MappedFile::open(model).map_err(OpenError::File)?;
    let gguf = Gguf::parse(map.bytes()).map_err(|error| OpenError::Model { path: model.clone(), error })?;
    let config = Config::read(&gguf).map_err(|error| OpenError::Model { path: model.clone(), error })?;
    let need = Need { layout: None, load: Some(Load::from(&config)), may_try: args.layout.is_none() };
    let host = EngineChoice { threads: args.threads, ..EngineChoice::default() }.host(need)?;
    let recipe = Recipe { layout: args.layout.unwrap_or(host.set.layout), int8_head: args.head == "int8" };
    let header = usize::try_from(gguf.data_at_bytes()).unwrap_or(0).min(map.bytes().len());
    let note = source_note(model, &gguf, &map.bytes()[..header]);
    let unpackable = |error: PackError| {
        CommandError::from_error(Exit::NoInput, &error)
            .while_doing(format!("cannot pack '{}'", model.display()))
    };
    let bytes = recipe.file_bytes(&gguf, &note).map_err(unpackable)?;
    check_room(output, bytes)?;
    let began = Instant::now();
    let progress = Progress::bytes("packing", bytes);
    let file = Unfinished::begin(output, &recipe.identity(&gguf, &note).map_err(unpackable)?)?;
    recipe
        .write(&gguf, &note, host.threads, file, |bytes| progress.add(bytes))
        .map_err(unpackable)?
        .keep()?;
    drop(progress);
    let seconds = began.elapsed().as_secs_f64();
    let verified = if args.verify { Some(compare(&gguf, output, bytes)?) } else { None };
    let kernels = kernel_sets().find(|set| set.layout == recipe.layout).map(|set| set.name);
    if args.json {
        return print_json(&json!({
            "path": output, "layout": recipe.layout.name(), "bytes": bytes, "source_bytes": gguf.file_bytes(),
            "seconds": seconds, "kernels": kernels,
            "verified": verified.map(|v| json!({
                "matrices": v.matrices, "weights": v.weights, "tensors": v.tensors, "head_rows": v.head_rows, "keys": v.keys,
            })),
        }));
    }
    let mut page = format!(
        "wrote {} ({}, {} from {}, {seconds:.1} s), for {}\n",
        output.display(),
        recipe.layout.name(),
        figures::bytes(bytes),
        figures::bytes(gguf.file_bytes()),
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
fn compare(source: &Gguf<'_>, output: &Path, bytes: u64) -> Result<Verified, CommandError> {
    let map = MappedFile::open(output).map_err(OpenError::File)?;
    let copy =
        Gguf::parse(map.bytes()).map_err(|error| OpenError::Model { path: output.to_owned(), error })?;
    let progress = Progress::bytes("verifying", bytes);
    verify(source, &copy, |bytes| progress.add(bytes)).map_err(|difference| {
        let message = format!("'{}' is not its source: {difference}", output.display());
        CommandError::new(Exit::Failed, message)
    })
}
