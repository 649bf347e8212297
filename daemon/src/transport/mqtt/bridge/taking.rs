//! From a message to an answer that is owed: steps 1 to 4.

use std::time::{Duration, Instant};

use tern_protocol::answer::{Answer, Reason};

use super::{Bridge, HELD, Ticket};
use crate::serve::counters::{Ending, Way};
use crate::transport::mqtt::asked::{Asked, Route};
use crate::transport::mqtt::clock::Millis;
use crate::transport::mqtt::link::Message;
use crate::transport::mqtt::outbox::{Number, Stage};
use crate::transport::mqtt::{reply, topic};
use crate::wire;

impl Bridge {
    pub(super) fn on_message(&mut self, message: Message) {
        // What is not acknowledged is sent again, to us or to another.
        if self.quiet || self.shedding && message.ticket.is_some() {
            return;
        }
        let most = 2 * self.parts.receive_maximum;
        let is_full = !self.has_room();
        if message.ticket.is_none() && is_full {
            return log::warn!(
                "a message of QoS 0 was dropped: {most} requests wait; have it sent with QoS 1"
            );
        }
        if message.ticket.is_none() || !is_full && self.held.is_empty() {
            return self.take(&message, self.parts.clock.now());
        }
        if self.held.len() < HELD * self.parts.receive_maximum {
            return self.held.push_back((self.parts.clock.now(), message));
        }
        // A broker of 3.1.1 knows no receive maximum.
        self.shedding = true;
        log::warn!(
            "the broker sends more than can be held; the rest is fetched later: limit there what a client may have \
             unacknowledged (mosquitto: max_inflight_messages)"
        );
    }

    /// Whether another request can be taken.
    pub(super) fn has_room(&self) -> bool {
        !self.parts.outbox.is_full() && self.parts.outbox.waiting() < 2 * self.parts.receive_maximum
    }

    pub(super) fn take(&mut self, message: &Message, now: Millis) {
        let topics = &self.parts.topics;
        let routes = topics.routes(&message.topic);
        if routes.is_empty() && !self.filters.iter().any(|filter| topic::matches(filter, &message.topic)) {
            let topic = &message.topic;
            log::warn!("a message came on {topic:?}, which is not read any more");
        }
        let (mut asked, mut digests) = (Vec::new(), Vec::new());
        let mut is_birth = false;
        for route in routes {
            match route {
                Route::Request(task) => asked.push(topics.asked(task, message, now)),
                Route::Watch(watch) => asked.push(topics.watched(watch, message, now)),
                Route::Digest(place) => digests.push(place),
                Route::HomeAssistant => is_birth = message.payload == b"online",
            }
        }
        self.collect(&digests, message);
        let numbers = asked.into_iter().filter_map(|asked| self.take_asked(message, asked)).collect();
        // The broker is owed an acknowledgement, once all are delivered.
        if let Some(packet) = message.ticket {
            self.tickets.push_back(Ticket { packet, numbers });
        }
        if is_birth {
            self.announce();
        }
    }

    /// What has to be delivered before the message may be acknowledged, if anything.
    fn take_asked(&mut self, message: &Message, asked: Asked) -> Option<Number> {
        let Asked { hash, reply_to, request } = asked;
        if !self.parts.topics.may_answer(&reply_to.topic) {
            let topic = &reply_to.topic;
            log::warn!("an answer to {topic:?} would be a request again; it is not sent");
            return None;
        }
        let again = message.ticket.filter(|_| message.again);
        if let Some(number) = self.parts.outbox.find(&reply_to, hash, again) {
            return self.take_known(number, message, reply_to.expires);
        }
        if reply_to.expires.is_some_and(|expires| expires <= self.parts.clock.now()) {
            log::debug!("a request came too late to be begun");
            return None;
        }
        let (request, refusal) = match request {
            Ok(request) => (Some(request), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let number = self.parts.outbox.ask(reply_to, hash, message.ticket, request);
        if let Some((reason, words)) = refusal {
            log::debug!("a message was refused: {words}");
            let answer = crate::serve::refusal(Some(String::new()), reason, words);
            self.parts.service.state.count(Way::Mqtt, Ending::Refused);
            self.owe(number, answer);
        } else {
            self.submit(number);
        }
        Some(number)
    }

    /// A request that came before.
    fn take_known(&mut self, number: Number, message: &Message, expires: Option<Millis>) -> Option<Number> {
        let entry = self.parts.outbox.entry(number)?;
        let delivered = matches!(entry.stage, Stage::Delivered(_));
        if delivered && message.again && entry.unacknowledged && entry.ticket == message.ticket {
            // The very packet whose acknowledgement was cut off: its sender has the answer.
            return None;
        }
        log::debug!("request {number} came again");
        if !delivered && expires != entry.reply_to.expires {
            self.extended.insert(number);
        }
        self.parts.outbox.ask_again(number, message.ticket, expires);
        if delivered {
            self.to_send.insert(number);
        }
        Some(number)
    }

    /// Gives a request to the engine.
    pub(super) fn give(&mut self, number: Number) {
        let Some(entry) = self.parts.outbox.entry(number) else { return };
        let Stage::Waiting(request) = &entry.stage else { return };
        let now = self.parts.clock.now();
        let within = match entry.reply_to.expires.map(|expires| expires.saturating_sub(now)) {
            Some(0) => {
                log::debug!("request {number} expired before the engine had room for it");
                return self.parts.outbox.forget(number);
            }
            left => left.map(Duration::from_millis),
        };
        let request = wire::Request { id: number.to_string(), ..(**request).clone() };
        self.suspects.runs(number);
        self.parts.outbox.tried(number);
        self.parts.service.take_request(&self.client, request, within);
    }

    pub(super) fn on_answer(&mut self, id: &str, answer: wire::Answer) {
        let Ok(number) = id.parse::<Number>() else { return };
        self.suspects.ran(number);
        self.on_answer_to(number, answer);
        self.next_suspect();
    }

    fn on_answer_to(&mut self, number: Number, answer: wire::Answer) {
        if let Answer::Error(failure) = &answer {
            match failure.reason {
                // It stays in the outbox and with the broker, and is run when the daemon is back.
                Reason::Stopping => return self.parts.outbox.untried(number),
                Reason::QueueFull if self.quiet => return self.parts.outbox.untried(number),
                Reason::QueueFull => {
                    let pause = Duration::from_millis(u64::from(failure.retry_after_ms.unwrap_or(100)));
                    return self.resubmit.push((Instant::now() + pause, number));
                }
                Reason::Deadline if self.extended.remove(&number) => return self.submit(number),
                _ => {}
            }
        }
        self.extended.remove(&number);
        let now = self.parts.clock.now();
        let Some(entry) = self.parts.outbox.entry(number) else { return };
        if entry.reply_to.expires.is_some_and(|expires| expires <= now) {
            log::debug!("request {number} expired while the engine worked on it");
            return self.parts.outbox.forget(number);
        }
        if let Answer::Decision(decision) = &answer {
            self.parts.presence.last_label.clone_from(&decision.label);
        }
        self.owe(number, answer);
    }

    /// Writes an answer down.
    pub(super) fn owe(&mut self, number: Number, answer: wire::Answer) {
        let Some(entry) = self.parts.outbox.entry(number) else { return };
        let device = self.parts.topics.device();
        let model = &self.parts.service.state.facts.model;
        let mut reply = reply::of(answer, &entry.reply_to.id, device, model);
        reply.properties.extend(entry.reply_to.properties.iter().cloned());
        self.parts.outbox.answer(number, reply);
        self.to_send.insert(number);
    }
}
