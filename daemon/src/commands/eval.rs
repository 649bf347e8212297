//! `tern eval`: how good the answers on a set of known answers are, how fast they come and what they cost.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tern_protocol::request::Kind;

use super::stream::json_line;
use crate::client::exit_of;
use crate::cost::Cost;
use crate::error::{CommandError, Exit};
use crate::evaluation::rouge::rouge_l;
use crate::evaluation::scores::{ByLabel, Outcome, Scores};
use crate::evaluation::set::{Example, Form, Set};
use crate::figures;
use crate::local::{DaemonChoice, unexpected};
use crate::output;
use crate::pipeline;
use crate::progress::Progress;
use crate::table::{Align, Table};
use crate::wire::{Answer, Ask, Decision, Request};

const EXAMPLES: &str = "\
Examples:
  tern eval models/eval/log-subsystem.jsonl
  tern eval models/eval/summary.jsonl --limit 100 --json
  tern eval letters.jsonl --instructions 'What kind of letter is this: {labels}?'
  tern eval models/eval/choice-renamed.jsonl

A set is JSON lines: {\"text\": ..., \"labels\": [...], \"answer\": ...}, or without labels for summaries. The task \
is the one called like the file, else `summarize` for a set without labels; --instructions asks with the labels of \
each line. Lines that have \"instructions\" too are asked those, each with its own labels, unless --task or \
--instructions is given. Labels are compared (macro-F1 and tables) where all lines have the same.";

/// How much of a label heads a column of the table of guesses.
const HEAD_LETTERS: usize = 5;

/// Runs an evaluation set and prints accuracy, speed and energy
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct EvalArgs {
    /// The set: JSON lines
    file: PathBuf,
    /// Task of the daemon
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// What to ask about the labels of each line, which stand where it says `{labels}`, instead of a task
    #[arg(long, value_name = "TEXT", conflicts_with = "task")]
    instructions: Option<String>,
    /// Only the first lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=64))]
    in_flight: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Daemon")]
    daemon: DaemonChoice,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    /// Whether each line was asked its own instructions.
    own_instructions: bool,
    task: Option<String>,
    model: String,
    kernels: String,
    threads: u32,
    /// Of decisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Scores>,
    /// Of summaries.
    #[serde(skip_serializing_if = "Option::is_none")]
    summaries: Option<Summaries>,
    seconds: f64,
    answers_per_second: f64,
    prompt_tokens_per_second: f64,
    generated_tokens_per_second: f64,
    joules_per_token: Option<f64>,
    cost: Cost,
}

/// Figures of a set of summaries.
#[derive(Debug, Serialize)]
struct Summaries {
    rows: usize,
    /// Mean ROUGE-L against the known answers.
    rouge_l: f64,
    /// The same of the first ten words of each text: what copying would score.
    rouge_l_of_first_ten_words: f64,
    /// The first few, to look at.
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Sample {
    summary: String,
    answer: String,
}

const SAMPLES: usize = 5;

/// Runs the command.
///
/// # Errors
/// If the set or the task is unusable, no daemon can be had, or it refuses a request.
pub fn run(args: &EvalArgs) -> Result<(), CommandError> {
    let set = read_set(&args.file, args.limit)?;
    let mut session = args.daemon.open()?;
    let status = session.status()?;
    let asked = Asked::of(args, &set, &status.tasks)?;
    let (client, _daemon) = session.into_parts();

    let progress = Progress::items("asking", set.examples.len() as u64);
    let mut tally = Tally::new(&set);
    let requests = requests(&set, &asked);
    let began = Instant::now();
    let window = usize::try_from(args.in_flight).unwrap_or(1);
    let ran = pipeline::run(client, window, requests, |place, answer| {
        progress.add(1);
        tally.add(place as usize, answer)
    });
    drop(progress);
    ran?;
    let seconds = began.elapsed().as_secs_f64();

    let Tally { cost, outcomes, summaries, .. } = tally;
    // A task offers its own labels, whatever the lines have.
    let scores = if matches!(asked, Asked::Task(_)) || set.has_one_label_set() {
        Scores::of(&outcomes)
    } else {
        Scores::of_own_labels(&outcomes, set.blind_share())
    };
    let report = Report {
        file: args.file.display().to_string(),
        own_instructions: asked == Asked::OwnInstructions,
        task: if let Asked::Task(name) = asked { Some(name) } else { None },
        model: status.model,
        kernels: status.kernels,
        threads: status.threads,
        scores: set.is_decisions().then_some(scores),
        summaries: (!set.is_decisions()).then(|| summaries.figures(&set.examples)),
        seconds,
        answers_per_second: cost.answers as f64 / seconds,
        prompt_tokens_per_second: cost.prompt_tokens as f64 / seconds,
        generated_tokens_per_second: cost.generated_tokens as f64 / seconds,
        joules_per_token: cost.joules_per_token(),
        cost,
    };
    if args.json { json_line(&mut io::stdout().lock(), &report) } else { output::print(&report.in_words()) }
}

/// Reads a set of examples.
///
/// # Errors
/// If it cannot be read or is none.
pub fn read_set(path: &Path, limit: Option<u64>) -> Result<Set, CommandError> {
    let file = File::open(path).map_err(|error| {
        CommandError::new(
            Exit::NoInput,
            format!("cannot open the evaluation set {}: {error}", path.display()),
        )
    })?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    Set::read(BufReader::new(file), limit)
        .map_err(|error| CommandError::from_error(Exit::BadInput, &error).while_doing(path.display()))
}

/// What the lines of a set are asked.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// A task of the daemon.
    Task(String),
    /// The same of all, with the labels of each line.
    Instructions(String),
    /// What each line says, with its labels.
    OwnInstructions,
}

impl Asked {
    fn of(args: &EvalArgs, set: &Set, tasks: &[String]) -> Result<Asked, CommandError> {
        if let Some(instructions) = &args.instructions {
            if !set.is_decisions() {
                return Err(CommandError::new(
                    Exit::BadInput,
                    "--instructions ask about labels, and this set has none; use --task with a task of kind text",
                ));
            }
            return Ok(Asked::Instructions(instructions.clone()));
        }
        if let Some(task) = &args.task {
            return Ok(Asked::Task(task.clone()));
        }
        if set.form == Form::OwnQuestion {
            return Ok(Asked::OwnInstructions);
        }
        let stem = args.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let named = tasks.iter().find(|task| *task == stem);
        let usual = tasks.iter().find(|task| *task == "summarize").filter(|_| !set.is_decisions());
        named.or(usual).cloned().map(Asked::Task).ok_or_else(|| {
            CommandError::new(
                Exit::BadInput,
                format!(
                    "no task is called {stem:?} like the file; say --task with one of {}, or --instructions, or give \
                     each line instructions",
                    tasks.join(", ")
                ),
            )
        })
    }

    /// What `example` is asked, where it is no task of the daemon.
    fn ask(&self, example: &Example) -> Option<Ask> {
        let instructions = match self {
            Asked::Task(_) => return None,
            Asked::Instructions(instructions) => Some(instructions.clone()),
            Asked::OwnInstructions => example.instructions.clone(),
        };
        Some(Ask { instructions, labels: Some(example.labels.clone()), ..Ask::new(Kind::Choice) })
    }
}

fn requests(
    set: &Set,
    asked: &Asked,
) -> impl Iterator<Item = Result<Request, CommandError>> + Send + 'static {
    let request = |example: &Example| {
        let mut request = Request::new(String::new());
        request.text = Some(example.text.clone());
        request.task = if let Asked::Task(name) = asked { Some(name.clone()) } else { None };
        request.ask = asked.ask(example);
        Ok(request)
    };
    set.examples.iter().map(request).collect::<Vec<_>>().into_iter()
}

