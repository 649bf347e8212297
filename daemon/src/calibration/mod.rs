//! A power model of this very board: known loads are run, a meter is read beside them, and what fits is kept.
//!
//! * [`plan`](mod@plan) - which loads
pub mod plan;
