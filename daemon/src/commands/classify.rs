//! `tern classify`: one decision for each text.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use tern_protocol::answer::Value;
use tern_protocol::request::Kind;

use super::input;
use super::stream::json_line;
use crate::client::exit_of;
use crate::config::line_of;
use crate::cost::Cost;
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::local::{DaemonChoice, unexpected};
use crate::pipeline;
use crate::table::cut;
use crate::tasks::labels;
use crate::terminal::Terminal;
use crate::wire::{Answer, Ask, Decision, Request};

/// Requests under way at once: enough to fill the engine's batches.
const WINDOW: usize = 16;

const EXAMPLES: &str = "\
Examples:
  dmesg | tern classify --task log-severity
  tern classify --task log-subsystem 'usb 1-1: device not accepting address 4'
  journalctl -f -o cat | tern classify --task log-subsystem --json
  tern classify --labels fan,pump,door 'the cooling water does not flow'
  tern classify --labels invoice,reminder --instructions 'What letter is this, {labels}?' < letters.txt

Each answer is a line: label, probability, text, with tabs between them unless a person is watching. A label of `?` \
means that no label reached the task's threshold. Lines that are refused are said on standard error, and the exit \
code is then 64 (bad input) or 75 (try again). Blank lines of standard input are passed over.";

/// Decides about each text: which label, yes or no, or a score
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ClassifyArgs {
    /// Texts; without any, each line of standard input is one
    texts: Vec<String>,
    #[command(flatten)]
    question: Question,
    /// Print the daemon's answers, one JSON object a line
    #[arg(long)]
    json: bool,
    /// Do not say on standard error what the answers cost
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten, next_help_heading = "Daemon")]
    daemon: DaemonChoice,
}

/// What is asked of each text.
#[derive(Args, Clone, Debug, Default)]
struct Question {
    /// A task of the daemon; log-subsystem, log-severity and needs-a-person are built in
    #[arg(long, value_name = "NAME", required_unless_present_any = ["task_file", "labels"])]
    task: Option<String>,
    /// A task of your own: a TOML file with kind, instructions, labels, ...
    #[arg(long, value_name = "FILE", conflicts_with = "task")]
    task_file: Option<PathBuf>,
    /// Labels of your own to choose from, with commas between them
    #[arg(long, value_name = "A,B,...", value_delimiter = ',', conflicts_with_all = ["task", "task_file"])]
    labels: Vec<String>,
    /// What to ask, with --labels, which stand where it says `{labels}` [default: Which of these fits best: {labels}?]
    #[arg(long, value_name = "TEXT", requires = "labels")]
    instructions: Option<String>,
    /// Answer `?` if the best label is less probable than this, with --labels
    #[arg(long, value_name = "P", requires = "labels")]
    threshold: Option<f32>,
}

impl Question {
    /// A request without text.
    fn request(&self) -> Result<Request, CommandError> {
        let mut request = Request::new(String::new());
        match (&self.task, &self.task_file) {
            (Some(name), _) => request.task = Some(name.clone()),
            (None, Some(path)) => request.ask = Some(read_task(path)?),
            (None, None) => {
                request.ask = Some(Ask {
                    instructions: Some(
                        self.instructions.clone().unwrap_or_else(|| labels::CHOICE.to_owned()),
                    ),
                    labels: Some(self.labels.clone()),
                    threshold: self.threshold,
                    ..Ask::new(Kind::Choice)
                });
            }
        }
        Ok(request)
    }
}

/// A task file as it goes into a request; the daemon checks what it says.
fn read_task(path: &Path) -> Result<Ask, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CommandError::new(Exit::NoInput, format!("cannot read {}: {error}", path.display()))
    })?;
    toml::from_str(&text).map_err(|error| {
        let what = error.message().replace('\n', " ");
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        CommandError::new(Exit::BadInput, format!("{}:{line}: {what}", path.display()))
    })
}

