//! The text form of Prometheus, and the series of energy by task that the daemon and its reports share.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

use serde_json::json;

use crate::daybook::{MeterName, Work};

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a family of series.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Adds a series of the family.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, Escaped(value));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A family of one series.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// The page so far.
    pub fn text(self) -> String {
        self.0
    }
}

/// A label's value.
struct Escaped<'t>(&'t str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

/// The labels of a meter, and the work by task that it metered.
pub type Labelled<'w> = (&'w [(&'w str, &'w str)], &'w BTreeMap<String, Work>);

/// The value of a label, and the figure that it has.
type Figure = (&'static str, fn(&Work) -> f64);

/// Scope and method of a meter, as the wire calls them.
pub fn names(meter: &MeterName) -> (String, String) {
    let name = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (name(json!(meter.scope)), name(json!(meter.method)))
}

/// Requests and tokens by task, and the joules of each meter's work under its own labels.
pub fn of_tasks(page: &mut Page, counts: &BTreeMap<String, Work>, joules: &[Labelled<'_>]) {
    let mut count = |name: &str, help: &str, key: &str, of: [Figure; 2]| {
        page.family(name, "counter", help);
        for (task, work) in counts {
            for (value, figure) in of {
                page.sample(name, &[("task", task), (key, value)], figure(work));
            }
        }
    };
    let help = "Requests by task: answered, and broken off after work on them had begun.";
    let of: [Figure; 2] =
        [("answered", |work| work.answered as f64), ("broken_off", |work| work.broken_off as f64)];
    count("tern_task_requests_total", help, "ending", of);
    let help = "Tokens by task, of requests answered or not: read of prompts and labels, and generated.";
    let of: [Figure; 2] =
        [("prefill", |work| work.prefill_tokens as f64), ("decode", |work| work.decode_tokens as f64)];
    count("tern_task_tokens_total", help, "phase", of);
    if joules.is_empty() {
        return;
    }
    let name = "tern_task_energy_joules_total";
    page.family(name, "counter", "Joules by task that were given to requests, answered or not.");
    for (labels, tasks) in joules {
        for (task, work) in *tasks {
            for (phase, uj) in [("prefill", work.prefill_uj), ("decode", work.decode_uj)] {
                let mut each = vec![("task", task.as_str()), ("phase", phase)];
                each.extend(*labels);
                page.sample(name, &each, uj as f64 / 1e6);
            }
        }
    }
}
