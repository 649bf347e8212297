//! Two meters that ought to agree.
//!
//! Where a second meter works it is read beside the one that is used, and both are compared over windows of
//! [`WINDOW`]: a shorter one would compare how fast they are, not what they say. What they may say follows from what they
//! cover and from how far each may be off:
//!
//! - covering the same, they must be within the sum of their uncertainties;
//! - one within the other (a package in a board, a board at a wall socket), the inner must not show more;
//! - a board must show at least half of what the wall does less 3 W: no supply in use wastes more.
//!
//! A disagreement says both figures. The better method goes on being used; a person must find out which is wrong.

use core::fmt;
use core::time::Duration;
use std::time::Instant;

use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use super::model::Traffic;
use super::sampler::{PERIOD, Sampler};

/// The shortest time that is compared.
pub const WINDOW: Duration = Duration::from_secs(60);

/// How often the witness is read.
const LOOK: Duration = Duration::from_secs(1);

/// What a supply may lose whatever it delivers, and the least of the rest that it passes on.
const SUPPLY_LOSS_W: f64 = 3.0;
const SUPPLY_SHARE: f64 = 0.5;

/// What one meter said over a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Which meter.
    pub source: String,
    /// What it covers.
    pub scope: Scope,
    /// How far it may be off, as a fraction.
    pub relative_uncertainty: f64,
    /// Ten of its smallest steps, joules: it may also be off by those.
    pub slack_joules: f64,
    /// What it counted.
    pub joules: f64,
}

impl Statement {
    fn of(meter: &dyn Meter, delta_uj: u64) -> Statement {
        Statement {
            source: meter.source().to_owned(),
            scope: meter.scope(),
            relative_uncertainty: meter.relative_uncertainty(),
            slack_joules: meter.resolution().quantum_uj as f64 * 1e-5,
            joules: delta_uj as f64 * 1e-6,
        }
    }

    fn least(&self) -> f64 {
        self.joules * (1.0 - self.relative_uncertainty) - self.slack_joules
    }

    fn most(&self) -> f64 {
        self.joules * (1.0 + self.relative_uncertainty) + self.slack_joules
    }
}

/// Two meters that cannot both be right.
#[derive(Debug, Clone, PartialEq)]
pub struct Disagreement {
    /// The one that is used.
    pub trusted: Statement,
    /// The other.
    pub other: Statement,
    /// The window.
    pub seconds: f64,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watts = |statement: &Statement| statement.joules / self.seconds;
        write!(
            f,
            "two meters disagree: {} says {:.2} W and {} says {:.2} W over {:.0} s, which cannot both be; the first is \
             used: check shunt, scope and calibration of both",
            self.trusted.source,
            watts(&self.trusted),
            self.other.source,
            watts(&self.other),
            self.seconds
        )
    }
}

/// What two meters said over the same `seconds`, if it cannot be reconciled.
pub fn compare(trusted: &Statement, other: &Statement, seconds: f64) -> Option<Disagreement> {
    let width = |statement: &Statement| statement.scope.width();
    let (wide, narrow) = match width(trusted) <= width(other) {
        true => (trusted, other),
        false => (other, trusted),
    };
    let disagree = if wide.scope == narrow.scope {
        wide.least() > narrow.most() || narrow.least() > wide.most()
    } else {
        let supplied = (wide.least() - SUPPLY_LOSS_W * seconds) * SUPPLY_SHARE;
        let starved = wide.scope == Scope::Wall && narrow.scope == Scope::BoardDc && narrow.most() < supplied;
        narrow.least() > wide.most() || starved
    };
    disagree.then(|| Disagreement { trusted: trusted.clone(), other: other.clone(), seconds })
}

/// Where a window began.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    at: Duration,
    own_uj: u64,
    other_uj: u64,
    faults: (Faults, Faults),
}

/// A meter with another beside it.
pub struct Witnessed {
    meter: Box<dyn Meter>,
    witness: Box<dyn Meter>,
    began: Instant,
    window: Duration,
    looked_at: Option<Duration>,
    beginning: Option<Beginning>,
    compared: u64,
    disagreement: Option<Disagreement>,
}

