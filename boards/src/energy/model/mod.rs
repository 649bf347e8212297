//! A model of a board's power, calibrated on that very board, for boards without a sensor.
//!
//! ```text
//! E = idle_w t  +  sum over clusters and frequencies  core_w(f) busy(f)  +  byte_nj bytes  +  instruction_nj instructions
//! ```
//!
//! `t` is time, `busy(f)` core-seconds spent at frequency `f`, `bytes` what was streamed from memory. `core_w(f)` holds
//! the voltage of its operating point, so voltages need not be known; between two calibrated frequencies it is
//! interpolated. Instructions are a term only where the kernel lets them be counted; CPU time stands for them elsewhere.
//!
//! The form is that of Walker et al., "Accurate and Stable Run-Time Power Modeling for Mobile and Embedded CPUs", TCAD
//! 2017: linear models by operating point reach 3 to 4 % on A7 and A15 cores. That memory needs its own term is shown by
//! TI SDAA146 (2025), where four times the memory traffic draws more than four times the CPU load.
//!
//! * [`Activity`] - what a machine did in an interval
//! * [`fit`](fit()) - coefficients from measured loads, their error from loads held out, or the reason why not
//! * [`calibration`] - the fitted model as part of a board's profile
//! * [`watch`], [`traffic`] - what the running machine does
//! * [`meter`] - the model as a meter

pub mod calibration;
pub mod fit;
pub mod meter;
mod settle;
pub mod traffic;
pub mod watch;

pub use calibration::Calibration;
pub use fit::{FitError, Load, Reference, at_rest_w, fit};
pub use meter::{ModelError, ModelMeter};
pub use traffic::Traffic;
pub use watch::ActivityWatch;

/// What a machine did in an interval.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Activity {
    /// How long, seconds.
    pub seconds: f64,
    /// Core-seconds by operating point; what is not busy is idle.
    pub busy: Vec<Busy>,
    /// Bytes streamed from memory.
    pub bytes: f64,
    /// Instructions retired, where the kernel lets them be counted.
    pub instructions: Option<f64>,
}

/// Time that the cores of one cluster were busy at one frequency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Busy {
    /// The cluster, in the order of [`Cpu::clusters`](crate::cpu::Cpu).
    pub cluster: usize,
    /// The clock, megahertz.
    pub mhz: u32,
    /// Core-seconds.
    pub core_seconds: f64,
}

/// A term of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Term {
    /// The board at rest: watts.
    Idle,
    /// A busy core of a cluster at a frequency: watts on top of idle.
    Core {
        /// The cluster.
        cluster: usize,
        /// Megahertz.
        mhz: u32,
    },
    /// A byte from memory: joules.
    Byte,
    /// An instruction: joules.
    Instruction,
}

impl Activity {
    /// How much of `term` this was, in the unit that the term's coefficient is for.
    fn amount(&self, term: Term) -> f64 {
        match term {
            Term::Idle => self.seconds,
            Term::Byte => self.bytes,
            Term::Instruction => self.instructions.unwrap_or(0.0),
            Term::Core { cluster, mhz } => {
                let here = self.busy.iter().filter(|busy| busy.cluster == cluster && busy.mhz == mhz);
                here.map(|busy| busy.core_seconds).sum()
            }
        }
    }
}
