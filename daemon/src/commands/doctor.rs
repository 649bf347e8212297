//! `tern doctor`: what machine this is, and whether everything Tern needs works on it.

mod comparison;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use comparison::Comparison;
use serde::Serialize;
use tern_boards::Machine;
use tern_boards::cpu::Cluster;
use tern_boards::energy::Outcome;
use tern_runtime::engine::{Event, Generate, Goal, Piece, Request};
use tern_runtime::gguf::Gguf;
use tern_runtime::map::MappedFile;
use tern_runtime::model::Config;
use tern_runtime::sampler::Sampling;

use crate::error::{CommandError, Exit};
use crate::figures;
use crate::inspect::MadeFor;
use crate::model::{EngineChoice, ModelChoice, Need, planned, with_engine};
use crate::output::{print, print_json};
use crate::progress::Progress;
use crate::proof::{Proof, prove};
use crate::sanity::{self, Sanity};
use crate::table::{Align, Table, cut};

/// Checks this machine: CPU, kernels, board, memory, power meter and model
///
/// Proves every kernel set that this CPU can run against the scalar definition, bit for bit, generates a token with the
/// model, and lets it read at most 128 tokens of plain English and the same tokens shuffled: a model whose weights, scales or
/// vocabulary are read wrongly finds the one as unlikely as the other. The exit code is 1 if anything is wrong; a missing
/// power meter is not.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Model file (GGUF) to check; without it $TERN_MODEL, else the bundled model
    #[arg(value_name = "MODEL", conflicts_with = "path")]
    file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Configuration whose [energy] names meters; without it /etc/tern/tern.toml if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the power meter, and the next best beside it, for so long and say whether they agree; at least 61
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(61..=86_400))]
    compare_meters: Option<u32>,
    #[command(flatten)]
    model: ModelChoice,
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Findings {
    machine: Machine,
    chosen: Option<Chosen>,
    proofs: Vec<Proof>,
    model: Option<ModelFindings>,
    /// What a comparison of two power meters came to.
    meters_compared: Option<Comparison>,
    /// What must be mended, one sentence each.
    wrong: Vec<String>,
}

/// What would be used.
#[derive(Debug, Serialize)]
struct Chosen {
    kernels: &'static str,
    threads: usize,
}

/// A model that was tried.
#[derive(Debug, Serialize)]
struct ModelFindings {
    path: PathBuf,
    name: String,
    load_ms: f64,
    memory_bytes: u64,
    /// What the daemon would make its engine for here, and why.
    served: MadeFor,
    repairs: Vec<String>,
    /// How it reads plain text.
    sanity: Sanity,
}

/// Examines the machine and prints what was found.
///
/// # Errors
/// If anything is wrong, after printing it.
pub fn run(args: &DoctorArgs) -> Result<(), CommandError> {
    let findings = examine(args)?;
    if args.json {
        print_json(&findings)?;
    } else {
        print(&page(&findings))?;
    }
    match findings.wrong.len() {
        0 => Ok(()),
        1 => Err(CommandError::new(Exit::Failed, "one thing is wrong on this machine")),
        wrong => Err(CommandError::new(Exit::Failed, format!("{wrong} things are wrong on this machine"))),
    }
}

fn examine(args: &DoctorArgs) -> Result<Findings, CommandError> {
    let choice = &ModelChoice {
        path: args.file.clone().or_else(|| args.model.path.clone()),
        engine: args.model.engine.clone(),
    };
    let found = comparison::find(args.config.as_deref())?;
    let machine = found.machine.clone();
    let mut wrong = machine.problems.clone();
    let mut complaints = None;
    let mut note = |error: CommandError| wrong.push(error.to_string());
    let chosen = match choice.engine.host(Need::default()) {
        Ok(host) => Some(Chosen { kernels: host.set.name, threads: host.threads }),
        Err(error) => {
            note(error.into());
            None
        }
    };
    // Without usable settings the model would only fail for the same reason again.
    let model = chosen.as_ref().and_then(|_| match try_model(choice) {
        Ok((model, complaint)) => {
            complaints = complaint;
            Some(model)
        }
        Err(error) => {
            note(error);
            None
        }
    });
    wrong.extend(complaints);
    let progress = Progress::items("proving kernels", machine.kernels.len() as u64);
    let proofs: Vec<Proof> = tern_boards::kernel_sets()
        .map(|set| {
            let proof = prove(set);
            progress.add(1);
            proof
        })
        .collect();
    for proof in &proofs {
        if let Some(failure) = &proof.failure {
            wrong.push(format!(
                "kernel set {} computes wrongly here: {failure}; set TERN_KERNELS to another one and report this",
                proof.kernels
            ));
        }
    }
    let meters_compared = args.compare_meters.map(|seconds| Comparison::run(found, seconds)).transpose()?;
    if let Some(Comparison { disagreement: Some(disagreement), .. }) = &meters_compared {
        wrong.push(disagreement.clone());
    }
    Ok(Findings { machine, chosen, proofs, model, meters_compared, wrong })
}

