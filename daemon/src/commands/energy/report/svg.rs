//! The hours as a bar plot: one self-contained SVG, a panel a meter.

use std::fmt::Write as _;

use super::{Report, title};
use crate::date;
use crate::daybook::Sums;
use crate::daybook::days::Part;
use crate::figures::three_digits;
use crate::prometheus::names;

/// Size of the drawing and of its margins, in pixels.
const WIDTH: f64 = 900.0;
const PANEL: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 50.0;

/// What a part of a bar is, its colour (told apart in print and by the colour-blind), its microjoules.
type Kind = (&'static str, &'static str, fn(&Sums) -> u64);

/// Parts of a bar from its foot.
const KINDS: [Kind; 3] = [
    ("idle", "#bbbbbb", |sums| sums.idle_uj),
    ("requests", "#0072b2", |sums| sums.work().uj()),
    ("unattributed", "#d55e00", |sums| sums.unattributed_uj),
];

/// Text that means nothing to XML, without characters that it cannot hold.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// The least of 1, 2 and 5 times a power of ten that is not below `value`.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|step| *step >= value * 0.999)
        .unwrap_or(value)
}

/// The drawing.
pub fn draw(report: &Report) -> String {
    let panels = report.parts.len().max(1);
    let height = PANEL * panels as f64;
    // Writing to a String does not fail.
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n<title>Energy of {}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        escaped(&title(&report.days))
    );
    if report.parts.is_empty() {
        text(
            &mut out,
            (WIDTH / 2.0, PANEL / 2.0),
            "middle",
            &format!("{}: nothing is recorded", title(&report.days)),
        );
    }
    for (index, part) in report.parts.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">", PANEL * index as f64);
        panel(&mut out, report, part);
        out += "</g>\n";
    }
    out + "</svg>\n"
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(words));
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        out,
        "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{colour}\" fill=\"none\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn panel(out: &mut String, report: &Report, part: &Part) {
    let (foot, right) = (PANEL - BOTTOM, WIDTH - RIGHT);
    let source = match &part.meter {
        Some(meter) => {
            let (scope, method) = names(meter);
            let sure = three_digits(meter.relative_uncertainty * 100.0);
            format!("{method} ({}), {scope}, \u{b1}{sure} % (95 %)", meter.source)
        }
        None => "no meter: joules are not known".to_owned(),
    };
    text(out, (LEFT, 20.0), "start", &format!("Energy of {}: {source}", title(&report.days)));
    let wh = |uj: u64| part.joules(uj).unwrap_or(0.0) / 3600.0;
    let most = part.hours.iter().map(|(_, sums)| wh(sums.counter_uj())).fold(0.0, f64::max);
    let step = round_up(if most > 0.0 { most / 4.0 } else { 0.25 });
    let ticks = (most / step).ceil().max(1.0);
    let at = |wh: f64| foot - (foot - TOP) * wh / (step * ticks);
    for tick in 0..=ticks as usize {
        let value = step * tick as f64;
        line(out, (LEFT, at(value)), (right, at(value)), "#dddddd");
        // Ticks are round: what is left of them beyond that is of the division.
        text(out, (LEFT - 6.0, at(value) + 4.0), "end", &((value * 1e9).round() / 1e9).to_string());
    }
    let middle = f64::midpoint(TOP, foot);
    let _ = writeln!(
        out,
        "<text transform=\"translate(16 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">Wh in an hour</text>"
    );
    let hours = (report.days.end - report.days.start) * 24;
    let slot = (right - LEFT) / hours as f64;
    let x = |hour: u64| LEFT + slot * (hour - report.days.start * 24) as f64;
    for (hour, sums) in &part.hours {
        let mut below_uj = 0;
        for (name, colour, of) in KINDS {
            let uj = of(sums);
            if uj == 0 || part.meter.is_none() {
                continue;
            }
            let (top, bottom) = (at(wh(below_uj + uj)), at(wh(below_uj)));
            below_uj += uj;
            let _ = writeln!(
                out,
                "<rect x=\"{:.2}\" y=\"{top:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"{colour}\"><title>{} \
                 {:02}:00 {name} {} Wh</title></rect>",
                x(*hour) + slot * 0.1,
                slot * 0.8,
                bottom - top,
                date::day(hour / 24),
                hour % 24,
                three_digits(wh(uj)),
            );
        }
    }
    line(out, (LEFT, foot), (right, foot), "black");
    let days = report.days.end - report.days.start;
    let (every, name): (u64, fn(u64) -> String) = match days {
        1 => (2, |hour| format!("{:02}", hour % 24)),
        2..=7 => (24, |hour| date::day(hour / 24)),
        _ => (24 * days.div_ceil(8), |hour| date::day(hour / 24)),
    };
    for hour in (report.days.start * 24..report.days.end * 24).step_by(every as usize) {
        line(out, (x(hour), foot), (x(hour), foot + 4.0), "black");
        text(out, (x(hour), foot + 17.0), if days == 1 { "middle" } else { "start" }, &name(hour));
    }
    let label = if days == 1 { "hour of the day, UTC" } else { "day, UTC" };
    text(out, (f64::midpoint(LEFT, right), PANEL - 12.0), "middle", label);
    for (index, (name, colour, _)) in KINDS.into_iter().enumerate() {
        let x = LEFT + 120.0 * index as f64;
        let _ = writeln!(out, "<rect x=\"{x}\" y=\"32\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
        text(out, (x + 18.0, 42.0), "start", name);
    }
}
