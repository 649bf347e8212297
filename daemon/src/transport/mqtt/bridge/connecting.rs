//! The connection: made, greeted, lost and made again.

use std::sync::Arc;
use std::time::Instant;

use super::{Bridge, Connection, NO_TOKEN, STEADY};
use crate::config::mqtt::Protocol;
use crate::transport::mqtt::link::{BrokerLimits, Link, LinkEvent, LinkFull, Loss, Objection, Publication};
use crate::transport::mqtt::version::Welcome;

impl Bridge {
    pub(super) fn connect(&mut self) {
        let number = self.parts.inbox.next_connection();
        let inbox = Arc::clone(&self.parts.inbox);
        let report = Box::new(move |event| inbox.push_event(number, event));
        let options = (self.parts.options.0)(self.parts.presence.will(), self.parts.version.next());
        match options.and_then(|options| self.parts.dial.dial(&options, report)) {
            Ok(link) => self.connection = Some(Connection { link, up: None }),
            Err(reason) => self.on_lost(&Loss { reason, lasting: true, objection: Objection::None }),
        }
    }

    pub(super) fn on_event(&mut self, event: LinkEvent) {
        if self.connection.is_none() {
            // It was given up while this event waited; what it says holds no more.
            return;
        }
        match event {
            LinkEvent::Connected { session_present, limits } => self.on_connected(session_present, limits),
            LinkEvent::Message(message) => self.on_message(message),
            LinkEvent::Published { token, outcome } => self.on_published(token, outcome),
            LinkEvent::Subscribed { refused: 0, .. } => self.parts.outbox.note_session(&self.filters),
            LinkEvent::Subscribed { refused, reason } => {
                log::error!(
                    "the broker refused {refused} of our subscriptions ({reason}); no requests come by them: allow them there"
                );
                self.parts.presence.problem = Some(format!("{refused} subscriptions refused"));
            }
            LinkEvent::Lost(loss) => self.on_lost(&loss),
        }
    }

