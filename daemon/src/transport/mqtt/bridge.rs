//! The thread between broker and engine: takes messages, owes answers, and pays them in order.

mod connecting;
mod digesting;
mod paying;
mod suspects;
mod taking;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asked::Topics;
use super::clock::{Clock, Millis};
use super::digest::Digests;
use super::inbox::{Inbox, Input};
use super::link::{BrokerLimits, Dial, Link, LinkEvent, LinkOptions, Loss, Message, Publication};
use super::outbox::{Number, Outbox};
use super::presence::Presence;
use super::reconnect::Pauses;
use super::requester::Client;
use super::version::Version;
use crate::config::mqtt::Protocol;
use crate::serve::requester::Requester;
use crate::serve::service::Service;
use crate::tasks::TaskSet;
use suspects::Suspects;

/// Publications under way at most.
pub const WINDOW: u16 = 16;

/// Token of publications whose outcome nobody waits for; numbers of entries begin at 1.
const NO_TOKEN: u64 = 0;

/// Token of the daemon's last word.
const FAREWELL_TOKEN: u64 = u64::MAX;

/// Longest pause of the thread.
const TICK: Duration = Duration::from_secs(1);

/// How long the broker may take to acknowledge a publication before the connection is given up.
const ACKNOWLEDGE: Duration = Duration::from_secs(30);

/// How long a connection must stand for the next pause to be short again.
const STEADY: Duration = Duration::from_secs(10);

/// Pause before a publication is tried again that the broker would not take.
const DEFERRED: Duration = Duration::from_secs(5);

/// Messages that are held while there is no room, as a multiple of the receive maximum.
const HELD: usize = 4;

/// Time for the last answers when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// A message that the broker waits to have acknowledged.
#[derive(Clone, Debug)]
struct Ticket {
    packet: u16,
    /// What has to be delivered first.
    numbers: Vec<Number>,
}

/// A connection that stands or is being made.
#[derive(Debug)]
struct Connection {
    link: Box<dyn Link>,
    /// When the broker let us in, and what it lets us do.
    up: Option<(Instant, BrokerLimits)>,
}

/// What the bridge is made of.
#[derive(Debug)]
pub struct Parts {
    /// Opens connections.
    pub dial: Box<dyn Dial>,
    /// Makes the options of a connection: files are read anew each time.
    pub options: OptionsSource,
    /// The engine's side.
    pub service: Arc<Service>,
    /// Where everything is told.
    pub inbox: Arc<Inbox>,
    /// What is owed.
    pub outbox: Outbox,
    /// What is collected.
    pub digests: Digests,
    /// The outbox's clock.
    pub clock: Clock,
    /// Topics.
    pub topics: Topics,
    /// What the device says of itself.
    pub presence: Presence,
    /// Pauses between connections.
    pub pauses: Pauses,
    /// The version of MQTT.
    pub version: Version,
    /// Messages that the broker may send before one is acknowledged.
    pub receive_maximum: usize,
    /// Bytes of the largest packet.
    pub packet_bytes: usize,
    /// Time between figures.
    pub figures: Duration,
    /// Times that the daemon may end with a request; 0 for ever.
    pub attempts: u32,
}

/// Makes the options of a connection from its last will and its version, or says what is in the way.
pub struct OptionsSource(pub Box<MakeOptions>);

type MakeOptions = dyn Fn(Publication, Protocol) -> Result<LinkOptions, String> + Send;

impl std::fmt::Debug for OptionsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OptionsSource")
    }
}

/// The bridge.
#[derive(Debug)]
pub struct Bridge {
    parts: Parts,
    client: Arc<dyn Requester>,
    connection: Option<Connection>,
    /// When to connect, while there is no connection.
    connect_at: Instant,
    /// Messages to be acknowledged, in the order in which they came (MQTT-4.6.0-2).
    tickets: VecDeque<Ticket>,
    /// Messages for which there was no room yet, and when they came.
    held: VecDeque<(Millis, Message)>,
    /// Answers to be sent, and those under way with the time since when.
    to_send: BTreeSet<Number>,
    under_way: BTreeMap<Number, Instant>,
    /// Waiting requests that came again with more time than the engine was told.
    extended: BTreeSet<Number>,
    /// What is to be tried again, and when.
    resubmit: Vec<(Instant, Number)>,
    resend: Vec<(Instant, Number)>,
    figures_at: Instant,
    /// What is subscribed to, when the broker has said so.
    filters: Vec<String>,
    suspects: Suspects,
    /// More came than can be held; what follows stays with the broker until the connection is made anew.
    shedding: bool,
    /// The outbox was not on disk when that was last looked at.
    in_trouble: bool,
    /// No request is begun any more.
    quiet: bool,
    /// When the daemon is to be gone.
    finish_by: Option<Instant>,
    /// Tasks that the broker was told of.
    announced: Option<Arc<TaskSet>>,
}

