//! What a load's energy is read from: a meter of this machine, or a person (or a program) who reads a display.

use std::fmt;
use std::io::BufRead;
use std::time::Duration;

use tern_boards::energy::model::Reference;
use tern_boards::energy::{Faults, Meter, MeterError, Method, Scope};

/// Values of a power sensor that a load must hold.
const VALUES: u32 = 5;

/// Steps of a counter that a load must hold.
const STEPS: f64 = 100.0;

/// A source of joules that is not a model.
pub enum Gauge<'g> {
    /// A meter that this machine reads.
    Meter(Box<dyn Meter>),
    /// Watts, one line a load.
    Display(Display<'g>),
}

/// Watts that come in as lines.
pub struct Display<'g> {
    /// The lines, each read when its load has run.
    pub lines: Box<dyn BufRead + 'g>,
    /// What shows them, in words.
    pub name: String,
    /// Half-width of the 95 % interval of what is shown, a fraction.
    pub relative_uncertainty: f64,
    /// Whether a person answers, who may be asked again.
    pub asks: bool,
    /// The most decimals that any line had.
    decimals: usize,
}

/// A gauge cannot be used, or did not say what it should.
#[derive(Debug)]
pub enum GaugeError {
    /// There is no meter but the model or the table.
    None,
    /// A sensor gives too few values in so short a load.
    Slow {
        /// Time between two of its values.
        period: Duration,
        /// Seconds of a load that it needs.
        needed: u64,
    },
    /// A meter could not be read.
    Meter(MeterError),
    /// It failed or had gaps within a load, twice.
    Faulty {
        /// What was counted.
        faults: Faults,
    },
    /// A line is no number of watts.
    Line {
        /// What it held.
        found: String,
    },
    /// A line is of another load.
    Other {
        /// What it held.
        found: String,
        /// The load that was run.
        expected: String,
    },
    /// There are no more lines.
    Ended,
    /// Lines could not be read.
    Read(std::io::Error),
}

impl fmt::Display for GaugeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GaugeError::None => f.write_str(
                "no meter can be read here (`tern doctor` says why); read a plug or a bench supply with --display",
            ),
            GaugeError::Slow { period, needed } => write!(
                f,
                "the meter gives a value every {:.1} s, and a load must hold {VALUES} of them: give --seconds {needed}",
                period.as_secs_f64()
            ),
            GaugeError::Meter(_) => f.write_str("the meter cannot be read"),
            GaugeError::Faulty { faults } => {
                write!(f, "the meter failed within one load, twice ({}); mend it, then calibrate", in_words(*faults))
            }
            GaugeError::Line { found } => write!(f, "{found:?} is no number of watts above 0; write for example 4.7"),
            GaugeError::Other { found, expected } => {
                write!(f, "the line {found:?} is not of the load '{expected}' that was run; --dry-run shows the order")
            }
            GaugeError::Ended => f.write_str("the readings end before the loads do; --dry-run shows all loads"),
            GaugeError::Read(_) => f.write_str("the readings cannot be read"),
        }
    }
}

impl std::error::Error for GaugeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GaugeError::Meter(error) => Some(error),
            GaugeError::Read(error) => Some(error),
            _ => None,
        }
    }
}

/// Faults that were counted, in words.
pub fn in_words(faults: Faults) -> String {
    let Faults { gaps, backwards, failed, rejected, frozen } = faults;
    let all = [
        (failed, "failed readings"),
        (gaps, "gaps"),
        (backwards, "steps back"),
        (rejected, "readings that cannot be"),
        (frozen, "times it stood still"),
    ];
    let counted = all.iter().filter(|(count, _)| *count > 0);
    counted.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

/// Whether readings come one by one, each of a time before it: too few of them in a load say little.
fn comes_slowly(method: Method) -> bool {
    method.is_of_power() || method == Method::ExternalMeter
}

/// Whether joules by `method` may be what a model is made from.
pub fn is_real(method: Method) -> bool {
    !matches!(method, Method::CalibratedModel | Method::UtilisationTable | Method::Unknown)
}

impl<'g> Display<'g> {
    /// Watts on `lines`, as `name` shows them.
    pub fn new(
        lines: Box<dyn BufRead + 'g>,
        name: String,
        relative_uncertainty: f64,
        asks: bool,
    ) -> Display<'g> {
        Display { lines, name, relative_uncertainty, asks, decimals: 0 }
    }

    /// The watts of `load`. Lines that are empty or begin with `#` are passed over; a name before `=` or `:` must be the
    /// load's.
    ///
    /// # Errors
    /// [`GaugeError`] when the line is something else, or there is none.
    pub fn watts(&mut self, load: &str) -> Result<f64, GaugeError> {
        loop {
            let mut line = String::new();
            // Longer than any line of watts; what is longer is no such line.
            let mut limited = std::io::Read::take(&mut self.lines, 1000);
            if limited.read_line(&mut line).map_err(GaugeError::Read)? == 0 {
                return Err(GaugeError::Ended);
            }
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, number) = match line.rsplit_once(['=', ':']) {
                Some((name, number)) => (Some(name.trim()), number.trim()),
                None => (None, line),
            };
            if name.is_some_and(|name| name != load) {
                return Err(GaugeError::Other { found: line.to_owned(), expected: load.to_owned() });
            }
            let number = number.trim_end_matches(['W', 'w']).trim().replace(',', ".");
            let watts = number.parse().ok().filter(|watts: &f64| *watts > 0.0 && *watts <= 1000.0);
            let Some(watts) = watts else { return Err(GaugeError::Line { found: line.to_owned() }) };
            let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            self.decimals = self.decimals.max(decimals.min(6));
            return Ok(watts);
        }
    }
}

