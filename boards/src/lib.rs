//! What machine is this: CPU features, kernel choice, board profiles, power meters.
//!
//! | module | what it answers |
//! |---|---|
//! | [`cpu`] | core types, clusters, extensions, caches |
//! | [`memory`] | how much memory, which page size |
//! | [`profile`] | which board, and what is known of it beforehand |
//! | [`knobs`] | every environment variable that tunes it |
//! | [`energy`] | joules: meters, a ledger that splits them among requests, reports |
//! | [`thermal`] | temperatures, throttling |
//! | [`root`] | where `/proc` and `/sys` are found; tests put a recorded tree there |
//!
//! The crate refuses to see a model or a socket, to write anything, and to give a number of joules that nothing
//! measured: an unknown board has unknown energy.
#![forbid(unsafe_code)]

pub mod cpu;
pub mod energy;
pub mod knobs;
pub mod memory;
pub mod profile;
pub mod root;
pub mod thermal;

pub use cpu::Cpu;
pub use knobs::Knobs;
pub use profile::{Board, Profile};
pub use root::Root;
