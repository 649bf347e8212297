//! A power model of this very board: known loads are run, a meter is read beside them, and what fits is kept.
//!
//! * [`plan`](mod@plan) - which loads
//! * [`loads`] - the threads that do the work; [`mod@bench`] - the machine they run on
//! * [`gauge`] - the meter, or watts that a person reads
//! * [`run`] - all of it, to a model or the reason why not
//! * [`job`] - what the command does, on any machine; [`report`] - the model for people, and as a
//!   board's profile

pub mod bench;
pub mod gauge;
pub mod job;
pub mod loads;
pub mod plan;
pub mod report;
pub mod run;

pub use bench::Bench;
pub use run::{CalibrateError, Calibrated, calibrate};
