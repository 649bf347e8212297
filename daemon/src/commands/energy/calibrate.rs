//! `tern energy calibrate`: a power model of this board from known loads and a meter.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tern_boards::memory::Memory;
use tern_boards::{Cpu, Root};

use super::{configuration, interrupt, steady_meters};
use crate::bandwidth::last_level_cache_bytes;
use crate::calibration::bench::Live;
use crate::calibration::gauge::{Display, Gauge, GaugeError, is_real};
use crate::calibration::job::{Job, announcement, loads_of};
use crate::calibration::plan::Extent;
use crate::config::metering::MeterName;
use crate::date;
use crate::error::{CommandError, Exit};
use crate::output::print;

/// Calibrates a power model of this board, so that it has joules without a sensor
///
/// Runs known loads (at rest, in registers, in caches, from memory, mixed, on one to all cores, at the clocks that may be
/// set), reads the best meter beside them, fits watts by cores, clocks and bytes, and writes them into this board's
/// profile, where every command finds them. What fits badly is refused. The machine must have nothing else to do.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CalibrateArgs {
    /// Seconds that each load is measured; without it 8, or 60 for a display
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// Ask for the watts that a plug or a bench supply shows, for fewer loads
    #[arg(long)]
    display: bool,
    /// Take those watts from this file, a line a load in their order: WATTS or LOAD = WATTS
    #[arg(long, value_name = "FILE")]
    readings: Option<PathBuf>,
    /// How far what is shown may be off, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0, value_parser = parse_percent)]
    display_error: f64,
    /// The file to write; without it this board's in /etc/tern/boards.d
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Configuration file whose [energy] names the meter; without it /etc/tern/tern.toml if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show the loads and leave
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Examples:
  sudo tern energy calibrate            with the meter of this board (`tern doctor` names it)
  sudo tern energy calibrate --display  with a plug between the board and the wall";

/// Seconds of a load that a person reads.
const DISPLAY_SECONDS: u64 = 60;

/// Seconds of one that a meter reads.
const METER_SECONDS: u64 = 8;

/// The least buffer to stream; four times the last-level caches where they are larger.
const LEAST_BUFFER_BYTES: u64 = 64 << 20;

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=30.0).contains(percent));
    percent.ok_or_else(|| "give a percentage from 0 to 30".into())
}

/// Calibrates.
///
/// # Errors
/// If the loads make no model; the message says why.
pub fn run(args: &CalibrateArgs) -> Result<(), CommandError> {
    let stop = interrupt()?;
    let origin = Instant::now();
    let root = Root::new("/");
    let cpu = Cpu::detect(&root);
    let shown = args.display || args.readings.is_some();
    let extent = if shown { Extent::Few } else { Extent::Full };
    let seconds = args.seconds.unwrap_or(if shown { DISPLAY_SECONDS } else { METER_SECONDS });
    let time = Duration::from_secs(seconds);
    let available = Memory::detect(&root).available_bytes.unwrap_or(u64::MAX);
    let wanted = last_level_cache_bytes(&cpu).unwrap_or(0).saturating_mul(4).max(LEAST_BUFFER_BYTES);
    let Some(mut bench) = Live::new(origin, wanted.min(available / 4), Arc::clone(&stop)) else {
        return Err(CommandError::new(
            Exit::Failed,
            "there is no memory for a buffer larger than the caches",
        ));
    };
    if args.dry_run {
        let (trials, _, not_held) = loads_of(&bench, extent);
        let names: String = trials.iter().map(|trial| format!("  {}\n", trial.name)).collect();
        return print(&format!("{}\n{names}", announcement(&trials, not_held.as_deref(), time)));
    }
    // It hears a plug for as long as it lives.
    let mut _meters = None;
    let mut gauge = if shown {
        Gauge::Display(display(args)?)
    } else {
        let mut config = configuration(args.config.as_deref())?;
        if matches!(config.energy.meter, MeterName::CalibratedModel | MeterName::UtilisationTable) {
            config.energy.meter = MeterName::Auto;
        }
        let mut found = steady_meters(&config, origin, &stop)?;
        let meter = found.meter.take().filter(|meter| is_real(meter.method()));
        _meters = Some(found);
        Gauge::Meter(meter.ok_or_else(|| CommandError::from_error(Exit::Unavailable, &GaugeError::None))?)
    };
    let job = Job { time, extent, output: args.output.clone(), force: args.force, date: date::today() };
    let mut unsaid = None;
    let ended = job.run(&mut bench, &mut gauge, &mut |line| {
        if let Err(error) = print(&format!("{line}\n")) {
            unsaid.get_or_insert(error);
        }
    });
    ended?;
    unsaid.map_or(Ok(()), Err)
}

fn display(args: &CalibrateArgs) -> Result<Display<'static>, CommandError> {
    let error = args.display_error / 100.0;
    let Some(path) = &args.readings else {
        let lines = Box::new(BufReader::new(io::stdin()));
        return Ok(Display::new(lines, "a display".into(), error, io::stdin().is_terminal()));
    };
    let file = File::open(path).map_err(|error| {
        CommandError::from_error(Exit::NoInput, &error)
            .while_doing(format!("opening the readings '{}'", path.display()))
    })?;
    Ok(Display::new(Box::new(BufReader::new(file)), "readings of a display".into(), error, false))
}
