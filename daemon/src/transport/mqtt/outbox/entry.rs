//! A request that was taken, and what became of it.

use serde::{Deserialize, Serialize};

use crate::transport::mqtt::clock::Millis;
use crate::wire::Request;

/// Memory and disk that an entry takes beside its texts.
const ENTRY_BYTES: usize = 256;

/// Number of an entry, never used twice.
pub type Number = u64;

/// Two requests are the same if they say the same and their answers would go to the same topic with the same
/// correlation data.
pub(super) type Key = (String, Vec<u8>, u64);

/// Where an answer goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The topic.
    pub topic: String,
    /// What the sender knows its request by; sent back as correlation data.
    pub correlation: Option<Vec<u8>>,
    /// The `id` of the answer.
    pub id: String,
    /// Whether the broker is to keep the answer.
    pub retain: bool,
    /// When the answer is worth nothing any more.
    pub expires: Option<Millis>,
    /// User properties beside those of every answer.
    #[serde(default)]
    pub properties: Vec<(String, String)>,
}

impl ReplyTo {
    pub(super) fn key(&self, hash: u64) -> Option<Key> {
        Some((self.topic.clone(), self.correlation.clone()?, hash))
    }
}

/// An answer, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Its code, after those of HTTP.
    pub status: u16,
    /// The answer in JSON.
    pub payload: String,
    /// User properties.
    pub properties: Vec<(String, String)>,
}

/// How far an entry is.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// The engine is to answer.
    Waiting(Box<Request>),
    /// The broker is to take the answer.
    Answered(Reply),
    /// The broker has the answer.
    Delivered(Reply),
}

/// A request and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where its answer goes.
    pub reply_to: ReplyTo,
    /// Hash of what was asked.
    pub hash: u64,
    /// Packet identifier under which it came last.
    pub ticket: Option<u16>,
    /// The broker waits for our acknowledgement of that packet.
    pub unacknowledged: bool,
    /// How far it is.
    pub stage: Stage,
    /// How often it was given to the engine by a daemon that then ended without a word.
    pub tries: u32,
    /// Bytes of the request.
    pub(super) request_bytes: usize,
    /// When it was taken.
    pub(super) at: Millis,
    /// When a delivered answer is forgotten.
    pub(super) keep_until: Millis,
}

impl Entry {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    pub(super) fn bytes(&self) -> usize {
        let content = match &self.stage {
            Stage::Waiting(_) => self.request_bytes,
            Stage::Answered(reply) | Stage::Delivered(reply) => reply.payload.len() + ENTRY_BYTES,
        };
        let ReplyTo { topic, correlation, id, .. } = &self.reply_to;
        // What names it is here and in the key.
        ENTRY_BYTES + content + 2 * (topic.len() + correlation.as_ref().map_or(0, Vec::len)) + id.len()
    }

    pub(super) fn deliver(&mut self, keep_until: Millis) {
        if let Stage::Answered(reply) = &self.stage {
            self.stage = Stage::Delivered(reply.clone());
            self.keep_until = keep_until;
        }
    }
}
