//! The lines of the journal. Lines of an older version of Tern are understood; those of a newer one are passed over.

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Number, Reply, ReplyTo, Stage};
use crate::transport::mqtt::clock::{Millis, Stamp};
use crate::wire::Request;

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// What the clocks show.
    Time(Stamp),
    /// The broker has a session of ours, with these subscriptions.
    Session {
        /// Filters of topics.
        #[serde(default)]
        filters: Vec<String>,
    },
    /// A request was taken, and is about to be given to the engine.
    Asked {
        /// Its number.
        number: Number,
        /// Hash of what was asked.
        hash: u64,
        /// Packet identifier.
        ticket: Option<u16>,
        /// Where its answer goes.
        reply_to: ReplyTo,
        /// What is to be run; `None` if it was refused.
        request: Option<Box<Request>>,
        /// When it was taken.
        #[serde(default)]
        at: Millis,
    },
    /// How often it was given to the engine so far; 0 after a stop in order.
    Tried {
        /// Its number.
        number: Number,
        /// How often.
        tries: u32,
    },
    /// Its answer.
    Answered {
        /// Its number.
        number: Number,
        /// The answer.
        reply: Reply,
    },
    /// The broker has its answer.
    Delivered {
        /// Its number.
        number: Number,
        /// When the answer may be forgotten.
        keep_until: Millis,
    },
    /// It is forgotten.
    Forgotten {
        /// Its number.
        number: Number,
    },
}

/// The lines from which `entry` comes back as it is.
pub fn of(number: Number, entry: &Entry) -> Vec<Record> {
    let Entry { reply_to, hash, ticket, stage, tries, at, keep_until, .. } = entry.clone();
    let delivered = matches!(stage, Stage::Delivered(_));
    let (request, reply) = match stage {
        Stage::Waiting(request) => (Some(request), None),
        Stage::Answered(reply) | Stage::Delivered(reply) => (None, Some(reply)),
    };
    let mut records = vec![Record::Asked { number, hash, ticket, reply_to, request, at }];
    if tries != 1 {
        records.push(Record::Tried { number, tries });
    }
    records.extend(reply.map(|reply| Record::Answered { number, reply }));
    if delivered {
        records.push(Record::Delivered { number, keep_until });
    }
    records
}
