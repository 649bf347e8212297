//! The command line: joins the commands, whose options live with them in [`crate::commands`].

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{
    bench, classify, demo, doctor, energy, eval, inspect, logits, models, pack, pages, run, serve, status,
    summarize, synth, train, tune,
};
use crate::error::CommandError;

/// Runs ternary language models on small machines: typed decisions, summaries and text, with the joules they cost.
#[derive(Debug, Parser)]
#[command(name = "tern", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tern demo                                  see it work, with the bundled model
  dmesg | tern classify --task log-severity  one decision a line
  tern serve                                 answer on a Unix socket
  tern inspect models/tern-log-i2_s.gguf  what is in a model file, what it needs

Exit codes: 0 done, 1 the outcome is a failure, 2 usage, 64 bad input, 66 no such input or unusable model, 69 no \
daemon on the socket, 70 internal fault, 73 cannot write the output, 75 busy, try again.";

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Classify(classify::ClassifyArgs),
    Summarize(summarize::SummarizeArgs),
    Run(run::RunArgs),
    Serve(serve::ServeArgs),
    Status(status::StatusArgs),
    Eval(eval::EvalArgs),
    Train(train::TrainArgs),
    Inspect(inspect::InspectArgs),
    Models(models::ModelsArgs),
    Pack(pack::PackArgs),
    Tune(tune::TuneArgs),
    Bench(bench::BenchArgs),
    Energy(energy::EnergyArgs),
    Synth(synth::SynthArgs),
    Logits(logits::LogitsArgs),
    Doctor(doctor::DoctorArgs),
    Pages(pages::PagesArgs),
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever the command fails with.
    pub fn run(self) -> Result<(), CommandError> {
        match &self.command {
            Command::Demo(args) => demo::run(args),
            Command::Classify(args) => classify::run(args),
            Command::Summarize(args) => summarize::run(args),
            Command::Run(args) => run::run(args),
            Command::Serve(args) => serve::run(args),
            Command::Status(args) => status::run(args),
            Command::Eval(args) => eval::run(args),
            Command::Train(args) => train::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Models(args) => models::run(args),
            Command::Pack(args) => pack::run(args),
            Command::Tune(args) => tune::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Energy(args) => energy::run(args),
            Command::Synth(args) => synth::run(args),
            Command::Logits(args) => logits::run(args),
            Command::Doctor(args) => doctor::run(args),
            Command::Pages(args) => pages::run(args, &mut Cli::command()),
        }
    }
}
