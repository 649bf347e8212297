//! What a meter is.

use core::fmt;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::Traffic;
use crate::root::{ReadCause, ReadError};

/// How joules were obtained, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// A hardware counter of energy: no sampling error.
    EnergyCounter,
    /// A power sensor read many times and integrated over time.
    HwmonPower,
    /// The supply rails that a power-management chip measures, corrected to the board's input.
    PmicRailsCorrected,
    /// A meter outside the machine that somebody else reads: a plug at a broker, a file another program writes.
    ExternalMeter,
    /// A model of this very board, calibrated against a meter, from busy time, clocks and bytes from memory.
    CalibratedModel,
    /// Published idle and load power of this board, weighted by CPU utilisation.
    UtilisationTable,
    /// No meter.
    Unknown,
}

/// What the joules cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything, power supply losses included.
    Wall,
    /// The board at its direct-current input.
    BoardDc,
    /// A compute module without its carrier board.
    Module,
    /// Some supply rails of the system on chip.
    SocRails,
    /// The processor package.
    CpuPackage,
    /// A model of the processor alone.
    CpuModel,
}

/// One reading of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When, on the caller's monotonic clock.
    pub at: Duration,
    /// Energy since the meter's first reading, in microjoules. Never falls.
    pub energy_uj: u64,
    /// Sensor readings that went into it so far, this one included.
    pub readings: u64,
}

/// The smallest things a meter can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// Time between two values of the sensor.
    pub period: Duration,
    /// Smallest step of its energy, in microjoules.
    pub quantum_uj: u64,
}

/// Things that went wrong while metering, each counted, none of them hidden in the total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Faults {
    /// Readings that came too far apart to be sure of the energy between them.
    pub gaps: u64,
    /// Readings whose counter or clock ran backwards; nothing was added for them.
    pub backwards: u64,
    /// Readings that failed.
    pub failed: u64,
    /// Readings of more than this board can draw; they were left out.
    pub rejected: u64,
    /// Times the sensor went on showing one value while the load changed.
    pub frozen: u64,
}

impl Faults {
    /// What was counted since `earlier`, a count of the same meter.
    #[must_use]
    pub fn since(self, earlier: Faults) -> Faults {
        Faults {
            gaps: self.gaps.saturating_sub(earlier.gaps),
            backwards: self.backwards.saturating_sub(earlier.backwards),
            failed: self.failed.saturating_sub(earlier.failed),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            frozen: self.frozen.saturating_sub(earlier.frozen),
        }
    }
}

impl core::ops::Add for Faults {
    type Output = Faults;

    fn add(self, other: Faults) -> Faults {
        Faults {
            gaps: self.gaps + other.gaps,
            backwards: self.backwards + other.backwards,
            failed: self.failed + other.failed,
            rejected: self.rejected + other.rejected,
            frozen: self.frozen + other.frozen,
        }
    }
}

/// A source of energy readings.
///
/// Time is given by the caller as a duration on any monotonic clock, so that tests can hold the clock.
pub trait Meter: Send {
    /// Chip, zone or table row that the figures come from, for example `intel-rapl:0 (package-0)`.
    fn source(&self) -> &str;

    /// How the joules are obtained.
    fn method(&self) -> Method;

    /// What they cover.
    fn scope(&self) -> Scope;

    /// Half-width of the 95 % interval of a long measurement, as a fraction.
    fn relative_uncertainty(&self) -> f64;

    /// What it can resolve.
    fn resolution(&self) -> Resolution;

    /// Power of the idle system where it is known beforehand, watts.
    fn idle_watts(&self) -> Option<f64> {
        None
    }

    /// Date of the calibration behind the figures (of the table's row, or of the last run against a meter).
    fn calibrated_at(&self) -> Option<&str> {
        None
    }

    /// Where the program is to count the bytes it streams from memory, for meters that go by them.
    fn traffic(&self) -> Option<Traffic> {
        None
    }

    /// What went wrong so far.
    fn faults(&self) -> Faults;

