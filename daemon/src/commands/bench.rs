//! `tern bench`: tokens a second on this machine, beside what its memory would allow.

mod shape;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tern_boards::energy::{EnergyReport, Ledger};
use tern_boards::memory::Memory;
use tern_boards::thermal::Thermal;
use tern_boards::{Machine, Root};
use tern_runtime::engine::Engine;

use crate::bandwidth::{self, Bandwidth, last_level_cache_bytes};
use crate::benchmark::energy::{self, Joules, PartJoules, Windows};
use crate::benchmark::{Amount, Measured, Part, Samples, extract, measure};
use crate::commands::eval;
use crate::commands::synth::parse_shape;
use crate::config::Config;
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::model::{EngineChoice, ModelChoice, Opened, kv_name, with_engine};
use crate::output::{print, print_json};
use crate::progress::Progress;
use crate::serve::meters::{self, Meters};
use crate::synth::Shape;
use crate::table::{Align, Table, cut};

/// Measures the tokens per second of a model on this machine
///
/// The two rates mean what they mean in llama-bench: a prompt of P tokens in batches, and G tokens one by one from an
/// empty context. The warm-up is not counted. Beside them stand the memory bandwidth of this machine, measured with the
/// same number of threads, and the rate at which it would be used up by reading the weights once a token.
///
/// With --shape there is no file: some layers of a known shape are made of random weights in memory, one at a time, and timed;
/// what the whole model would take and reach is added up from them.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Model file (GGUF); without it $TERN_MODEL, else the bundled model
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Time layers of this shape instead of a model: bitnet-2b4t, bitnet-large, 100b or tiny
    #[arg(long, value_name = "NAME", value_parser = parse_shape, conflicts_with_all = ["model", "energy"])]
    shape: Option<&'static Shape>,
    /// Layers that --shape makes and times, each with other weights
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=128))]
    layers: u16,
    /// Say for --shape what a memory that is read at so many GB/s would allow
    #[arg(long, value_name = "GB/S", value_parser = parse_bandwidth)]
    bandwidth: Option<f64>,
    /// Tokens of the prompt; 0 leaves that part out
    #[arg(long, value_name = "P", default_value_t = 128)]
    prompt: usize,
    /// Tokens to generate; 0 leaves that part out
    #[arg(long, value_name = "G", default_value_t = 32)]
    generate: usize,
    /// Texts to generate at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_sequences)]
    sequences: usize,
    /// Times each part is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_repeats)]
    repeat: usize,
    /// Measure joules by token: windows of at least --energy-seconds, the machine at rest before and after; with
    /// `require` it is a failure if there is no meter
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    energy: Option<WhenEnergy>,
    /// Seconds of each window of --energy, and at rest
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = parse_seconds)]
    energy_seconds: f64,
    /// Windows of each part of --energy
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = parse_repeats)]
    energy_repeat: usize,
    /// Configuration whose [energy] says which meter to use
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Instead, what trying tokens ahead is worth: a text of at most G tokens, made of the first sentences of the texts of
    /// this set (JSON lines), is dictated after a prompt of P tokens of them, with and without
    #[arg(long, value_name = "FILE", conflicts_with_all = ["energy", "sequences"])]
    extract: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineChoice,
}

/// When joules must be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum WhenEnergy {
    /// Where there is a meter.
    Auto,
    /// Always.
    Require,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or("give seconds from 0.1 to 3600".into())
}

fn parse_bandwidth(text: &str) -> Result<f64, String> {
    let stated = text.parse().ok().filter(|stated| (0.1..=100_000.0).contains(stated));
    stated.ok_or("give GB/s from 0.1 to 100000".into())
}

fn parse_sequences(text: &str) -> Result<usize, String> {
    let most = tern_runtime::kv_cache::MAX_SLOTS;
    let sequences = text.parse().ok().filter(|sequences| (1..=most).contains(sequences));
    sequences.ok_or_else(|| format!("give a number from 1 to {most}"))
}

fn parse_repeats(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|repeats| (1..=1000).contains(repeats))
        .ok_or("give a number from 1 to 1000".into())
}

