//! How good the answers on a set of known answers are: reading the set, and the figures.

pub mod divergence;
pub mod rouge;
pub mod scores;
pub mod set;
