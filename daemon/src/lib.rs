//! The daemon and command line of Tern: a ternary language model as a service on one small machine.
//!
//! Here, and only here, are sockets, clocks, configuration and exit codes. A request goes from a client through the
//! socket into a bounded queue, to the one engine thread, and back as lines of JSON (`docs/wire.md`).
//!
//! | module | holds |
//! |---|---|
//! | [`cli`], [`commands`] | the command line, one file a command |
//! | [`error`] | a failed command: its message and its exit code |
//! | [`table`] | plain aligned tables for terminals |
#![forbid(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod error;
pub mod table;

use std::process::ExitCode;

/// Runs the command line of this process and says with what code to leave.
pub fn run() -> ExitCode {
    let cli = <cli::Cli as clap::Parser>::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