/// Runs the command.
///
/// # Errors
/// If no daemon can be had, or any text was refused.
pub fn run(args: &ClassifyArgs) -> Result<(), CommandError> {
    let request = args.question.request()?;
    let (client, _daemon) = args.daemon.open()?.into_parts();
    let given = args.texts.clone();
    let texts: Box<dyn Iterator<Item = _> + Send> =
        if given.is_empty() { Box::new(input::lines()) } else { Box::new(given.into_iter().map(Ok)) };
    // The texts come back beside their answers, in order.
    let (remember, remembered) = std::sync::mpsc::channel();
    let source = texts.map(move |text: Result<String, CommandError>| {
        let text = text?;
        // The receiver lives as long as answers are awaited; after that nobody misses the text.
        let _ = remember.send(text.clone());
        Ok(Request { text: Some(text), ..request.clone() })
    });

    let mut report = Report::new(args.json);
    let began = Instant::now();
    pipeline::run(client, WINDOW, source, |_, answer| {
        let text = remembered.recv().unwrap_or_default();
        report.add(&text, answer)
    })?;
    if !args.quiet {
        report.say_cost(began.elapsed().as_secs_f64());
    }
    report.outcome()
}

/// Prints answers and keeps what is said at the end.
struct Report {
    json: bool,
    person: Option<Terminal>,
    cost: Cost,
    lines: usize,
    refused: usize,
    first_refusal: Option<Exit>,
}

impl Report {
    fn new(json: bool) -> Report {
        let person = io::stdout().is_terminal().then(Terminal::of_stdout);
        Report { json, person, cost: Cost::default(), lines: 0, refused: 0, first_refusal: None }
    }

    fn add(&mut self, text: &str, answer: Answer) -> Result<(), CommandError> {
        self.lines += 1;
        let mut out = io::stdout().lock();
        match &answer {
            Answer::Decision(decision) => {
                self.cost.add(&decision.usage, &decision.energy);
                if !self.json {
                    return writeln!(out, "{}", self.line(text, decision))
                        .and_then(|()| out.flush())
                        .map_err(|error| CommandError::output(&error));
                }
            }
            Answer::Error(failure) => {
                self.refused += 1;
                let exit = exit_of(failure.reason);
                self.first_refusal.get_or_insert(exit);
                if exit == Exit::Unavailable || exit == Exit::Internal {
                    return Err(CommandError::new(exit, failure.message.clone()));
                }
                eprintln!("tern: text {}: {}", self.lines, failure.message);
            }
            other => return Err(unexpected(other)),
        }
        if self.json { json_line(&mut out, &answer) } else { Ok(()) }
    }

    fn line(&self, text: &str, decision: &Decision) -> String {
        let label = match (decision.value, &decision.label) {
            (Some(Value::Number(value)), _) => format!("{value:.2}"),
            (_, Some(label)) => label.clone(),
            (_, None) => "?".to_owned(),
        };
        let p = f64::from(decision.probability);
        match &self.person {
            None => format!("{label}\t{p:.3}\t{text}"),
            Some(terminal) => {
                let room = terminal.columns.saturating_sub(33).max(20);
                let bar = terminal.bar(p, 10);
                format!("{label:<12}  {bar}  {:>4}  {}", figures::percent(p), cut(text, room))
            }
        }
    }

    fn say_cost(&self, seconds: f64) {
        let Cost { answers, prompt_tokens, .. } = self.cost;
        if answers > 0 {
            eprintln!(
                "[{answers} decisions in {}, {} prompt tokens/s; energy {}]",
                figures::duration_ms(seconds * 1e3),
                figures::three_digits(prompt_tokens as f64 / seconds),
                self.cost.energy_in_words()
            );
        }
    }

    fn outcome(&self) -> Result<(), CommandError> {
        match self.first_refusal {
            None => Ok(()),
            Some(exit) => Err(CommandError::new(
                exit,
                format!("{} of {} texts got no decision, as said above", self.refused, self.lines),
            )),
        }
    }
}