impl Witnessed {
    /// `meter` is used, `witness` is compared with it. A witness that may block is read by a thread of its own.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn new(meter: Box<dyn Meter>, witness: Box<dyn Meter>) -> std::io::Result<Witnessed> {
        Witnessed::with_window(meter, witness, WINDOW)
    }

    fn with_window(
        meter: Box<dyn Meter>,
        witness: Box<dyn Meter>,
        window: Duration,
    ) -> std::io::Result<Witnessed> {
        let began = Instant::now();
        let witness: Box<dyn Meter> = match witness.may_block() {
            true => Box::new(Sampler::spawn(witness, PERIOD, began)?),
            false => witness,
        };
        Ok(Witnessed {
            meter,
            witness,
            began,
            window,
            looked_at: None,
            beginning: None,
            compared: 0,
            disagreement: None,
        })
    }

    /// Windows compared so far, and what came of the last.
    pub fn outcome(&self) -> (u64, Option<&Disagreement>) {
        (self.compared, self.disagreement.as_ref())
    }

    fn look(&mut self, now: Duration, own: Sample) {
        if self.looked_at.is_some_and(|then| now.saturating_sub(then) < LOOK) {
            return;
        }
        self.looked_at = Some(now);
        // The witness has its own clock: only differences over the same real time are compared.
        let Ok(other) = self.witness.sample(self.began.elapsed()) else {
            self.beginning = None;
            return;
        };
        let faults = (self.meter.faults(), self.witness.faults());
        let fresh = Beginning { at: now, own_uj: own.energy_uj, other_uj: other.energy_uj, faults };
        let Some(beginning) = self.beginning.filter(|beginning| beginning.faults == faults) else {
            // Over a gap nothing can be compared.
            self.beginning = Some(fresh);
            return;
        };
        let time = now.saturating_sub(beginning.at);
        // A plug that speaks every five minutes is compared over ten of its messages.
        let coarsest = self.meter.resolution().period.max(self.witness.resolution().period);
        if time < self.window.max(coarsest * 10) {
            return;
        }
        self.beginning = Some(fresh);
        self.compared += 1;
        let trusted = Statement::of(&*self.meter, own.energy_uj.saturating_sub(beginning.own_uj));
        let witness = Statement::of(&*self.witness, other.energy_uj.saturating_sub(beginning.other_uj));
        let found = compare(&trusted, &witness, time.as_secs_f64());
        match (&self.disagreement, &found) {
            // Once, not every minute.
            (None, Some(disagreement)) => log::warn!("{disagreement}"),
            (Some(_), None) => log::info!("{} and {} agree again", trusted.source, witness.source),
            _ => {}
        }
        self.disagreement = found;
    }
}

impl Meter for Witnessed {
    fn source(&self) -> &str {
        self.meter.source()
    }

    fn method(&self) -> Method {
        self.meter.method()
    }

    fn scope(&self) -> Scope {
        self.meter.scope()
    }

    fn relative_uncertainty(&self) -> f64 {
        self.meter.relative_uncertainty()
    }

    fn resolution(&self) -> Resolution {
        self.meter.resolution()
    }

    fn idle_watts(&self) -> Option<f64> {
        self.meter.idle_watts()
    }

    fn calibrated_at(&self) -> Option<&str> {
        self.meter.calibrated_at()
    }

    fn traffic(&self) -> Option<Traffic> {
        self.meter.traffic()
    }

    fn faults(&self) -> Faults {
        self.meter.faults()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.meter.warnings();
        warnings.extend(self.disagreement.as_ref().map(ToString::to_string));
        warnings
    }

    fn may_block(&self) -> bool {
        self.meter.may_block()
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let sample = self.meter.sample(now)?;
        self.look(now, sample);
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeMeter, Reading};
    use super::*;

    fn said(source: &str, scope: Scope, relative_uncertainty: f64, joules: f64) -> Statement {
        Statement { source: source.into(), scope, relative_uncertainty, slack_joules: 0.1, joules }
    }

