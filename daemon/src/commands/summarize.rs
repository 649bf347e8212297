//! `tern summarize`: a text in a line.

use clap::Args;

use super::input;
use super::stream::Printing;
use crate::error::{CommandError, Exit};
use crate::local::DaemonChoice;
use crate::wire::Request;

const EXAMPLES: &str = "\
Examples:
  tern summarize < article.txt
  tern summarize 'A long story that wants to be short.'
  apt-cache show mosquitto | sed -n 's/^ //p' | tern summarize
  tern summarize --paragraphs < notes.txt

The model of this repository is small and was trained on package descriptions; it writes lines like those.";

/// Summarizes a text, printing the summary as it is written
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SummarizeArgs {
    /// The text; without it, all of standard input
    text: Option<String>,
    /// Summarize each paragraph (blank lines between them) for itself
    #[arg(long)]
    paragraphs: bool,
    /// The task of the daemon to use, of kind `text`
    #[arg(long, value_name = "NAME", default_value = "summarize")]
    task: String,
    #[command(flatten)]
    printing: Printing,
    #[command(flatten, next_help_heading = "Daemon")]
    daemon: DaemonChoice,
}

/// Runs the command.
///
/// # Errors
/// If there is no text, no daemon can be had, or it refuses.
pub fn run(args: &SummarizeArgs) -> Result<(), CommandError> {
    let text = match &args.text {
        Some(text) => text.clone(),
        None => input::whole()?,
    };
    let texts = if args.paragraphs { paragraphs(&text) } else { vec![text.trim().to_owned()] };
    if texts.iter().all(String::is_empty) {
        return Err(CommandError::new(
            Exit::BadInput,
            "there is no text to summarize; give one as an argument or on standard input",
        ));
    }
    let mut session = args.daemon.open()?;
    for text in texts {
        let request = Request::task(session.client.new_id(), args.task.as_str(), text);
        args.printing.stream(&mut session.client, request, None)?;
    }
    Ok(())
}

/// The paragraphs of `text`, their lines joined: runs of lines between blank ones.
pub(super) fn paragraphs(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        match found.last_mut() {
            _ if line.is_empty() => inside = false,
            Some(last) if inside => {
                last.push(' ');
                last.push_str(line);
            }
            _ => {
                found.push(line.to_owned());
                inside = true;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::paragraphs;

    #[test]
    fn paragraphs_end_at_blank_lines() {
        assert_eq!(paragraphs("\n a\n b\n\n \nc\n"), ["a b", "c"]);
        assert!(paragraphs(" \n\n").is_empty());
    }
}