    fn on_connected(&mut self, session_present: bool, limits: BrokerLimits) {
        let protocol = limits.protocol;
        let welcome = self.parts.version.let_in();
        if welcome == Welcome::Leave {
            self.forget_connection();
            self.connect_at = Instant::now();
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        connection.up = Some((Instant::now(), limits));
        if welcome == Welcome::Tell {
            log::error!(
                "the broker does not speak MQTT 5, so {protocol} is spoken with it: senders must put id, reply_to and \
                 ttl_s into the JSON, answers bear no properties, and the broker decides how much it sends and for how \
                 long it keeps our session; if that is as it should be, set mqtt.protocol = \"{protocol}\""
            );
        }
        if !limits.shared {
            log::warn!("the broker knows no shared subscriptions; only requests to this device come");
        }
        let had_session = self.parts.outbox.session().is_some();
        if session_present {
            log::info!("connected to the broker with MQTT {protocol}; it has kept our session");
        } else {
            // Packet identifiers belong to the session.
            self.parts.outbox.forget_tickets();
            if had_session {
                log::error!(
                    "connected to the broker with MQTT {protocol}, which has forgotten our session: requests that it \
                     held for us are lost unless their senders repeat them; {} taken before go on, {} answers are sent",
                    self.parts.outbox.waiting(),
                    self.to_send.len() + self.under_way.len()
                );
            } else {
                log::info!("connected to the broker with MQTT {protocol}, in a new session");
            }
        }
        if !(session_present && had_session) {
            self.parts.outbox.note_session(&[]);
        }
        let subscribed = self.subscribe(limits);
        self.checked(subscribed);
        self.announce();
        self.figures_at = Instant::now();
    }

    /// Makes the session's subscriptions what they should be.
    fn subscribe(&mut self, limits: BrokerLimits) -> Result<(), LinkFull> {
        let filters = self.parts.topics.filters(limits.shared);
        let known = self.parts.outbox.session().unwrap_or_default();
        // Of an earlier configuration; a filter within a new one would bring every message twice.
        let old: Vec<_> = known.iter().filter(|filter| !filters.contains(filter)).cloned().collect();
        let mut wanted = filters.clone();
        if limits.protocol == Protocol::V311 {
            // Each time, all that is retained would come again. Our own requests are not, and their subscription tells
            // when the rest is done.
            wanted.retain(|filter| *filter == filters[0] || !known.contains(filter));
        }
        self.filters = filters;
        let Some((link, _)) = self.up() else { return Ok(()) };
        for filter in &old {
            link.unsubscribe(filter)?;
        }
        link.subscribe(&wanted)
    }

    /// Says that the device is here.
    pub(super) fn announce(&mut self) {
        let Some((_, limits)) = self.up() else { return };
        self.announced = Some(self.parts.service.tasks());
        let online = self.parts.presence.online(&self.parts.service, limits.protocol);
        self.tell(NO_TOKEN, online);
        if let Some(discovery) = self.parts.presence.discovery(&self.parts.service) {
            self.tell(NO_TOKEN, discovery);
        }
    }

    /// Publishes what is of ours alone; without a connection it is not said.
    pub(super) fn tell(&mut self, token: u64, publication: Publication) {
        let size = publication.packet_bytes();
        let Some((link, limits)) = self.up() else { return };
        if size > limits.packet_bytes.map_or(usize::MAX, |bytes| bytes as usize) {
            return log::error!("{} of {size} bytes is more than the broker takes", publication.topic);
        }
        let retain = publication.retain && limits.retain;
        let sent = link.publish(token, Publication { retain, ..publication });
        self.checked(sent);
    }

    pub(super) fn up(&mut self) -> Option<(&mut dyn Link, BrokerLimits)> {
        let connection = self.connection.as_mut()?;
        let (_, limits) = connection.up?;
        Some((&mut *connection.link, limits))
    }

    pub(super) fn checked(&mut self, sent: Result<(), LinkFull>) {
        if sent.is_err() {
            self.on_lost(&Loss::passing("the connection takes nothing any more"));
        }
    }

    pub(super) fn on_lost(&mut self, loss: &Loss) {
        let was_up = self.forget_connection();
        if was_up.is_some_and(|since| since.elapsed() >= STEADY) {
            self.parts.pauses.reset();
        }
        if self.parts.version.lost(loss.objection) {
            self.connect_at = Instant::now();
            return log::warn!("the broker did not answer to MQTT 5 ({}); trying 3.1.1", loss.reason);
        }
        let pause = self.parts.pauses.next(loss.lasting);
        self.connect_at = Instant::now() + pause;
        if self.finish_by.is_none() {
            let level = if loss.lasting { log::Level::Error } else { log::Level::Warn };
            let what = if was_up.is_some() { "the broker is lost" } else { "the broker cannot be reached" };
            log::log!(level, "{what}: {}; trying again in {:.1} s", loss.reason, pause.as_secs_f32());
        }
    }

    /// Ends the connection, if there is one, and says since when it was up.
    fn forget_connection(&mut self) -> Option<Instant> {
        let up = self.connection.take().and_then(|connection| connection.up);
        // Nobody listens to it any more, should it go on.
        self.parts.inbox.next_connection();
        // The broker sends again what it has no acknowledgement of, and so do we.
        self.tickets.clear();
        self.held.clear();
        self.shedding = false;
        self.to_send.extend(std::mem::take(&mut self.under_way).into_keys());
        up.map(|(since, _)| since)
    }

    /// When all that could be held is done, has the broker send the rest again, which it only does on a new connection.
    pub(super) fn fetch_shed(&mut self) {
        if self.shedding && self.held.is_empty() && self.tickets.is_empty() {
            log::debug!("connecting anew for the messages that could not be held");
            self.forget_connection();
            self.connect_at = Instant::now();
        }
    }
}
