//! `tern demo`: the daemon at work on real text, as a client sees it.

use std::time::Instant;

use clap::Args;
use tern_boards::{Board, Cpu, Root};

use super::summarize::paragraphs;
use crate::cost::{self, Cost};
use crate::error::CommandError;
use crate::figures;
use crate::local::{DaemonChoice, Session, unexpected};
use crate::model::ModelChoice;
use crate::output::print;
use crate::table::{cut, visible_width};
use crate::terminal::Terminal;
use crate::wire::{Answer, Decision, Request, Text};

/// Log lines with their known answers.
const LOG_LINES: &str = include_str!("../../demo/log-lines.txt");
/// Paragraphs between blank lines.
const PARAGRAPHS: &str = include_str!("../../demo/paragraphs.txt");

/// Characters of a line beside the log text: mark, label, bar, percent, runner-up, speed, energy and gaps.
const BESIDE_TEXT: usize = 68;
const BAR: usize = 8;

/// Shows a daemon at work on log lines and paragraphs, with the bundled model
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is left behind: the daemon lives in this process, its socket in a temporary folder. NO_COLOR=1 turns colour \
off; output to a pipe or file is plain ASCII.")]
pub struct DemoArgs {
    #[command(flatten, next_help_heading = "Model")]
    model: ModelChoice,
}

/// A log line of the demonstration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LogLine {
    subsystem: &'static str,
    severity: &'static str,
    text: &'static str,
}

fn log_lines() -> impl Iterator<Item = LogLine> {
    LOG_LINES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut parts = line.splitn(3, '\t');
        Some(LogLine { subsystem: parts.next()?, severity: parts.next()?, text: parts.next()? })
    })
}

/// Runs the command.
///
/// # Errors
/// If the daemon cannot start or refuses, or the output cannot be written.
pub fn run(args: &DemoArgs) -> Result<(), CommandError> {
    let terminal = Terminal::of_stdout();
    let began = Instant::now();
    let mut session = DaemonChoice { socket: None, model: args.model.clone() }.open()?;
    let started_ms = began.elapsed().as_secs_f64() * 1e3;
    let status = session.status()?;
    let mut demo = Demo { terminal, session, cost: Cost::default(), decisions: 0, right: 0, summaries: 0 };
    let began = Instant::now();

    print(&format!(
        "{}: {} answers on a Unix socket, ready in {}\n\n",
        terminal.bold(&format!("Tern {}", status.version)),
        status.model,
        figures::duration_ms(started_ms)
    ))?;
    print(&demo.heading())?;
    for line in log_lines() {
        print(&demo.decide(line)?)?;
    }
    print(&terminal.bold("\nSummaries\n"))?;
    for paragraph in paragraphs(PARAGRAPHS) {
        print(&demo.summarize(&paragraph)?)?;
    }
    let elapsed_ms = began.elapsed().as_secs_f64() * 1e3;

    let file = args.model.file().ok();
    let size = file.as_deref().and_then(|path| std::fs::metadata(path).ok()).map(|found| found.len());
    let place = file.map(|path| path.display().to_string()).unwrap_or_default();
    let model = match size {
        Some(size) => format!("{}, {} ({place})", status.model, figures::bytes(size)),
        None => status.model.clone(),
    };
    let root = Root::new("/");
    let (board, _) = Board::detect(&root, Cpu::detect(&root).arch);
    print(&demo.footer(&[
        ("model", model),
        ("kernels", format!("{} on {} threads", status.kernels, status.threads)),
        ("board", board.profile.title.clone()),
        ("time", format!("{} for {}", figures::duration_ms(elapsed_ms), demo.work())),
    ]))
}

struct Demo {
    terminal: Terminal,
    session: Session,
    cost: Cost,
    decisions: usize,
    right: usize,
    summaries: usize,
}

impl Demo {
    /// Columns for the text of a log line; a narrow terminal wraps rather than loses it.
    fn text_width(&self) -> usize {
        self.terminal.columns.saturating_sub(BESIDE_TEXT).clamp(24, 64)
    }

    fn heading(&self) -> String {
        let line = columns(
            self.text_width(),
            "log line",
            "  which subsystem, how severe",
            "runner-up",
            "tok/s",
            "J/token",
        );
        self.terminal.bold(line.trim_end()) + "\n"
    }

    /// Asks for both decisions about a log line; its text stands beside them on two lines.
    fn decide(&mut self, line: LogLine) -> Result<String, CommandError> {
        let width = self.text_width();
        let (first, rest) = wrap(line.text, width);
        let mut out = String::new();
        let both = [("log-subsystem", line.subsystem, first), ("log-severity", line.severity, rest)];
        for (task, known, text) in both {
            let request = Request::task(self.session.client.new_id(), task, line.text);
            let decision = match self.session.client.ask(&request, |_| Ok(()))? {
                Answer::Decision(decision) => decision,
                other => return Err(unexpected(&other)),
            };
            self.cost.add(&decision.usage, &decision.energy);
            let right = best(&decision).is_some_and(|label| label == known);
            self.decisions += 1;
            self.right += usize::from(right);
            out.push_str(&self.decision(width, &text, right, &decision));
        }
        Ok(out)
    }

