//! Lines of the file of windows.

use serde::{Deserialize, Serialize};

use super::window::Window;
use crate::transport::mqtt::clock::Millis;

/// What the broker calls a message of QoS 1 until it is acknowledged: the packet identifier, and a hash of what is in it
/// and of who reads it.
pub type Packet = (u16, u64);

/// A line of the file. What a window dropped follows from the lines after it, all but what was dropped before.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// A window.
    Open {
        /// Its number.
        window: u64,
        /// Its digest.
        digest: String,
        /// The topic of its messages, if they have to have the same.
        topic: Option<String>,
        /// When its first message came.
        opened: Millis,
        /// Messages dropped before those that follow.
        dropped: u64,
    },
    /// A message.
    Line {
        /// Its window.
        window: u64,
        /// What it says; `None` if it could not be read.
        text: Option<String>,
        /// The packet that it came in.
        packet: Option<Packet>,
    },
    /// An answer was asked for before the end.
    Told {
        /// The window.
        window: u64,
        /// Messages that had come by then.
        came: u64,
    },
    /// The packets of messages that are not in the file any more.
    Seen {
        /// The oldest first.
        packets: Vec<Packet>,
    },
    /// The outbox has what a window asks for.
    Closed {
        /// The window.
        window: u64,
    },
}

impl Record {
    /// The records of a whole window.
    pub fn of(number: u64, window: &Window) -> Vec<Record> {
        let open = Record::Open {
            window: number,
            digest: window.digest.clone(),
            topic: window.topic.clone(),
            opened: window.opened,
            dropped: window.dropped,
        };
        let line = |line: &String| Record::Line { window: number, text: Some(line.clone()), packet: None };
        let told = (window.told > 0).then_some(Record::Told { window: number, came: window.told });
        std::iter::once(open).chain(window.lines().map(line)).chain(told).collect()
    }
}
