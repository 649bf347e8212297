//! The daemon and command line of Tern: a ternary language model as a service on one small machine.
//!
//! Here, and only here, are sockets, clocks, configuration and exit codes. A request goes from a client through the
//! socket into a bounded queue, to the one engine thread, and back as lines of JSON (`docs/wire.md`).
//!
//! | module | holds |
//! |---|---|
//! | [`cli`], [`commands`] | the command line, one file a command |
//! | [`error`] | a failed command: its message and its exit code |
//! | [`model`] | a model file opened for use: memory checked, workers started |
//! | [`wire`], [`client`], [`pipeline`] | messages, one connection to a daemon, many requests on it |
//! | [`cost`] | what answers cost, in words |
//! | [`evaluation`] | how good the answers on a set of known answers are |
//! | [`table`], [`terminal`], [`figures`] | plain tables, bars and numbers for people |
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod commands;
pub mod cost;
pub mod error;
pub mod evaluation;
pub mod figures;
pub mod model;
pub mod pipeline;
pub mod table;
pub mod terminal;
pub mod wire;

use std::process::ExitCode;

/// Runs the command line of this process and says with what code to leave.
pub fn run() -> ExitCode {
    let cli = <cli::Cli as clap::Parser>::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