    /// What an operator should know of it now, one sentence each: nothing for a meter that works.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether a reading waits for a chip or a firmware that may not answer, so that it belongs in a
    /// [`Sampler`](super::sampler::Sampler), which never waits for long.
    fn may_block(&self) -> bool {
        self.method().is_of_power()
    }

    /// Takes a reading at time `now`. The first reading sets the zero point.
    ///
    /// # Errors
    /// [`MeterError`] when the sensor cannot be read. The total is kept, and the next good reading continues it.
    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError>;
}

/// A meter could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MeterError {
    /// The kernel keeps this reading from this user.
    Denied {
        /// The file.
        path: String,
        /// How to grant it.
        grant: &'static str,
    },
    /// The file could not be read or held something else than the sensor's value.
    Unreadable(ReadError),
    /// A value that this kind of reading cannot have.
    Implausible {
        /// What was read.
        source: String,
        /// The value, in the sensor's own unit.
        found: i64,
        /// What the reading may be.
        expected: &'static str,
    },
    /// The sensor shows what it showed before, and that cannot be.
    Frozen {
        /// What was read.
        source: String,
        /// The value, in the sensor's own unit.
        found: u64,
        /// For how long, seconds.
        seconds: u64,
    },
    /// A reading has not come back from the kernel.
    Blocked {
        /// What was read.
        source: String,
        /// For how long, milliseconds.
        ms: u64,
    },
    /// Whoever should tell the reading has not done so in time.
    Silent {
        /// The topic or the file.
        source: String,
        /// Seconds since the last; `None` if there was none.
        seconds: Option<u64>,
        /// Seconds within which one was expected.
        expected_s: u64,
    },
    /// The sampling thread stopped because the meter panicked under it.
    Stopped,
}

impl Scope {
    /// Orders scopes from the widest, 0, to the narrowest: each holds those of higher numbers.
    pub fn width(self) -> u8 {
        match self {
            Scope::Wall => 0,
            Scope::BoardDc => 1,
            Scope::Module => 2,
            Scope::SocRails => 3,
            Scope::CpuPackage => 4,
            Scope::CpuModel => 5,
        }
    }
}

impl Method {
    /// Whether readings must be taken at a steady rate to give energy: those of power, and those of clocks, which a model
    /// goes by. Totals need no such care.
    pub fn is_of_power(self) -> bool {
        matches!(self, Method::HwmonPower | Method::PmicRailsCorrected | Method::CalibratedModel)
    }
}

impl MeterError {
    /// Tells a denied reading, which the operator can grant, from the rest.
    pub(crate) fn from_read(error: ReadError, grant: &'static str) -> MeterError {
        match error.cause {
            ReadCause::Denied => MeterError::Denied { path: error.path, grant },
            _ => MeterError::Unreadable(error),
        }
    }
}

impl fmt::Display for MeterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeterError::Denied { path, grant } => write!(f, "{path} may not be read by this user; {grant}"),
            MeterError::Unreadable(_) => write!(f, "the sensor could not be read"),
            MeterError::Implausible { source, found, expected } => {
                write!(f, "{source} reads {found}; expected {expected}")
            }
            MeterError::Frozen { source, found, seconds } => {
                write!(
                    f,
                    "{source} has shown {found} for {seconds} s while the load changed; it is frozen: reload its driver"
                )
            }
            MeterError::Blocked { source, ms } => {
                write!(
                    f,
                    "{source} has not answered for {ms} ms; look for errors of its bus in the kernel's log"
                )
            }
            MeterError::Silent { source, seconds: Some(seconds), expected_s } => {
                write!(
                    f,
                    "{source} has said nothing for {seconds} s; at most {expected_s} s are allowed between readings"
                )
            }
            MeterError::Silent { source, seconds: None, expected_s } => {
                write!(
                    f,
                    "{source} has said nothing yet; a reading is expected every {expected_s} s at least"
                )
            }
            MeterError::Stopped => write!(f, "the sampling thread stopped; restart the service"),
        }
    }
}

impl core::error::Error for MeterError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MeterError::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}
