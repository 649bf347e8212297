//! The book: sums since it was begun, and a page an hour.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tern_boards::energy::{Ledger, Phase, Totals};

use super::sums::{Charge, MOST_TASKS, MeterName, OTHER, Sums, Work};

/// Hours whose pages are kept: 32 days.
pub const HOURS: usize = 32 * 24;

/// Pages kept in all, where hours have several because the meter changed.
pub const PAGES: usize = 1024;

/// Meters whose sums are kept.
pub const METERS: usize = 16;

/// An hour by one meter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Hours since 1970 in universal time, by the system's clock.
    pub hour: u64,
    /// The meter; `None` where there was none, and no joules are known.
    pub meter: Option<MeterName>,
    /// What happened.
    pub sums: Sums,
}

/// All that one meter counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Total {
    /// The meter; `None` for the time without one.
    pub meter: Option<MeterName>,
    /// When it was first seen here, in seconds since 1970.
    pub since_s: u64,
    /// What happened.
    pub sums: Sums,
}

/// What outlives the daemon.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// By meter.
    pub totals: Vec<Total>,
    /// By hour and meter, in order of hours.
    pub pages: Vec<Page>,
}

/// The record with what is needed to go on with it.
#[derive(Debug, Default)]
pub struct Book {
    record: Record,
    /// Work since this process began.
    process: BTreeMap<String, Work>,
    meter: Option<MeterName>,
    /// Names of tasks that have sums of their own.
    names: BTreeSet<Arc<str>>,
    hour: u64,
    /// What of the ledger is in the book already, and until when.
    booked: Totals,
    booked_until: Duration,
    /// Hours with pages that changed since all were last written.
    touched: BTreeSet<u64>,
    /// Changes so far.
    changes: u64,
}

