//! `tern energy calibrate` and `tern energy sweep` on boards that are not there, through the code that the commands use:
//! files, plan, meter, fit, profile, rounds. Only the loads and the clock on the wall are simulated.

mod bench;
mod calibrate;
mod commands;
mod sweep;
mod transcripts;
