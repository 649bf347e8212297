//! An evaluation set: JSON lines, each a text and its known answer.
//!
//! `{"text": "...", "labels": ["usb", "network"], "answer": "usb"}` for decisions, with `instructions` where a line has
//! a question of its own, and without `labels` for summaries. Other fields are ignored, since sets often carry ids and
//! sources.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead};

use serde::Deserialize;

use crate::tasks::{TaskError, labels};

/// One line of a set.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Example {
    /// Its line in the file, counted from 1.
    #[serde(skip)]
    pub line: usize,
    /// The input.
    pub text: String,
    /// What is asked about it, where the line says.
    #[serde(default)]
    pub instructions: Option<String>,
    /// What may be answered; empty where the answer is text.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The right answer.
    pub answer: String,
}

impl Example {
    fn form(&self) -> Form {
        match (self.labels.is_empty(), &self.instructions) {
            (true, _) => Form::Summary,
            (false, None) => Form::Decision,
            (false, Some(_)) => Form::OwnQuestion,
        }
    }
}

/// What the lines of a set have; all of a set have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A text and its summary.
    Summary,
    /// Labels too: the question is asked from outside.
    Decision,
    /// Labels and the question.
    OwnQuestion,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Summary => "no labels",
            Form::Decision => "labels and no instructions",
            Form::OwnQuestion => "labels and instructions",
        })
    }
}

/// A set of one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// In file order, at least one.
    pub examples: Vec<Example>,
    /// What each of them has.
    pub form: Form,
}

impl Set {
    /// Reads at most `limit` examples.
    ///
    /// # Errors
    /// The first line that is no example, or of another form than those before; a set with no lines.
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
            let mut example: Example =
                serde_json::from_str(&line).map_err(|error| SetError::Parse { line: number, error })?;
            example.line = number;
            if let Some(first) = examples.first()
                && first.form() != example.form()
            {
                let expected = (first.line, first.form());
                return Err(SetError::Mixed { line: number, found: example.form(), expected });
            }
            check(&example)?;
            examples.push(example);
        }
        match examples.first().map(Example::form) {
            None => Err(SetError::Empty),
            Some(form) => Ok(Set { examples, form }),
        }
    }

    /// Whether the answers are labels, not texts.
    pub fn is_decisions(&self) -> bool {
        self.form != Form::Summary
    }

    /// Whether all lines have the same labels, in any order.
    pub fn has_one_label_set(&self) -> bool {
        let labels = |example: &Example| example.labels.iter().cloned().collect::<BTreeSet<_>>();
        let first = self.examples.first().map(labels);
        self.examples.iter().all(|example| Some(labels(example)) == first)
    }

    /// The mean over the lines of one in so many labels: what guessing blindly would score. 0 without labels.
    pub fn blind_share(&self) -> f64 {
        let shares = self
            .examples
            .iter()
            .filter(|example| !example.labels.is_empty())
            .map(|e| 1.0 / e.labels.len() as f64);
        shares.sum::<f64>() / self.examples.len().max(1) as f64
    }
}

/// Whether what a line has makes sense.
fn check(example: &Example) -> Result<(), SetError> {
    let Example { line, labels: offered, answer, .. } = example;
    match example.form() {
        Form::Summary if example.instructions.is_some() => Err(SetError::NoLabels { line: *line }),
        Form::Summary => Ok(()),
        _ if !offered.contains(answer) => {
            Err(SetError::AnswerNotALabel { line: *line, answer: answer.clone(), labels: offered.clone() })
        }
        _ => labels::check(offered).map_err(|error| SetError::Labels { line: *line, error }),
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
        /// The labels.
        labels: Vec<String>,
    },
    /// One label alone, two alike or one without text.
    Labels {
        /// The line.
        line: usize,
        /// Which.
        error: TaskError,
    },
    /// A question without labels.
    NoLabels {
        /// The line.
        line: usize,
    },
    /// Not all lines are of one form.
    Mixed {
        /// The first line unlike those before.
        line: usize,
        /// What it has.
        found: Form,
        /// The first line of all, and what it has.
        expected: (usize, Form),
    },
    /// There is no line.
    Empty,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetError::Read { line, .. } => write!(f, "cannot read line {line}"),
            SetError::Parse { line, .. } => {
                write!(
                    f,
                    "line {line} is not an object with text, answer and perhaps labels and instructions"
                )
            }
            SetError::AnswerNotALabel { line, answer, labels } => {
                write!(
                    f,
                    "line {line}: the answer {answer:?} is none of the line's labels, {}",
                    labels.join(", ")
                )
            }
            SetError::Labels { line, error } => write!(f, "line {line}: {error}"),
            SetError::NoLabels { line } => write!(
                f,
                "line {line} has instructions and no labels to choose from; add labels, or leave the instructions out"
            ),
            SetError::Mixed { line, found, expected: (first, expected) } => write!(
                f,
                "line {line} has {found}, and line {first} has {expected}; all lines of a set have the same: split it"
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
                    {\"text\":\"b\",\"labels\":[\"y\",\"x\"],\"answer\":\"x\"}\nnot read";
        let set = Set::read(file.as_bytes(), 2).expect("two good lines");
        assert_eq!((set.form, set.examples.len()), (Form::Decision, 2));
        assert_eq!((set.examples[1].text.as_str(), set.examples[1].line), ("b", 3));
        assert!(set.is_decisions() && set.has_one_label_set());
        assert_eq!(set.blind_share(), 0.5);
    }

    #[test]
    fn lines_may_have_questions_of_their_own() {
        let file = r#"{"text":"a","instructions":"Q?","labels":["x","y"],"answer":"y"}
                      {"text":"b","instructions":"R?","labels":["x","y","z","u"],"answer":"x"}"#;
        let set = Set::read(file.as_bytes(), 9).expect("two good lines");
        assert_eq!(set.form, Form::OwnQuestion);
        assert_eq!(set.examples[1].instructions.as_deref(), Some("R?"));
        assert!(!set.has_one_label_set());
        assert_eq!(set.blind_share(), 0.375);
    }

    #[test]
    fn bad_lines_are_named() {
        let message = |file: &str| Set::read(file.as_bytes(), 9).expect_err("bad").to_string();
        let plain = r#"{"text":"a","labels":["x","y"],"answer":"x"}"#;
        let cases = [
            ("\n", "the set is empty"),
            (r#"{"text":"a"}"#, "line 1 is not an object"),
            (r#"{"text":"a","labels":["x","y"],"answer":"z"}"#, "\"z\" is none of the line's labels, x, y"),
            (r#"{"text":"a","labels":["x"],"answer":"x"}"#, "line 1: labels has 1 entries"),
            (r#"{"text":"a","labels":["x","x"],"answer":"x"}"#, "line 1: label \"x\" is given twice"),
            (r#"{"text":"a","instructions":"Q?","answer":"x"}"#, "line 1 has instructions and no labels"),
        ];
        for (file, expected) in cases {
            assert!(message(file).contains(expected), "{file}: {}", message(file));
        }
        for (other, found) in [
            (r#"{"text":"a","answer":"b"}"#, "no labels"),
            (
                r#"{"text":"a","instructions":"Q?","labels":["x","y"],"answer":"x"}"#,
                "labels and instructions",
            ),
        ] {
            let expected = format!("line 3 has {found}, and line 1 has labels and no instructions; ");
            assert!(message(&format!("{plain}\n\n{other}")).starts_with(&expected), "{other}");
        }
    }
}
