//! Whoever asks: a connection on a socket, a broker's client, a call over HTTP. It is all that the queue and the engine's
//! thread know of a transport.

use std::fmt::Debug;

use super::counters::Way;
use crate::wire::Answer;

/// Number of a requester, never used twice; requesters take turns in the queue.
pub type ClientId = u64;

/// A request with the id of a live one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateId;

/// Somebody with requests.
pub trait Requester: Debug + Send + Sync {
    /// Its number.
    fn id(&self) -> ClientId;

    /// The way its requests come in.
    fn way(&self) -> Way {
        Way::Socket
    }

    /// Whose turn in the queue its requests take.
    fn turn(&self) -> ClientId {
        self.id()
    }

    /// Begins a request.
    ///
    /// # Errors
    /// If a live request has this id.
    fn begin(&self, id: &str) -> Result<(), DuplicateId>;

    /// Whether a request of this id is live.
    fn is_live(&self, id: &str) -> bool;

    /// Takes an answer; a last answer ends its request. It is called on the engine's thread and must not wait.
    fn send(&self, answer: &Answer);
}
