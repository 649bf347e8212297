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

/// Labels, and the work by task that is told under them.
pub type Labelled<'w> = (&'w [(&'w str, &'w str)], &'w BTreeMap<String, Work>);

/// The value of a label, and the figure that it has.
type Figure = (&'static str, fn(&Work) -> f64);

/// Scope and method of a meter, as the wire calls them.
pub fn names(meter: &MeterName) -> (String, String) {
    let name = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (name(json!(meter.scope)), name(json!(meter.method)))
}

/// Requests, tokens and, where there was a meter, joules by task. Each entry of `all` has labels of its own, without any
/// where there was no meter.
pub fn of_tasks(page: &mut Page, all: &[Labelled<'_>]) {
    let rows =
        || all.iter().flat_map(|(labels, tasks)| tasks.iter().map(move |(task, work)| (*labels, task, work)));
    let mut write = |name: &str, help: &str, metered: bool, key: &'static str, of: [Figure; 2]| {
        if rows().all(|(labels, ..)| metered && labels.is_empty()) {
            return;
        }
        page.family(name, "counter", help);
        for (labels, task, work) in rows().filter(|(labels, ..)| !metered || !labels.is_empty()) {
            for (value, figure) in of {
                let mut each = vec![("task", task.as_str()), (key, value)];
                each.extend(labels);
                page.sample(name, &each, figure(work));
            }
        }
    };
    let help = "Requests by task: answered, and broken off after work on them had begun.";
    write(
        "tern_task_requests_total",
        help,
        false,
        "ending",
        [("answered", |work| work.answered as f64), ("broken_off", |work| work.broken_off as f64)],
    );
    let help = "Tokens by task: read of prompts and labels, and generated.";
    write(
        "tern_task_tokens_total",
        help,
        false,
        "phase",
        [("prefill", |work| work.prefill_tokens as f64), ("decode", |work| work.decode_tokens as f64)],
    );
    let help = "Joules by task that were given to requests, answered or not.";
    write(
        "tern_task_energy_joules_total",
        help,
        true,
        "phase",
        [("prefill", |work| work.prefill_uj as f64 / 1e6), ("decode", |work| work.decode_uj as f64 / 1e6)],
    );
}
