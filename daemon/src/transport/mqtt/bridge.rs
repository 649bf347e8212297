//! The thread between broker and engine: takes messages, owes answers, and pays them in order.

mod paying;
mod taking;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asked::Topics;
use super::clock::{Clock, Millis};
use super::complaints::Complaints;
use super::inbox::{Inbox, Input};
use super::link::{BrokerLimits, Dial, Link, LinkEvent, LinkFull, LinkOptions, Loss, Message, Publication};
use super::outbox::{Number, Outbox, Stage};
use super::presence::Presence;
use super::reconnect::Pauses;
use super::requester::Client;
use crate::serve::requester::Requester;
use crate::serve::service::Service;

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

/// Time for the last answers when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// A message that the broker waits to have acknowledged.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    packet: u16,
    /// What has to be delivered first, if anything.
    number: Option<Number>,
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
    /// The outbox's clock.
    pub clock: Clock,
    /// Topics.
    pub topics: Topics,
    /// What the device says of itself.
    pub presence: Presence,
    /// Pauses between connections.
    pub pauses: Pauses,
    /// Messages that the broker may send before one is acknowledged.
    pub receive_maximum: usize,
    /// Bytes of the largest packet.
    pub packet_bytes: usize,
    /// Time between figures.
    pub figures: Duration,
}

