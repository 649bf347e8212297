//! What a sweep found, as a table and an answer.

use super::compare::{MARGIN, against, half_width, recommended};
use super::run::Swept;
use super::{Measured, Setting};
use crate::figures;
use crate::table::{Align, Table};

/// The page for people.
pub fn page(swept: &Swept) -> String {
    let Swept { all, idle_w, worth } = swept;
    let Some((fewest, chosen)) = recommended(all, *worth) else { return String::new() };
    let mut table =
        Table::new([Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Left]);
    table.row(["setting", "tokens/s", "W", "J/token", "above rest", ""]);
    for measured in all {
        let note = match against(fewest, measured, *worth) {
            _ if measured.setting == fewest.setting => "fewest joules".to_owned(),
            (_, false) => "cannot be told from the fewest".to_owned(),
            (more, true) => format!("{:+.0} %", more * 100.0),
        };
        let chosen = if measured.setting == chosen.setting { ", recommended" } else { "" };
        table.row([
            name(measured.setting),
            figures::three_digits(measured.tokens_per_second()),
            format!("{:.2}", measured.watts()),
            format!(
                "{} +- {}",
                figures::joules(measured.joules_per_token()),
                figures::joules(half_width(measured, *worth))
            ),
            figures::joules(measured.joules_above(*idle_w)),
            format!("{note}{chosen}"),
        ]);
    }
    let mut page = table.render();
    page += &format!("at rest {idle_w:.2} W; +- is the 95 % interval of ");
    page += match worth.differing > 0.0 {
        true => "the rounds and of the calibrated model, whose error differs from setting to setting\n",
        false => "the rounds; the meter's own gain is the same for all settings and not in it\n",
    };
    page + &verdict(swept, chosen)
}

/// Race or crawl, and what it costs.
fn verdict(swept: &Swept, chosen: &Measured) -> String {
    let all = &swept.all;
    let Some(fastest) = all.iter().max_by(|a, b| a.tokens_per_second().total_cmp(&b.tokens_per_second()))
    else {
        return String::new();
    };
    if all.len() > 1 && !all.iter().any(|other| against(chosen, other, swept.worth).1) {
        return format!(
            "neither can be told: no two settings differ by more than chance and the meter explain; {} is as good as any, \
             and more --seconds or --rounds say more\n",
            name(chosen.setting)
        );
    }
    let mut text = if fastest.setting == chosen.setting {
        format!(
            "race: {}, the fastest, takes no more joules a token than any other that was tried\n",
            name(chosen.setting)
        )
    } else {
        let (more, is_told) = against(chosen, fastest, swept.worth);
        let slower = 1.0 - chosen.tokens_per_second() / fastest.tokens_per_second();
        format!(
            "{}: {} saves {:.0} % of the joules of {}, the fastest, and is {:.0} % slower{}\n",
            if is_crawl(all, chosen.setting) { "crawl" } else { "neither race nor crawl" },
            name(chosen.setting),
            more / (1.0 + more) * 100.0,
            name(fastest.setting),
            slower * 100.0,
            if is_told { "" } else { "; that it saves any is likely and not certain" }
        )
    };
    let above = |measured: &&Measured| measured.joules_above(swept.idle_w);
    if let Some(alone) = all.iter().min_by(|a, b| above(a).total_cmp(&above(b)))
        && above(&alone) < (1.0 - MARGIN) * above(&chosen)
        && above(&chosen) > 0.0
    {
        text += &format!(
            "a board that stays on anyway pays only what is above rest: of that, {} takes {:.0} % less\n",
            name(alone.setting),
            (1.0 - above(&alone) / above(&chosen)) * 100.0
        );
    }
    text
}

/// Whether `chosen` is at the lowest clock that was tried; where the governor chose, on the fewest threads.
fn is_crawl(all: &[Measured], chosen: Setting) -> bool {
    let clocks = all.iter().map(|measured| measured.setting.mhz);
    let threads = all.iter().map(|measured| measured.setting.threads);
    match clocks.clone().min() == clocks.max() {
        false => all.iter().all(|other| other.setting.mhz >= chosen.mhz),
        true => threads.min() == Some(chosen.threads),
    }
}

/// A setting in words.
pub fn name(setting: Setting) -> String {
    let threads = figures::counted(setting.threads, "thread");
    setting.mhz.map_or(threads.clone(), |mhz| format!("{threads}, {mhz} MHz"))
}
