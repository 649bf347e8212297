//! From a window that has ended to an entry of the outbox.

use std::time::{Duration, Instant};

use super::Bridge;
use crate::transport::mqtt::link::Message;

impl Bridge {
    /// Puts a message into the windows of the digests that read it.
    pub(super) fn collect(&mut self, digests: &[usize], message: &Message) {
        let now = self.parts.clock.now();
        for rule in digests {
            if let Err(words) = self.parts.digests.take(*rule, message, now) {
                let topic = &message.topic;
                log::warn!("a message on {topic:?} is only counted: {words}");
            }
        }
    }

    /// Asks for the answers to windows that have ended or have news, as far as there is room.
    pub(super) fn end_windows(&mut self) {
        let now = self.parts.clock.now();
        while !self.quiet
            && self.has_room()
            && let Some(mut due) = self.parts.digests.due(now, self.parts.topics.device())
        {
            if let Some(asked) = due.asked.take() {
                // There is one if the daemon was killed between both files.
                let known = self.parts.outbox.find(&asked.reply_to, asked.hash, None);
                if let (None, Ok(request)) = (known, asked.request) {
                    let number = self.parts.outbox.ask(asked.reply_to, asked.hash, None, Some(request));
                    // Nobody would send it again.
                    self.parts.outbox.sync();
                    self.submit(number);
                }
            }
            self.parts.digests.asked(&due);
        }
        self.parts.digests.tidy();
    }

    /// When the next window is to be asked about.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let end = self.parts.digests.next_due().filter(|_| !self.quiet && self.has_room())?;
        Some(Instant::now() + Duration::from_millis(end.saturating_sub(self.parts.clock.now())))
    }
}
