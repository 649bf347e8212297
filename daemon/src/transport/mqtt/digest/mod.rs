//! `[[digest]]`: messages that are collected in windows, each of which becomes one request.
//!
//! ```text
//! broker --PUBLISH--> take: window and file --PUBACK--> (the file is synced before)
//!                       | every_s or messages
//!                       v
//!                     ask: an entry of the outbox --> engine --> answer, as to any request
//!                       | the outbox is synced
//!                       v
//!                     close: the file forgets the window
//! ```
//! With `update_messages` a window is asked about before its end, too, and stays. Its text only grows then: an update has the
//! prompt of the one before it and new lines behind, so the engine computes those alone, as long as it has kept the rest.
//! For the same reason such a window that is too full drops a block of its oldest messages at once, not one for each that comes:
//! behind a message that is gone nothing of what was computed can be used.
//!
//! So a message is on disk before the broker may forget it, and a window is in one of the two files, or for a moment in
//! both: its name and content are the same then, by which the outbox knows it again. Windows end by the outbox's clock,
//! which no change of the system's moves; who calls says what time it is.

mod record;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use tern_protocol::answer::Reason;

use super::asked::Asked;
use super::clock::Millis;
use super::journal::{JournalError, fnv1a};
use super::link::Message;
use super::outbox::{Disk, ReplyTo};
use super::payload;
use crate::config::digest::{By, Digest};
use crate::config::mqtt::Format;
use crate::wire::Request;
use record::{Packet, Record};
use window::Window;

/// Windows at once; beyond it the oldest ends early.
const WINDOWS: usize = 1024;

/// Bytes of the file that are not worth writing it anew.
const WORN_BYTES: u64 = 64 << 10;

/// Of a window that is asked about while it grows, the part of its bytes that is kept when it overflows.
const KEPT_OF_FOUR: usize = 3;

/// File and memory that a message takes beside its text.
const LINE_BYTES: u64 = 96;

/// The digests of a configuration and their windows.
#[derive(Debug)]
pub struct Digests {
    rules: Vec<Digest>,
    windows: BTreeMap<u64, Window>,
    next: u64,
    /// The last messages, as many as may be unacknowledged: those may come again, also when their window is over.
    seen: VecDeque<Packet>,
    most_seen: usize,
    /// `None` if there is nothing to keep.
    disk: Option<Disk>,
}

/// A window that is to be asked about.
#[derive(Debug)]
pub struct Due {
    /// Its number.
    pub window: u64,
    /// What it asks for; nothing is asked of one without a message.
    pub asked: Option<Asked>,
    /// Messages that came, if it goes on.
    goes_on: Option<u64>,
}

/// Bytes of the text of a window of this rule: the most, and what is kept of more.
fn room(rule: &Digest) -> (usize, usize) {
    let most_bytes = rule.max_bytes as usize;
    (most_bytes, if rule.update_messages.is_some() { most_bytes / 4 * KEPT_OF_FOUR } else { most_bytes })
}

/// What a digest is known by in the file: all that makes its answers what they are.
fn name(rule: &Digest) -> String {
    let by = if rule.by == By::Topic { "topic" } else { "filter" };
    [&rule.topic, &rule.task, &rule.answer, by].map(|part| part.replace('\n', " ")).join("\n")
}

