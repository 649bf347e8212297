//! The governor at work: the meter and the temperatures that it goes by, and what is told of it.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tern_boards::energy::{Ledger, Meter};
use tern_protocol::answer::{self as wire, SlowedBy};

use super::climate::Climate;
use super::pace::heat::HeatPace;
use super::pace::power::PowerPace;
use super::pace::{Governor, Why};
use super::report::thousandths;
use super::state::State;
use crate::config::energy::EnergySection;

/// The longest pause without looking at what else is to be done.
const SLICE: Duration = Duration::from_millis(100);

/// A budget of watts that cannot be kept.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum BudgetError {
    /// Nothing counts joules.
    NoMeter {
        /// The budget.
        budget_w: f64,
    },
    /// The machine draws more at rest.
    BelowIdle {
        /// The budget.
        budget_w: f64,
        /// What it draws.
        idle_w: f64,
        /// Who says so.
        source: String,
    },
}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BudgetError::NoMeter { budget_w } => write!(
                f,
                "energy.power_budget_w is {budget_w} and cannot be kept: this machine has no power meter that Tern can \
                 read; tern doctor says why; leave it out, or name a meter"
            ),
            BudgetError::BelowIdle { budget_w, idle_w, source } => write!(
                f,
                "energy.power_budget_w is {budget_w}, and by {source} this machine draws {idle_w:.2} W at rest; give it \
                 more than that"
            ),
        }
    }
}

impl Error for BudgetError {}

/// Whether a budget can be kept with `meter`, as far as can be said before anything is measured.
///
/// # Errors
/// Why not.
pub fn check(section: &EnergySection, meter: Option<&dyn Meter>) -> Result<(), BudgetError> {
    let Some(budget_w) = section.power_budget_w else { return Ok(()) };
    let Some(meter) = meter else { return Err(BudgetError::NoMeter { budget_w }) };
    match meter.idle_watts() {
        Some(idle_w) if idle_w >= budget_w => {
            Err(BudgetError::BelowIdle { budget_w, idle_w, source: meter.source().to_owned() })
        }
        _ => Ok(()),
    }
}

/// The governor with its sensors.
#[derive(Debug)]
pub struct Pacing {
    governor: Governor,
    climate: Climate,
    /// Readings of the meter that failed so far.
    failed: u64,
    /// Share of the time of late in which the engine worked while it had work, and time since it was told.
    working: f64,
    since: (Duration, Duration),
    slowed_by: Option<Why>,
    is_warned: bool,
}

impl Pacing {
    /// What `section` asks for, in `climate`.
    pub fn new(section: &EnergySection, climate: Climate) -> Self {
        let window = Duration::from_secs(u64::from(section.power_window_s));
        let power = section.power_budget_w.map(|budget_w| PowerPace::new(budget_w, window));
        let heat = climate.limit_c(section.temperature_limit_c).map(HeatPace::new);
        if let Some(heat) = &heat {
            log::info!("keeps below {:.0} degrees Celsius", heat.limit_c());
        }
        Pacing {
            governor: Governor::new(power, heat),
            climate,
            failed: 0,
            working: 1.0,
            since: (Duration::ZERO, Duration::ZERO),
            slowed_by: None,
            is_warned: false,
        }
    }

    /// Whether the machine is being slowed.
    pub fn throttled(&self) -> Option<bool> {
        self.climate.throttled()
    }

