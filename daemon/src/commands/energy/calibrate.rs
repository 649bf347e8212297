//! `tern energy calibrate`: a power model of this board from known loads and a meter.

use clap::Args;
use tern_boards::{Cpu, Root};

use crate::calibration::plan::{Extent, Trial, plan};
use crate::clocks::Clocks;
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::output::print;

/// Calibrates a power model of this board, for when its meter is gone
#[derive(Args, Debug)]
pub struct CalibrateArgs {
    /// Seconds that each load is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=3600))]
    seconds: u32,
    /// Ask for the watts that a plug or a bench supply shows
    #[arg(long)]
    display: bool,
    /// Show the loads and leave
    #[arg(long)]
    dry_run: bool,
}

/// Calibrates.
///
/// # Errors
/// If the loads make no model; the message says why.
pub fn run(args: &CalibrateArgs) -> Result<(), CommandError> {
    let root = Root::new("/");
    let cpu = Cpu::detect(&root);
    let clocks = Clocks::detect(&root);
    let held = clocks.may_hold();
    let extent = if args.display { Extent::Few } else { Extent::Full };
    let trials = plan(&cpu, held.is_ok().then_some(&clocks), extent);
    if args.dry_run {
        return print(&announcement(&trials, held.err().as_deref(), args.seconds));
    }
    Err(CommandError::new(Exit::Failed, "only --dry-run is there yet"))
}

fn announcement(trials: &[Trial], not_held: Option<&str>, seconds: u32) -> String {
    let total_ms = f64::from(seconds + 1) * 1e3 * trials.len() as f64;
    let mut text = format!(
        "{} of {} s each, about {}:\n",
        figures::counted(trials.len(), "load"),
        seconds,
        figures::duration_ms(total_ms)
    );
    for trial in trials {
        text += &format!("  {}\n", trial.name);
    }
    if let Some(why) = not_held {
        text += &format!("clocks are left to the governor: {why}\n");
    }
    text
}
