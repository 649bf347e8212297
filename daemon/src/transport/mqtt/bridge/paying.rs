//! From an answer that is owed to the acknowledgement of its request: steps 5 to 7.

use std::time::Instant;

use tern_protocol::answer::Reason;

use super::{Bridge, DEFERRED, FAREWELL_TOKEN, Ticket, WINDOW};
use crate::transport::mqtt::link::{Outcome, Publication};
use crate::transport::mqtt::outbox::{Number, Stage};
use crate::transport::mqtt::reply;

impl Bridge {
    pub(super) fn on_published(&mut self, token: u64, outcome: Outcome) {
        if token == FAREWELL_TOKEN {
            self.finish_by = Some(Instant::now());
        }
        if self.under_way.remove(&token).is_none() {
            if let Outcome::Refused(reason) | Outcome::Deferred(reason) = outcome {
                log::warn!("the broker did not take what this device says of itself: {reason}");
            }
            return;
        }
        match outcome {
            Outcome::Taken => self.delivered(token),
            Outcome::Deferred(reason) => {
                log::warn!("the broker would not take an answer now: {reason}");
                self.resend.push((Instant::now() + DEFERRED, token));
            }
            Outcome::Refused(reason) => {
                let topic = self.parts.outbox.entry(token).map(|entry| entry.reply_to.topic.clone());
                let topic = topic.unwrap_or_default();
                log::error!("the broker refuses answers to {topic:?} ({reason}); allow them there");
                self.parts.presence.problem = Some(format!("answers to {topic:?} are refused: {reason}"));
                // Trying on would hold up everybody behind it.
                self.delivered(token);
            }
        }
    }

    pub(super) fn delivered(&mut self, number: Number) {
        let Some(entry) = self.parts.outbox.entry(number) else { return };
        let fault = matches!(&entry.stage, Stage::Answered(reply) if reply.status >= 500);
        if fault && !self.is_given_up(number) {
            // A fault of ours: the same request deserves another try.
            self.parts.outbox.forget(number);
        } else {
            self.parts.outbox.delivered(number);
        }
    }

    /// Sends answers, as many as may be under way.
    pub(super) fn send_answers(&mut self) {
        // An answer that is not on disk could be followed by another one after a crash.
        if self.parts.outbox.trouble().is_some() {
            return;
        }
        let now = self.parts.clock.now();
        let most = self.parts.packet_bytes;
        while let Some((_, limits)) = self.up() {
            if self.under_way.len() >= usize::from(limits.receive_maximum.min(WINDOW)) {
                return;
            }
            let Some(number) = self.to_send.pop_first() else { return };
            let Some(entry) = self.parts.outbox.entry(number) else { continue };
            let Stage::Answered(reply) = &entry.stage else { continue };
            let left_ms = entry.reply_to.expires.map(|expires| expires.saturating_sub(now));
            if left_ms == Some(0) {
                log::debug!("the answer to request {number} came too late");
                self.parts.outbox.delivered(number);
                continue;
            }
            let publication = reply::publication(reply, &entry.reply_to, left_ms);
            let most = limits.packet_bytes.map_or(most, |bytes| most.min(bytes as usize));
            let bytes = publication.packet_bytes();
            if bytes > most && reply.status != Reason::TooLarge.code() {
                let id = Some(String::new());
                let words = format!(
                    "the answer has {bytes} bytes with its topic and properties; at most {most} may be sent; ask for less"
                );
                self.owe(number, crate::serve::refusal(id, Reason::TooLarge, words));
                self.parts.outbox.sync();
                continue;
            }
            if bytes > most {
                log::error!(
                    "not even a refusal of {bytes} bytes may be sent; raise mqtt.packet_bytes or the broker's"
                );
                self.parts.outbox.delivered(number);
                continue;
            }
            let publication = Publication { retain: publication.retain && limits.retain, ..publication };
            self.under_way.insert(number, Instant::now());
            let sent = self.up().map_or(Ok(()), |(link, _)| link.publish(number, publication));
            self.checked(sent);
        }
    }

    /// Acknowledges messages in their order, as far as they are settled.
    pub(super) fn acknowledge(&mut self) {
        // A message of a window that is not on disk stays with the broker.
        if self.parts.digests.trouble().is_some() {
            return;
        }
        while let Some(Ticket { packet, numbers }) = self.tickets.front() {
            // One that was forgotten has expired.
            let is_done = |number: &Number| {
                self.parts
                    .outbox
                    .entry(*number)
                    .is_none_or(|entry| matches!(entry.stage, Stage::Delivered(_)))
            };
            if !numbers.iter().all(is_done) {
                return;
            }
            let packet = *packet;
            let Some((link, _)) = self.up() else { return };
            let sent = link.acknowledge(packet);
            let ticket = self.tickets.pop_front();
            for number in ticket.into_iter().flat_map(|ticket| ticket.numbers) {
                self.parts.outbox.acknowledged(number);
            }
            self.checked(sent);
        }
    }
}
