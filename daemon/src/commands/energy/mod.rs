//! `tern energy`: what concerns joules, one file a subcommand.

mod calibrate;

use clap::{Args, Subcommand};

use crate::error::CommandError;

/// Calibrates a power model of this board, and finds the settings with the fewest joules a token
#[derive(Args, Debug)]
pub struct EnergyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Calibrate(calibrate::CalibrateArgs),
}

/// Does what the subcommand says.
///
/// # Errors
/// Whatever it fails with.
pub fn run(args: &EnergyArgs) -> Result<(), CommandError> {
    match &args.command {
        Command::Calibrate(args) => calibrate::run(args),
    }
}
