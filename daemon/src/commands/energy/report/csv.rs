//! A line an hour, meter and part: what a spreadsheet sums as it likes.

use std::fmt::Write as _;

use super::Report;
use crate::date;
use crate::daybook::Work;

const HEAD: &str = "day,hour_utc,method,scope,source,part,task,answered,broken_off,prefill_tokens,decode_tokens,\
                    prefill_joules,decode_joules,joules,relative_uncertainty\n";

/// A field, quoted where it must be (RFC 4180).
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// All hours. A joule that is not known is an empty field.
pub fn lines(report: &Report) -> String {
    let mut out = HEAD.to_owned();
    for part in &report.parts {
        let named = part.meter.as_ref().map(|meter| {
            let (scope, method) = crate::prometheus::names(meter);
            format!("{},{},{}", field(&method), field(&scope), field(&meter.source))
        });
        let meter = named.unwrap_or_else(|| "unknown,,".into());
        let joules = |uj: u64| part.joules(uj).map_or(String::new(), |joules| format!("{joules:.6}"));
        for (hour, sums) in &part.hours {
            let begin = format!("{},{:02},{meter}", date::day(hour / 24), hour % 24);
            for (task, work) in &sums.tasks {
                let Work {
                    answered, broken_off, prefill_tokens, decode_tokens, prefill_uj, decode_uj, ..
                } = work;
                // Writing to a String does not fail.
                let _ = writeln!(
                    out,
                    "{begin},requests,{},{answered},{broken_off},{prefill_tokens},{decode_tokens},{},{},{},{}",
                    field(task),
                    joules(*prefill_uj),
                    joules(*decode_uj),
                    joules(work.uj()),
                    part.uncertainty(work).map_or(String::new(), |by| format!("{by:.3}")),
                );
            }
            let _ = writeln!(out, "{begin},idle,,,,,,,,{},", joules(sums.idle_uj));
            let _ = writeln!(out, "{begin},unattributed,,,,,,,,{},", joules(sums.unattributed_uj));
        }
    }
    out
}
