//! Requests that were taken and answers that are owed, in memory and on disk.
//!
//! An entry goes through three stages. *Waiting*: the request was taken; the record is written but not synced, so a
//! killed daemon runs it again from here, and after a power cut the broker still has it. *Answered*: the record is
//! synced before the answer leaves, so no crash can make a second, different answer. *Delivered*: the broker has
//! acknowledged the answer; it is kept for a while for a sender that asks again.
//!
//! If the disk refuses, the outbox goes on in memory, says so, and writes itself anew when the disk is well: a request
//! is then safe as long as the daemon runs, and with the broker until it is acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::clock::{Clock, Millis};
use super::journal::{Journal, JournalError};
use crate::wire::Request;

/// Pause before a disk that refused is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(5);

/// How long the answer to a request without a name is kept.
const NAMELESS_MS: Millis = 60_000;

/// Memory and disk that an entry takes beside its texts.
const ENTRY_BYTES: usize = 256;

/// Number of an entry, never used twice.
pub type Number = u64;

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
    /// Hash of the request's topic and payload.
    pub hash: u64,
    /// Packet identifier under which it came last.
    pub ticket: Option<u16>,
    /// The broker waits for our acknowledgement of that packet.
    pub unacknowledged: bool,
    /// How far it is.
    pub stage: Stage,
    /// When a delivered answer is forgotten.
    keep_until: Millis,
}

impl Entry {
    fn bytes(&self) -> usize {
        let content = match &self.stage {
            Stage::Waiting(request) => request.text.as_ref().map_or(ENTRY_BYTES, String::len),
            Stage::Answered(reply) | Stage::Delivered(reply) => reply.payload.len() + ENTRY_BYTES,
        };
        ENTRY_BYTES + self.reply_to.topic.len() + content
    }

    fn key(&self) -> Option<Key> {
        Some((self.reply_to.topic.clone(), self.reply_to.correlation.clone()?))
    }
}

/// Two requests are the same if their answers would go to the same topic with the same correlation data.
type Key = (String, Vec<u8>);

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Record {
    /// The broker has a session of ours.
    Session {},
    Asked {
        number: Number,
        hash: u64,
        ticket: Option<u16>,
        reply_to: ReplyTo,
        request: Option<Box<Request>>,
    },
    Answered {
        number: Number,
        reply: Reply,
    },
    Delivered {
        number: Number,
        keep_until: Millis,
    },
    Forgotten {
        number: Number,
    },
}

/// The outbox.
#[derive(Debug)]
pub struct Outbox {
    journal: Journal,
    clock: Clock,
    entries: BTreeMap<Number, Entry>,
    keys: HashMap<Key, Number>,
    next: Number,
    bytes: usize,
    most_bytes: usize,
    cache_ms: Millis,
    session: bool,
    trouble: Option<(String, Instant)>,
}

