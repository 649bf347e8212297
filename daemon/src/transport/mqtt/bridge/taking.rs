//! From a message to an answer that is owed: steps 1 to 4.

use std::time::{Duration, Instant};

use tern_protocol::answer::{Answer, Reason};

use super::{Bridge, Ticket};
use crate::serve::counters::{Ending, Way};
use crate::transport::mqtt::asked::{Asked, Route};
use crate::transport::mqtt::clock::Millis;
use crate::transport::mqtt::journal::fnv1a;
use crate::transport::mqtt::link::Message;
use crate::transport::mqtt::outbox::{Number, Stage};
use crate::transport::mqtt::reply;
use crate::wire;

impl Bridge {
    pub(super) fn on_message(&mut self, message: Message) {
        if self.quiet {
            // Not acknowledged: it is sent again, to us or to another.
            return;
        }
        if self.parts.outbox.is_full() || self.parts.outbox.waiting() >= 2 * self.parts.receive_maximum {
            if message.ticket.is_some() {
                // At most as many as the broker sends without being acknowledged.
                return self.held.push_back((self.parts.clock.now(), message));
            }
            let most = 2 * self.parts.receive_maximum;
            return self.dropped.warn(|| {
                format!("a message of QoS 0 was dropped: {most} requests wait; have it sent with QoS 1")
            });
        }
        self.take(&message, self.parts.clock.now());
    }

    pub(super) fn take(&mut self, message: &Message, now: Millis) {
        let topics = &self.parts.topics;
        let asked = match topics.route(&message.topic) {
            Route::Request(task) => topics.asked(task, message, now),
            Route::Watch(watch) => topics.watched(watch, message, now),
            Route::HomeAssistant => {
                if message.payload == b"online" {
                    self.announce();
                }
                return self.settle(message.ticket, None);
            }
            Route::Unknown => {
                let topic = &message.topic;
                self.unknown.warn(|| format!("a message came on {topic:?}, which is not read any more"));
                return self.settle(message.ticket, None);
            }
        };
        if !topics.may_answer(&asked.reply_to.topic) {
            let topic = &asked.reply_to.topic;
            self.unknown.warn(|| format!("an answer to {topic:?} would be a request again; it is not sent"));
            return self.settle(message.ticket, None);
        }
        self.take_asked(message, asked);
    }

    pub(super) fn take_asked(&mut self, message: &Message, asked: Asked) {
        let Asked { reply_to, request } = asked;
        let hash = fnv1a(&[message.topic.as_bytes(), &[0], &message.payload]);
        let again = message.ticket.filter(|_| message.again);
        if let Some(number) = self.parts.outbox.find(&reply_to, hash, again) {
            return self.take_known(number, message, reply_to.expires);
        }
        if reply_to.expires.is_some_and(|expires| expires <= self.parts.clock.now()) {
            log::debug!("a request came too late to be begun");
            return self.settle(message.ticket, None);
        }
        let outbox = &mut self.parts.outbox;
        match request {
            Ok(request) => {
                let number = outbox.ask(reply_to, hash, message.ticket, Some(request));
                self.settle(message.ticket, Some(number));
                self.submit(number);
            }
            Err((reason, words)) => {
                log::debug!("a message was refused: {words}");
                let number = outbox.ask(reply_to, hash, message.ticket, None);
                self.settle(message.ticket, Some(number));
                let answer = crate::serve::refusal(Some(String::new()), reason, words);
                self.parts.service.state.count(Way::Mqtt, Ending::Refused);
                self.owe(number, answer);
            }
        }
    }

    /// A request that came before.
    pub(super) fn take_known(&mut self, number: Number, message: &Message, expires: Option<u64>) {
        let Some(entry) = self.parts.outbox.entry(number) else { return };
        let delivered = matches!(entry.stage, Stage::Delivered(_));
        if delivered && message.again && entry.unacknowledged && entry.ticket == message.ticket {
            // The very packet whose acknowledgement was cut off: its sender has the answer.
            return self.settle(message.ticket, None);
        }
        log::debug!("request {number} came again");
        if !delivered && expires != entry.reply_to.expires {
            self.extended.insert(number);
        }
        self.parts.outbox.ask_again(number, message.ticket, expires);
        if delivered {
            self.to_send.insert(number);
        }
        self.settle(message.ticket, Some(number));
    }

    /// The broker is owed an acknowledgement, once `number` is delivered.
    pub(super) fn settle(&mut self, ticket: Option<u16>, number: Option<Number>) {
        if let Some(packet) = ticket {
            self.tickets.push_back(Ticket { packet, number });
        }
    }

    /// Gives a request to the engine.
    pub(super) fn submit(&mut self, number: Number) {
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
        self.parts.service.take_request(&self.client, request, within);
    }

    pub(super) fn on_answer(&mut self, id: &str, answer: wire::Answer) {
        let Ok(number) = id.parse::<Number>() else { return };
        if let Answer::Error(failure) = &answer {
            match failure.reason {
                // It stays in the outbox and with the broker, and is run when the daemon is back.
                Reason::Stopping => return,
                Reason::QueueFull if self.quiet => return,
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
        let reply = reply::of(answer, &entry.reply_to.id, device, model);
        self.parts.outbox.answer(number, reply);
        self.to_send.insert(number);
    }
}