    fn decision(&self, width: usize, text: &str, right: bool, decision: &Decision) -> String {
        let mut ranked: Vec<_> = decision.probabilities.iter().collect();
        ranked.sort_by(|a, b| b.p.total_cmp(&a.p));
        let p = f64::from(decision.probability);
        let answer = format!(
            "{} {} {} {:>4}",
            self.terminal.mark(right),
            self.terminal.bold(&format!("{:<9}", best(decision).unwrap_or("?"))),
            self.terminal.bar(p, BAR),
            figures::percent(p)
        );
        let next = ranked.get(1).map_or_else(String::new, |second| {
            format!("{} {}", second.label, figures::percent(f64::from(second.p)))
        });
        let rate = decision.usage.prompt_tokens_per_second.map_or("-".to_owned(), figures::three_digits);
        columns(width, text, &answer, &self.terminal.faint(&next), &rate, &cost::per_token(&decision.energy))
    }

    fn summarize(&mut self, paragraph: &str) -> Result<String, CommandError> {
        let request = Request::task(self.session.client.new_id(), "summarize", paragraph);
        let text = match self.session.client.ask(&request, |_| Ok(()))? {
            Answer::Text(text) => text,
            other => return Err(unexpected(&other)),
        };
        self.cost.add(&text.usage, &text.energy);
        self.summaries += 1;
        Ok(self.summary(paragraph, &text))
    }

    fn summary(&self, paragraph: &str, text: &Text) -> String {
        let width = self.terminal.columns.clamp(60, 120) - 4;
        let rate = text.usage.generated_tokens_per_second.map_or("-".to_owned(), figures::three_digits);
        let cost = format!(
            "{} tokens, {rate} tok/s, J/token: {}",
            text.usage.generated_tokens,
            cost::per_token(&text.energy)
        );
        format!(
            "  {}\n    {} {}\n      {}\n",
            cut(paragraph, width),
            if self.terminal.unicode { "\u{2192}" } else { "=>" },
            self.terminal.bold(&cut(&text.text, width * 2)),
            self.terminal.faint(&cost)
        )
    }

    fn work(&self) -> String {
        format!(
            "{} decisions and {} summaries: {} tokens read, {} written",
            self.decisions, self.summaries, self.cost.prompt_tokens, self.cost.generated_tokens
        )
    }

    fn footer(&self, facts: &[(&str, String)]) -> String {
        let mut out = String::from("\n");
        let answers = format!(
            "{} of {} decisions as in the sources of the messages ({} right, {} not); none of them was trained on",
            self.right,
            self.decisions,
            self.terminal.mark(true),
            self.terminal.mark(false)
        );
        let facts = facts.iter().map(|(name, fact)| (*name, fact.as_str()));
        let energy = self.cost.energy_in_words();
        for (name, fact) in facts.chain([("answers", answers.as_str()), ("energy", energy.as_str())]) {
            out.push_str(&format!("{}  {fact}\n", self.terminal.bold(&format!("{name:<8}"))));
        }
        out
    }
}

/// The label that the daemon gave, or would have given had its task no threshold.
fn best(decision: &Decision) -> Option<&str> {
    let top =
        || decision.probabilities.iter().max_by(|a, b| a.p.total_cmp(&b.p)).map(|top| top.label.as_str());
    decision.label.as_deref().or_else(top)
}

/// One line of the table. Cells that are too long push the rest to the right rather than being cut.
fn columns(width: usize, text: &str, answer: &str, next: &str, rate: &str, energy: &str) -> String {
    let pad = |cell: &str, width: usize| " ".repeat(width.saturating_sub(visible_width(cell)));
    format!(
        "  {text}{}  {answer}{}  {next}{}  {}{rate}  {}{energy}\n",
        pad(text, width),
        pad(answer, 11 + 1 + BAR + 5),
        pad(next, 14),
        pad(rate, 5),
        pad(energy, 8)
    )
}

/// `text` on two lines of at most `width` characters, the second one cut if need be.
fn wrap(text: &str, width: usize) -> (String, String) {
    let clean = cut(text, usize::MAX);
    if clean.chars().count() <= width {
        return (clean, String::new());
    }
    let limit = clean.char_indices().nth(width + 1).map_or(clean.len(), |(at, _)| at);
    let space = clean[..limit].rfind(' ').filter(|&at| at > 0);
    let hard = clean.char_indices().nth(width).map_or(clean.len(), |(at, _)| at);
    let at = space.unwrap_or(hard);
    (clean[..at].to_owned(), cut(&clean[at..], width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_lines_are_whole_and_varied() {
        let lines: Vec<_> = log_lines().collect();
        assert_eq!(lines.len(), LOG_LINES.lines().filter(|line| !line.starts_with('#')).count());
        let mut subsystems: Vec<_> = lines.iter().map(|line| line.subsystem).collect();
        subsystems.dedup();
        assert_eq!(subsystems.len(), lines.len(), "one line a subsystem");
        assert!(lines.iter().all(|line| ["critical", "error", "warning", "info"].contains(&line.severity)));
        assert_eq!(paragraphs(PARAGRAPHS).len(), 4);
    }

    #[test]
    fn text_wraps_at_words_where_it_can() {
        assert_eq!(wrap("one two", 10), ("one two".into(), String::new()));
        assert_eq!(wrap("one two three", 7), ("one two".into(), "three".into()));
        assert_eq!(wrap("one two three four", 8), ("one two".into(), "three...".into()));
        assert_eq!(wrap("unbroken", 4), ("unbr".into(), "oken".into()));
    }

    #[test]
    fn lines_fit_the_terminal() {
        let width = 110 - BESIDE_TEXT;
        let line = columns(width, "text", &"a".repeat(25), "subsystem 10%", "12345", "~123 uJ");
        assert!(line.trim_end().len() <= 110, "{}", line.len());
    }
}