/// All that one benchmark says.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    path: PathBuf,
    file_bytes: u64,
    kernels: &'static str,
    threads: usize,
    batch_rows: usize,
    context_tokens: usize,
    kv: &'static str,
    head: &'static str,
    load_ms: f64,
    repeats: usize,
    #[serde(flatten)]
    measured: Measured,
    bytes_per_token: u64,
    /// Weights that fit the last-level cache are not read from memory, and the bound says nothing then.
    weights_exceed_cache: bool,
    bandwidth: Option<Bandwidth>,
    bandwidth_bound_tokens_per_second: Option<f64>,
    percent_of_bound: Option<f64>,
    peak_resident_bytes: Option<u64>,
    throttled: Option<bool>,
    cpu: Option<String>,
    board: String,
    /// What `--energy` measured; `null` without it and without a meter.
    energy: Option<Joules>,
    /// Why it is `null` though it was asked for.
    energy_unknown: Option<String>,
}

/// Measures and prints.
///
/// # Errors
/// If there is nothing to measure or the model cannot be used.
pub fn run(args: &BenchArgs) -> Result<(), CommandError> {
    if let Some(shape) = args.shape {
        return shape::run(shape, args);
    }
    let amount = Amount {
        prompt_tokens: args.prompt,
        generate_tokens: args.generate,
        sequences: args.sequences,
        repeats: args.repeat,
    };
    let needed = args.prompt.saturating_add(1).max(args.generate.saturating_add(1));
    if args.prompt == 0 && args.generate == 0 {
        return Err(CommandError::new(
            Exit::BadInput,
            "nothing to measure; give --prompt or --generate above 0",
        ));
    }
    if let Some(file) = &args.extract {
        return measure_extract(args, file, amount);
    }
    let mut engine = args.engine.clone();
    engine.slots = Some(engine.slots.unwrap_or(1).max(args.sequences));
    let all_tokens = args.sequences.saturating_mul(args.generate.saturating_add(2));
    engine.cache_tokens =
        engine.cache_tokens.or(Some(all_tokens.next_multiple_of(32 * args.sequences).max(needed)));
    engine.context_tokens = engine.context_tokens.or(Some(needed));
    let choice = ModelChoice { path: args.model.clone(), engine };
    let origin = Instant::now();
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    // The listener hears a plug for as long as it lives.
    let Meters { machine, meter, listener: _listener, .. } = meters::find(&Root::new("/"), &config)?;
    let meter = meter.and_then(|meter| match meters::steadily_read(meter, origin) {
        Ok(meter) => Some(meter),
        Err(error) => {
            log::warn!("joules stay unknown: the system has no thread for the power meter: {error}");
            None
        }
    });
    let mut ledger = Ledger::new(meter, origin.elapsed());
    let report = with_engine(&choice, |engine, opened| {
        let parts = u64::from(args.prompt > 0) + u64::from(args.generate > 0);
        let progress = Progress::items("measuring", parts * args.repeat as u64);
        let measured = measure(engine, amount, &mut ledger, origin, || progress.add(1))
            .map_err(|refusal| CommandError::from_error(Exit::BadInput, &refusal))?;
        let windows = Windows {
            window: Duration::from_secs_f64(args.energy_seconds),
            repeats: args.energy_repeat,
            rest: Duration::from_secs_f64(args.energy_seconds),
        };
        let joules = match args.energy {
            None => None,
            Some(_) => {
                let progress = Progress::items("measuring joules", parts * args.energy_repeat as u64);
                energy::measure(engine, amount, windows, (&mut ledger, origin), || progress.add(1))
                    .map_err(|refusal| CommandError::from_error(Exit::BadInput, &refusal))?
            }
        };
        let mut report = report(engine, opened, &machine, measured, amount);
        report.energy_unknown = args.energy.and_then(|_| unknown(joules.as_ref()));
        report.energy = joules;
        Ok::<_, CommandError>(report)
    })??;
    if args.json { print_json(&report) } else { print(&page(&report)) }?;
    match &report.energy_unknown {
        Some(why) if args.energy == Some(WhenEnergy::Require) => {
            Err(CommandError::new(Exit::Failed, format!("joules by token are unknown: {why}")))
        }
        _ => Ok(()),
    }
}