impl Outbox {
    /// Opens the outbox in `folder`. It holds at most about `most_bytes`, and delivered answers for `cache_ms` or
    /// until their request would have expired.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn open(
        folder: &Path,
        most_bytes: usize,
        cache_ms: Millis,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        let (journal, lines) = Journal::open(&folder.join("mqtt.outbox"))?;
        let mut outbox = Outbox {
            journal,
            clock,
            entries: BTreeMap::new(),
            keys: HashMap::new(),
            next: 1,
            bytes: 0,
            most_bytes,
            cache_ms,
            session: false,
            trouble: None,
        };
        let mut strange = 0;
        for line in lines {
            match serde_json::from_str(&line) {
                Ok(record) => outbox.replay(record),
                Err(_) => strange += 1,
            }
        }
        if strange > 0 {
            log::warn!("{strange} records of the outbox are of another version of Tern and were passed over");
        }
        // Asked without a request is an answer cut off before it was made: the broker still has its request.
        let orphans: Vec<_> = (outbox.entries.iter())
            .filter(|(_, entry)| matches!(&entry.stage, Stage::Waiting(request) if request.work().is_err()))
            .map(|(number, _)| *number)
            .collect();
        for number in orphans {
            outbox.remove(number);
        }
        outbox.tidy();
        Ok(outbox)
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Session {} => self.session = true,
            Record::Asked { number, hash, ticket, reply_to, request } => {
                let request = request.unwrap_or_else(|| Box::new(Request::new(String::new())));
                self.insert(
                    number,
                    Entry {
                        reply_to,
                        hash,
                        ticket,
                        // Whether the acknowledgement went out before the end is not known.
                        unacknowledged: false,
                        stage: Stage::Waiting(request),
                        keep_until: 0,
                    },
                );
            }
            Record::Answered { number, reply } => self.change(number, |entry| {
                entry.stage = Stage::Answered(reply);
            }),
            Record::Delivered { number, keep_until } => {
                self.change(number, |entry| deliver(entry, keep_until));
            }
            Record::Forgotten { number } => drop(self.remove(number)),
        }
    }

    fn insert(&mut self, number: Number, entry: Entry) {
        if let Some(key) = entry.key() {
            self.keys.insert(key, number);
        }
        self.next = self.next.max(number + 1);
        self.bytes += entry.bytes();
        self.entries.insert(number, entry);
    }

    fn remove(&mut self, number: Number) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.bytes -= entry.bytes();
        if let Some(key) = entry.key().filter(|key| self.keys.get(key) == Some(&number)) {
            self.keys.remove(&key);
        }
        Some(entry)
    }

    fn change(&mut self, number: Number, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&number) {
            self.bytes -= entry.bytes();
            change(entry);
            self.bytes += entry.bytes();
        }
    }

    /// Whether the broker has had a session of ours.
    pub fn had_session(&self) -> bool {
        self.session
    }

    /// The broker has a session of ours.
    pub fn note_session(&mut self) {
        if !std::mem::replace(&mut self.session, true) {
            self.write(&Record::Session {});
        }
    }

    /// Why the outbox is not on disk, if it is not.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|(reason, _)| reason.as_str())
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.most_bytes
    }

    /// An entry.
    pub fn entry(&self, number: Number) -> Option<&Entry> {
        self.entries.get(&number)
    }

    /// Entries at the stage of which `is_it` says so, oldest first.
    pub fn numbers(&self, is_it: impl Fn(&Stage) -> bool) -> Vec<Number> {
        self.entries.iter().filter(|(_, entry)| is_it(&entry.stage)).map(|(number, _)| *number).collect()
    }

    /// Requests that wait for the engine.
    pub fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry.stage, Stage::Waiting(_))).count()
    }

    /// The entry of a request that came before: one with the same topic, correlation data and content, or, without
    /// correlation data, one that the broker says it sends `again` under the same packet identifier.
    pub fn find(&self, reply_to: &ReplyTo, hash: u64, again: Option<u16>) -> Option<Number> {
        let found = match &reply_to.correlation {
            Some(correlation) => *self.keys.get(&(reply_to.topic.clone(), correlation.clone()))?,
            None => {
                let ticket = again?;
                let same = |entry: &&Entry| entry.ticket == Some(ticket) && entry.hash == hash;
                self.entries.iter().rev().find(|(_, entry)| same(entry)).map(|(number, _)| *number)?
            }
        };
        // The same name on another request is a careless sender; the old answer would be wrong for it.
        self.entries.get(&found).filter(|entry| entry.hash == hash).map(|_| found)
    }

    /// Takes a request.
    pub fn ask(
        &mut self,
        reply_to: ReplyTo,
        hash: u64,
        ticket: Option<u16>,
        request: Option<Box<Request>>,
    ) -> Number {
        let number = self.next;
        let record = Record::Asked { number, hash, ticket, reply_to, request };
        self.write(&record);
        self.replay(record);
        self.change(number, |entry| entry.unacknowledged = ticket.is_some());
        number
    }

    /// A known request came again, under another packet identifier; its answer, if there is one already, is owed again
    /// and is worth something until `expires`.
    pub fn ask_again(&mut self, number: Number, ticket: Option<u16>, expires: Option<Millis>) {
        self.change(number, |entry| {
            entry.ticket = ticket;
            entry.unacknowledged = ticket.is_some();
            entry.reply_to.expires = expires;
            if let Stage::Delivered(reply) = &entry.stage {
                entry.stage = Stage::Answered(reply.clone());
            }
        });
    }

    /// The broker has been told, or has forgotten, that we owe it an acknowledgement.
    pub fn acknowledged(&mut self, number: Number) {
        self.change(number, |entry| entry.unacknowledged = false);
    }

    /// All packet identifiers are void: the broker has forgotten our session.
    pub fn forget_tickets(&mut self) {
        for entry in self.entries.values_mut() {
            entry.ticket = None;
            entry.unacknowledged = false;
        }
    }

    /// Writes the answer of a request down. It may leave after [`sync`](Self::sync).
    pub fn answer(&mut self, number: Number, reply: Reply) {
        if self.entries.contains_key(&number) {
            let record = Record::Answered { number, reply };
            self.write(&record);
            self.replay(record);
        }
    }

    /// The broker has the answer, or it is worth nothing any more.
    pub fn delivered(&mut self, number: Number) {
        let Some(entry) = self.entries.get(&number) else { return };
        let now = self.clock.now();
        let keep_until = match &entry.reply_to.correlation {
            Some(_) => (now + self.cache_ms).max(entry.reply_to.expires.unwrap_or(0)),
            // Its sender has no name to ask again by; only the broker may send it once more, and does so soon.
            None => now + self.cache_ms.min(NAMELESS_MS),
        };
        let record = Record::Delivered { number, keep_until };
        self.write(&record);
        self.replay(record);
    }

    /// Forgets a request, so that the same one would be run again.
    pub fn forget(&mut self, number: Number) {
        if self.remove(number).is_some() {
            self.write(&Record::Forgotten { number });
        }
    }

    /// Waits until every answer is on disk.
    pub fn sync(&mut self) {
        if self.trouble.is_none() {
            let synced = self.journal.sync();
            self.note(synced);
        }
    }

    /// Forgets old answers, and writes the journal anew if most of it is out of date or it is not on disk.
    pub fn tidy(&mut self) {
        let now = self.clock.now();
        let mut old = Vec::new();
        let mut bytes = self.bytes;
        for (number, entry) in &self.entries {
            // One that the broker sends again soon is no burden.
            if matches!(entry.stage, Stage::Delivered(_))
                && !entry.unacknowledged
                && (entry.keep_until <= now || bytes > self.most_bytes * 3 / 4)
            {
                bytes -= entry.bytes();
                old.push(*number);
            }
        }
        for number in old {
            // Nothing is written: an entry that comes back from the journal is old again.
            self.remove(number);
        }
        let worn = self.journal.bytes() > 2 * self.bytes as u64 + (64 << 10);
        let healing = self.trouble.as_ref().is_some_and(|(_, since)| since.elapsed() >= DISK_PAUSE);
        if healing || worn && self.trouble.is_none() {
            let was_in_trouble = self.trouble.is_some();
            match self.rewrite() {
                Ok(()) if was_in_trouble => {
                    self.trouble = None;
                    log::info!("the outbox is on disk again");
                }
                rewritten => self.note(rewritten),
            }
        }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let mut records = Vec::new();
        if self.session {
            records.push(Record::Session {});
        }
        for (&number, entry) in &self.entries {
            let Entry { reply_to, hash, ticket, stage, keep_until, .. } = entry.clone();
            let request = match &stage {
                Stage::Waiting(request) => Some(request.clone()),
                _ => None,
            };
            records.push(Record::Asked { number, hash, ticket, reply_to, request });
            let delivered = matches!(stage, Stage::Delivered(_));
            if let Stage::Answered(reply) | Stage::Delivered(reply) = stage {
                records.push(Record::Answered { number, reply });
            }
            if delivered {
                records.push(Record::Delivered { number, keep_until });
            }
        }
        let lines = records.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        self.journal.rewrite(lines.iter().map(String::as_str))
    }

    fn write(&mut self, record: &Record) {
        if self.trouble.is_some() {
            // What is missing comes with the next rewrite.
            return;
        }
        let written = serde_json::to_string(record)
            .map_err(io::Error::from)
            .and_then(|line| self.journal.append(&line));
        self.note(written);
    }

    fn note(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            if self.trouble.is_none() {
                log::error!(
                    "the outbox cannot be written ({error}); answers are kept in memory only until the disk is well"
                );
            }
            self.trouble = Some((error.to_string(), Instant::now()));
        }
    }
}