/// Seconds since 1970 by the system's clock.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Book {
    /// Goes on with what an earlier daemon has left. Before anything else is booked.
    pub fn resume(&mut self, record: Record) {
        self.record = record;
        // The files of a daemon that was killed may differ; the next ones are whole.
        self.touched = self.record.pages.iter().map(|page| page.hour).collect();
    }

    /// Begins to book by the meter of `ledger`, whose clock stands at `now`.
    pub fn begin(&mut self, ledger: &Ledger, now: Duration) {
        self.meter = ledger.meter().map(MeterName::of);
        self.hour = now_s() / 3600;
        self.booked = ledger.totals().unwrap_or_default();
        self.booked_until = now;
    }

    /// Says which tasks there are; requests of others are counted as [`OTHER`].
    pub fn set_tasks<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        self.names = names.take(MOST_TASKS).map(Arc::from).collect();
        // Series that are there from the start tell that nothing happened.
        for name in self.names.clone() {
            self.of_process(&name);
        }
        self.of_process(OTHER);
    }

    /// What requests of the task called so are counted as.
    pub fn label(&self, name: Option<&str>) -> Arc<str> {
        name.and_then(|name| self.names.get(name)).map_or_else(|| OTHER.into(), Arc::clone)
    }

    fn each(&mut self, change: impl Fn(&mut Sums)) {
        self.changes += 1;
        let (hour, meter) = (self.hour, &self.meter);
        let Record { totals, pages } = &mut self.record;
        let page = pages.iter().rposition(|page| page.hour == hour && page.meter == *meter);
        let page = page.unwrap_or_else(|| {
            let at = pages.partition_point(|page| page.hour <= hour);
            pages.insert(at, Page { hour, meter: meter.clone(), sums: Sums::default() });
            at
        });
        change(&mut pages[page].sums);
        self.touched.insert(hour);
        prune(pages, hour);
        let total = totals.iter().position(|total| total.meter == *meter);
        let total = total.unwrap_or_else(|| {
            if totals.len() >= METERS {
                totals.remove(0);
            }
            totals.push(Total { meter: meter.clone(), since_s: now_s(), sums: Sums::default() });
            totals.len() - 1
        });
        change(&mut totals[total].sums);
    }

    /// Books work in a step.
    pub fn charge(&mut self, task: &str, phase: Phase, charge: Charge) {
        self.each(|sums| sums.task(task).step(phase, charge));
        self.of_process(task).step(phase, charge);
    }

    /// Books the end of a request.
    pub fn end(&mut self, task: &str, answered: bool) {
        let count = |work: &mut Work| {
            let ended = if answered { &mut work.answered } else { &mut work.broken_off };
            *ended = ended.saturating_add(1);
        };
        self.each(|sums| count(sums.task(task)));
        count(self.of_process(task));
    }

    /// Books what `ledger` counted beside requests until `now`, by its clock.
    pub fn settle(&mut self, ledger: &Ledger, now: Duration) {
        self.settle_at(ledger, now, now_s() / 3600);
    }

    pub(super) fn settle_at(&mut self, ledger: &Ledger, now: Duration, hour: u64) {
        let totals = ledger.totals().unwrap_or_default();
        let running = now.saturating_sub(self.booked_until);
        let idle_uj = totals.idle_uj.saturating_sub(self.booked.idle_uj);
        let unattributed_uj = totals.unattributed_uj.saturating_sub(self.booked.unattributed_uj);
        // Of the hour in which it began; a tick is no longer than a second.
        self.each(|sums| sums.rest(running, idle_uj, unattributed_uj));
        self.booked = totals;
        self.booked_until = now;
        self.hour = hour;
    }

    fn of_process(&mut self, task: &str) -> &mut Work {
        // Labels are bounded, but those of tasks that a reload took away stay.
        let known = self.process.contains_key(task) || self.process.len() < 2 * MOST_TASKS;
        self.process.entry(if known { task } else { OTHER }.to_owned()).or_default()
    }

    /// Work since this process began, by task.
    pub fn process(&self) -> &BTreeMap<String, Work> {
        &self.process
    }

    /// The meter that is booked by.
    pub fn meter(&self) -> Option<&MeterName> {
        self.meter.as_ref()
    }

    /// All that outlives the daemon.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The hour that is booked on.
    pub fn hour(&self) -> u64 {
        self.hour
    }

    /// Goes up with every change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Hours with pages that changed since [`Book::written`].
    pub fn touched(&self) -> &BTreeSet<u64> {
        &self.touched
    }

    /// All pages are on disk.
    pub fn written(&mut self) {
        self.touched.clear();
    }
}

