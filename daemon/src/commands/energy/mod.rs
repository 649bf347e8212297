//! `tern energy`: what concerns joules, one file a subcommand.

mod calibrate;
mod report;

use clap::{Args, Subcommand};

use crate::error::CommandError;

/// Calibrates a power model of this board, and says where the joules of a day went
#[derive(Args, Debug)]
pub struct EnergyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Calibrate(calibrate::CalibrateArgs),
    Report(report::ReportArgs),
}

/// Does what the subcommand says.
///
/// # Errors
/// Whatever it fails with.
pub fn run(args: &EnergyArgs) -> Result<(), CommandError> {
    match &args.command {
        Command::Calibrate(args) => calibrate::run(args),
        Command::Report(args) => report::run(args),
    }
}