/// Opens the model, generates one token, so that every weight was read once, and lets it read a text; what is wrong with
/// how it does comes beside what was found.
fn try_model(choice: &ModelChoice) -> Result<(ModelFindings, Option<String>), CommandError> {
    let path = choice.file()?;
    let served = MadeFor::from(&planned(choice)?);
    // A short context costs little memory. What is wrong with a file is found again when it is opened.
    let context = MappedFile::open(&path).ok().and_then(|map| {
        let config = Config::read(&Gguf::parse(map.bytes()).ok()?).ok()?;
        Some(config.context.min(sanity::CONTEXT_TOKENS))
    });
    let engine = EngineChoice {
        slots: Some(2),
        context_tokens: context,
        cache_tokens: Some(sanity::CACHE_TOKENS),
        ..choice.engine.clone()
    };
    let choice = ModelChoice { path: Some(path), engine };
    with_engine(&choice, |engine, opened| {
        let first = engine.tokenizer().bos().unwrap_or(0);
        let goal = Goal::Generate(Generate {
            sampling: Sampling::default(),
            max_tokens: Some(1),
            ignore_stop_tokens: true,
            ..Generate::default()
        });
        let request = Request { key: 0, prompt: &[Piece::Token(first)], goal };
        engine.submit(&request).map_err(|refusal| CommandError::from_error(Exit::Internal, &refusal))?;
        let mut tokens = 0;
        while engine.live() > 0 {
            engine.step(|_, event| tokens += usize::from(matches!(event, Event::Token { .. })));
        }
        if tokens != 1 {
            let message = format!("the model generated {tokens} tokens where one was asked for");
            return Err(CommandError::new(Exit::Internal, message));
        }
        let progress = Progress::items("reading a text", 2 * sanity::MOST_TOKENS as u64);
        let sanity = sanity::examine(engine, |tokens| progress.add(tokens))
            .map_err(|error| CommandError::from_error(Exit::Failed, &error))?;
        let complaint =
            sanity.complaint(HINT).map(|complaint| format!("'{}': {complaint}", opened.path.display()));
        let findings = ModelFindings {
            path: opened.path.clone(),
            name: opened.title().to_owned(),
            load_ms: opened.load_time.as_secs_f64() * 1e3,
            memory_bytes: opened.plan.total_bytes() as u64 + opened.file_bytes,
            served,
            repairs: opened.repairs.clone(),
            sanity,
        };
        Ok((findings, complaint))
    })?
}

/// What to try with a model that talks noise.
const HINT: &str = "take the file that its maker publishes (tern models), or convert it again; I2_S that BitNet's own tools \
    wrote on an ARM machine has blocks of 64 weights instead of 128 (--i2s-blocks 64)";

