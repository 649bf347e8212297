//! An evaluation set: JSON lines, each a text and its known answer.
//!
//! `{"text": "...", "labels": ["usb", "network"], "answer": "usb"}` for decisions, without `labels` for summaries.
//! Other fields are ignored, since sets often carry ids and sources.

use std::fmt;
use std::io::{self, BufRead};

use serde::Deserialize;

/// One line of a set.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Example {
    /// The input.
    pub text: String,
    /// What may be answered; empty where the answer is text.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The right answer.
    pub answer: String,
}

/// A set of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// In file order, at least one.
    pub examples: Vec<Example>,
}

impl Set {
    /// Reads at most `limit` examples.
    ///
    /// # Errors
    /// The first line that is no example, or that mixes summaries into decisions; a set with no lines.
    pub fn read(from: impl BufRead, limit: usize) -> Result<Set, SetError> {
        let mut examples: Vec<Example> = Vec::new();
        for (index, line) in from.lines().enumerate() {
            let number = index + 1;
            let line = line.map_err(|error| SetError::Read { line: number, error })?;
            if line.trim().is_empty() {
                continue;
            }
            if examples.len() == limit {
                break;
            }
            let example: Example =
                serde_json::from_str(&line).map_err(|error| SetError::Parse { line: number, error })?;
            if !example.labels.is_empty() && !example.labels.contains(&example.answer) {
                return Err(SetError::AnswerNotALabel { line: number, answer: example.answer });
            }
            if examples.first().is_some_and(|first| first.labels.is_empty() != example.labels.is_empty()) {
                return Err(SetError::Mixed { line: number });
            }
            examples.push(example);
        }
        if examples.is_empty() { Err(SetError::Empty) } else { Ok(Set { examples }) }
    }

    /// Whether the answers are labels, not texts.
    pub fn is_decisions(&self) -> bool {
        self.examples.first().is_some_and(|example| !example.labels.is_empty())
    }
}

/// Why a set is unusable. Lines count from 1.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetError {
    /// The file cannot be read, or is not UTF-8.
    Read {
        /// The line.
        line: usize,
        /// Why.
        error: io::Error,
    },
    /// A line is not such an object.
    Parse {
        /// The line.
        line: usize,
        /// Why.
        error: serde_json::Error,
    },
    /// The answer is none of the labels.
    AnswerNotALabel {
        /// The line.
        line: usize,
        /// The answer.
        answer: String,
    },
    /// Some lines have labels and some have none.
    Mixed {
        /// The first line unlike those before.
        line: usize,
    },
    /// There is no line.
    Empty,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetError::Read { line, .. } => write!(f, "cannot read line {line}"),
            SetError::Parse { line, .. } => {
                write!(f, "line {line} is not an object with text, answer and perhaps labels")
            }
            SetError::AnswerNotALabel { line, answer } => {
                write!(f, "line {line}: the answer {answer:?} is none of the labels of its line")
            }
            SetError::Mixed { line } => write!(
                f,
                "line {line}: a set is either decisions, all lines with labels, or summaries, all without; split it"
            ),
            SetError::Empty => write!(f, "the set is empty; give one JSON object a line"),
        }
    }
}

impl std::error::Error for SetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SetError::Read { error, .. } => Some(error),
            SetError::Parse { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_up_to_the_limit() {
        let file = "{\"text\":\"a\",\"labels\":[\"x\",\"y\"],\"answer\":\"y\",\"id\":7}\n\n\
                    {\"text\":\"b\",\"labels\":[\"x\",\"y\"],\"answer\":\"x\"}\nnot read";
        let set = Set::read(file.as_bytes(), 2).expect("two good lines");
        assert!(set.is_decisions());
        assert_eq!(set.examples.len(), 2);
        assert_eq!(set.examples[1].text, "b");
    }

    #[test]
    fn bad_lines_are_named() {
        let message = |file: &str| Set::read(file.as_bytes(), 9).expect_err("bad").to_string();
        assert!(message("\n").contains("empty"));
        assert!(message("{\"text\":\"a\"}").starts_with("line 1 "));
        assert!(message("{\"text\":\"a\",\"labels\":[\"x\"],\"answer\":\"z\"}").contains("\"z\""));
        let mixed = "{\"text\":\"a\",\"answer\":\"b\"}\n{\"text\":\"a\",\"labels\":[\"x\"],\"answer\":\"x\"}";
        assert!(message(mixed).starts_with("line 2:"));
    }
}
