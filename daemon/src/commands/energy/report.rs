//! `tern energy report`: where the joules of some days went.

mod csv;
mod svg;
mod text;

use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::config::record::is_price;
use crate::config::{Config, ConfigError};
use crate::date;
use crate::daybook::days::{Part, parts};
use crate::daybook::{Record, Sums, Total, Work, file};
use crate::error::{CommandError, Exit};
use crate::output::{print, print_json};
use crate::prometheus::{Page, names, of_tasks};
use crate::replace::Replacement;
use crate::serve::report::four_digits;
use crate::state;
use crate::terminal::Terminal;

/// The configuration that is asked for a price where none is named.
const SYSTEM_CONFIG: &str = "/etc/tern/tern.toml";

/// The state directory of the packaged service, which a user's own environment does not name.
const SERVICE_STATE: &str = "/var/lib/tern";

/// Days that are kept.
const MOST_DAYS: u64 = 32;

/// Says where the joules of a day went: by task, request and token, at rest, and by hour
///
/// Reads the record that the daemon keeps in its state directory; the daemon need not run. Days are those of universal
/// time. What is not known is "-", never 0, and joules of two meters are never added up.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// The day, as 2026-11-20; without it today
    #[arg(long, value_name = "DAY", value_parser = parse_day)]
    day: Option<u64>,
    /// So many days, of which that is the last
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MOST_DAYS))]
    days: u64,
    /// What a kilowatt-hour costs; without it energy.price_per_kwh of the configuration
    #[arg(long, value_name = "PRICE", value_parser = parse_price)]
    price: Option<f64>,
    /// In which money; without it energy.currency of the configuration
    #[arg(long, value_name = "NAME")]
    currency: Option<String>,
    /// Configuration file; without it /etc/tern/tern.toml if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the record; without it energy.record.folder, the state directory, or /var/lib/tern
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Print a line an hour and task, with commas
    #[arg(long, conflicts_with_all = ["json", "prometheus"])]
    csv: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// Print the sums since the record began as counters, for the textfile collector of node_exporter
    #[arg(long, conflicts_with_all = ["day", "days"])]
    prometheus: bool,
    /// Draw the hours into this file, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  tern energy report                                  today
  tern energy report --days 7 --price 0.30 --currency EUR
  tern energy report --day 2026-11-20 --svg day.svg
  tern energy report --days 31 --csv >month.csv
  tern energy report --prometheus >/var/lib/node_exporter/tern.prom";

fn parse_day(text: &str) -> Result<u64, String> {
    date::parse(text).ok_or_else(|| "expected a day such as 2026-11-20".to_owned())
}

fn parse_price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|price| is_price(*price));
    price.ok_or_else(|| "expected a number of 0 or more, such as 0.30".to_owned())
}

/// What joules cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// Of a kilowatt-hour.
    per_kwh: f64,
    /// The money; empty if nobody said.
    currency: String,
}

impl Price {
    /// What so many joules cost.
    fn of(&self, joules: f64) -> f64 {
        joules / 3.6e6 * self.per_kwh
    }
}

/// Some days, ready to be told.
#[derive(Debug)]
struct Report {
    days: Range<u64>,
    parts: Vec<Part>,
    price: Option<Price>,
}

/// Reads and tells.
///
/// # Errors
/// If there is no record, it is damaged, or the output cannot be written.
pub fn run(args: &ReportArgs) -> Result<(), CommandError> {
    let config = config(args)?;
    let record = record(args, &config)?;
    if args.prometheus {
        return print(&prometheus(&record));
    }
    let last = match args.day {
        Some(day) => day,
        None => crate::daybook::book::now_s() / 86_400,
    };
    let days = (last + 1).saturating_sub(args.days)..last + 1;
    let per_kwh = args.price.or(config.energy.price_per_kwh);
    let currency = args.currency.clone().or(config.energy.currency).unwrap_or_default();
    let price = per_kwh.map(|per_kwh| Price { per_kwh, currency });
    let report = Report { parts: parts(&record, &days), days, price };
    if let Some(path) = &args.svg {
        let mut file = Replacement::create(path)?;
        let text = svg::draw(&report);
        file.write_all(text.as_bytes()).map_err(|error| crate::replace::cannot_write(path, &error))?;
        file.keep()?;
    }
    if args.csv {
        print(&csv::lines(&report))
    } else if args.json {
        print_json(&report.json())
    } else {
        print(&text::page(&report, &Terminal::of_stdout()))
    }
}

