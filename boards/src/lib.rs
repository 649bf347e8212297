//! What machine is this: CPU features, kernel choice, board profiles, power meters.
//!
//! | module | what it answers |
//! |---|---|
//! | [`cpu`] | core types, clusters, extensions, caches |
//! | [`memory`] | how much memory, which page size |
//! | [`profile`] | which board, and what is known of it beforehand |
//! | [`select`](mod@select) | which kernel set, how many threads: the one dispatch of Tern |
//! | [`knobs`] | every environment variable that tunes it |
//! | [`energy`] | joules: meters, a ledger that splits them among requests, reports |
//! | [`thermal`] | temperatures, throttling |
//! | [`machine`] | all of it at once, for `tern doctor` |
//! | [`root`] | where `/proc` and `/sys` are found; tests put a recorded tree there |
//!
//! ```
//! use tern_boards::{Knobs, Machine, Root, Wish, recommended_threads, select};
//!
//! let machine = Machine::detect(&Root::new("/"));
//! let knobs = Knobs::from_env().expect("tuning variables");
//! let kernels = select(&knobs, Wish::default()).expect("a kernel set");
//! let threads = recommended_threads(&knobs, &machine.cpu, &machine.board.profile);
//! println!("{}: {} on {threads} threads", machine.board.profile.title, kernels.name);
//! ```
//!
//! The crate refuses to see a model or a socket, to write anything, and to give a number of joules that nothing
//! measured: an unknown board has unknown energy.
#![deny(unsafe_code)] // but for the ioctl in energy/mailbox.rs

pub mod cpu;
pub mod energy;
pub mod knobs;
pub mod machine;
pub mod memory;
pub mod profile;
pub mod root;
pub mod select;
pub mod thermal;
pub mod unknown_key;

pub use cpu::Cpu;
pub use knobs::Knobs;
pub use machine::Machine;
pub use profile::{Board, Profile};
pub use root::Root;
pub use select::{SelectError, Wish, is_scalar, kernel_sets, recommended_threads, select};
