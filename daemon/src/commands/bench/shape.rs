//! `tern bench --shape`: a model without its file, timed layer by layer.

use std::fmt::Write as _;

use serde::Serialize;
use tern_boards::memory::Memory;
use tern_boards::{Cpu, Root};
use tern_kernels::Layout;

use super::BenchArgs;
use crate::bandwidth::{self, Bandwidth};
use crate::benchmark::shape::{LayerTime, ShapeBytes, needed_bytes, time};
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::model::Need;
use crate::output::{print, print_json};
use crate::progress::Progress;
use crate::synth::Shape;

/// What was published for 100 billion weights.
const PUBLISHED: &str = "bitnet.cpp: 5 to 7 tokens/s for a 100B model on a single CPU, as published in arXiv 2410.16144 and the \
    project's README; its machines were an Apple M2 Ultra (800 GB/s) and an Intel i7-13700H";

/// All that is said of a shape.
#[derive(Debug, Serialize)]
struct Report {
    shape: &'static str,
    about: &'static str,
    kernels: &'static str,
    threads: usize,
    cpu: Option<String>,
    bytes: ShapeBytes,
    bytes_per_token: u64,
    /// Measured here, one layer after the other.
    layers: Vec<LayerTime>,
    /// Measured here.
    bandwidth: Option<Bandwidth>,
    /// Share of that bandwidth at which the layers read their weights.
    share_of_bandwidth: Option<f64>,
    /// Implied by the layers measured here.
    implied_tokens_per_second: f64,
    /// Implied for prompts, 64 tokens at a time.
    implied_prompt_tokens_per_second: f64,
    /// Given with `--bandwidth`, bytes a second.
    stated_bytes_per_second: Option<f64>,
    /// At most, with that.
    stated_bound_tokens_per_second: Option<f64>,
    published: Option<&'static str>,
}

/// Positions before a token that is timed on paper, where `--context` does not say how many.
const CONTEXT: usize = 512;

/// Plans `shape`, times as many layers of it as `args` say, and prints what follows.
///
/// # Errors
/// If the kernels cannot take the shape, or there is no memory for one layer.
pub(super) fn run(shape: &'static Shape, args: &BenchArgs) -> Result<(), CommandError> {
    let BenchArgs { layers, bandwidth: stated, engine, json, .. } = args;
    let (layers, context) = (u64::from(*layers), engine.context_tokens.unwrap_or(CONTEXT) as u64);
    let failed = |message: String| CommandError::new(Exit::Failed, message);
    // The layout that `tern pack` writes, unless kernels were named.
    let host = engine.host(Need { layout: Some(Layout::T5R), ..Need::default() })?;
    let bytes = ShapeBytes::new(shape, host.set, context)
        .ok_or_else(|| failed(format!("{} cannot take the columns of {}", host.set.name, shape.name)))?;
    let error = |error| CommandError::from_error(Exit::Failed, &error);
    let needed = needed_bytes(shape).map_err(error)?;
    if let Some(available) = host.available_bytes.filter(|available| *available < needed) {
        return Err(failed(format!(
            "timing one layer of {} takes {}, {} are free; take a smaller shape",
            shape.name,
            figures::bytes(needed),
            figures::bytes(available)
        )));
    }
    let progress = Progress::items("timing layers", layers);
    let mut times = Vec::new();
    for seed in 0..layers {
        times.push(time(shape, seed, host.set, host.threads).map_err(error)?);
        progress.add(1);
    }
    drop(progress);
    let cpu = Cpu::detect(&Root::new("/"));
    let bandwidth = bandwidth::measure(host.threads, &cpu, Memory::detect(&Root::new("/")).available_bytes);
    let mean = |of: fn(&LayerTime) -> f64| times.iter().map(of).sum::<f64>() / times.len() as f64;
    let (decode_ms, prompt_ms) = (mean(|time| time.decode_ms), mean(|time| time.prompt_ms));
    let rate = mean(|time| time.bytes_per_second);
    // Keys and values of the context and the head stream at the rate of the layers at best.
    let rest_bytes = bytes.bytes_per_token() - bytes.layers * bytes.layer_bytes;
    let seconds = bytes.layers as f64 * decode_ms * 1e-3 + rest_bytes as f64 / rate;
    let report = Report {
        shape: shape.name,
        about: shape.about,
        kernels: host.set.name,
        threads: host.threads,
        cpu: cpu.model.clone(),
        bytes,
        bytes_per_token: bytes.bytes_per_token(),
        share_of_bandwidth: bandwidth.map(|bandwidth| rate / bandwidth.bytes_per_second),
        bandwidth,
        layers: times,
        implied_tokens_per_second: 1.0 / seconds,
        implied_prompt_tokens_per_second: 1e3 / (bytes.layers as f64 * prompt_ms),
        stated_bytes_per_second: stated.map(|stated| stated * 1e9),
        stated_bound_tokens_per_second: stated.map(|stated| bytes.most_tokens_per_second(stated * 1e9)),
        published: (shape.name == "100b").then_some(PUBLISHED),
    };
    if *json { print_json(&report) } else { print(&page(&report)) }
}