/// Measures what trying tokens ahead is worth.
fn measure_extract(args: &BenchArgs, file: &Path, amount: Amount) -> Result<(), CommandError> {
    let set = eval::read_set(file, None)?;
    let mut engine = args.engine.clone();
    engine.slots = Some(1);
    let needed = args.prompt.saturating_add(args.generate).saturating_add(1);
    engine.context_tokens = engine.context_tokens.or(Some(needed));
    let choice = ModelChoice { path: args.model.clone(), engine };
    let found = with_engine(&choice, |engine, _| {
        let progress = Progress::items("measuring", 2 * args.repeat as u64);
        extract::measure(engine, &set, amount, || progress.add(1))
            .map_err(|error| CommandError::from_error(Exit::BadInput, &error))
    })??;
    if args.json { print_json(&found) } else { print(&found.in_words()) }
}

/// Why joules by token are not known, if they are not.
fn unknown(joules: Option<&Joules>) -> Option<String> {
    let Some(joules) = joules else {
        return Some("this machine has no power meter that Tern can read; see tern doctor".into());
    };
    let unresolved =
        |part: &Option<PartJoules>| part.as_ref().is_some_and(|part| part.joules_per_token.is_none());
    let is_unknown = unresolved(&joules.prefill) || unresolved(&joules.decode);
    is_unknown.then(|| {
        format!(
            "{} failed during a window, or windows of {} s are too short for it; give --energy-seconds more",
            joules.source, joules.window_s
        )
    })
}

fn report(
    engine: &Engine<'_>,
    opened: &Opened,
    machine: &Machine,
    measured: Measured,
    amount: Amount,
) -> Report {
    let bytes_per_token = engine.model().bytes_per_token() as u64;
    let cache_bytes = last_level_cache_bytes(&machine.cpu);
    // Before the bandwidth test takes its buffer.
    let peak_resident_bytes = peak_resident_bytes();
    let available_bytes = Memory::detect(&Root::new("/")).available_bytes;
    let bandwidth = bandwidth::measure(opened.threads, &machine.cpu, available_bytes);
    let bound = bandwidth.map(|bandwidth| bandwidth.bytes_per_second / bytes_per_token as f64);
    let rate = measured.generate.as_ref().map(|part| part.tokens_per_second.mean);
    let options = engine.options();
    Report {
        model: opened.title().to_owned(),
        path: opened.path.clone(),
        file_bytes: opened.file_bytes,
        kernels: opened.kernels,
        threads: opened.threads,
        batch_rows: options.batch_rows,
        context_tokens: options.context_tokens,
        kv: kv_name(options.kv),
        head: engine.model().head.name(),
        load_ms: opened.load_time.as_secs_f64() * 1e3,
        repeats: amount.repeats,
        measured,
        bytes_per_token,
        weights_exceed_cache: cache_bytes.is_none_or(|cache| bytes_per_token > cache),
        bandwidth,
        bandwidth_bound_tokens_per_second: bound,
        percent_of_bound: rate.zip(bound).map(|(rate, bound)| 100.0 * rate / bound),
        peak_resident_bytes,
        throttled: Thermal::detect(&Root::new("/")).throttled,
        cpu: machine.cpu.model.clone(),
        board: machine.board.profile.title.clone(),
        energy: None,
        energy_unknown: None,
    }
}