    #[test]
    fn what_two_meters_may_say_follows_from_what_they_cover() {
        use Scope::{BoardDc, CpuPackage, Wall};
        // over 100 s: watts times a hundred
        for (one, two, agree) in [
            ((BoardDc, 0.05, 500.0), (BoardDc, 0.05, 540.0), true),
            ((BoardDc, 0.05, 500.0), (BoardDc, 0.05, 600.0), false),
            ((BoardDc, 0.10, 500.0), (Wall, 0.05, 750.0), true),
            // the board draws more than the wall gives it
            ((BoardDc, 0.05, 900.0), (Wall, 0.05, 750.0), false),
            // a tenth of the wall's power: a shunt of ten times what the driver believes
            ((BoardDc, 0.05, 100.0), (Wall, 0.05, 1000.0), false),
            // a small board behind a wasteful supply
            ((BoardDc, 0.05, 60.0), (Wall, 0.05, 300.0), true),
            ((CpuPackage, 0.05, 400.0), (Wall, 0.05, 4000.0), true),
            ((CpuPackage, 0.05, 400.0), (Wall, 0.05, 200.0), false),
        ] {
            let one = said("one", one.0, one.1, one.2);
            let two = said("two", two.0, two.1, two.2);
            assert_eq!(compare(&one, &two, 100.0).is_none(), agree, "{one:?} {two:?}");
            assert_eq!(compare(&two, &one, 100.0).is_none(), agree, "{two:?} {one:?}");
        }
        let told =
            compare(&said("hwmon ina226", BoardDc, 0.05, 900.0), &said("plug", Wall, 0.05, 750.0), 100.0);
        let told = told.expect("they disagree").to_string();
        assert!(told.contains("hwmon ina226 says 9.00 W and plug says 7.50 W over 100 s"), "{told}");
    }

    /// Runs two meters beside each other for `seconds` and gives what came of it.
    fn beside(own: FakeMeter, other: FakeMeter, seconds: u64) -> (u64, Vec<String>) {
        let mut both = Witnessed::new(Box::new(own), Box::new(other)).unwrap();
        for second in 0..=seconds {
            // One that fails is left out; the next reading goes on.
            let _ = both.sample(Duration::from_secs(second));
        }
        (both.outcome().0, both.warnings())
    }

    /// A counter that rises by `step_uj` a second.
    fn rising(step_uj: u64, seconds: u64) -> FakeMeter {
        FakeMeter::scripted(None, (0..=seconds).map(|second| Reading::Raw(second * step_uj)))
    }

    #[test]
    fn windows_of_a_minute_are_compared_and_a_disagreement_is_a_warning() {
        let (compared, warnings) = beside(rising(3_000_000, 130), rising(3_050_000, 130), 130);
        assert_eq!((compared, warnings), (2, Vec::new()));
        let (compared, warnings) = beside(rising(3_000_000, 130), rising(4_000_000, 130), 130);
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert!(compared == 2 && warning.contains("3.00 W") && warning.contains("4.00 W"), "{warning}");
        let (compared, warnings) = beside(rising(3_000_000, 59), rising(9_000_000, 59), 59);
        assert_eq!((compared, warnings), (0, Vec::new()));
    }

    #[test]
    fn over_a_failed_reading_nothing_is_compared() {
        let gappy = (0..=90).map(|second| match second {
            50 => Reading::Fail,
            _ => Reading::Raw(second * 9_000_000),
        });
        let (compared, _) = beside(rising(3_000_000, 90), FakeMeter::scripted(None, gappy), 90);
        assert_eq!(compared, 0);
    }

    #[test]
    fn the_one_that_is_used_speaks_for_both() {
        let own = FakeMeter::steady(2_000_000).with_method(Method::HwmonPower);
        let both = Witnessed::new(Box::new(own), Box::new(FakeMeter::steady(1))).unwrap();
        assert_eq!((both.method(), both.source(), both.may_block()), (Method::HwmonPower, "fake", true));
    }
}
