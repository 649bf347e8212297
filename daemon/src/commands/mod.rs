//! The commands of `tern`, one file each: its options (`<Name>Args`) and its `run(args)`.

pub mod bench;
pub mod classify;
pub mod demo;
pub mod doctor;
pub mod energy;
pub mod eval;
pub mod input;
pub mod inspect;
pub mod logits;
pub mod models;
pub mod pack;
pub mod pages;
pub mod run;
pub mod serve;
pub mod status;
pub mod stream;
pub mod summarize;
pub mod synth;
pub mod train;
pub mod tune;