/// Answers as they come.
struct Tally<'s> {
    examples: &'s [Example],
    cost: Cost,
    outcomes: Vec<Outcome>,
    summaries: Written,
}

impl<'s> Tally<'s> {
    fn new(set: &'s Set) -> Self {
        Tally {
            examples: &set.examples,
            cost: Cost::default(),
            outcomes: Vec::new(),
            summaries: Written::default(),
        }
    }

    fn add(&mut self, place: usize, answer: Answer) -> Result<(), CommandError> {
        let example = &self.examples[place];
        let decisions = !example.labels.is_empty();
        match answer {
            Answer::Decision(decision) if decisions => {
                self.cost.add(&decision.usage, &decision.energy);
                let outcome = outcome(&decision, example);
                self.outcomes.push(outcome.map_err(|error| error.while_doing(line(example)))?);
                Ok(())
            }
            Answer::Text(text) if !decisions => {
                self.cost.add(&text.usage, &text.energy);
                self.summaries.texts.push(text.text);
                Ok(())
            }
            // A figure over the rows that happened to work would not be the figure of the set.
            Answer::Error(failure) => {
                Err(CommandError::new(exit_of(failure.reason), failure.message).while_doing(line(example)))
            }
            other => Err(unexpected(&other)),
        }
    }
}

