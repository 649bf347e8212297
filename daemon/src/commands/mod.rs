//! The commands of `tern`, one file each: its options (`<Name>Args`) and its `run(args)`.

pub mod serve;
