//! The daemon and command line of Tern: a ternary language model as a service on one small machine.
//!
//! Here, and only here, are sockets, clocks, configuration and exit codes. A request goes from a client through the
//! socket into a bounded queue, to the one engine thread, and back as lines of JSON (`docs/wire.md`).
//!
//! | module | holds |
//! |---|---|
//! | [`cli`], [`commands`] | the command line, one file a command |
//! | [`error`] | a failed command: its message and its exit code |
//! | [`config`], [`logger`], [`systemd`] | what the daemon is told, and what it tells its operator |
//! | [`serve`], [`transport`] | the daemon: queue, engine thread, sessions; the socket and MQTT in front |
//! | [`tasks`] | what is asked of a text, as a prompt, and what the numbers mean |
//! | [`model`] | a model file opened for use: memory checked, workers started |
//! | [`wire`], [`client`], [`pipeline`] | messages, one connection to a daemon, many requests on it |
//! | [`local`] | a daemon for as long as one command takes |
//! | [`cost`] | what answers cost, in words |
//! | [`daybook`], [`date`], [`prometheus`] | where the joules went by hour, and how that is told |
//! | [`evaluation`] | how good the answers on a set of known answers are |
//! | [`inspect`], [`catalog`] | what is in a model file and where it fits; models that somebody can get |
//! | [`checkpoint`] | a directory as Hugging Face publishes models, and its packed form |
//! | [`packing`] | a model in the layout that kernels read where it is mapped |
//! | [`tune`], [`state`] | which kernels and how many threads are fastest here; where that is kept |
//! | [`benchmark`], [`bandwidth`] | speed, and the bound that memory sets |
//! | [`calibration`], [`sweep`] | a power model of this board; the settings with the fewest joules a token |
//! | [`clocks`] | holding the processor at a clock |
//! | [`proof`], [`sanity`] | the kernels against their definition, on this machine; whether a model reads text |
//! | [`synth`], [`random`] | models with random weights |
//! | [`npy`], [`replace`], [`unfinished`] | arrays in and out, whole files, large ones made over several attempts |
//! | [`progress`], [`output`] | bars, results |
//! | [`table`], [`terminal`], [`figures`], [`date`] | plain tables, bars, numbers and days for people |
#![forbid(unsafe_code)]

#[cfg(test)]
mod aligned;
pub mod bandwidth;
pub mod benchmark;
pub mod calibration;
pub mod catalog;
pub mod checkpoint;
pub mod cli;
pub mod client;
pub mod clocks;
pub mod commands;
pub mod config;
pub mod cost;
pub mod date;
pub mod daybook;
pub mod error;
pub mod evaluation;
pub mod figures;
pub mod grammar;
pub mod inspect;
pub mod local;
pub mod logger;
pub mod model;
pub mod npy;
pub mod output;
pub mod packing;
pub mod pipeline;
pub mod progress;
pub mod prometheus;
pub mod proof;
pub mod random;
pub mod reload;
pub mod replace;
pub mod sanity;
pub mod serve;
pub mod signals;
pub mod state;
pub mod sweep;
pub mod synth;
pub mod systemd;
pub mod table;
pub mod tasks;
pub mod terminal;
pub mod transport;
pub mod tune;
pub mod unfinished;
pub mod wire;

use std::process::ExitCode;
use std::sync::Arc;

/// Runs the command line of this process and says with what code to leave.
pub fn run() -> ExitCode {
    let cli = <cli::Cli as clap::Parser>::parse();
    // A file that may not grow any more (`ulimit -f`, LimitFSIZE=) is then an error like a full disk; by default it would
    // end the process. A system that refuses this leaves the default.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let ended = match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    };
    logger::finish();
    ended
}