fn page(report: &Report) -> String {
    let Report { bytes, .. } = report;
    let digits = figures::three_digits;
    let size = figures::bytes;
    let mut page = format!(
        "{}, without a file: {} billion ternary weights in {} layers\n",
        report.about,
        digits(bytes.ternary_weights as f64 / 1e9),
        bytes.layers
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "\nmeasured here, {} on {}",
        report.kernels,
        figures::counted(report.threads, "thread")
    );
    for (at, layer) in report.layers.iter().enumerate() {
        let _ = writeln!(
            page,
            "  layer {}: {} a token, {}/s of weights; {} a token of a prompt",
            at + 1,
            figures::duration_ms(layer.decode_ms),
            size(layer.bytes_per_second as u64),
            figures::duration_ms(layer.prompt_ms)
        );
    }
    if let Some(bandwidth) = &report.bandwidth {
        let share = match report.share_of_bandwidth {
            Some(share) if share <= 1.0 => format!("; the layers run at {} % of it", digits(100.0 * share)),
            Some(_) => "; the layers ran faster, so other programs disturbed this: measure again".into(),
            None => String::new(),
        };
        let _ = writeln!(page, "  memory is read at {}/s{share}", size(bandwidth.bytes_per_second as u64));
    }
    let _ = writeln!(page, "\nadded up from the shape: a token reads {}", size(report.bytes_per_token));
    let _ = writeln!(
        page,
        "  {} layers x {} of weights = {}",
        bytes.layers,
        size(bytes.layer_bytes),
        size(bytes.layers * bytes.layer_bytes)
    );
    let _ = writeln!(
        page,
        "  {} layers x {} positions x {} of keys and values = {}",
        bytes.layers,
        bytes.context_tokens,
        size(bytes.kv_bytes_per_position),
        size(bytes.layers * bytes.context_tokens * bytes.kv_bytes_per_position)
    );
    let _ = writeln!(page, "  high plane of an int8 head: {}", size(bytes.head_bytes));
    let _ = writeln!(
        page,
        "\nimplied here: {} tokens/s decoding, {} tokens/s of a prompt; {} must stay in memory",
        digits(report.implied_tokens_per_second),
        digits(report.implied_prompt_tokens_per_second),
        size(bytes.resident_bytes())
    );
    if let (Some(stated), Some(bound)) =
        (report.stated_bytes_per_second, report.stated_bound_tokens_per_second)
    {
        let share = report.share_of_bandwidth.filter(|share| *share <= 1.0);
        let share = share
            .map_or(String::new(), |share| format!(", {} at the share reached here", digits(bound * share)));
        let _ = writeln!(
            page,
            "implied by a bandwidth of {} GB/s: at most {} tokens/s{share}",
            digits(stated / 1e9),
            digits(bound)
        );
    }
    if let Some(published) = report.published {
        let _ = writeln!(page, "published: {published}");
    }
    page
}
