//! Tasks: what is asked of a text, and how the model's numbers become an answer.
//!
//! A task is given by a TOML file or inside a request; both have the fields of [`tern_protocol::request::Ask`] and go
//! through [`Task::new`]. [`prompt`] lays a task and a text out for the model; [`answer`] reads its decision.

pub mod answer;
mod current;
mod error;
pub mod labels;
pub mod markers;
pub mod nfc;
pub mod prompt;
mod set;
mod task;
pub mod template;

pub use current::CurrentTasks;
pub use error::{STOPS_IN_JSON, TaskError};
pub use set::{TaskFileError, TaskSet, parse};
pub use task::{Answering, LongForm, Task, sampling};
