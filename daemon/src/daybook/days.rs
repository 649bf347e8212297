//! Days taken from the record.

use std::ops::Range;

use super::book::Record;
use super::sums::{MeterName, Sums, Work};

/// What one meter, or none, has of some days.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The meter; `None` for hours without one.
    pub meter: Option<MeterName>,
    /// All hours together.
    pub sums: Sums,
    /// Each hour that has something, in order.
    pub hours: Vec<(u64, Sums)>,
}

/// The pages of `days` (days since 1970), by meter, in the order in which the meters came.
pub fn parts(record: &Record, days: &Range<u64>) -> Vec<Part> {
    let mut parts = Vec::<Part>::new();
    for page in record.pages.iter().filter(|page| days.contains(&(page.hour / 24))) {
        // A page that was only opened, when a daemon stopped on the hour.
        if page.sums == Sums::default() {
            continue;
        }
        let index = parts.iter().position(|part| part.meter == page.meter).unwrap_or_else(|| {
            parts.push(Part { meter: page.meter.clone(), sums: Sums::default(), hours: Vec::new() });
            parts.len() - 1
        });
        parts[index].sums.add(&page.sums);
        parts[index].hours.push((page.hour, page.sums.clone()));
    }
    parts
}

impl Part {
    /// Joules of `uj` microjoules; `None` without a meter.
    pub fn joules(&self, uj: u64) -> Option<f64> {
        self.meter.as_ref().map(|_| uj as f64 / 1e6)
    }

    /// Half-width of the 95 % interval of the joules of `work`, as a fraction: what the meter says of itself, and chance where
    /// its energy comes in lumps. `None` where nothing is known, or nothing was counted.
    pub fn uncertainty(&self, work: &Work) -> Option<f64> {
        Some(self.meter.as_ref()?.relative_uncertainty.hypot(work.chance()?))
    }

    /// Part of all joules that `uj` is, 0 to 1; `None` where it cannot be said.
    pub fn share(&self, uj: u64) -> Option<f64> {
        let all_uj = self.sums.counter_uj();
        (self.meter.is_some() && all_uj > 0).then(|| uj as f64 / all_uj as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::Page;
    use super::*;
    use tern_boards::energy::{Method, Scope};

    #[test]
    fn a_day_has_its_hours_and_each_meter_its_own_part() {
        let name = |source: &str| MeterName {
            method: Method::EnergyCounter,
            scope: Scope::BoardDc,
            source: source.into(),
            relative_uncertainty: 0.02,
        };
        let page = |hour, meter: Option<&str>, idle_uj| {
            let sums = Sums { running_ms: 1, idle_uj, ..Sums::default() };
            Page { hour, meter: meter.map(name), sums }
        };
        let pages = vec![
            page(23, Some("a"), 1),
            page(24, Some("a"), 10),
            page(25, Some("b"), 200),
            page(25, None, 0),
            page(47, Some("a"), 20),
            page(48, Some("a"), 1000),
        ];
        let found = parts(&Record { totals: Vec::new(), pages }, &(1..2));
        let told: Vec<_> =
            found.iter().map(|part| (part.joules(part.sums.counter_uj()), part.hours.len())).collect();
        assert_eq!(told, [(Some(30e-6), 2), (Some(200e-6), 1), (None, 1)]);
        assert_eq!((found[0].share(15), found[2].share(0)), (Some(0.5), None));
    }
}
