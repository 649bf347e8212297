//! Text that is JSON of a given shape.
//!
//! ```text
//! schema text --keywords--> Schema --compiled for the model's vocabulary--> Grammar --> which tokens may follow
//!               (schema)                      (book, vocabulary)              (rules)
//! ```
//! A schema is checked word by word before the library sees it: what it would pass over in silence is refused by name, and
//! what could make it slow, large or deep is bounded. The library knows tokens as bytes; it is handed the vocabulary when
//! the first request with a schema comes. Grammars are made on the thread of the client that asks; the engine's thread only
//! follows them.

mod book;
mod keywords;
mod rules;
mod schema;
mod vocabulary;

pub use book::{Book, CompileError};
pub use rules::{Grammar, Rules};
pub use schema::{Schema, SchemaError};
pub use vocabulary::Vocabulary;

#[cfg(test)]
mod tests;