fn deliver(entry: &mut Entry, keep_until: Millis) {
    if let Stage::Answered(reply) = &entry.stage {
        entry.stage = Stage::Delivered(reply.clone());
        entry.keep_until = keep_until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Outbox {
        Outbox::open(folder, 64 << 10, 600_000, Clock::start()).expect("the folder can be written")
    }

    fn reply_to(correlation: &str) -> ReplyTo {
        let correlation = (!correlation.is_empty()).then(|| correlation.as_bytes().to_vec());
        ReplyTo { topic: "answers/me".into(), correlation, id: "7".into(), retain: false, expires: None }
    }

    fn reply(text: &str) -> Reply {
        Reply { status: 200, payload: text.into(), properties: vec![("status".into(), "200".into())] }
    }

    fn request() -> Option<Box<Request>> {
        Some(Box::new(Request::task("1", "log-severity", "fan stopped")))
    }

    #[test]
    fn every_stage_survives_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut outbox = open(folder.path());
        outbox.note_session();
        let waiting = outbox.ask(reply_to("a"), 1, Some(4), request());
        let answered = outbox.ask(reply_to("b"), 2, Some(5), request());
        let delivered = outbox.ask(reply_to("c"), 3, None, request());
        let forgotten = outbox.ask(reply_to("d"), 4, None, request());
        for number in [answered, delivered, forgotten] {
            outbox.answer(number, reply("{\"text\":\"\\u00e9\"}"));
        }
        outbox.delivered(delivered);
        outbox.forget(forgotten);
        let before = outbox.entries.clone();
        drop(outbox);
        let mut outbox = open(folder.path());
        assert!(outbox.had_session());
        for (number, mut entry) in before {
            entry.unacknowledged = false;
            assert_eq!(outbox.entry(number), Some(&entry));
        }
        assert_eq!((outbox.entries.len(), outbox.waiting()), (3, 1));
        let Some(Stage::Waiting(kept)) = outbox.entry(waiting).map(|entry| &entry.stage) else {
            panic!("it waits")
        };
        assert_eq!(kept.text.as_deref(), Some("fan stopped"));
        assert_eq!(outbox.find(&reply_to("c"), 3, None), Some(delivered));
        assert!(outbox.ask(reply_to("e"), 5, None, request()) > forgotten);
        outbox.rewrite().expect("there is room");
        let before = outbox.entries.clone();
        drop(outbox);
        assert_eq!(open(folder.path()).entries.len(), before.len());
    }

    #[test]
    fn the_same_request_is_found_and_a_different_one_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut outbox = open(folder.path());
        let known = outbox.ask(reply_to("a"), 1, Some(4), request());
        let nameless = outbox.ask(reply_to(""), 2, Some(5), request());
        assert_eq!(outbox.find(&reply_to("a"), 1, None), Some(known));
        // Other content under the same name, another name, another topic.
        assert_eq!(outbox.find(&reply_to("a"), 9, None), None);
        assert_eq!(outbox.find(&reply_to("b"), 1, None), None);
        let elsewhere = ReplyTo { topic: "answers/you".into(), ..reply_to("a") };
        assert_eq!(outbox.find(&elsewhere, 1, None), None);
        // Without a name only the broker's word counts.
        assert_eq!(outbox.find(&reply_to(""), 2, Some(5)), Some(nameless));
        assert_eq!(outbox.find(&reply_to(""), 2, None), None);
        assert_eq!(outbox.find(&reply_to(""), 2, Some(6)), None);
        // A careless sender's second request replaces the first.
        let second = outbox.ask(reply_to("a"), 9, None, request());
        assert_eq!(outbox.find(&reply_to("a"), 9, None), Some(second));
        outbox.answer(second, reply("x"));
        outbox.delivered(second);
        outbox.ask_again(second, Some(8), Some(77));
        let entry = outbox.entry(second).expect("it is kept");
        assert_eq!((&entry.stage, entry.reply_to.expires), (&Stage::Answered(reply("x")), Some(77)));
    }

    #[test]
    fn it_stays_small_and_forgets_no_debt() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut outbox = open(folder.path());
        let owed = outbox.ask(reply_to("owed"), 1, None, request());
        outbox.answer(owed, reply("kept"));
        for round in 0..2000_u32 {
            let number = outbox.ask(reply_to(&round.to_string()), 1, None, request());
            outbox.answer(number, reply(&"x".repeat(300)));
            outbox.delivered(number);
            outbox.tidy();
            assert!(
                outbox.bytes <= 64 << 10 && outbox.journal.bytes() < 400_000,
                "{}",
                outbox.journal.bytes()
            );
        }
        assert!(outbox.entries.len() < 100 && !outbox.is_full());
        assert!(matches!(outbox.entry(owed).map(|entry| &entry.stage), Some(Stage::Answered(_))));
    }
}
