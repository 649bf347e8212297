//! Requests that were taken and answers that are owed, in memory and on disk.
//!
//! An entry goes through three stages. *Waiting*: the request was taken; the record is written but not synced, so a
//! killed daemon runs it again from here, and after a power cut the broker still has it. *Answered*: the record is
//! synced before the answer leaves, so no crash can make a second, different answer. *Delivered*: the broker has
//! acknowledged the answer; it is kept for a while for a sender that asks again.
//!
//! If the disk refuses, the outbox goes on in memory, says so, and writes itself anew when the disk is well. Until then
//! no answer may leave: its request stays with the broker, and a crash costs nothing but the work.

mod disk;
mod entry;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::clock::{Clock, Millis, Stamp};
use super::journal::JournalError;
use crate::wire::Request;
pub use disk::Disk;
use entry::Key;
pub use entry::{Entry, Number, Reply, ReplyTo, Stage};
use record::Record;

/// How long the answer to a request without a name is kept.
const NAMELESS_MS: Millis = 60_000;

/// Pause between looking for old answers while there is room.
const TIDY_MS: Millis = 1000;

/// The outbox.
#[derive(Debug)]
pub struct Outbox {
    disk: Disk,
    clock: Clock,
    stamp: Stamp,
    entries: BTreeMap<Number, Entry>,
    keys: HashMap<Key, Number>,
    next: Number,
    bytes: usize,
    waiting: usize,
    most_bytes: usize,
    cache_ms: Millis,
    /// When old answers are looked for again.
    tidy_at: Millis,
    session: Option<Vec<String>>,
}

