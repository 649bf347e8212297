//! Why a task makes no sense.

use std::error::Error;
use std::fmt;

use tern_protocol::limits::SCORE_STEPS;
use tern_runtime::sampler::SamplingError;

use crate::grammar::SchemaError;
use crate::serve::spending::BadJoules;

/// Why a schema takes no stop strings.
pub const STOPS_IN_JSON: &str = "a stop string would cut the JSON of a schema; leave out stop or schema";

/// A task that makes no sense.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TaskError {
    /// A field is missing.
    Missing {
        /// The field.
        field: &'static str,
        /// The kind of task that needs it.
        kind: &'static str,
    },
    /// A field that this kind of task has no use for.
    Unused {
        /// The field.
        field: &'static str,
        /// The kind of task.
        kind: &'static str,
    },
    /// A field that has no use without `long`.
    NotLong {
        /// The field.
        field: &'static str,
    },
    /// Fewer than two labels.
    TooFewLabels {
        /// How many there are.
        found: usize,
    },
    /// A label without text.
    EmptyLabel {
        /// Its place, counted from 0.
        index: usize,
    },
    /// Two equal labels.
    DuplicateLabel {
        /// The label.
        label: String,
    },
    /// Instructions that name labels, of a task without any.
    NoLabelsToName {
        /// The field.
        field: &'static str,
        /// The kind of task.
        kind: &'static str,
    },
    /// A threshold that is no probability.
    Threshold {
        /// What it is.
        found: f32,
    },
    /// A range of scores that is empty or too wide.
    ScoreRange {
        /// The least value.
        min: i32,
        /// The greatest value.
        max: i32,
    },
    /// The template does not use the text exactly once.
    TemplateText {
        /// How often it does.
        found: usize,
    },
    /// An example whose answer the task cannot give.
    ExampleAnswer {
        /// Its place, counted from 0.
        index: usize,
        /// The answer.
        answer: String,
    },
    /// `max_tokens` is 0.
    NoTokens,
    /// Stop strings beside a schema.
    StopsInJson,
    /// The schema cannot be used.
    Schema(SchemaError),
    /// A sampling setting is outside its range.
    Sampling(SamplingError),
    /// Joules that are no limit.
    Joules(BadJoules),
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Missing { field, kind } => write!(f, "a task of kind {kind} needs {field}"),
            TaskError::Unused { field, kind } => {
                write!(f, "a task of kind {kind} has no use for {field}; leave it out or change kind")
            }
            TaskError::NotLong { field } => {
                write!(f, "{field} has no use without long; say long = \"map_reduce\" or leave it out")
            }
            TaskError::TooFewLabels { found } => {
                write!(f, "labels has {found} entries; a choice needs at least 2")
            }
            TaskError::EmptyLabel { index } => {
                write!(f, "label {index} is empty; leave it out or give it text")
            }
            TaskError::DuplicateLabel { label } => write!(f, "label {label:?} is given twice; give it once"),
            TaskError::NoLabelsToName { field, kind } => write!(
                f,
                "{field} has {{labels}}, and a task of kind {kind} has none; write another word or make it a choice"
            ),
            TaskError::Threshold { found } => {
                write!(f, "threshold is {found}; it is a probability from 0 to 1")
            }
            TaskError::ScoreRange { min, max } => {
                write!(f, "scores from {min} to {max}; max must be 1 to {SCORE_STEPS} above min")
            }
            TaskError::TemplateText { found } => {
                write!(f, "the template has {{text}} {found} times; it must have it once")
            }
            TaskError::ExampleAnswer { index, answer } => {
                write!(
                    f,
                    "example {index} answers {answer:?}, which this task cannot answer; use one of its labels, or JSON"
                )
            }
            TaskError::NoTokens => f.write_str("limits.max_tokens is 0; ask for at least 1"),
            TaskError::StopsInJson => f.write_str(STOPS_IN_JSON),
            TaskError::Schema(error) => write!(f, "{error}"),
            TaskError::Sampling(error) => write!(f, "{error}"),
            TaskError::Joules(error) => write!(f, "limits.{error}"),
        }
    }
}

impl Error for TaskError {}
