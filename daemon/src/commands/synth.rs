//! `tern synth`: a model of a given shape with random weights.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::error::CommandError;
use crate::figures;
use crate::output::{print, print_json};
use crate::progress::Progress;
use crate::replace::{Replacement, cannot_write, check_room};
use crate::synth::{Shape, header, write_model};

/// Writes a model of a known shape with random weights, for benchmarks
///
/// Speed, memory and file size are those of the real model; its answers are noise. The same shape and seed give the
/// same file on every machine.
#[derive(Args, Debug)]
pub struct SynthArgs {
    /// Shape: bitnet-2b4t (1.2 GB), bitnet-large (0.3 GB), 100b (26 GB) or tiny
    #[arg(long, value_name = "NAME", value_parser = parse_shape)]
    shape: &'static Shape,
    /// File to write; one that is there is replaced once the new one is complete
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Start of the random sequence
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Say what was written as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn parse_shape(name: &str) -> Result<&'static Shape, String> {
    Shape::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = Shape::ALL.iter().map(|shape| shape.name).collect();
        format!("give one of {}", names.join(", "))
    })
}

/// Writes the model.
///
/// # Errors
/// If the file cannot be written or there is no room for it.
pub fn run(args: &SynthArgs) -> Result<(), CommandError> {
    let SynthArgs { shape, output, seed, json } = args;
    let failed = |error: std::io::Error| cannot_write(output, &error);
    let bytes = header(shape, *seed).map_err(failed)?.file_bytes();
    check_room(output, bytes)?;
    let file = Replacement::create(output)?;
    let progress = Progress::bytes("writing", bytes);
    write_model(shape, *seed, file, |bytes| progress.add(bytes)).map_err(failed)?.keep()?;
    drop(progress);
    if *json {
        return print_json(&json!({ "path": output, "shape": shape.name, "seed": seed, "bytes": bytes }));
    }
    print(&format!(
        "wrote {} ({}, {}, seed {seed})\n",
        output.display(),
        shape.about.split(':').next().unwrap_or(shape.name),
        figures::bytes(bytes)
    ))
}