/// The configuration, for its price and its folder. The system's own may be kept from this user, who then goes without.
fn config(args: &ReportArgs) -> Result<Config, CommandError> {
    match &args.config {
        Some(path) => Ok(Config::read(path)?),
        None => match Config::read(Path::new(SYSTEM_CONFIG)) {
            Err(ConfigError::Read { .. }) => Ok(Config::default()),
            read => Ok(read?),
        },
    }
}

fn record(args: &ReportArgs, config: &Config) -> Result<Record, CommandError> {
    let named = args.state.clone().or_else(|| config.energy.record.folder.clone());
    let folders = match named {
        Some(folder) => vec![folder],
        None => state::folder().into_iter().chain([PathBuf::from(SERVICE_STATE)]).collect(),
    };
    for folder in &folders {
        let read = file::read(folder).map_err(|error| CommandError::from_error(Exit::NoInput, &error))?;
        if let Some(record) = read {
            return Ok(record);
        }
    }
    let names: Vec<_> = folders.iter().map(|folder| format!("'{}'", folder.display())).collect();
    let message = format!(
        "there is no record of energy in {}; a daemon (tern serve) writes one unless energy.record.keep is false, \
         the first after energy.record.every_s",
        names.join(" or ")
    );
    Err(CommandError::new(Exit::NoInput, message))
}

/// The days in words.
fn title(days: &Range<u64>) -> String {
    let (first, last) = (date::day(days.start), date::day(days.end - 1));
    if first == last { format!("{first} UTC") } else { format!("{first} to {last} UTC") }
}

/// `part / whole`, where there is something to divide by.
fn ratio(part: Option<f64>, whole: u64) -> Option<f64> {
    part.filter(|_| whole > 0).map(|part| part / whole as f64)
}

impl Report {
    fn task_json(&self, part: &Part, name: &str, work: &Work) -> Value {
        let joules = |uj| part.joules(uj);
        let all = joules(work.uj());
        let each = ratio(all, work.answered);
        json!({
            "task": name,
            "answered": work.answered,
            "broken_off": work.broken_off,
            "prefill_tokens": work.prefill_tokens,
            "decode_tokens": work.decode_tokens,
            "prefill_joules": joules(work.prefill_uj),
            "decode_joules": joules(work.decode_uj),
            "joules": all,
            "relative_uncertainty": part.uncertainty(work).map(four_digits),
            "share": part.share(work.uj()),
            "joules_per_request": each,
            "joules_per_prefill_token": ratio(joules(work.prefill_uj), work.prefill_tokens),
            "joules_per_decode_token": ratio(joules(work.decode_uj), work.decode_tokens),
            "kwh_per_1000_requests": each.map(|joules| joules * 1000.0 / 3.6e6),
            "cost_per_1000_requests": self.cost(each.map(|joules| joules * 1000.0)),
        })
    }

    fn cost(&self, joules: Option<f64>) -> Option<f64> {
        self.price.as_ref().zip(joules).map(|(price, joules)| price.of(joules))
    }