    /// Looks at temperatures and power if it is time to, and says in `state` what is so.
    pub fn look(&mut self, now: Duration, ledger: &Ledger, state: &State) {
        if !self.climate.look(now) {
            return;
        }
        if let Some(celsius) = self.climate.celsius() {
            self.governor.temperature(now, celsius);
        }
        let (work, pause) = std::mem::take(&mut self.since);
        let all = (work + pause).as_secs_f64();
        if all > 0.0 {
            self.working = work.as_secs_f64() / all;
        }
        if pause.is_zero() {
            self.slowed_by = None;
        }
        let power = self.governor.power();
        let zones = self.climate.zones().iter().map(|zone| (zone.name.clone(), zone.celsius));
        let pacing = wire::Pacing {
            power_budget_w: power.map(PowerPace::budget_w),
            window_s: power.map(|power| power.window().as_secs_f64()),
            mean_w: power.filter(|_| ledger.meter().is_some()).map(|power| thousandths(power.mean_w(now))),
            temperature_c: self.climate.celsius(),
            temperature_limit_c: self.governor.heat().map(HeatPace::limit_c),
            throttled: self.climate.throttled(),
            throttled_times: self.climate.episodes(),
            working: thousandths(self.working),
            paced_s: 0.0,
            slowed_by: self.slowed_by.map(|why| match why {
                Why::Power => SlowedBy::Power,
                Why::Heat => SlowedBy::Heat,
            }),
        };
        state.set_pacing(pacing, zones.collect());
    }

    /// What the meter of `ledger` has counted as of its last reading; `None` if that failed.
    fn counted_uj(&mut self, ledger: &Ledger) -> Option<u64> {
        let failed = ledger.meter()?.faults().failed;
        let is_sound = failed == std::mem::replace(&mut self.failed, failed);
        ledger.totals().filter(|_| is_sound).map(|totals| totals.counter_uj)
    }

    /// Reads the meter outside of steps, as [`Ledger::tick`] does, and notes what it shows.
    pub fn tick(&mut self, now: Duration, ledger: &mut Ledger) {
        ledger.tick(now);
        if self.governor.power().is_some() {
            let uj = self.counted_uj(ledger);
            self.governor.reading(now, uj);
        }
    }

    /// How long to hold still before the next step, for a slice at most.
    pub fn pause(&mut self, now: Duration, ledger: &mut Ledger) -> Option<Duration> {
        if self.governor.power().is_none() && self.governor.heat().is_none() {
            return None;
        }
        self.tick(now, ledger);
        let idle_w = ledger.idle_watts();
        if let Some((power, idle_w)) = self.governor.power().zip(idle_w)
            && idle_w >= power.budget_w()
            && !std::mem::replace(&mut self.is_warned, true)
        {
            log::warn!(
                "energy.power_budget_w is {}, and this machine was measured to draw {idle_w:.2} W at rest: the budget \
                 cannot be kept; works a twentieth of the time",
                power.budget_w()
            );
        }
        let (pause, why) = self.governor.pause(now, idle_w)?;
        self.slowed_by = Some(why);
        Some(pause.min(SLICE))
    }

    /// The engine held still for so long.
    pub fn held(&mut self, pause: Duration) {
        self.since.1 += pause;
    }

    /// A step of the engine went from `began` to `now`; `before_uj` is what [`Ledger::totals`] said when it began.
    pub fn stepped(&mut self, began: Duration, before_uj: Option<u64>, now: Duration, ledger: &Ledger) {
        self.since.0 += now.saturating_sub(began);
        let uj = self.counted_uj(ledger);
        self.governor.step(began, before_uj, now, uj);
    }

    /// Whether power or heat holds the engine back at the moment.
    pub fn is_slowed(&self) -> bool {
        self.slowed_by.is_some()
    }

    /// Why a request takes longer than it would, for its client; nothing if it does not.
    pub fn told(&self) -> Option<String> {
        let why = match self.slowed_by? {
            Why::Power => format!(
                "to keep energy.power_budget_w = {}",
                self.governor.power().map(PowerPace::budget_w).unwrap_or_default()
            ),
            Why::Heat => format!(
                "to stay below {:.0} degrees Celsius",
                self.governor.heat().map(HeatPace::limit_c).unwrap_or_default()
            ),
        };
        Some(format!("the daemon works {:.0} % of the time {why}", 100.0 * self.working))
    }
}