impl Outbox {
    /// Opens the outbox in `folder`. It holds at most about `most_bytes`, and delivered answers for `cache_ms` or
    /// until their request would have expired.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn open(folder: &Path, most_bytes: usize, cache_ms: Millis) -> Result<Self, JournalError> {
        let (disk, records) = Disk::open(&folder.join("mqtt.outbox"), "outbox")?;
        let mut stamps = records.iter().filter_map(|record| match record {
            Record::Time(stamp) => Some(stamp),
            _ => None,
        });
        let stamp = stamps.next_back().cloned();
        let asked = records.iter().filter_map(|record| match record {
            Record::Asked { at, .. } => Some(*at),
            _ => None,
        });
        let latest = asked.chain(stamp.as_ref().map(|stamp| stamp.ms)).max().unwrap_or_default();
        let clock = Clock::start(stamp.as_ref(), latest);
        let mut outbox = Outbox {
            disk,
            stamp: clock.stamp(),
            clock,
            entries: BTreeMap::new(),
            keys: HashMap::new(),
            next: 1,
            bytes: 0,
            waiting: 0,
            most_bytes,
            cache_ms,
            tidy_at: 0,
            session: None,
        };
        for record in records {
            outbox.replay(record);
        }
        // Asked without a request is an answer cut off before it was made: the broker still has its request.
        let orphans: Vec<_> = (outbox.entries.iter())
            .filter(|(_, entry)| matches!(&entry.stage, Stage::Waiting(request) if request.work().is_err()))
            .map(|(number, _)| *number)
            .collect();
        for number in orphans {
            outbox.remove(number);
        }
        outbox.stamp = outbox.clock.stamp();
        if stamp.is_some_and(|stamp| stamp.boot != outbox.stamp.boot) {
            outbox.keep_on(latest);
            outbox.rewrite();
        } else {
            outbox.disk.write(&Record::Time(outbox.stamp.clone()));
        }
        outbox.tidy();
        Ok(outbox)
    }

    /// How long the machine was off is not known for sure, so answers are kept for as long as at `latest`, when it was
    /// last seen on.
    fn keep_on(&mut self, latest: Millis) {
        let now = self.clock.now();
        for entry in self.entries.values_mut() {
            let left = entry.keep_until.saturating_sub(latest).min(self.cache_ms);
            entry.keep_until = entry.keep_until.max(now + left);
        }
    }

    /// The clock by which entries expire.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Time(stamp) => self.stamp = stamp,
            Record::Session { filters } => self.session = Some(filters),
            Record::Asked { number, hash, ticket, reply_to, request, at } => {
                let request = request.unwrap_or_else(|| Box::new(Request::new(String::new())));
                let entry = Entry {
                    // Counted once: requests are of many kinds.
                    request_bytes: serde_json::to_vec(&request).map_or(0, |json| json.len()),
                    reply_to,
                    hash,
                    ticket,
                    // Whether the acknowledgement went out before the end is not known.
                    unacknowledged: false,
                    stage: Stage::Waiting(request),
                    tries: 1,
                    at,
                    keep_until: 0,
                };
                self.insert(number, entry);
            }
            Record::Tried { number, tries } => self.change(number, |entry| entry.tries = tries),
            Record::Answered { number, reply } => {
                self.change(number, |entry| entry.stage = Stage::Answered(reply));
            }
            Record::Delivered { number, keep_until } => {
                self.change(number, |entry| entry.deliver(keep_until));
            }
            Record::Forgotten { number } => drop(self.remove(number)),
        }
    }

    fn insert(&mut self, number: Number, entry: Entry) {
        if let Some(key) = entry.reply_to.key(entry.hash) {
            self.keys.insert(key, number);
        }
        self.next = self.next.max(number + 1);
        self.bytes += entry.bytes();
        self.waiting += usize::from(entry.is_waiting());
        self.entries.insert(number, entry);
    }

    fn remove(&mut self, number: Number) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.bytes -= entry.bytes();
        self.waiting -= usize::from(entry.is_waiting());
        if let Some(key) = entry.reply_to.key(entry.hash).filter(|key| self.keys.get(key) == Some(&number)) {
            self.keys.remove(&key);
        }
        Some(entry)
    }

    fn change(&mut self, number: Number, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&number) {
            self.bytes -= entry.bytes();
            self.waiting -= usize::from(entry.is_waiting());
            change(entry);
            self.bytes += entry.bytes();
            self.waiting += usize::from(entry.is_waiting());
        }
    }

    /// The subscriptions that the broker keeps for us, as far as is known; `None` before the first connection.
    pub fn session(&self) -> Option<&[String]> {
        self.session.as_deref()
    }

    /// The broker has a session of ours with these subscriptions.
    pub fn note_session(&mut self, filters: &[String]) {
        if self.session.as_deref() != Some(filters) {
            self.session = Some(filters.to_vec());
            self.disk.write(&Record::Session { filters: filters.to_vec() });
        }
    }

    /// Why the outbox is not on disk, if it is not. No answer may leave then.
    pub fn trouble(&self) -> Option<&str> {
        self.disk.trouble()
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
        self.waiting
    }

    /// The entry of a request that came before: one with the same topic, correlation data and content, or, without
    /// correlation data, one that the broker says it sends `again` under the same packet identifier. The same name on
    /// another request is a careless sender; the old answer would be wrong for it.
    pub fn find(&self, reply_to: &ReplyTo, hash: u64, again: Option<u16>) -> Option<Number> {
        if let Some(key) = reply_to.key(hash) {
            return self.keys.get(&key).copied();
        }
        let ticket = again?;
        let same = |entry: &Entry| {
            entry.ticket == Some(ticket) && entry.hash == hash && entry.reply_to.topic == reply_to.topic
        };
        self.entries.iter().rev().find(|(_, entry)| same(entry)).map(|(number, _)| *number)
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
        let record = Record::Asked { number, hash, ticket, reply_to, request, at: self.clock.now() };
        self.disk.write(&record);
        self.replay(record);
        self.change(number, |entry| {
            entry.unacknowledged = ticket.is_some();
            entry.tries = 0;
        });
        number
    }

    /// A request is given to the engine. The first time is written down with the request itself, or costs nothing to
    /// forget.
    pub fn tried(&mut self, number: Number) {
        let Some(tries) = self.entries.get(&number).map(|entry| entry.tries + 1) else { return };
        self.note_tries(number, tries);
    }

    /// A request comes back from the engine because the daemon stops in order; it is no fault of the request.
    pub fn untried(&mut self, number: Number) {
        self.note_tries(number, 0);
    }

    fn note_tries(&mut self, number: Number, tries: u32) {
        self.change(number, |entry| entry.tries = tries);
        if tries != 1 {
            self.disk.write(&Record::Tried { number, tries });
        }
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
            self.disk.write(&record);
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
        self.disk.write(&record);
        self.replay(record);
    }

    /// Forgets a request, so that the same one would be run again.
    pub fn forget(&mut self, number: Number) {
        if self.remove(number).is_some() {
            self.disk.write(&Record::Forgotten { number });
        }
    }

    /// Waits until every answer is on disk.
    pub fn sync(&mut self) {
        self.disk.sync();
    }

    /// Forgets old answers, and writes the journal anew if most of it is out of date or it is not on disk.
    pub fn tidy(&mut self) {
        let now = self.clock.now();
        let crowded = self.bytes > self.most_bytes / 4 * 3;
        if crowded || self.tidy_at <= now {
            self.tidy_at = now + TIDY_MS;
            // Somewhat more than must go, so that not every request looks through all.
            self.forget_old(now, if crowded { self.most_bytes / 8 * 5 } else { self.most_bytes });
        }
        if self.clock.was_set_since(&self.stamp) {
            log::warn!("the system's clock was set; requests expire by the time that has passed, not by it");
            self.stamp = self.clock.stamp();
            self.disk.write(&Record::Time(self.stamp.clone()));
        }
        let worn = self.disk.bytes() > 2 * self.bytes as u64 + (64 << 10);
        if self.disk.is_to_be_tried() || worn && self.disk.trouble().is_none() {
            self.rewrite();
        }
    }

    /// Forgets delivered answers that were kept long enough, and older ones first until `most` bytes are left.
    fn forget_old(&mut self, now: Millis, most: usize) {
        let (mut old, mut bytes) = (Vec::new(), self.bytes);
        for (number, entry) in &self.entries {
            // One that the broker sends again soon is no burden.
            if matches!(entry.stage, Stage::Delivered(_))
                && !entry.unacknowledged
                && (entry.keep_until <= now || bytes > most)
            {
                bytes -= entry.bytes();
                old.push(*number);
            }
        }
        for number in old {
            // Nothing is written: an entry that comes back from the journal is old again.
            self.remove(number);
        }
    }

    fn rewrite(&mut self) {
        self.stamp = self.clock.stamp();
        let mut records = vec![Record::Time(self.stamp.clone())];
        records.extend(self.session.clone().map(|filters| Record::Session { filters }));
        records.extend(self.entries.iter().flat_map(|(number, entry)| record::of(*number, entry)));
        self.disk.rewrite(&records);
    }
}
