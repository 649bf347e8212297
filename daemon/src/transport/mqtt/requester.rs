//! The broker as the engine sees it: one requester whose requests are entries of the outbox.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::inbox::{Inbox, Input};
use crate::serve::counters::Way;
use crate::serve::requester::{ClientId, DuplicateId, Requester};
use crate::wire;

/// How the broker's client looks to the engine.
#[derive(Debug)]
pub struct Client {
    id: ClientId,
    inbox: Arc<Inbox>,
    live: Mutex<HashSet<String>>,
}

impl Client {
    /// A client whose answers go to `inbox`.
    pub fn new(id: ClientId, inbox: Arc<Inbox>) -> Self {
        Client { id, inbox, live: Mutex::default() }
    }
}

impl Requester for Client {
    fn id(&self) -> ClientId {
        self.id
    }

    fn way(&self) -> Way {
        Way::Mqtt
    }

    fn begin(&self, id: &str) -> Result<(), DuplicateId> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.insert(id.to_owned()) { Ok(()) } else { Err(DuplicateId) }
    }

    fn is_live(&self, id: &str) -> bool {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    fn send(&self, answer: &wire::Answer) {
        let Some(id) = answer.id().filter(|_| answer.is_last()).cloned() else { return };
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.inbox.push(Input::Answer { id, answer: Box::new(answer.clone()) });
    }
}
