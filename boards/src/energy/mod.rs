//! Joules: meters that accumulate energy, and reports that say how good a figure is.
//!
//! * [`Meter`], [`Sample`], [`Method`], [`Scope`] - what a meter is and what it says of itself
//! * [`counter`] - readings to a steady total: wraps, gaps, steps backwards
//! * [`powercap`], [`hwmon`], [`pmic`], [`model`], [`table`] - the meters, best first; [`fake`] is a scripted one for tests
//! * [`external`], [`mod@file`] - meters outside the machine: a plug somebody hears, a file another program writes
//! * `frozen` - tells a sensor that hangs from a steady load
//! * [`sampler`] - reads a meter at a steady rate in a thread, and never waits for it for long
//! * [`detect`](detect()) - which meter this machine has, and why not another
//! * [`witness`] - a second meter beside the first, and what is said when they disagree
//! * [`ledger`] - splits what the meter counted among requests; [`report`] is what each of them is told
//!
//! Two rules hold everywhere. Unknown energy is `None`, never zero. And whatever the meter counted is found
//! again in the ledger: requests + idle + unattributed = counter, to the microjoule.

pub mod counter;
mod detect;
pub mod external;
pub mod fake;
pub mod file;
mod frozen;
pub mod hwmon;
pub mod ledger;
mod mailbox;
mod meter;
pub mod model;
pub mod pmic;
pub mod powercap;
pub mod report;
pub mod sampler;
pub mod table;
pub mod witness;

pub use detect::{Choice, Found, MeterFinding, Outcome, Wanted, detect, detect_wanted};
pub use ledger::{Completed, Ledger, Phase, RequestId, Share, Totals};
pub use meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
pub use report::{EnergyReport, Idle};
