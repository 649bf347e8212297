//! Which of the waiting requests the engine is given, and when.

use std::time::{Duration, Instant};

use tern_protocol::answer::Reason;
use tern_runtime::engine::Refusal;

use super::super::counters::Ending;
use super::super::live::Live;
use super::super::queue::Job;
use super::super::refusal;
use super::super::spending::told_early;
use super::super::submit::{reason, submit};
use super::super::turns::AGE;
use super::Worker;

/// How long a request of low priority waits at most for a time in which neither power nor heat holds the engine back.
const LOW_WHEN_SLOWED: Duration = Duration::from_secs(300);

impl Worker<'_, '_> {
    /// Moves jobs from the queue into the engine as long as it takes them.
    pub(super) fn admit(&mut self) {
        while self.engine.live() < self.engine.options().slots {
            let Some(mut job) = self.queue.pop(self.low_after()) else { return };
            let key = self.next_key;
            match submit(self.engine, key, &job) {
                // The engine has memory again when something that runs has ended.
                Err(Refusal::Busy { .. }) if !self.live.is_empty() => return self.queue.put_back(job),
                Err(Refusal::ContextOverflow { .. } | Refusal::PromptTooLong { .. })
                    if job.text.is_some() =>
                {
                    self.long.begin(job);
                }
                Err(refused) => {
                    let (client, request) = (job.session.id(), &*job.id);
                    log::debug!(tern_client = client, tern_request = request; "client {client}: request refused: {refused}");
                    self.state.count(job.session.way(), Ending::Refused);
                    job.session.send(&refusal(Some(job.id), reason(&refused), refused.to_string()));
                }
                Ok(()) => {
                    self.next_key += 1;
                    self.engine.set_rank(key, job.priority as u8);
                    if let Some((reason, message)) = self.unaffordable(key, &job) {
                        self.engine.cancel(key);
                        self.state.count(job.session.way(), Ending::Refused);
                        job.session.send(&refusal(Some(job.id), reason, message));
                        continue;
                    }
                    if let Some(grammar) = job.grammar.take() {
                        self.rules.add(key, grammar);
                    }
                    let label = self.state.daybook.open().label(job.task_name());
                    self.live.push(Live::new(key, job, label));
                }
            }
        }
    }

    /// How long a request of low priority has to have waited to be taken now.
    fn low_after(&self) -> Duration {
        let free = self.engine.options().slots.saturating_sub(self.engine.live());
        if self.pacing.is_slowed() {
            LOW_WHEN_SLOWED
        } else if free == 1 && !self.live.is_empty() {
            // The last place is for what is more pressing.
            AGE
        } else {
            Duration::ZERO
        }
    }

    /// What to tell a client whose prompt would cost more joules than it may, or more time than it has at this pace.
    fn unaffordable(&self, key: u64, job: &Job) -> Option<(Reason, String)> {
        let tokens = self.engine.prompt_left(key)?;
        let joules = self.prompt_cost.least(tokens).zip(job.max_joules);
        if let Some((least_joules, max_joules)) = joules.filter(|(least, most)| least > most) {
            return Some((Reason::Energy, told_early(tokens, least_joules, max_joules)));
        }
        let (by, given) = job.deadline?;
        let (why, least_s) = self.pacing.told().zip(self.prompt_time.least(tokens))?;
        let is_late = least_s > by.saturating_duration_since(Instant::now()).as_secs_f64();
        let given_ms = given.as_millis();
        is_late.then(|| {
            let message = format!(
                "the {tokens} tokens to read take at least {least_s:.1} s, and the deadline is {given_ms} ms: {why}; \
                 give it more time or send less"
            );
            (Reason::Deadline, message)
        })
    }
}