/// Makes the options of a connection, or says what is in the way.
pub struct OptionsSource(pub Box<dyn Fn(Publication) -> Result<LinkOptions, String> + Send>);

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
    /// No request is begun any more.
    quiet: bool,
    /// When the daemon is to be gone.
    finish_by: Option<Instant>,
    dropped: Complaints,
    unknown: Complaints,
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
            quiet: false,
            finish_by: None,
            dropped: Complaints::default(),
            unknown: Complaints::default(),
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
            // An answer leaves when it is on disk.
            self.parts.outbox.sync();
            self.send_answers();
            self.acknowledge();
        }
        self.say_goodbye();
    }

    /// Takes up what an earlier process has left.
    fn recover(&mut self) {
        let waiting = self.parts.outbox.numbers(|stage| matches!(stage, Stage::Waiting(_)));
        self.to_send.extend(self.parts.outbox.numbers(|stage| matches!(stage, Stage::Answered(_))));
        if !waiting.is_empty() || !self.to_send.is_empty() {
            log::info!(
                "the outbox has {} requests to run and {} answers to deliver",
                waiting.len(),
                self.to_send.len()
            );
        }
        for number in waiting {
            self.submit(number);
        }
    }

    fn next_moment(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + TICK;
        next = next.min(self.figures_at);
        if self.connection.is_none() {
            next = next.min(self.connect_at);
        }
        let again = self.resubmit.iter().chain(&self.resend).map(|(at, _)| *at);
        again.chain(self.finish_by).fold(next, Instant::min).max(now)
    }

    fn connect(&mut self) {
        let number = self.parts.inbox.next_connection();
        let inbox = Arc::clone(&self.parts.inbox);
        let report = Box::new(move |event| inbox.push_event(number, event));
        let options = (self.parts.options.0)(self.parts.presence.will());
        match options.and_then(|options| self.parts.dial.dial(&options, report)) {
            Ok(link) => self.connection = Some(Connection { link, up: None }),
            Err(reason) => self.on_lost(&Loss { reason, lasting: true }),
        }
    }

    fn on_event(&mut self, event: LinkEvent) {
        if self.connection.is_none() {
            // It was given up while this event waited; what it says holds no more.
            return;
        }
        match event {
            LinkEvent::Connected { session_present, limits } => self.on_connected(session_present, limits),
            LinkEvent::Message(message) => self.on_message(message),
            LinkEvent::Published { token, outcome } => self.on_published(token, outcome),
            LinkEvent::SubscriptionRefused { refused, reason } => {
                log::error!(
                    "the broker refused {refused} of our subscriptions ({reason}); no requests come by them: allow them there"
                );
                self.parts.presence.problem = Some(format!("{refused} subscriptions refused"));
            }
            LinkEvent::Lost(loss) => self.on_lost(&loss),
        }
    }

    fn on_connected(&mut self, session_present: bool, limits: BrokerLimits) {
        let Some(connection) = &mut self.connection else { return };
        connection.up = Some((Instant::now(), limits));
        let filters = self.parts.topics.filters(limits.shared);
        let subscribed = connection.link.subscribe(&filters);
        if !limits.shared {
            log::warn!("the broker knows no shared subscriptions; only requests to this device come");
        }
        if session_present {
            log::info!("connected to the broker; it has kept our session");
        } else {
            // Packet identifiers belong to the session.
            self.parts.outbox.forget_tickets();
            if self.parts.outbox.had_session() {
                log::error!(
                    "connected to the broker, which has forgotten our session: requests that it held for us are lost \
                     unless their senders repeat them; {} taken before go on, {} answers are sent",
                    self.parts.outbox.waiting(),
                    self.to_send.len() + self.under_way.len()
                );
            } else {
                log::info!("connected to the broker, in a new session");
            }
        }
        self.parts.outbox.note_session();
        self.checked(subscribed);
        self.announce();
        self.figures_at = Instant::now();
    }

    /// Says that the device is here.
    fn announce(&mut self) {
        let online = self.parts.presence.online(&self.parts.service);
        self.tell(NO_TOKEN, online);
        if let Some(discovery) = self.parts.presence.discovery(&self.parts.service) {
            self.tell(NO_TOKEN, discovery);
        }
    }

    /// Publishes what is of ours alone; without a connection it is not said.
    fn tell(&mut self, token: u64, publication: Publication) {
        let size = publication.packet_bytes();
        let Some((link, limits)) = self.up() else { return };
        if size > limits.packet_bytes.map_or(usize::MAX, |bytes| bytes as usize) {
            return log::error!("{} of {size} bytes is more than the broker takes", publication.topic);
        }
        let retain = publication.retain && limits.retain;
        let sent = link.publish(token, Publication { retain, ..publication });
        self.checked(sent);
    }

    fn up(&mut self) -> Option<(&mut dyn Link, BrokerLimits)> {
        let connection = self.connection.as_mut()?;
        let (_, limits) = connection.up?;
        Some((&mut *connection.link, limits))
    }

    fn checked(&mut self, sent: Result<(), LinkFull>) {
        if sent.is_err() {
            let reason = "the connection takes nothing any more".into();
            self.on_lost(&Loss { reason, lasting: false });
        }
    }

    fn on_lost(&mut self, loss: &Loss) {
        let was_up = self.connection.take().and_then(|connection| connection.up);
        // Nobody listens to it any more, should it go on.
        self.parts.inbox.next_connection();
        if was_up.is_some_and(|(since, _)| since.elapsed() >= STEADY) {
            self.parts.pauses.reset();
        }
        // The broker sends again what it has no acknowledgement of, and so do we.
        self.tickets.clear();
        self.held.clear();
        self.to_send.extend(std::mem::take(&mut self.under_way).into_keys());
        let pause = self.parts.pauses.next(loss.lasting);
        self.connect_at = Instant::now() + pause;
        if self.finish_by.is_none() {
            let level = if loss.lasting { log::Level::Error } else { log::Level::Warn };
            let what = if was_up.is_some() { "the broker is lost" } else { "the broker cannot be reached" };
            log::log!(level, "{what}: {}; trying again in {:.1} s", loss.reason, pause.as_secs_f32());
        }
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
        self.parts.outbox.tidy();
        while !self.held.is_empty()
            && !self.parts.outbox.is_full()
            && self.parts.outbox.waiting() < 2 * self.parts.receive_maximum
        {
            if let Some((came, message)) = self.held.pop_front() {
                self.take(&message, came);
            }
        }
        if self.under_way.values().any(|since| now.saturating_duration_since(*since) >= ACKNOWLEDGE) {
            let reason = format!("an answer was not acknowledged within {} s", ACKNOWLEDGE.as_secs());
            self.on_lost(&Loss { reason, lasting: false });
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