/// The most memory this process has held so far, mapped file included, as the kernel counts it.
fn peak_resident_bytes() -> Option<u64> {
    let status = Root::new("/").read("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `mean +- sd`.
fn spread(samples: &Samples) -> String {
    let mean = figures::three_digits(samples.mean);
    samples.sd.map_or(mean.clone(), |sd| format!("{mean} +- {}", figures::three_digits(sd)))
}

fn page(report: &Report) -> String {
    let mut page = format!(
        "{} ({}), {} on {}, {} keys and values, {} head, loaded in {}\n",
        cut(&report.model, 80),
        figures::bytes(report.file_bytes),
        report.kernels,
        figures::counted(report.threads, "thread"),
        report.kv,
        report.head,
        figures::duration_ms(report.load_ms)
    );
    let mut table = Table::new([Align::Left, Align::Right, Align::Right, Align::Right]).indented(2);
    table.row(["test", "tokens/s", "ms", "J/token"]);
    let parts = [("pp", &report.measured.prompt), ("tg", &report.measured.generate)];
    for (name, part) in parts {
        let Some(part) = part else { continue };
        let joules = part.joules_per_token.map_or("unknown".into(), figures::joules);
        let texts = if part.sequences > 1 { format!("{} x ", part.sequences) } else { String::new() };
        let name = format!("{name} {texts}{}", part.tokens);
        table.row([name, spread(&part.tokens_per_second), spread(&part.milliseconds), joules]);
    }
    page += &table.render();
    // Writing to a string cannot fail.
    if let Some(first) = &report.measured.first_token_ms {
        let _ = writeln!(page, "  first token of that prompt after {}", figures::duration_ms(first.mean));
    }
    let _ = writeln!(page, "  weights read a token: {}", figures::bytes(report.bytes_per_token));
    if let (Some(bandwidth), Some(bound)) = (&report.bandwidth, report.bandwidth_bound_tokens_per_second) {
        let _ = writeln!(
            page,
            "  memory read at {}/s by {}{}: at most {} tokens/s",
            figures::bytes(bandwidth.bytes_per_second as u64),
            figures::counted(bandwidth.threads, "thread"),
            if bandwidth.beyond_cache { "" } else { " (caches took part, the buffer is too small)" },
            figures::three_digits(bound)
        );
    }
    match report.percent_of_bound {
        Some(percent) if report.weights_exceed_cache => {
            let _ = writeln!(page, "  generation is at {} % of that bound", figures::three_digits(percent));
        }
        Some(_) => page += "  the weights fit the last-level cache: memory is no bound for this model here\n",
        None => {}
    }
    let energy = [&report.measured.generate, &report.measured.prompt].into_iter().flatten().next();
    page += &energy_line(energy.map(|part: &Part| &part.energy));
    page += &joules_lines(report);
    if let Some(bytes) = report.peak_resident_bytes {
        let _ = writeln!(page, "  peak resident memory {}", figures::bytes(bytes));
    }
    if report.throttled == Some(true) {
        page += "  the machine is being slowed by heat or low voltage: these figures are not its best\n";
    }
    page
}

fn energy_line(energy: Option<&EnergyReport>) -> String {
    match energy.and_then(|energy| energy.source.as_deref().map(|source| (energy, source))) {
        Some((energy, source)) => {
            let coarse =
                if energy.below_resolution { "; too short a run for this meter, repeat more" } else { "" };
            format!("  joules from {source}{coarse}\n")
        }
        None => {
            "  joules unknown: this machine has no power meter that Tern can read; see tern doctor\n".into()
        }
    }
}

/// What `--energy` found.
fn joules_lines(report: &Report) -> String {
    let mut lines = String::new();
    if let Some(why) = &report.energy_unknown {
        let _ = writeln!(lines, "  joules by token are unknown: {why}");
    }
    let Some(joules) = &report.energy else { return lines };
    let watts = |watts: Option<f64>| watts.map_or("unknown".into(), |watts| format!("{watts:.2} W"));
    // As answers name them.
    let name = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let _ = writeln!(
        lines,
        "  energy by {} ({}, {}), windows of {} s: at rest {} before and {} after",
        joules.source,
        name(serde_json::json!(joules.method)),
        name(serde_json::json!(joules.scope)),
        joules.window_s,
        watts(joules.idle_before_w),
        watts(joules.idle_after_w)
    );
    for (name, part) in [("pp", &joules.prefill), ("tg", &joules.decode)] {
        let Some(part) = part else { continue };
        let Some(all) = &part.joules_per_token else { continue };
        let net = part.net_joules_per_token.map_or("unknown".into(), figures::joules);
        let _ = writeln!(
            lines,
            "    {name}  {} a token ({} to {}, 95 %), {net} without rest; {} tokens/s at {}",
            figures::joules(all.median),
            figures::joules(all.low),
            figures::joules(all.high),
            spread(&part.tokens_per_second),
            watts(part.watts)
        );
    }
    lines
}
