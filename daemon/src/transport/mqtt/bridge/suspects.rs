//! Requests that were in the engine when an earlier daemon ended without a word, perhaps because of one of them.
//!
//! Which one it was shows when they are run again one at a time, with nothing else of the broker's in the engine: if the
//! daemon ends once more, it was that one, or somebody who ends daemons. So the last try is made only when the daemon
//! has been up for a while, which one that is ended again and again from outside is not. A request with which it ended
//! as often as may be is answered with error 500.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tern_protocol::answer::Reason;

use super::Bridge;
use crate::serve::counters::{Ending, Way};
use crate::transport::mqtt::outbox::{Number, Stage};

/// How long the daemon must have been up for the third and later tries.
const CALM: Duration = Duration::from_secs(1);

/// What is in the engine, and who waits for whom.
#[derive(Debug)]
pub struct Suspects {
    /// When the daemon came up.
    began: Instant,
    /// Requests to be run alone, those tried least first.
    waiting: VecDeque<Number>,
    /// The one that runs alone.
    alone: Option<Number>,
    /// One is to run alone as soon as the engine has done with the others.
    is_next: bool,
    /// Requests that wait for it.
    behind: Vec<Number>,
    /// Requests in the engine.
    running: BTreeSet<Number>,
}

impl Suspects {
    /// None.
    pub fn new() -> Self {
        Suspects {
            began: Instant::now(),
            waiting: VecDeque::new(),
            alone: None,
            is_next: false,
            behind: Vec::new(),
            running: BTreeSet::new(),
        }
    }

    /// The engine has a request.
    pub fn runs(&mut self, number: Number) {
        self.running.insert(number);
    }

    /// The engine has done with a request; it may be given to it again.
    pub fn ran(&mut self, number: Number) {
        self.running.remove(&number);
    }

    /// When something is to be done that nothing else will tell.
    pub fn next_moment(&self) -> Option<Instant> {
        let calm = self.began + CALM;
        (!self.waiting.is_empty() && calm > Instant::now()).then_some(calm)
    }

    fn holds_back(&self, number: Number) -> bool {
        self.alone != Some(number) && (self.alone.is_some() || self.is_next)
    }
}

impl Bridge {
    /// Takes up what an earlier process has left.
    pub(super) fn recover(&mut self) {
        let outbox = &self.parts.outbox;
        let waiting = outbox.numbers(|stage| matches!(stage, Stage::Waiting(_)));
        self.to_send.extend(outbox.numbers(|stage| matches!(stage, Stage::Answered(_))));
        if !waiting.is_empty() || !self.to_send.is_empty() {
            log::info!(
                "the outbox has {} requests to run and {} answers to deliver",
                waiting.len(),
                self.to_send.len()
            );
        }
        let now = self.parts.clock.now();
        let mut expired = 0;
        let mut suspects = Vec::new();
        for number in waiting {
            let Some(entry) = self.parts.outbox.entry(number) else { continue };
            if entry.reply_to.expires.is_some_and(|expires| expires <= now) {
                expired += 1;
                self.parts.outbox.forget(number);
            } else if self.is_given_up(number) {
                self.give_up(number);
            } else if entry.tries > 0 && self.parts.attempts > 0 {
                suspects.push((entry.tries, number));
            } else {
                self.submit(number);
            }
        }
        if expired > 0 {
            log::warn!("{expired} requests expired while the daemon was away; they are not begun");
        }
        suspects.sort_unstable();
        self.suspects.waiting = suspects.into_iter().map(|(_, number)| number).collect();
        self.next_suspect();
    }

    /// Whether the daemon has ended with this request as often as may be.
    pub(super) fn is_given_up(&self, number: Number) -> bool {
        let most = self.parts.attempts;
        most > 0 && self.parts.outbox.entry(number).is_some_and(|entry| entry.tries >= most)
    }

    fn give_up(&mut self, number: Number) {
        let Some(entry) = self.parts.outbox.entry(number) else { return };
        let (tries, id) = (entry.tries, entry.reply_to.id.clone());
        log::error!(
            "the daemon ended {tries} times while it worked on request {id:?}; it is not begun again"
        );
        self.parts.presence.problem = Some(format!("request {id:?} ended the daemon {tries} times"));
        let words = format!(
            "the daemon ended {tries} times while it worked on this request; it is not begun again; ask for less, or see \
             the log of the device"
        );
        let answer = crate::serve::refusal(Some(String::new()), Reason::Internal, words);
        self.parts.service.state.count(Way::Mqtt, Ending::Refused);
        self.owe(number, answer);
    }

    /// Gives a request to the engine, or lets it wait for one that must be alone there.
    pub(super) fn submit(&mut self, number: Number) {
        if self.suspects.holds_back(number) {
            self.suspects.behind.push(number);
        } else {
            self.give(number);
        }
    }

    /// Runs the next request that must be alone, if it is time, or else all that waited for it.
    pub(super) fn next_suspect(&mut self) {
        if let Some(number) = self.suspects.alone {
            let waits =
                self.parts.outbox.entry(number).is_some_and(|entry| matches!(entry.stage, Stage::Waiting(_)));
            if waits {
                return;
            }
            self.suspects.alone = None;
        }
        while let Some(&number) = self.suspects.waiting.front()
            && !self.quiet
        {
            let tries = self.parts.outbox.entry(number).map_or(0, |entry| entry.tries);
            if tries > 1 && self.suspects.began.elapsed() < CALM {
                break;
            }
            if !self.suspects.running.is_empty() {
                self.suspects.is_next = true;
                return;
            }
            self.suspects.waiting.pop_front();
            self.suspects.alone = Some(number);
            self.give(number);
            if self.suspects.running.contains(&number) {
                return;
            }
            // It had expired.
            self.suspects.alone = None;
        }
        self.suspects.is_next = false;
        for number in std::mem::take(&mut self.suspects.behind) {
            self.give(number);
        }
    }
}