impl Digests {
    /// The digests `rules`, with the windows that `folder` has of them, at a broker that sends `receive_maximum`
    /// messages before one is acknowledged.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn open(folder: &Path, rules: &[Digest], receive_maximum: usize) -> Result<Self, JournalError> {
        let mut digests = Digests {
            rules: rules.to_vec(),
            windows: BTreeMap::new(),
            next: 1,
            seen: VecDeque::new(),
            most_seen: receive_maximum * rules.len(),
            disk: None,
        };
        let path = folder.join("digest.windows");
        if rules.is_empty() && !path.exists() {
            return Ok(digests);
        }
        let (disk, records) = Disk::open(&path, "file of windows")?;
        for record in records {
            digests.replay(record);
        }
        let known = digests.windows.len();
        let names: Vec<_> = rules.iter().map(name).collect();
        digests.windows.retain(|_, window| names.contains(&window.digest));
        if digests.windows.len() < known {
            let gone = known - digests.windows.len();
            log::warn!("{gone} windows of digests that are not configured any more are dropped");
        }
        digests.disk = Some(disk);
        digests.tidy();
        Ok(digests)
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Open { window, digest, topic, opened, dropped } => {
                self.next = self.next.max(window + 1);
                let mut found = Window::new(digest, topic, opened);
                found.dropped = dropped;
                self.windows.insert(window, found);
            }
            Record::Line { window, text, packet } => {
                packet.into_iter().for_each(|packet| self.see(packet));
                let Some(window) = self.windows.get_mut(&window) else { return };
                let rule = self.rules.iter().find(|rule| name(rule) == window.digest);
                let (most_bytes, kept_bytes) = rule.map_or((0, 0), room);
                window.add(text, most_bytes, kept_bytes);
            }
            Record::Told { window, came } => {
                if let Some(window) = self.windows.get_mut(&window) {
                    window.told = came;
                }
            }
            Record::Seen { packets } => packets.into_iter().for_each(|packet| self.see(packet)),
            Record::Closed { window } => drop(self.windows.remove(&window)),
        }
    }

    fn see(&mut self, packet: Packet) {
        self.seen.push_back(packet);
        while self.seen.len() > self.most_seen {
            self.seen.pop_front();
        }
    }

    /// Puts a message into the window of a digest that reads it. Says what is wrong with one that cannot be read.
    pub fn take(&mut self, rule: usize, message: &Message, now: Millis) -> Result<(), String> {
        let Some(rule) = self.rules.get(rule).cloned() else { return Ok(()) };
        let digest = name(&rule);
        let topic = (rule.by == By::Topic).then(|| message.topic.clone());
        let hash = fnv1a(&[digest.as_bytes(), &[0], message.topic.as_bytes(), &[0], &message.payload]);
        let packet = message.ticket.map(|ticket| (ticket, hash));
        if message.again && packet.is_some_and(|packet| self.seen.contains(&packet)) {
            // Its acknowledgement was cut off.
            return Ok(());
        }
        let same = |window: &Window| window.digest == digest && window.topic == topic;
        let open = self.windows.iter().find(|(_, window)| same(window)).map(|(number, _)| *number);
        let number = open.unwrap_or_else(|| {
            let (number, window) = (self.next, Window::new(digest, topic, now));
            self.next += 1;
            for record in Record::of(number, &window) {
                self.write(&record);
            }
            self.windows.insert(number, window);
            number
        });
        let text = text(&rule, message);
        let said = text.as_ref().ok();
        self.write(&Record::Line { window: number, text: said.cloned(), packet });
        packet.into_iter().for_each(|packet| self.see(packet));
        if let Some(window) = self.windows.get_mut(&number) {
            let (most_bytes, kept_bytes) = room(&rule);
            window.add(said.cloned(), most_bytes, kept_bytes);
        }
        text.map(drop)
    }

    fn write(&mut self, record: &Record) {
        if let Some(disk) = &mut self.disk {
            disk.write(record);
        }
    }

    fn rule(&self, window: &Window) -> Option<&Digest> {
        self.rules.iter().find(|rule| name(rule) == window.digest)
    }

    fn ends(&self, window: &Window) -> Option<Millis> {
        let rule = self.rule(window)?;
        let is_full = rule.messages.is_some_and(|most| window.came() >= u64::from(most));
        let end = rule.every_s.map(|seconds| window.opened + Millis::from(seconds) * 1000);
        if is_full { Some(0) } else { end }
    }

    /// Whether a window that goes on is to be asked about.
    fn has_news(&self, window: &Window) -> bool {
        let every = self.rule(window).and_then(|rule| rule.update_messages);
        every.is_some_and(|every| window.came() >= window.told + u64::from(every))
    }

    /// When the next window is to be asked about.
    pub fn next_due(&self) -> Option<Millis> {
        let at_once =
            self.windows.len() > WINDOWS || self.windows.values().any(|window| self.has_news(window));
        let ends = self.windows.values().filter_map(|window| self.ends(window)).min();
        if at_once { Some(0) } else { ends }
    }

    /// The first window that has ended, or that has an update to give.
    pub fn due(&self, now: Millis, device: &str) -> Option<Due> {
        let over = |window: &&Window| self.ends(window).is_some_and(|end| end <= now);
        let ended = self.windows.iter().find(|(_, window)| over(window));
        let early = || self.windows.iter().next().filter(|_| self.windows.len() > WINDOWS);
        let ended = ended.or_else(early);
        let news = || self.windows.iter().find(|(_, window)| self.has_news(window));
        let goes_on = ended.is_none();
        let (number, window) = ended.or_else(news)?;
        let rule = self.rule(window)?;
        let goes_on = goes_on.then(|| window.came());
        let asked = (window.messages() > 0).then(|| self.ask((*number, window), rule, now, device, goes_on));
        Some(Due { window: *number, asked, goes_on })
    }

    fn ask(
        &self,
        (number, window): (u64, &Window),
        rule: &Digest,
        now: Millis,
        device: &str,
        goes_on: Option<u64>,
    ) -> Asked {
        let text = window.text();
        let update = goes_on.map(|came| format!("-{came}")).unwrap_or_default();
        let id = format!("digest-{}-{number}{update}", window.opened);
        let mut properties = vec![
            ("messages".to_owned(), window.messages().to_string()),
            ("dropped".to_owned(), window.dropped.to_string()),
        ];
        properties.extend(goes_on.map(|_| ("open".to_owned(), "true".to_owned())));
        let topic = rule.answer_topic(window.topic.as_deref().unwrap_or_default(), device);
        let hash = fnv1a(&[topic.as_bytes(), &[0], text.as_bytes()]);
        let reply_to = ReplyTo {
            topic,
            correlation: Some(id.clone().into_bytes()),
            id,
            retain: rule.retain,
            expires: rule.expiry_s.map(|seconds| now + Millis::from(seconds) * 1000),
            properties,
        };
        let request = Ok::<_, (Reason, String)>(Box::new(Request::task("", rule.task.as_str(), text)));
        Asked { hash, reply_to, request }
    }

    /// The outbox has what a window asked for.
    pub fn asked(&mut self, due: &Due) {
        let window = due.window;
        if let Some(came) = due.goes_on {
            if let Some(open) = self.windows.get_mut(&window) {
                open.told = came;
                self.write(&Record::Told { window, came });
            }
        } else if self.windows.remove(&window).is_some() {
            self.write(&Record::Closed { window });
        }
    }

    /// Waits until all that was taken is on the disk.
    pub fn sync(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.sync();
        }
    }

    /// Why windows are not on disk, if so: until they are, their messages are not to be acknowledged.
    pub fn trouble(&self) -> Option<&str> {
        self.disk.as_ref().and_then(Disk::trouble)
    }

    /// Writes the file anew if most of it is out of date, or if the disk refused and may be well again.
    pub fn tidy(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let cost = |window: &Window| window.bytes() as u64 + (window.messages() + 2) * LINE_BYTES;
        let needed: u64 = self.windows.values().map(cost).sum();
        let worn = disk.bytes() > WORN_BYTES + 4 * needed;
        let retry = disk.is_to_be_tried();
        if retry || worn && disk.trouble().is_none() {
            disk.rewrite(&records(&self.windows, &self.seen));
        }
    }
}

/// All that a file says.
fn records(windows: &BTreeMap<u64, Window>, seen: &VecDeque<Packet>) -> Vec<Record> {
    let seen = Record::Seen { packets: seen.iter().copied().collect() };
    let windows = windows.iter().flat_map(|(number, window)| Record::of(*number, window));
    std::iter::once(seen).chain(windows).collect()
}

/// What a message says in a window: where messages of several topics meet, with its topic in front.
fn text(rule: &Digest, message: &Message) -> Result<String, String> {
    let format = match rule.format {
        Format::Auto => payload::format_of(message.content_type.as_deref()),
        chosen => chosen,
    };
    if let Some(bytes) = message.oversize {
        return Err(format!("the message has {bytes} bytes; send less, or raise mqtt.packet_bytes"));
    }
    let said = payload::text(&message.payload, format, rule.field.as_deref());
    let said = said.map_err(|error| error.to_string())?;
    let said = said.trim();
    Ok(match rule.by == By::Filter && rule.topic.contains(['+', '#']) {
        true => format!("{}: {said}", message.topic),
        false => said.to_owned(),
    })
}

#[cfg(test)]
mod tests;
