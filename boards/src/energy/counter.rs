//! From raw readings to a total that only rises.
//!
//! [`CounterTotal`] follows a hardware counter that wraps; [`PowerTotal`] integrates power by the trapezoidal
//! rule. Both hold the same promise: an interval whose energy cannot be known adds nothing (a step backwards)
//! or is counted as a gap, and [`Faults`] says how often.

use core::time::Duration;

use super::meter::Faults;

/// No package or board this program runs on draws more. A counter step above it is a reset, not a wrap.
const MAX_WATTS: u64 = 2_000;

/// A power sensor read less often than this leaves a gap: load changes many times in between.
pub const POWER_GAP: Duration = Duration::from_secs(1);

/// Sum of the steps of a counter that wraps at a known value.
#[derive(Debug, Clone)]
pub struct CounterTotal {
    /// Microjoules at which the counter starts again; `None` where it is not known to wrap.
    range_uj: Option<u64>,
    last: Option<(Duration, u64)>,
    total_uj: u64,
    readings: u64,
    faults: Faults,
}

impl CounterTotal {
    /// A total for a counter that wraps after `range_uj` microjoules.
    pub fn new(range_uj: Option<u64>) -> CounterTotal {
        let range_uj = range_uj.filter(|&range| range > 0);
        CounterTotal { range_uj, last: None, total_uj: 0, readings: 0, faults: Faults::default() }
    }

    /// Takes the counter's value `raw_uj` at `now` and gives the new total.
    ///
    /// A fall is a wrap if the step across the end is one the machine could have drawn in that time; otherwise the
    /// counter was reset (suspend, driver reload) and counting goes on from the new value.
    pub fn add(&mut self, now: Duration, raw_uj: u64) -> u64 {
        self.readings += 1;
        let Some((then, last_uj)) = self.last.replace((now, raw_uj)) else { return self.total_uj };
        let Some(elapsed) = now.checked_sub(then) else {
            self.faults.backwards += 1;
            self.last = Some((then, raw_uj));
            return self.total_uj;
        };
        // One extra second, because a counter may update late and two readings may fall on one tick of the clock.
        let possible_uj = (elapsed.as_micros() as u64).saturating_add(1_000_000).saturating_mul(MAX_WATTS);
        let step_uj = match raw_uj.checked_sub(last_uj) {
            Some(step) => Some(step),
            None => self.range_uj.and_then(|range| raw_uj.checked_add(range.checked_sub(last_uj)?)),
        };
        match step_uj.filter(|&step| step <= possible_uj) {
            Some(step) => self.total_uj = self.total_uj.saturating_add(step),
            None => self.faults.backwards += 1,
        }
        // Long enough for the counter to come round at a twentieth of that power (100 W; 44 minutes for the usual
        // 262 kJ): it may have wrapped unseen.
        let passed_uj = (elapsed.as_micros() as u64).saturating_mul(MAX_WATTS / 20);
        if self.range_uj.is_some_and(|range| passed_uj > range) {
            self.faults.gaps += 1;
        }
        self.total_uj
    }

    /// Readings so far.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// What went wrong so far.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Counts a reading that failed.
    pub fn fail(&mut self) {
        self.faults.failed += 1;
    }
}

/// Energy under a curve of power readings.
#[derive(Debug, Clone, Default)]
pub struct PowerTotal {
    last: Option<(Duration, u64)>,
    total_uj: u64,
    /// Microwatts times microseconds that do not make a microjoule yet.
    rest: u128,
    readings: u64,
    faults: Faults,
}

impl PowerTotal {
    /// Takes `power_uw` microwatts at `now` and gives the new total in microjoules.
    ///
    /// Between two readings power is taken to change in a straight line. An interval above [`POWER_GAP`] is still
    /// integrated, since leaving it out would lose energy for certain, and counted as a gap.
    pub fn add(&mut self, now: Duration, power_uw: u64) -> u64 {
        self.readings += 1;
        let Some((then, last_uw)) = self.last.replace((now, power_uw)) else { return self.total_uj };
        let Some(elapsed) = now.checked_sub(then) else {
            self.faults.backwards += 1;
            self.last = Some((then, power_uw));
            return self.total_uj;
        };
        if elapsed > POWER_GAP {
            self.faults.gaps += 1;
        }
        // 1 uJ = 1e6 uW us; the factor two is the trapezoid's.
        self.rest += (u128::from(last_uw) + u128::from(power_uw)) * elapsed.as_micros();
        self.total_uj =
            self.total_uj.saturating_add(u64::try_from(self.rest / 2_000_000).unwrap_or(u64::MAX));
        self.rest %= 2_000_000;
        self.total_uj
    }

