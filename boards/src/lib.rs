//! What machine is this: CPU features, kernel choice, board profiles, power meters.
//!
//! | module | what it answers |
//! |---|---|
//! | [`cpu`] | core types, clusters, extensions, caches |
//! | [`memory`] | how much memory, which page size |
//! | [`knobs`] | every environment variable that tunes it |
//! | [`thermal`] | temperatures, throttling |
//! | [`root`] | where `/proc` and `/sys` are found; tests put a recorded tree there |
//!
//! The crate refuses to see a model or a socket, to write anything, and to give a number of joules that nothing
//! measured: an unknown board has unknown energy.
#![forbid(unsafe_code)]

pub mod cpu;
pub mod knobs;
pub mod memory;
pub mod root;
pub mod thermal;

pub use cpu::Cpu;
pub use knobs::Knobs;
pub use root::Root;
