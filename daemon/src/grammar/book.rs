//! Grammars for the schemas that are asked for, made once each.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use llguidance::Matcher;

use super::{Grammar, Schema, Vocabulary};

/// Compiled schemas that are kept.
const KEPT: usize = 8;
/// Bytes of stack for making a grammar: the library goes down with every schema within a schema, and through references.
const STACK_BYTES: usize = 32 << 20;

/// A grammar could not be had.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CompileError {
    /// The schema cannot be kept.
    Schema {
        /// What the library says.
        message: String,
    },
    /// The vocabulary cannot be had: the daemon stops, or its tokens are none that JSON could be made of.
    NoVocabulary,
    /// The system refused a thread.
    NoThread,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompileError::Schema { message } => write!(f, "schema: it cannot be kept: {message}"),
            CompileError::NoVocabulary => f.write_str("the model's vocabulary cannot be had for a schema"),
            CompileError::NoThread => {
                f.write_str("the system refuses a thread for a schema; try again later")
            }
        }
    }
}

impl Error for CompileError {}

/// The library's message without the state that it adds in angle brackets.
pub(super) fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).take_while(|line| !line.starts_with('<'));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Compiles on a thread with room for the library's recursion; what goes wrong there ends nothing else.
fn compile(vocabulary: &Vocabulary, schema: &Schema) -> Result<Matcher, CompileError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("tern-schema".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || vocabulary.compile(schema.text()))
            .map_err(|_| CompileError::NoThread)?;
        let compiled = thread.join().unwrap_or_else(|_| Err("the grammar library failed on it".into()));
        compiled.map_err(|message| CompileError::Schema { message: one_line(&message) })
    })
}

impl Schema {
    /// Checks that the schema can be kept at all, without a model.
    ///
    /// # Errors
    /// What the library says.
    pub fn check(&self) -> Result<(), CompileError> {
        let bytes = Vocabulary::of_bytes().ok_or(CompileError::NoVocabulary)?;
        compile(&bytes, self).map(|_| ())
    }
}

/// The vocabulary, once a request has needed it, and the schemas used last.
#[derive(Default)]
pub struct Book {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    vocabulary: Option<Arc<Vocabulary>>,
    /// The one used last in front.
    compiled: VecDeque<(Schema, Matcher)>,
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

impl Book {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A grammar for `schema`, at its beginning. `words` gives the bytes of every token; it is asked for them once.
    ///
    /// # Errors
    /// If there is no vocabulary, or the schema cannot be kept.
    pub fn grammar(
        &self,
        schema: &Schema,
        words: impl FnOnce() -> Option<Vec<Vec<u8>>>,
    ) -> Result<Grammar, CompileError> {
        let vocabulary = self.vocabulary(words)?;
        if let Some(known) = self.known(schema) {
            return Ok(Grammar::new(known));
        }
        let begun = Instant::now();
        let compiled = compile(&vocabulary, schema)?;
        log::debug!("a schema of {} bytes took {:?}", schema.text().len(), begun.elapsed());
        let mut state = self.state();
        state.compiled.push_front((schema.clone(), compiled.deep_clone()));
        state.compiled.truncate(KEPT);
        Ok(Grammar::new(compiled))
    }

    /// A copy of a grammar that was made before. It shares nothing with it: what one text teaches the library about a
    /// grammar would add up over a daemon's life.
    fn known(&self, schema: &Schema) -> Option<Matcher> {
        let mut state = self.state();
        let at = state.compiled.iter().position(|(known, _)| known == schema)?;
        let found = state.compiled.remove(at)?;
        let copy = found.1.deep_clone();
        state.compiled.push_front(found);
        Some(copy)
    }

    fn vocabulary(
        &self,
        words: impl FnOnce() -> Option<Vec<Vec<u8>>>,
    ) -> Result<Arc<Vocabulary>, CompileError> {
        if let Some(vocabulary) = &self.state().vocabulary {
            return Ok(Arc::clone(vocabulary));
        }
        let words = words().ok_or(CompileError::NoVocabulary)?;
        let (begun, tokens) = (Instant::now(), words.len());
        let vocabulary = Arc::new(Vocabulary::new(words).ok_or(CompileError::NoVocabulary)?);
        log::info!("{tokens} tokens made ready for schemas in {:?}", begun.elapsed());
        self.state().vocabulary = Some(Arc::clone(&vocabulary));
        Ok(vocabulary)
    }
}