/// Drops the pages farthest from `hour` until there are few enough. Not the oldest: a clock that was wrong for a while
/// leaves pages of the future.
fn prune(pages: &mut Vec<Page>, hour: u64) {
    loop {
        let hours = 1 + pages.windows(2).filter(|pair| pair[0].hour != pair[1].hour).count();
        let (Some(first), Some(last)) = (pages.first(), pages.last()) else { return };
        if hours <= HOURS && pages.len() <= PAGES {
            return;
        }
        let farthest =
            if hour.abs_diff(first.hour) >= hour.abs_diff(last.hour) { first.hour } else { last.hour };
        pages.retain(|page| page.hour != farthest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tern_boards::energy::fake::{FakeMeter, Reading};
    use tern_boards::energy::{Completed, Share};

    const fn s(value: u64) -> Duration {
        Duration::from_secs(value)
    }

    fn opened(readings: impl IntoIterator<Item = Reading>) -> (Ledger, Book) {
        let ledger = Ledger::new(Some(Box::new(FakeMeter::scripted(None, readings))), s(0));
        let mut book = Book::default();
        book.set_tasks(["grade"].into_iter());
        book.begin(&ledger, s(0));
        (ledger, book)
    }

    #[test]
    fn what_the_meter_counted_is_in_the_book() {
        use Reading::{Fail, Raw};
        let (mut ledger, mut book) =
            opened([Raw(0), Raw(100), Raw(1100), Fail, Raw(1500), Raw(1600), Raw(1700)]);
        book.settle_at(&ledger, s(0), 10);
        let grade = book.label(Some("grade"));
        assert_eq!((&*grade, &*book.label(Some("made up")), &*book.label(None)), ("grade", "other", "other"));
        ledger.begin_step(s(1));
        let shares = [(1, Phase::Prefill, 3), (2, Phase::Decode, 1)].map(|(request, phase, weight)| Share {
            request,
            phase,
            weight,
        });
        let parts = ledger.end_step(s(2), &shares).expect("it is known");
        let charge = |tokens, part| Charge { tokens, uj: Some(part), is_lump: false };
        book.charge(&grade, Phase::Prefill, charge(30, parts[0]));
        book.charge(OTHER, Phase::Decode, charge(1, parts[1]));
        ledger.finish(1, Completed::default());
        book.end(&grade, true);
        book.settle_at(&ledger, s(2), 11);
        // a failed reading, what it hid, and rest, in the next hour
        ledger.tick(s(3));
        ledger.tick(s(4));
        ledger.tick(s(5));
        book.settle_at(&ledger, s(5), 11);
        let record = book.record();
        let hours: Vec<_> = record.pages.iter().map(|page| (page.hour, page.sums.counter_uj())).collect();
        // The last is the hour in which the test itself began.
        assert_eq!((hours[..2].to_vec(), hours[2].1), (vec![(10, 1100), (11, 500)], 0));
        let sums = &record.totals[0].sums;
        assert_eq!((sums.counter_uj(), ledger.totals().expect("metered").counter_uj), (1600, 1600));
        assert_eq!((sums.idle_uj, sums.unattributed_uj, sums.running_ms), (200, 400, 5000));
        assert_eq!(
            sums.tasks["grade"],
            Work { answered: 1, prefill_tokens: 30, prefill_uj: 750, ..Work::default() }
        );
        assert_eq!(book.process()["other"].decode_uj, 250);
    }

    fn page(hour: u64) -> Page {
        Page { hour, meter: None, sums: Sums::default() }
    }

    #[test]
    fn pages_are_bounded_and_a_wrong_clock_costs_only_its_own() {
        let mut pages: Vec<Page> = (1000..1000 + HOURS as u64).map(page).collect();
        pages.push(page(900_000));
        prune(&mut pages, 1000 + HOURS as u64 - 1);
        assert_eq!(
            (pages.len(), pages[0].hour, pages[HOURS - 1].hour),
            (HOURS, 1000, 1000 + HOURS as u64 - 1)
        );
        pages.push(page(1000 + HOURS as u64));
        prune(&mut pages, 1000 + HOURS as u64);
        assert_eq!((pages.len(), pages[0].hour), (HOURS, 1001));
        let mut pages: Vec<Page> = (0..2 * PAGES as u64).map(|index| page(index / 4)).collect();
        prune(&mut pages, 2 * PAGES as u64 / 4);
        assert!(pages.len() <= PAGES && pages[0].hour >= 256);
    }

    #[test]
    fn a_clock_set_back_goes_on_with_the_page_that_is_there() {
        let (ledger, mut book) = opened([]);
        for hour in [50, 51, 50, 7] {
            book.settle_at(&ledger, s(0), hour);
        }
        book.settle_at(&ledger, s(1), 50);
        let hours: Vec<u64> = book.record().pages.iter().map(|page| page.hour).take(3).collect();
        assert_eq!(hours, [7, 50, 51]);
    }

    #[test]
    fn joules_of_two_meters_are_told_apart_in_one_hour() {
        let (ledger, mut book) = opened([]);
        book.settle_at(&ledger, s(1), 5);
        book.settle_at(&ledger, s(2), 5);
        let mut again = Book::default();
        again.resume(book.record().clone());
        let unmetered = Ledger::new(None, s(0));
        again.begin(&unmetered, s(0));
        again.settle_at(&unmetered, s(0), 5);
        again.settle_at(&unmetered, s(3), 5);
        let pages: Vec<_> = again.record().pages.iter().filter(|page| page.hour == 5).collect();
        assert_eq!(pages.len(), 2);
        assert_eq!(again.record().totals.len(), 2);
        assert!(again.record().totals[1].meter.is_none());
    }
}
