//! How requests come in and answers go out.

pub mod lines;
pub mod unix;