fn page(findings: &Findings) -> String {
    let Findings { machine, chosen, proofs, model, meters_compared, wrong } = findings;
    let mut table = Table::new([Align::Left, Align::Left]);
    let mut row = |name: &str, text: String| table.row([name.to_owned(), text]);
    let cpu = &machine.cpu;
    let emulated = if cpu.emulated { ", emulated" } else { "" };
    let cores = format!("{} cores, {} threads", cpu.physical_cores, cpu.logical_cores);
    let model_name = cpu.model.clone().unwrap_or_else(|| cpu.arch.to_owned());
    row("cpu", format!("{}{emulated}, {cores}", cut(&model_name, 80)));
    for cluster in cpu.clusters.iter().filter(|_| cpu.is_heterogeneous() || cpu.arch == "aarch64") {
        row("", cluster_text(cluster));
    }
    row("features", cpu.features.join(" "));
    let caches: Vec<String> = cpu
        .caches
        .iter()
        .map(|cache| format!("L{} {} x {}", cache.level, cache.instances, cache_size(cache.size_bytes)))
        .collect();
    row("caches", if caches.is_empty() { "not shown by this system".into() } else { caches.join(", ") });
    let known = |bytes: Option<u64>| bytes.map_or("unknown".into(), figures::bytes);
    let memory = machine.memory;
    let pages = memory.page_bytes.map_or("unknown size".into(), |bytes| format!("{bytes} B"));
    let limit =
        memory.limit_bytes.map_or(String::new(), |bytes| format!(", limited to {}", figures::bytes(bytes)));
    let left = memory.limit_left_bytes;
    let limit = limit + &left.map_or(String::new(), |bytes| format!(" ({} left)", figures::bytes(bytes)));
    let (total, free) = (known(memory.total_bytes), known(memory.available_bytes));
    row("memory", format!("{total}, {free} free{limit}, pages of {pages}"));
    let board = &machine.board;
    let shown = board.model.as_deref().map(|model| format!(" ({})", cut(model, 60))).unwrap_or_default();
    row("board", format!("{}{shown}", board.profile.title));
    for (index, proof) in proofs.iter().enumerate() {
        let used = if chosen.as_ref().is_some_and(|c| c.kernels == proof.kernels) { ", used" } else { "" };
        let verdict = match &proof.failure {
            None => format!("equal to the definition in {} comparisons{used}", proof.comparisons),
            Some(_) => format!("WRONG{used}"),
        };
        row(if index == 0 { "kernels" } else { "" }, format!("{}: {verdict}", proof.kernels));
    }
    if let Some(chosen) = chosen {
        row("threads", chosen.threads.to_string());
    }
    for (index, finding) in machine.meters.iter().enumerate() {
        let name = if index == 0 { "power meter" } else { "" };
        row(name, format!("{}: {}; {}", finding.looked_at, outcome(finding.outcome), finding.why));
    }
    for line in meters_compared.iter().flat_map(Comparison::lines) {
        row("", line);
    }
    let thermal = &machine.thermal;
    let warmth =
        thermal.hottest_celsius.map_or("no temperature shown".into(), |c| format!("{c:.0} C at the hottest"));
    let slowed = match thermal.throttled {
        Some(true) => "being slowed",
        Some(false) => "not slowed",
        None => "whether it is slowed is not shown",
    };
    let limit =
        thermal.throttle_celsius.map_or(String::new(), |c| format!("; this board slows down at {c:.0} C"));
    row("heat", format!("{warmth}, {slowed}{limit}"));
    for note in &thermal.notes {
        row("", note.clone());
    }
    if let Some(model) = model {
        let load = figures::duration_ms(model.load_ms);
        row("model", format!("{} ({})", cut(&model.name, 80), model.path.display()));
        row("", format!("loaded in {load}, needs {}, generates", figures::bytes(model.memory_bytes)));
        row("", model.sanity.line());
        for (index, line) in model.served.lines.iter().enumerate() {
            row(if index == 0 { "tern serve" } else { "" }, line.clone());
        }
        for repair in &model.repairs {
            row("", repair.clone());
        }
    }
    let mut page = table.render();
    page.push('\n');
    for sentence in wrong {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "wrong: {sentence}");
    }
    if wrong.is_empty() {
        page += "all is well\n";
    }
    page
}

fn cluster_text(cluster: &Cluster) -> String {
    let clock = cluster.max_mhz.map_or(String::new(), |mhz| format!(" at up to {mhz} MHz"));
    format!("{} x {}{clock}", cluster.cpus.len(), cluster.core)
}

/// Caches have sizes in powers of two, and data sheets give them so.
fn cache_size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{} KiB", bytes >> 10)
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Used => "used",
        Outcome::NotNeeded => "works, a better one is used",
        Outcome::Unclear => "there, but what it measures is not known",
        Outcome::Denied => "may not be read",
        Outcome::Failed => "does not work",
        Outcome::Absent => "none",
    }
}
