//! The requester of one part: its answer goes to the thread of the long text.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use tern_protocol::answer::Answer;

use super::Heard;
use crate::serve::counters::Way;
use crate::serve::requester::{ClientId, DuplicateId, Requester};
use crate::wire;

/// The part of a long text at one place.
#[derive(Debug)]
pub struct Part {
    /// The number of all parts of one long text.
    pub own: ClientId,
    /// Whose text it is.
    pub client: Arc<dyn Requester>,
    /// Its place among the parts.
    pub place: usize,
    /// Whether its text is the answer that the client gets.
    pub is_last: bool,
    /// Where its answer goes.
    pub tell: Sender<Heard>,
}

impl Requester for Part {
    fn id(&self) -> ClientId {
        self.own
    }

    fn turn(&self) -> ClientId {
        self.client.turn()
    }

    fn way(&self) -> Way {
        Way::Own
    }

    fn begin(&self, _: &str) -> Result<(), DuplicateId> {
        Ok(())
    }

    fn is_live(&self, _: &str) -> bool {
        false
    }

    fn send(&self, answer: &wire::Answer) {
        match answer {
            // Parts have the id of the whole.
            Answer::Token(_) if self.is_last => self.client.send(answer),
            Answer::Token(_) => {}
            // The thread may have ended with another part.
            _ => drop(self.tell.send(Heard::Part(self.place, Box::new(answer.clone())))),
        }
    }
}
