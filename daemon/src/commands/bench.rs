//! `tern bench`: tokens a second on this machine, beside what its memory would allow.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tern_boards::energy::sampler::{PERIOD, Sampler};
use tern_boards::energy::{EnergyReport, Ledger, Meter, Method};
use tern_boards::memory::Memory;
use tern_boards::thermal::Thermal;
use tern_boards::{Machine, Root};
use tern_runtime::engine::Engine;

use crate::bandwidth::{self, Bandwidth, last_level_cache_bytes};
use crate::benchmark::{Amount, Measured, Part, Samples, measure};
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::model::{EngineChoice, ModelChoice, Opened, kv_name, with_engine};
use crate::output::{print, print_json};
use crate::progress::Progress;
use crate::table::{Align, Table, cut};

/// Measures the tokens per second of a model on this machine
///
/// The two rates mean what they mean in llama-bench: a prompt of P tokens in batches, and G tokens one by one from an
/// empty context. The warm-up is not counted. Beside them stand the memory bandwidth of this machine, measured with the
/// same number of threads, and the rate at which it would be used up by reading the weights once a token.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Model file (GGUF); without it $TERN_MODEL, else the bundled model
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
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
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineChoice,
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
}

/// Measures and prints.
///
/// # Errors
/// If there is nothing to measure or the model cannot be used.
pub fn run(args: &BenchArgs) -> Result<(), CommandError> {
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
    let mut engine = args.engine.clone();
    engine.slots = Some(engine.slots.unwrap_or(1).max(args.sequences));
    let all_tokens = args.sequences.saturating_mul(args.generate.saturating_add(2));
    engine.cache_tokens =
        engine.cache_tokens.or(Some(all_tokens.next_multiple_of(32 * args.sequences).max(needed)));
    engine.context_tokens = engine.context_tokens.or(Some(needed));
    let choice = ModelChoice { path: args.model.clone(), engine };
    let origin = Instant::now();
    let (machine, meter) = Machine::with_meter(&Root::new("/"));
    let mut ledger = Ledger::new(meter.and_then(|meter| sampled(meter, origin)), origin.elapsed());
    let report = with_engine(&choice, |engine, opened| {
        let parts = u64::from(args.prompt > 0) + u64::from(args.generate > 0);
        let progress = Progress::items("measuring", parts * args.repeat as u64);
        let measured = measure(engine, amount, &mut ledger, origin, || progress.add(1))
            .map_err(|refusal| CommandError::from_error(Exit::BadInput, &refusal))?;
        Ok::<_, CommandError>(report(engine, opened, &machine, measured, amount))
    })??;
    if args.json { print_json(&report) } else { print(&page(&report)) }
}

/// A meter that integrates power must be read all the time, not only at both ends of a run.
fn sampled(meter: Box<dyn Meter>, origin: Instant) -> Option<Box<dyn Meter>> {
    if meter.method() == Method::EnergyCounter {
        return Some(meter);
    }
    match Sampler::spawn(meter, PERIOD, origin) {
        Ok(sampler) => Some(Box::new(sampler)),
        Err(error) => {
            log::warn!("joules stay unknown: the system has no thread for the power meter: {error}");
            None
        }
    }
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
