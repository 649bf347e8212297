//! `tern energy`: what concerns joules, one file a subcommand.

mod calibrate;
mod report;
mod sweep;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tern_boards::Root;
use tern_boards::energy::{Meter, Method};

use crate::config::Config;
use crate::error::{CommandError, Exit};
use crate::reload::Configuration;
use crate::serve::meters::{self, Meters};

/// Calibrates a power model of this board, finds the settings with the fewest joules, says where the joules of a day went
#[derive(Args, Debug)]
pub struct EnergyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Calibrate(calibrate::CalibrateArgs),
    Report(report::ReportArgs),
    Sweep(sweep::SweepArgs),
}

/// Does what the subcommand says.
///
/// # Errors
/// Whatever it fails with.
pub fn run(args: &EnergyArgs) -> Result<(), CommandError> {
    match &args.command {
        Command::Calibrate(args) => calibrate::run(args),
        Command::Report(args) => report::run(args),
        Command::Sweep(args) => sweep::run(args),
    }
}

/// A flag that SIGINT and SIGTERM raise, so that what was set for a measurement is put back; the second ends the process.
fn interrupt() -> Result<Arc<AtomicBool>, CommandError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| CommandError::from_error(Exit::Internal, &error))?;
    }
    Ok(stop)
}

/// Where the configuration of the system's daemon is.
const SYSTEM_CONFIG: &str = "/etc/tern/tern.toml";

/// A meter that is heard speaks within this time, or is not there.
const HEARD_WITHIN: Duration = Duration::from_secs(120);

/// Readings after which it is known how often it speaks.
const HEARD: u64 = 3;

/// The configuration in `path`, else the system's, else the defaults.
fn configuration(path: Option<&Path>) -> Result<Config, CommandError> {
    let system = Path::new(SYSTEM_CONFIG);
    Ok(match path {
        Some(path) => Configuration::read(path)?,
        None if system.exists() => Configuration::read(system)?,
        None => Configuration::default(),
    }
    .config)
}

/// The meters that the daemon would use with `config`, read at a steady rate on a clock that began at `origin`. One that is
/// heard has spoken by then.
fn steady_meters(config: &Config, origin: Instant, stop: &AtomicBool) -> Result<Meters, CommandError> {
    let mut found = meters::find(&Root::new("/"), config)?;
    let Some(meter) = found.meter.take() else { return Ok(found) };
    let mut meter = meters::steadily_read(meter, origin)
        .map_err(|error| CommandError::from_error(Exit::Internal, &error))?;
    if meter.method() == Method::ExternalMeter {
        let heard = |meter: &mut dyn Meter| {
            meter.sample(origin.elapsed()).is_ok_and(|sample| sample.readings >= HEARD)
        };
        let began = Instant::now();
        while !heard(&mut *meter) && began.elapsed() < HEARD_WITHIN && !stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    found.meter = Some(meter);
    Ok(found)
}