fn line(example: &Example) -> String {
    format!("line {}", example.line)
}

fn outcome(decision: &Decision, example: &Example) -> Result<Outcome, CommandError> {
    let best = decision.probabilities.iter().max_by(|a, b| a.p.total_cmp(&b.p));
    let knows_answer = decision.probabilities.iter().any(|known| known.label == example.answer);
    match best {
        Some(best) if knows_answer => Ok(Outcome {
            guess: best.label.clone(),
            probability: f64::from(best.p),
            answer: example.answer.clone(),
            abstained: decision.abstained,
        }),
        _ => Err(CommandError::new(
            Exit::BadInput,
            format!(
                "the task has no label {:?}, which is the answer here; choose the right --task, or use --instructions",
                example.answer
            ),
        )),
    }
}

/// Summaries in the order of their texts.
#[derive(Default)]
struct Written {
    texts: Vec<String>,
}

impl Written {
    fn figures(&self, examples: &[Example]) -> Summaries {
        let pairs = || self.texts.iter().zip(examples);
        let mean = |sum: f64| sum / self.texts.len().max(1) as f64;
        let opening = |text: &str| text.split_whitespace().take(10).collect::<Vec<_>>().join(" ");
        Summaries {
            rows: self.texts.len(),
            rouge_l: mean(pairs().map(|(text, example)| rouge_l(text, &example.answer)).sum()),
            rouge_l_of_first_ten_words: mean(
                pairs().map(|(_, example)| rouge_l(&opening(&example.text), &example.answer)).sum(),
            ),
            samples: pairs()
                .take(SAMPLES)
                .map(|(text, example)| Sample { summary: text.clone(), answer: example.answer.clone() })
                .collect(),
        }
    }
}

impl Report {
    fn in_words(&self) -> String {
        let how = match &self.task {
            Some(task) => format!("task {task}"),
            None if self.own_instructions => "instructions and labels of each line".to_owned(),
            None => "--instructions".to_owned(),
        };
        let mut out =
            format!("{}: {how}, {} on {}, {} threads\n\n", self.file, self.model, self.kernels, self.threads);
        let mut table = Table::new([Align::Left, Align::Right, Align::Left]);
        if let Some(scores) = &self.scores {
            score_rows(&mut table, scores);
        }
        if let Some(summaries) = &self.summaries {
            table.row(["summaries", &summaries.rows.to_string()]);
            table.row(["ROUGE-L", &format!("{:.3}", summaries.rouge_l)]);
            let opening = format!("{:.3}", summaries.rouge_l_of_first_ten_words);
            table.row(["first ten words", &opening, "what copying the beginning would score"]);
        }
        table.row(["time", &figures::duration_ms(self.seconds * 1e3)]);
        table.row(["answers/s", &figures::three_digits(self.answers_per_second)]);
        table.row(["prompt tokens/s", &figures::three_digits(self.prompt_tokens_per_second)]);
        if self.cost.generated_tokens > 0 {
            table.row(["written tokens/s", &figures::three_digits(self.generated_tokens_per_second)]);
        }
        if self.cost.drafted_tokens > 0 {
            let right = self.cost.accepted_tokens as f64 / self.cost.drafted_tokens as f64;
            let of = format!(
                "of {} tokens tried ahead; {} tokens were written",
                self.cost.drafted_tokens, self.cost.generated_tokens
            );
            table.row(["tried rightly", &figures::percent(right), &of]);
        }
        out.push_str(&table.render());
        out.push_str(&format!("energy  {}\n", self.cost.energy_in_words()));
        if let Some(by_label) = self.scores.as_ref().and_then(|scores| scores.by_label.as_ref()) {
            out.push_str(&label_table(by_label));
            out.push_str(&confusion_table(by_label));
        }
        if let Some(summaries) = &self.summaries {
            out.push('\n');
            for sample in &summaries.samples {
                out.push_str(&format!("  wrote     {}\n  expected  {}\n\n", sample.summary, sample.answer));
            }
        }
        out
    }
}