    /// Readings so far.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// What went wrong so far.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Breaks the curve: nothing is known of what comes until the next reading. Counted as a gap.
    pub fn interrupt(&mut self) {
        if self.last.take().is_some() {
            self.faults.gaps += 1;
        }
    }

    /// Counts a reading that cannot be true; it must not be added.
    pub fn reject(&mut self) {
        self.faults.rejected += 1;
    }

    /// The total as it is, microjoules.
    pub fn total_uj(&self) -> u64 {
        self.total_uj
    }

    /// Time from the last reading that was added to `now`; `None` before the first.
    pub fn since_last(&self, now: Duration) -> Option<Duration> {
        self.last.map(|(then, _)| now.saturating_sub(then))
    }

    /// Counts a reading that failed.
    pub fn fail(&mut self) {
        self.faults.failed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn a_counter_starts_at_zero_and_wraps_at_its_range() {
        let mut counter = CounterTotal::new(Some(262_143_328_850));
        assert_eq!(counter.add(ms(0), 262_143_228_850), 0);
        assert_eq!(counter.add(ms(100), 262_143_278_850), 50_000);
        assert_eq!(counter.add(ms(200), 20_000), 120_000);
        assert_eq!(counter.faults(), Faults::default());
    }

    #[test]
    fn a_reset_is_not_taken_for_a_wrap() {
        // 200 kJ in a tenth of a second would be two megawatts
        let mut counter = CounterTotal::new(Some(262_143_328_850));
        counter.add(ms(0), 60_000_000_000);
        assert_eq!(counter.add(ms(100), 5_000), 0);
        assert_eq!(counter.faults().backwards, 1);
        assert_eq!(counter.add(ms(200), 8_000), 3_000);
        // without a known range every fall is a reset
        let mut counter = CounterTotal::new(None);
        counter.add(ms(0), 10);
        assert_eq!((counter.add(ms(100), 4), counter.faults().backwards), (0, 1));
    }

    #[test]
    fn a_jump_no_machine_could_draw_adds_nothing() {
        let mut counter = CounterTotal::new(None);
        counter.add(ms(0), 0);
        assert_eq!(counter.add(ms(10), u64::MAX), 0);
        assert_eq!(counter.faults().backwards, 1);
    }

    #[test]
    fn an_interval_in_which_it_may_have_wrapped_unseen_is_a_gap() {
        let mut counter = CounterTotal::new(Some(262_143_328_850));
        counter.add(ms(0), 0);
        counter.add(Duration::from_secs(60), 600_000_000);
        assert_eq!(counter.faults().gaps, 0);
        counter.add(Duration::from_secs(3 * 3600), 900_000_000);
        assert_eq!(counter.faults().gaps, 1);
    }

    #[test]
    fn power_is_integrated_by_trapezoids_without_losing_remainders() {
        let mut power = PowerTotal::default();
        assert_eq!(power.add(ms(0), 2_000_000), 0);
        // 2 W to 4 W over half a second: 1.5 J
        assert_eq!(power.add(ms(500), 4_000_000), 1_500_000);
        // 3 uW for a million single microseconds is 3 uJ although each interval alone rounds to nothing
        let mut power = PowerTotal::default();
        for us in 0..=1_000_000 {
            power.add(Duration::from_micros(us), 3);
        }
        assert_eq!(power.add(Duration::from_secs(1), 3), 3);
        assert_eq!(power.readings(), 1_000_002);
    }

    #[test]
    fn a_clock_that_runs_backwards_adds_nothing_and_the_total_never_falls() {
        let mut power = PowerTotal::default();
        power.add(ms(1000), 1_000_000);
        assert_eq!(power.add(ms(500), 1_000_000), 0);
        assert_eq!(power.faults().backwards, 1);
        assert_eq!(power.add(ms(1500), 1_000_000), 500_000);
        let mut counter = CounterTotal::new(None);
        counter.add(ms(1000), 10);
        assert_eq!((counter.add(ms(900), 20), counter.faults().backwards), (0, 1));
        assert_eq!(counter.add(ms(1100), 25), 5);
    }

    #[test]
    fn readings_far_apart_are_counted_as_gaps_and_still_integrated() {
        let mut power = PowerTotal::default();
        power.add(ms(0), 1_000_000);
        assert_eq!(power.add(ms(5000), 1_000_000), 5_000_000);
        assert_eq!(power.faults().gaps, 1);
    }
}
