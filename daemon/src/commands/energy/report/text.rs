//! The report for people: a block a meter, and the hours as bars.

use std::fmt::Write as _;

use super::{Report, ratio, title};
use crate::date;
use crate::daybook::days::Part;
use crate::daybook::{Sums, Work};
use crate::figures::{joules, percent, three_digits};
use crate::prometheus::names;
use crate::table::{Align, Table};
use crate::terminal::Terminal;

/// Characters of the longest bar.
const BAR: usize = 40;

/// What is not known.
const UNKNOWN: &str = "-";

fn or_unknown(text: Option<String>) -> String {
    text.unwrap_or_else(|| UNKNOWN.into())
}

/// The page.
pub fn page(report: &Report, terminal: &Terminal) -> String {
    let mut out = format!("Energy of {}\n", title(&report.days));
    if report.parts.is_empty() {
        out += "nothing is recorded of it\n";
    }
    for part in &report.parts {
        out += "\n";
        out += &head(part, report);
        out += &places(part, terminal);
        out += "\n";
        out += &tasks(part, report);
        out += "\n";
        out += &hours(part, report, terminal);
    }
    if report.parts.len() > 1 {
        out += "\nEach block is of another meter, or of hours without one; their joules are not added up.\n";
    }
    out
}

fn head(part: &Part, report: &Report) -> String {
    let Sums { running_ms, .. } = part.sums;
    let running = running_ms as f64 / 3.6e6;
    let possible = (report.days.end - report.days.start) * 24;
    let ran = format!("the daemon ran {} of {possible} h", three_digits(running));
    let Some(meter) = &part.meter else {
        return format!("meter     none: joules are not known; {ran}\n");
    };
    let (scope, method) = names(meter);
    let sure = three_digits(meter.relative_uncertainty * 100.0);
    format!(
        "meter     {method}: {}\n          covers {scope}, 95 % interval +-{sure} %; {ran}\n",
        meter.source
    )
}

/// Where the joules went.
fn places(part: &Part, terminal: &Terminal) -> String {
    let mut table = Table::new([Align::Left, Align::Right, Align::Right, Align::Right, Align::Left]);
    let mut row = |name: &str, uj: u64| {
        let share = part.share(uj);
        table.row([
            name.to_owned(),
            or_unknown(part.joules(uj).map(|found| if found > 0.0 { joules(found) } else { "0 J".into() })),
            or_unknown(part.joules(uj).map(|joules| format!("{} Wh", three_digits(joules / 3600.0)))),
            or_unknown(share.map(percent)),
            share.map_or(String::new(), |share| terminal.bar(share, BAR / 2)),
        ]);
    };
    let Sums { idle_uj, unattributed_uj, .. } = part.sums;
    row("requests", part.sums.work().uj());
    row("idle", idle_uj);
    row("unattributed", unattributed_uj);
    row("all", part.sums.counter_uj());
    table.render()
}

fn tasks(part: &Part, report: &Report) -> String {
    let money = report.price.as_ref().map(|price| {
        let currency = if price.currency.is_empty() { "cost" } else { &price.currency };
        format!("{currency}/1000")
    });
    let mut table =
        Table::new(vec![Align::Left; 1].into_iter().chain(vec![Align::Right; 11]).collect::<Vec<_>>());
    let mut header = vec![
        "task",
        "answered",
        "broken off",
        "read",
        "written",
        "J",
        "95 %",
        "J/request",
        "J/token read",
        "J/token written",
        "Wh/1000",
    ];
    header.extend(money.as_deref());
    table.row(header);
    let tokens = |tokens: u64| tokens.to_string();
    let mut row = |name: &str, work: &Work, all_uj: u64, phases: [String; 5]| {
        let all = part.joules(all_uj);
        let each = ratio(all, work.answered);
        let [read, written, interval, per_read, per_written] = phases;
        let mut cells = vec![
            name.to_owned(),
            work.answered.to_string(),
            work.broken_off.to_string(),
            read,
            written,
            or_unknown(all.map(digits)),
            interval,
            or_unknown(each.map(digits)),
            per_read,
            per_written,
            or_unknown(each.map(|joules| digits(joules * 1000.0 / 3600.0))),
        ];
        if report.price.is_some() {
            cells.push(or_unknown(report.cost(each.map(|joules| joules * 1000.0)).map(digits)));
        }
        table.row(cells);
    };
    let phases = |work: &Work| {
        let each = |uj, tokens| or_unknown(ratio(part.joules(uj), tokens).map(digits));
        [
            tokens(work.prefill_tokens),
            tokens(work.decode_tokens),
            // Beyond its own size a figure is no figure.
            or_unknown(part.uncertainty(work).map(|by| format!("+-{} %", (by * 100.0).ceil().min(100.0)))),
            each(work.prefill_uj, work.prefill_tokens),
            each(work.decode_uj, work.decode_tokens),
        ]
    };
    for (name, work) in &part.sums.tasks {
        row(name, work, work.uj(), phases(work));
    }
    let all = part.sums.work();
    row("all", &all, all.uj(), phases(&all));
    // What a request costs whose machine is there for nothing else.
    row("all with idle", &all, part.sums.counter_uj(), Default::default());
    table.render()
}

/// Three significant digits, also of what is small.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-6 => format!("{value:.1e}"),
        size if size < 0.1 => {
            let decimals = 2 - size.log10().floor() as i32;
            format!("{value:.*}", usize::try_from(decimals).unwrap_or(0))
        }
        _ => three_digits(value),
    }
}

/// Mean power by hour, or by day where there are many.
fn hours(part: &Part, report: &Report, terminal: &Terminal) -> String {
    let per_day = report.days.end - report.days.start > 1;
    let mut rows = Vec::<(u64, Sums)>::new();
    for (hour, sums) in &part.hours {
        let key = if per_day { hour / 24 } else { *hour };
        match rows.last_mut().filter(|(last, _)| *last == key) {
            Some((_, all)) => all.add(sums),
            None => rows.push((key, sums.clone())),
        }
    }
    let wh = |sums: &Sums| part.joules(sums.counter_uj()).map(|joules| joules / 3600.0);
    let most = rows.iter().filter_map(|(_, sums)| wh(sums)).fold(0.0, f64::max);
    let mut out = String::new();
    let unit = if per_day { "day" } else { "hour, UTC" };
    let _ = writeln!(out, "by {unit}: Wh, of it for requests; requests answered");
    let mut table = Table::new([Align::Left, Align::Left, Align::Right, Align::Right, Align::Right]);
    for (key, sums) in &rows {
        let name = if per_day { date::day(*key) } else { format!("{:02}:00", key % 24) };
        let whole = wh(sums);
        let bar = whole.filter(|_| most > 0.0).map_or(String::new(), |wh| terminal.bar(wh / most, BAR));
        let share = part.joules(sums.work().uj()).filter(|_| sums.counter_uj() > 0);
        table.row([
            name,
            bar,
            or_unknown(whole.map(digits)),
            or_unknown(share.map(|joules| percent(joules * 1e6 / sums.counter_uj() as f64))),
            sums.work().answered.to_string(),
        ]);
    }
    out + &table.render()
}