fn score_rows(table: &mut Table, scores: &Scores) {
    let mut row = |name: &str, value: f64, note: &str| table.row([name, &format!("{value:.3}"), note]);
    row("accuracy", scores.accuracy, "");
    if let Some(by_label) = &scores.by_label {
        row("always the commonest", by_label.majority_share, "what always guessing one label would score");
        row("macro-F1", by_label.macro_f1, "");
    }
    if let Some(share) = scores.blind_share {
        row("guessing blindly", share, "one in as many labels as each line has");
    }
    row("most confident half", scores.confident_half_accuracy, "accuracy where the probabilities are higher");
    row("calibration error", scores.calibration_error, "mean distance of probability and accuracy, ten bins");
    table.row(["decisions", &scores.rows.to_string(), ""]);
    table.row([
        "abstained",
        &scores.abstained.to_string(),
        "under the task's threshold; counted by their best label",
    ]);
}

fn label_table(scores: &ByLabel) -> String {
    let mut table = Table::new([Align::Left, Align::Right, Align::Right, Align::Right, Align::Right]);
    table.row(["label", "answers", "guesses", "right", "F1"]);
    for label in &scores.labels {
        let counts = [label.answers, label.guesses, label.hits].map(|count| count.to_string());
        let [answers, guesses, hits] = counts;
        table.row([label.label.clone(), answers, guesses, hits, format!("{:.2}", label.f1)]);
    }
    format!("\n{}", table.render())
}

/// Counts of guesses (columns) for each answer (rows). Columns are headed by the labels' first letters or, where labels
/// begin alike, by numbers, which then stand before the labels of the rows.
fn confusion_table(scores: &ByLabel) -> String {
    let mut align = vec![Align::Right; scores.labels.len() + 1];
    align[0] = Align::Left;
    let mut table = Table::new(align);
    let labels: Vec<&str> = scores.labels.iter().map(|label| label.label.as_str()).collect();
    let (heads, names) = column_heads(&labels);
    table.row(std::iter::once("answer \\ guess".to_owned()).chain(heads));
    for (name, row) in names.into_iter().zip(&scores.confusion) {
        let cells = row.iter().map(|&count| if count == 0 { ".".to_owned() } else { count.to_string() });
        table.row(std::iter::once(name).chain(cells));
    }
    format!("\n{}", table.render())
}

/// The heads of the columns of a table of labels against labels, and the names of its rows.
fn column_heads(labels: &[&str]) -> (Vec<String>, Vec<String>) {
    let short: Vec<String> = labels.iter().map(|label| label.chars().take(HEAD_LETTERS).collect()).collect();
    let are_apart = short.iter().collect::<HashSet<_>>().len() == short.len();
    if are_apart {
        return (short, labels.iter().map(|&label| label.to_owned()).collect());
    }
    let numbered = labels.iter().zip(1..).map(|(label, number)| format!("{number} {label}"));
    ((1..=labels.len()).map(|number| number.to_string()).collect(), numbered.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_begin_alike_are_told_apart_by_numbers() {
        let (heads, names) = column_heads(&["network", "wireless"]);
        assert_eq!(
            (heads.join(" "), names.join(" ")),
            ("netwo wirel".to_owned(), "network wireless".to_owned())
        );
        let (heads, names) = column_heads(&["machine 1", "machine 2", "roof"]);
        assert_eq!(heads, ["1", "2", "3"]);
        assert_eq!(names, ["1 machine 1", "2 machine 2", "3 roof"]);
    }
}
