//! `tern energy sweep`: threads and clock with the fewest joules a token.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tern_boards::energy::Method;
use tern_boards::{Cpu, Root};

use super::{configuration, interrupt, steady_meters};
use crate::calibration::plan::spread;
use crate::clocks::Clocks;
use crate::error::{CommandError, Exit};
use crate::model::{EngineChoice, ModelChoice, asked, thread_numbers, with_engine};
use crate::output::print;
use crate::progress::Progress;
use crate::state;
use crate::sweep::compare::recommended;
use crate::sweep::live::{Amount, Live};
use crate::sweep::run::{SweepError, Swept, can_rank, sweep};
use crate::sweep::{Measured, Setting, report};
use crate::tune::saved::{self, Answer, Question};

/// Finds the threads and the clock with the fewest joules a token, by measurement
///
/// Runs the model with every number of threads, at several clocks where they may be set, in turns, beside the best meter or
/// this board's calibrated model. Says which settings can be told apart, which one to use and what it costs in speed.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SweepArgs {
    /// Seconds of a round of one setting
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Rounds of each setting
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=100))]
    rounds: u64,
    /// Tokens of each prompt
    #[arg(long, value_name = "P", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65536))]
    prompt: u64,
    /// Tokens of each answer
    #[arg(long, value_name = "G", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=65536))]
    generate: u64,
    /// Leave the clock to the governor
    #[arg(long)]
    threads_only: bool,
    /// Keep the recommended number of threads for this model, as `tern tune` keeps its own
    #[arg(long)]
    keep: bool,
    /// Configuration file whose [energy] names the meter; without it /etc/tern/tern.toml if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    model: ModelChoice,
}

const EXAMPLES: &str = "\
Clocks may be set by root only; they are as before when this ends, by ctrl-C too.

Examples:
  tern energy sweep                      threads, with the bundled model
  sudo tern energy sweep --model m.gguf  threads and clocks
  tern energy sweep --keep               and use what was found from now on";

/// Clocks that are tried, at most.
const MOST_CLOCKS: usize = 3;

/// Sweeps.
///
/// # Errors
/// If nothing here can tell settings apart, or the model cannot be run.
pub fn run(args: &SweepArgs) -> Result<(), CommandError> {
    let stop = interrupt()?;
    let root = Root::new("/");
    let origin = Instant::now();
    let mut found = steady_meters(&configuration(args.config.as_deref())?, origin, &stop)?;
    let meter = found.meter.take();
    let mut meter = meter.ok_or_else(|| failure(SweepError::Unsuited { method: Method::Unknown }))?;
    can_rank(&*meter).map_err(failure)?;
    let amount = Amount { prompt_tokens: args.prompt as usize, answer_tokens: args.generate as usize };
    // The kernels are those of an ordinary start; they stay the same for all settings.
    let (kernels, path) = with_engine(&args.model, |_, opened| (opened.kernels, opened.path.clone()))?;
    let mut choice = args.model.clone();
    choice.engine.kernels = Some(kernels.to_owned());
    let clocks = Clocks::detect(&root);
    let settings = settings(&found.machine.cpu, &clocks, args, choice.engine.threads);
    let mut runner = Live::new(origin, choice, amount, stop);
    let progress = Progress::items("sweeping", args.rounds);
    let time = Duration::from_secs(args.seconds);
    let swept = sweep(&mut runner, clocks, &mut *meter, &settings, args.rounds as usize, time, &mut || {
        progress.add(1);
    });
    drop(progress);
    let swept = swept.map_err(failure)?;
    print(&format!("{}, {kernels}, read by {}\n", path.display(), meter.source()))?;
    print(&report::page(&swept))?;
    kept(args, &path, &found.machine.cpu, &swept, kernels)
}

/// Every number of threads at some clocks.
fn settings(cpu: &Cpu, clocks: &Clocks, args: &SweepArgs, threads: Option<usize>) -> Vec<Setting> {
    let allowed = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let every_cpu: Vec<usize> = cpu.clusters.iter().flat_map(|cluster| cluster.cpus.clone()).collect();
    let held = match clocks.may_hold() {
        Ok(()) if !args.threads_only => spread(&clocks.of(&every_cpu), MOST_CLOCKS),
        Ok(()) => Vec::new(),
        Err(why) => {
            log::info!("clocks are left to the governor: {why}");
            Vec::new()
        }
    };
    let held: Vec<Option<u32>> =
        if held.is_empty() { vec![None] } else { held.into_iter().map(Some).collect() };
    let numbers = threads.map_or_else(|| thread_numbers(allowed), |threads| vec![threads]);
    let of = |threads: usize| held.iter().map(move |mhz| Setting { threads, mhz: *mhz });
    numbers.into_iter().flat_map(of).collect()
}

fn failure(error: SweepError) -> CommandError {
    match error {
        SweepError::Model(error) => error,
        SweepError::Unsuited { .. } => CommandError::from_error(Exit::Unavailable, &error),
        error => CommandError::from_error(Exit::Failed, &error),
    }
}

/// Keeps the recommended threads where a start looks for them, or says how.
fn kept(args: &SweepArgs, path: &Path, cpu: &Cpu, swept: &Swept, kernels: &str) -> Result<(), CommandError> {
    let Some((_, chosen)) = recommended(&swept.all, swept.worth) else { return Ok(()) };
    let mut page = String::new();
    if args.keep {
        let folder = state::folder().ok_or_else(|| {
            let message = "not kept: there is no state directory, set STATE_DIRECTORY or HOME";
            CommandError::new(Exit::CannotCreate, message)
        })?;
        let question = question(path, &args.model.engine, cpu)?;
        saved::keep(&folder, answer(question, chosen, kernels));
        page +=
            &format!("kept in {}; `tern tune` finds the fastest again\n", folder.join(saved::FILE).display());
    } else {
        page += "--keep uses this number of threads for this model from now on\n";
    }
    if let Some(mhz) = chosen.setting.mhz {
        page += &format!(
            "the clock is not kept; until the next boot it is held by: echo {}000 | sudo tee \
             /sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq\n",
            mhz
        );
    }
    print(&page)
}

/// What a start with this model asks.
fn question(path: &Path, choice: &EngineChoice, cpu: &Cpu) -> Result<Question, CommandError> {
    let (load, layout) = asked(path, choice)?;
    let allowed = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Ok(Question::new(load, cpu, allowed, layout, None))
}

fn answer(question: Question, chosen: &Measured, kernels: &str) -> Answer {
    let token_ms = 1e3 / chosen.tokens_per_second();
    Answer {
        question,
        kernels: kernels.to_owned(),
        best_threads: chosen.setting.threads,
        decode_ms: token_ms,
        prompt_ms: token_ms,
    }
}