impl Bridge {
    /// A bridge that has not begun.
    pub fn new(parts: Parts) -> Self {
        let client = Client::new(parts.service.new_client_id(), Arc::clone(&parts.inbox));
        let now = Instant::now();
        Bridge {
            parts,
            client: Arc::new(client),
            connection: None,
            connect_at: now,
            tickets: VecDeque::new(),
            held: VecDeque::new(),
            to_send: BTreeSet::new(),
            under_way: BTreeMap::new(),
            extended: BTreeSet::new(),
            resubmit: Vec::new(),
            resend: Vec::new(),
            figures_at: now,
            filters: Vec::new(),
            suspects: Suspects::new(),
            shedding: false,
            in_trouble: false,
            quiet: false,
            finish_by: None,
            announced: None,
        }
    }

    /// Works until it is told to finish and has done so.
    pub fn run(mut self) {
        self.recover();
        while !self.is_finished() {
            let now = Instant::now();
            if self.connection.is_none() && self.connect_at <= now && self.finish_by.is_none() {
                self.connect();
            }
            for input in self.parts.inbox.take(self.next_moment()) {
                match input {
                    Input::Link(event) => self.on_event(event),
                    Input::Answer { id, answer } => self.on_answer(&id, *answer),
                    Input::Quiet => {
                        self.quiet = true;
                        // The broker has them still.
                        self.held.clear();
                        self.resubmit.clear();
                    }
                    Input::Finish => self.finish_by = Some(Instant::now() + FAREWELL),
                }
            }
            self.on_time();
            // An answer leaves when it is on disk, and a collected message is acknowledged then.
            self.parts.outbox.sync();
            self.parts.digests.sync();
            self.send_answers();
            self.acknowledge();
            self.fetch_shed();
        }
        self.say_goodbye();
    }

    fn next_moment(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + TICK;
        next = next.min(self.figures_at);
        if self.connection.is_none() {
            next = next.min(self.connect_at);
        }
        let again = self.resubmit.iter().chain(&self.resend).map(|(at, _)| *at);
        again
            .chain(self.finish_by)
            .chain(self.next_end())
            .chain(self.suspects.next_moment())
            .fold(next, Instant::min)
            .max(now)
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        let due = |list: &mut Vec<(Instant, Number)>| {
            let (due, rest) = std::mem::take(list).into_iter().partition::<Vec<_>, _>(|(at, _)| *at <= now);
            *list = rest;
            due.into_iter().map(|(_, number)| number)
        };
        let again: Vec<_> = due(&mut self.resubmit).collect();
        self.to_send.extend(due(&mut self.resend));
        for number in again {
            self.submit(number);
        }
        self.next_suspect();
        self.parts.outbox.tidy();
        self.end_windows();
        while !self.held.is_empty() && self.has_room() {
            if let Some((came, message)) = self.held.pop_front() {
                self.take(&message, came);
            }
        }
        if self.under_way.values().any(|since| now.saturating_duration_since(*since) >= ACKNOWLEDGE) {
            let reason = format!("an answer was not acknowledged within {} s", ACKNOWLEDGE.as_secs());
            self.on_lost(&Loss::passing(reason));
        }
        let in_trouble = self.parts.outbox.trouble().is_some();
        if std::mem::replace(&mut self.in_trouble, in_trouble) != in_trouble {
            self.figures_at = now;
        }
        let tasks = self.parts.service.tasks();
        if self.announced.as_ref().is_some_and(|announced| !Arc::ptr_eq(announced, &tasks)) {
            self.announce();
        }
        if self.figures_at <= now {
            self.figures_at = now + self.parts.figures;
            if let Some(reason) = self.parts.outbox.trouble() {
                self.parts.presence.problem = Some(format!("the outbox cannot be written: {reason}"));
            }
            if self.up().is_some() {
                let figures = self.parts.presence.figures(&self.parts.service, now);
                self.tell(NO_TOKEN, figures);
                self.parts.presence.problem = None;
            }
        }
    }

    fn is_finished(&self) -> bool {
        let Some(by) = self.finish_by else { return false };
        let nothing_left = self.to_send.is_empty() && self.under_way.is_empty();
        let is_up = self.connection.as_ref().is_some_and(|connection| connection.up.is_some());
        !is_up || nothing_left || Instant::now() >= by
    }

    /// The last word. The session stays, and with it every request that was not answered.
    fn say_goodbye(&mut self) {
        if self.up().is_none() {
            return;
        }
        let stopped = self.parts.presence.stopped();
        self.tell(FAREWELL_TOKEN, stopped);
        let by = Instant::now() + FAREWELL;
        self.finish_by = Some(by);
        while self.connection.is_some() && Instant::now() < by && self.finish_by == Some(by) {
            for input in self.parts.inbox.take(by) {
                match input {
                    Input::Link(LinkEvent::Published { token, outcome }) => self.on_published(token, outcome),
                    Input::Link(LinkEvent::Lost(loss)) => self.on_lost(&loss),
                    _ => {}
                }
            }
            self.acknowledge();
        }
        if let Some(mut connection) = self.connection.take() {
            connection.link.disconnect();
            // The farewell must leave before the process does.
            let by = Instant::now() + Duration::from_millis(500);
            while Instant::now() < by {
                let inputs = self.parts.inbox.take(by);
                if inputs.iter().any(|input| matches!(input, Input::Link(LinkEvent::Lost(_)))) {
                    break;
                }
            }
        }
        self.parts.outbox.sync();
    }
}
