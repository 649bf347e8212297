//! The messages of [`tern_protocol`] as a program with a heap holds them.

use tern_protocol::storage::{Item, Storage};
use tern_protocol::{answer, json, request};

/// Text in `String`s, lists in `Vec`s.
#[derive(Debug, Clone, PartialEq)]
pub struct Heap;

impl Storage for Heap {
    type Text = String;
    type List<T: Item> = Vec<T>;
    type Detail<T: Item> = Vec<T>;

    fn compose(write: impl FnOnce(&mut dyn std::fmt::Write)) -> Option<String> {
        let mut text = String::new();
        write(&mut text);
        Some(text)
    }
}

/// A request.
pub type Request = request::Request<Heap>;
/// A task given in a request.
pub type Ask = request::Ask<Heap>;
/// A conversation.
pub type Chat = request::Chat<Heap>;
/// A prompt.
pub type Generate = request::Generate<Heap>;
/// One message of a conversation.
pub type Message = request::Message<Heap>;
/// A JSON document in a request.
pub type Json = json::Json<Heap>;
/// How tokens are chosen.
pub type Sampling = request::Sampling<Heap>;
/// An answer.
pub type Answer = answer::Answer<Heap>;
/// A typed decision.
pub type Decision = answer::Decision<Heap>;
/// The end of a text answer.
pub type Text = answer::Text<Heap>;
/// More text of a streamed answer.
pub type Token = answer::Token<Heap>;
/// A chosen token.
pub type Chosen = answer::Chosen<Heap>;
/// A token that could have been chosen.
pub type Alternative = answer::Alternative<Heap>;
/// How the daemon is.
pub type Status = answer::Status<Heap>;
/// A refusal or failure.
pub type Failure = answer::Failure<Heap>;
/// The energy of an answer.
pub type Energy = answer::Energy<Heap>;