impl Gauge<'_> {
    /// What the gauge is, in words.
    pub fn name(&self) -> &str {
        match self {
            Gauge::Meter(meter) => meter.source(),
            Gauge::Display(display) => &display.name,
        }
    }

    /// Whether loads of `time` are long enough for it.
    ///
    /// # Errors
    /// [`GaugeError::Slow`] with the time that would do.
    pub fn suits(&self, time: Duration) -> Result<(), GaugeError> {
        let Gauge::Meter(meter) = self else { return Ok(()) };
        let period = meter.resolution().period;
        let needed = period * VALUES;
        if comes_slowly(meter.method()) && time < needed {
            return Err(GaugeError::Slow { period, needed: needed.as_secs() + 1 });
        }
        Ok(())
    }

    /// What a fit must know of it, for loads of `time`; a display's steps are known once it was read.
    pub fn reference(&self, time: Duration) -> Reference {
        match self {
            Gauge::Meter(meter) => {
                let resolution = meter.resolution();
                let quantum_j = resolution.quantum_uj as f64 * 1e-6;
                let resolution_w = if comes_slowly(meter.method()) {
                    // Its values scatter by more than its steps, so their mean is finer than one of them.
                    let period = resolution.period.as_secs_f64().max(1e-3);
                    quantum_j / period / (time.as_secs_f64() / period).max(1.0).sqrt()
                } else {
                    quantum_j * STEPS / 5.0 / time.as_secs_f64()
                };
                let relative_uncertainty = meter.relative_uncertainty();
                Reference { relative_uncertainty, resolution_w, scope: meter.scope() }
            }
            Gauge::Display(display) => Reference {
                relative_uncertainty: display.relative_uncertainty,
                resolution_w: 0.1f64.powi(i32::try_from(display.decimals).unwrap_or(6)),
                scope: Scope::Wall,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tern_boards::energy::Resolution;
    use tern_boards::energy::fake::FakeMeter;

    fn display(text: &'static str) -> Display<'static> {
        Display::new(Box::new(text.as_bytes()), "a plug".into(), 0.03, false)
    }

    #[test]
    fn lines_are_watts_with_or_without_their_load() {
        let mut shown =
            display("# noted on Tuesday\n\n2.6\nvectors, 1 thread, 600 MHz = 3,15 W\nidle: 2.6w\n");
        assert_eq!(shown.watts("idle").expect("a number"), 2.6);
        assert_eq!(shown.watts("vectors, 1 thread, 600 MHz").expect("a number"), 3.15);
        assert_eq!(shown.watts("idle").expect("a number"), 2.6);
        assert!(matches!(shown.watts("idle"), Err(GaugeError::Ended)));
        let reference = Gauge::Display(shown).reference(Duration::from_secs(60));
        assert!((reference.resolution_w - 0.01).abs() < 1e-12, "{reference:?}");
        for bad in ["two\n", "-1\n", "0\n", "nan\n", "1e9\n", "idle = \n"] {
            assert!(matches!(display(bad).watts("idle"), Err(GaugeError::Line { .. })), "{bad:?}");
        }
        let error = display("memory, 1 thread = 3\n").watts("idle").expect_err("another load");
        assert!(error.to_string().contains("'idle'"), "{error}");
    }

    #[test]
    fn a_slow_meter_needs_long_loads() {
        let slow = Resolution { period: Duration::from_secs(10), quantum_uj: 10_000_000 };
        let meter = FakeMeter::steady(1).with_resolution(slow).with_method(Method::HwmonPower);
        let gauge = Gauge::Meter(Box::new(meter));
        let error = gauge.suits(Duration::from_secs(8)).expect_err("too short").to_string();
        assert!(error.contains("every 10.0 s") && error.contains("--seconds 51"), "{error}");
        assert!(gauge.suits(Duration::from_secs(51)).is_ok());
        assert!(
            !is_real(Method::CalibratedModel)
                && !is_real(Method::UtilisationTable)
                && is_real(Method::HwmonPower)
        );
    }
}