    fn json(&self) -> Value {
        let hour_json = |part: &Part, (hour, sums): &(u64, Sums)| {
            json!({
                "hour": format!("{}T{:02}:00Z", date::day(hour / 24), hour % 24),
                "running_s": sums.running_ms as f64 / 1e3,
                "requests_joules": part.joules(sums.work().uj()),
                "idle_joules": part.joules(sums.idle_uj),
                "unattributed_joules": part.joules(sums.unattributed_uj),
                "answered": sums.work().answered,
            })
        };
        let part_json = |part: &Part| {
            let sums = &part.sums;
            let all = part.joules(sums.counter_uj());
            let answered = sums.work().answered;
            json!({
                "method": part.meter.as_ref().map(|meter| meter.method),
                "scope": part.meter.as_ref().map(|meter| meter.scope),
                "source": part.meter.as_ref().map(|meter| &meter.source),
                "relative_uncertainty": part.meter.as_ref().map(|meter| meter.relative_uncertainty),
                "running_s": sums.running_ms as f64 / 1e3,
                "joules": all,
                "requests_joules": part.joules(sums.work().uj()),
                "idle_joules": part.joules(sums.idle_uj),
                "unattributed_joules": part.joules(sums.unattributed_uj),
                "idle_share": part.share(sums.idle_uj),
                "kwh": all.map(|joules| joules / 3.6e6),
                "cost": self.cost(all),
                "answered": answered,
                "joules_per_request_with_idle": ratio(all, answered),
                "tasks": sums.tasks.iter().map(|(name, work)| self.task_json(part, name, work)).collect::<Vec<_>>(),
                "hours": part.hours.iter().map(|hour| hour_json(part, hour)).collect::<Vec<_>>(),
            })
        };
        json!({
            "first_day": date::day(self.days.start),
            "last_day": date::day(self.days.end - 1),
            "price_per_kwh": self.price.as_ref().map(|price| price.per_kwh),
            "currency": self.price.as_ref().map(|price| &price.currency).filter(|currency| !currency.is_empty()),
            "meters": self.parts.iter().map(part_json).collect::<Vec<_>>(),
        })
    }
}

/// Sums since the record began. A meter that was calibrated anew is the same series.
fn prometheus(record: &Record) -> String {
    let mut totals = Vec::<Total>::new();
    for total in &record.totals {
        let key = |total: &Total| {
            total.meter.as_ref().map(|meter| (meter.method, meter.scope, meter.source.clone()))
        };
        match totals.iter_mut().find(|seen| key(seen) == key(total)) {
            Some(seen) => seen.sums.add(&total.sums),
            None => totals.push(total.clone()),
        }
    }
    // Requests and tokens can be counted whatever metered them.
    let mut counts = Sums::default();
    totals.iter().for_each(|total| counts.add(&total.sums));
    let metered: Vec<_> =
        totals.iter().filter_map(|total| Some((total.meter.as_ref()?, &total.sums))).collect();
    let named: Vec<_> = metered.iter().map(|(meter, _)| names(meter)).collect();
    let labels: Vec<_> = (metered.iter().zip(&named))
        .map(|((meter, _), (scope, method))| {
            [("scope", scope.as_str()), ("method", method.as_str()), ("source", meter.source.as_str())]
        })
        .collect();
    let joules: Vec<_> =
        labels.iter().zip(&metered).map(|(labels, (_, sums))| (&labels[..], &sums.tasks)).collect();
    let mut page = Page::default();
    of_tasks(&mut page, &counts.tasks, &joules);
    if !metered.is_empty() {
        let name = "tern_energy_joules_total";
        page.family(
            name,
            "counter",
            "Joules that the meter counted since the record began, by where they went.",
        );
    }
    for (labels, (_, sums)) in labels.iter().zip(&metered) {
        let parts =
            [("requests", sums.work().uj()), ("idle", sums.idle_uj), ("unattributed", sums.unattributed_uj)];
        for (part, uj) in parts {
            let each: Vec<_> = [("part", part)].into_iter().chain(*labels).collect();
            page.sample("tern_energy_joules_total", &each, uj as f64 / 1e6);
        }
    }
    page.text()
}

#[cfg(test)]
mod tests;
